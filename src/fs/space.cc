#include "fs/space.h"

#include <algorithm>

#include "base/rare.h"
#include "fs/allocator.h"
#include "fs/data_steps.h"

namespace plumeria::fs {
namespace {

using format::block_size;
using format::InodeEditor;
using format::InodeView;
using format::small_count;
using format::small_limit;

std::uint64_t page_down(std::uint64_t offset) { return offset / block_size * block_size; }
std::uint64_t page_up(std::uint64_t offset) { return page_down(offset + block_size - 1); }

SharedBytes zeros(std::uint64_t length) { return SharedBytes(Bytes(length)); }

// Gives back the small blocks of the pages [first, last).
Task<Status> free_small(Core& core, FileState& file, BlockRef block, std::uint64_t first,
                        std::uint64_t last, bool for_revoke) {
  auto plan = plan_freed_pages(InodeView(block.bytes()), first, last);
  if (plan.pages.empty()) co_return Status();
  CO_TRY(wal::Reservation reservation, co_await core.log.reserve(operation_log_bytes, for_revoke));
  CO_TRY(const std::vector<PinnedPiece> pieces, co_await core.allocator->pin_numbers(plan.pieces));
  Transaction transaction(core.cache);
  free_pages(core, transaction, InodeEditor(transaction.edit(block)), plan, pieces);
  CO_TRY(file.last, transaction.commit(reservation));
  core.allocator->small_blocks_freed(plan.numbers, file.last);
  rarely<"fs: a hole is made of small blocks">();
  co_return Status();
}

// The first run of bytes from `offset` on that has a place on the disk or in memory.
Task<Result<std::optional<disk::Extent>>> next_run(Core& core, BlockRef block, InodeNumber inode,
                                                   std::uint64_t offset) {
  const FileState* file = core.find_file(inode);
  const Map map(block.bytes(), file);
  std::optional<disk::Extent> first;
  const auto candidate = [&first, offset](std::uint64_t start, std::uint64_t end) {
    start = std::max(start, offset);
    if (start < end && (!first || start < first->offset)) first = disk::Extent{start, end - start};
  };
  if (map.is_inline()) candidate(0, InodeView(block.bytes()).inline_length());
  if (file != nullptr) {
    for (const auto& [start, data] : file->dirty.runs()) {
      candidate(page_down(start), page_up(start + data.size()));
      if (first && start >= first->offset) break;
    }
  }
  for (std::uint64_t page = offset / block_size; page < small_count; ++page) {
    if (map.small(page * block_size) == 0) continue;
    candidate(page * block_size, (page + 1) * block_size);
    break;
  }
  if (map.segment() != 0) {
    CO_TRY(const auto extent, co_await core.disk.next_extent(disk::Segment{map.segment()}, offset));
    if (extent) candidate(extent->offset, extent->offset + extent->length);
    CO_TRY_STATUS(co_await core.cache.confirm_lease());
  }
  co_return first;
}

}  // namespace

Task<Status> punch_data(Core& core, InodeNumber inode, std::uint64_t offset, std::uint64_t end,
                        bool for_revoke) {
  CO_TRY(const BlockRef block, co_await core.load_inode(inode));
  FileState& file = core.file(inode);
  const std::uint64_t size = size_of(block.bytes(), &file);
  touch(core, file, InodeView(block.bytes()).mtime());
  if (size > format::inline_max) leave_inline(core, file, block.bytes());
  const Map map(block.bytes(), &file);
  const auto zero = [&](std::uint64_t from, std::uint64_t to) {
    to = std::min(to, size);
    if (from < to) file.dirty.insert(from, zeros(to - from));
  };
  if (map.is_inline()) {
    zero(offset, end);
  } else {
    const std::uint64_t first = page_up(offset);
    const std::uint64_t last = end >= size ? page_up(end) : page_down(end);
    if (first < last) {
      CO_TRY_STATUS(co_await free_small(core, file, block, first / block_size,
                                        std::min<std::uint64_t>(last / block_size, small_count),
                                        for_revoke));
      if (map.segment() != 0) {
        const disk::Address where{disk::Segment{map.segment()}, first};
        file.space_changed = true;
        // Behind the end nothing is zeroed that a crash could bring back.
        if (last > size) CO_TRY_STATUS(co_await make_end_durable(core, block));
        CO_TRY_STATUS(co_await core.disk.discard(where, last - first, core.lease));
      }
      // Not before: what is dirty must not be lost if that fails.
      file.dirty.erase(first, last);
    }
    zero(offset, std::min(first, end));
    zero(std::max(last, first), end);
  }
  core.account(file);
  co_return Status();
}

Task<Status> reserve_data(Core& core, InodeNumber inode, std::uint64_t offset, std::uint64_t end,
                          bool keep_size, bool for_revoke) {
  CO_TRY(const BlockRef block, co_await core.load_inode(inode));
  FileState& file = core.file(inode);
  const std::uint64_t before = size_of(block.bytes(), &file);
  const std::uint64_t after = keep_size ? before : std::max(before, end);
  touch(core, file, InodeView(block.bytes()).mtime());
  if (end > before) CO_TRY_STATUS(co_await clear_tail(core, file, block));
  if (std::max(end, before) > format::inline_max) leave_inline(core, file, block.bytes());
  const Map map(block.bytes(), &file);
  if (map.segment() != 0 || std::max(end, before) > small_limit) {
    if (map.segment() == 0) {
      CO_TRY_STATUS(co_await take_segment(core, file, for_revoke));
      file.data_written = true;  // The next commit tells whose segment it is.
    }
    const disk::Address where{disk::Segment{map.segment()}, page_down(offset)};
    const std::uint64_t length = page_up(end) - where.offset;
    file.space_changed = true;
    CO_TRY_STATUS(co_await core.disk.preallocate(where, length, core.lease));
  } else if (after > format::inline_max) {
    const std::uint64_t last = std::min(end, after);
    const std::uint64_t first = offset < last ? page_down(offset) : last;
    for (std::uint64_t page = first; page < last; page += block_size) {
      const std::uint64_t from = std::max(page, offset), to = std::min(page + block_size, last);
      if (map.small(page) == 0) file.dirty.insert_below(from, zeros(to - from));
    }
  }
  if (after > before) file.size = after;
  core.account(file);
  co_return Status();
}

Task<Result<std::uint64_t>> seek_data(Core& core, InodeNumber inode, std::uint64_t offset,
                                      bool hole) {
  CO_TRY(const BlockRef block, co_await core.load_inode(inode));
  const std::uint64_t size = size_of(block.bytes(), core.find_file(inode));
  if (offset >= size) co_return fail(Errc::no_device);
  for (std::uint64_t at = offset; at < size;) {
    CO_TRY(const auto run, co_await next_run(core, block, inode, at));
    if (!hole) {
      if (!run || run->offset >= size) co_return fail(Errc::no_device);
      co_return run->offset;
    }
    if (!run || run->offset > at) co_return at;
    at = run->offset + run->length;
  }
  co_return size;
}

}  // namespace plumeria::fs
