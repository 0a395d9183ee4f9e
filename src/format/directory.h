// Directories: entry lists, and the index of large ones (docs/format.md, "Directory").
//
// An entry's cookie orders it: 60 bits of the name's hash (seeded per store), then 3 bits that tell
// names of equal hash apart. Entries of equal hash are always in one leaf. Cookies are what readdir
// hands out, so they never change while the entry exists. "." and ".." are not stored; their
// cookies are 1 and 2, which no name has.
//
// A list fills its area with entries, each saying how long it is (a run of free bytes belongs to
// the entry before it):
//   0 u64 cookie   8 u64 inode (0: free)   16 u16 length   18 u8 name length   19 u8 type (S_IFMT
//   >> 12)   20 name
// Lengths are multiples of 4 and sum up to the area's size; an area of zeros is an empty list.
//
// A small directory keeps its list in the inode's inline area. A larger one is a B+ tree of
// directory blocks under the directory's lock:
//   leaf  (BlockType::directory_leaf):  header, 32 u64 low cookie, 40 u64 0, 48 list
//   inner (BlockType::directory_inner): header, 32 u64 low cookie, 40 u32 level (1: children are
//   leaves), 44 u32 count, 48 {u64 low cookie, u64 block}…
// The header's owner is the directory's inode number. Low cookies have their last 3 bits zero; the
// leftmost path has 0.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "format/block.h"

namespace plumeria::format {

constexpr std::size_t directory_area_at = 48;
constexpr std::size_t inner_fanout = (block_size - directory_area_at) / 16;  // 253
constexpr std::uint32_t directory_levels_max = 12;
constexpr std::uint64_t cookie_dot = 1, cookie_dotdot = 2;
constexpr std::uint64_t cookie_collisions = 8;  // names of one hash in one directory

constexpr BlockId directory_block(std::uint64_t number) { return {directory_segment, number}; }

// The lowest cookie that `name` can have; its cookie is below this + cookie_collisions.
std::uint64_t cookie_base(std::string_view name, std::uint64_t hash_seed);

struct EntryView {
  std::uint64_t cookie = 0;
  std::uint64_t inode = 0;
  std::uint8_t type = 0;  // S_IFMT >> 12
  std::string_view name;  // borrows the area
};

// Entry lists. Requires: the area passed check_entries().
std::optional<EntryView> find_entry(ByteView area, std::uint64_t base, std::string_view name);
// The lowest cookie at or above `base` that no entry of this hash has; nothing if all are taken.
std::optional<std::uint64_t> free_cookie(ByteView area, std::uint64_t base);
// False: no room, nothing changed.
bool insert_entry(MutableByteView area, const EntryView& entry);
// Requires: an entry with this cookie exists.
void remove_entry(MutableByteView area, std::uint64_t cookie);
void change_entry(MutableByteView area, std::uint64_t cookie, std::uint64_t inode,
                  std::uint8_t type);
std::vector<EntryView> sorted_entries(ByteView area);  // by cookie
bool is_empty_list(ByteView area);
// Errc::corrupt saying what is wrong (not where).
Status check_entries(ByteView area);

// Leaves and inner blocks.
inline std::uint64_t low_cookie(ByteView block) { return load<std::uint64_t>(block.data() + 32); }
inline ByteView leaf_area(ByteView block) { return block.subspan(directory_area_at); }
inline MutableByteView leaf_area(MutableByteView block) { return block.subspan(directory_area_at); }
void format_leaf(MutableByteView block, std::uint64_t directory, std::uint64_t version,
                 std::uint64_t low);

struct Child {
  std::uint64_t low = 0;
  std::uint64_t block = 0;
};
void format_inner(MutableByteView block, std::uint64_t directory, std::uint64_t version,
                  std::uint64_t low, std::uint32_t level);
inline std::uint32_t inner_level(ByteView block) { return load<std::uint32_t>(block.data() + 40); }
inline std::uint32_t inner_size(ByteView block) { return load<std::uint32_t>(block.data() + 44); }
Child inner_child(ByteView block, std::size_t index);
// The child whose range holds `cookie`.
std::size_t inner_find(ByteView block, std::uint64_t cookie);
// Requires: inner_size() < inner_fanout.
void inner_insert(MutableByteView block, std::size_t index, Child child);
void inner_remove(MutableByteView block, std::size_t index);
// Moves the children from `index` on to the empty inner block `to`.
void inner_split(MutableByteView from, MutableByteView to, std::size_t index);

// A block that verify() passed, as a block of the index of `directory`.
Status check_directory_block(ByteView block, BlockId id, std::uint64_t directory);

}  // namespace plumeria::format
