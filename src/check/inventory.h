// What a store still has, whatever else is damaged: all inodes that are whole, what is lost, which
// blocks and segments belong to whom, and where there is room.
//
// scan() reads; what it finds wrong it tells, and it remembers the blocks that have to be written
// for that. write_back() writes them. In between nothing else may be done.
//
// Memory      About 150 bytes for each inode, 40 for each small block, 16 for each leaf of a
//             directory, 4 KiB a piece.
// Ownership   Borrows reader and account.
// Threads     The executor's.
#pragma once

#include <absl/container/flat_hash_map.h>
#include <absl/container/flat_hash_set.h>

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "base/task.h"
#include "check/account.h"
#include "check/block_writer.h"
#include "check/observer.h"
#include "check/store_reader.h"
#include "format/block.h"
#include "format/inode.h"
#include "format/piece.h"

namespace plumeria::check {

constexpr std::uint64_t root_inode = 1;

// The version that a block tells. 0 if it tells none, or one that can only come from damage: then
// whatever is above it would leave no room for later ones.
std::uint64_t claimed_version(ByteView block);

// An inode in use.
struct Node {
  std::uint64_t number = 0;
  // As the disk has them.
  std::uint64_t parent = 0, directory_root = 0, directory_entries = 0;  // of a directory
  std::uint32_t directory_levels = 0;
  std::uint32_t mode = 0, links = 0;
  bool is_new = false;         // made by the repair: what it should be is not told
  bool index_is_lost = false;  // a new inode of an old directory

  // As they should be. `place`: the directory whose entry for this directory stays (tree_plan.h).
  std::uint64_t place = 0;
  std::uint64_t entries = 0, entries_gone = 0;
  std::uint32_t references = 0;      // entries that name it, and stay
  std::uint32_t subdirectories = 0;  // entries in it that name directories, and stay
  bool is_orphan = false;            // deleted, to be freed
  bool is_found = false;             // no entry led to it; it comes into lost+found

  bool is_directory() const { return (mode & 0170000) == 0040000; }
};

class Inventory {
 public:
  Inventory(StoreReader& reader, Account& account, Observer* observer)
      : reader_(reader), account_(account), observer_(observer) {}

  Task<Status> scan();
  // Blocks with one wrong bit as they were; inodes without what is not theirs or cannot be read.
  Task<Status> write_back(BlockWriter& writer);

  std::vector<Node>& nodes() { return nodes_; }  // ascending
  Node* find(std::uint64_t number);
  bool is_lost(std::uint64_t number) const { return lost_.contains(number); }
  // Inodes whose block is damaged, and the version that the block tells; ascending.
  const std::map<std::uint64_t, std::uint64_t>& damaged_inodes() const { return damaged_inodes_; }

  const std::map<std::uint64_t, Bytes>& pieces() const { return pieces_; }  // that are whole
  const std::map<std::uint64_t, std::uint64_t>& damaged_pieces() const { return damaged_pieces_; }
  bool is_marked(format::Unit unit, std::uint64_t number) const;
  std::uint64_t floor_of(format::Unit unit, std::uint64_t number) const;

  // Leaves that say they are a part of this directory and are marked as used.
  std::vector<std::uint64_t> leaves_of(std::uint64_t directory) const;

  // What stands in the orphan lists that are whole.
  const absl::flat_hash_set<std::uint64_t>& orphan_inodes() const { return orphan_inodes_; }
  const absl::flat_hash_set<std::uint64_t>& orphan_segments() const { return orphan_segments_; }
  bool is_owned_segment(std::uint64_t segment) const { return segments_.contains(segment); }

  // Blocks in use, for take(): the trees of directories are added as they are read.
  void use_directory_block(std::uint64_t number) { used_directory_blocks_.insert(number); }
  // A number that nothing uses and no piece has marked; it is marked then. Each only once.
  Result<std::uint64_t> take(format::Unit unit);
  // Makes the marks of what was taken durable, and everything else. To be called before anything
  // leads there: a mount of a store that is only half repaired must not take it once more.
  Task<Status> write_marks(BlockWriter& writer);
  void add_node(Node node);

 private:
  // Who uses a small block or a data segment.
  struct User {
    std::uint64_t inode = 0;
    std::int64_t ctime = 0;
    std::uint32_t page = 0;  // no_page: it is a segment
  };
  static constexpr std::uint32_t no_page = ~std::uint32_t{0};
  using Places = absl::flat_hash_map<std::uint64_t, User>;
  struct InodeChange {
    std::uint32_t pages = 0;  // bit i: small block i goes
    bool segment_goes = false, inline_is_cut = false, xattrs_go = false;
  };

  void show_progress(std::string_view phase, std::uint64_t done);
  // The block as it is or, if only a bit of it is wrong, as it was.
  Result<ByteView> whole(format::BlockId id, ByteView block);
  void see_piece(format::BlockId id, ByteView block);
  void see_inode(format::BlockId id, ByteView block);
  void see_directory_block(format::BlockId id, ByteView block);
  void see_orphan_list(format::BlockId id, ByteView block, std::uint32_t slot);
  void take_place(Places& places, std::uint64_t place, User user);
  void look_at_data(const format::InodeView& inode);
  void find_empty_inodes();
  Task<Status> look_at_xattrs();
  Task<Status> scan_orphans();

  StoreReader& reader_;
  Account& account_;
  Observer* const observer_;
  std::vector<Node> nodes_;
  std::map<std::uint64_t, std::uint64_t> damaged_inodes_, damaged_pieces_;
  absl::flat_hash_set<std::uint64_t> lost_, free_inodes_;
  std::map<std::uint64_t, Bytes> pieces_;
  std::vector<std::pair<std::uint64_t, std::uint64_t>> leaves_;  // directory, block; ascending
  Places small_blocks_, segments_;
  std::vector<std::pair<std::uint64_t, std::uint64_t>> xattr_blocks_;  // inode, block
  absl::flat_hash_set<std::uint64_t> used_directory_blocks_;
  absl::flat_hash_set<std::uint64_t> orphan_inodes_, orphan_segments_;
  std::map<format::BlockId, Bytes> put_right_;
  std::uint64_t attempts_ = 0;                    // to put a block right
  std::map<std::uint64_t, InodeChange> changes_;  // by inode
  std::uint64_t untouched_piece_ = 0;             // it and all after it have nothing
  std::map<format::Unit, std::uint64_t> next_;    // where take() looks first
  std::map<std::uint64_t, bool> marked_pieces_;   // not written yet; whether they are new
};

}  // namespace plumeria::check
