// The header that every 4 KiB metadata block begins with, and its checks.
//
//   0  u32 magic      "PLMB"
//   4  u16 type       BlockType
//   6  u16 flags      0
//   8  u64 version    grows with every logged change, never falls
//  16  u64 checksum   XXH3 of the 4096 bytes with this field zero, seeded with the block's address;
//  only right on disk 24  u64 owner      number of the one lock that covers it: the
//  inode, slot or piece
//
// A block of zeros only was never written: version 0, any lock.
#pragma once

#include <absl/strings/str_cat.h>

#include <compare>
#include <cstdint>
#include <string>

#include "base/bytes.h"
#include "base/result.h"
#include "format/layout.h"

namespace plumeria::format {

enum class BlockType : std::uint16_t {
  none = 0,
  superblock = 1,
  piece = 2,
  inode = 3,
  directory_leaf = 4,
  directory_inner = 5,
  orphan_list = 6,
  log_header = 7,
  xattrs = 8,
};
const char* type_name(BlockType type);

constexpr std::uint32_t block_magic = 0x424d4c50;  // "PLMB"
constexpr std::size_t block_header_size = 32;

// Names a metadata block: a region and the block's number in it.
struct BlockId {
  std::uint64_t segment = 0;
  std::uint64_t number = 0;

  std::uint64_t offset() const { return number * block_size; }  // bytes, within the segment
  friend auto operator<=>(const BlockId&, const BlockId&) = default;
  template <typename H>
  friend H AbslHashValue(H h, const BlockId& b) {
    return H::combine(std::move(h), b.segment, b.number);
  }
};
std::string to_string(BlockId id);  // "inode 17", "piece 3", …

// Access to the header of a block of exactly block_size bytes.
inline BlockType type_of(ByteView block) { return load<BlockType>(block.data() + 4); }
inline std::uint64_t version_of(ByteView block) { return load<std::uint64_t>(block.data() + 8); }
inline std::uint64_t owner_of(ByteView block) { return load<std::uint64_t>(block.data() + 24); }
inline void set_version(MutableByteView block, std::uint64_t version) {
  store(block.data() + 8, version);
}

// Zeroes the block and writes its header.
void format_block(MutableByteView block, BlockType type, std::uint64_t owner,
                  std::uint64_t version);
// Sets the checksum; last thing before the block goes to the disk.
void seal(MutableByteView block, BlockId id);
// What read() brought: Errc::corrupt, naming the block and what is wrong, unless it is whole or all
// zero.
Status verify(ByteView block, BlockId id);

}  // namespace plumeria::format
