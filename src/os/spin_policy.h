// Whether to look for work a little longer before going to sleep. To be woken on a sleeping
// processor costs 20 to 50 us, several times as much as most requests of the kernel; who makes one
// call after the other, on another processor, comes back sooner. Where nobody does (the caller
// shares our processor and waits for it, or thinks for longer), looking is given up, and tried
// again from time to time.
#pragma once

#include <algorithm>
#include <cstdint>

namespace plumeria::os {

class SpinPolicy {
 public:
  // There is nothing to do: whether to go on looking for a while.
  bool wants() {
    if (rest_ == 0) return true;
    --rest_;
    return false;
  }
  // That was done; `found`: with success.
  void spun(bool found) {
    hits_ += found ? 1 : 0;
    if (++tries_ < window) return;
    if (2 * hits_ >= tries_) {
      next_rest_ = rest_least;
    } else {
      rest_ = next_rest_;
      next_rest_ = std::min(2 * next_rest_, rest_most);
    }
    tries_ = hits_ = 0;
  }

 private:
  static constexpr std::uint32_t window = 8, rest_least = 256, rest_most = 8192;

  std::uint32_t tries_ = 0, hits_ = 0;
  std::uint32_t rest_ = 0;  // so many times it is not wanted
  std::uint32_t next_rest_ = rest_least;
};

}  // namespace plumeria::os
