// Where everything lies on the virtual disk (docs/format.md, "Address space").
//
// A segment is 64 bits. Small segment numbers are regions that all mounts share; a block's place in
// its region is its number times 4 KiB. Data segments belong to one file each and are never reused.
#pragma once

#include <cstdint>

namespace plumeria::format {

constexpr std::uint64_t block_size = 4096;

constexpr std::uint64_t superblock_segment = 0;
constexpr std::uint64_t piece_segment = 1;  // allocation pieces
constexpr std::uint64_t inode_segment = 2;  // inodes; number 0 is never used, 1 is the root
constexpr std::uint64_t directory_segment =
    3;                                      // blocks of indexed directories; number 0 is never used
constexpr std::uint64_t small_segment = 4;  // data blocks of small files; number 0 is never used
// Slot s of a mount: its log, and its orphan list.
constexpr std::uint64_t log_segment_base = 1ull << 32;
constexpr std::uint64_t orphan_segment_base = 2ull << 32;
constexpr std::uint64_t slot_limit = 1ull << 32;
// Data segments: the top bit, the number of the piece that handed it out, and its running number
// there.
constexpr std::uint64_t data_segment_bit = 1ull << 63;

constexpr std::uint64_t log_segment(std::uint32_t slot) { return log_segment_base + slot; }
constexpr std::uint64_t orphan_segment(std::uint32_t slot) { return orphan_segment_base + slot; }
constexpr bool is_data_segment(std::uint64_t segment) { return (segment & data_segment_bit) != 0; }

}  // namespace plumeria::format
