// The inode: one 4 KiB block a file, under the lock inode:<number> (docs/format.md, "Inode").
//
//  32  u64 generation          differs each time the number is used again
//  40  u32 mode                type and permission bits as in st_mode; 0: free
//  44  u32 links
//  48  u32 uid      52  u32 gid
//  56  u32 rdev     60  u32 flags (0)
//  64  u64 size                bytes
//  72  i64 atime    80  i64 mtime    88  i64 ctime    96  i64 btime      ns since 1970-01-01 UTC
// 104  u64 xattr_block         directory block with the extended attributes; 0: none
// 112  u64 data_segment        0: none
// 120  u64 parent              of a directory
// 128  u64 directory_root      block number; 0: the entries are in the inline area
// 136  u32 directory_levels    0: inline; 1: the root is a leaf
// 140  u32 inline_length       bytes used of the inline area: data of a small file, or a symlink's
//                              target
// 144  u64 directory_entries   without "." and ".."
// 152  u64 segment_bytes       space of the data segment at the last commit; for st_blocks alone
// 160  u64 small[16]           small block of each of the first 16 pages; 0: none
// 288  reserved to 320
// 320  inline area
//
// A page (4 KiB) of a regular file is in the inline area if inline_length > 0 or nothing else holds
// data; else in small[page] if that is not 0; else in the data segment at the file's own offset if
// there is one; else it is a hole.
#pragma once

#include <cstdint>

#include "base/bytes.h"
#include "format/block.h"

namespace plumeria::format {

constexpr std::size_t inline_at = 320;
constexpr std::size_t inline_max = block_size - inline_at;  // 3776 bytes
constexpr std::size_t small_count = 16;
constexpr std::uint64_t small_limit =
    small_count * block_size;  // bytes of a file that small blocks can hold

constexpr BlockId inode_block(std::uint64_t number) { return {inode_segment, number}; }

// Reads an inode block in place. Borrows it. Requires: it passed check_inode().
class InodeView {
 public:
  explicit InodeView(ByteView block) : block_(block) {}
  std::uint64_t number() const { return owner_of(block_); }
  std::uint64_t generation() const { return at<std::uint64_t>(32); }
  std::uint32_t mode() const { return at<std::uint32_t>(40); }
  std::uint32_t links() const { return at<std::uint32_t>(44); }
  std::uint32_t uid() const { return at<std::uint32_t>(48); }
  std::uint32_t gid() const { return at<std::uint32_t>(52); }
  std::uint32_t rdev() const { return at<std::uint32_t>(56); }
  std::uint64_t size() const { return at<std::uint64_t>(64); }
  std::int64_t atime() const { return at<std::int64_t>(72); }
  std::int64_t mtime() const { return at<std::int64_t>(80); }
  std::int64_t ctime() const { return at<std::int64_t>(88); }
  std::int64_t btime() const { return at<std::int64_t>(96); }
  std::uint64_t xattr_block() const { return at<std::uint64_t>(104); }
  std::uint64_t data_segment() const { return at<std::uint64_t>(112); }
  std::uint64_t parent() const { return at<std::uint64_t>(120); }
  std::uint64_t directory_root() const { return at<std::uint64_t>(128); }
  std::uint32_t directory_levels() const { return at<std::uint32_t>(136); }
  std::uint32_t inline_length() const { return at<std::uint32_t>(140); }
  std::uint64_t directory_entries() const { return at<std::uint64_t>(144); }
  std::uint64_t segment_bytes() const { return at<std::uint64_t>(152); }
  std::uint64_t small(std::size_t page) const { return at<std::uint64_t>(160 + 8 * page); }
  ByteView inline_area() const { return block_.subspan(inline_at); }
  ByteView inline_data() const { return block_.subspan(inline_at, inline_length()); }

  bool is_free() const { return mode() == 0; }
  bool is_directory() const { return (mode() & 0170000) == 0040000; }
  bool is_regular() const { return (mode() & 0170000) == 0100000; }
  bool is_symlink() const { return (mode() & 0170000) == 0120000; }
  bool has_small_blocks() const {
    for (std::size_t page = 0; page < small_count; ++page) {
      if (small(page) != 0) return true;
    }
    return false;
  }

 private:
  template <class T>
  T at(std::size_t offset) const {
    return load<T>(block_.data() + offset);
  }
  ByteView block_;
};

// Writes fields of an inode block in place.
class InodeEditor {
 public:
  explicit InodeEditor(MutableByteView block) : block_(block) {}
  void generation(std::uint64_t v) { put(32, v); }
  void mode(std::uint32_t v) { put(40, v); }
  void links(std::uint32_t v) { put(44, v); }
  void uid(std::uint32_t v) { put(48, v); }
  void gid(std::uint32_t v) { put(52, v); }
  void rdev(std::uint32_t v) { put(56, v); }
  void size(std::uint64_t v) { put(64, v); }
  void atime(std::int64_t v) { put(72, v); }
  void mtime(std::int64_t v) { put(80, v); }
  void ctime(std::int64_t v) { put(88, v); }
  void btime(std::int64_t v) { put(96, v); }
  void xattr_block(std::uint64_t v) { put(104, v); }
  void data_segment(std::uint64_t v) { put(112, v); }
  void parent(std::uint64_t v) { put(120, v); }
  void directory_root(std::uint64_t v) { put(128, v); }
  void directory_levels(std::uint32_t v) { put(136, v); }
  void inline_length(std::uint32_t v) { put(140, v); }
  void directory_entries(std::uint64_t v) { put(144, v); }
  void segment_bytes(std::uint64_t v) { put(152, v); }
  void small(std::size_t page, std::uint64_t v) { put(160 + 8 * page, v); }
  MutableByteView inline_area() { return block_.subspan(inline_at); }

 private:
  template <class T>
  void put(std::size_t offset, T value) {
    store(block_.data() + offset, value);
  }
  MutableByteView block_;
};

// A block that verify() passed, as inode `number`: Errc::corrupt with what is wrong. A block of
// zeros is a free inode that was never used and is refused here like any other type.
Status check_inode(ByteView block, std::uint64_t number);

}  // namespace plumeria::format
