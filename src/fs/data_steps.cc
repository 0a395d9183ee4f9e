#include "fs/data_steps.h"

#include "base/fault.h"
#include "base/rare.h"
#include "fs/orphans.h"

namespace plumeria::fs {

using format::block_size;
using format::InodeView;

void will_be_dirty(Core& core, FileState& file) {
  if (!file.is_dirty()) core.becomes_dirty(file);
}

void touch(Core& core, FileState& file, std::int64_t mtime_at_least) {
  will_be_dirty(core, file);
  const std::int64_t now = std::max(core.now(), mtime_at_least);
  file.mtime = now;
  file.ctime = now;
}

void leave_inline(Core& core, FileState& file, ByteView inode_block) {
  const InodeView view(inode_block);
  if (view.inline_length() == 0 || file.left_inline) return;
  const std::uint64_t length =
      std::min<std::uint64_t>(view.inline_length(), size_of(inode_block, &file));
  if (length > 0) {
    file.dirty.insert_below(0, SharedBytes::copy_of(view.inline_data().first(length)));
  }
  file.left_inline = true;
  core.account(file);
}

Task<Status> take_segment(Core& core, FileState& file, bool for_revoke) {
  if (file.segment != 0) co_return Status();
  auto reservation = co_await core.log.reserve(operation_log_bytes, for_revoke);
  if (!reservation) co_return fail(std::move(reservation).error());
  const Needs needs{};
  auto piece = co_await core.allocator->pin(needs);
  if (!piece) co_return fail(std::move(piece).error());
  CO_TRY_STATUS(co_await core.orphans->make_room(1));
  Transaction transaction(core.cache);
  const std::uint64_t segment = core.allocator->take_segment(transaction, *piece);
  core.orphans->add(transaction, Orphan{OrphanKind::pending_segment, segment});
  auto position = transaction.commit(*reservation);
  if (!position) co_return fail(std::move(position).error());
  // A crash can take the number's record back after data went there; then it is handed out once
  // more, and must be empty.
  const disk::Address whole{disk::Segment{segment}, 0};
  CO_TRY_STATUS(co_await core.disk.discard(whole, ~std::uint64_t{0}, core.lease));
  file.segment = segment;
  co_return Status();
}

Task<Status> make_end_durable(Core& core, BlockRef block) {
  if (block->last_record() > core.log.durable()) CO_TRY_STATUS(co_await core.log.sync_all());
  co_return Status();
}

Task<Status> clear_tail(Core& core, FileState& file, BlockRef block) {
  if (core.clean_tails.contains(file.inode) || planted(Fault::stale_end_ignored)) {
    co_return Status();
  }
  const std::uint64_t size = size_of(block.bytes(), &file);
  const Map map(block.bytes(), &file);
  const bool in_small_block = size % block_size != 0 && map.small(size) != 0;
  if (in_small_block || map.segment() != 0) CO_TRY_STATUS(co_await make_end_durable(core, block));
  if (map.segment() != 0) {
    const disk::Address behind{disk::Segment{map.segment()}, size};
    rarely<"fs: the tail of a segment is cleared">();
    CO_TRY_STATUS(co_await core.disk.discard(behind, ~std::uint64_t{0} - size, core.lease));
  }
  if (in_small_block) {
    rarely<"fs: the tail of a small block is cleared">();
    will_be_dirty(core, file);
    file.dirty.insert(size, SharedBytes(Bytes(block_size - size % block_size)));
    core.account(file);
  }
  core.clean_tails.insert(file.inode);
  co_return Status();
}

FreedPages plan_freed_pages(const InodeView& view, std::uint64_t first, std::uint64_t last) {
  FreedPages freed;
  for (std::uint64_t page = first; page < last && page < format::small_count; ++page) {
    const std::uint64_t number = view.small(page);
    if (number == 0) continue;
    freed.pages.push_back(page);
    freed.numbers.push_back(number);
    freed.pieces.push_back(format::piece_of(Unit::small_block, number));
  }
  return freed;
}

void free_pages(Core& core, Transaction& transaction, format::InodeEditor editor,
                const FreedPages& freed, const std::vector<PinnedPiece>& pieces) {
  for (std::size_t i = 0; i < freed.pages.size(); ++i) {
    const auto piece = std::find_if(pieces.begin(), pieces.end(), [&](const PinnedPiece& p) {
      return p.number == freed.pieces[i];
    });
    core.allocator->free(transaction, *piece, Unit::small_block, freed.numbers[i], 0);
    editor.small(freed.pages[i], 0);
  }
}

}  // namespace plumeria::fs
