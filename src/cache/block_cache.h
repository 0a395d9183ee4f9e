// Metadata blocks in memory, each under the one lock that covers it; and Transactions, which change
// them.
//
// A block is kept in its on-disk form. It enters by get() (read and verified) or create() (known to
// be free); a Transaction changes it and logs the change; it goes to its place on the disk after
// its log record is durable and before its lock is given up; it leaves by drop() with its lock, or
// by eviction when it is clean and nobody holds a BlockRef.
//
// Images      The first record of a block after it entered, and after each beginning of a
// write-back, is a full image (docs/format.md, "Log"). So the records
//             from `first` on, the first one since the last finished write-back began, suffice to
//             rebuild it, and the log is trimmed up to the lowest `first` of all blocks that are
//             not in place and flushed.
// Invariant   A block is dirty only while its lock is held exclusively by this mount.
// Threads     The executor's. Transactions do not wait, so they are atomic for everyone else.
// Ownership   Borrows the disk and the log, which outlive it.
// Errors      Errc::corrupt from get() names the block. Failed writes leave blocks dirty.
#pragma once

#include <absl/container/btree_map.h>
#include <absl/container/flat_hash_map.h>

#include <cstdint>
#include <memory>
#include <memory_resource>
#include <utility>
#include <vector>

#include "base/async.h"
#include "base/bytes.h"
#include "base/result.h"
#include "base/task.h"
#include "base/world.h"
#include "clerk/clerk.h"
#include "disk/disk.h"
#include "format/block.h"
#include "format/log_record.h"
#include "lock/name.h"
#include "wal/log.h"

namespace plumeria::cache {

using format::BlockId;
using lock::LockName;
using wal::LogPosition;

class BlockCache;

// One cached block. Only BlockCache and Transaction change it.
class Block {
 public:
  BlockId id() const { return id_; }
  LockName lock() const { return lock_; }
  explicit Block(std::pmr::memory_resource* memory) : bytes_(format::block_size, memory) {}
  ByteView bytes() const { return bytes_; }
  std::uint64_t version() const { return format::version_of(bytes_); }
  LogPosition last_record() const { return last_; }  // none: not changed since it entered
  bool never_written() const { return format::type_of(bytes_) == format::BlockType::none; }

 private:
  friend class BlockCache;
  friend class BlockRef;
  friend class Transaction;

  BlockId id_;
  LockName lock_;
  std::pmr::vector<std::byte> bytes_;
  std::uint32_t references_ = 0;
  bool loading_ = false;
  bool writing_ = false;         // a copy is on its way to the disk
  bool needs_image_ = true;      // the next record must be an image
  bool dropped_ = false;         // no longer in the cache; dies with its last reference
  LogPosition first_{};          // lowest record since the last write-back began; none: clean
  LogPosition first_writing_{};  // the same for the copy that is on its way
  LogPosition last_{};           // newest record
  std::size_t index_in_lock_ = 0;
  Block* newer_ = nullptr;  // least-recently-used list of the unreferenced
  Block* older_ = nullptr;
};

// Keeps a block in memory. Not thread-safe.
class BlockRef {
 public:
  BlockRef() = default;
  BlockRef(const BlockRef& other);
  BlockRef(BlockRef&& other) noexcept
      : cache_(other.cache_), block_(std::exchange(other.block_, nullptr)) {}
  BlockRef& operator=(BlockRef other) noexcept {
    std::swap(cache_, other.cache_);
    std::swap(block_, other.block_);
    return *this;
  }
  ~BlockRef();
  explicit operator bool() const { return block_ != nullptr; }
  const Block* operator->() const { return block_; }
  const Block& operator*() const { return *block_; }
  ByteView bytes() const { return block_->bytes(); }

 private:
  friend class BlockCache;
  friend class Transaction;
  BlockRef(BlockCache* cache, Block* block);
  BlockCache* cache_ = nullptr;
  Block* block_ = nullptr;
};

struct BlockCacheStatus {
  std::uint64_t blocks = 0, dirty = 0, reads = 0, writes = 0, evictions = 0;
};

class BlockCache {
 public:
  // `capacity` in blocks: clean ones are evicted beyond it; see pressure() for the others.
  BlockCache(World world, disk::VirtualDisk& disk, wal::Log& log, clerk::Clerk& clerk,
             std::uint64_t capacity);
  ~BlockCache();
  BlockCache(const BlockCache&) = delete;
  BlockCache& operator=(const BlockCache&) = delete;

  // The block, read and verified if it is not here. Requires: its lock is held. Errc::lost if the
  // lease ended during the read.
  Task<Result<BlockRef>> get(BlockId id, LockName lock);
  // What was read from the disk before this returns counts: the lease has lasted until then. Waits
  // while that is not sure; Errc::lost if it ended.
  Task<Status> confirm_lease();
  // If it is here, else an empty reference. Never waits.
  BlockRef find(BlockId id);
  // A block whose old content does not matter because it is free, without reading it: here as zeros
  // if it was not here. The transaction that takes it into use formats it with a version above the
  // floor of its piece.
  BlockRef create(BlockId id, LockName lock);

  // Makes durable in the log and writes to its place everything dirty under `lock`; acknowledged,
  // not flushed, when it returns.
  Task<Status> write_back(LockName lock);
  // Forgets everything under `lock`. Requires: nothing of it is dirty.
  void drop(LockName lock);

  // For blocks that a transaction is about to free: waits until no copy of any is on its way to the
  // disk, where it could arrive after the next owner's. Nothing may be waited for between this and
  // the transaction.
  Task<void> settle(std::vector<BlockRef> blocks);
  // After that transaction: the block is nobody's, and need not be written back.
  void forget(const BlockRef& block);

  // Writes everything dirty back, flushes, and trims the log as far as that allows.
  Task<Status> checkpoint();

  bool is_dirty(LockName lock) const;
  // How much of the capacity is dirty. Who is about to change blocks waits while it is 1 or more;
  // the callback is called when it rises above one half, within the change: it must only post.
  double pressure() const;
  void on_pressure(Callback callback) { pressure_callback_ = std::move(callback); }
  // The locks under which something was changed whose record is not durable.
  std::vector<LockName> locks_not_durable() const;
  BlockCacheStatus status() const;

 private:
  friend class BlockRef;
  friend class Transaction;

  Block* enter(BlockId id, LockName lock);
  void leave(Block* block);
  void unreferenced(Block* block);
  void referenced(Block* block);
  void make_newest(Block* block);
  void evict();
  void changed(Block* block, LogPosition position);
  Task<Status> write_blocks(std::vector<BlockRef> blocks);
  Task<Status> write_copies(std::vector<std::pair<BlockId, Bytes>> copies);
  LogPosition lowest_needed() const;

  World world_;
  disk::VirtualDisk& disk_;
  wal::Log& log_;
  clerk::Clerk& clerk_;
  lock::LeaseNumber lease_;
  std::uint64_t capacity_;
  // Of the blocks' bytes: blocks live long, and what is allocated between them would keep the heap
  // from ever shrinking. Before what holds blocks, because it dies after them.
  std::pmr::unsynchronized_pool_resource memory_;
  absl::flat_hash_map<BlockId, std::unique_ptr<Block>> blocks_;
  absl::flat_hash_map<LockName, std::vector<Block*>> by_lock_;
  absl::btree_map<BlockId, Block*> dirty_;  // ordered: written back in this order
  absl::btree_map<BlockId, Block*> writing_;
  std::vector<LogPosition> unflushed_;  // `first` of blocks in place but not flushed
  Block lru_{&memory_};                 // anchor: newer_ is the oldest, older_ the newest
  Event progress_;                      // a block was loaded, or its write ended
  Mutex checkpointing_;
  BlockCacheStatus counters_;
  Callback pressure_callback_;
};

// An atomic change of several blocks, in memory and in the log. Undone by the destructor unless
// committed.
//
// Requires: the locks of all edited blocks are held exclusively, and nothing waits between
// construction and commit.
class Transaction {
 public:
  explicit Transaction(BlockCache& cache) : cache_(cache) {}
  Transaction(const Transaction&) = delete;
  Transaction& operator=(const Transaction&) = delete;
  ~Transaction();

  // The block's bytes, to be changed until commit. The version grows by itself, unless the editor
  // formats the block anew.
  MutableByteView edit(const BlockRef& block);
  bool edits_anything() const { return !edits_.empty(); }

  // One record for all that differs; if nothing does, log.end() is returned and nothing logged.
  Result<LogPosition> commit(wal::Reservation& reservation);

 private:
  struct Edit {
    BlockRef block;
    std::pmr::vector<std::byte> before;
  };
  BlockCache& cache_;
  std::vector<Edit> edits_;
};

}  // namespace plumeria::cache
