// What the parts of the file system share: the layers below, the store's parameters, and the state
// of files that are in use on this mount.
//
// Threads: the executor's. Ownership: borrows the layers; owned by FileSystem.
#pragma once

#include <absl/container/btree_map.h>
#include <absl/container/flat_hash_map.h>
#include <absl/container/flat_hash_set.h>

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>

#include "base/async.h"
#include "base/number.h"
#include "cache/block_cache.h"
#include "cache/dirty_data.h"
#include "clerk/clerk.h"
#include "disk/disk.h"
#include "format/inode.h"
#include "format/superblock.h"
#include "fs/operations.h"
#include "lock/name.h"
#include "wal/log.h"

namespace plumeria::fs {

using cache::BlockRef;
using cache::LogPosition;
using cache::Transaction;
using clerk::Pin;
using lock::LockClass;
using lock::LockName;
using lock::Mode;

inline LockName inode_lock(InodeNumber n) { return {LockClass::inode, raw(n)}; }
inline LockName open_lock(InodeNumber n) { return {LockClass::open, raw(n)}; }
inline LockName piece_lock(std::uint64_t n) { return {LockClass::piece, n}; }
inline LockName slot_lock(std::uint32_t n) { return {LockClass::slot, n}; }
constexpr LockName rename_lock{LockClass::rename, 0};
// Held shared by every operation that changes what others may see, exclusively for the moment in
// which a snapshot is made (docs/protocol.md, "Snapshots").
constexpr LockName barrier_lock{LockClass::snapshot, 0};
// Held shared by every mount. Who is about to take the barrier takes it first: whoever gives it up
// writes everything back while work goes on.
constexpr LockName preparation_lock{LockClass::snapshot, 1};

// What one operation may need in the log: the blocks of a directory's path, split, and a few more.
constexpr std::uint64_t operation_log_bytes = 64u << 10;

// A regular file (or another inode) that is open here, or has data that the disk does not have yet.
struct FileState {
  InodeNumber inode{};
  cache::DirtyData dirty;
  std::uint64_t accounted = 0;  // bytes of `dirty` that Core::dirty_bytes counts

  // What the inode block does not say yet; the next commit logs it.
  std::optional<std::uint64_t> size;
  std::optional<std::int64_t> mtime, ctime;
  std::uint64_t segment = 0;  // given to the file, not in its inode yet
  bool left_inline = false;   // the inline data are in `dirty` or in the segment now
  bool cut_tail = false;  // it became shorter: the next commit gives back what is behind the end
  bool space_changed = false;     // holes were made, or room
  bool data_written = false;      // data went to the segment ahead of the record
  std::uint64_t early_bytes = 0;  // how many
  TimePoint dirty_since{};

  std::uint64_t generation =
      0;  // of the inode that was opened; another one means that it was reclaimed
  std::uint32_t handles = 0, writers = 0;
  Pin open_pin;  // the open lock, from when the inode's lock was given up with handles open
  bool reclaim_on_close = false;
  bool lost = false;   // dirty data were lost: Errc::io until the last handle is closed
  LogPosition last{};  // newest record of this inode

  bool is_dirty() const { return !dirty.empty() || size || mtime || ctime || data_written; }
  bool is_idle() const { return !is_dirty() && handles == 0 && !reclaim_on_close && !lost; }
};

class Allocator;
class Orphans;

struct Core {
  World world;
  disk::VirtualDisk& disk;
  wal::Log& log;
  cache::BlockCache& cache;
  clerk::Clerk& clerk;
  format::Superblock superblock;
  lock::LeaseNumber lease{};
  std::uint32_t slot = 0;

  Allocator* allocator = nullptr;
  Orphans* orphans = nullptr;

  std::map<InodeNumber, std::unique_ptr<FileState>> files;
  // Inodes made here whose lock was never given up since: nobody else can have them open.
  absl::flat_hash_set<InodeNumber> sole;
  // Removed here, but the kernel may still be in them.
  absl::flat_hash_set<InodeNumber> removed_directories;
  // Files of which this mount knows, since it has their lock, that the disk holds zeros where they
  // will grow (docs/format.md, "The tail").
  absl::flat_hash_set<InodeNumber> clean_tails;
  std::uint64_t dirty_bytes = 0;
  // Files in the order in which they became dirty, for the background writer. An entry counts only
  // while the file's dirty_since is still the entry's.
  struct DirtySince {
    TimePoint since;
    InodeNumber inode;
  };
  std::deque<DirtySince> dirty_order;

  std::int64_t now() const { return raw(world.clock.wall()) + clerk.membership().wall_offset; }
  FileState* find_file(InodeNumber inode) {
    const auto entry = files.find(inode);
    return entry == files.end() ? nullptr : entry->second.get();
  }
  FileState& file(InodeNumber inode) {
    auto& state = files[inode];
    if (!state) {
      state = std::make_unique<FileState>();
      state->inode = inode;
    }
    return *state;
  }
  void forget_if_idle(InodeNumber inode) {
    const auto entry = files.find(inode);
    if (entry != files.end() && entry->second->is_idle()) files.erase(entry);
  }
  // Before the change that makes a clean file dirty.
  void becomes_dirty(FileState& file) {
    file.dirty_since = world.clock.now();
    dirty_order.push_back({file.dirty_since, file.inode});
  }
  // After each change of file.dirty.
  void account(FileState& file) {
    dirty_bytes += file.dirty.bytes() - file.accounted;
    file.accounted = file.dirty.bytes();
  }

  // The inode's block; Errc::stale if it is free. Requires: its lock is held.
  Task<Result<BlockRef>> load_inode(InodeNumber inode) {
    auto block = co_await cache.get(format::inode_block(raw(inode)), inode_lock(inode));
    if (!block) co_return fail(std::move(block).error());
    const FileState* file = find_file(inode);
    const format::InodeView view(block->bytes());
    if ((*block)->never_written() || view.is_free() ||
        (file != nullptr && file->generation != 0 && file->generation != view.generation())) {
      co_return fail(Errc::stale, absl::StrCat("inode ", raw(inode)));
    }
    co_return std::move(*block);
  }
};

// Attributes as the block and, for a file that is dirty here, its state say.
Attributes attributes_of(ByteView inode_block, const FileState* file);

}  // namespace plumeria::fs
