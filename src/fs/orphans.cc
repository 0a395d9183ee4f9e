#include "fs/orphans.h"

#include <algorithm>

#include "base/check.h"
#include "base/log.h"
#include "base/rare.h"
#include "fs/allocator.h"
#include "fs/directory.h"
#include "fs/xattr_block.h"

namespace plumeria::fs {
namespace {

// How often orphans that somebody else has open, and lists of slots without owner, are looked at
// again.
constexpr Duration retry_interval = 5s;

}  // namespace

Orphans::Orphans(Core& core) : core_(core), wake_(core.world.executor) {}

// A damaged block is named once; what stands in it waits until somebody has repaired it.
Task<Result<std::optional<BlockRef>>> Orphans::load(std::uint32_t slot, std::uint64_t number) {
  const format::BlockId id = format::orphan_block(slot, number);
  auto block = co_await core_.cache.get(id, slot_lock(slot));
  if (block) co_return std::move(*block);
  if (block.error().code != Errc::corrupt) co_return fail(std::move(block).error());
  if (damaged_.insert(id).second) {
    log_error(absl::StrCat(block.error().message(),
                           "; what stands in it is not reclaimed, so its space stays in use"));
  }
  co_return std::nullopt;
}

Task<Status> Orphans::start() {
  auto pin = co_await core_.clerk.acquire(slot_lock(core_.slot), Mode::exclusive);
  if (!pin) co_return fail(std::move(pin).error());
  slot_pin_ = std::move(*pin);
  for (std::uint64_t number = 0;; ++number) {
    CO_TRY(std::optional<BlockRef> block, co_await load(core_.slot, number));
    if (!block) {
      blocks_.emplace_back();
      continue;
    }
    const bool last = (*block)->never_written();
    blocks_.push_back(std::move(*block));
    for (std::size_t i = 0; i < format::orphans_per_block; ++i) {
      const Orphan orphan = format::orphan_at(blocks_.back().bytes(), i);
      if (orphan.kind == OrphanKind::none) {
        free_places_.push_back({number, i});
      } else if (!places_.emplace(orphan, Place{number, i}).second) {
        co_return fail(Errc::corrupt,
                       absl::StrCat(format::to_string(format::orphan_block(core_.slot, number)),
                                    " (an entry stands there twice)"));
      } else {
        // A pending segment that the former owner of the slot did not live to record has no owner.
        if (orphan.kind == OrphanKind::pending_segment) inherited_.push_back(orphan);
        queue_.push_back(orphan);
      }
    }
    if (last) break;
  }
  std::reverse(free_places_.begin(), free_places_.end());  // the lowest places are used first
  co_return Status();
}

Task<Status> Orphans::make_room(std::size_t count) {
  while (free_places_.size() < count) {
    const std::uint64_t number = blocks_.size();
    CO_TRY(std::optional<BlockRef> block, co_await load(core_.slot, number));
    if (number != blocks_.size()) continue;  // Another operation was faster.
    blocks_.push_back(block ? std::move(*block) : BlockRef());
    if (!block) continue;
    std::vector<Place> fresh;
    for (std::size_t i = format::orphans_per_block; i-- > 0;) fresh.push_back({number, i});
    free_places_.insert(free_places_.begin(), fresh.begin(), fresh.end());
  }
  co_return Status();
}

MutableByteView Orphans::edit(Transaction& transaction, std::uint64_t block) {
  MutableByteView bytes = transaction.edit(blocks_[block]);
  if (format::type_of(bytes) == format::BlockType::none) {
    format::format_block(bytes, format::BlockType::orphan_list, core_.slot, 1);
  }
  return bytes;
}

void Orphans::add(Transaction& transaction, Orphan orphan) {
  if (places_.contains(orphan)) return;
  CHECK(!free_places_.empty());
  const Place place = free_places_.back();
  free_places_.pop_back();
  format::set_orphan(edit(transaction, place.block), place.index, orphan);
  places_.emplace(orphan, place);
}

void Orphans::remove(Transaction& transaction, Orphan orphan) {
  const auto entry = places_.find(orphan);
  if (entry == places_.end()) return;
  format::set_orphan(edit(transaction, entry->second.block), entry->second.index, Orphan{});
  free_places_.push_back(entry->second);
  places_.erase(entry);
}

void Orphans::let_go(Transaction& transaction, std::uint64_t segment) {
  remove(transaction, Orphan{OrphanKind::pending_segment, segment});
  add(transaction, Orphan{OrphanKind::segment, segment});
}

void Orphans::look_at(Orphan orphan) {
  queue_.push_back(orphan);
  wake_.notify_all();
}

void Orphans::stop() {
  stopping_ = true;
  wake_.notify_all();
}

Task<void> Orphans::run() {
  TimePoint next_retry = core_.world.clock.now();
  while (!stopping_) {
    while (!queue_.empty() && !stopping_) {
      const Orphan orphan = queue_.front();
      queue_.pop_front();
      const Status status = co_await reclaim(orphan);
      if (!status && status.error().code != Errc::again && status.error().code != Errc::lost &&
          status.error().code != Errc::shut_down) {
        log_warning(absl::StrCat("cannot reclaim ",
                                 orphan.kind == OrphanKind::inode ? "inode " : "segment ",
                                 orphan.number, ": ", status.error().message()));
      }
    }
    if (stopping_) break;
    if (core_.world.clock.now() >= next_retry) {
      next_retry = core_.world.clock.now() + retry_interval;
      for (const auto& [orphan, place] : places_) {
        if (orphan.kind != OrphanKind::pending_segment) queue_.push_back(orphan);
      }
      queue_.insert(queue_.end(), inherited_.begin(), inherited_.end());
      co_await adopt_foreign_lists();
      if (!queue_.empty()) continue;
    }
    if (stopping_) break;
    const TimerId timer = core_.world.executor.at(next_retry, [this] { wake_.notify_all(); });
    co_await wake_.next();
    core_.world.executor.cancel(timer);  // It must not outlive us.
  }
}

Task<Status> Orphans::reclaim(Orphan orphan) {
  if (orphan.kind == OrphanKind::inode) return reclaim_inode(InodeNumber{orphan.number});
  return reclaim_segment(orphan);
}

Task<Status> Orphans::drop_entry(Orphan orphan) {
  if (!places_.contains(orphan)) co_return Status();
  auto reservation = co_await core_.log.reserve(operation_log_bytes);
  if (!reservation) co_return fail(std::move(reservation).error());
  Transaction transaction(core_.cache);
  remove(transaction, orphan);
  auto position = transaction.commit(*reservation);
  if (!position) co_return fail(std::move(position).error());
  co_return Status();
}

// The entry was written by the transaction that took the segment from its file, or by a dead mount
// that did not live to give it to one: nobody owns it.
Task<Status> Orphans::reclaim_segment(Orphan orphan) {
  std::erase(inherited_, orphan);
  if (!places_.contains(orphan)) co_return Status();
  CO_TRY_STATUS(co_await core_.log.sync_all());
  const disk::Address whole{disk::Segment{orphan.number}, 0};
  CO_TRY_STATUS(co_await core_.disk.discard(whole, ~std::uint64_t{0}, core_.lease));
  co_return co_await drop_entry(orphan);
}

Task<Status> Orphans::reclaim_inode(InodeNumber inode) {
  const Orphan orphan{OrphanKind::inode, raw(inode)};
  if (core_.removed_directories.contains(inode)) co_return fail(Errc::again);
  if (const FileState* file = core_.find_file(inode); file != nullptr && file->handles > 0) {
    core_.file(inode).reclaim_on_close = true;
    co_return fail(Errc::again);
  }
  auto pin = co_await core_.clerk.acquire(inode_lock(inode), Mode::exclusive);
  if (!pin) co_return fail(std::move(pin).error());
  auto block = co_await core_.cache.get(format::inode_block(raw(inode)), inode_lock(inode));
  if (!block) co_return fail(std::move(block).error());
  const format::InodeView view(block->bytes());
  if ((*block)->never_written() || view.is_free() || view.links() > 0) {
    pin->drop();
    co_return co_await drop_entry(orphan);
  }
  if (const FileState* file = core_.find_file(inode); file != nullptr && file->handles > 0) {
    core_.file(inode).reclaim_on_close = true;
    co_return fail(Errc::again);
  }
  Pin open_pin;
  if (!core_.sole.contains(inode)) {
    auto open = co_await core_.clerk.try_acquire(open_lock(inode), Mode::exclusive);
    if (!open) {
      rarely<"fs: an orphan is open elsewhere">();
      co_return fail(std::move(open).error());
    }
    open_pin = std::move(*open);
  }
  if (view.is_directory()) CO_TRY_STATUS(co_await take_directory_apart(inode));
  co_return co_await free_inode(inode, std::move(*block));
}

// Block by block from the right, so that what is left is a whole index after each step. Requires:
// the inode is pinned exclusively.
Task<Status> Orphans::take_directory_apart(InodeNumber inode) {
  for (;;) {
    auto block = co_await core_.load_inode(inode);
    if (!block) co_return fail(std::move(block).error());
    if (format::InodeView(block->bytes()).directory_levels() == 0) co_return Status();
    auto path = co_await rightmost_path(core_, *block);
    if (!path) co_return fail(std::move(path).error());
    auto reservation = co_await core_.log.reserve(operation_log_bytes, true);
    if (!reservation) co_return fail(std::move(reservation).error());
    auto pieces = co_await core_.allocator->pin_numbers(pieces_of_path(*path));
    if (!pieces) co_return fail(std::move(pieces).error());
    co_await core_.cache.settle(path->blocks);
    Transaction transaction(core_.cache);
    const std::vector<BlockRef> freed = free_rightmost(core_, transaction, *path, *pieces);
    auto position = transaction.commit(*reservation);
    if (!position) co_return fail(std::move(position).error());
    for (const BlockRef& part : freed) core_.cache.forget(part);
  }
}

// Requires: the inode is pinned exclusively, has no links, and nobody has it open.
Task<Status> Orphans::free_inode(InodeNumber inode, BlockRef block) {
  const Orphan orphan{OrphanKind::inode, raw(inode)};
  auto reservation = co_await core_.log.reserve(operation_log_bytes, true);
  if (!reservation) co_return fail(std::move(reservation).error());
  CO_TRY_STATUS(co_await make_room(2));
  CO_TRY(const XattrBlock xattrs, co_await load_xattrs(core_, block));
  std::vector<std::uint64_t> numbers = pieces_to_free(block.bytes());
  auto pieces = co_await core_.allocator->pin_numbers(std::move(numbers));
  if (!pieces) co_return fail(std::move(pieces).error());
  if (xattrs.block) {
    std::vector<BlockRef> leaving{xattrs.block};
    co_await core_.cache.settle(std::move(leaving));
  }
  Transaction transaction(core_.cache);
  const FreedInode freed = free_inode_in(core_, transaction, block, xattrs.block, *pieces);
  remove(transaction, orphan);
  auto position = transaction.commit(*reservation);
  if (!position) co_return fail(std::move(position).error());
  if (xattrs.block) core_.cache.forget(xattrs.block);
  after_free(core_, inode, freed, *position);
  co_return Status();
}

std::vector<std::uint64_t> pieces_to_free(ByteView inode_block) {
  const format::InodeView view(inode_block);
  std::vector<std::uint64_t> pieces{format::piece_of(Unit::inode, view.number())};
  if (view.xattr_block() != 0) {
    pieces.push_back(format::piece_of(Unit::directory_block, view.xattr_block()));
  }
  for (std::size_t page = 0; page < format::small_count; ++page) {
    if (view.small(page) != 0) {
      pieces.push_back(format::piece_of(Unit::small_block, view.small(page)));
    }
  }
  return pieces;
}

FreedInode free_inode_in(Core& core, Transaction& transaction, const BlockRef& block,
                         const BlockRef& xattrs, const std::vector<PinnedPiece>& pieces) {
  const auto piece_with = [&pieces](std::uint64_t number) -> const PinnedPiece& {
    const auto found = std::find_if(pieces.begin(), pieces.end(),
                                    [number](const PinnedPiece& p) { return p.number == number; });
    CHECK(found != pieces.end());
    return *found;
  };
  FreedInode freed;
  MutableByteView bytes = transaction.edit(block);
  const format::InodeView view(bytes);
  const std::uint64_t number = view.number();
  const std::uint64_t generation = view.generation();
  const std::uint64_t version = format::version_of(bytes) + 1;
  for (std::size_t page = 0; page < format::small_count; ++page) {
    if (view.small(page) == 0) continue;
    freed.small_blocks.push_back(view.small(page));
    core.allocator->free(transaction,
                         piece_with(format::piece_of(Unit::small_block, view.small(page))),
                         Unit::small_block, view.small(page), 0);
  }
  if (view.xattr_block() != 0) {
    CHECK(xattrs);
    core.allocator->free(transaction,
                         piece_with(format::piece_of(Unit::directory_block, view.xattr_block())),
                         Unit::directory_block, view.xattr_block(), xattrs->version() + 1);
  }
  if (view.data_segment() != 0) freed.segments.push_back(view.data_segment());
  if (const FileState* file = core.find_file(InodeNumber{number});
      file != nullptr && file->segment != 0) {
    freed.segments.push_back(file->segment);
  }
  for (std::uint64_t segment : freed.segments) core.orphans->let_go(transaction, segment);
  format::format_block(bytes, format::BlockType::inode, number, version);
  format::InodeEditor(bytes).generation(generation);
  core.allocator->free(transaction, piece_with(format::piece_of(Unit::inode, number)), Unit::inode,
                       number, version);
  return freed;
}

void after_free(Core& core, InodeNumber inode, const FreedInode& freed, LogPosition position) {
  core.allocator->small_blocks_freed(freed.small_blocks, position);
  for (std::uint64_t segment : freed.segments) {
    core.orphans->look_at(Orphan{OrphanKind::segment, segment});
  }
  core.sole.erase(inode);
  core.clean_tails.erase(inode);
  if (FileState* file = core.find_file(inode)) {
    file->dirty.clear();
    core.account(*file);
    core.files.erase(inode);
  }
}

// Slots that nobody owns (their lock can be had): what stands in their lists moves to ours.
Task<void> Orphans::adopt_foreign_lists() {
  auto segments = co_await core_.disk.list_segments(disk::Segment{format::orphan_segment_base}, 64);
  if (!segments) co_return;
  for (disk::Segment segment : *segments) {
    const std::uint64_t slot = raw(segment) - format::orphan_segment_base;
    if (slot >= format::slot_limit) break;
    if (slot == core_.slot) continue;
    const Status status = co_await adopt(static_cast<std::uint32_t>(slot));
    if (!status && status.error().code == Errc::lost) co_return;
  }
}

Task<Status> Orphans::adopt(std::uint32_t slot) {
  auto pin = co_await core_.clerk.try_acquire(slot_lock(slot), Mode::exclusive);
  if (!pin) co_return fail(std::move(pin).error());
  for (std::uint64_t number = 0;; ++number) {
    CO_TRY(std::optional<BlockRef> block, co_await load(slot, number));
    if (!block) continue;
    if ((*block)->never_written()) break;
    auto reservation = co_await core_.log.reserve(operation_log_bytes);
    if (!reservation) co_return fail(std::move(reservation).error());
    CO_TRY_STATUS(co_await make_room(format::orphans_per_block));
    Transaction transaction(core_.cache);
    MutableByteView bytes = transaction.edit(*block);
    for (std::size_t i = 0; i < format::orphans_per_block; ++i) {
      Orphan orphan = format::orphan_at(bytes, i);
      if (orphan.kind == OrphanKind::none) continue;
      format::set_orphan(bytes, i, Orphan{});
      // A pending segment has lost its owner with the slot.
      if (orphan.kind == OrphanKind::pending_segment) orphan.kind = OrphanKind::segment;
      rarely<"fs: an orphan of a dead mount is adopted">();
      add(transaction, orphan);
      queue_.push_back(orphan);
    }
    auto position = transaction.commit(*reservation);
    if (!position) co_return fail(std::move(position).error());
  }
  pin->drop();
  core_.clerk.give_back(slot_lock(slot));
  co_return Status();
}

}  // namespace plumeria::fs
