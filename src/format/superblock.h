// The superblock: the parameters of a store, written once by mkfs (docs/format.md, "Superblock").
//
//  32  u32 format_version        readers refuse another one
//  36  u32 reserved
//  40  u64 features              bits; a reader refuses those that it does not know
//  48  u64 log_size              bytes of each slot's log
//  56  u64 lease_milliseconds
//  64  u64 hash_seed             of directory cookies
//  72  i64 created               ns since 1970-01-01 UTC
//  80  u8[16] uuid
//  96  u8 label length, then up to 63 bytes of label
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "base/bytes.h"
#include "base/result.h"
#include "format/block.h"

namespace plumeria::format {

constexpr std::uint32_t format_version = 1;
constexpr std::uint64_t known_features = 0;
constexpr std::size_t label_max = 63;

struct Superblock {
  std::uint64_t features = 0;
  std::uint64_t log_size = 0;  // bytes
  std::uint64_t lease_milliseconds = 0;
  std::uint64_t hash_seed = 0;
  std::int64_t created = 0;
  std::array<std::uint64_t, 2> uuid{};
  std::string label;
};

constexpr BlockId superblock_id{superblock_segment, 0};

Bytes encode_superblock(const Superblock& superblock);  // sealed
// Errc::not_a_store for zeros, Errc::corrupt, Errc::version.
Result<Superblock> decode_superblock(ByteView block);

}  // namespace plumeria::format
