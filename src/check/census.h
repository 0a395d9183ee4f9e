// Who is there and who owns what: all inodes in use, and what they and the allocation pieces say
// about each other.
//
// Fed in this order: pieces, inodes, directory blocks and entries, orphans, data segments; then
// conclude() compares. Does no I/O. Problems go to the Findings.
#pragma once

#include <absl/container/flat_hash_map.h>
#include <absl/container/flat_hash_set.h>

#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "check/findings.h"
#include "format/block.h"
#include "format/directory.h"
#include "format/inode.h"
#include "format/piece.h"

namespace plumeria::check {

struct InodeInfo {
  std::uint64_t number = 0;
  std::uint64_t parent = 0;  // of a directory
  std::uint64_t xattr_block = 0;
  std::uint64_t directory_root = 0, directory_entries = 0;
  std::uint32_t directory_levels = 0;
  std::uint32_t mode = 0, links = 0;
  std::uint32_t references = 0;      // entries that name it
  std::uint32_t subdirectories = 0;  // entries in it that name directories
  bool reached = false;              // from the root, through directories

  bool is_directory() const { return (mode & 0170000) == 0040000; }
};

class Census {
 public:
  explicit Census(Findings& findings) : findings_(findings) {}

  // Blocks of their regions, whatever they hold. Ascending.
  void add_piece(format::BlockId id, ByteView block);
  void add_inode(format::BlockId id, ByteView block);
  void add_directory_block(format::BlockId id, ByteView block);  // in use or not
  void add_orphan_list(format::BlockId id, ByteView block, std::uint32_t slot);

  const std::vector<InodeInfo>& inodes() const { return inodes_; }
  // The tree of `directory` uses this directory block. False if it was used before.
  bool use_directory_block(std::uint64_t number, std::uint64_t directory);
  void use_entry(std::uint64_t directory, const format::EntryView& entry);
  void count_entries(std::uint64_t directory, std::uint64_t entries);
  // A data segment that holds something.
  void see_segment(std::uint64_t segment);

  void conclude();

 private:
  using Use = std::pair<std::uint64_t, std::uint64_t>;  // what, by which inode

  InodeInfo* find(std::uint64_t number);
  std::uint64_t floor_of(format::Unit unit, std::uint64_t number) const;
  bool is_marked(format::Unit unit, std::uint64_t number) const;
  void note_data(const format::InodeView& inode);
  void check_marks(format::Unit unit, const std::vector<Use>& uses);
  void check_double_use(format::Unit unit, const std::vector<Use>& uses);
  void check_segments();
  void follow_directories();
  void check_links(const InodeInfo& inode);

  Findings& findings_;
  std::map<std::uint64_t, Bytes> pieces_;
  // Reported once; what depends on them is not reported again.
  absl::flat_hash_set<std::uint64_t> damaged_pieces_, damaged_inodes_;
  std::vector<InodeInfo> inodes_;  // in use, ascending
  std::vector<Use> small_blocks_, segments_, directory_blocks_;
  absl::flat_hash_map<std::uint64_t, std::uint64_t> owner_of_directory_block_;
  std::vector<std::pair<std::uint64_t, std::uint64_t>> edges_;  // directory, directory in it
  absl::flat_hash_set<std::uint64_t> orphan_inodes_, orphan_segments_;
  std::vector<std::uint64_t> segments_seen_;
};

}  // namespace plumeria::check
