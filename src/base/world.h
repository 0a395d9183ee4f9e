// The seams through which code above `os` reaches the world: time, chance and waiting. (Disk and
// network have interfaces of their own: disk/disk.h, net/transport.h.)
//
// Production implements them in `os`, simulation in `sim`; nothing above may call a clock, a random
// device, a thread or a socket. Threads: every call comes from the executor's own thread, except
// where said otherwise.
#pragma once

#include <absl/functional/any_invocable.h>

#include <coroutine>
#include <cstdint>

#include "base/time.h"

namespace plumeria {

class Clock {
 public:
  virtual ~Clock() = default;
  virtual TimePoint now() const = 0;
  virtual WallTime wall() const = 0;
};

class Random {
 public:
  virtual ~Random() = default;
  virtual std::uint64_t next() = 0;  // 64 uniformly distributed bits.
  // Uniform in [0, bound). Requires: bound > 0. (The bias of the modulus is below 2^-32 for the
  // bounds used here.)
  std::uint64_t below(std::uint64_t bound) { return next() % bound; }
};

enum class TimerId : std::uint64_t { none = 0 };
using Callback = absl::AnyInvocable<void()>;

// Runs callbacks and resumes coroutines, one at a time, in the order they were posted. One executor
// a mount.
class Executor {
 public:
  virtual ~Executor() = default;
  virtual void post(Callback callback) = 0;
  virtual void resume(
      std::coroutine_handle<> coroutine) = 0;  // The same for a suspended coroutine, cheaper.
  virtual TimerId at(TimePoint when, Callback callback) = 0;
  virtual void cancel(TimerId timer) = 0;  // No effect on one that has run.
};

struct World {
  Clock& clock;
  Random& random;
  Executor& executor;
};

}  // namespace plumeria
