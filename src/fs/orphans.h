// The orphan list of this mount's slot, and the reclaiming of what stands in it (docs/format.md,
// "Orphan lists").
//
// An inode whose last link went away while it may be open somewhere, and a data segment whose file
// let it go, are put into the list by the same transaction. A background task frees them: an inode
// when its open lock can be had exclusively, a segment when the record that freed it is durable.
// Lists of slots that no mount owns are taken care of in passing.
//
// Damage      A damaged block of a list is named in the log and left alone.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <set>
#include <vector>

#include "format/piece.h"
#include "fs/allocator.h"
#include "fs/core.h"

namespace plumeria::fs {

using format::Orphan;
using format::OrphanKind;

// What freeing an inode set free besides.
struct FreedInode {
  std::vector<std::uint64_t> small_blocks;
  std::vector<std::uint64_t> segments;
};
// The pieces that must be pinned for free_inode_in().
std::vector<std::uint64_t> pieces_to_free(ByteView inode_block);
// In a transaction: the inode, its small blocks, and its segments, which go to the orphan list (two
// places are needed), and the block of its extended attributes, if it has one: `xattrs`, settled
// and to be forgotten afterwards. Requires: links 0, not open anywhere, a directory without index
// blocks.
FreedInode free_inode_in(Core& core, Transaction& transaction, const BlockRef& block,
                         const BlockRef& xattrs, const std::vector<PinnedPiece>& pieces);
// After the commit at `position`.
void after_free(Core& core, InodeNumber inode, const FreedInode& freed, LogPosition position);

class Orphans {
 public:
  explicit Orphans(Core& core);

  // Takes the slot's lock and reads what a former owner of the slot left.
  Task<Status> start();
  // Makes sure that `count` more entries fit. Before a transaction that adds that many.
  Task<Status> make_room(std::size_t count);
  // In a transaction. Requires: make_room() before, with nothing waited for in between.
  void add(Transaction& transaction, Orphan orphan);
  // In the transaction that frees it. No effect if it does not stand in this slot's list.
  void remove(Transaction& transaction, Orphan orphan);

  // In the transaction that takes the segment from its file.
  void let_go(Transaction& transaction, std::uint64_t segment);

  // Lets the background task look at `orphan` now.
  void look_at(Orphan orphan);
  // Runs until stop().
  Task<void> run();
  void stop();
  std::size_t size() const { return places_.size(); }

 private:
  struct Place {
    std::uint64_t block = 0;
    std::size_t index = 0;
  };
  Task<Result<std::optional<BlockRef>>> load(std::uint32_t slot, std::uint64_t number);
  Task<Status> reclaim(Orphan orphan);
  Task<Status> reclaim_segment(Orphan orphan);
  Task<Status> reclaim_inode(InodeNumber inode);
  Task<Status> free_inode(InodeNumber inode, BlockRef block);
  Task<Status> take_directory_apart(InodeNumber inode);
  Task<Status> drop_entry(Orphan orphan);
  Task<void> adopt_foreign_lists();
  Task<Status> adopt(std::uint32_t slot);
  MutableByteView edit(Transaction& transaction, std::uint64_t block);

  struct Less {
    bool operator()(const Orphan& a, const Orphan& b) const {
      return a.kind != b.kind ? a.kind < b.kind : a.number < b.number;
    }
  };
  Core& core_;
  Pin slot_pin_;
  std::vector<BlockRef> blocks_;       // all blocks of the list, kept in memory; empty: damaged
  std::set<format::BlockId> damaged_;  // of any list
  std::map<Orphan, Place, Less> places_;
  std::vector<Place> free_places_;
  std::deque<Orphan> queue_;
  std::vector<Orphan> inherited_;  // pending segments of a former owner of the slot
  Event wake_;
  bool stopping_ = false;
};

}  // namespace plumeria::fs
