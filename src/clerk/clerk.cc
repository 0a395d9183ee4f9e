#include "clerk/clerk.h"

#include <absl/container/btree_map.h>
#include <absl/container/flat_hash_map.h>
#include <absl/strings/str_cat.h>

#include <algorithm>
#include <utility>

#include "base/async.h"
#include "base/log.h"
#include "base/number.h"
#include "base/rare.h"
#include "clerk/clerk_core.h"
#include "clerk/file_lock_client.h"
#include "clerk/lease_keeper.h"
#include "lock/messages.h"

namespace plumeria::clerk {

namespace {

constexpr Duration join_again_after = 250ms;
constexpr Duration report_again_after = 250ms;
constexpr Duration leave_again_after = 100ms;

ClerkCoreOptions core_options(const ClerkOptions& options) {
  ClerkCoreOptions core;
  core.linger_idle = options.linger_idle;
  core.linger_max = options.linger_max;
  core.locks_max = options.locks_max;
  return core;
}

// How waiting for a lock ended.
enum class Waited { pinned, refused, lost };
enum class Patience { wait, unless_revoked, none };

}  // namespace

struct Clerk::State {
  State(World w, net::Transport& t, net::PeerId s, ClerkOptions o)
      : world(w),
        transport(t),
        server(s),
        options(std::move(o)),
        core(core_options(options)),
        session_changed(w.executor),
        handler_returned(w.executor) {}

  TimePoint now() const { return world.clock.now(); }

  // Locks.
  bool pin_now(LockName name, Mode mode);
  Task<Status> wait_for_pin(LockName name, Mode mode, Patience patience);
  WaiterId queue(LockName name, Mode mode, Patience patience);
  Error closed_error() const;
  bool closed() const { return core.is_lost() || left; }
  void process();
  void carry_out(const Effect& effect);
  void finish_waiter(WaiterId id, Waited waited);
  Task<void> give_up(LockName name, Mode keep);
  Task<void> suspend(TimePoint deadline);

  // The session.
  void receive(net::PeerId from, ByteView bytes);
  bool receive_session(const lock::Header& header, const lock::Item& item);
  void receive_locks(const lock::Item& item);
  void joined(const lock::Header& header, const lock::Joined& joined);
  void renewed(TimePoint sent, const lock::LeaseTerms& terms, WallTime wall);
  void rejoin(lock::Epoch new_epoch);
  void start_report(std::vector<lock::Hold> holds);
  void report_received(std::uint32_t page);
  void ask_again();
  void connection(bool connected);
  void lose(std::string_view reason);
  void learn_offset(TimePoint sent, WallTime wall);

  // Sending and time.
  void send(const lock::Item& item);
  void send_name(LockName name);
  void send_calls(FileLockClient::Messages& calls);
  void flush();
  void send_join();
  void look_at_lease();
  void tick();
  void rearm();
  TimePoint next_tick() const;

  // File locks.
  Task<Result<lock::FileLockAnswer>> call(lock::FileLockKind kind, FileLock lock, bool wait,
                                          std::uint64_t request);

  World world;
  net::Transport& transport;
  net::PeerId server;
  ClerkOptions options;
  RevokeHandler* handler = nullptr;

  ClerkCore core;
  LeaseKeeper keeper;
  FileLockClient file_locks;
  Effects effects;
  bool processing = false;
  absl::flat_hash_map<WaiterId, Promise<Waited>> waiters;
  absl::flat_hash_map<PrefetchId, Promise<std::size_t>> prefetches;
  absl::flat_hash_map<CallNumber, Promise<Result<lock::FileLockAnswer>>> calls;

  Membership membership;
  lock::Epoch epoch{};
  std::uint64_t instance = 0;
  bool joining = false, is_joined = false, leaving = false, left = false;
  std::string join_error, lost_reason;
  Event session_changed;
  Event handler_returned;
  std::vector<lock::Report> report;               // pages not yet received, in order
  TimePoint session_again_at = TimePoint::max();  // join, report page or leave

  absl::btree_map<LockName, lock::ProgramName> names;  // of locks of programs
  lock::Outbox outbox;
  bool flush_posted = false;
  TimerId timer{};
  TimePoint armed_at = TimePoint::max();
  ClerkStatus counts;
  std::shared_ptr<bool> alive = std::make_shared<bool>(true);
  std::optional<TaskScope> scope{std::in_place};
};

// ---- Locks ----

Error Clerk::State::closed_error() const {
  if (left) return Error{Errc::shut_down, "the clerk has left the lock service"};
  return Error{Errc::lost, lost_reason};
}

bool Clerk::State::pin_now(LockName name, Mode mode) {
  const TimePoint time = now();
  if (!keeper.usable(time) || !core.try_pin(time, name, mode)) return false;
  ++counts.local_hits;
  return true;
}

WaiterId Clerk::State::queue(LockName name, Mode mode, Patience patience) {
  switch (patience) {
    case Patience::wait:
      return core.acquire(now(), name, mode, effects);
    case Patience::unless_revoked:
      return core.acquire_unless_revoked(now(), name, mode, effects);
    case Patience::none:
      break;
  }
  return core.try_acquire(now(), name, mode, effects);
}

Task<Status> Clerk::State::wait_for_pin(LockName name, Mode mode, Patience patience) {
  look_at_lease();
  if (closed()) co_return fail(closed_error());
  const WaiterId id = queue(name, mode, patience);
  Promise<Waited> promise(world.executor);
  waiters.emplace(id, promise);
  process();
  auto future = promise.future();
  switch (co_await future) {
    case Waited::pinned:
      break;
    case Waited::refused:
      co_return fail(Errc::again, lock::to_string(name));
    case Waited::lost:
      co_return fail(closed_error());
  }
  co_return Status{};
}

// Carries out effects in order, those that carrying out brings included.
void Clerk::State::process() {
  if (processing) return;
  processing = true;
  while (!effects.empty()) {
    const Effects batch = std::exchange(effects, {});
    for (const Effect& effect : batch) carry_out(effect);
  }
  processing = false;
  rearm();
}

void Clerk::State::finish_waiter(WaiterId id, Waited waited) {
  auto at = waiters.find(id);
  CHECK(at != waiters.end());
  const Promise<Waited> promise = at->second;
  waiters.erase(at);
  promise.set(waited);
}

void Clerk::State::carry_out(const Effect& effect) {
  switch (effect.kind) {
    case Effect::Kind::send_request:
      ++counts.requests;
      send_name(effect.name);
      send(lock::Request{effect.name, effect.sequence, effect.mode, effect.is_try});
      break;
    case Effect::Kind::send_release:
      send(lock::Release{effect.name, effect.sequence, effect.mode});
      break;
    case Effect::Kind::send_keep:
      send(lock::Keep{effect.name, effect.sequence, effect.round});
      break;
    case Effect::Kind::ask_may_take: {
      const bool may = handler->may_take(effect.name);
      core.may_take(now(), effect.name, effect.sequence, effect.round, may, effects);
      break;
    }
    case Effect::Kind::revoke_begins:
      handler->revoke_begins(effect.name, effect.mode);
      break;
    case Effect::Kind::give_up:
      scope->spawn(give_up(effect.name, effect.mode));
      break;
    case Effect::Kind::revoke_ended:
      ++(effect.mode == Mode::none ? counts.revokes : counts.downgrades);
      handler->revoke_ended(effect.name, effect.mode);
      break;
    case Effect::Kind::granted:
      finish_waiter(effect.waiter, Waited::pinned);
      break;
    case Effect::Kind::refused:
      finish_waiter(effect.waiter, Waited::refused);
      break;
    case Effect::Kind::lost:
      finish_waiter(effect.waiter, Waited::lost);
      break;
    case Effect::Kind::prefetched: {
      auto at = prefetches.find(effect.prefetch);
      CHECK(at != prefetches.end());
      const Promise<std::size_t> promise = at->second;
      prefetches.erase(at);
      promise.set(effect.round);
      break;
    }
  }
}

Task<void> Clerk::State::give_up(LockName name, Mode keep) {
  Task<void> giving = handler->give_up(name, keep);
  co_await giving;
  core.given_up(now(), name, effects);
  process();
  handler_returned.notify_all();
}

Task<void> Clerk::State::suspend(TimePoint deadline) {
  Task<void> suspending = handler->suspended(deadline);
  co_await suspending;
  handler_returned.notify_all();
}

// ---- The session ----

void Clerk::State::receive(net::PeerId from, ByteView bytes) {
  if (from != server || left) return;
  auto message = lock::decode_message(bytes, lock::Direction::from_server);
  if (!message) {
    log_warning(absl::StrCat("clerk: ", message.error().message()));
    transport.disconnect(from, message.error().message());
    return;
  }
  ++counts.messages_received;
  const lock::Header& header = message->header;
  for (const lock::Item& item : message->items) {
    if (receive_session(header, item)) continue;
    // A grant of a server that was replaced while it was paused is never believed.
    if (!is_joined || header.lease != membership.lease || header.epoch != epoch) {
      rarely<"clerk: a message of another epoch or lease">();
      continue;
    }
    receive_locks(item);
  }
  process();
}

// True if the item was about joining, or about a session that may be of another epoch.
bool Clerk::State::receive_session(const lock::Header& header, const lock::Item& item) {
  if (const auto* answer = std::get_if<lock::Joined>(&item)) {
    if (answer->instance == instance) joined(header, *answer);
    return true;
  }
  if (const auto* refused = std::get_if<lock::JoinRefused>(&item)) {
    if (refused->instance == instance && !is_joined) join_error = refused->why;
    return true;
  }
  const bool ours = is_joined && header.lease == membership.lease && header.epoch >= epoch;
  if (std::get_if<lock::Rejoin>(&item) != nullptr) {
    if (ours && header.epoch > epoch) rejoin(header.epoch);
    return true;
  }
  if (std::get_if<lock::Left>(&item) != nullptr) {
    if (ours && leaving) left = true;
    session_changed.notify_all();
    return true;
  }
  if (const auto* over = std::get_if<lock::Lost>(&item)) {
    // After an earlier leave() whose answer was lost, nothing is lost with the lease.
    if (ours && leaving) left = true;
    if (ours && !leaving) lose(over->why);
    session_changed.notify_all();
    return true;
  }
  return false;
}

void Clerk::State::receive_locks(const lock::Item& item) {
  if (const auto* grant = std::get_if<lock::Grant>(&item)) {
    const Mode before = core.held(grant->name);
    core.grant(now(), *grant, effects);
    const Mode after = core.held(grant->name);
    if (options.observer != nullptr && after > before) {
      options.observer->granted(grant->name, after);
    }
  } else if (const auto* refused = std::get_if<lock::Refused>(&item)) {
    core.refused(now(), *refused, effects);
  } else if (const auto* revoke = std::get_if<lock::Revoke>(&item)) {
    core.revoke(now(), *revoke, effects);
  } else if (const auto* answer = std::get_if<lock::Renewed>(&item)) {
    renewed(answer->sent, answer->terms, answer->wall);
  } else if (const auto* received = std::get_if<lock::ReportReceived>(&item)) {
    report_received(received->page);
  } else if (std::get_if<lock::Ready>(&item) != nullptr) {
    ask_again();
  } else if (const auto* file_lock = std::get_if<lock::FileLockAnswer>(&item)) {
    if (!file_locks.answered(*file_lock)) return;
    auto at = calls.find(file_lock->call);
    CHECK(at != calls.end());
    const auto promise = at->second;
    calls.erase(at);
    promise.set(*file_lock);
  }
  // Revoke by revoke, so that a handler sees each begin before the next message is looked at.
  process();
}

void Clerk::State::joined(const lock::Header& header, const lock::Joined& answer) {
  if (!is_joined && joining) {
    is_joined = true;
    joining = false;
    epoch = header.epoch;
    membership.lease = answer.lease;
    membership.slot = answer.slot;
    // A server that was restarted while we joined minds the lease, and waits for this.
    start_report({});
    session_changed.notify_all();
  }
  if (header.lease != membership.lease || header.epoch != epoch) return;
  renewed(answer.sent, answer.terms, answer.wall);
}

void Clerk::State::renewed(TimePoint sent, const lock::LeaseTerms& terms, WallTime wall) {
  const bool first = membership.lease_duration == Duration::zero();
  membership.lease_duration = terms.duration;
  if (sent <= now()) learn_offset(sent, wall);
  const bool resumed = keeper.renewed(now(), sent, terms);
  if (!first && !resumed) return;
  if (resumed) {
    counts.suspended = false;
    log_info(absl::StrCat("clerk: lease ", raw(membership.lease), " goes on"));
    handler->resumed();
  }
  core.set_usable(now(), keeper.usable(now()), effects);
}

// The server read its clock between our sending and the answer, which bounds the offset from both
// sides. What may be right already stays (none at first, and on the server's own machine), so that
// files are not stamped with a future that comes from the length of a round trip.
void Clerk::State::learn_offset(TimePoint sent, WallTime wall) {
  const std::int64_t trip = (now() - sent).count();
  const std::int64_t least = raw(wall) - raw(world.clock.wall());
  membership.wall_offset = std::clamp(membership.wall_offset, least, least + trip);
}

void Clerk::State::rejoin(lock::Epoch new_epoch) {
  epoch = new_epoch;
  // What waits in the outbox was meant for the server before; everything in it is repeated, or
  // answered from what we know.
  outbox = lock::Outbox();
  log_info(absl::StrCat("clerk: lease ", raw(membership.lease), " joins epoch ", raw(epoch)));
  send(lock::Renew{now()});
  if (leaving) return;
  start_report(core.rejoin());
}

void Clerk::State::start_report(std::vector<lock::Hold> holds) {
  std::vector<FileLock> locks = file_locks.held();
  report.clear();
  std::size_t hold = 0, file_lock = 0;
  do {
    lock::Report page;
    page.page = static_cast<std::uint32_t>(report.size());
    const std::size_t hold_end = std::min(holds.size(), hold + lock::report_holds_max);
    page.holds.assign(holds.begin() + static_cast<std::ptrdiff_t>(hold),
                      holds.begin() + static_cast<std::ptrdiff_t>(hold_end));
    hold = hold_end;
    if (page.holds.empty()) {  // Locks and file locks do not share a page.
      const std::size_t end = std::min(locks.size(), file_lock + lock::report_file_locks_max);
      page.file_locks.assign(locks.begin() + static_cast<std::ptrdiff_t>(file_lock),
                             locks.begin() + static_cast<std::ptrdiff_t>(end));
      file_lock = end;
    }
    report.push_back(std::move(page));
  } while (hold < holds.size() || file_lock < locks.size());
  for (const lock::Hold& one : holds) send_name(one.name);
  report.back().last = true;
  send(report.front());
  session_again_at = now() + report_again_after;
}

void Clerk::State::report_received(std::uint32_t page) {
  if (report.empty() || report.front().page != page) return;
  report.erase(report.begin());
  session_again_at = TimePoint::max();
  if (report.empty()) {
    ask_again();
    return;
  }
  send(report.front());
  session_again_at = now() + report_again_after;
}

void Clerk::State::ask_again() {
  core.ask_again(now(), effects);
  FileLockClient::Messages messages;
  file_locks.ask_again(now(), messages);
  send_calls(messages);
}

void Clerk::State::connection(bool connected) {
  if (!connected || closed()) return;
  if (joining) send_join();
  if (!is_joined) return;
  send(lock::Renew{now()});
  if (!report.empty()) send(report.front());
  ask_again();
  process();
}

void Clerk::State::lose(std::string_view reason) {
  if (core.is_lost()) return;
  lost_reason = absl::StrCat("lease ", raw(membership.lease), ": ", std::string(reason));
  log_error(absl::StrCat("clerk: ", lost_reason, "; its locks are gone"));
  report.clear();
  session_again_at = TimePoint::max();
  core.lose(effects);
  for (CallNumber number : file_locks.lose()) {
    auto at = calls.find(number);
    const auto promise = at->second;
    calls.erase(at);
    promise.set(fail(closed_error()));
  }
  handler->lost(reason);
  process();
}

// ---- Sending and time ----

void Clerk::State::send(const lock::Item& item) {
  outbox.add(item);
  if (flush_posted) return;
  flush_posted = true;
  std::weak_ptr<bool> guard = alive;
  world.executor.post([this, guard] {
    if (!guard.expired()) flush();
  });
}

void Clerk::State::send_name(LockName name) {
  auto called = names.find(name);
  if (called != names.end()) send(lock::Named{name, called->second});
}

void Clerk::State::send_calls(FileLockClient::Messages& messages) {
  for (const lock::FileLockCall& message : messages) send(message);
  messages.clear();
}

void Clerk::State::flush() {
  flush_posted = false;
  if (outbox.empty() || core.is_lost()) return;
  for (Bytes& bytes : outbox.take({lock::Direction::from_clerk, epoch, membership.lease})) {
    ++counts.messages_sent;
    transport.send(server, net::Channel::lock, std::move(bytes));
  }
}

void Clerk::State::send_join() {
  lock::Join join;
  join.instance = instance;
  join.sent = now();
  join.label = options.label;
  join.has_log = options.has_log;
  send(join);
  session_again_at = now() + join_again_after;
}

// Finds out that the lease has run out, and when to renew it.
void Clerk::State::look_at_lease() {
  if (!is_joined || closed()) return;
  const LeaseKeeper::Due due = keeper.tick(now());
  if (due.reconnect) transport.disconnect(server, "renewals of the lease are not answered");
  if (due.renew) send(lock::Renew{now()});
  if (!due.suspend) return;
  counts.suspended = true;
  log_warning(absl::StrCat("clerk: lease ", raw(membership.lease),
                           " could not be renewed: suspended until the lock service answers"));
  core.set_usable(now(), false, effects);
  scope->spawn(suspend(keeper.deadline()));
}

void Clerk::State::tick() {
  if (left || core.is_lost()) return;
  look_at_lease();
  core.tick(now(), effects);
  FileLockClient::Messages messages;
  file_locks.tick(now(), messages);
  send_calls(messages);
  if (now() >= session_again_at) {
    session_again_at = TimePoint::max();
    if (joining) {
      send_join();
    } else if (leaving) {
      send(lock::Leave{});
      session_again_at = now() + leave_again_after;
    } else if (!report.empty()) {
      send(report.front());
      session_again_at = now() + report_again_after;
    }
  }
  process();
}

TimePoint Clerk::State::next_tick() const {
  if (left || core.is_lost()) return TimePoint::max();
  return std::min({core.next_tick(), keeper.next_tick(), file_locks.next_tick(), session_again_at});
}

void Clerk::State::rearm() {
  const TimePoint at = next_tick();
  if (timer != TimerId::none && armed_at <= at) return;
  if (timer != TimerId::none) world.executor.cancel(timer);
  timer = TimerId::none;
  armed_at = at;
  if (at == TimePoint::max()) return;
  timer = world.executor.at(at, [this] {
    timer = TimerId::none;
    armed_at = TimePoint::max();
    tick();
  });
}

// ---- File locks ----

Task<Result<lock::FileLockAnswer>> Clerk::State::call(lock::FileLockKind kind, FileLock lock,
                                                      bool wait, std::uint64_t request) {
  if (closed()) co_return fail(closed_error());
  FileLockClient::Messages messages;
  const CallNumber number = file_locks.begin(now(), kind, lock, wait, request, messages);
  send_calls(messages);
  Promise<Result<lock::FileLockAnswer>> promise(world.executor);
  calls.emplace(number, promise);
  rearm();
  auto future = promise.future();
  Result<lock::FileLockAnswer> answer = co_await future;
  co_return answer;
}

// ---- The interface ----

Clerk::Clerk(World world, net::Transport& transport, net::PeerId server, ClerkOptions options)
    : state_(std::make_unique<State>(world, transport, server, std::move(options))) {}

Clerk::~Clerk() {
  if (state_->timer != TimerId::none) state_->world.executor.cancel(state_->timer);
  state_->transport.on_message(net::Channel::lock, {});
  state_->transport.on_connection(net::Channel::lock, {});
}

void Clerk::set_handler(RevokeHandler* handler) { state_->handler = handler; }

Task<Result<Membership>> Clerk::join(Duration give_up_after) {
  State& s = *state_;
  CHECK(s.handler != nullptr && !s.joining && !s.is_joined);
  s.transport.on_message(net::Channel::lock, [state = &s](net::PeerId from, ByteView message) {
    state->receive(from, message);
  });
  s.transport.on_connection(net::Channel::lock, [state = &s](net::PeerId peer, bool connected) {
    if (peer == state->server) state->connection(connected);
  });
  if (s.instance == 0) s.instance = s.world.random.next() | 1;
  s.joining = true;
  s.send_join();
  s.rearm();
  std::weak_ptr<bool> guard = s.alive;
  State* state = &s;
  const TimerId until = s.world.executor.at(s.now() + give_up_after, [state, guard] {
    if (guard.expired()) return;
    state->joining = false;
    state->session_changed.notify_all();
  });
  while (s.joining) co_await s.session_changed.next();
  s.world.executor.cancel(until);
  if (s.is_joined) co_return s.membership;
  std::string why = s.join_error;
  if (why.empty()) why = s.transport.last_error(s.server);
  if (why.empty()) why = "it does not answer";
  co_return fail(Errc::unavailable, absl::StrCat("lock service: ", why));
}

Task<Status> Clerk::leave() {
  State& s = *state_;
  if (s.core.is_lost()) co_return fail(s.closed_error());
  if (!s.is_joined || s.left) co_return Status{};
  s.leaving = true;
  s.report.clear();
  s.send(lock::Leave{});
  s.session_again_at = s.now() + leave_again_after;
  s.rearm();
  // Whoever cannot be told finds out when the lease has run out.
  std::weak_ptr<bool> guard = s.alive;
  State* state = &s;
  bool expired = false;
  bool* over = &expired;
  const Duration patience = s.membership.lease_duration;
  const TimerId until = s.world.executor.at(s.now() + patience, [state, guard, over] {
    if (guard.expired()) return;
    *over = true;
    state->session_changed.notify_all();
  });
  while (!s.left && !expired) co_await s.session_changed.next();
  s.world.executor.cancel(until);
  const bool told = s.left;
  s.left = true;
  s.core.lose(s.effects);
  s.process();
  if (told) co_return Status{};
  co_return fail(Errc::unavailable, "lock service: it does not answer; the lease will run out");
}

void Clerk::declare_lost(std::string reason) { state_->lose(reason); }

Task<Result<Pin>> Clerk::acquire(LockName name, Mode mode) {
  if (!state_->pin_now(name, mode)) {
    Task<Status> waiting = state_->wait_for_pin(name, mode, Patience::wait);
    Status waited = co_await waiting;
    if (!waited) co_return fail(std::move(waited).error());
  }
  co_return Pin(this, name, mode);
}

Task<Result<Pin>> Clerk::acquire_unless_revoked(LockName name, Mode mode) {
  if (!state_->pin_now(name, mode)) {
    Task<Status> waiting = state_->wait_for_pin(name, mode, Patience::unless_revoked);
    Status waited = co_await waiting;
    if (!waited) co_return fail(std::move(waited).error());
  }
  co_return Pin(this, name, mode);
}

// The event is told just before a task ends, and heard after that.
Task<void> Clerk::settled() {
  while (state_->scope->running() > 0) co_await state_->handler_returned.next();
}

void Clerk::abandon_calls() { state_->scope.reset(); }

std::optional<Pin> Clerk::try_local(LockName name, Mode mode) {
  if (!state_->pin_now(name, mode)) return std::nullopt;
  return Pin(this, name, mode);
}

std::optional<Pin> Clerk::try_local_to_forget(LockName name, Mode mode) {
  State& s = *state_;
  if (!lasts() || !s.core.try_pin_first(s.now(), name, mode)) return std::nullopt;
  return Pin(this, name, mode);
}

Task<Result<Pin>> Clerk::try_acquire(LockName name, Mode mode) {
  if (!state_->pin_now(name, mode)) {
    Task<Status> waiting = state_->wait_for_pin(name, mode, Patience::none);
    Status waited = co_await waiting;
    if (!waited) co_return fail(std::move(waited).error());
  }
  co_return Pin(this, name, mode);
}

Task<std::size_t> Clerk::prefetch(std::vector<LockName> names, Mode mode) {
  State& s = *state_;
  if (s.closed()) co_return 0;
  const PrefetchId id = s.core.prefetch(s.now(), names, mode, s.effects);
  Promise<std::size_t> promise(s.world.executor);
  s.prefetches.emplace(id, promise);
  s.process();
  auto future = promise.future();
  const std::size_t granted = co_await future;
  co_return granted;
}

void Clerk::give_back(LockName name) {
  state_->core.give_back(state_->now(), name, state_->effects);
  state_->process();
}

void Clerk::unpin(LockName name, Mode mode) {
  State& s = *state_;
  const bool slow = s.core.unpin_matters(name);
  s.core.unpin(slow ? s.now() : TimePoint{}, name, mode, s.effects);
  if (slow) s.process();
}

LockName Clerk::program_lock(const lock::ProgramName& name) {
  const LockName lock = lock::lock_of(name);
  state_->names.emplace(lock, name);
  return lock;
}
std::uint64_t Clerk::fence(LockName name) const { return state_->core.fence(name); }

Mode Clerk::held(LockName name) const { return state_->core.held(name); }
bool Clerk::revoking(LockName name) const { return state_->core.revoking(name); }
bool Clerk::giving_up(LockName name) const { return state_->core.giving_up(name); }

Task<Status> Clerk::set_file_lock(FileLock lock, bool wait, std::uint64_t request) {
  if (lock.start > lock.end) co_return fail(Errc::invalid, "file lock ends before it starts");
  if (lock.mode == Mode::none && state_->file_locks.nothing_to_drop(lock)) {
    if (state_->closed()) co_return fail(state_->closed_error());
    co_return Status{};
  }
  auto calling = state_->call(lock::FileLockKind::set, lock, wait, request);
  Result<lock::FileLockAnswer> answer = co_await calling;
  if (!answer) co_return fail(std::move(answer).error());
  switch (answer->result) {
    case lock::FileLockResult::ok:
      break;
    case lock::FileLockResult::again:
      co_return fail(Errc::again, lock::to_string(lock));
    case lock::FileLockResult::deadlock:
      co_return fail(Errc::deadlock, lock::to_string(lock));
    case lock::FileLockResult::interrupted:
      co_return fail(Errc::interrupted, lock::to_string(lock));
  }
  co_return Status{};
}

void Clerk::cancel_file_lock(std::uint64_t request) {
  FileLockClient::Messages messages;
  state_->file_locks.cancel(state_->now(), request, messages);
  state_->send_calls(messages);
  state_->rearm();
}

Task<Result<FileLock>> Clerk::test_file_lock(FileLock lock) {
  auto calling = state_->call(lock::FileLockKind::test, lock, false, 0);
  Result<lock::FileLockAnswer> answer = co_await calling;
  if (!answer) co_return fail(std::move(answer).error());
  co_return answer->lock;
}

Task<Status> Clerk::drop_file_locks(std::uint64_t inode, bool is_flock, std::uint64_t owner) {
  FileLock lock;
  lock.inode = inode;
  lock.is_flock = is_flock;
  lock.owner = owner;
  if (state_->closed()) co_return fail(state_->closed_error());
  if (state_->file_locks.nothing_to_drop(lock)) co_return Status{};
  auto calling = state_->call(lock::FileLockKind::drop, lock, false, 0);
  Result<lock::FileLockAnswer> answer = co_await calling;
  if (!answer) co_return fail(std::move(answer).error());
  co_return Status{};
}

const Membership& Clerk::membership() const { return state_->membership; }

bool Clerk::holds() const { return usable(); }

bool Clerk::usable() const {
  return !state_->closed() && state_->keeper.usable(state_->world.clock.now());
}

bool Clerk::lasts() const { return !state_->closed() && state_->keeper.lasts(state_->now()); }

ClerkStatus Clerk::status() const {
  const State& s = *state_;
  ClerkStatus status = s.counts;
  status.membership = s.membership;
  status.lost = s.core.is_lost() && !s.left;
  status.locks_shared = s.core.held_shared();
  status.locks_exclusive = s.core.held_exclusive();
  if (s.is_joined && !s.closed()) {
    status.lease_left = std::max(Duration::zero(), s.keeper.deadline() - s.now());
  }
  return status;
}

}  // namespace plumeria::clerk
