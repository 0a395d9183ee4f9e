// What goes over a connection (docs/protocol.md, "Connections"): one handshake each way, then
// frames. Encoding and checking only; little-endian.
//
//   handshake  magic "PLUMERIA", u32 protocol version, u32 zero, u64 features, u64 features needed,
//              u64 identity of what is served (0: nothing), u64 checksum of all before. Magic and
//              version keep their place for ever.
//   frame      u32 length of the body, u32 length of its head, u8 channel, 7 zero bytes,
//              u32 checksum of these 16 bytes, u32 checksum of the head; then the body.
//
// The rest of the body, the payload, has no checksum of its own here.
#pragma once

#include <array>
#include <cstdint>

#include "base/bytes.h"
#include "base/result.h"
#include "net/transport.h"

namespace plumeria::os {

constexpr std::size_t handshake_size = 48;
constexpr std::size_t handshake_start = 12;  // magic and version
constexpr std::size_t frame_header_size = 24;
using Handshake = std::array<std::byte, handshake_size>;
using FrameHeader = std::array<std::byte, frame_header_size>;

struct Greeting {
  std::uint32_t protocol_version = 0;
  std::uint64_t features = 0;
  std::uint64_t features_needed = 0;
  std::uint64_t identity = 0;
};

Handshake encode_handshake(const Greeting& ours);
// Errc::version names both versions; Errc::corrupt: it is no handshake. The first looks at what has
// come of it, whatever that is; the second requires that bytes.size() >= handshake_size.
Status check_handshake_start(ByteView bytes, const Greeting& ours);
Result<Greeting> decode_handshake(ByteView bytes, const Greeting& ours);

struct Frame {
  std::uint32_t body = 0;
  std::uint32_t head = 0;
  net::Channel channel{};
  std::uint32_t head_checksum = 0;
};
FrameHeader encode_frame(net::Channel channel, ByteView head, std::size_t payload);
// Requires: bytes.size() >= frame_header_size. Errc::corrupt.
Result<Frame> decode_frame(ByteView bytes);
Status check_head(const Frame& frame, ByteView body);

}  // namespace plumeria::os
