// One mount: its clerk, log, cache and file system, built in order and stopped together; knows no
// kernel interface.
//
// Ownership   Borrows the disk, the transport and the kernel cache, which outlive it.
// Loss        When the lease is lost, what was dirty is gone: operations on those files fail with
// Errc::io until their last handle is closed,
//             handles that held file locks fail too (docs/protocol.md, "A lost lease"). The mount
//             then joins again with a new lease and a new slot by itself; clean files go on.
//             operations() stays valid throughout.
// Threads     The executor's.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "base/result.h"
#include "base/task.h"
#include "base/world.h"
#include "clerk/clerk.h"
#include "disk/disk.h"
#include "fs/operations.h"
#include "mount/kernel_cache.h"
#include "mount/snapshot.h"
#include "net/transport.h"
#include "wal/log.h"

namespace plumeria::mount {

struct MountOptions {
  std::string label;                        // host:directory, for status and messages
  std::uint64_t cache_size = 256ull << 20;  // bytes of metadata blocks and dirty data together
  Duration join_timeout = 30s;              // how long start() tries to reach the lock server
  Duration write_back_interval = 1s;        // the longest that a change stays in memory only
  double trim_log_above = wal::trim_above_default;
  clerk::GrantObserver* grant_observer = nullptr;  // outlives the mount
};

struct MountStatus {
  std::string label, store_label;
  clerk::ClerkStatus clerk;
  wal::LogStatus log;
  std::uint64_t cache_size = 0, cache_used = 0, dirty_blocks = 0, dirty_data = 0;  // bytes; blocks
  std::uint64_t open_files = 0, lost_files = 0, rejoins = 0;
  bool rejoining = false;           // a lease was lost, and what belongs to it is not all gone yet
  std::uint64_t fenced_writes = 0;  // that the disk refused because the lease was over
};

class Mount {
 public:
  // `lock_server` is a peer of `transport` that serves net::Channel::lock.
  Mount(World world, disk::VirtualDisk& disk, net::Transport& transport, net::PeerId lock_server,
        KernelCache& kernel, MountOptions options);
  ~Mount();
  Mount(const Mount&) = delete;
  Mount& operator=(const Mount&) = delete;

  // Reads the superblock, joins, starts the log. Errors name the store or the peer.
  Task<Status> start();
  // Writes everything back, marks the log empty, gives the lease up. No operation may be running.
  // What could not be written is an error.
  Task<Status> stop();

  // Of the whole store, with what every mount has written when it is made. Errc::exist, invalid:
  // the name; lost: with the lease it may have been made or not.
  Task<Result<SnapshotMade>> create_snapshot(std::string name);
  Task<Status> delete_snapshot(std::string name);  // Errc::no_entry

  fs::Operations& operations();
  MountStatus status() const;
  // For checkers: in which mode this mount may be using `name` at this moment; none if it does not
  // hold it, or if its lease may be over.
  lock::Mode may_use(lock::LockName name) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Writes a new, empty file system onto a disk that holds none: superblock, root directory. `label`
// is for people.
struct FormatOptions {
  std::string label;
  std::uint64_t log_size = wal::log_size_default;
  Duration lease_duration = 10s;
  lock::LeaseNumber lease{};  // admitted, for the writes
  WallTime now{};
  std::uint64_t hash_seed = 0;  // random
};
Task<Status> format_store(disk::VirtualDisk& disk, FormatOptions options);

}  // namespace plumeria::mount
