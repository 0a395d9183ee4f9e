#include "clerk/clerk_core.h"

#include <algorithm>

#include "base/check.h"
#include "base/number.h"
#include "base/rare.h"

namespace plumeria::clerk {

using Kind = Effect::Kind;
namespace {

// How many entries an eviction looks at before it gives up for this time.
constexpr int evict_looks = 16;
constexpr int linger_per_give_up = 8;

Effect release_of(LockName name, Sequence sequence, Mode keep) {
  Effect effect;
  effect.kind = Kind::send_release;
  effect.name = name;
  effect.sequence = sequence;
  effect.mode = keep;
  return effect;
}

Effect keep_of(LockName name, Sequence sequence, std::uint64_t round) {
  Effect effect;
  effect.kind = Kind::send_keep;
  effect.name = name;
  effect.sequence = sequence;
  effect.round = round;
  return effect;
}

}  // namespace

Effect ClerkCore::about(Kind kind, const Entry& entry, Mode mode) {
  Effect effect;
  effect.kind = kind;
  effect.name = entry.name;
  effect.mode = mode;
  effect.sequence = entry.sequence;
  return effect;
}

Effect ClerkCore::to_waiter(Kind kind, const Entry& entry, const Entry::Waiter& waiter) {
  Effect effect = about(kind, entry, waiter.mode);
  effect.waiter = waiter.id;
  return effect;
}

ClerkCore::ClerkCore(ClerkCoreOptions options) : options_(options) {}
ClerkCore::~ClerkCore() = default;

ClerkCore::Entry* ClerkCore::find(LockName name) const {
  auto at = entries_.find(name);
  return at == entries_.end() ? nullptr : at->second.get();
}

ClerkCore::Entry& ClerkCore::find_or_make(LockName name) {
  auto [at, made] = entries_.try_emplace(name);
  if (made) {
    at->second = std::make_unique<Entry>();
    at->second->name = name;
    at->second->usual_gap = habits_.of(name).usual_gap;
    append(*at->second);
  }
  return *at->second;
}

void ClerkCore::append(Entry& entry) {
  entry.older = newest_;
  entry.newer = nullptr;
  (newest_ != nullptr ? newest_->newer : oldest_) = &entry;
  newest_ = &entry;
}

void ClerkCore::unlink(Entry& entry) {
  (entry.older != nullptr ? entry.older->newer : oldest_) = entry.newer;
  (entry.newer != nullptr ? entry.newer->older : newest_) = entry.older;
}

void ClerkCore::erase(Entry& entry) {
  CHECK(entry.idle() && entry.held == Mode::none && entry.asked == Mode::none);
  CHECK(entry.stage == Entry::Stage::none && entry.linger_due == TimePoint::max());
  unlink(entry);
  entries_.erase(entry.name);
}

void ClerkCore::set_held(Entry& entry, Mode mode) {
  if (entry.held == Mode::shared) --held_shared_;
  if (entry.held == Mode::exclusive) --held_exclusive_;
  entry.held = mode;
  if (mode == Mode::shared) ++held_shared_;
  if (mode == Mode::exclusive) ++held_exclusive_;
}

bool ClerkCore::can_pin(const Entry& entry, Mode mode) const {
  if (!lock::covers(entry.held, mode)) return false;
  const bool side_by_side =
      mode == Mode::exclusive && lock::shared_within_client(entry.name.lock_class);
  if (entry.exclusive_pins > 0 && !side_by_side) return false;
  if (mode == Mode::exclusive && entry.shared_pins > 0) return false;
  const bool going =
      entry.stage == Entry::Stage::draining || entry.stage == Entry::Stage::giving_up;
  return !going || lock::covers(entry.keep, mode);
}

void ClerkCore::pin(TimePoint now, Entry& entry, Mode mode) {
  if (mode == Mode::exclusive) {
    ++entry.exclusive_pins;
    entry.written_since_grant = true;
  } else {
    ++entry.shared_pins;
  }
  entry.touched = true;
  if (entry.used_since_grant) {
    const Duration gap = std::min(now - entry.last_used, options_.linger_max);
    entry.usual_gap = (3 * entry.usual_gap + gap) / 4;
  }
  entry.used_since_grant = true;
  entry.last_used = now;
}

bool ClerkCore::try_pin(TimePoint now, LockName name, Mode mode) {
  const Entry* entry = find(name);
  return usable_ && entry != nullptr && entry->waiters.empty() && try_pin_first(now, name, mode);
}

bool ClerkCore::try_pin_first(TimePoint now, LockName name, Mode mode) {
  Entry* entry = find(name);
  if (lost_ || entry == nullptr || !can_pin(*entry, mode)) return false;
  pin(now, *entry, mode);
  return true;
}

WaiterId ClerkCore::acquire(TimePoint now, LockName name, Mode mode, Effects& out) {
  CHECK(!lost_ && mode != Mode::none);
  const WaiterId id{++last_waiter_};
  Entry& entry = find_or_make(name);
  entry.waiters.push_back({id, mode, false});
  advance(now, entry, out);
  return id;
}

WaiterId ClerkCore::acquire_unless_revoked(TimePoint now, LockName name, Mode mode, Effects& out) {
  CHECK(!lost_ && mode != Mode::none);
  const WaiterId id{++last_waiter_};
  Entry& entry = find_or_make(name);
  entry.waiters.push_back({id, mode, false, true});
  const bool going =
      entry.stage == Entry::Stage::draining || entry.stage == Entry::Stage::giving_up;
  if (going) refuse_those_who_leave(entry, out);
  advance(now, entry, out);
  return id;
}

// Of those who wait for more than what is kept, or behind one who does: they are not served before
// the lock has gone, which may wait for them.
void ClerkCore::refuse_those_who_leave(Entry& entry, Effects& out) {
  std::vector<Entry::Waiter> stay;
  bool is_blocked = false;
  for (const Entry::Waiter& waiter : entry.waiters) {
    const bool is_covered = lock::covers(entry.keep, waiter.mode);
    if (waiter.leaves_at_revoke && (is_blocked || !is_covered)) {
      if (is_covered) rarely<"clerk: a request behind another is sent back at a revoke">();
      out.push_back(to_waiter(Kind::refused, entry, waiter));
    } else {
      is_blocked = is_blocked || !is_covered;
      stay.push_back(waiter);
    }
  }
  entry.waiters = std::move(stay);
}

WaiterId ClerkCore::try_acquire(TimePoint now, LockName name, Mode mode, Effects& out) {
  CHECK(!lost_ && mode != Mode::none);
  const WaiterId id{++last_waiter_};
  Entry& entry = find_or_make(name);
  const Entry::Waiter waiter{id, mode, true};
  const bool answer_comes = entry.asked != Mode::none && lock::covers(entry.asked, mode);
  const bool may_ask = entry.held == Mode::none && entry.asked == Mode::none;
  const bool may_upgrade =
      entry.held == Mode::shared && entry.idle() && entry.stage == Entry::Stage::none;
  const bool at_once = can_pin(entry, mode);
  if (!entry.waiters.empty() || !(answer_comes || may_ask || may_upgrade || at_once)) {
    out.push_back(to_waiter(Kind::refused, entry, waiter));
    return id;
  }
  entry.waiters.push_back(waiter);
  advance(now, entry, out);
  return id;
}

PrefetchId ClerkCore::prefetch(TimePoint now, const std::vector<LockName>& names, Mode mode,
                               Effects& out) {
  CHECK(!lost_ && mode != Mode::none);
  const PrefetchId id{++last_prefetch_};
  prefetches_[id].left = names.size() + 1;  // one for this call itself
  for (LockName name : names) {
    Entry& entry = find_or_make(name);
    if (entry.held == Mode::none && entry.asked == Mode::none &&
        entry.stage == Entry::Stage::none) {
      request(now, entry, mode, true, out);
      entry.prefetch = id;
    } else {
      count_prefetched(id, lock::covers(entry.held, mode), out);
    }
  }
  count_prefetched(id, false, out);
  return id;
}

void ClerkCore::count_prefetched(PrefetchId id, bool granted, Effects& out) {
  Prefetch& prefetch = prefetches_.at(id);
  if (granted) ++prefetch.granted;
  if (--prefetch.left > 0) return;
  Effect effect;
  effect.kind = Kind::prefetched;
  effect.prefetch = id;
  effect.round = prefetch.granted;
  out.push_back(effect);
  prefetches_.erase(id);
}

void ClerkCore::request(TimePoint now, Entry& entry, Mode mode, bool is_try, Effects& out) {
  CHECK(entry.held == Mode::none && entry.asked == Mode::none && entry.stage == Entry::Stage::none);
  entry.sequence = Sequence{++last_sequence_};
  entry.asked = mode;
  entry.asked_try = is_try;
  entry.remembered_keep = Mode::exclusive;
  entry.ask_again_after = options_.request_again;
  entry.ask_again_at = now + entry.ask_again_after;
  request_timers_.insert({entry.ask_again_at, entry.name});
  outstanding_.insert(entry.name);
  Effect effect = about(Kind::send_request, entry, mode);
  effect.is_try = is_try;
  out.push_back(effect);
}

// The outstanding request is over.
void ClerkCore::answered(Entry& entry, bool granted, Effects& out) {
  entry.asked = Mode::none;
  request_timers_.erase({entry.ask_again_at, entry.name});
  entry.ask_again_at = TimePoint::max();
  outstanding_.erase(entry.name);
  const PrefetchId prefetch = std::exchange(entry.prefetch, PrefetchId::none);
  if (prefetch != PrefetchId::none) count_prefetched(prefetch, granted, out);
}

void ClerkCore::serve_waiters(TimePoint now, Entry& entry, Effects& out) {
  std::size_t served = 0;
  while (usable_ && served < entry.waiters.size() && can_pin(entry, entry.waiters[served].mode)) {
    const Entry::Waiter& waiter = entry.waiters[served++];
    pin(now, entry, waiter.mode);
    out.push_back(to_waiter(Kind::granted, entry, waiter));
  }
  entry.waiters.erase(entry.waiters.begin(),
                      entry.waiters.begin() + static_cast<std::ptrdiff_t>(served));
}

// Does what has become possible; the entry may be gone afterwards.
void ClerkCore::advance(TimePoint now, Entry& entry, Effects& out) {
  serve_waiters(now, entry, out);
  give_up_if_drained(now, entry, out);
  if (entry.stage != Entry::Stage::none || entry.asked != Mode::none) return;
  if (!entry.waiters.empty()) {
    const Entry::Waiter head = entry.waiters.front();
    if (entry.held == Mode::none) {
      const bool will_write = !head.is_try && entry.name.lock_class == lock::LockClass::inode &&
                              habits_.of(entry.name).migrates;
      if (will_write && head.mode == Mode::shared) rarely<"clerk: a reader asks for exclusive">();
      request(now, entry, will_write ? Mode::exclusive : head.mode, head.is_try, out);
    } else if (!lock::covers(entry.held, head.mode)) {
      rarely<"clerk: shared is given up to ask for exclusive">();
      begin_give_up(now, entry, Mode::none, out);  // Upgrade: give up, then queue.
    }
  } else if (entry.held == Mode::none && !lost_) {
    erase(entry);
  }
}

bool ClerkCore::needs_advance(const Entry& entry) {
  return entry.stage != Entry::Stage::none || !entry.waiters.empty();
}

bool ClerkCore::unpin_matters(LockName name) const {
  const Entry* entry = find(name);
  return entry != nullptr && needs_advance(*entry) && !lost_;
}

void ClerkCore::unpin(TimePoint now, LockName name, Mode mode, Effects& out) {
  Entry* entry = find(name);
  CHECK(entry != nullptr);
  if (mode == Mode::exclusive) {
    CHECK(entry->exclusive_pins > 0);
    --entry->exclusive_pins;
  } else {
    CHECK(entry->shared_pins > 0);
    --entry->shared_pins;
  }
  if (!needs_advance(*entry) || lost_) return;
  entry->last_used = now;
  advance(now, *entry, out);
}

void ClerkCore::give_back(TimePoint now, LockName name, Effects& out) {
  Entry* entry = find(name);
  if (entry == nullptr || lost_ || !entry->idle() || entry->held == Mode::none) return;
  if (entry->stage != Entry::Stage::none) return;
  begin_give_up(now, *entry, Mode::none, out);
  advance(now, *entry, out);
}

void ClerkCore::grant(TimePoint now, const lock::Grant& grant, Effects& out) {
  if (lost_) return;
  Entry* entry = find(grant.name);
  const bool ours = entry != nullptr && entry->sequence == grant.sequence;
  if (ours && entry->held != Mode::none) return;  // a duplicate
  if (!ours || entry->asked == Mode::none) {
    rarely<"clerk: a grant of a request that is over">();
    out.push_back(release_of(grant.name, grant.sequence, Mode::none));
    return;
  }
  set_held(*entry, grant.mode);
  entry->fence = grant.fence;
  entry->used_since_grant = entry->written_since_grant = entry->taken = false;
  answered(*entry, true, out);
  unlink(*entry);
  append(*entry);
  entry->last_used = now;
  serve_waiters(now, *entry, out);
  const Mode remembered = std::exchange(entry->remembered_keep, Mode::exclusive);
  if (remembered < entry->held) start_revoke(now, *entry, remembered, out);
  advance(now, *entry, out);
  evict(now, out);
}

void ClerkCore::refused(TimePoint now, const lock::Refused& refused, Effects& out) {
  if (lost_) return;
  Entry* entry = find(refused.name);
  if (entry == nullptr || entry->asked == Mode::none || !entry->asked_try ||
      entry->sequence != refused.sequence) {
    return;
  }
  answered(*entry, false, out);
  std::vector<Entry::Waiter> rest;
  for (const Entry::Waiter& waiter : entry->waiters) {
    if (waiter.is_try) {
      out.push_back(to_waiter(Kind::refused, *entry, waiter));
    } else {
      rest.push_back(waiter);
    }
  }
  entry->waiters = std::move(rest);
  advance(now, *entry, out);
}

void ClerkCore::revoke(TimePoint now, const lock::Revoke& revoke, Effects& out) {
  if (lost_) return;
  Entry* entry = find(revoke.name);
  if (entry == nullptr || entry->sequence != revoke.sequence ||
      (entry->held == Mode::none && entry->asked == Mode::none)) {
    out.push_back(release_of(revoke.name, revoke.sequence, Mode::none));
    return;
  }
  if (entry->asked != Mode::none) {
    // It overtakes its grant. A try is not worth remembering: we are about to use the lock.
    if (revoke.is_try) {
      out.push_back(keep_of(revoke.name, revoke.sequence, revoke.round));
    } else {
      rarely<"clerk: a revoke overtakes its grant">();
      entry->remembered_keep = std::min(entry->remembered_keep, revoke.keep);
    }
    return;
  }
  if (entry->held <= revoke.keep) {  // We have answered that already: the answer was lost.
    rarely<"clerk: a revoke that was obeyed comes again">();
    out.push_back(release_of(revoke.name, revoke.sequence, entry->held));
    return;
  }
  if (revoke.is_try) {
    Effect effect = about(Kind::ask_may_take, *entry, revoke.keep);
    effect.round = revoke.round;
    out.push_back(effect);
    return;
  }
  start_revoke(now, *entry, revoke.keep, out);
  advance(now, *entry, out);
}

void ClerkCore::may_take(TimePoint now, LockName name, Sequence sequence, std::uint64_t round,
                         bool may, Effects& out) {
  Entry* entry = find(name);
  if (lost_ || entry == nullptr || entry->sequence != sequence || entry->held == Mode::none) return;
  // Whoever pins the lock or waits for it here needs it.
  const bool going =
      entry->stage == Entry::Stage::draining || entry->stage == Entry::Stage::giving_up;
  if (!may || (!entry->idle() && !going)) {
    rarely<"clerk: a try is refused because the file is open">();
    out.push_back(keep_of(name, sequence, round));
    return;
  }
  start_revoke(now, *entry, Mode::none, out);
  advance(now, *entry, out);
}

void ClerkCore::start_revoke(TimePoint now, Entry& entry, Mode keep, Effects& out) {
  if (entry.held <= keep) return;
  entry.taken = true;
  switch (entry.stage) {
    case Entry::Stage::none:
      entry.stage = Entry::Stage::lingering;
      entry.keep = keep;
      // What was only read costs no write-back, so nothing is won by keeping it.
      entry.linger_until =
          now + (entry.held == Mode::exclusive ? linger_longest() : Duration::zero());
      linger_tick(now, entry, out);
      break;
    case Entry::Stage::lingering:
      entry.keep = std::min(entry.keep, keep);
      break;
    case Entry::Stage::draining:
    case Entry::Stage::giving_up:
      if (keep < entry.keep) {
        rarely<"clerk: a revoke to none during a downgrade">();
        entry.remembered_keep = std::min(entry.remembered_keep, keep);
      }
      break;
  }
}

void ClerkCore::set_linger(Entry& entry, TimePoint due) {
  if (entry.linger_due != TimePoint::max()) linger_timers_.erase({entry.linger_due, entry.name});
  entry.linger_due = due;
  if (due != TimePoint::max()) linger_timers_.insert({due, entry.name});
}

// Long enough that most of the time goes into work and not into handing over, where that is dear.
Duration ClerkCore::linger_longest() const {
  return std::min(std::max(linger_per_give_up * give_up_cost_, options_.linger_least),
                  options_.linger_max);
}

// Who uses a lock again and again is likely to come once more within a few times its usual gap.
Duration ClerkCore::linger_idle(const Entry& entry) const {
  if (options_.linger_max == Duration::zero()) return {};
  return std::clamp(3 * entry.usual_gap, options_.linger_idle, options_.linger_idle_max);
}

// Begins the give-up of a lingering lock when it is idle or has lingered long enough.
void ClerkCore::linger_tick(TimePoint now, Entry& entry, Effects& out) {
  CHECK(entry.stage == Entry::Stage::lingering);
  const TimePoint idle_at = entry.last_used + linger_idle(entry);
  if (now >= entry.linger_until || (entry.idle() && now >= idle_at)) {
    begin_give_up(now, entry, entry.keep, out);
    return;
  }
  const TimePoint look_at = entry.idle() ? idle_at : now + options_.linger_idle;
  set_linger(entry, std::max(now + Duration(1), std::min(look_at, entry.linger_until)));
}

// From here on no pin that conflicts with `keep` is given.
void ClerkCore::begin_give_up(TimePoint now, Entry& entry, Mode keep, Effects& out) {
  CHECK(entry.held > keep);
  set_linger(entry, TimePoint::max());
  entry.stage = Entry::Stage::draining;
  entry.keep = keep;
  out.push_back(about(Kind::revoke_begins, entry, keep));
  refuse_those_who_leave(entry, out);
  give_up_if_drained(now, entry, out);
}

void ClerkCore::give_up_if_drained(TimePoint now, Entry& entry, Effects& out) {
  if (entry.stage != Entry::Stage::draining || entry.exclusive_pins > 0) return;
  if (entry.keep == Mode::none && entry.shared_pins > 0) return;
  entry.stage = Entry::Stage::giving_up;
  entry.give_up_began = now;
  out.push_back(about(Kind::give_up, entry, entry.keep));
}

void ClerkCore::given_up(TimePoint now, LockName name, Effects& out) {
  Entry* entry = find(name);
  CHECK(entry != nullptr && entry->stage == Entry::Stage::giving_up);
  entry->stage = Entry::Stage::none;
  if (entry->held == Mode::exclusive) {
    const Duration took = std::min(now - entry->give_up_began, options_.linger_max);
    give_up_cost_ = (7 * give_up_cost_ + took) / 8;
  }
  if (entry->taken && entry->keep == Mode::none) {
    habits_.remember(name, Habit{entry->usual_gap, entry->written_since_grant});
  }
  set_held(*entry, entry->keep);
  if (!lost_) out.push_back(release_of(name, entry->sequence, entry->keep));
  out.push_back(about(Kind::revoke_ended, *entry, entry->keep));
  if (lost_) return;
  const Mode remembered = std::exchange(entry->remembered_keep, Mode::exclusive);
  start_revoke(now, *entry, remembered, out);
  advance(now, *entry, out);
}

void ClerkCore::set_usable(TimePoint now, bool usable, Effects& out) {
  usable_ = usable && !lost_;
  if (!usable_) return;
  for (Entry* entry = oldest_; entry != nullptr;) {
    Entry* next = entry->newer;
    if (!entry->waiters.empty()) advance(now, *entry, out);
    entry = next;
  }
}

void ClerkCore::lose(Effects& out) {
  if (lost_) return;
  lost_ = true;
  usable_ = false;
  for (Entry* entry = oldest_; entry != nullptr; entry = entry->newer) {
    for (const Entry::Waiter& waiter : entry->waiters) {
      out.push_back(to_waiter(Kind::lost, *entry, waiter));
    }
    entry->waiters.clear();
    if (entry->asked != Mode::none) answered(*entry, false, out);
    set_linger(*entry, TimePoint::max());
    if (entry->stage == Entry::Stage::lingering) entry->stage = Entry::Stage::none;
    // A give-up that runs is finished; one that still drains never runs, but its end is told: who
    // was told of its beginning holds requests back until then.
    if (entry->stage == Entry::Stage::draining) {
      rarely<"clerk: the lease is lost while pins drain">();
      entry->stage = Entry::Stage::none;
      out.push_back(about(Kind::revoke_ended, *entry, entry->keep));
    }
  }
}

std::vector<lock::Hold> ClerkCore::holds() const {
  std::vector<lock::Hold> all;
  for (const Entry* entry = oldest_; entry != nullptr; entry = entry->newer) {
    if (entry->held != Mode::none) all.push_back({entry->name, entry->sequence, entry->held});
  }
  return all;
}

std::vector<lock::Hold> ClerkCore::rejoin() {
  for (LockName name : outstanding_) find(name)->remembered_keep = Mode::exclusive;
  return holds();
}

void ClerkCore::ask_again(TimePoint now, Effects& out) {
  for (LockName name : outstanding_) {
    Entry* entry = find(name);
    request_timers_.erase({entry->ask_again_at, name});
    entry->ask_again_at = now + entry->ask_again_after;
    request_timers_.insert({entry->ask_again_at, name});
    Effect effect = about(Kind::send_request, *entry, entry->asked);
    effect.is_try = entry->asked_try;
    out.push_back(effect);
  }
}

void ClerkCore::tick(TimePoint now, Effects& out) {
  while (!linger_timers_.empty() && linger_timers_.begin()->first <= now) {
    Entry* entry = find(linger_timers_.begin()->second);
    linger_tick(now, *entry, out);
    advance(now, *entry, out);
  }
  while (!request_timers_.empty() && request_timers_.begin()->first <= now) {
    Entry* entry = find(request_timers_.begin()->second);
    request_timers_.erase(request_timers_.begin());
    entry->ask_again_after = std::min(entry->ask_again_after * 2, options_.request_again_most);
    entry->ask_again_at = now + entry->ask_again_after;
    request_timers_.insert({entry->ask_again_at, entry->name});
    Effect effect = about(Kind::send_request, *entry, entry->asked);
    effect.is_try = entry->asked_try;
    out.push_back(effect);
  }
}

TimePoint ClerkCore::next_tick() const {
  TimePoint next = TimePoint::max();
  if (!linger_timers_.empty()) next = linger_timers_.begin()->first;
  if (!request_timers_.empty()) next = std::min(next, request_timers_.begin()->first);
  return next;
}

// Second chance: what was pinned since the last look goes to the back, the first that was not is
// given back. At most two a grant, so that a lowered limit is reached in time.
void ClerkCore::evict(TimePoint now, Effects& out) {
  int given = 0;
  for (int looks = 0; looks < evict_looks && given < 2; ++looks) {
    if (held_shared_ + held_exclusive_ <= options_.locks_max) return;
    Entry& entry = *oldest_;
    unlink(entry);
    append(entry);
    const bool spare = std::exchange(entry.touched, false) || !entry.idle() ||
                       entry.held == Mode::none || entry.stage != Entry::Stage::none;
    if (spare) continue;
    ++given;
    begin_give_up(now, entry, Mode::none, out);
  }
}

Mode ClerkCore::held(LockName name) const {
  const Entry* entry = lost_ ? nullptr : find(name);
  return entry == nullptr ? Mode::none : entry->held;
}

std::uint64_t ClerkCore::fence(LockName name) const {
  const Entry* entry = lost_ ? nullptr : find(name);
  return entry == nullptr || entry->held == Mode::none ? 0 : entry->fence;
}

bool ClerkCore::revoking(LockName name) const {
  const Entry* entry = find(name);
  return entry != nullptr &&
         (entry->stage == Entry::Stage::draining || entry->stage == Entry::Stage::giving_up);
}

bool ClerkCore::giving_up(LockName name) const {
  const Entry* entry = find(name);
  return entry != nullptr && entry->stage == Entry::Stage::giving_up;
}

std::uint32_t ClerkCore::shared_pins(LockName name) const {
  const Entry* entry = find(name);
  return entry == nullptr ? 0 : entry->shared_pins;
}

bool ClerkCore::exclusive_pin(LockName name) const {
  const Entry* entry = find(name);
  return entry != nullptr && entry->exclusive_pins > 0;
}

void ClerkCore::check_invariants() const {
  std::uint64_t shared = 0, exclusive = 0, asking = 0, lingering = 0, listed = 0;
  for (Entry* entry = oldest_; entry != nullptr; entry = entry->newer) ++listed;
  CHECK(listed == entries_.size());
  for (const auto& [name, entry] : entries_) {
    CHECK(entry->name == name);
    shared += entry->held == Mode::shared;
    exclusive += entry->held == Mode::exclusive;
    asking += entry->asked != Mode::none;
    lingering += entry->linger_due != TimePoint::max();
    CHECK(entry->exclusive_pins == 0 || entry->shared_pins == 0);
    CHECK(entry->exclusive_pins <= 1 || lock::shared_within_client(name.lock_class));
    if (lost_) continue;
    CHECK(entry->exclusive_pins == 0 || entry->held == Mode::exclusive);
    CHECK(entry->shared_pins == 0 || entry->held != Mode::none);
    CHECK(entry->held == Mode::none || entry->asked == Mode::none);
    CHECK(entry->asked == Mode::none || entry->stage == Entry::Stage::none);
    CHECK((entry->stage == Entry::Stage::lingering) == (entry->linger_due != TimePoint::max()));
    CHECK(entry->stage == Entry::Stage::none || entry->held > entry->keep);
    if (entry->stage == Entry::Stage::giving_up) {
      CHECK(entry->exclusive_pins == 0 && (entry->keep != Mode::none || entry->shared_pins == 0));
    }
    CHECK(!entry->idle() || entry->held != Mode::none || entry->asked != Mode::none);
  }
  CHECK(shared == held_shared_ && exclusive == held_exclusive_);
  CHECK(asking == outstanding_.size() && asking == request_timers_.size());
  CHECK(lingering == linger_timers_.size());
}

}  // namespace plumeria::clerk
