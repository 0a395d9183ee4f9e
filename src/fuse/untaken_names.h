// Replies about names whose threads may not have taken them: the kernel puts what they say into its
// caches when the thread runs again, without asking whether it was invalidated meanwhile
// (docs/kernel.md, "Attributes" and "Names"). So an invalidation waits for them.
//
// Threads: one. Reads /proc, briefly. Ownership: borrows the executor. Calls may overlap.
#pragma once

#include <cstdint>
#include <functional>
#include <map>

#include "base/task.h"
#include "fs/operations.h"
#include "fuse/thread_state.h"
#include "os/real_world.h"

namespace plumeria::fuse {

// Attributes of new inodes that were told for ever.
class UntakenCreations {
 public:
  static constexpr std::size_t limit = 256;

  explicit UntakenCreations(os::RealExecutor& executor,
                            std::function<Taken(std::uint32_t thread)> look = has_taken_reply)
      : executor_(executor), look_(std::move(look)) {}

  // Whether the thread can be watched; else it is to be told nothing for ever.
  bool may_send(std::uint32_t thread);
  void sent(std::uint32_t thread, fs::InodeNumber inode) { creations_[thread] = inode; }
  // A thread sends a request, so it has taken all replies of before.
  void heard_from(std::uint32_t thread) {
    if (!creations_.empty()) creations_.erase(thread);
  }
  bool any(fs::InodeNumber inode) const;
  // Whether all have been taken; not, if it takes longer. Looks at the threads in this interval.
  Task<bool> wait(fs::InodeNumber inode, TimePoint longest, Duration interval = 50us);
  void stop() { creations_.clear(); }

 private:
  os::RealExecutor& executor_;
  std::function<Taken(std::uint32_t)> look_;
  std::map<std::uint32_t, fs::InodeNumber> creations_;  // by thread
};

// Listings of directories.
class UntakenListings {
 public:
  static constexpr Duration patience = 200ms;

  explicit UntakenListings(os::RealExecutor& executor,
                           std::function<bool(std::uint32_t thread)> has_left = has_left_getdents)
      : executor_(executor), has_left_(std::move(has_left)) {}

  void sent(std::uint32_t thread, fs::InodeNumber directory) {
    if (thread != 0) listings_[thread] = directory;
  }
  void heard_from(std::uint32_t thread) {
    if (!listings_.empty()) listings_.erase(thread);
  }
  // Until all of this directory have been taken, or are taken to have.
  Task<void> wait(fs::InodeNumber directory);
  void stop() { listings_.clear(); }

 private:
  os::RealExecutor& executor_;
  std::function<bool(std::uint32_t)> has_left_;
  std::map<std::uint32_t, fs::InodeNumber> listings_;  // by thread
};

}  // namespace plumeria::fuse
