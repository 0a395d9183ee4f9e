// open(2) and its like look a name up and then use the inode. If another mount replaces the file by
// rename(2) in between, the inode is gone (ESTALE), and the kernel tries once more. So that it
// cannot happen again, the second LOOKUP's directory stays locked until the request that follows it
// is answered, or for a short while.
//
// Ownership: borrows the executor. Threads: one.
#pragma once

#include <map>
#include <vector>

#include "clerk/pin.h"
#include "os/real_world.h"

namespace plumeria::fuse {

class SecondLookup {
 public:
  // What who wants the directory waits for at most: until a request follows; while that is worked
  // on (it may wait for somebody who waits for the directory); and after a GETATTR was answered,
  // which may have been what the path was for.
  static constexpr Duration patience = 200ms, working_patience = 800ms, asked_patience = 20ms;

  explicit SecondLookup(os::RealExecutor& executor) : executor_(executor) {}
  ~SecondLookup();
  SecondLookup(const SecondLookup&) = delete;
  SecondLookup& operator=(const SecondLookup&) = delete;

  // A request of the thread found its inode gone.
  void found_stale(std::uint32_t thread);
  // A request of the thread for names arrives: what was kept must not be in its way.
  void make_way(std::uint32_t thread) {
    if (!kept_.empty()) drop(thread);
  }
  // Any other request of the thread arrives.
  void arrived(std::uint32_t thread) {
    if (!kept_.empty()) wait_for(thread, working_patience);
  }
  // Its GETATTR was answered, and no error.
  void asked(std::uint32_t thread) {
    if (!kept_.empty()) wait_for(thread, asked_patience);
  }
  // A LOOKUP of the thread was answered, under this pin of the directory.
  void looked_up(std::uint32_t thread, clerk::Pin directory);
  bool wants(std::uint32_t thread) const;
  // Another request of the thread was answered, or any failed. LOOKUPs and GETATTRs that succeed
  // belong to the path.
  void answered(std::uint32_t thread) {
    if (!kept_.empty()) drop(thread);
    if (!failed_.empty()) failed_.erase(thread);
  }
  // The locks go; nothing more is kept for those who failed before.
  void let_go_of_all();

 private:
  struct Kept {
    clerk::Pin pin;
    TimerId timer{};
  };
  void wait_for(std::uint32_t thread, Duration longest);
  void drop(std::uint32_t thread);

  os::RealExecutor& executor_;
  std::map<std::uint32_t, TimePoint> failed_;  // when
  std::map<std::uint32_t, Kept> kept_;
};

}  // namespace plumeria::fuse
