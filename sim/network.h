// The simulated network: connections between named nodes whose messages are lost, delayed, doubled
// and reordered as the seed and the options decide.
//
// Without faults a connection behaves like TCP: in order, nothing lost until it breaks. Each end
// notices a break by itself, so that a message of an old connection can still be handled after the
// other end has given it up. What is sent into a partition stays on its way until the partition
// heals or the connection breaks, as TCP's repetitions would have it.
//
// A SimTransport belongs to one life of its node; it listens under the node's name. When the node
// crashes its peers notice soon (the process was killed) or not before their keep-alive time (the
// machine lost its power), as chance has it.
//
// Ownership  The SimNetwork outlives its transports and the simulation's last event.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "net/transport.h"
#include "sim/world.h"

namespace plumeria::sim {

struct NetworkOptions {
  Duration delay_min = 10us, delay_max = 200us;
  Duration connect_retry = 100ms;    // between a client's attempts
  Duration break_notice_max = 50ms;  // until an end notices that the other is gone
  Duration keep_alive = 5s;          // until an end notices that nothing comes through any more
  // In a million messages:
  std::uint32_t lost = 0, doubled = 0, reordered = 0, delayed_long = 0;
  std::uint32_t connection_broken = 0;  // by the message that would have been sent
  Duration long_delay_max = 3s;
};

struct NetworkCount {
  std::uint64_t sent = 0, delivered = 0, lost = 0, doubled = 0, reordered = 0, breaks = 0;
  std::uint64_t bytes = 0;
};

class SimTransport;

class SimNetwork {
 public:
  SimNetwork(Simulation& simulation, NetworkOptions options);
  ~SimNetwork();
  SimNetwork(const SimNetwork&) = delete;
  SimNetwork& operator=(const SimNetwork&) = delete;

  void set_options(NetworkOptions options) { options_ = options; }
  const NetworkOptions& options() const { return options_; }

  // Nothing goes from one node to the other (the other way is a cut of its own).
  void cut(const std::string& from, const std::string& to);
  void cut_both(const std::string& a, const std::string& b);
  // All cuts are mended; what was under way goes on.
  void heal();
  bool is_cut(const std::string& from, const std::string& to) const {
    return cuts_.contains({from, to});
  }
  // Breaks every connection between the two, as a reset would.
  void break_connections(const std::string& a, const std::string& b);

  const NetworkCount& count() const { return count_; }

 private:
  friend class SimTransport;
  enum class End : std::size_t { client = 0, server = 1 };
  struct Message {
    net::Channel channel{};
    SharedBytes bytes;
  };
  struct Side {
    Node* node = nullptr;
    std::uint64_t life = 0;
    net::PeerId peer{};           // what this side calls the other
    bool up = true;               // it has not noticed a break
    Duration last_arrival{};      // of messages to this side
    std::vector<Message> parked;  // messages to this side that a cut holds up
    std::size_t under_way = 0;    // bytes to this side
  };
  struct Connection {
    std::array<Side, 2> sides;
    bool breaking = false;
    Side& at(End end) { return sides[static_cast<std::size_t>(end)]; }
  };
  static End other(End end) { return end == End::client ? End::server : End::client; }

  Duration delay() { return random_.between(options_.delay_min, options_.delay_max); }
  SimTransport* transport_of(const Node& node, std::uint64_t life) const;
  bool is_cut_to(Connection& connection, End end) const;
  void attempt(Node& client, std::uint64_t life, net::PeerId peer);
  void establish(SimTransport& client, net::PeerId peer, SimTransport& server);
  void transmit(std::uint64_t connection, End to, Message message);
  void put_under_way(std::uint64_t connection, End to, Message message, Duration arrival);
  void arrive(std::uint64_t connection, End to, Message message);
  void hand_over(std::uint64_t connection, End to, Message message);
  // Both sides notice, each within `notice_max`.
  void break_connection(std::uint64_t connection, Duration notice_max);
  void hang_up(std::uint64_t connection, End end);
  void side_gone(std::uint64_t connection, End end, Duration notice_max);
  void notice(std::uint64_t connection, End end);
  void node_gone(const Node& node, std::uint64_t life, Duration notice_max);

  Simulation& simulation_;
  NetworkOptions options_;
  RandomStream random_;
  std::map<std::string, SimTransport*, std::less<>> transports_;
  std::map<std::pair<std::string, std::string>, std::uint64_t> cuts_;  // with the number of the cut
  std::uint64_t last_cut_ = 0;
  std::map<std::uint64_t, Connection> connections_;
  std::vector<const Node*> known_nodes_;
  std::uint64_t last_connection_ = 0;
  NetworkCount count_;
};

class SimTransport final : public net::Transport {
 public:
  SimTransport(SimNetwork& network, Node& node);
  ~SimTransport() override;

  net::PeerId connect(std::string_view address) override;
  void send(net::PeerId to, net::Channel channel, Bytes head, SharedBytes payload) override;
  void on_message(net::Channel channel, MessageHandler handler) override;
  void on_connection(net::Channel channel, ConnectionHandler handler) override;
  std::size_t queued(net::PeerId peer) const override;
  void disconnect(net::PeerId peer, std::string_view reason) override;
  std::string last_error(net::PeerId peer) const override;

  bool connected(net::PeerId peer) const;

 private:
  friend class SimNetwork;
  struct Peer {
    std::string address;           // empty at a server
    std::uint64_t connection = 0;  // 0: none
    SimNetwork::End own_end{};     // of that connection
    bool is_up = false;            // told to the handlers
    std::string last_error;
  };
  void now_connected(net::PeerId peer, std::uint64_t connection);
  void now_disconnected(net::PeerId peer);
  void tell_connection(net::PeerId peer, bool connected);
  void handle(net::PeerId from, net::Channel channel, ByteView message);

  SimNetwork& network_;
  Node& node_;
  const std::uint64_t life_;
  std::map<net::PeerId, Peer> peers_;
  std::uint64_t last_peer_ = 0;
  // Shared, because a handler may replace itself while it runs.
  std::map<net::Channel, std::shared_ptr<MessageHandler>> message_handlers_;
  std::map<net::Channel, std::shared_ptr<ConnectionHandler>> connection_handlers_;
};

}  // namespace plumeria::sim
