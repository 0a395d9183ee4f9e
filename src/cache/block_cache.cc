#include "cache/block_cache.h"

#include <algorithm>

#include "base/check.h"
#include "base/fault.h"
#include "base/rare.h"
#include "format/contents.h"

namespace plumeria::cache {
namespace {

constexpr std::size_t blocks_per_write = 128;   // 512 KiB in one write
constexpr std::size_t blocks_per_batch = 2048;  // 8 MiB on their way at once

}  // namespace

BlockRef::BlockRef(BlockCache* cache, Block* block) : cache_(cache), block_(block) {
  if (block_->references_++ == 0) cache_->referenced(block_);
}
BlockRef::BlockRef(const BlockRef& other) : cache_(other.cache_), block_(other.block_) {
  if (block_ != nullptr && block_->references_++ == 0) cache_->referenced(block_);
}
BlockRef::~BlockRef() {
  if (block_ != nullptr && --block_->references_ == 0) cache_->unreferenced(block_);
}

BlockCache::BlockCache(World world, disk::VirtualDisk& disk, wal::Log& log, clerk::Clerk& clerk,
                       std::uint64_t capacity)
    : world_(world),
      disk_(disk),
      log_(log),
      clerk_(clerk),
      lease_(clerk.membership().lease),
      capacity_(std::max<std::uint64_t>(capacity, 64)),
      memory_({.max_blocks_per_chunk = 256, .largest_required_pool_block = format::block_size}),
      progress_(world.executor),
      checkpointing_(world.executor) {
  lru_.newer_ = lru_.older_ = &lru_;
}

BlockCache::~BlockCache() = default;

Block* BlockCache::enter(BlockId id, LockName lock) {
  auto owned = std::make_unique<Block>(&memory_);
  Block* block = owned.get();
  block->id_ = id;
  block->lock_ = lock;
  auto& siblings = by_lock_[lock];
  block->index_in_lock_ = siblings.size();
  siblings.push_back(block);
  blocks_[id] = std::move(owned);
  return block;
}

// Takes the block out of all indexes; it dies now, or with its last reference.
void BlockCache::leave(Block* block) {
  CHECK(block->first_ == LogPosition::none && !block->writing_);
  auto siblings = by_lock_.find(block->lock_);
  siblings->second.back()->index_in_lock_ = block->index_in_lock_;
  siblings->second[block->index_in_lock_] = siblings->second.back();
  siblings->second.pop_back();
  if (siblings->second.empty()) by_lock_.erase(siblings);
  auto entry = blocks_.find(block->id_);
  if (block->references_ == 0) {
    referenced(block);  // out of the list of the unreferenced
    blocks_.erase(entry);
  } else {
    block->dropped_ = true;
    entry->second.release();
    blocks_.erase(entry);
  }
}

void BlockCache::referenced(Block* block) {
  if (block->newer_ == nullptr) return;
  block->newer_->older_ = block->older_;
  block->older_->newer_ = block->newer_;
  block->newer_ = block->older_ = nullptr;
}

void BlockCache::unreferenced(Block* block) {
  if (block->dropped_) {
    delete block;
    return;
  }
  make_newest(block);
  if (blocks_.size() > capacity_) evict();
}

void BlockCache::make_newest(Block* block) {
  block->older_ = lru_.older_;
  block->newer_ = &lru_;
  lru_.older_->newer_ = block;
  lru_.older_ = block;
}

void BlockCache::evict() {
  Block* next = lru_.newer_;
  for (int looked_at = 0; next != &lru_ && blocks_.size() > capacity_ && looked_at < 64;
       ++looked_at) {
    Block* block = std::exchange(next, next->newer_);
    if (block->first_ != LogPosition::none || block->writing_) {
      referenced(
          block);  // Dirty: to the other end, so that the next search does not meet it again.
      make_newest(block);
      continue;
    }
    rarely<"cache: a block is evicted">();
    ++counters_.evictions;
    leave(block);
  }
}

BlockRef BlockCache::find(BlockId id) {
  const auto entry = blocks_.find(id);
  if (entry == blocks_.end() || entry->second->loading_) return {};
  return BlockRef(this, entry->second.get());
}

BlockRef BlockCache::create(BlockId id, LockName lock) {
  const auto entry = blocks_.find(id);
  Block* block = entry == blocks_.end() ? enter(id, lock) : entry->second.get();
  CHECK(!block->loading_);
  CHECK(block->lock_ == lock);
  return BlockRef(this, block);
}

// A process that was stopped past its lease can read what others wrote since, and it would not fit
// to what it has in memory: what was read counts only while the lease is known to last.
Task<Status> BlockCache::confirm_lease() {
  while (!clerk_.lasts()) {
    rarely<"cache: the lease may have ended during a read">();
    if (clerk_.status().lost) co_return fail(Errc::lost);
    co_await sleep_for(world_, 20ms);
  }
  co_return Status();
}

Task<Result<BlockRef>> BlockCache::get(BlockId id, LockName lock) {
  for (;;) {
    const auto entry = blocks_.find(id);
    if (entry == blocks_.end()) break;
    if (!entry->second->loading_) {
      CHECK(entry->second->lock_ == lock);
      co_return BlockRef(this, entry->second.get());
    }
    co_await progress_.next();
  }
  BlockRef block(this, enter(id, lock));
  block.block_->loading_ = true;
  ++counters_.reads;
  const disk::Address from{disk::Segment{id.segment}, id.offset()};
  auto bytes = co_await disk_.read(from, format::block_size);
  const Status confirmed = co_await confirm_lease();
  block.block_->loading_ = false;
  progress_.notify_all();
  Status status;
  if (!bytes) {
    status = fail(std::move(bytes).error());
  } else if (!confirmed) {
    status = confirmed;
  } else {
    status = format::verify(*bytes, id);
    if (status) status = format::check_contents(*bytes, id);
  }
  if (!status) {
    leave(block.block_);
    co_return fail(std::move(status).error());
  }
  block.block_->bytes_.assign(bytes->begin(), bytes->end());
  co_return block;
}

void BlockCache::drop(LockName lock) {
  const auto siblings = by_lock_.find(lock);
  if (siblings == by_lock_.end()) return;
  const std::vector<Block*> blocks = siblings->second;
  for (Block* block : blocks) leave(block);
}

double BlockCache::pressure() const {
  return static_cast<double>(dirty_.size() + writing_.size()) / static_cast<double>(capacity_);
}

bool BlockCache::is_dirty(LockName lock) const {
  const auto siblings = by_lock_.find(lock);
  if (siblings == by_lock_.end()) return false;
  return std::any_of(siblings->second.begin(), siblings->second.end(), [](const Block* block) {
    return block->first_ != LogPosition::none || block->writing_;
  });
}

std::vector<LockName> BlockCache::locks_not_durable() const {
  std::vector<LockName> locks;
  for (const auto* blocks : {&dirty_, &writing_}) {
    for (const auto& [id, block] : *blocks) {
      if (block->last_ > log_.durable()) locks.push_back(block->lock_);
    }
  }
  return locks;
}

void BlockCache::changed(Block* block, LogPosition position) {
  if (block->first_ == LogPosition::none) {
    block->first_ = position;
    const bool above_half = pressure() > 0.5;
    dirty_[block->id_] = block;
    if (!above_half && pressure() > 0.5 && pressure_callback_) pressure_callback_();
  }
  block->last_ = position;
  block->needs_image_ = false;
}

Task<Status> BlockCache::write_back(LockName lock) {
  for (;;) {
    std::vector<BlockRef> blocks;
    bool writing = false;
    if (const auto siblings = by_lock_.find(lock); siblings != by_lock_.end()) {
      for (Block* block : siblings->second) {
        if (block->first_ != LogPosition::none) blocks.push_back(BlockRef(this, block));
        writing |= block->writing_;
      }
    }
    if (blocks.empty() && !writing) co_return Status();
    if (blocks.empty()) {
      co_await progress_.next();
      continue;
    }
    CO_TRY_STATUS(co_await write_blocks(std::move(blocks)));
  }
}

// Writes those of `blocks` that are dirty to their places: log first. A block whose copy is on its
// way already is waited for.
Task<Status> BlockCache::write_blocks(std::vector<BlockRef> blocks) {
  std::vector<BlockRef> taken;
  std::vector<std::pair<BlockId, Bytes>> copies;
  LogPosition last{};
  for (BlockRef& reference : blocks) {
    Block* block = reference.block_;
    while (block->writing_) co_await progress_.next();
    if (block->first_ == LogPosition::none) continue;
    copies.emplace_back(block->id_, Bytes(block->bytes_.begin(), block->bytes_.end()));
    block->writing_ = true;
    block->needs_image_ = true;
    block->first_writing_ = std::exchange(block->first_, LogPosition::none);
    dirty_.erase(block->id_);
    writing_[block->id_] = block;
    last = std::max(last, block->last_);
    taken.push_back(reference);
  }
  Status status;
  if (!planted(Fault::release_before_flush)) status = co_await log_.sync(last);
  if (status) status = co_await write_copies(std::move(copies));
  for (BlockRef& reference : taken) {
    Block* block = reference.block_;
    block->writing_ = false;
    writing_.erase(block->id_);
    if (status) {
      unflushed_.push_back(block->first_writing_);
    } else {
      block->first_ = block->first_writing_;
      dirty_[block->id_] = block;
    }
    block->first_writing_ = LogPosition::none;
  }
  progress_.notify_all();
  co_return status;
}

Task<Status> BlockCache::write_copies(std::vector<std::pair<BlockId, Bytes>> copies) {
  std::sort(copies.begin(), copies.end(),
            [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<Task<Status>> writes;
  for (std::size_t i = 0; i < copies.size();) {
    const BlockId first = copies[i].first;
    Bytes run;
    std::size_t count = 0;
    for (; i < copies.size() && count < blocks_per_write; ++i, ++count) {
      auto& [id, bytes] = copies[i];
      if (id.segment != first.segment || id.number != first.number + count) break;
      format::seal(bytes, id);
      run.insert(run.end(), bytes.begin(), bytes.end());
    }
    counters_.writes += count;
    const disk::Address to{disk::Segment{first.segment}, first.offset()};
    writes.push_back(
        disk_.write(to, SharedBytes(std::move(run)), lease_, disk::Durability::logged));
  }
  auto results = co_await gather(world_.executor, std::move(writes));
  for (Status& result : results) {
    if (!result) co_return fail(std::move(result).error());
  }
  co_return Status();
}

Task<void> BlockCache::settle(std::vector<BlockRef> blocks) {
  const auto is_writing = [](const BlockRef& block) { return block.block_->writing_; };
  while (std::any_of(blocks.begin(), blocks.end(), is_writing)) co_await progress_.next();
}

void BlockCache::forget(const BlockRef& reference) {
  Block* block = reference.block_;
  CHECK(!block->writing_);
  if (block->first_ != LogPosition::none) {
    dirty_.erase(block->id_);
    block->first_ = LogPosition::none;
  }
  leave(block);
}

LogPosition BlockCache::lowest_needed() const {
  LogPosition lowest = wal::next(log_.end());
  for (const auto& [id, block] : dirty_) lowest = std::min(lowest, block->first_);
  for (const auto& [id, block] : writing_) lowest = std::min(lowest, block->first_writing_);
  for (LogPosition position : unflushed_) lowest = std::min(lowest, position);
  return lowest;
}

Task<Status> BlockCache::checkpoint() {
  auto guard = co_await checkpointing_.lock();
  std::vector<BlockRef> all;
  all.reserve(dirty_.size());
  for (const auto& [id, block] : dirty_) all.push_back(BlockRef(this, block));
  for (std::size_t from = 0; from < all.size(); from += blocks_per_batch) {
    const std::size_t to = std::min(all.size(), from + blocks_per_batch);
    std::vector<BlockRef> batch(all.begin() + from, all.begin() + to);
    CO_TRY_STATUS(co_await write_blocks(std::move(batch)));
  }
  all.clear();
  // What is acknowledged before the flush begins is covered by it; what comes later waits for the
  // next.
  const std::size_t covered = unflushed_.size();
  if (!planted(Fault::trim_before_flush)) CO_TRY_STATUS(co_await disk_.flush());
  unflushed_.erase(unflushed_.begin(), unflushed_.begin() + covered);
  const LogPosition keep = lowest_needed();
  if (wal::before(keep) > log_.trimmed()) CO_TRY_STATUS(co_await log_.trim(wal::before(keep)));
  co_return Status();
}

BlockCacheStatus BlockCache::status() const {
  BlockCacheStatus status = counters_;
  status.blocks = blocks_.size();
  status.dirty = dirty_.size() + writing_.size();
  return status;
}

MutableByteView Transaction::edit(const BlockRef& block) {
  CHECK(block);
  for (Edit& edit : edits_) {
    if (edit.block.block_ == block.block_) return edit.block.block_->bytes_;
  }
  CHECK(!block.block_->loading_ && !block.block_->dropped_);
  edits_.push_back({block, {block.block_->bytes_, &cache_.memory_}});
  return block.block_->bytes_;
}

Transaction::~Transaction() {
  for (Edit& edit : edits_) edit.block.block_->bytes_ = std::move(edit.before);
}

Result<LogPosition> Transaction::commit(wal::Reservation& reservation) {
  format::RecordBuilder record;
  std::vector<Block*> changed;
  for (Edit& edit : edits_) {
    Block* block = edit.block.block_;
    const std::uint64_t before = format::version_of(edit.before);
    if (block->bytes_ == edit.before) continue;
    if (format::version_of(block->bytes_) == before) {
      format::set_version(block->bytes_, before + 1);
    }
    CHECK(format::version_of(block->bytes_) > before);
    const bool follows = format::version_of(block->bytes_) == before + 1 && before != 0;
    const bool image = !follows || (block->needs_image_ && !planted(Fault::delta_without_image));
    if (image) {
      record.add_image(block->id_, block->bytes_);
    } else {
      record.add_delta(block->id_, edit.before, block->bytes_);
    }
    changed.push_back(block);
  }
  if (changed.empty()) {
    edits_.clear();
    return cache_.log_.end();
  }
  TRY(const LogPosition position, cache_.log_.append(record.view(), reservation));
  for (Block* block : changed) cache_.changed(block, position);
  edits_.clear();
  return position;
}

}  // namespace plumeria::cache
