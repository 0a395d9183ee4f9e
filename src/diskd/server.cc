#include "diskd/server.h"

#include <absl/strings/str_cat.h>

#include <map>
#include <optional>
#include <utility>

#include "base/async.h"
#include "base/check.h"
#include "base/log.h"
#include "base/number.h"
#include "disk/wire.h"
#include "diskd/session.h"

namespace plumeria::diskd {

using disk::wire::Operation;
using disk::wire::Reply;
using disk::wire::Request;
using disk::wire::SessionId;
using net::Channel;
using net::PeerId;

namespace {

struct Answer {
  Reply reply;
  SharedBytes payload;
};

Answer error_answer(Error error) {
  Answer answer;
  answer.reply.error = std::move(error);
  return answer;
}

template <class T, class Fill>
Answer answer_with(Result<T> result, Fill fill) {
  if (!result) return error_answer(std::move(result).error());
  Answer answer;
  fill(answer, *std::move(result));
  return answer;
}

Answer answer_with(const Status& status) {
  return status ? Answer() : error_answer(status.error());
}

// What the disk's interface requires of its callers must hold before it is called.
bool makes_sense(const Request& request, std::size_t payload) {
  switch (request.operation) {
    case Operation::read:
    case Operation::read_snapshot:
      return request.length > 0 && request.length <= disk::transfer_max && payload == 0;
    case Operation::write:
      return payload > 0 && payload <= disk::transfer_max;
    case Operation::write_register:
      return payload <= disk::register_size_max;
    case Operation::flush:
      return payload % 8 == 0 && payload <= 8 * disk::flushed_singly_max;
    default:
      return payload == 0;
  }
}

std::uint64_t memory_needed(const Request& request, std::size_t payload) {
  const bool is_read =
      request.operation == Operation::read || request.operation == Operation::read_snapshot;
  return 1024 + payload + (is_read ? request.length : 0);
}

bool looks_at_snapshots(Operation operation) {
  return operation == Operation::list_snapshots || operation >= Operation::read_snapshot;
}
static_assert(Operation::read_snapshot_register > Operation::read_snapshot);

void put_bytes(Answer& answer, Bytes&& data) { answer.payload = SharedBytes(std::move(data)); }
void put_extent(Answer& answer, std::optional<disk::Extent> found) {
  if (!found) return;
  answer.reply.first = found->offset;
  answer.reply.second = found->length;
}
void put_segments(Answer& answer, const std::vector<disk::Segment>& found) {
  answer.payload = SharedBytes(disk::wire::encode_segments(found));
}
void put_register(Answer& answer, disk::Register&& found) {
  answer.reply.first = found.version;
  answer.payload = SharedBytes(std::move(found.value));
}

}  // namespace

struct DiskServer::State {
  struct Client {
    Client(PeerId p, std::uint64_t n, TimePoint now, const DiskServerOptions& options)
        : peer(p), nonce(n), last_used(now), session(options.requests_max, options.bytes_max) {}
    PeerId peer;  // who sent the last message of this session
    bool connected = true;
    std::uint64_t nonce;
    TimePoint last_used;
    Session session;
  };

  State(World w, net::Transport& t, disk::VirtualDisk& d, std::uint64_t i, DiskServerOptions o)
      : world(w), transport(t), disk(d), incarnation(i), options(o) {}

  void receive(PeerId from, ByteView message);
  void open(PeerId from, const disk::wire::Open& message);
  void request(PeerId from, Request message, ByteView payload);
  void disconnected(PeerId peer);
  Task<void> execute(Request request, SharedBytes payload);
  Task<Answer> perform(Request request, SharedBytes payload);
  Task<Answer> perform_on_snapshot(Request request);
  void send_answer(const Client& client, Bytes head, SharedBytes payload);
  void drop_idle();
  void make_room();
  void garbage(PeerId from, std::string_view what) {
    transport.disconnect(from, std::string("disk: ").append(what));
  }

  const World world;
  net::Transport& transport;
  disk::VirtualDisk& disk;
  const std::uint64_t incarnation;
  const DiskServerOptions options;
  std::map<std::uint64_t, Client> clients;  // by session number
  bool stopping = false;
  std::uint64_t executing = 0;
  Event ended{world.executor};
  TimerId idle_timer{};
  DiskServerStatus counters;
  TaskScope scope;
};

DiskServer::DiskServer(World world, net::Transport& transport, disk::VirtualDisk& disk,
                       std::uint64_t incarnation, DiskServerOptions options)
    : state_(std::make_unique<State>(world, transport, disk, incarnation, options)) {
  State* state = state_.get();
  transport.on_message(Channel::disk,
                       [state](PeerId from, ByteView message) { state->receive(from, message); });
  transport.on_connection(Channel::disk, [state](PeerId peer, bool connected) {
    if (!connected) state->disconnected(peer);
  });
  state->drop_idle();
}

DiskServer::~DiskServer() {
  state_->transport.on_message(Channel::disk, {});
  state_->transport.on_connection(Channel::disk, {});
  state_->world.executor.cancel(state_->idle_timer);
}

Task<void> DiskServer::stop() {
  state_->stopping = true;
  while (state_->executing > 0) co_await state_->ended.next();
}

DiskServerStatus DiskServer::status() const {
  DiskServerStatus status = state_->counters;
  status.sessions = state_->clients.size();
  status.executing = state_->executing;
  return status;
}

void DiskServer::State::receive(PeerId from, ByteView message) {
  if (stopping) return;
  const auto type = disk::wire::type_of(message);
  if (type == disk::wire::MessageType::open) {
    const auto decoded = disk::wire::decode_open(message);
    if (!decoded) return garbage(from, "cannot read the request for a session");
    return open(from, *decoded);
  }
  if (type != disk::wire::MessageType::request) return garbage(from, "not a request");
  ByteView payload;
  auto decoded = disk::wire::decode_request(message, &payload);
  if (!decoded || !makes_sense(*decoded, payload.size())) {
    return garbage(from, "cannot read a request");
  }
  request(from, *std::move(decoded), payload);
}

void DiskServer::State::open(PeerId from, const disk::wire::Open& message) {
  auto found = clients.end();
  bool resumed = false;
  if (message.wanted.incarnation == incarnation) {
    found = clients.find(message.wanted.number);
    resumed = found != clients.end();
  }
  for (auto it = clients.begin(); !resumed && it != clients.end(); ++it) {
    if (it->second.nonce == message.nonce) found = it;  // The message came twice.
  }
  if (found == clients.end()) {
    make_room();
    // Not a number that anybody could name by accident.
    std::uint64_t number = 0;
    while (number == 0 || clients.contains(number)) number = world.random.next();
    found = clients.try_emplace(number, from, message.nonce, world.clock.now(), options).first;
  }
  Client& client = found->second;
  client.peer = from;
  client.connected = true;
  client.last_used = world.clock.now();
  disk::wire::Opened opened;
  opened.nonce = message.nonce;
  opened.session = SessionId{incarnation, found->first};
  opened.resumed = resumed;
  transport.send(from, Channel::disk, encode(opened));
}

void DiskServer::State::request(PeerId from, Request message, ByteView payload) {
  const auto found = clients.find(message.session.number);
  if (message.session.incarnation != incarnation || found == clients.end()) {
    const disk::wire::NoSession no_session{message.session, incarnation};
    transport.send(from, Channel::disk, encode(no_session));
    return;
  }
  Client& client = found->second;
  client.peer = from;
  client.connected = true;
  client.last_used = world.clock.now();
  ++counters.requests;
  switch (client.session.arrive(message.number, message.answered_below,
                                memory_needed(message, payload.size()))) {
    case Session::Arrival::execute:
      ++executing;
      scope.spawn(execute(std::move(message), SharedBytes::copy_of(payload)));
      return;
    case Session::Arrival::repeat:
      ++counters.repeated;
      return send_answer(client, client.session.answer(message.number), {});
    case Session::Arrival::ignore:
      ++counters.repeated;
      return;
    case Session::Arrival::too_many:
      return garbage(from, "more requests under way than allowed");
  }
}

Task<void> DiskServer::State::execute(Request request, SharedBytes payload) {
  const std::uint64_t session = request.session.number, number = request.number;
  const Operation operation = request.operation;
  Answer answer = co_await perform(std::move(request), std::move(payload));
  answer.reply.session = SessionId{incarnation, session};
  answer.reply.number = number;
  Client& client = clients.at(session);  // It is not dropped while something is under way.
  Bytes head = encode(answer.reply);
  // Answers with data are not kept: to read again is harmless.
  if (operation == Operation::read || operation == Operation::read_snapshot ||
      !answer.payload.empty()) {
    client.session.forget(number);
  } else {
    client.session.answered(number, head);
  }
  send_answer(client, std::move(head), std::move(answer.payload));
  if (--executing == 0) ended.notify_all();
}

void DiskServer::State::send_answer(const Client& client, Bytes head, SharedBytes payload) {
  if (transport.queued(client.peer) > options.queued_max) {
    return garbage(client.peer, "does not read its answers");
  }
  transport.send(client.peer, Channel::disk, std::move(head), std::move(payload));
}

Task<Answer> DiskServer::State::perform(Request request, SharedBytes payload) {
  if (options.snapshots_only && !looks_at_snapshots(request.operation)) {
    co_return error_answer(Error{Errc::not_permitted, "only snapshots are shared here"});
  }
  if (request.operation >= Operation::create_snapshot) {
    co_return co_await perform_on_snapshot(std::move(request));
  }
  switch (request.operation) {
    case Operation::read: {
      Result<Bytes> bytes = co_await disk.read(request.address, request.length);
      counters.bytes_read += request.length;
      co_return answer_with(std::move(bytes), put_bytes);
    }
    case Operation::write: {
      counters.bytes_written += payload.size();
      const Status written = co_await disk.write(request.address, std::move(payload), request.lease,
                                                 request.durability);
      co_return answer_with(written);
    }
    case Operation::discard: {
      const Status done = co_await disk.discard(request.address, request.length, request.lease);
      co_return answer_with(done);
    }
    case Operation::flush: {
      const auto segments = disk::wire::decode_segments(payload.view());
      Task<Status> flushing = segments->empty() ? disk.flush() : disk.flush_segments(*segments);
      const Status done = co_await std::move(flushing);
      co_return answer_with(done);
    }
    case Operation::preallocate: {
      const Status done = co_await disk.preallocate(request.address, request.length, request.lease);
      co_return answer_with(done);
    }
    case Operation::next_extent: {
      Result<std::optional<disk::Extent>> extent =
          co_await disk.next_extent(request.address.segment, request.address.offset);
      co_return answer_with(std::move(extent), put_extent);
    }
    case Operation::allocated: {
      Result<std::uint64_t> bytes = co_await disk.allocated(request.address.segment);
      co_return answer_with(std::move(bytes), [](Answer& answer, std::uint64_t found) {
        answer.reply.first = found;
      });
    }
    case Operation::list_segments: {
      const auto limit = std::min(request.length, disk::wire::segments_listed_max);
      Result<std::vector<disk::Segment>> segments =
          co_await disk.list_segments(request.address.segment, limit);
      co_return answer_with(std::move(segments), put_segments);
    }
    case Operation::usage: {
      Result<disk::Usage> usage = co_await disk.usage();
      co_return answer_with(std::move(usage), [](Answer& answer, disk::Usage found) {
        answer.reply.first = found.total;
        answer.reply.second = found.available;
        answer.payload = SharedBytes(disk::wire::encode_segment_max(found.segment_max));
      });
    }
    case Operation::read_register: {
      Result<disk::Register> content = co_await disk.read_register(request.name);
      co_return answer_with(std::move(content), put_register);
    }
    case Operation::write_register: {
      Bytes value = to_bytes(payload.view());
      Result<std::uint64_t> version = co_await disk.write_register(request.name, request.length,
                                                                   std::move(value), request.lease);
      co_return answer_with(std::move(version), [](Answer& answer, std::uint64_t updated) {
        answer.reply.first = updated;
      });
    }
    case Operation::admit:
    case Operation::fence: {
      if (!options.allow_lease_control) {
        co_return error_answer(Error{Errc::not_permitted, "this server's leases"});
      }
      Task<Status> change = request.operation == Operation::admit ? disk.admit(request.lease)
                                                                  : disk.fence(request.lease);
      const Status done = co_await change;
      co_return answer_with(done);
    }
    default:
      break;
  }
  co_return error_answer(Error{Errc::invalid, {}});
}

Task<Answer> DiskServer::State::perform_on_snapshot(Request request) {
  switch (request.operation) {
    case Operation::create_snapshot: {
      const WallTime created{static_cast<std::int64_t>(request.length)};
      Result<disk::SnapshotId> made =
          co_await disk.create_snapshot(std::move(request.name), created, request.lease);
      co_return answer_with(std::move(made), [](Answer& answer, disk::SnapshotId id) {
        answer.reply.first = raw(id);
      });
    }
    case Operation::delete_snapshot: {
      const Status done = co_await disk.delete_snapshot(request.snapshot, request.lease);
      co_return answer_with(done);
    }
    case Operation::list_snapshots: {
      Result<std::vector<disk::Snapshot>> all = co_await disk.list_snapshots();
      co_return answer_with(std::move(all),
                            [](Answer& answer, const std::vector<disk::Snapshot>& found) {
                              answer.payload = SharedBytes(disk::wire::encode_snapshots(found));
                            });
    }
    case Operation::read_snapshot: {
      Result<Bytes> bytes =
          co_await disk.read_snapshot(request.snapshot, request.address, request.length);
      counters.bytes_read += request.length;
      co_return answer_with(std::move(bytes), put_bytes);
    }
    case Operation::next_snapshot_extent: {
      Result<std::optional<disk::Extent>> extent = co_await disk.next_snapshot_extent(
          request.snapshot, request.address.segment, request.address.offset);
      co_return answer_with(std::move(extent), put_extent);
    }
    case Operation::list_snapshot_segments: {
      const auto limit = std::min(request.length, disk::wire::segments_listed_max);
      Result<std::vector<disk::Segment>> segments =
          co_await disk.list_snapshot_segments(request.snapshot, request.address.segment, limit);
      co_return answer_with(std::move(segments), put_segments);
    }
    case Operation::read_snapshot_register: {
      Result<disk::Register> content =
          co_await disk.read_snapshot_register(request.snapshot, std::move(request.name));
      co_return answer_with(std::move(content), put_register);
    }
    default:
      break;
  }
  co_return error_answer(Error{Errc::invalid, {}});
}

void DiskServer::State::disconnected(PeerId peer) {
  for (auto& [number, client] : clients) {
    if (client.peer == peer) client.connected = false;
  }
}

void DiskServer::State::drop_idle() {
  const TimePoint now = world.clock.now();
  std::erase_if(clients, [&](const auto& entry) {
    const Client& client = entry.second;
    return !client.connected && client.session.under_way() == 0 &&
           now - client.last_used > options.session_idle_max;
  });
  idle_timer = world.executor.at(now + options.session_idle_max / 4, [this] { drop_idle(); });
}

void DiskServer::State::make_room() {
  while (clients.size() >= options.sessions_max) {
    auto oldest = clients.end();
    for (auto it = clients.begin(); it != clients.end(); ++it) {
      if (it->second.session.under_way() > 0) continue;
      if (oldest == clients.end() || it->second.last_used < oldest->second.last_used) oldest = it;
    }
    if (oldest == clients.end()) return;
    clients.erase(oldest);
  }
}

}  // namespace plumeria::diskd
