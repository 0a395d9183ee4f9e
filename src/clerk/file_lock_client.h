// The clerk's side of file locks (docs/protocol.md, "File locks"): numbers calls, repeats them
// until answered, and remembers what was granted, for the report of a rebuild. A pure state
// machine.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "base/time.h"
#include "lock/file_locks.h"
#include "lock/messages.h"

namespace plumeria::clerk {

using lock::CallNumber;
using lock::FileLock;

class FileLockClient {
 public:
  using Messages = std::vector<lock::FileLockCall>;

  // Begins a call; its answer comes through answered(). `request` names it for cancel(); 0 if it
  // cannot be cancelled.
  CallNumber begin(TimePoint now, lock::FileLockKind kind, const FileLock& lock, bool wait,
                   std::uint64_t request, Messages& out);
  void cancel(TimePoint now, std::uint64_t request, Messages& out);
  // True if this is the first answer of a call that is under way.
  bool answered(const lock::FileLockAnswer& answer);
  // Whether this owner holds nothing here and asks for nothing: then there is nothing to drop.
  bool nothing_to_drop(const FileLock& lock) const;

  // All calls without an answer, again.
  void ask_again(TimePoint now, Messages& out);
  void tick(TimePoint now, Messages& out);
  TimePoint next_tick() const;

  // What was granted.
  std::vector<FileLock> held() const;
  // The calls under way; none of them is answered any more.
  std::vector<CallNumber> lose();

 private:
  struct Call {
    lock::FileLockCall message;
    std::uint64_t request = 0;
    bool cancelled = false;
  };
  struct Key {
    std::uint64_t inode = 0;
    bool is_flock = false;
    std::uint64_t owner = 0;
    friend auto operator<=>(const Key&, const Key&) = default;
  };
  static Key key_of(const FileLock& lock) { return {lock.inode, lock.is_flock, lock.owner}; }
  void send(const Call& call, Messages& out) const;
  CallNumber done_below() const;

  std::map<CallNumber, Call> calls_;
  std::map<Key, std::vector<FileLock>> held_;  // disjoint ranges, by start
  std::uint64_t last_call_ = 0;
  TimePoint again_at_ = TimePoint::max();
};

}  // namespace plumeria::clerk
