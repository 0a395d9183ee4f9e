// open(2) and its like look a name up and then use the inode. If somebody replaces the file by
// rename(2) in between, the inode is gone (ESTALE), and the kernel tries once more. So that it
// cannot happen again, what the second LOOKUP found is kept from being freed until the request that
// follows it is answered, or for a while. It may lose its name meanwhile: then it is opened as if
// that had happened just before.
//
// Ownership: borrows the executor. Threads: one.
#pragma once

#include <map>

#include "clerk/pin.h"
#include "os/real_world.h"

namespace plumeria::fuse {

class SecondLookup {
 public:
  // Nobody waits for what is kept; it only takes space.
  static constexpr Duration patience = 10s, second_try_within = 10s;

  explicit SecondLookup(os::RealExecutor& executor) : executor_(executor) {}
  ~SecondLookup();
  SecondLookup(const SecondLookup&) = delete;
  SecondLookup& operator=(const SecondLookup&) = delete;

  // A request of the thread found its inode gone.
  void found_stale(std::uint32_t thread);
  // Whether a LOOKUP of the thread is to keep what it finds.
  bool wants(std::uint32_t thread) const;
  // It was answered, and found what this pin keeps. Of a path with several names the last one
  // stays.
  void looked_up(std::uint32_t thread, clerk::Pin pin);
  // Another request of the thread was answered, or any failed. LOOKUPs, GETATTRs and
  // GETXATTRs that succeed belong to the path.
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
  void drop(std::uint32_t thread);

  os::RealExecutor& executor_;
  std::map<std::uint32_t, TimePoint> failed_;  // when
  std::map<std::uint32_t, Kept> kept_;
};

}  // namespace plumeria::fuse
