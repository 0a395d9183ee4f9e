// READs that were answered and whose pages may still be locked: the thread that asked for a page
// says that it is up to date and unlocks it, when it runs again after our reply (docs/kernel.md, "A
// WRITE's own pages"). Until then the page looks like one that is locked by an unanswered request.
//
// Threads: one. Reads /proc, briefly.
#pragma once

#include <cstdint>
#include <functional>
#include <map>

#include "fs/operations.h"
#include "fuse/page_gate.h"
#include "fuse/thread_state.h"

namespace plumeria::fuse {

class UntakenReads {
 public:
  static constexpr std::size_t limit = 1024;  // beyond it those that have been taken are looked for

  explicit UntakenReads(std::function<Taken(std::uint32_t thread)> look = has_taken_reply)
      : look_(std::move(look)) {}

  void sent(std::uint32_t thread, fs::InodeNumber inode, Range range);
  // A thread sends a request, so it has taken all replies of before.
  void heard_from(std::uint32_t thread) {
    if (!reads_.empty()) reads_.erase(thread);
  }
  // Whether there may be one whose pages overlap `range`. Ask again a little later if so.
  bool any(fs::InodeNumber inode, Range range);

 private:
  struct Read {
    fs::InodeNumber inode{};
    Range pages;
    ReplyLooks looks;
  };

  std::function<Taken(std::uint32_t)> look_;
  std::map<std::uint32_t, Read> reads_;  // by thread
};

}  // namespace plumeria::fuse
