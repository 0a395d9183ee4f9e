#include "os/asio_transport.h"

#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>
#include <netinet/tcp.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <asio/basic_socket_acceptor.hpp>
#include <asio/basic_stream_socket.hpp>
#include <asio/buffer.hpp>
#include <asio/generic/stream_protocol.hpp>
#include <asio/io_context.hpp>
#include <asio/ip/tcp.hpp>
#include <asio/local/stream_protocol.hpp>
#include <deque>
#include <map>
#include <optional>
#include <vector>

#include "base/check.h"
#include "base/log.h"
#include "base/number.h"
#include "os/frame.h"

namespace plumeria::os {

using net::Channel;
using net::PeerId;

namespace {

using Socket = asio::generic::stream_protocol::socket;
using Endpoint = asio::generic::stream_protocol::endpoint;
using Acceptor = asio::basic_socket_acceptor<asio::generic::stream_protocol>;

constexpr std::size_t channels = 4;
constexpr std::size_t buffer_size_min = 64u << 10;
constexpr std::size_t buffers_per_write = 48;
// So much is written before others get their turn.
constexpr std::size_t bytes_per_turn = 4u << 20;
// After so many small messages in a row a large buffer is given back.
constexpr int small_messages_to_shrink = 1000;

struct Place {
  std::string unix_path;  // or else
  std::string host, port;
};

// HOST:PORT, [V6]:PORT, HOST, unix:PATH.
Result<Place> parse_address(std::string_view address) {
  Place place;
  std::string_view text = address;
  const auto wrong = [&] {
    return fail(Errc::invalid, absl::StrCat("address `", std::string(address),
                                            "` (expected HOST:PORT, [IPV6]:PORT or unix:PATH)"));
  };
  if (text.starts_with("unix:")) {
    place.unix_path = text.substr(5);
    if (place.unix_path.empty() || place.unix_path.size() >= sizeof(sockaddr_un::sun_path)) {
      return wrong();
    }
    return place;
  }
  place.port = absl::StrCat(default_port);
  if (text.starts_with("[")) {
    const std::size_t end = text.find(']');
    if (end == std::string_view::npos) return wrong();
    place.host = text.substr(1, end - 1);
    text.remove_prefix(end + 1);
    if (!text.empty() && text[0] != ':') return wrong();
    if (!text.empty()) place.port = text.substr(1);
  } else if (std::count(text.begin(), text.end(), ':') == 1) {
    place.host = text.substr(0, text.find(':'));
    place.port = text.substr(text.find(':') + 1);
  } else {
    place.host = text;
  }
  std::uint32_t port = 0;
  if (place.host.empty() || !absl::SimpleAtoi(place.port, &port) || port > 65535) return wrong();
  return place;
}

constexpr std::string_view local_peer = "unix socket";

std::string describe_endpoint(const Endpoint& endpoint) {
  if (endpoint.protocol().family() == AF_UNIX) return std::string(local_peer);
  asio::ip::tcp::endpoint tcp;
  if (endpoint.size() > tcp.capacity()) return "?";
  std::copy_n(static_cast<const std::byte*>(static_cast<const void*>(endpoint.data())),
              endpoint.size(), static_cast<std::byte*>(static_cast<void*>(tcp.data())));
  tcp.resize(endpoint.size());
  const std::string host = tcp.address().to_string();
  return absl::StrCat(tcp.address().is_v6() ? "[" + host + "]" : host, ":", tcp.port());
}

void set_options(Socket& socket) {
  asio::error_code ignored;
  socket.non_blocking(true, ignored);
  const auto set = [&](int level, int name, int value) {
    (void)::setsockopt(socket.native_handle(), level, name, &value, sizeof value);
  };
  asio::error_code error;
  if (socket.local_endpoint(error).protocol().family() == AF_UNIX || error) return;
  set(IPPROTO_TCP, TCP_NODELAY, 1);
  set(SOL_SOCKET, SO_KEEPALIVE, 1);
  set(IPPROTO_TCP, TCP_KEEPIDLE, 10);
  set(IPPROTO_TCP, TCP_KEEPINTVL, 5);
  set(IPPROTO_TCP, TCP_KEEPCNT, 3);
  set(IPPROTO_TCP, TCP_USER_TIMEOUT, 30'000);
}

class Connection;

// What a connection reports to its transport.
class ConnectionOwner {
 public:
  // Asked when the peer has greeted.
  virtual bool accepts(const Connection& connection) = 0;
  virtual void established(Connection& connection) = 0;
  virtual void message(Connection& connection, Channel channel, ByteView message) = 0;
  virtual void ended(Connection& connection, const Error& reason) = 0;

 protected:
  ~ConnectionOwner() = default;
};

// One connected socket: handshake, frames in, frames out. close() is final; afterwards the owner
// hears nothing more. Kept alive by what waits on its socket.
class Connection final : public std::enable_shared_from_this<Connection> {
 public:
  Connection(RealExecutor& executor, ConnectionOwner& owner, PeerId peer, Socket socket,
             const Greeting& greeting)
      : executor_(executor),
        owner_(&owner),
        peer_(peer),
        socket_(std::move(socket)),
        greeting_(greeting),
        buffer_(buffer_size_min) {}

  void start(Duration handshake_timeout);
  void send(Channel channel, Bytes head, SharedBytes payload);
  void close();

  PeerId peer() const { return peer_; }
  std::size_t queued() const { return queued_; }
  std::uint64_t identity() const { return identity_; }  // of what the peer serves
  // Ends it if its peer keeps us waiting.
  void look_for_patience(const AsioTransport::Options& options);
  bool is_established() const { return established_; }

 private:
  struct Outgoing {
    FrameHeader header;
    std::size_t header_size;
    Bytes head;
    SharedBytes payload;
    std::size_t size() const { return header_size + head.size() + payload.size(); }
  };

  void end(Error reason);
  void read_more();
  // False: not enough has come for the next part.
  bool take_handshake();
  bool take_message();
  void make_room(std::size_t wanted);
  void schedule_write();
  void write_now();
  void consume(std::size_t written);
  std::size_t gather(std::vector<asio::const_buffer>& buffers) const;

  RealExecutor& executor_;
  ConnectionOwner* owner_;  // null: closed
  const PeerId peer_;
  Socket socket_;
  const Greeting greeting_;
  bool established_ = false;
  std::uint64_t identity_ = 0;
  TimerId handshake_timer_{};

  Bytes buffer_;
  std::size_t begin_ = 0, end_ = 0;  // of what has come and is not taken
  bool has_spoken_ = false;          // a whole message has come
  TimePoint since_{};                // the handshake, or the last whole message, or the one begun
  TimePoint last_came_{};
  int small_messages_ = 0;

  std::deque<Outgoing> outgoing_;
  std::size_t front_written_ = 0;  // bytes of the first one
  std::size_t queued_ = 0;
  bool write_scheduled_ = false;
};

void Connection::start(Duration handshake_timeout) {
  const auto alive = shared_from_this();  // A peer that is gone already ends us in write_now().
  set_options(socket_);
  handshake_timer_ = executor_.at(executor_.now() + handshake_timeout, [weak = weak_from_this()] {
    const auto self = weak.lock();
    if (!self) return;
    self->end(Error{Errc::unavailable, "did not greet in time"});
  });
  const Handshake handshake = encode_handshake(greeting_);
  Outgoing greeting{{}, 0, Bytes(handshake.begin(), handshake.end()), {}};
  queued_ += greeting.size();
  outgoing_.push_back(std::move(greeting));
  write_now();
  if (owner_ != nullptr) read_more();
}

void Connection::close() {
  if (owner_ == nullptr) return;
  owner_ = nullptr;
  executor_.cancel(handshake_timer_);
  outgoing_.clear();
  queued_ = 0;
  asio::error_code ignored;
  socket_.close(ignored);
}

void Connection::end(Error reason) {
  if (owner_ == nullptr) return;
  ConnectionOwner* const owner = owner_;
  const auto self = shared_from_this();
  close();
  owner->ended(*self, reason);
}

void Connection::read_more() {
  socket_.async_read_some(
      asio::buffer(buffer_.data() + end_, buffer_.size() - end_),
      [self = shared_from_this()](asio::error_code error, std::size_t count) {
        if (self->owner_ == nullptr) return;
        if (error) {
          const bool half = self->begin_ < self->end_;
          return self->end(Error{Errc::unavailable,
                                 half ? "closed in the middle of a message" : error.message()});
        }
        self->last_came_ = self->executor_.now();
        if (self->begin_ == self->end_) self->since_ = self->last_came_;
        self->end_ += count;
        if (!self->established_ && !self->take_handshake()) {
          if (self->owner_ != nullptr) self->read_more();
          return;
        }
        while (self->owner_ != nullptr && self->take_message()) {
        }
        if (self->owner_ != nullptr) self->read_more();
      });
}

bool Connection::take_handshake() {
  const ByteView come = ByteView(buffer_).subspan(begin_, end_ - begin_);
  const Status so_far = check_handshake_start(come, greeting_);
  if (!so_far) {
    end(so_far.error());
    return false;
  }
  if (come.size() < handshake_size) return false;
  const Result<Greeting> theirs = decode_handshake(come, greeting_);
  if (!theirs) {
    end(theirs.error());
    return false;
  }
  identity_ = theirs->identity;
  if (!owner_->accepts(*this)) {
    end(Error{Errc::corrupt, "serves another store than before"});
    return false;
  }
  begin_ += handshake_size;
  established_ = true;
  since_ = executor_.now();
  executor_.cancel(handshake_timer_);
  owner_->established(*this);
  return owner_ != nullptr;
}

bool Connection::take_message() {
  const ByteView come = ByteView(buffer_).subspan(begin_, end_ - begin_);
  if (come.size() < frame_header_size) {
    make_room(frame_header_size);
    return false;
  }
  const Result<Frame> frame = decode_frame(come);
  if (!frame) {
    end(frame.error());
    return false;
  }
  const std::size_t whole = frame_header_size + frame->body;
  if (come.size() < whole) {
    // Not more than twice what has come: the length alone is only a claim.
    make_room(std::min(whole, std::max(2 * come.size(), buffer_size_min)));
    return false;
  }
  const ByteView body = come.subspan(frame_header_size, frame->body);
  const Status checked = check_head(*frame, body);
  if (!checked) {
    end(checked.error());
    return false;
  }
  small_messages_ = whole > buffer_size_min ? 0 : small_messages_ + 1;
  begin_ += whole;
  has_spoken_ = true;
  since_ = last_came_;
  owner_->message(*this, frame->channel, body);
  return true;
}

void Connection::look_for_patience(const AsioTransport::Options& options) {
  if (owner_ == nullptr || !established_) return;
  const TimePoint now = executor_.now();
  const bool half = begin_ < end_;
  if (!has_spoken_ && now - since_ > options.silence_max) {
    end(Error{Errc::corrupt, "greeted and said nothing more"});
  } else if (half &&
             (now - last_came_ > options.pause_max || now - since_ > options.message_time_max)) {
    end(Error{Errc::corrupt, "did not finish a message"});
  }
}

// Brings what has come to the front, in a buffer that can hold `wanted` bytes.
void Connection::make_room(std::size_t wanted) {
  const std::size_t come = end_ - begin_;
  const bool shrink = buffer_.size() > buffer_size_min && come <= buffer_size_min &&
                      wanted <= buffer_size_min && small_messages_ > small_messages_to_shrink;
  if (wanted > buffer_.size() || shrink) {
    Bytes other(std::max(wanted, buffer_size_min));
    std::copy_n(buffer_.begin() + static_cast<std::ptrdiff_t>(begin_), come, other.begin());
    buffer_ = std::move(other);
  } else if (begin_ + wanted > buffer_.size() || begin_ == end_) {
    std::memmove(buffer_.data(), buffer_.data() + begin_, come);
  } else {
    return;
  }
  begin_ = 0;
  end_ = come;
}

void Connection::send(Channel channel, Bytes head, SharedBytes payload) {
  if (owner_ == nullptr || !established_) return;
  Outgoing outgoing{encode_frame(channel, head, payload.size()), frame_header_size, std::move(head),
                    std::move(payload)};
  queued_ += outgoing.size();
  outgoing_.push_back(std::move(outgoing));
  schedule_write();
}

// In a later turn, so that what is sent in this one leaves with one system call.
void Connection::schedule_write() {
  if (write_scheduled_) return;
  write_scheduled_ = true;
  executor_.post([self = shared_from_this()] {
    self->write_scheduled_ = false;
    self->write_now();
  });
}

std::size_t Connection::gather(std::vector<asio::const_buffer>& buffers) const {
  std::size_t skip = front_written_, total = 0;
  const auto add = [&](const std::byte* data, std::size_t size) {
    const std::size_t skipped = std::min(skip, size);
    skip -= skipped;
    if (size > skipped) buffers.emplace_back(data + skipped, size - skipped);
    total += size - skipped;
  };
  for (const Outgoing& outgoing : outgoing_) {
    if (buffers.size() + 3 > buffers_per_write) break;
    add(outgoing.header.data(), outgoing.header_size);
    add(outgoing.head.data(), outgoing.head.size());
    add(outgoing.payload.view().data(), outgoing.payload.size());
  }
  return total;
}

void Connection::write_now() {
  std::vector<asio::const_buffer> buffers;
  for (std::size_t done = 0; owner_ != nullptr && !outgoing_.empty();) {
    if (done > bytes_per_turn) return schedule_write();
    buffers.clear();
    const std::size_t wanted = gather(buffers);
    asio::error_code error;
    const std::size_t written = socket_.write_some(buffers, error);
    if (error && error != asio::error::would_block && error != asio::error::interrupted) {
      return end(Error{Errc::unavailable, error.message()});
    }
    consume(written);
    done += written;
    if (written < wanted && error != asio::error::interrupted) break;  // The socket is full.
  }
  if (owner_ == nullptr || outgoing_.empty() || write_scheduled_) return;
  write_scheduled_ = true;
  socket_.async_wait(Socket::wait_write, [self = shared_from_this()](asio::error_code error) {
    self->write_scheduled_ = false;
    if (self->owner_ == nullptr) return;
    if (error) return self->end(Error{Errc::unavailable, error.message()});
    self->write_now();
  });
}

void Connection::consume(std::size_t written) {
  queued_ -= written;
  front_written_ += written;
  while (!outgoing_.empty() && front_written_ >= outgoing_.front().size()) {
    front_written_ -= outgoing_.front().size();
    outgoing_.pop_front();
  }
}

// He closed the connection, before or after he had read all.
bool is_end_of_peer(const Error& reason) {
  for (const asio::error_code error :
       {asio::error_code(asio::error::eof), asio::error_code(asio::error::broken_pipe),
        asio::error_code(asio::error::connection_reset)}) {
    if (reason.what == error.message()) return true;
  }
  return false;
}

}  // namespace

struct AsioTransport::State final : public ConnectionOwner,
                                    public std::enable_shared_from_this<State> {
  struct Peer {
    std::string address;  // of a client's server; empty: it connected to us
    std::string description;
    std::shared_ptr<Connection> connection;  // null while there is none
    std::uint64_t attempts = 0;              // to connect; names the present one
    Duration retry{};
    std::string last_error;
    std::uint64_t identity = 0;  // of what it served when it was met first
  };
  struct Listener {
    Acceptor acceptor;
    std::string address;
    std::string unix_path;
  };

  State(RealExecutor& e, Random& r, Options o)
      : executor(e), random(r), options(o), io(e.io_context()), resolver(io) {
    greeting.protocol_version = o.protocol_version;
    greeting.features = o.features;
    greeting.features_needed = o.features_needed;
    greeting.identity = o.identity;
  }

  bool accepts(const Connection& connection) override;
  void established(Connection& connection) override;
  void message(Connection& connection, Channel channel, ByteView message) override;
  void ended(Connection& connection, const Error& reason) override;

  Result<std::string> listen(std::string_view address);
  Result<std::vector<Endpoint>> endpoints_to_listen(const Place& place);
  void accept(const std::shared_ptr<Listener>& listener);
  void accepted(Socket socket);

  void begin_attempt(PeerId peer);
  void try_endpoints(PeerId peer, std::uint64_t attempt,
                     std::shared_ptr<std::vector<Endpoint>> endpoints, std::size_t index);
  void attempt_failed(PeerId peer, std::uint64_t attempt, const std::string& why);
  void retry_later(PeerId peer);
  // Null if that attempt is no more the present one.
  Peer* find(PeerId peer, std::uint64_t attempt);

  void look_for_patience();
  void report(PeerId peer, bool connected);
  void shut_down();

  RealExecutor& executor;
  Random& random;
  const Options options;
  asio::io_context& io;
  asio::ip::tcp::resolver resolver;
  Greeting greeting;
  std::array<std::shared_ptr<MessageHandler>, channels> message_handlers;
  std::array<std::shared_ptr<ConnectionHandler>, channels> connection_handlers;
  std::map<PeerId, Peer> peers;
  std::uint64_t last_peer = 0;
  std::size_t accepted_count = 0;
  std::vector<std::shared_ptr<Listener>> listeners;
  TimerId patience_timer{};
};

Status check_address(std::string_view address) {
  const Result<Place> place = parse_address(address);
  return place ? Status{} : fail(place.error());
}

bool knows_host(std::string_view address) {
  const Result<Place> place = parse_address(address);
  if (!place || !place->unix_path.empty()) return place.has_value();
  asio::io_context context;
  asio::error_code error;
  const auto found = asio::ip::tcp::resolver(context).resolve(place->host, place->port, error);
  return !error && !found.empty();
}

AsioTransport::AsioTransport(RealExecutor& executor, Random& random, Options options)
    : state_(std::make_shared<State>(executor, random, options)) {}

AsioTransport::~AsioTransport() { state_->shut_down(); }

void AsioTransport::State::shut_down() {
  for (auto& [id, peer] : peers) {
    if (peer.connection) peer.connection->close();
  }
  peers.clear();
  asio::error_code ignored;
  for (const auto& listener : listeners) {
    listener->acceptor.close(ignored);
    if (!listener->unix_path.empty()) ::unlink(listener->unix_path.c_str());
  }
  listeners.clear();
  executor.cancel(patience_timer);
  resolver.cancel();
  message_handlers = {};
  connection_handlers = {};
}

// ---- listening

Result<std::string> AsioTransport::listen(std::string_view address) {
  return state_->listen(address);
}

Result<std::vector<Endpoint>> AsioTransport::State::endpoints_to_listen(const Place& place) {
  std::vector<Endpoint> endpoints;
  if (!place.unix_path.empty()) {
    const asio::local::stream_protocol::endpoint endpoint(place.unix_path);
    // A file that nobody listens at is left over from a process that died.
    Socket probe(io);
    asio::error_code error;
    probe.connect(endpoint, error);
    if (!error) return fail(Errc::in_use, absl::StrCat("unix:", place.unix_path));
    struct stat status {};
    if (error == asio::error::connection_refused &&
        ::lstat(place.unix_path.c_str(), &status) == 0 && S_ISSOCK(status.st_mode)) {
      ::unlink(place.unix_path.c_str());
    }
    endpoints.emplace_back(endpoint);
    return endpoints;
  }
  asio::error_code error;
  const auto resolved =
      resolver.resolve(place.host, place.port, asio::ip::resolver_base::passive, error);
  if (error) {
    return fail(Errc::unavailable,
                absl::StrCat("cannot find host ", place.host, " (", error.message(), ")"));
  }
  for (const auto& entry : resolved) endpoints.emplace_back(entry.endpoint());
  return endpoints;
}

Result<std::string> AsioTransport::State::listen(std::string_view address) {
  TRY(const Place place, parse_address(address));
  TRY(const std::vector<Endpoint> endpoints, endpoints_to_listen(place));
  asio::error_code error;
  for (const Endpoint& endpoint : endpoints) {
    auto listener = std::make_shared<Listener>(Listener{Acceptor(io), {}, place.unix_path});
    Acceptor& acceptor = listener->acceptor;
    error = {};
    acceptor.open(endpoint.protocol(), error);
    if (!error) acceptor.set_option(Acceptor::reuse_address(true), error);
    if (!error) acceptor.bind(endpoint, error);
    if (!error && !place.unix_path.empty()) (void)::chmod(place.unix_path.c_str(), 0600);
    if (!error) acceptor.listen(Acceptor::max_listen_connections, error);
    if (error) continue;
    if (listeners.empty()) look_for_patience();
    listener->address = place.unix_path.empty() ? describe_endpoint(acceptor.local_endpoint())
                                                : "unix:" + place.unix_path;
    listeners.push_back(listener);
    accept(listener);
    return listener->address;
  }
  if (error.value() == EADDRNOTAVAIL) {
    return fail(Errc::invalid, absl::StrCat("cannot listen at ", std::string(address),
                                            ", which is no address of this machine"));
  }
  const Errc code = error == asio::error::address_in_use  ? Errc::in_use
                    : error == asio::error::access_denied ? Errc::access
                    : error.value() == ENOENT             ? Errc::no_entry
                                                          : Errc::io;
  const std::string why = code == Errc::io ? absl::StrCat(" (", error.message(), ")") : "";
  return fail(code, absl::StrCat("cannot listen at ", std::string(address), why));
}

void AsioTransport::State::accept(const std::shared_ptr<Listener>& listener) {
  listener->acceptor.async_accept(
      [weak = weak_from_this(), listener](asio::error_code error, Socket socket) {
        const auto state = weak.lock();
        if (!state || !listener->acceptor.is_open()) return;
        if (!error) {
          state->accepted(std::move(socket));
          return state->accept(listener);
        }
        // Out of descriptors or memory: others may end meanwhile.
        log_warning(absl::StrCat("cannot accept connections at ", listener->address, " (",
                                 error.message(), "); trying again in a second"));
        state->executor.at(state->executor.now() + 1s, [weak, listener] {
          const auto still_there = weak.lock();
          if (still_there && listener->acceptor.is_open()) still_there->accept(listener);
        });
      });
}

// Again and again while it listens.
void AsioTransport::State::look_for_patience() {
  std::vector<std::shared_ptr<Connection>> accepted_ones;
  for (const auto& [id, peer] : peers) {
    if (peer.address.empty() && peer.connection) accepted_ones.push_back(peer.connection);
  }
  for (const auto& connection : accepted_ones) connection->look_for_patience(options);
  const Duration often = std::min({options.silence_max, options.pause_max, Duration(20s)}) / 4;
  patience_timer = executor.at(executor.now() + often, [weak = weak_from_this()] {
    if (const auto state = weak.lock()) state->look_for_patience();
  });
}

void AsioTransport::State::accepted(Socket socket) {
  asio::error_code error;
  const Endpoint remote = socket.remote_endpoint(error);
  if (error) return;
  if (accepted_count >= options.connections_max) {
    log_warning(absl::StrCat("refused a connection of ", describe_endpoint(remote), ": ",
                             accepted_count, " are open already"));
    return;
  }
  ++accepted_count;
  const PeerId id{++last_peer};
  Peer& peer = peers[id];
  peer.description = describe_endpoint(remote);
  peer.connection = std::make_shared<Connection>(executor, *this, id, std::move(socket), greeting);
  peer.connection->start(options.handshake_timeout);
}

// ---- connecting

PeerId AsioTransport::connect(std::string_view address) {
  const PeerId id{++state_->last_peer};
  State::Peer& peer = state_->peers[id];
  peer.address = peer.description = std::string(address);
  peer.retry = state_->options.retry_min;
  state_->executor.post([weak = std::weak_ptr<State>(state_), id] {
    if (const auto state = weak.lock()) state->begin_attempt(id);
  });
  return id;
}

AsioTransport::State::Peer* AsioTransport::State::find(PeerId peer, std::uint64_t attempt) {
  const auto found = peers.find(peer);
  if (found == peers.end() || found->second.attempts != attempt) return nullptr;
  return &found->second;
}

void AsioTransport::State::begin_attempt(PeerId id) {
  const auto found = peers.find(id);
  if (found == peers.end()) return;
  Peer& peer = found->second;
  const std::uint64_t attempt = ++peer.attempts;
  const Result<Place> place = parse_address(peer.address);
  if (!place) return attempt_failed(id, attempt, place.error().message());
  auto endpoints = std::make_shared<std::vector<Endpoint>>();
  if (!place->unix_path.empty()) {
    endpoints->emplace_back(asio::local::stream_protocol::endpoint(place->unix_path));
    return try_endpoints(id, attempt, endpoints, 0);
  }
  resolver.async_resolve(
      place->host, place->port,
      [weak = weak_from_this(), id, attempt, endpoints, host = place->host](
          asio::error_code error, const asio::ip::tcp::resolver::results_type& results) {
        const auto state = weak.lock();
        if (!state) return;
        if (error) {
          return state->attempt_failed(
              id, attempt, absl::StrCat("cannot find host ", host, ": ", error.message()));
        }
        for (const auto& entry : results) {
          endpoints->emplace_back(entry.endpoint());
        }
        state->try_endpoints(id, attempt, endpoints, 0);
      });
}

void AsioTransport::State::try_endpoints(PeerId id, std::uint64_t attempt,
                                         std::shared_ptr<std::vector<Endpoint>> endpoints,
                                         std::size_t index) {
  if (find(id, attempt) == nullptr) return;
  if (index >= endpoints->size()) return attempt_failed(id, attempt, "has no address");
  auto socket = std::make_shared<Socket>(io);
  const TimerId timeout = executor.at(executor.now() + options.handshake_timeout, [socket] {
    asio::error_code ignored;
    socket->close(ignored);
  });
  socket->async_connect(endpoints->at(index), [weak = weak_from_this(), id, attempt, endpoints,
                                               index, socket, timeout](asio::error_code error) {
    const auto state = weak.lock();
    if (!state) return;
    state->executor.cancel(timeout);
    Peer* const peer = state->find(id, attempt);
    if (peer == nullptr) return;
    if (!error && socket->is_open()) {
      peer->connection = std::make_shared<Connection>(state->executor, *state, id,
                                                      std::move(*socket), state->greeting);
      return peer->connection->start(state->options.handshake_timeout);
    }
    if (index + 1 < endpoints->size()) {
      return state->try_endpoints(id, attempt, endpoints, index + 1);
    }
    const bool timed_out = error == asio::error::operation_aborted;
    state->attempt_failed(id, attempt, timed_out ? "no answer" : error.message());
  });
}

void AsioTransport::State::attempt_failed(PeerId id, std::uint64_t attempt,
                                          const std::string& why) {
  Peer* const peer = find(id, attempt);
  if (peer == nullptr) return;
  if (peer->last_error != why) {
    log_info(absl::StrCat("cannot connect to ", peer->address, " (", why, "); trying again"));
  }
  peer->last_error = why;
  retry_later(id);
}

void AsioTransport::State::retry_later(PeerId id) {
  Peer& peer = peers.at(id);
  // Many clients of one server that has come back must not all knock at once.
  const auto jitter =
      Duration(random.below(static_cast<std::uint64_t>(peer.retry.count()) / 4 + 1));
  const TimePoint when = executor.now() + peer.retry + jitter;
  peer.retry = std::min(2 * peer.retry, options.retry_max);
  executor.at(when, [weak = weak_from_this(), id, attempt = peer.attempts] {
    const auto state = weak.lock();
    if (state && state->find(id, attempt) != nullptr) state->begin_attempt(id);
  });
}

// ---- what connections report

bool AsioTransport::State::accepts(const Connection& connection) {
  Peer& peer = peers.at(connection.peer());
  if (peer.identity == 0) peer.identity = connection.identity();
  return peer.identity == connection.identity();
}

void AsioTransport::State::established(Connection& connection) {
  Peer& peer = peers.at(connection.peer());
  peer.last_error.clear();
  peer.retry = options.retry_min;
  log_debug(absl::StrCat("connected: ", peer.description));
  report(connection.peer(), true);
}

void AsioTransport::State::message(Connection& connection, Channel channel, ByteView message) {
  const auto handler = message_handlers.at(raw(channel));
  if (handler && *handler) (*handler)(connection.peer(), message);
}

void AsioTransport::State::ended(Connection& connection, const Error& reason) {
  const PeerId id = connection.peer();
  Peer& peer = peers.at(id);
  const std::string why = reason.code == Errc::version || reason.code == Errc::corrupt
                              ? absl::StrCat(peer.description, " ", reason.what)
                              : reason.what;
  const bool first_time = peer.last_error != why;
  peer.last_error = why;
  if (first_time) {
    // Commands that ask a daemon of this machine end as soon as they know.
    const bool is_local =
        peer.address.empty() && peer.description == local_peer && is_end_of_peer(reason);
    const Severity severity = is_local ? Severity::debug
                              : reason.code == Errc::unavailable && connection.is_established()
                                  ? Severity::info
                                  : Severity::warning;
    log_line(severity, absl::StrCat("connection with ", peer.description, " ended: ", reason.what));
  }
  peer.connection = nullptr;
  if (peer.address.empty()) {
    peers.erase(id);
    --accepted_count;
  } else {
    retry_later(id);
  }
  if (!connection.is_established()) return;
  // In a later turn: whoever calls disconnect() does not expect its own handlers to run.
  executor.post([weak = weak_from_this(), id] {
    if (const auto state = weak.lock()) state->report(id, false);
  });
}

void AsioTransport::State::report(PeerId peer, bool connected) {
  const auto self = shared_from_this();  // A handler may end the transport.
  for (std::size_t channel = 0; channel < channels; ++channel) {
    const auto handler = connection_handlers.at(channel);
    if (handler && *handler) (*handler)(peer, connected);
  }
}

// ---- Transport

void AsioTransport::send(PeerId to, Channel channel, Bytes head, SharedBytes payload) {
  CHECK(head.size() + payload.size() <= net::message_size_max);
  const auto found = state_->peers.find(to);
  if (found == state_->peers.end() || !found->second.connection) return;
  found->second.connection->send(channel, std::move(head), std::move(payload));
}

void AsioTransport::on_message(Channel channel, MessageHandler handler) {
  state_->message_handlers.at(raw(channel)) = std::make_shared<MessageHandler>(std::move(handler));
}

void AsioTransport::on_connection(Channel channel, ConnectionHandler handler) {
  state_->connection_handlers.at(raw(channel)) =
      std::make_shared<ConnectionHandler>(std::move(handler));
}

std::size_t AsioTransport::queued(PeerId peer) const {
  const auto found = state_->peers.find(peer);
  if (found == state_->peers.end() || !found->second.connection) return 0;
  return found->second.connection->queued();
}

void AsioTransport::disconnect(PeerId peer, std::string_view reason) {
  const auto found = state_->peers.find(peer);
  if (found == state_->peers.end() || !found->second.connection) return;
  const std::shared_ptr<Connection> connection = found->second.connection;
  connection->close();
  state_->ended(*connection, Error{Errc::unavailable, std::string(reason)});
}

std::string AsioTransport::last_error(PeerId peer) const {
  const auto found = state_->peers.find(peer);
  return found == state_->peers.end() ? std::string() : found->second.last_error;
}

std::string AsioTransport::describe(PeerId peer) const {
  const auto found = state_->peers.find(peer);
  return found == state_->peers.end() ? std::string("?") : found->second.description;
}

}  // namespace plumeria::os
