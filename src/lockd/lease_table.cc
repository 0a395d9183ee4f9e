#include "lockd/lease_table.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace plumeria::lockd {

void LeaseTable::joined(TimePoint now, LeaseNumber lease) {
  State state;
  state.reported = true;
  state.expires_at = lock::lease_expires_at(now, duration_);
  CHECK(leases_.emplace(lease, state).second);
}

void LeaseTable::inherited(TimePoint now, LeaseNumber lease, Duration wait) {
  State state;
  state.expires_at = lock::lease_expires_at(now, std::max(wait, duration_));
  state.report_due = std::max(state.expires_at, now + report_patience_);
  CHECK(leases_.emplace(lease, state).second);
  ++unknown_;
}

void LeaseTable::inherited_dying(LeaseNumber lease) {
  State state;
  state.live = false;
  CHECK(leases_.emplace(lease, state).second);
  ++unknown_;
}

bool LeaseTable::live(LeaseNumber lease) const {
  auto at = leases_.find(lease);
  return at != leases_.end() && at->second.live;
}

bool LeaseTable::has_reported(LeaseNumber lease) const {
  auto at = leases_.find(lease);
  return at != leases_.end() && at->second.reported;
}

Duration LeaseTable::left(TimePoint now, LeaseNumber lease) const {
  auto at = leases_.find(lease);
  if (at == leases_.end() || !at->second.live) return Duration::zero();
  return std::max(Duration::zero(), at->second.expires_at - now);
}

bool LeaseTable::renew(TimePoint now, LeaseNumber lease) {
  auto at = leases_.find(lease);
  if (at == leases_.end() || !at->second.live || at->second.condemned) return false;
  State& state = at->second;
  state.expires_at = std::max(state.expires_at, lock::lease_expires_at(now, duration_));
  return true;
}

bool LeaseTable::condemn(LeaseNumber lease, std::string why) {
  auto at = leases_.find(lease);
  if (at == leases_.end() || !at->second.live || at->second.condemned) return false;
  at->second.condemned = true;
  at->second.why = std::move(why);
  return true;
}

std::vector<LeaseTable::Due> LeaseTable::due(TimePoint now) {
  std::vector<Due> due;
  for (const auto& [lease, state] : leases_) {
    if (!state.live) continue;
    if (!state.reported && now >= state.report_due) {
      condemn(lease, "it has not reported its locks in time");
    }
    if (now < state.expires_at) continue;
    due.push_back({lease, state.condemned ? state.why : "it has not renewed its lease in time"});
  }
  return due;
}

TimePoint LeaseTable::next_due() const {
  TimePoint next = TimePoint::max();
  for (const auto& [lease, state] : leases_) {
    if (!state.live) continue;
    next = std::min(next, state.expires_at);
    if (!state.reported && !state.condemned) next = std::min(next, state.report_due);
  }
  return next;
}

void LeaseTable::extend_all(TimePoint now) {
  for (auto& [lease, state] : leases_) {
    if (!state.live) continue;
    state.expires_at = std::max(state.expires_at, lock::lease_expires_at(now, duration_));
    state.report_due = std::max(state.report_due, now + report_patience_);
  }
}

void LeaseTable::dying(LeaseNumber lease) {
  auto at = leases_.find(lease);
  CHECK(at != leases_.end());
  at->second.live = false;
}

void LeaseTable::gone(LeaseNumber lease) {
  auto at = leases_.find(lease);
  if (at == leases_.end()) return;
  if (!at->second.reported) --unknown_;
  leases_.erase(at);
}

LeaseTable::Page LeaseTable::report(TimePoint now, LeaseNumber lease, std::uint32_t page,
                                    bool last) {
  auto at = leases_.find(lease);
  if (at == leases_.end() || !at->second.live) return {};
  State& state = at->second;
  if (state.reported || page < state.next_page) return {.acknowledge = true};
  if (page > state.next_page) return {};
  ++state.next_page;
  state.report_due = now + report_patience_;
  if (last) {
    state.reported = true;
    --unknown_;
  }
  return {.accept = true, .acknowledge = true};
}

}  // namespace plumeria::lockd
