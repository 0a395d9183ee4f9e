#include "sim/network.h"

#include <absl/strings/str_cat.h>

#include <algorithm>

#include "base/checksum.h"
#include "base/number.h"

namespace plumeria::sim {
namespace {

constexpr std::uint64_t million = 1'000'000;

}  // namespace

// --- SimNetwork ----------------------------------------------------------------------------------

SimNetwork::SimNetwork(Simulation& simulation, NetworkOptions options)
    : simulation_(simulation), options_(options), random_(simulation.stream("network")) {}
SimNetwork::~SimNetwork() = default;

SimTransport* SimNetwork::transport_of(const Node& node, std::uint64_t life) const {
  const auto found = transports_.find(node.name());
  if (found == transports_.end() || found->second->life_ != life) return nullptr;
  return node.alive() && node.life() == life ? found->second : nullptr;
}

bool SimNetwork::is_cut_to(Connection& connection, End end) const {
  return is_cut(connection.at(other(end)).node->name(), connection.at(end).node->name());
}

void SimNetwork::attempt(Node& client, std::uint64_t life, net::PeerId peer) {
  simulation_.after(delay(), [this, &client, life, peer] {
    SimTransport* from = transport_of(client, life);
    if (from == nullptr) return;
    SimTransport::Peer& wanted = from->peers_.at(peer);
    if (wanted.connection != 0) return;
    const auto found = transports_.find(wanted.address);
    const bool cut = is_cut(client.name(), wanted.address) || is_cut(wanted.address, client.name());
    if (!cut && found != transports_.end()) {
      SimTransport& server = *found->second;
      if (transport_of(server.node_, server.life_) != nullptr) {
        return establish(*from, peer, server);
      }
    }
    wanted.last_error = absl::StrCat(wanted.address, cut ? ": timed out" : ": connection refused");
    simulation_.after(options_.connect_retry, [this, &client, life, peer] {
      if (client.alive() && client.life() == life) attempt(client, life, peer);
    });
  });
}

void SimNetwork::establish(SimTransport& client, net::PeerId peer, SimTransport& server) {
  const std::uint64_t number = ++last_connection_;
  Connection& connection = connections_[number];
  Side& at_client = connection.at(End::client);
  at_client.node = &client.node_;
  at_client.life = client.life_;
  at_client.peer = peer;
  Side& at_server = connection.at(End::server);
  at_server.node = &server.node_;
  at_server.life = server.life_;
  at_server.peer = net::PeerId{++server.last_peer_};
  client.peers_.at(peer).connection = number;  // No second attempt meanwhile.
  client.peers_.at(peer).own_end = End::client;
  SimTransport::Peer& accepted = server.peers_[at_server.peer];
  accepted.own_end = End::server;
  simulation_.trace(client.node_.name(), absl::StrCat("connects to ", server.node_.name()));
  for (const End end : {End::server, End::client}) {
    Node* node = connection.at(end).node;
    const std::uint64_t life = connection.at(end).life;
    const net::PeerId called = connection.at(end).peer;
    node->deliver(life, [this, node, life, called, number] {
      if (SimTransport* transport = transport_of(*node, life)) {
        transport->now_connected(called, number);
      }
    });
  }
}

void SimNetwork::transmit(std::uint64_t number, End to, Message message) {
  const auto found = connections_.find(number);
  if (found == connections_.end()) return;
  Connection& connection = found->second;
  ++count_.sent;
  count_.bytes += message.bytes.size();
  if (random_.chance(options_.connection_broken, million)) {
    ++count_.lost;
    return break_connection(number, options_.break_notice_max);
  }
  if (random_.chance(options_.lost, million)) {
    ++count_.lost;
    return;
  }
  if (random_.chance(options_.doubled, million)) {
    ++count_.doubled;
    put_under_way(number, to, message, simulation_.now() + delay() * 3);
  }
  Duration arrival = simulation_.now() + delay();
  if (random_.chance(options_.delayed_long, million)) {
    ++count_.reordered;
    arrival += random_.between(Duration{0}, options_.long_delay_max);
  } else if (random_.chance(options_.reordered, million)) {
    ++count_.reordered;
    arrival += random_.between(Duration{0}, options_.delay_max * 10);
  } else {
    arrival = std::max(arrival, connection.at(to).last_arrival);
    connection.at(to).last_arrival = arrival;
  }
  put_under_way(number, to, std::move(message), arrival);
}

void SimNetwork::put_under_way(std::uint64_t connection, End to, Message message,
                               Duration arrival) {
  connections_.at(connection).at(to).under_way += message.bytes.size();
  simulation_.at(arrival, [this, connection, to, message = std::move(message)]() mutable {
    arrive(connection, to, std::move(message));
  });
}

void SimNetwork::arrive(std::uint64_t number, End to, Message message) {
  const auto found = connections_.find(number);
  if (found == connections_.end()) return;
  Side& side = found->second.at(to);
  if (is_cut_to(found->second, to)) {
    side.parked.push_back(std::move(message));
    return;
  }
  side.under_way -= message.bytes.size();
  if (!side.up) return;
  ++count_.delivered;
  simulation_.mix(checksum(message.bytes.view(), raw(message.channel)));
  side.node->deliver(side.life, [this, number, to, message = std::move(message)]() mutable {
    hand_over(number, to, std::move(message));
  });
}

void SimNetwork::hand_over(std::uint64_t number, End to, Message message) {
  const auto found = connections_.find(number);
  if (found == connections_.end() || !found->second.at(to).up) return;
  const Side& side = found->second.at(to);
  SimTransport* transport = transport_of(*side.node, side.life);
  if (transport != nullptr) transport->handle(side.peer, message.channel, message.bytes.view());
}

void SimNetwork::break_connection(std::uint64_t number, Duration notice_max) {
  const auto found = connections_.find(number);
  if (found == connections_.end() || found->second.breaking) return;
  found->second.breaking = true;
  ++count_.breaks;
  for (const End end : {End::client, End::server}) {
    const Duration wait = random_.between(Duration{0}, notice_max);
    simulation_.after(wait, [this, number, end] { notice(number, end); });
  }
}

// One side gives the connection up, maybe one that is broken without its having noticed.
void SimNetwork::hang_up(std::uint64_t number, End end) {
  const auto found = connections_.find(number);
  if (found == connections_.end()) return;
  if (found->second.breaking) {
    notice(number, end);
  } else {
    break_connection(number, options_.delay_max);
  }
}

// One side ended; the other notices.
void SimNetwork::side_gone(std::uint64_t number, End end, Duration notice_max) {
  Connection& connection = connections_.at(number);
  connection.at(end).up = false;
  connection.breaking = true;
  ++count_.breaks;
  const Duration wait = delay() + random_.between(Duration{0}, notice_max);
  simulation_.after(wait, [this, number, end] { notice(number, other(end)); });
}

void SimNetwork::notice(std::uint64_t number, End end) {
  const auto found = connections_.find(number);
  if (found == connections_.end()) return;
  Side& side = found->second.at(end);
  if (side.up) {
    Node* node = side.node;
    const std::uint64_t life = side.life;
    const net::PeerId peer = side.peer;
    node->deliver(life, [this, node, life, peer, number, end] {
      // What arrived before is handled by now; nothing is any more.
      const auto still = connections_.find(number);
      if (still != connections_.end()) {
        still->second.at(end).up = false;
        if (!still->second.at(other(end)).up) connections_.erase(still);
      }
      if (SimTransport* transport = transport_of(*node, life)) transport->now_disconnected(peer);
    });
    return;
  }
  if (!found->second.at(other(end)).up) connections_.erase(found);
}

void SimNetwork::node_gone(const Node& node, std::uint64_t life, Duration notice_max) {
  std::vector<std::pair<std::uint64_t, End>> ended;
  for (auto& [number, connection] : connections_) {
    for (const End end : {End::client, End::server}) {
      const Side& side = connection.at(end);
      if (side.node == &node && side.life == life && side.up) ended.emplace_back(number, end);
    }
  }
  for (const auto& [number, end] : ended) side_gone(number, end, notice_max);
}

void SimNetwork::cut(const std::string& from, const std::string& to) {
  simulation_.trace("network", absl::StrCat("cut from ", from, " to ", to));
  const std::uint64_t number = ++last_cut_;
  cuts_[{from, to}] = number;
  simulation_.after(options_.keep_alive, [this, from, to, number] {
    const auto still = cuts_.find({from, to});
    if (still == cuts_.end() || still->second != number) return;
    std::vector<std::uint64_t> starved;
    for (auto& [connection, state] : connections_) {
      const std::string& client = state.at(End::client).node->name();
      const std::string& server = state.at(End::server).node->name();
      if ((client == from && server == to) || (client == to && server == from)) {
        starved.push_back(connection);
      }
    }
    for (const std::uint64_t connection : starved) {
      break_connection(connection, options_.keep_alive);
    }
  });
}

void SimNetwork::cut_both(const std::string& a, const std::string& b) {
  cut(a, b);
  cut(b, a);
}

void SimNetwork::heal() {
  simulation_.trace("network", "healed");
  cuts_.clear();
  for (auto& [number, connection] : connections_) {
    for (const End end : {End::client, End::server}) {
      Side& side = connection.at(end);
      std::vector<Message> parked = std::exchange(side.parked, {});
      for (Message& message : parked) {
        side.under_way -= message.bytes.size();
        const Duration arrival = std::max(simulation_.now() + delay(), side.last_arrival);
        side.last_arrival = arrival;
        put_under_way(number, end, std::move(message), arrival);
      }
    }
  }
}

void SimNetwork::break_connections(const std::string& a, const std::string& b) {
  std::vector<std::uint64_t> broken;
  for (auto& [number, connection] : connections_) {
    const std::string& client = connection.at(End::client).node->name();
    const std::string& server = connection.at(End::server).node->name();
    if ((client == a && server == b) || (client == b && server == a)) broken.push_back(number);
  }
  for (const std::uint64_t number : broken) break_connection(number, options_.break_notice_max);
}

// --- SimTransport --------------------------------------------------------------------------------

SimTransport::SimTransport(SimNetwork& network, Node& node)
    : network_(network), node_(node), life_(node.life()) {
  network_.transports_[node.name()] = this;
  auto& known = network_.known_nodes_;
  if (std::find(known.begin(), known.end(), &node) != known.end()) return;
  known.push_back(&node);
  node.on_crash([&network, &node] {
    const bool silently = network.random_.chance(1, 4);
    network.node_gone(node, node.life(),
                      silently ? network.options_.keep_alive : network.options_.break_notice_max);
  });
}

SimTransport::~SimTransport() {
  network_.node_gone(node_, life_, network_.options_.break_notice_max);
  const auto found = network_.transports_.find(node_.name());
  if (found != network_.transports_.end() && found->second == this) {
    network_.transports_.erase(found);
  }
}

net::PeerId SimTransport::connect(std::string_view address) {
  const net::PeerId peer{++last_peer_};
  peers_[peer].address = address;
  network_.attempt(node_, life_, peer);
  return peer;
}

void SimTransport::send(net::PeerId to, net::Channel channel, Bytes head, SharedBytes payload) {
  CHECK(head.size() + payload.size() <= net::message_size_max);
  if (!connected(to)) return;
  const Peer& peer = peers_.at(to);
  head.insert(head.end(), payload.view().begin(), payload.view().end());
  network_.transmit(peer.connection, SimNetwork::other(peer.own_end),
                    SimNetwork::Message{channel, SharedBytes(std::move(head))});
}

void SimTransport::on_message(net::Channel channel, MessageHandler handler) {
  message_handlers_.erase(channel);
  if (handler) {
    message_handlers_.emplace(channel, std::make_shared<MessageHandler>(std::move(handler)));
  }
}

void SimTransport::on_connection(net::Channel channel, ConnectionHandler handler) {
  connection_handlers_.erase(channel);
  if (handler) {
    connection_handlers_.emplace(channel, std::make_shared<ConnectionHandler>(std::move(handler)));
  }
}

bool SimTransport::connected(net::PeerId peer) const {
  const auto found = peers_.find(peer);
  return found != peers_.end() && found->second.is_up;
}

std::size_t SimTransport::queued(net::PeerId peer) const {
  if (!connected(peer)) return 0;
  const Peer& to = peers_.at(peer);
  const auto found = network_.connections_.find(to.connection);
  if (found == network_.connections_.end()) return 0;
  return found->second.at(SimNetwork::other(to.own_end)).under_way;
}

void SimTransport::disconnect(net::PeerId peer, std::string_view reason) {
  network_.simulation_.trace(node_.name(), "disconnects: " + std::string(reason));
  if (connected(peer)) {
    const Peer& own = peers_.at(peer);
    network_.hang_up(own.connection, own.own_end);
  }
}

std::string SimTransport::last_error(net::PeerId peer) const {
  const auto found = peers_.find(peer);
  return found == peers_.end() ? "no such peer" : found->second.last_error;
}

void SimTransport::now_connected(net::PeerId peer, std::uint64_t connection) {
  Peer& state = peers_.at(peer);
  state.connection = connection;
  state.is_up = true;
  state.last_error.clear();
  tell_connection(peer, true);
}

void SimTransport::now_disconnected(net::PeerId peer) {
  const auto found = peers_.find(peer);
  if (found == peers_.end()) return;
  const bool client = !found->second.address.empty();
  found->second.connection = 0;
  found->second.is_up = false;
  if (client) {
    found->second.last_error = absl::StrCat(found->second.address, ": connection broken");
    network_.attempt(node_, life_, peer);
  } else {
    peers_.erase(found);
  }
  tell_connection(peer, false);
}

void SimTransport::tell_connection(net::PeerId peer, bool connected_now) {
  std::vector<std::shared_ptr<ConnectionHandler>> handlers;
  for (const auto& [channel, handler] : connection_handlers_) handlers.push_back(handler);
  for (const auto& handler : handlers) (*handler)(peer, connected_now);
}

void SimTransport::handle(net::PeerId from, net::Channel channel, ByteView message) {
  const auto found = message_handlers_.find(channel);
  if (found == message_handlers_.end()) return;
  const std::shared_ptr<MessageHandler> handler = found->second;
  (*handler)(from, message);
}

}  // namespace plumeria::sim
