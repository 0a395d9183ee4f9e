// What size the kernel believes a file to have, as far as it can be known from what it was told.
//
// The kernel takes a size from a reply only when the process that asked runs again, and ignores it
// if the inode was invalidated since that process asked, or while another one writes
// (docs/kernel.md, "Sizes"). So what is known are bounds, until it is asked. Does no I/O.
#pragma once

#include <algorithm>
#include <cstdint>

namespace plumeria::fuse {

class SizeBelief {
 public:
  // The reply by which the kernel gets to know the inode is never ignored.
  explicit SizeBelief(std::uint64_t size) : now_{size, size}, then_(now_) {}

  // Whether the kernel may believe in less, or in more, than `size`.
  bool may_be_less_than(std::uint64_t size) const { return now_.least < size; }
  bool may_be_more_than(std::uint64_t size) const { return now_.most > size; }

  // A reply names this size, and may be ignored.
  void told(std::uint64_t size) {
    now_.widen(size);
    then_.widen(size);
  }
  // The kernel sets the size when `thread` takes our reply; heard_from() it shows that it has.
  void will_be(std::uint32_t thread, std::uint64_t size) {
    now_.widen(size);
    then_ = {size, size};
    thread_ = thread;
  }
  void will_be_at_least(std::uint32_t thread, std::uint64_t end) {
    then_ = now_;
    then_.at_least(end);
    now_.most = then_.most;
    thread_ = thread;
  }
  // A thread sends a request, so it has taken all replies of before.
  void heard_from(std::uint32_t thread) {
    if (thread != thread_) return;
    now_ = then_;
    thread_ = 0;
  }
  // Who will set the size; 0: nobody.
  std::uint32_t waits_for() const { return thread_; }
  // The kernel was seen to believe in exactly this.
  void is(std::uint64_t size) {
    now_ = {size, size};
    if (thread_ == 0) {
      then_ = now_;
    } else {
      now_.widen(then_.least);
      now_.widen(then_.most);
    }
  }
  // The kernel was made to believe in at least this.
  void is_at_least(std::uint64_t size) {
    now_.at_least(size);
    then_.at_least(size);
  }

 private:
  struct Bounds {
    std::uint64_t least = 0, most = 0;

    void widen(std::uint64_t size) {
      least = std::min(least, size);
      most = std::max(most, size);
    }
    void at_least(std::uint64_t size) {
      least = std::max(least, size);
      most = std::max(most, size);
    }
  };

  Bounds now_;
  Bounds then_;  // when `thread_` has taken its reply
  std::uint32_t thread_ = 0;
};

}  // namespace plumeria::fuse
