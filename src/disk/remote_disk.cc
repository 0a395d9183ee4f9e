#include "disk/remote_disk.h"

#include <absl/strings/str_cat.h>

#include <algorithm>
#include <deque>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "base/async.h"
#include "base/check.h"
#include "base/log.h"
#include "base/number.h"
#include "base/rare.h"
#include "disk/retained.h"
#include "disk/wire.h"

namespace plumeria::disk {

using net::Channel;
using net::PeerId;
using wire::Operation;
using wire::Reply;
using wire::Request;
using wire::SessionId;

namespace {

// What a request counts at least, so that the window bounds their number too.
constexpr std::uint64_t cost_min = 8192;

struct Answer {
  Reply reply;
  Bytes payload;
  std::uint64_t incarnation = 0;
};

bool is_kept(const Request& request) {
  return (request.operation == Operation::write && request.durability == Durability::retain) ||
         request.operation == Operation::discard || request.operation == Operation::preallocate;
}

template <class T>
Result<T> error_of(const Answer& answer) {
  return fail(*answer.reply.error);
}

}  // namespace

struct RemoteDisk::State {
  enum class Phase {
    disconnected,
    opening,    // asked for a session
    replaying,  // a new incarnation gets back what it may have lost, and nothing else
    ready,
  };
  // A request that is not answered yet.
  struct Call {
    std::uint64_t order = 0;  // of the calls of our caller
    Request request;
    SharedBytes payload;
    std::optional<Promise<Answer>> promise;  // empty: a replay
    TimePoint began{};
    TimePoint sent{};            // in this session, the last time
    Duration patience{};         // until it is sent again
    std::uint32_t sessions = 0;  // in which it was sent
    std::uint64_t covers = 0;    // a flush: Retained::last_acknowledgement() when it was sent
  };

  State(World w, net::Transport& t, std::string a, Options o)
      : world(w),
        transport(t),
        address(std::move(a)),
        options(o),
        window(w.executor, std::max(o.window, std::size_t{2} * transfer_max)) {}

  // Calls.
  Task<Answer> call(Request request, SharedBytes payload);
  Task<Answer> call(Request request) { return call(std::move(request), SharedBytes()); }
  Task<Status> change(Request request, SharedBytes payload);
  Task<Status> flush(std::vector<Segment> segments);  // none: all
  Task<void> flush_in_background();
  Task<Result<std::uint64_t>> update_register(Request request, SharedBytes value);
  Task<Result<Bytes>> read(Request request);
  Task<Result<std::optional<Extent>>> next_extent(Request request);
  Task<Result<std::vector<Segment>>> list_segments(Request request);
  Task<Result<Register>> read_register(Request request);
  Task<Result<std::vector<Snapshot>>> list_snapshots();
  Task<Result<SnapshotId>> create_snapshot(Request request);
  Task<Status> delete_snapshot(Request request);
  Error unreadable() const { return Error{Errc::corrupt, absl::StrCat("answer of ", address)}; }

  // Sessions.
  void connection(bool connected);
  void ask_for_session();
  void opened(const wire::Opened& message);
  void continue_session();
  void start_replay();
  void pump_replay();
  bool may_replay(const Retained::Change& change) const;
  void replay_answered(const Call& call, const Reply& reply);
  void become_ready();

  // Messages.
  void receive(ByteView message);
  void answered(Reply reply, ByteView payload);
  void send_first_time(Call& call);
  void transmit(Call& call);
  void tick();
  void arm_timer();
  void give_up_old_calls();

  const World world;
  net::Transport& transport;
  const std::string address;
  const Options options;
  PeerId server{};

  Phase phase = Phase::disconnected;
  SessionId session;
  std::uint64_t nonce = 0;
  TimePoint asked{};
  Duration ask_patience{};
  std::uint64_t last_number = 0;  // of this session

  std::uint64_t last_order = 0;
  std::map<std::uint64_t, Call> calls;        // by order, unanswered
  std::map<std::uint64_t, Call> replays;      // by order, those under way
  std::map<std::uint64_t, Call*> under_way;   // by number in this session
  std::deque<std::uint64_t> replays_to_send;  // orders
  std::size_t replay_bytes = 0;               // under way

  Retained retained;
  std::map<LeaseNumber, Error> losses;  // acknowledged changes that a restarted server refused
  Semaphore window;
  bool flushing_in_background = false;
  std::optional<Error> background_flush_error;
  Event retained_shrunk{world.executor};
  Event ready_again{world.executor};
  Event call_ended{world.executor};
  TimerId timer{};
  bool timer_armed = false;
  Counters counters;
  TaskScope scope;
};

RemoteDisk::RemoteDisk(World world, net::Transport& transport, std::string address, Options options)
    : state_(std::make_unique<State>(world, transport, std::move(address), options)) {
  State* state = state_.get();
  transport.on_message(Channel::disk, [state](PeerId from, ByteView message) {
    if (from == state->server) state->receive(message);
  });
  transport.on_connection(Channel::disk, [state](PeerId peer, bool connected) {
    if (peer == state->server) state->connection(connected);
  });
  state->server = transport.connect(state->address);
}

RemoteDisk::~RemoteDisk() {
  state_->transport.on_message(Channel::disk, {});
  state_->transport.on_connection(Channel::disk, {});
  if (state_->timer_armed) state_->world.executor.cancel(state_->timer);
}

RemoteDisk::Counters RemoteDisk::counters() const {
  Counters counters = state_->counters;
  counters.retained_bytes = state_->retained.bytes();
  counters.window_bytes =
      std::max(state_->options.window, std::size_t{2} * transfer_max) - state_->window.available();
  counters.unanswered = state_->calls.size();
  counters.incarnation = state_->session.incarnation;
  counters.connected = state_->phase == State::Phase::ready;
  return counters;
}

void RemoteDisk::forget(LeaseNumber lease) {
  state_->retained.erase_all_of(lease);
  state_->losses.erase(lease);
  state_->retained_shrunk.notify_all();
}

Task<void> RemoteDisk::stop() {
  while (state_->flushing_in_background || !state_->calls.empty()) {
    co_await state_->call_ended.next();
  }
}

Task<Status> RemoteDisk::wait_until_connected(Duration patience) {
  State& state = *state_;
  const TimePoint deadline = state.world.clock.now() + patience;
  const TimerId timer =
      state.world.executor.at(deadline, [&state] { state.ready_again.notify_all(); });
  while (state.phase != State::Phase::ready && state.world.clock.now() < deadline) {
    co_await state.ready_again.next();
  }
  state.world.executor.cancel(timer);
  if (state.phase == State::Phase::ready) co_return Status();
  std::string why = state.transport.last_error(state.server);
  if (why.empty()) why = "no answer";
  co_return fail(Errc::unavailable, absl::StrCat(state.address, " (", why, ")"));
}

// ---- calls

Task<Answer> RemoteDisk::State::call(Request request, SharedBytes payload) {
  const bool is_read =
      request.operation == Operation::read || request.operation == Operation::read_snapshot;
  const std::uint64_t reads = is_read ? request.length : 0;
  const std::uint64_t cost = cost_min + payload.size() + reads;
  co_await window.acquire(cost);
  Promise<Answer> promise(world.executor);
  Future<Answer> future = promise.future();
  Call fresh;
  fresh.order = ++last_order;
  fresh.request = std::move(request);
  fresh.payload = std::move(payload);
  fresh.promise = promise;
  fresh.began = world.clock.now();
  Call& call = calls.emplace(fresh.order, std::move(fresh)).first->second;
  ++counters.requests;
  if (phase == Phase::ready) send_first_time(call);
  arm_timer();
  Answer answer = co_await future;
  window.release(cost);
  co_return answer;
}

Task<Status> RemoteDisk::State::change(Request request, SharedBytes payload) {
  while (retained.bytes() >= options.retained_max && is_kept(request)) {
    if (background_flush_error) {
      const Error error = *std::exchange(background_flush_error, std::nullopt);
      co_return fail(error);
    }
    if (!flushing_in_background) scope.spawn(flush_in_background());
    co_await retained_shrunk.next();
  }
  const Answer answer = co_await call(std::move(request), std::move(payload));
  if (retained.bytes() >= options.retained_soft && !flushing_in_background) {
    scope.spawn(flush_in_background());
  }
  if (answer.reply.error) co_return fail(*answer.reply.error);
  co_return Status();
}

Task<void> RemoteDisk::State::flush_in_background() {
  flushing_in_background = true;
  std::vector<Segment> all;
  const Status flushed = co_await flush(std::move(all));
  flushing_in_background = false;
  if (!flushed) background_flush_error = flushed.error();
  retained_shrunk.notify_all();
  call_ended.notify_all();
}

Task<Status> RemoteDisk::State::flush(std::vector<Segment> segments) {
  Request request;
  request.operation = Operation::flush;
  SharedBytes payload(wire::encode_segments(segments));
  const Answer answer = co_await call(std::move(request), std::move(payload));
  if (answer.reply.error) co_return fail(*answer.reply.error);
  if (!losses.empty()) co_return fail(losses.begin()->second);
  co_return Status();
}

// A restarted server does not know whether it made the update already: then the register tells.
Task<Result<std::uint64_t>> RemoteDisk::State::update_register(Request request, SharedBytes value) {
  const std::uint64_t expected = request.length;
  const std::uint64_t sessions_before = counters.sessions;
  Request look;
  look.operation = Operation::read_register;
  look.name = request.name;
  const Answer answer = co_await call(std::move(request), value);
  if (!answer.reply.error) co_return answer.reply.first;
  if (answer.reply.error->code == Errc::mismatch && counters.sessions != sessions_before) {
    const Answer current = co_await call(std::move(look));
    if (!current.reply.error && current.reply.first == expected + 1 &&
        std::ranges::equal(current.payload, value.view())) {
      co_return current.reply.first;
    }
  }
  co_return fail(*answer.reply.error);
}

// ---- sessions

void RemoteDisk::State::connection(bool connected) {
  if (connected) return ask_for_session();
  phase = Phase::disconnected;
}

void RemoteDisk::State::ask_for_session() {
  phase = Phase::opening;
  nonce = world.random.next();
  asked = world.clock.now();
  ask_patience = options.resend_min;
  wire::Open open;
  open.nonce = nonce;
  open.wanted = session;
  transport.send(server, Channel::disk, encode(open));
  arm_timer();
}

void RemoteDisk::State::opened(const wire::Opened& message) {
  if (phase != Phase::opening || message.nonce != nonce) return;
  if (message.session == session) return continue_session();
  if (session.incarnation != 0 && message.session.incarnation != session.incarnation) {
    ++counters.restarts;
    log_info(absl::StrCat("disk server ", address, " was restarted; sending again ",
                          retained.size(), " changes that no flush had covered"));
  }
  ++counters.sessions;
  session = message.session;
  last_number = 0;
  under_way.clear();
  start_replay();
}

// The server still knows us: it has executed what it got, and remembers the answers.
void RemoteDisk::State::continue_session() {
  phase = replays.empty() && replays_to_send.empty() ? Phase::ready : Phase::replaying;
  for (auto& [number, call] : under_way) transmit(*call);
  if (phase == Phase::replaying) return pump_replay();
  become_ready();
}

void RemoteDisk::State::start_replay() {
  phase = Phase::replaying;
  replays.clear();
  replay_bytes = 0;
  const std::vector<std::uint64_t> orders = retained.unknown_to(session.incarnation);
  replays_to_send.assign(orders.begin(), orders.end());
  pump_replay();
}

// Those that overlap go one after the other.
bool RemoteDisk::State::may_replay(const Retained::Change& change) const {
  if (replays.empty()) return true;
  if (replay_bytes + change.payload.size() > options.window) return false;
  return std::none_of(replays.begin(), replays.end(), [&](const auto& entry) {
    const Call& other = entry.second;
    return overlap(change.request, change.payload.size(), other.request, other.payload.size());
  });
}

void RemoteDisk::State::pump_replay() {
  constexpr std::size_t replays_max = 256;  // under way
  while (!replays_to_send.empty() && replays.size() < replays_max) {
    const std::uint64_t order = replays_to_send.front();
    const Retained::Change* change = retained.find(order);
    if (change != nullptr && !may_replay(*change)) break;
    replays_to_send.pop_front();
    if (change == nullptr) continue;  // forgotten meanwhile
    Call replay;
    replay.order = order;
    replay.request = change->request;
    replay.payload = change->payload;
    replay.began = world.clock.now();
    replay_bytes += replay.payload.size();
    rarely<"remote disk: a change is sent again to a new incarnation">();
    ++counters.replayed;
    send_first_time(replays.emplace(order, std::move(replay)).first->second);
  }
  if (replays.empty() && replays_to_send.empty()) become_ready();
}

void RemoteDisk::State::replay_answered(const Call& call, const Reply& reply) {
  replay_bytes -= call.payload.size();
  if (retained.find(call.order) == nullptr) return;  // forgotten meanwhile
  if (!reply.error) {
    retained.acknowledged(call.order, call.request, call.payload, session.incarnation);
    return;
  }
  rarely<"remote disk: an acknowledged change is refused">();
  retained.erase(call.order);
  log_error(absl::StrCat("disk server ", address, " lost an acknowledged change at ",
                         to_string(call.request.address),
                         " and refuses to take it again: ", reply.error->message()));
  losses.emplace(call.request.lease, *reply.error);
}

void RemoteDisk::State::become_ready() {
  phase = Phase::ready;
  for (auto& [order, call] : calls) {
    if (call.request.session != session) send_first_time(call);
  }
  ready_again.notify_all();
}

// ---- messages

void RemoteDisk::State::receive(ByteView message) {
  const auto type = wire::type_of(message);
  if (type == wire::MessageType::reply) {
    ByteView payload;
    auto reply = wire::decode_reply(message, &payload);
    if (reply) return answered(*std::move(reply), payload);
  } else if (type == wire::MessageType::opened) {
    const auto decoded = wire::decode_opened(message);
    if (decoded) return opened(*decoded);
  } else if (type == wire::MessageType::no_session) {
    const auto decoded = wire::decode_no_session(message);
    const bool is_ours = decoded && decoded->session == session;
    if (is_ours && (phase == Phase::ready || phase == Phase::replaying)) {
      rarely<"remote disk: the server does not know the session">();
      ask_for_session();
    }
    if (decoded) return;
  }
  transport.disconnect(server, "disk: cannot read the server's answer");
}

void RemoteDisk::State::answered(Reply reply, ByteView payload) {
  if (reply.session != session) return;  // Of a session before.
  const auto found = under_way.find(reply.number);
  if (found == under_way.end()) return;  // It came twice.
  const std::uint64_t order = found->second->order;
  const bool is_replay = !found->second->promise.has_value();
  under_way.erase(found);
  if (is_replay) {
    const auto replay = replays.extract(order);
    replay_answered(replay.mapped(), reply);
    if (phase == Phase::replaying) pump_replay();
    return;
  }
  auto node = calls.extract(order);
  Call& call = node.mapped();
  if (!reply.error && is_kept(call.request)) {
    retained.acknowledged(order, std::move(call.request), std::move(call.payload),
                          session.incarnation);
  } else if (!reply.error && call.request.operation == Operation::flush) {
    const auto segments = wire::decode_segments(call.payload.view());
    retained.covered(call.covers, session.incarnation, *segments);
    retained_shrunk.notify_all();
  }
  Answer answer;
  answer.reply = std::move(reply);
  answer.payload = to_bytes(payload);
  answer.incarnation = session.incarnation;
  call.promise->set(std::move(answer));
  call_ended.notify_all();
}

// The first time in this session.
void RemoteDisk::State::send_first_time(Call& call) {
  call.request.session = session;
  call.request.number = ++last_number;
  call.patience = options.resend_min;
  if (call.sessions++ > 0) ++counters.resent;
  // What is acknowledged by now is on the server of this session: the replay is over.
  call.covers = retained.last_acknowledgement();
  under_way.emplace(call.request.number, &call);
  transmit(call);
}

void RemoteDisk::State::transmit(Call& call) {
  call.sent = world.clock.now();
  call.request.answered_below = under_way.begin()->first;
  transport.send(server, Channel::disk, encode(call.request), call.payload);
}

void RemoteDisk::State::arm_timer() {
  if (timer_armed) return;
  timer_armed = true;
  timer = world.executor.at(world.clock.now() + options.resend_min / 2, [this] { tick(); });
}

void RemoteDisk::State::tick() {
  timer_armed = false;
  const TimePoint now = world.clock.now();
  give_up_old_calls();
  if (phase == Phase::opening && now - asked >= ask_patience) {
    const Duration patience = std::min(2 * ask_patience, options.resend_max);
    ask_for_session();
    ask_patience = patience;
  }
  // What still waits in our own transport has not been lost.
  const bool connected = phase == Phase::ready || phase == Phase::replaying;
  if (connected && transport.queued(server) == 0) {
    for (auto& [number, call] : under_way) {
      if (now - call->sent < call->patience) continue;
      call->patience = std::min(2 * call->patience, options.resend_max);
      ++counters.resent;
      transmit(*call);
    }
  }
  if (!calls.empty() || !replays.empty() || phase == Phase::opening) arm_timer();
}

void RemoteDisk::State::give_up_old_calls() {
  if (options.give_up_after == Duration::zero()) return;
  const TimePoint now = world.clock.now();
  for (auto it = calls.begin(); it != calls.end();) {
    if (now - it->second.began < options.give_up_after) {
      ++it;
      continue;
    }
    const auto node = calls.extract(it++);
    const Call& call = node.mapped();
    if (call.request.session == session) under_way.erase(call.request.number);
    Answer answer;
    answer.reply.error = Error{Errc::unavailable, address};
    call.promise->set(std::move(answer));
    call_ended.notify_all();
  }
}

// ---- answers

Task<Result<Bytes>> RemoteDisk::State::read(Request request) {
  const std::uint64_t length = request.length;
  Answer answer = co_await call(std::move(request));
  if (answer.reply.error) co_return error_of<Bytes>(answer);
  if (answer.payload.size() != length) co_return fail(unreadable());
  co_return std::move(answer.payload);
}

Task<Result<std::optional<Extent>>> RemoteDisk::State::next_extent(Request request) {
  const Answer answer = co_await call(std::move(request));
  if (answer.reply.error) co_return error_of<std::optional<Extent>>(answer);
  std::optional<Extent> extent;
  if (answer.reply.second > 0) extent = Extent{answer.reply.first, answer.reply.second};
  co_return extent;
}

Task<Result<std::vector<Segment>>> RemoteDisk::State::list_segments(Request request) {
  const Answer answer = co_await call(std::move(request));
  if (answer.reply.error) co_return error_of<std::vector<Segment>>(answer);
  auto segments = wire::decode_segments(answer.payload);
  if (!segments) co_return fail(unreadable());
  co_return *std::move(segments);
}

Task<Result<Register>> RemoteDisk::State::read_register(Request request) {
  Answer answer = co_await call(std::move(request));
  if (answer.reply.error) co_return error_of<Register>(answer);
  Register content{answer.reply.first, std::move(answer.payload)};
  co_return content;
}

Task<Result<std::vector<Snapshot>>> RemoteDisk::State::list_snapshots() {
  Request request;
  request.operation = Operation::list_snapshots;
  const Answer answer = co_await call(std::move(request));
  if (answer.reply.error) co_return error_of<std::vector<Snapshot>>(answer);
  auto snapshots = wire::decode_snapshots(answer.payload);
  if (!snapshots) co_return fail(unreadable());
  co_return *std::move(snapshots);
}

// A restarted server does not know whether it made the snapshot already: then the list tells.
Task<Result<SnapshotId>> RemoteDisk::State::create_snapshot(Request request) {
  const std::string name = request.name;
  const WallTime created{static_cast<std::int64_t>(request.length)};
  const std::uint64_t sessions_before = counters.sessions;
  const Answer answer = co_await call(std::move(request));
  if (!answer.reply.error) co_return SnapshotId{answer.reply.first};
  if (answer.reply.error->code == Errc::exist && counters.sessions != sessions_before) {
    CO_TRY(const std::vector<Snapshot> all, co_await list_snapshots());
    for (const Snapshot& snapshot : all) {
      if (snapshot.name == name && snapshot.created == created) co_return snapshot.id;
    }
  }
  co_return error_of<SnapshotId>(answer);
}

Task<Status> RemoteDisk::State::delete_snapshot(Request request) {
  const std::uint64_t sessions_before = counters.sessions;
  const Answer answer = co_await call(std::move(request));
  if (!answer.reply.error) co_return Status();
  // By ourselves, through a server that was restarted since.
  const bool is_gone = answer.reply.error->code == Errc::stale;
  if (is_gone && counters.sessions != sessions_before) co_return Status();
  co_return fail(*answer.reply.error);
}

// ---- VirtualDisk

Task<Result<Bytes>> RemoteDisk::read(Address from, std::uint64_t length) {
  CHECK(length > 0 && length <= transfer_max);
  Request request;
  request.operation = Operation::read;
  request.address = from;
  request.length = length;
  return state_->read(std::move(request));
}

Task<Status> RemoteDisk::write(Address to, SharedBytes data, LeaseNumber lease,
                               Durability durability) {
  CHECK(!data.empty() && data.size() <= transfer_max);
  Request request;
  request.operation = Operation::write;
  request.address = to;
  request.lease = lease;
  request.durability = durability;
  return state_->change(std::move(request), std::move(data));
}

Task<Status> RemoteDisk::discard(Address from, std::uint64_t length, LeaseNumber lease) {
  Request request;
  request.operation = Operation::discard;
  request.address = from;
  request.length = length;
  request.lease = lease;
  return state_->change(std::move(request), SharedBytes());
}

Task<Status> RemoteDisk::preallocate(Address from, std::uint64_t length, LeaseNumber lease) {
  Request request;
  request.operation = Operation::preallocate;
  request.address = from;
  request.length = length;
  request.lease = lease;
  return state_->change(std::move(request), SharedBytes());
}

Task<Status> RemoteDisk::flush() { return state_->flush({}); }
Task<Status> RemoteDisk::flush_segments(std::vector<Segment> segments) {
  CHECK(!segments.empty() && segments.size() <= flushed_singly_max);
  return state_->flush(std::move(segments));
}

Task<Result<std::optional<Extent>>> RemoteDisk::next_extent(Segment segment, std::uint64_t from) {
  Request request;
  request.operation = Operation::next_extent;
  request.address = Address{segment, from};
  return state_->next_extent(std::move(request));
}

Task<Result<std::uint64_t>> RemoteDisk::allocated(Segment segment) {
  Request request;
  request.operation = Operation::allocated;
  request.address.segment = segment;
  const Answer answer = co_await state_->call(std::move(request));
  if (answer.reply.error) co_return error_of<std::uint64_t>(answer);
  co_return answer.reply.first;
}

Task<Result<std::vector<Segment>>> RemoteDisk::list_segments(Segment first, std::size_t limit) {
  Request request;
  request.operation = Operation::list_segments;
  request.address.segment = first;
  request.length = limit;
  return state_->list_segments(std::move(request));
}

Task<Result<Usage>> RemoteDisk::usage() {
  Request request;
  request.operation = Operation::usage;
  const Answer answer = co_await state_->call(std::move(request));
  if (answer.reply.error) co_return error_of<Usage>(answer);
  const auto segment_max = wire::decode_segment_max(answer.payload);
  if (!segment_max) co_return fail(state_->unreadable());
  const Usage usage{answer.reply.first, answer.reply.second, *segment_max};
  co_return usage;
}

Task<Result<Register>> RemoteDisk::read_register(std::string_view name) {
  CHECK(name.size() <= wire::register_name_max);
  Request request;
  request.operation = Operation::read_register;
  request.name = std::string(name);
  return state_->read_register(std::move(request));
}

Task<Result<std::uint64_t>> RemoteDisk::write_register(std::string_view name,
                                                       std::uint64_t expected, Bytes value,
                                                       LeaseNumber lease) {
  CHECK(name.size() <= wire::register_name_max && value.size() <= register_size_max);
  Request request;
  request.operation = Operation::write_register;
  request.length = expected;
  request.lease = lease;
  request.name = std::string(name);
  return state_->update_register(std::move(request), SharedBytes(std::move(value)));
}

Task<Result<SnapshotId>> RemoteDisk::create_snapshot(std::string name, WallTime created,
                                                     LeaseNumber lease) {
  Request request;
  request.operation = Operation::create_snapshot;
  request.name = std::move(name);
  request.length = static_cast<std::uint64_t>(created);
  request.lease = lease;
  CHECK(request.name.size() <= wire::register_name_max);
  return state_->create_snapshot(std::move(request));
}

Task<Status> RemoteDisk::delete_snapshot(SnapshotId id, LeaseNumber lease) {
  Request request;
  request.operation = Operation::delete_snapshot;
  request.snapshot = id;
  request.lease = lease;
  return state_->delete_snapshot(std::move(request));
}

Task<Result<std::vector<Snapshot>>> RemoteDisk::list_snapshots() {
  return state_->list_snapshots();
}

Task<Result<Bytes>> RemoteDisk::read_snapshot(SnapshotId id, Address from, std::uint64_t length) {
  CHECK(length > 0 && length <= transfer_max);
  Request request;
  request.operation = Operation::read_snapshot;
  request.snapshot = id;
  request.address = from;
  request.length = length;
  return state_->read(std::move(request));
}

Task<Result<std::optional<Extent>>> RemoteDisk::next_snapshot_extent(SnapshotId id, Segment segment,
                                                                     std::uint64_t from) {
  Request request;
  request.operation = Operation::next_snapshot_extent;
  request.snapshot = id;
  request.address = Address{segment, from};
  return state_->next_extent(std::move(request));
}

Task<Result<std::vector<Segment>>> RemoteDisk::list_snapshot_segments(SnapshotId id, Segment first,
                                                                      std::size_t limit) {
  Request request;
  request.operation = Operation::list_snapshot_segments;
  request.snapshot = id;
  request.address.segment = first;
  request.length = limit;
  return state_->list_segments(std::move(request));
}

Task<Result<Register>> RemoteDisk::read_snapshot_register(SnapshotId id, std::string name) {
  CHECK(name.size() <= wire::register_name_max);
  Request request;
  request.operation = Operation::read_snapshot_register;
  request.snapshot = id;
  request.name = std::move(name);
  return state_->read_register(std::move(request));
}

Task<Status> RemoteDisk::admit(LeaseNumber lease) {
  Request request;
  request.operation = Operation::admit;
  request.lease = lease;
  return state_->change(std::move(request), SharedBytes());
}

Task<Status> RemoteDisk::fence(LeaseNumber lease) {
  Request request;
  request.operation = Operation::fence;
  request.lease = lease;
  return state_->change(std::move(request), SharedBytes());
}

}  // namespace plumeria::disk
