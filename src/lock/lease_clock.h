// Lease arithmetic (docs/protocol.md, "Leases"): pure functions of times of one clock each.
//
// A clerk counts from before it sent a renewal, a server from when it received it; the ratio covers
// clocks of different speed, the margin the time to stop.
#pragma once

#include <cstdint>

#include "base/time.h"

namespace plumeria::lock {

struct LeaseTerms {
  Duration duration = 10s;
  std::uint32_t clock_ratio_milli = 1010;  // greatest ratio of the speeds of two clocks, in 1/1000
  friend bool operator==(const LeaseTerms&, const LeaseTerms&) = default;
};

constexpr Duration lease_duration_min = 100ms;
constexpr Duration lease_duration_max = 24h;

// From here on the server may give this clerk's locks to others. `sent`: the clerk's clock before
// it sent the renewal that was answered.
constexpr TimePoint lease_deadline(TimePoint sent, LeaseTerms terms) {
  return sent + terms.duration * 1000 / terms.clock_ratio_milli;
}
// The time that a suspended clerk has to make its kernel forget.
constexpr Duration lease_margin(LeaseTerms terms) { return terms.duration / 5; }
// From here on the clerk gives no more pins.
constexpr TimePoint lease_usable_until(TimePoint sent, LeaseTerms terms) {
  return lease_deadline(sent, terms) - lease_margin(terms);
}
// When the next renewal is due, and how long to wait before an unanswered one is repeated.
constexpr Duration renew_after(LeaseTerms terms) { return terms.duration / 4; }
constexpr Duration renew_again_after(LeaseTerms terms) { return terms.duration / 20; }
// How long renewals go unanswered before the clerk gives the connection up for a new one: the
// server's machine may have restarted, and the network's own means may take longer than a lease.
constexpr Duration reconnect_after(LeaseTerms terms) { return terms.duration / 5; }

// The server's side. `received`: the server's clock when the renewal came.
constexpr TimePoint lease_expires_at(TimePoint received, Duration duration) {
  return received + duration;
}

// A clerk whose first renewal is lost has several more before it is suspended.
static_assert(renew_after({10s, 1010}) < 10s / 3);
static_assert(TimePoint{} + renew_after({10s, 1010}) + 5 * renew_again_after({10s, 1010}) <
              lease_usable_until(TimePoint{}, {10s, 1010}));

}  // namespace plumeria::lock
