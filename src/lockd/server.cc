#include "lockd/server.h"

#include <absl/container/btree_map.h>
#include <absl/container/btree_set.h>
#include <absl/strings/str_cat.h>

#include <algorithm>
#include <utility>

#include "base/async.h"
#include "base/fault.h"
#include "base/log.h"
#include "base/number.h"
#include "base/rare.h"
#include "lock/messages.h"
#include "lock/view.h"
#include "lockd/file_lock_table.h"
#include "lockd/lease_table.h"
#include "lockd/lock_table.h"

namespace plumeria::lockd {

using lock::LeaseRecord;
using lock::LeaseState;
using lock::View;
using net::PeerId;

namespace {

constexpr Duration retry_first = 100ms;
constexpr Duration retry_most = 5s;
constexpr std::size_t endings_max = 1000;  // remembered reasons of leases that are over
constexpr int prepare_attempts = 10;
constexpr std::size_t spare_names_max = 1000;  // names of locks of programs that are not in use
// A fence number is this server's epoch, which no server before had, and the count of its grants.
constexpr int fence_grant_bits = 40;

std::string describe_lease(const LeaseRecord& record) {
  return absl::StrCat("lease ", raw(record.lease), " (", record.label, ")");
}

}  // namespace

struct LockServer::State {
  State(World w, net::Transport& t, disk::VirtualDisk& d, Recoverer& r, LockServerOptions o)
      : world(w),
        transport(t),
        disk(d),
        recoverer(r),
        options(o),
        view_mutex(w.executor),
        wake(w.executor),
        locks({.revoke_deadline = o.revoke_deadline}),
        leases(o.lease_duration, o.revoke_deadline) {}

  // The view.
  using Change = absl::AnyInvocable<void(View&)>;
  Task<Result<View>> read_view();
  Task<Status> prepare();
  Task<Status> claim(bool& claimed);
  Task<Status> fence_the_dead();
  Task<Status> update_view(Change change);
  Task<void> check_deposed();
  void depose();
  Task<void> shorten_recorded_duration(Duration wait);

  // Messages.
  void serve();
  void receive(PeerId from, ByteView bytes);
  void receive_item(PeerId from, LeaseNumber lease, const lock::Item& item);
  void receive_foreign(PeerId from, const lock::Message& message);
  void report(LeaseNumber from, const lock::Report& report);
  void learn_name(const lock::Named& named);
  void send(LeaseNumber to, const lock::Item& item);
  void send_to_peer(PeerId to, LeaseNumber lease, const lock::Item& item);
  void flush();
  void carry_out(const Decisions& decisions);
  void carry_out(const FileLockTable::Answers& answers);

  // Leases.
  Task<void> join(PeerId from, lock::Join join);
  Task<Status> record_and_admit(lock::Join join);
  void condemn(LeaseNumber lease, const std::string& reason);
  void end_lease(LeaseNumber lease, std::string reason);
  Task<void> bury(LeaseNumber lease);
  Task<void> dismiss(LeaseNumber lease);
  Task<Status> record_state(LeaseNumber lease, LeaseState state);
  Task<Status> record_gone(LeaseNumber lease);
  Task<Status> recover(LeaseNumber lease);
  void drop(LeaseNumber lease);
  void note_ending(LeaseNumber lease, std::string why);
  void finish_rebuild();

  // Time.
  void tick();
  void arm(TimePoint at);
  void rearm();
  Task<void> wait_for_retry(Duration duration);

  World world;
  net::Transport& transport;
  disk::VirtualDisk& disk;
  Recoverer& recoverer;
  LockServerOptions options;

  View view;
  std::uint64_t view_version = 0;
  Mutex view_mutex;  // one update of the view at a time
  LeaseNumber own{};
  bool serving = false, deposed = false, stopping = false;
  Event wake;  // retries look again

  LockTable locks;
  FileLockTable file_locks;
  LeaseTable leases;
  struct Session {
    PeerId peer{};
    lock::Outbox outbox;
  };
  absl::btree_map<LeaseNumber, Session> sessions;
  absl::btree_map<LockName, lock::ProgramName> names;  // of locks of programs
  std::size_t names_limit = spare_names_max;           // from which on those not in use are dropped
  absl::btree_set<std::uint64_t> joining;              // instances
  absl::btree_map<LeaseNumber, std::string> endings;   // why a lease is over; empty: it left
  bool flush_posted = false;
  TimerId timer{};
  TimePoint armed_at = TimePoint::max();
  TimePoint last_tick{};
  std::uint64_t grants = 0, revokes = 0, expired = 0, recovered = 0;
  std::shared_ptr<bool> alive = std::make_shared<bool>(true);
  TaskScope scope;
};

// ---- The view ----

Task<Result<View>> LockServer::State::read_view() {
  Task<Result<disk::Register>> reading = disk.read_register(lock::view_register);
  Result<disk::Register> found = co_await reading;
  if (!found) co_return fail(found.error());
  view_version = found->version;
  if (found->version == 0) co_return View{};
  co_return lock::decode_view(found->value);
}

// One attempt to become the server of a new epoch.
Task<Status> LockServer::State::claim(bool& claimed) {
  Task<Result<View>> reading = read_view();
  Result<View> found = co_await reading;
  if (!found) co_return fail(found.error());
  View next = *found;
  next.epoch = lock::Epoch{raw(next.epoch) + 1};
  next.lease_duration = std::max(next.lease_duration, options.lease_duration);
  // Surely nobody lives behind these.
  for (LeaseRecord& record : next.leases) {
    if (record.is_server || record.in_process) {
      if (record.state == LeaseState::live) record.state = LeaseState::expired;
    }
  }
  LeaseRecord self;
  self.is_server = true;
  self.label = "lock server";
  const LeaseNumber lease = next.add(self).lease;
  // A number that two servers try at once, or one tries twice, is recorded for one of them only.
  Task<Status> admitting = disk.admit(lease);
  Status admitted = co_await admitting;
  if (!admitted) co_return admitted;
  Task<Result<std::uint64_t>> writing =
      disk.write_register(lock::view_register, view_version, lock::encode_view(next), lease);
  Result<std::uint64_t> written = co_await writing;
  if (!written && written.error().code == Errc::mismatch) co_return Status{};
  if (!written) co_return fail(written.error());
  view = std::move(next);
  view_version = *written;
  own = lease;
  claimed = true;
  co_return Status{};
}

Task<Status> LockServer::State::prepare() {
  bool claimed = false;
  for (int attempt = 0; !claimed; ++attempt) {
    if (attempt == prepare_attempts) {
      co_return fail(Errc::in_use, "register view: other lock servers keep changing it");
    }
    Task<Status> trying = claim(claimed);
    Status status = co_await trying;
    if (!status) co_return status;
  }
  Task<Status> fencing = fence_the_dead();
  Status status = co_await fencing;
  co_return status;
}

// Former servers have no log, so fenced is gone; the others wait for their replay.
Task<Status> LockServer::State::fence_the_dead() {
  std::vector<LeaseNumber> dead, servers;
  for (const LeaseRecord& record : view.leases) {
    if (record.state == LeaseState::live) continue;
    dead.push_back(record.lease);
    if (record.is_server) servers.push_back(record.lease);
  }
  for (LeaseNumber lease : dead) {
    Task<Status> fencing = disk.fence(lease);
    Status fenced = co_await fencing;
    if (!fenced) co_return fenced;
  }
  Change change = [servers](View& next) {
    for (LeaseNumber lease : servers) next.remove(lease);
  };
  Task<Status> updating = update_view(std::move(change));
  Status status = co_await updating;
  co_return status;
}

// Applies `change` to the newest view and makes it durable. `change` may be applied more than once.
Task<Status> LockServer::State::update_view(Change change) {
  Task<Mutex::Guard> locking = view_mutex.lock();
  Mutex::Guard guard = co_await locking;
  for (;;) {
    if (deposed) co_return fail(Errc::lost, "lock server: another one has taken over");
    View next = view;
    change(next);
    if (next == view) co_return Status{};
    Bytes bytes = lock::encode_view(next);
    if (bytes.size() > disk::register_size_max) {
      co_return fail(Errc::no_space, "register view: too many leases");
    }
    Task<Result<std::uint64_t>> writing =
        disk.write_register(lock::view_register, view_version, std::move(bytes), own);
    Result<std::uint64_t> written = co_await writing;
    if (written) {
      view = std::move(next);
      view_version = *written;
      co_return Status{};
    }
    if (written.error().code != Errc::mismatch) co_return fail(written.error());
    // Our own write whose acknowledgement was lost, or a successor.
    Task<Result<View>> reading = read_view();
    Result<View> found = co_await reading;
    if (!found) co_return fail(found.error());
    if (found->epoch != view.epoch) {
      depose();
    } else {
      view = std::move(*found);
    }
  }
}

void LockServer::State::depose() {
  if (deposed) return;
  deposed = true;
  serving = false;
  log_error(absl::StrCat("lock server of epoch ", raw(view.epoch),
                         ": another one has taken over; this one serves no more"));
  wake.notify_all();
}

// A message named a higher epoch. Only the register is believed.
Task<void> LockServer::State::check_deposed() {
  Task<Mutex::Guard> locking = view_mutex.lock();
  Mutex::Guard guard = co_await locking;
  Task<Result<disk::Register>> reading = disk.read_register(lock::view_register);
  Result<disk::Register> found = co_await reading;
  if (!found || found->version == view_version) co_return;
  Result<View> newest = lock::decode_view(found->value);
  if (newest && newest->epoch > view.epoch) depose();
}

// Once every lease of former times has run out, only ours count.
Task<void> LockServer::State::shorten_recorded_duration(Duration wait) {
  const TimePoint until = world.clock.now() + wait;
  while (!stopping && !deposed && world.clock.now() < until) {
    Task<void> waiting = wait_for_retry(until - world.clock.now());
    co_await waiting;
  }
  if (stopping) co_return;
  Change change = [duration = options.lease_duration](View& next) {
    next.lease_duration = duration;
  };
  Task<Status> updating = update_view(std::move(change));
  Status status = co_await updating;  // On failure the next restart waits longer, no more.
  (void)status;
}

// ---- Messages ----

void LockServer::State::serve() {
  CHECK(own != LeaseNumber::none && !serving);
  serving = true;
  locks.number_grants_from(raw(view.epoch) << fence_grant_bits);
  const TimePoint now = world.clock.now();
  for (const LeaseRecord& record : view.leases) {
    if (record.is_server) continue;
    if (record.state == LeaseState::live) {
      leases.inherited(now, record.lease, view.lease_duration);
      sessions[record.lease];
    } else {
      rarely<"lock server: a death is continued after a restart">();
      leases.inherited_dying(record.lease);
      scope.spawn(bury(record.lease));
    }
  }
  if (view.lease_duration > options.lease_duration) {
    scope.spawn(shorten_recorded_duration(view.lease_duration));
  }
  transport.on_message(net::Channel::lock,
                       [this](PeerId from, ByteView message) { receive(from, message); });
  if (planted(Fault::gainer_grants_early)) {
    Decisions decisions;
    locks.start_granting(now, decisions);
  }
  last_tick = now;
  finish_rebuild();
  rearm();
}

void LockServer::State::receive(PeerId from, ByteView bytes) {
  if (!serving) return;
  auto message = lock::decode_message(bytes, lock::Direction::from_clerk);
  if (!message) {
    log_warning(absl::StrCat("lock server: ", message.error().message()));
    transport.disconnect(from, message.error().message());
    return;
  }
  const lock::Header& header = message->header;
  if (header.epoch > view.epoch) {
    scope.spawn(check_deposed());
    return;
  }
  const bool known = leases.live(header.lease);
  if (known) sessions[header.lease].peer = from;
  if (!known || header.epoch < view.epoch) {
    receive_foreign(from, *message);
    return;
  }
  for (const lock::Item& item : message->items) {
    if (!leases.live(header.lease)) break;  // It has just left.
    receive_item(from, header.lease, item);
  }
  rearm();
}

// From a clerk that has not joined, is of a former epoch, or whose lease is over.
void LockServer::State::receive_foreign(PeerId from, const lock::Message& message) {
  const LeaseNumber lease = message.header.lease;
  if (lease == LeaseNumber::none) {
    for (const lock::Item& item : message.items) {
      if (const auto* request = std::get_if<lock::Join>(&item)) scope.spawn(join(from, *request));
    }
    return;
  }
  if (leases.live(lease)) {
    send_to_peer(from, lease, lock::Rejoin{});
    return;
  }
  // Only what the view says may be told: a lease that dies but is still recorded live hears
  // nothing.
  const LeaseRecord* record = view.find(lease);
  if (record != nullptr && record->state == LeaseState::live) return;
  auto ending = endings.find(lease);
  if (ending != endings.end() && ending->second.empty()) {
    send_to_peer(from, lease, lock::Left{});
    return;
  }
  lock::Lost lost;
  lost.why = ending != endings.end() ? ending->second : "the lock service knows it no more";
  send_to_peer(from, lease, lost);
}

void LockServer::State::receive_item(PeerId from, LeaseNumber lease, const lock::Item& item) {
  const TimePoint now = world.clock.now();
  Decisions decisions;
  FileLockTable::Answers answers;
  if (const auto* request = std::get_if<lock::Request>(&item)) {
    locks.request(now, lease, *request, decisions);
  } else if (const auto* release = std::get_if<lock::Release>(&item)) {
    locks.release(now, lease, *release, decisions);
  } else if (const auto* keep = std::get_if<lock::Keep>(&item)) {
    locks.keep(now, lease, *keep, decisions);
  } else if (const auto* renew = std::get_if<lock::Renew>(&item)) {
    if (leases.renew(now, lease)) {
      lock::Renewed renewed;
      renewed.sent = renew->sent;
      renewed.terms = {options.lease_duration, options.clock_ratio_milli};
      renewed.wall = world.clock.wall();
      send(lease, renewed);
    }
  } else if (const auto* page = std::get_if<lock::Report>(&item)) {
    report(lease, *page);
  } else if (const auto* call = std::get_if<lock::FileLockCall>(&item)) {
    // During a rebuild it is not answered: it comes again.
    if (locks.granting()) file_locks.call(lease, *call, answers);
  } else if (std::get_if<lock::Leave>(&item) != nullptr) {
    leases.dying(lease);
    locks.dying(now, lease, decisions);
    file_locks.dying(lease);
    scope.spawn(dismiss(lease));
  } else if (const auto* named = std::get_if<lock::Named>(&item)) {
    learn_name(*named);
  } else if (const auto* request_to_join = std::get_if<lock::Join>(&item)) {
    scope.spawn(join(from, *request_to_join));
  }
  carry_out(decisions);
  carry_out(answers);
}

void LockServer::State::report(LeaseNumber from, const lock::Report& report) {
  const LeaseTable::Page page = leases.report(world.clock.now(), from, report.page, report.last);
  if (page.accept) {
    for (const lock::Hold& hold : report.holds) locks.reported(from, hold);
    for (const lock::FileLock& file_lock : report.file_locks) {
      if (file_lock.mode != lock::Mode::none) file_locks.reported(from, file_lock);
    }
  }
  if (page.acknowledge) send(from, lock::ReportReceived{report.page});
  finish_rebuild();
}

void LockServer::State::learn_name(const lock::Named& named) {
  if (names.size() >= names_limit) {
    absl::erase_if(names, [this](const auto& one) { return !locks.has(one.first); });
    names_limit = 2 * names.size() + spare_names_max;
  }
  names.emplace(named.name, named.called);
}

void LockServer::State::finish_rebuild() {
  if (locks.granting() || !leases.rebuilt()) return;
  Decisions decisions;
  locks.start_granting(world.clock.now(), decisions);
  carry_out(decisions);
  for (const auto& [lease, session] : sessions) send(lease, lock::Ready{});
  log_info(absl::StrCat("lock server: epoch ", raw(view.epoch), " grants, ", locks.locks(),
                        " locks of ", sessions.size(), " clients are known"));
}

void LockServer::State::send(LeaseNumber to, const lock::Item& item) {
  auto session = sessions.find(to);
  if (session == sessions.end()) return;
  session->second.outbox.add(item);
  if (flush_posted) return;
  flush_posted = true;
  std::weak_ptr<bool> guard = alive;
  world.executor.post([this, guard] {
    if (!guard.expired()) flush();
  });
}

void LockServer::State::send_to_peer(PeerId to, LeaseNumber lease, const lock::Item& item) {
  lock::Outbox outbox;
  outbox.add(item);
  for (Bytes& bytes : outbox.take({lock::Direction::from_server, view.epoch, lease})) {
    transport.send(to, net::Channel::lock, std::move(bytes));
  }
}

void LockServer::State::flush() {
  flush_posted = false;
  for (auto& [lease, session] : sessions) {
    if (session.outbox.empty()) continue;
    for (Bytes& bytes : session.outbox.take({lock::Direction::from_server, view.epoch, lease})) {
      if (session.peer != PeerId::none && serving) {
        transport.send(session.peer, net::Channel::lock, std::move(bytes));
      }
    }
  }
}

void LockServer::State::carry_out(const Decisions& decisions) {
  for (const Decision& decision : decisions) {
    switch (decision.kind) {
      case Decision::Kind::grant:
        ++grants;
        send(decision.lease,
             lock::Grant{decision.name, decision.sequence, decision.mode, decision.fence});
        break;
      case Decision::Kind::refused:
        send(decision.lease, lock::Refused{decision.name, decision.sequence});
        break;
      case Decision::Kind::revoke:
        ++revokes;
        send(decision.lease, lock::Revoke{decision.name, decision.sequence, decision.mode,
                                          decision.is_try, decision.round});
        break;
      case Decision::Kind::expire:
        condemn(decision.lease, absl::StrCat("it has not given up ", to_string(decision.name),
                                             " within the revoke deadline"));
        break;
    }
  }
}

void LockServer::State::carry_out(const FileLockTable::Answers& answers) {
  for (const FileLockTable::Answer& answer : answers) send(answer.lease, answer.answer);
}

// ---- Leases ----

Task<void> LockServer::State::join(PeerId from, lock::Join join) {
  // A repetition while the first is under way: it comes again.
  if (!joining.insert(join.instance).second) co_return;
  Task<Status> admitting = record_and_admit(join);
  Status admitted = co_await admitting;
  joining.erase(join.instance);
  if (!serving) co_return;
  if (!admitted) {
    lock::JoinRefused refused;
    refused.instance = join.instance;
    refused.why = admitted.error().message();
    send_to_peer(from, LeaseNumber::none, refused);
    co_return;
  }
  const LeaseRecord& record = *view.find_instance(join.instance);
  sessions[record.lease].peer = from;
  lock::Joined joined;
  joined.instance = join.instance;
  joined.sent = join.sent;
  joined.lease = record.lease;
  joined.slot = record.slot;
  joined.terms = {options.lease_duration, options.clock_ratio_milli};
  joined.wall = world.clock.wall();
  send_to_peer(from, record.lease, joined);
}

// Recorded live, then admitted at the disk, then minded. Repeating it does no harm.
Task<Status> LockServer::State::record_and_admit(lock::Join join) {
  Change change = [join, in_process = options.in_process](View& next) {
    if (next.find_instance(join.instance) != nullptr) return;
    LeaseRecord record;
    record.in_process = in_process;
    record.slot = join.has_log ? next.lowest_free_slot() : lock::no_slot;
    record.instance = join.instance;
    record.label = join.label;
    next.add(std::move(record));
  };
  Task<Status> updating = update_view(std::move(change));
  Status updated = co_await updating;
  if (!updated) co_return updated;
  const LeaseNumber lease = view.find_instance(join.instance)->lease;
  if (leases.renew(world.clock.now(), lease)) co_return Status{};
  if (view.find(lease)->state != LeaseState::live || leases.known(lease)) {
    co_return fail(Errc::lost, "join again: the lease of this instance is over");
  }
  Task<Status> admitting = disk.admit(lease);
  Status admitted = co_await admitting;
  if (!admitted) co_return admitted;
  leases.joined(world.clock.now(), lease);
  log_info(absl::StrCat(describe_lease(*view.find(lease)), " joined with slot ",
                        view.find(lease)->slot));
  co_return Status{};
}

void LockServer::State::note_ending(LeaseNumber lease, std::string why) {
  endings[lease] = std::move(why);
  if (endings.size() > endings_max) endings.erase(endings.begin());
}

// Until it has run out its clerk may use all its locks, so it only is not renewed any more.
void LockServer::State::condemn(LeaseNumber lease, const std::string& reason) {
  if (!leases.condemn(lease, reason)) return;
  log_warning(absl::StrCat(describe_lease(*view.find(lease)), " is renewed no more: ", reason));
}

// The order of death: docs/protocol.md, "The view".
void LockServer::State::end_lease(LeaseNumber lease, std::string reason) {
  if (!leases.live(lease)) return;
  log_warning(absl::StrCat(describe_lease(*view.find(lease)), " is ended: ", reason,
                           "; its log (slot ", view.find(lease)->slot,
                           ") is replayed before its locks are given to others"));
  ++expired;
  note_ending(lease, std::move(reason));
  leases.dying(lease);
  Decisions decisions;
  locks.dying(world.clock.now(), lease, decisions);
  file_locks.dying(lease);
  carry_out(decisions);
  scope.spawn(bury(lease));
}

Task<void> LockServer::State::bury(LeaseNumber lease) {
  const std::string who = describe_lease(*view.find(lease));
  enum class Step { record_expired, fence, record_recovering, recover, record_gone, done };
  Step step = Step::record_expired;
  for (Duration pause = retry_first; step != Step::done;) {
    if (stopping || deposed) co_return;
    Task<Status> doing;
    const char* what = "";
    switch (step) {
      case Step::record_expired:
        what = "recording that it is over";
        doing = record_state(lease, LeaseState::expired);
        break;
      case Step::fence:
        what = "fencing it";
        doing = disk.fence(lease);
        break;
      case Step::record_recovering:
        what = "recording its recovery";
        doing = record_state(lease, LeaseState::recovering);
        break;
      case Step::recover:
        what = "replaying its log";
        doing = recover(lease);
        break;
      case Step::record_gone:
        what = "recording that it is gone";
        doing = record_gone(lease);
        break;
      case Step::done:
        break;
    }
    Status status = co_await doing;
    if (status) {
      step = static_cast<Step>(static_cast<int>(step) + 1);
      pause = retry_first;
      continue;
    }
    if (stopping || deposed) co_return;
    log_warning(absl::StrCat(who, ": ", what,
                             " failed, its locks stay frozen: ", status.error().message()));
    Task<void> waiting = wait_for_retry(pause);
    co_await waiting;
    pause = std::min(pause * 2, retry_most);
  }
  ++recovered;
  log_info(absl::StrCat(who, " is recovered"));
  drop(lease);
}

Task<Status> LockServer::State::record_state(LeaseNumber lease, LeaseState state) {
  Change change = [lease, state, by = own](View& next) {
    LeaseRecord* record = next.find(lease);
    if (record == nullptr || record->state > state) return;
    record->state = state;
    record->recoverer = state == LeaseState::recovering ? by : LeaseNumber::none;
  };
  Task<Status> updating = update_view(std::move(change));
  Status status = co_await updating;
  if (status && state == LeaseState::expired) {
    lock::Lost lost;
    auto ending = endings.find(lease);
    if (ending != endings.end()) lost.why = ending->second;
    send(lease, lost);
  }
  co_return status;
}

Task<Status> LockServer::State::recover(LeaseNumber lease) {
  const LeaseRecord* record = view.find(lease);
  if (record == nullptr || record->slot == lock::no_slot) co_return Status{};
  Task<Status> recovering = recoverer.recover(lease, record->slot);
  Status status = co_await recovering;
  co_return status;
}

Task<Status> LockServer::State::record_gone(LeaseNumber lease) {
  Change change = [lease](View& next) { next.remove(lease); };
  Task<Status> updating = update_view(std::move(change));
  Status status = co_await updating;
  co_return status;
}

// A clerk leaves in peace: nothing of it needs a replay.
Task<void> LockServer::State::dismiss(LeaseNumber lease) {
  for (Duration pause = retry_first;; pause = std::min(pause * 2, retry_most)) {
    Task<Status> fencing = disk.fence(lease);
    Status status = co_await fencing;
    if (status) {
      Task<Status> recording = record_gone(lease);
      status = co_await recording;
    }
    if (status) break;
    if (stopping || deposed) co_return;
    log_warning(absl::StrCat("lease ", raw(lease), " cannot leave: ", status.error().message()));
    Task<void> waiting = wait_for_retry(pause);
    co_await waiting;
    if (stopping || deposed) co_return;
  }
  note_ending(lease, "");
  const PeerId peer = sessions[lease].peer;
  drop(lease);
  if (serving) send_to_peer(peer, lease, lock::Left{});
}

void LockServer::State::drop(LeaseNumber lease) {
  Decisions decisions;
  FileLockTable::Answers answers;
  sessions.erase(lease);
  leases.gone(lease);
  locks.gone(world.clock.now(), lease, decisions);
  file_locks.gone(lease, answers);
  carry_out(decisions);
  carry_out(answers);
  finish_rebuild();
  rearm();
}

// ---- Time ----

void LockServer::State::tick() {
  if (!serving) return;
  const TimePoint now = world.clock.now();
  if (now - last_tick > options.lease_duration / 2) {
    log_warning("lock server: it was stopped itself; every lease gets a full duration");
    rarely<"lock server: it was stopped itself">();
    leases.extend_all(now);
  }
  last_tick = now;
  for (const LeaseTable::Due& due : leases.due(now)) end_lease(due.lease, due.why);
  Decisions decisions;
  locks.tick(now, decisions);
  carry_out(decisions);
  rearm();
}

void LockServer::State::arm(TimePoint at) {
  if (timer != TimerId::none && armed_at <= at) return;
  if (timer != TimerId::none) world.executor.cancel(timer);
  armed_at = at;
  timer = world.executor.at(at, [this] {
    timer = TimerId::none;
    armed_at = TimePoint::max();
    tick();
  });
}

// At least every tenth of a lease, to notice when this process was stopped.
void LockServer::State::rearm() {
  if (!serving) return;
  arm(std::min(locks.next_tick(), last_tick + options.lease_duration / 10));
}

Task<void> LockServer::State::wait_for_retry(Duration duration) {
  std::weak_ptr<bool> guard = alive;
  const TimerId until = world.executor.at(world.clock.now() + duration, [this, guard] {
    if (!guard.expired()) wake.notify_all();
  });
  co_await wake.next();
  world.executor.cancel(until);
}

// ---- The interface ----

LockServer::LockServer(World world, net::Transport& transport, disk::VirtualDisk& disk,
                       Recoverer& recoverer, LockServerOptions options)
    : state_(std::make_unique<State>(world, transport, disk, recoverer, options)) {
  CHECK(options.lease_duration >= lock::lease_duration_min &&
        options.lease_duration <= lock::lease_duration_max);
  CHECK(options.clock_ratio_milli >= 1000 && options.clock_ratio_milli <= 4000);
}

LockServer::~LockServer() {
  if (state_->timer != TimerId::none) state_->world.executor.cancel(state_->timer);
  state_->transport.on_message(net::Channel::lock, {});
}

Task<Status> LockServer::prepare() { return state_->prepare(); }
LeaseNumber LockServer::own_lease() const { return state_->own; }

std::vector<std::uint32_t> LockServer::slots_in_use() const {
  std::vector<std::uint32_t> slots;
  for (const LeaseRecord& record : state_->view.leases) {
    if (record.slot != lock::no_slot) slots.push_back(record.slot);
  }
  std::sort(slots.begin(), slots.end());
  return slots;
}

std::vector<std::uint32_t> LockServer::slots_of_the_dead() const {
  std::vector<std::uint32_t> slots;
  for (const LeaseRecord& record : state_->view.leases) {
    if (record.slot == lock::no_slot || record.state == LeaseState::live) continue;
    slots.push_back(record.slot);
  }
  std::sort(slots.begin(), slots.end());
  return slots;
}

Task<Status> LockServer::mark_recovered(std::vector<std::uint32_t> slots) {
  CHECK(!state_->serving);
  State::Change change = [slots](View& next) {
    std::erase_if(next.leases, [&slots](const LeaseRecord& record) {
      return record.state != LeaseState::live &&
             std::find(slots.begin(), slots.end(), record.slot) != slots.end();
    });
  };
  return state_->update_view(std::move(change));
}

void LockServer::serve() { state_->serve(); }

Task<Status> LockServer::stop() {
  State& s = *state_;
  s.serving = false;
  s.stopping = true;
  while (s.scope.running() > 0) {
    s.wake.notify_all();
    Task<void> sleeping = sleep_for(s.world, 1ms);
    co_await sleeping;
  }
  if (s.own == LeaseNumber::none || s.deposed) co_return Status{};
  Task<Status> recording = s.record_gone(s.own);
  Status status = co_await recording;
  if (!status) co_return status;
  Task<Status> fencing = s.disk.fence(s.own);
  status = co_await fencing;
  co_return status;
}

std::vector<ProgramLock> LockServer::program_locks() const {
  const State& s = *state_;
  const TimePoint now = s.world.clock.now();
  const auto describe = [&](const LockTable::Party& party) {
    ProgramParty one;
    one.lease = party.lease;
    if (const LeaseRecord* record = s.view.find(party.lease)) one.label = record->label;
    one.mode = party.mode;
    one.is_asked = party.asked_to_keep < party.mode;
    one.fence = party.fence;
    if (party.since != TimePoint{}) one.since = now - party.since;
    return one;
  };
  std::vector<ProgramLock> all;
  for (const LockTable::Parties& parties : s.locks.parties(lock::LockClass::program)) {
    ProgramLock& lock = all.emplace_back();
    auto called = s.names.find(parties.name);
    if (called != s.names.end()) lock.name = called->second;
    for (const auto& party : parties.holders) lock.holders.push_back(describe(party));
    for (const auto& party : parties.waiters) lock.waiters.push_back(describe(party));
  }
  std::sort(all.begin(), all.end(),
            [](const ProgramLock& a, const ProgramLock& b) { return a.name < b.name; });
  return all;
}

LockServerStatus LockServer::status() const {
  const State& s = *state_;
  LockServerStatus status;
  status.epoch = raw(s.view.epoch);
  status.rebuilding = s.serving && !s.locks.granting();
  status.own_lease = s.own;
  for (const LeaseRecord& record : s.view.leases) {
    if (record.is_server) continue;
    LeaseStatus lease;
    lease.lease = record.lease;
    lease.state = lock::state_name(record.state);
    lease.label = record.label;
    lease.slot = record.slot;
    lease.left = s.leases.left(s.world.clock.now(), record.lease);
    lease.locks = s.locks.held_by(record.lease);
    status.leases.push_back(std::move(lease));
  }
  status.locks = s.locks.locks();
  status.waiting = s.locks.waiting() + s.file_locks.waiting();
  status.grants = s.grants;
  status.revokes = s.revokes;
  status.expired = s.expired;
  status.recovered = s.recovered;
  return status;
}

}  // namespace plumeria::lockd
