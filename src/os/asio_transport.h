// net::Transport over TCP and Unix sockets (docs/protocol.md, "Connections").
//
// Every connection starts with a handshake (magic, protocol version, feature bits, identity); a
// peer of another version is refused with a message that names both. Then come frames: length,
// channel, checksum of the frame's and the message's head. Whatever is not one of these ends that
// connection alone, with one line in the log.
//
// Each connect() has a connection of its own, even to the same address: a clerk's small messages do
// not wait behind a disk's large ones. It is made again after it broke, with a growing pause of
// 100 ms to 2 s. There is no encryption and no authentication: listen on loopback, a Unix socket or
// a network that you trust.
//
// Threads     The executor's; sockets share its loop.
// Ownership   Borrows executor and random. Handlers are not called any more once it is destroyed.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "net/transport.h"
#include "os/real_world.h"

namespace plumeria::os {

constexpr std::uint16_t default_port = 7411;
constexpr std::string_view default_listen_address = "127.0.0.1:7411";

// Whether it could be one: HOST:PORT, [V6]:PORT, HOST (default port) or unix:PATH; else
// Errc::invalid.
Status check_address(std::string_view address);
// Whether the host that it names has an address now. Asks name servers, and waits for them.
bool knows_host(std::string_view address);

class AsioTransport final : public net::Transport {
 public:
  struct Options {
    std::uint64_t features = 0;         // feature bits of this program
    std::uint64_t features_needed = 0;  // a peer that lacks one of these is refused
    // Of the store that is served; 0: none. A client stays with what it met first at an address: a
    // server of something else is waited out like one that is away.
    std::uint64_t identity = 0;
    std::uint32_t protocol_version = net::protocol_version;  // another one only in tests
    std::size_t connections_max = 4096;                      // accepted ones; more are refused
    Duration handshake_timeout = 5s;
    // Of those who connected to us: who says nothing after the handshake, or stops in the middle of
    // a message, or takes too long for one, is disconnected.
    Duration silence_max = 60s, pause_max = 30s, message_time_max = 300s;
    Duration retry_min = 100ms, retry_max = 2s;
  };

  AsioTransport(RealExecutor& executor, Random& random, Options options);
  ~AsioTransport() override;

  // Accepts connections at HOST:PORT, [V6]:PORT, HOST (default port) or unix:PATH; port 0 takes a
  // free one. Returns the address with the port that it got. A Unix socket's file is replaced if
  // nobody answers there; it is removed at the end. Errc::in_use, Errc::invalid, Errc::access.
  Result<std::string> listen(std::string_view address);

  net::PeerId connect(std::string_view address) override;
  void send(net::PeerId to, net::Channel channel, Bytes head, SharedBytes payload) override;
  void on_message(net::Channel channel, MessageHandler handler) override;
  void on_connection(net::Channel channel, ConnectionHandler handler) override;
  std::size_t queued(net::PeerId peer) const override;
  void disconnect(net::PeerId peer, std::string_view reason) override;
  std::string last_error(net::PeerId peer) const override;

  // Who it is, for messages to people: "127.0.0.1:5123", "unix".
  std::string describe(net::PeerId peer) const;

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace plumeria::os
