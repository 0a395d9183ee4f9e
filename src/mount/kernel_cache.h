// What a mount asks of the kernel above it (or of the simulator's model of one) when a lock goes
// (docs/kernel.md).
//
// For the lock of one inode, in this order:
//   hold(i)            READ, WRITE and size-changing SETATTR requests of i that arrive from now on
//   are kept back. co_await drop(i,…) the kernel has forgotten what `what` says when this returns.
//   Kept requests that the kernel needs answered in order to let
//                      go are answered under the lock still held (fs::Access::under_revoke), and
//                      the ranges they touched are dropped again.
//   release(i)         the lock is gone or downgraded; kept requests start over and take the lock
//   again.
// Several inodes may be in this at once. Threads: the executor's.
#pragma once

#include "base/task.h"
#include "base/time.h"
#include "fs/operations.h"

namespace plumeria::mount {

struct What {
  bool attributes = false;
  bool pages = false;
  // If it is a directory: its entries, present and absent, and its listing.
  bool names = false;
  // The lock that goes is held exclusively: WRITEs and truncates, too, may be answered under it.
  bool is_exclusive = false;
};

class KernelCache {
 public:
  virtual ~KernelCache() = default;
  virtual void hold(fs::InodeNumber inode) = 0;
  virtual Task<void> drop(fs::InodeNumber inode, What what) = 0;
  virtual void release(fs::InodeNumber inode) = 0;
  // Names, attributes and pages of everything that is not being dropped, as far as it can be done
  // before `deadline` (docs/protocol.md, "Leases"); what is left goes on by itself. True: all done.
  virtual Task<bool> drop_everything(TimePoint deadline) = 0;
  // Of the inode that the kernel knows by this number; 0: it knows none, or there is no saying.
  virtual std::uint64_t generation_told(fs::InodeNumber) const { return 0; }
};

}  // namespace plumeria::mount
