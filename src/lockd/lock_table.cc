#include "lockd/lock_table.h"

#include <algorithm>

#include "base/check.h"
#include "base/fault.h"
#include "base/rare.h"

namespace plumeria::lockd {
namespace {

// What holders may keep for the sake of a request.
Mode keep_for(Mode wanted) { return wanted == Mode::shared ? Mode::shared : Mode::none; }

}  // namespace

LockTable::Holder* LockTable::find_holder(Entry& entry, LeaseNumber lease) {
  auto at = std::lower_bound(entry.holders.begin(), entry.holders.end(), lease,
                             [](const Holder& h, LeaseNumber l) { return h.lease < l; });
  return at != entry.holders.end() && at->lease == lease ? &*at : nullptr;
}

LockTable::Waiter* LockTable::find_waiter(Entry& entry, LeaseNumber lease) {
  if (!entry.contention) return nullptr;
  for (Waiter& waiter : entry.contention->queue) {
    if (waiter.lease == lease) return &waiter;
  }
  return nullptr;
}

LockTable::Contention& LockTable::contention_of(Entry& entry) {
  if (!entry.contention) entry.contention = std::make_unique<Contention>();
  return *entry.contention;
}

void LockTable::add_holder(Entry& entry, const Holder& holder) {
  if (entry.holders.empty()) entry.holders.reserve(1);  // most locks never have a second
  auto at = std::lower_bound(entry.holders.begin(), entry.holders.end(), holder.lease,
                             [](const Holder& h, LeaseNumber l) { return h.lease < l; });
  entry.holders.insert(at, holder);
  ++held_[holder.lease];
}

void LockTable::remove_holder(Entry& entry, LeaseNumber lease) {
  const auto removed =
      std::erase_if(entry.holders, [lease](const Holder& h) { return h.lease == lease; });
  if (removed > 0 && --held_[lease] == 0) held_.erase(lease);
}

void LockTable::remove_waiter(Entry& entry, LeaseNumber lease) {
  if (!entry.contention) return;
  auto& queue = entry.contention->queue;
  if (!queue.empty() && queue.front().lease == lease) forget_question(entry);
  waiting_ -= std::erase_if(queue, [lease](const Waiter& w) { return w.lease == lease; });
}

// A try at the head has ended. Holders were asked, not told: their answers do not matter any more.
void LockTable::forget_question(Entry& entry) {
  if (entry.contention->round == 0) return;
  entry.contention->round = 0;
  for (Holder& holder : entry.holders) holder.asked_to_keep = Mode::exclusive;
}

void LockTable::request(TimePoint now, LeaseNumber from, const lock::Request& request,
                        Decisions& out) {
  if (dying_.contains(from)) return;
  if (request.is_try && !granting_) return;  // It comes again.
  Entry& entry = entries_[request.name];
  if (const Holder* holder = find_holder(entry, from)) {
    if (request.sequence < holder->sequence) return;
    if (request.sequence == holder->sequence) {
      repeat_answer(entry, *holder, request.name, out);
      return;
    }
    rarely<"lock server: a request overtakes its release">();
    remove_holder(entry, from);  // Whoever asks holds nothing.
  }
  if (const Waiter* waiter = find_waiter(entry, from)) {
    if (request.sequence <= waiter->sequence) return;
    remove_waiter(entry, from);
  }
  const Waiter waiter{from, request.sequence, request.mode, request.is_try, now};
  const bool queue_empty = !entry.contention || entry.contention->queue.empty();
  if (request.is_try) {
    const bool may_ask = request.name.lock_class == lock::LockClass::open;
    if (!queue_empty || (!may_ask && conflicts(entry, waiter))) {
      out.push_back({Decision::Kind::refused, from, request.name, request.sequence});
      settle(now, request.name, out);
      return;
    }
  }
  // The common case makes no queue.
  if (granting_ && queue_empty && !conflicts(entry, waiter)) {
    grant(now, entry, request.name, waiter, out);
    end_transition_if_over(request.name, entry);
    return;
  }
  contention_of(entry).queue.push_back(waiter);
  ++waiting_;
  settle(now, request.name, out);
}

// The clerk repeats a request that was granted: grant, or the revoke that followed it, was lost.
void LockTable::repeat_answer(const Entry& entry, const Holder& holder, LockName name,
                              Decisions& out) {
  out.push_back({Decision::Kind::grant, holder.lease, name, holder.sequence, holder.mode});
  out.back().fence = holder.fence;
  if (holder.in_transition()) {
    const std::uint64_t round = entry.contention->round;
    out.push_back({Decision::Kind::revoke, holder.lease, name, holder.sequence,
                   holder.asked_to_keep, round != 0, round});
  }
}

void LockTable::release(TimePoint now, LeaseNumber from, const lock::Release& release,
                        Decisions& out) {
  auto at = entries_.find(release.name);
  if (at == entries_.end()) return;
  Holder* holder = find_holder(at->second, from);
  if (holder == nullptr || holder->sequence != release.sequence) return;
  if (release.keep >= holder->mode) return;
  holder->mode = release.keep;
  if (release.keep == Mode::none) remove_holder(at->second, from);
  settle(now, release.name, out);
}

void LockTable::keep(TimePoint now, LeaseNumber from, const lock::Keep& keep, Decisions& out) {
  auto at = entries_.find(keep.name);
  if (at == entries_.end() || keep.round == 0) return;
  Entry& entry = at->second;
  const Holder* holder = find_holder(entry, from);
  if (holder == nullptr || holder->sequence != keep.sequence) return;
  if (!entry.contention || entry.contention->round != keep.round) return;
  refuse_head(entry, keep.name, out);
  settle(now, keep.name, out);
}

void LockTable::reported(LeaseNumber from, const lock::Hold& hold) {
  CHECK(!granting_ || planted(Fault::gainer_grants_early));
  Entry& entry = entries_[hold.name];
  const Waiter* waiter = find_waiter(entry, from);
  if (waiter != nullptr && waiter->sequence >= hold.sequence) {  // It was given up to ask.
    rarely<"lock server: a report is older than a request">();
    return;
  }
  if (waiter != nullptr) remove_waiter(entry, from);
  if (const Holder* holder = find_holder(entry, from)) {
    if (holder->sequence >= hold.sequence) return;
    remove_holder(entry, from);
  }
  add_holder(entry, {from, hold.sequence, hold.mode});
  end_transition_if_over(hold.name, entry);
}

void LockTable::start_granting(TimePoint now, Decisions& out) {
  if (granting_) return;
  granting_ = true;
  std::vector<LockName> names;
  for (const auto& [name, entry] : entries_) {
    if (entry.contention || entry.holders.empty()) names.push_back(name);
  }
  std::sort(names.begin(), names.end());
  for (LockName name : names) settle(now, name, out);
}

std::vector<LockName> LockTable::names_with(LeaseNumber lease) const {
  std::vector<LockName> names;
  for (const auto& [name, entry] : entries_) {
    auto is_it = [lease](const auto& one) { return one.lease == lease; };
    if (std::any_of(entry.holders.begin(), entry.holders.end(), is_it) ||
        (entry.contention &&
         std::any_of(entry.contention->queue.begin(), entry.contention->queue.end(), is_it))) {
      names.push_back(name);
    }
  }
  std::sort(names.begin(), names.end());
  return names;
}

void LockTable::dying(TimePoint now, LeaseNumber lease, Decisions& out) {
  if (!dying_.insert(lease).second) return;
  for (LockName name : names_with(lease)) {
    remove_waiter(entries_[name], lease);
    settle(now, name, out);
  }
}

void LockTable::gone(TimePoint now, LeaseNumber lease, Decisions& out) {
  for (LockName name : names_with(lease)) {
    remove_waiter(entries_[name], lease);
    remove_holder(entries_[name], lease);
    settle(now, name, out);
  }
  dying_.erase(lease);
}

bool LockTable::conflicts(const Entry& entry, const Waiter& waiter) const {
  for (const Holder& holder : entry.holders) {
    if (holder.lease == waiter.lease) continue;
    Mode mode = holder.mode;
    if (planted(Fault::in_transition_ignored)) mode = std::min(mode, holder.asked_to_keep);
    if (!lock::compatible(mode, waiter.mode)) return true;
  }
  return false;
}

// Grants from the head of the queue what can be granted, then revokes for what then is the head.
void LockTable::settle(TimePoint now, LockName name, Decisions& out) {
  auto at = entries_.find(name);
  if (at == entries_.end()) return;
  Entry& entry = at->second;
  if (granting_ && entry.contention) {
    auto& queue = entry.contention->queue;
    while (!queue.empty() && !conflicts(entry, queue.front())) grant_head(now, entry, name, out);
    if (!queue.empty()) revoke_for_head(now, name, entry, out);
  }
  end_transition_if_over(name, entry);
  if (entry.holders.empty() && !entry.contention) entries_.erase(at);
}

void LockTable::grant(TimePoint now, Entry& entry, LockName name, const Waiter& to,
                      Decisions& out) {
  Holder holder{to.lease, to.sequence, to.mode};
  holder.fence = ++last_fence_;
  holder.since = now;
  add_holder(entry, holder);
  out.push_back({Decision::Kind::grant, to.lease, name, to.sequence, to.mode});
  out.back().fence = holder.fence;
}

void LockTable::grant_head(TimePoint now, Entry& entry, LockName name, Decisions& out) {
  Contention& contention = *entry.contention;
  const Waiter head = contention.queue.front();
  contention.queue.erase(contention.queue.begin());
  contention.round = 0;
  --waiting_;
  grant(now, entry, name, head, out);
}

void LockTable::refuse_head(Entry& entry, LockName name, Decisions& out) {
  Contention& contention = *entry.contention;
  CHECK(contention.round != 0 && contention.queue.front().is_try);
  const Waiter head = contention.queue.front();
  forget_question(entry);
  contention.queue.erase(contention.queue.begin());
  --waiting_;
  out.push_back({Decision::Kind::refused, head.lease, name, head.sequence});
}

void LockTable::revoke_for_head(TimePoint now, LockName name, Entry& entry, Decisions& out) {
  Contention& contention = *entry.contention;
  const Waiter& head = contention.queue.front();
  if (head.is_try && contention.round == 0) contention.round = ++last_round_;
  const Mode keep = keep_for(head.mode);
  bool asked = false;
  for (Holder& holder : entry.holders) {
    if (holder.lease == head.lease || lock::compatible(holder.mode, head.mode)) continue;
    if (holder.asked_to_keep <= keep) continue;
    holder.asked_to_keep = keep;
    asked = true;
    if (dying_.contains(holder.lease)) continue;
    out.push_back({Decision::Kind::revoke, holder.lease, name, holder.sequence, keep,
                   contention.round != 0, contention.round});
  }
  if (asked) {
    contention.first_revoke = now;
    contention.again_after = options_.revoke_again_first;
    schedule(name, contention, now + contention.again_after);
  }
}

void LockTable::schedule(LockName name, Contention& contention, TimePoint at) {
  if (contention.again_at != TimePoint::max()) timers_.erase({contention.again_at, name});
  contention.again_at = at;
  if (at != TimePoint::max()) timers_.insert({at, name});
}

// Stops repeating when no holder is asked any more, and drops what only contention needs.
void LockTable::end_transition_if_over(LockName name, Entry& entry) {
  if (!entry.contention) return;
  for (const Holder& holder : entry.holders) {
    if (holder.in_transition()) return;
  }
  schedule(name, *entry.contention, TimePoint::max());
  if (entry.contention->queue.empty()) entry.contention.reset();
}

TimePoint LockTable::next_tick() const {
  return timers_.empty() ? TimePoint::max() : timers_.begin()->first;
}

void LockTable::tick(TimePoint now, Decisions& out) {
  while (!timers_.empty() && timers_.begin()->first <= now) {
    const LockName name = timers_.begin()->second;
    tick_entry(now, name, entries_.at(name), out);
  }
}

void LockTable::tick_entry(TimePoint now, LockName name, Entry& entry, Decisions& out) {
  Contention& contention = *entry.contention;
  contention.again_after = std::min(contention.again_after * 2, options_.revoke_again_most);
  schedule(name, contention, now + contention.again_after);
  // A program holds its lock for as long as its command runs, and renews its lease.
  const bool too_late = now >= contention.first_revoke + options_.revoke_deadline &&
                        name.lock_class != lock::LockClass::program;
  if (too_late && contention.round != 0) {
    refuse_head(entry, name, out);
    settle(now, name, out);
    return;
  }
  rarely<"lock server: a revoke is repeated">();
  for (const Holder& holder : entry.holders) {
    if (!holder.in_transition() || dying_.contains(holder.lease)) continue;
    const auto kind = too_late ? Decision::Kind::expire : Decision::Kind::revoke;
    out.push_back({kind, holder.lease, name, holder.sequence, holder.asked_to_keep,
                   contention.round != 0, contention.round});
  }
}

std::uint64_t LockTable::held_by(LeaseNumber lease) const {
  auto at = held_.find(lease);
  return at == held_.end() ? 0 : at->second;
}

std::vector<LockTable::Parties> LockTable::parties(lock::LockClass of) const {
  std::vector<Parties> all;
  for (const auto& [name, entry] : entries_) {
    if (name.lock_class != of) continue;
    Parties& parties = all.emplace_back();
    parties.name = name;
    for (const Holder& h : entry.holders) {
      parties.holders.push_back({h.lease, h.mode, h.asked_to_keep, h.fence, h.since});
    }
    if (!entry.contention) continue;
    for (const Waiter& w : entry.contention->queue) {
      parties.waiters.push_back({w.lease, w.mode, Mode::exclusive, 0, w.since});
    }
  }
  std::sort(all.begin(), all.end(),
            [](const Parties& a, const Parties& b) { return a.name < b.name; });
  return all;
}

Mode LockTable::mode_of(LeaseNumber lease, LockName name) const {
  auto at = entries_.find(name);
  if (at == entries_.end()) return Mode::none;
  for (const Holder& holder : at->second.holders) {
    if (holder.lease == lease) return holder.mode;
  }
  return Mode::none;
}

bool LockTable::waits(LeaseNumber lease, LockName name) const {
  auto at = entries_.find(name);
  if (at == entries_.end() || !at->second.contention) return false;
  const auto& queue = at->second.contention->queue;
  return std::any_of(queue.begin(), queue.end(),
                     [lease](const Waiter& w) { return w.lease == lease; });
}

void LockTable::check_entry(LockName name, const Entry& entry) const {
  CHECK(!entry.holders.empty() || entry.contention);
  absl::btree_set<LeaseNumber> seen;
  bool exclusive = false, in_transition = false;
  for (const Holder& holder : entry.holders) {
    CHECK(holder.mode != Mode::none);
    CHECK(seen.insert(holder.lease).second);
    exclusive = exclusive || holder.mode == Mode::exclusive;
    in_transition = in_transition || holder.in_transition();
  }
  // Faults that are planted here are to be found by others than this table.
  const bool trusted =
      !planted(Fault::in_transition_ignored) && !planted(Fault::gainer_grants_early);
  if (trusted) CHECK(!exclusive || entry.holders.size() == 1);
  CHECK(!in_transition || entry.contention);
  if (!entry.contention) return;
  const Contention& contention = *entry.contention;
  CHECK(!contention.queue.empty() || in_transition);
  for (const Waiter& waiter : contention.queue) CHECK(seen.insert(waiter.lease).second);
  if (trusted && granting_ && !contention.queue.empty()) {
    CHECK(conflicts(entry, contention.queue.front()));
  }
  CHECK(in_transition == (contention.again_at != TimePoint::max()));
  CHECK(!in_transition || timers_.contains({contention.again_at, name}));
  CHECK(contention.round == 0 ||
        (!contention.queue.empty() && contention.queue.front().is_try && in_transition));
}

void LockTable::check_invariants() const {
  std::uint64_t waiting = 0, held = 0, counted = 0, timed = 0;
  for (const auto& [name, entry] : entries_) {
    check_entry(name, entry);
    held += entry.holders.size();
    if (!entry.contention) continue;
    waiting += entry.contention->queue.size();
    if (entry.contention->again_at != TimePoint::max()) ++timed;
  }
  for (const auto& [lease, count] : held_) counted += count;
  CHECK(waiting == waiting_);
  CHECK(held == counted);
  CHECK(timed == timers_.size());
}

std::size_t LockTable::bytes_per_lock() {
  return sizeof(std::pair<LockName, Entry>) + 1 + sizeof(Holder) + 16;
}

}  // namespace plumeria::lockd
