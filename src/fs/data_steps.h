// Steps that the operations on file data have in common (fs/data.h, fs/space.h).
//
// Every function requires what fs/data.h says of its own.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "fs/allocator.h"
#include "fs/core.h"
#include "fs/data.h"

namespace plumeria::fs {

// Where the bytes of a file are, as its block and its state on this mount say together.
class Map {
 public:
  Map(ByteView inode_block, const FileState* file) : view_(inode_block), file_(file) {}

  bool is_inline() const {
    return view_.inline_length() > 0 && (file_ == nullptr || !file_->left_inline);
  }
  std::uint64_t segment() const {
    if (view_.data_segment() != 0) return view_.data_segment();
    return file_ == nullptr ? 0 : file_->segment;
  }
  std::uint64_t small(std::uint64_t offset) const {
    return offset < format::small_limit ? view_.small(offset / format::block_size) : 0;
  }
  // Where the byte at `offset` is; segment 0 is a hole. `length` is cut to what lies there in one
  // run.
  disk::Address find(std::uint64_t offset, std::uint64_t& length) const {
    if (const std::uint64_t number = small(offset)) {
      const std::uint64_t within = offset % format::block_size;
      length = std::min(length, format::block_size - within);
      return {disk::Segment{format::small_segment}, number * format::block_size + within};
    }
    std::uint64_t end = offset + length;
    for (std::uint64_t page = offset / format::block_size + 1;
         page < format::small_count && page * format::block_size < end; ++page) {
      if (view_.small(page) != 0) end = page * format::block_size;
    }
    length = end - offset;
    return {disk::Segment{segment()}, offset};
  }

 private:
  format::InodeView view_;
  const FileState* file_;
};

// Before each change of the state that makes it dirty.
void will_be_dirty(Core& core, FileState& file);
void touch(Core& core, FileState& file, std::int64_t mtime_at_least);
// Moves inline data to where `dirty` data are, because the file no longer fits into its inode.
void leave_inline(Core& core, FileState& file, ByteView inode_block);
// Gives the file a data segment, if it has none, which the next commit records.
Task<Status> take_segment(Core& core, FileState& file, bool for_revoke);
// Before what lies behind the file's end is changed in place: a crash must not undo the truncation
// that made it the end after those bytes are gone.
Task<Status> make_end_durable(Core& core, BlockRef block);
// Before the file grows: what lies behind its end becomes zeros, durable before the record that
// shows it (docs/format.md, "The tail").
Task<Status> clear_tail(Core& core, FileState& file, BlockRef block);

// The small blocks of some pages, which are to be given back.
struct FreedPages {
  std::vector<std::size_t> pages;
  std::vector<std::uint64_t> numbers;  // of the blocks
  std::vector<std::uint64_t> pieces;   // that they belong to
};
// Of the pages [first, last), as far as they are among the first small_count.
FreedPages plan_freed_pages(const format::InodeView& view, std::uint64_t first, std::uint64_t last);
// In a transaction that edits the inode. After its commit: Allocator::small_blocks_freed().
void free_pages(Core& core, Transaction& transaction, format::InodeEditor editor,
                const FreedPages& freed, const std::vector<PinnedPiece>& pieces);

}  // namespace plumeria::fs
