// Time as the code above the seams sees it.
//
// TimePoint counts from an arbitrary start, never goes back and goes on while the machine sleeps
// (CLOCK_BOOTTIME; docs/protocol.md, "Leases": a suspended laptop must not believe in an old
// lease). It is never compared with another machine's. WallTime is what files are stamped with:
// nanoseconds since 1970-01-01 UTC.
#pragma once

#include <chrono>
#include <cstdint>

namespace plumeria {

using Duration = std::chrono::nanoseconds;
using namespace std::chrono_literals;

struct BootClock {
  using duration = Duration;
  using rep = duration::rep;
  using period = duration::period;
  using time_point = std::chrono::time_point<BootClock, duration>;
  static constexpr bool is_steady = true;
};
using TimePoint = BootClock::time_point;

enum class WallTime : std::int64_t {};

}  // namespace plumeria
