#include "os/frame.h"

#include <absl/strings/str_cat.h>

#include "base/checksum.h"
#include "base/number.h"

namespace plumeria::os {

namespace {

constexpr std::uint64_t magic = 0x414952454d554c50;  // "PLUMERIA"

std::uint32_t short_checksum(ByteView bytes) { return static_cast<std::uint32_t>(checksum(bytes)); }

}  // namespace

Handshake encode_handshake(const Greeting& ours) {
  Handshake bytes{};
  store(bytes.data(), magic);
  store(bytes.data() + 8, ours.protocol_version);
  store(bytes.data() + 16, ours.features);
  store(bytes.data() + 24, ours.features_needed);
  store(bytes.data() + 32, ours.identity);
  store(bytes.data() + 40, checksum(ByteView(bytes).first(40)));
  return bytes;
}

Status check_handshake_start(ByteView bytes, const Greeting& ours) {
  if (bytes.size() >= 8 && load<std::uint64_t>(bytes.data()) != magic) {
    return fail(Errc::corrupt, "does not speak Plumeria's protocol");
  }
  if (bytes.size() < handshake_start) return {};
  const auto version = load<std::uint32_t>(bytes.data() + 8);
  if (version != ours.protocol_version) {
    return fail(Errc::version,
                absl::StrCat("speaks protocol version ", version, ", this program speaks version ",
                             ours.protocol_version));
  }
  return {};
}

Result<Greeting> decode_handshake(ByteView bytes, const Greeting& ours) {
  TRY_STATUS(check_handshake_start(bytes, ours));
  if (load<std::uint64_t>(bytes.data() + 40) != checksum(bytes.first(40))) {
    return fail(Errc::corrupt, "sent a damaged handshake");
  }
  Greeting theirs{ours.protocol_version, load<std::uint64_t>(bytes.data() + 16),
                  load<std::uint64_t>(bytes.data() + 24), load<std::uint64_t>(bytes.data() + 32)};
  if ((ours.features_needed & ~theirs.features) != 0 ||
      (theirs.features_needed & ~ours.features) != 0) {
    return fail(Errc::version, absl::StrCat("has features ", absl::Hex(theirs.features),
                                            " and needs ", absl::Hex(theirs.features_needed),
                                            ", this program has ", absl::Hex(ours.features),
                                            " and needs ", absl::Hex(ours.features_needed)));
  }
  return theirs;
}

FrameHeader encode_frame(net::Channel channel, ByteView head, std::size_t payload) {
  FrameHeader bytes{};
  store(bytes.data(), static_cast<std::uint32_t>(head.size() + payload));
  store(bytes.data() + 4, static_cast<std::uint32_t>(head.size()));
  store(bytes.data() + 8, channel);
  store(bytes.data() + 16, short_checksum(ByteView(bytes).first(16)));
  store(bytes.data() + 20, short_checksum(head));
  return bytes;
}

Result<Frame> decode_frame(ByteView bytes) {
  if (load<std::uint32_t>(bytes.data() + 16) != short_checksum(bytes.first(16))) {
    return fail(Errc::corrupt, "sent something that is not a message");
  }
  Frame frame;
  frame.body = load<std::uint32_t>(bytes.data());
  frame.head = load<std::uint32_t>(bytes.data() + 4);
  frame.channel = load<net::Channel>(bytes.data() + 8);
  frame.head_checksum = load<std::uint32_t>(bytes.data() + 20);
  if (frame.body > net::message_size_max) {
    return fail(Errc::corrupt, absl::StrCat("sent a message of ", frame.body, " bytes; at most ",
                                            net::message_size_max, " are allowed"));
  }
  if (frame.head > frame.body || frame.channel < net::Channel::lock ||
      frame.channel > net::Channel::admin) {
    return fail(Errc::corrupt, "sent a message that makes no sense");
  }
  return frame;
}

Status check_head(const Frame& frame, ByteView body) {
  if (short_checksum(body.first(frame.head)) == frame.head_checksum) return {};
  return fail(Errc::corrupt, "sent a damaged message");
}

}  // namespace plumeria::os
