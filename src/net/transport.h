// The network as the code above `os` sees it: messages that may be lost, delayed, doubled and
// reordered.
//
// Production carries them over TCP (so mostly they are none of that, until a connection breaks);
// the simulated network does all of it. Whoever needs more numbers, repeats and recognizes its
// messages itself.
//
// Threads     All calls and all handlers on the executor's thread.
// Ownership   Handlers are called until they are removed with an empty one; the Transport outlives
// its users. Limits      One message carries at most `message_size_max` bytes; longer ones are a
// CHECK at the sender and end the
//             connection at the receiver. Lock messages keep to 64 KiB by themselves.
#pragma once

#include <absl/functional/any_invocable.h>

#include <cstdint>
#include <string>
#include <string_view>

#include "base/bytes.h"
#include "base/result.h"
#include "base/task.h"

namespace plumeria::net {

// Someone at the other end. A client's id for its server stays the same across reconnects; a server
// sees a new id for each connection, so whoever must recognize a client puts its identity into the
// messages.
enum class PeerId : std::uint64_t { none = 0 };

// Who the message is for, at the receiver.
enum class Channel : std::uint8_t { lock = 1, disk = 2, admin = 3 };

constexpr std::size_t message_size_max = (4u << 20) + 4096;

// Protocol version and feature bits travel in the transport's handshake; peers of another version
// are refused there with a message that names both versions.
constexpr std::uint32_t protocol_version = 4;

class Transport {
 public:
  // `message` is valid during the call only.
  using MessageHandler = absl::AnyInvocable<void(PeerId from, ByteView message)>;
  // `connected` false: what was sent and not answered may be lost. True: a (new) connection stands.
  using ConnectionHandler = absl::AnyInvocable<void(PeerId peer, bool connected)>;

  virtual ~Transport() = default;

  // Client side. The address is HOST:PORT, [V6]:PORT, or unix:PATH in production, a node's name in
  // simulation. Returns at once; the connection is made, and made again after it broke, in the
  // background.
  virtual PeerId connect(std::string_view address) = 0;

  // Queues a message; never waits. `payload` follows `head` in the same message (it may be empty,
  // and spares a copy). To a peer that is not connected the message is dropped.
  virtual void send(PeerId to, Channel channel, Bytes head, SharedBytes payload = {}) = 0;

  // One handler a channel, one connection handler for each user; `user` is the same channel.
  virtual void on_message(Channel channel, MessageHandler handler) = 0;
  virtual void on_connection(Channel channel, ConnectionHandler handler) = 0;

  // Bytes queued for this peer and not yet taken by the network: for back-pressure.
  virtual std::size_t queued(PeerId peer) const = 0;

  // Ends one connection, with the reason for the log (garbage, a session that is over, …). A
  // client's connects again.
  virtual void disconnect(PeerId peer, std::string_view reason) = 0;

  // Why the last attempt to connect failed, for messages to people; empty when connected or not yet
  // tried.
  virtual std::string last_error(PeerId peer) const = 0;
};

}  // namespace plumeria::net
