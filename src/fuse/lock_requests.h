// Requests of the kernel for file locks: flock(2), and fcntl(2) locks of whole processes.
//
// Threads     The executor's. Ownership: borrows operations and replies.
#pragma once

#include <absl/container/flat_hash_map.h>
#include <absl/container/flat_hash_set.h>

#include <set>

#include "base/task.h"
#include "fuse/encode.h"
#include "fuse/replies.h"

namespace plumeria::fuse {

class LockRequests {
 public:
  LockRequests(fs::Operations& operations, Replies& replies)
      : operations_(operations), replies_(replies) {}

  Task<void> test(Request request, fuse_lk_in in);
  Task<void> set(Request request, fuse_lk_in in, bool wait);
  // Only a wait for a lock ends early; everything else ends by itself.
  void interrupt(std::uint64_t unique);

  // A descriptor is closed: its process loses its fcntl locks, if it ever had any.
  bool had_any(fs::InodeNumber inode, std::uint64_t owner);
  Task<void> flush(Request request, fuse_flush_in in);
  // The last handle of the file is. Locks of open file descriptions (F_OFD_SETLK) end without a
  // message; at the latest they end here.
  Task<void> closed(fs::InodeNumber inode);

 private:
  fs::Operations& operations_;
  Replies& replies_;
  // Who had fcntl locks of a file since it was opened here; never iterated.
  absl::flat_hash_map<fs::InodeNumber, std::set<std::uint64_t>> owners_;
  absl::flat_hash_set<std::uint64_t> waiting_;  // requests that INTERRUPT can end
};

}  // namespace plumeria::fuse
