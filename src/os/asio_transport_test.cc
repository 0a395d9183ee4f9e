#include "os/asio_transport.h"

#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>
#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <filesystem>
#include <mutex>

#include "base/log.h"
#include "os/frame.h"

namespace plumeria::os {
namespace {

using net::Channel;
using net::PeerId;
using testing::Contains;
using testing::HasSubstr;

std::mutex log_mutex;
std::vector<std::string> log_lines;
void keep_line(Severity severity, std::string_view text) {
  const std::lock_guard lock(log_mutex);
  if (severity >= Severity::info) log_lines.emplace_back(text);
}

Bytes text(std::string_view t) { return to_bytes(as_bytes(t)); }

// One end, with what it has seen.
struct Node {
  explicit Node(RealExecutor& executor,
                AsioTransport::Options options = {.retry_min = 1ms, .retry_max = 20ms})
      : transport(std::make_unique<AsioTransport>(executor, random, options)) {
    transport->on_message(Channel::disk, [this](PeerId from, ByteView message) {
      seen.emplace_back(as_text(message));
      last_from = from;
    });
    transport->on_connection(Channel::disk, [this](PeerId peer, bool connected) {
      seen.emplace_back(connected ? "+" : "-");
      last_from = peer;
    });
  }
  RealRandom random;
  std::unique_ptr<AsioTransport> transport;
  std::vector<std::string> seen;
  PeerId last_from{};
};

class AsioTransportTest : public testing::TestWithParam<bool> {
 protected:
  AsioTransportTest() {
    log_lines.clear();
    previous_sink = set_log_sink(keep_line);
  }
  ~AsioTransportTest() override {
    set_log_sink(previous_sink);
    ::unlink(socket_path.c_str());
  }
  void until(const std::function<bool()>& done, Duration limit = 20s) {
    const TimePoint deadline = executor.now() + limit;
    while (!done()) {
      ASSERT_LT(executor.now(), deadline) << "nothing happened";
      run_for(1ms);
    }
  }
  void run_for(Duration duration) {
    executor.at(executor.now() + duration, [&] { executor.stop(); });
    executor.run();
  }
  std::string wanted_address() { return GetParam() ? "unix:" + socket_path : "127.0.0.1:0"; }

  // A plain socket of somebody who does not use our code.
  int raw_connection(const std::string& address) {
    std::uint32_t port = 0;
    CHECK(absl::SimpleAtoi(address.substr(address.find(':') + 1), &port));
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(static_cast<std::uint16_t>(port));
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(::connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof to) == 0);
    return fd;
  }
  static void raw_send(int fd, ByteView bytes) {
    ASSERT_EQ(::send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(bytes.size()));
  }
  void until_closed(int fd) {
    until([fd] {
      char rest[4096];
      const ssize_t got = ::recv(fd, rest, sizeof rest, MSG_DONTWAIT);
      return got == 0 || (got < 0 && errno != EAGAIN);
    });
  }

  RealExecutor executor;
  std::string socket_path = testing::TempDir() + absl::StrCat("plumeria-", getpid(), ".socket");
  LogSink previous_sink;
};

INSTANTIATE_TEST_SUITE_P(Kinds, AsioTransportTest, testing::Bool(),
                         [](const auto& kind) { return kind.param ? "unix" : "tcp"; });

TEST_P(AsioTransportTest, CarriesMessagesOfEverySizeInOrderBothWays) {
  Node server(executor), client(executor);
  const std::string address = *server.transport->listen(wanted_address());
  const PeerId peer = client.transport->connect(address);
  until([&] { return !server.seen.empty() && !client.seen.empty(); });
  EXPECT_EQ(client.last_from, peer);
  std::vector<std::string> expected{"+"};
  for (std::size_t size : {std::size_t{0}, std::size_t{1}, std::size_t{100}, std::size_t{65536},
                           std::size_t{70000}, net::message_size_max - 3, std::size_t{5}}) {
    std::string payload(size, 'x');
    for (std::size_t i = 0; i < size; i += 97) payload[i] = static_cast<char>(i * size);
    client.transport->send(peer, Channel::disk, text("abc"), SharedBytes(text(payload)));
    expected.push_back("abc" + payload);
  }
  EXPECT_GT(client.transport->queued(peer), 4u << 20);
  until([&] { return server.seen.size() == expected.size(); });
  EXPECT_EQ(server.seen, expected);
  EXPECT_EQ(client.transport->queued(peer), 0u);
  for (int i = 0; i < 2000; ++i) {
    server.transport->send(server.last_from, Channel::disk, text(absl::StrCat(i)), {});
  }
  until([&] { return client.seen.size() == 2001; });
  for (int i = 0; i < 2000; ++i) EXPECT_EQ(client.seen[i + 1], absl::StrCat(i));
}

TEST_P(AsioTransportTest, AClientConnectsAgainWhenItsServerComesBack) {
  Node client(executor);
  auto server = std::make_unique<Node>(executor);
  const std::string address = *server->transport->listen(wanted_address());
  const PeerId peer = client.transport->connect(address);
  until([&] { return client.seen.size() == 1; });
  server.reset();
  until([&] { return client.seen.size() == 2; });
  EXPECT_EQ(client.seen.back(), "-");
  client.transport->send(peer, Channel::disk, text("dropped"), {});
  run_for(30ms);
  EXPECT_NE(client.transport->last_error(peer), "");
  server = std::make_unique<Node>(executor);
  ASSERT_TRUE(server->transport->listen(address));
  until([&] { return client.seen.size() == 3; });
  EXPECT_EQ(client.last_from, peer);
  EXPECT_EQ(client.transport->last_error(peer), "");
  client.transport->send(peer, Channel::disk, text("hello"), {});
  until([&] { return server->seen.size() == 2; });
  EXPECT_EQ(server->seen.back(), "hello");
}

TEST_P(AsioTransportTest, EitherSideMayDisconnect) {
  Node server(executor), client(executor);
  const PeerId peer = client.transport->connect(*server.transport->listen(wanted_address()));
  until([&] { return server.seen.size() == 1 && client.seen.size() == 1; });
  const PeerId first = server.last_from;
  server.transport->disconnect(first, "tired of it");
  EXPECT_EQ(server.seen.size(), 1u);  // Not on our stack.
  until([&] { return server.seen.size() == 3 && client.seen.size() == 3; });
  EXPECT_NE(server.last_from, first);
  EXPECT_THAT(log_lines, Contains(HasSubstr("tired of it")));
  client.transport->disconnect(peer, "test");
  until([&] { return server.seen.size() == 5 && client.seen.size() == 5; });
  EXPECT_EQ(client.seen, (std::vector<std::string>{"+", "-", "+", "-", "+"}));
}

TEST_P(AsioTransportTest, APeerOfAnotherVersionIsRefusedAndBothVersionsAreNamed) {
  Node server(executor);
  Node client(executor, {.protocol_version = 99, .retry_min = 1ms, .retry_max = 20ms});
  const PeerId peer = client.transport->connect(*server.transport->listen(wanted_address()));
  until([&] { return !client.transport->last_error(peer).empty(); });
  run_for(50ms);
  EXPECT_TRUE(client.seen.empty());
  EXPECT_TRUE(server.seen.empty());
  EXPECT_THAT(log_lines,
              Contains(testing::AllOf(HasSubstr(absl::StrCat("version ", net::protocol_version)),
                                      HasSubstr("99"))));
  EXPECT_LE(log_lines.size(), 40u);
}

TEST_P(AsioTransportTest, AServerOfAnotherStoreIsWaitedOut) {
  Node client(executor);
  auto server = std::make_unique<Node>(executor, AsioTransport::Options{.identity = 7});
  const std::string address = *server->transport->listen(wanted_address());
  const PeerId peer = client.transport->connect(address);
  until([&] { return client.seen.size() == 1; });
  server->transport.reset();
  until([&] { return client.seen.size() == 2; });
  {
    Node other(executor, {.identity = 8});
    ASSERT_TRUE(other.transport->listen(address));
    until([&] {
      return client.transport->last_error(peer).find("another store") != std::string::npos;
    });
    run_for(50ms);
    EXPECT_EQ(client.seen, (std::vector<std::string>{"+", "-"}));
  }
  server = std::make_unique<Node>(executor, AsioTransport::Options{.identity = 7});
  ASSERT_TRUE(server->transport->listen(address));
  until([&] { return client.seen.size() == 3; });
  EXPECT_EQ(client.seen.back(), "+");
}

TEST_P(AsioTransportTest, APeerThatLacksANeededFeatureIsRefused) {
  Node server(executor, {.features = 3, .features_needed = 2});
  Node old(executor, {.features = 1, .retry_min = 1ms, .retry_max = 5ms});
  Node good(executor, {.features = 2, .retry_min = 1ms, .retry_max = 5ms});
  const std::string address = *server.transport->listen(wanted_address());
  const PeerId peer = old.transport->connect(address);
  good.transport->connect(address);
  until([&] { return good.seen.size() == 1 && !old.transport->last_error(peer).empty(); });
  EXPECT_TRUE(old.seen.empty());
}

TEST_P(AsioTransportTest, APeerMayBeGoneBeforeItIsGreeted) {
  if (!GetParam()) return;  // Over TCP the greeting of a peer that is gone still can be sent.
  Node server(executor), client(executor);
  const std::string address = *server.transport->listen(wanted_address());
  sockaddr_un to{};
  to.sun_family = AF_UNIX;
  socket_path.copy(to.sun_path, sizeof to.sun_path - 1);
  for (int i = 0; i < 20; ++i) {  // All wait to be accepted when the executor runs.
    const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ASSERT_EQ(::connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof to), 0);
    ::close(fd);
  }
  client.transport->connect(address);
  until([&] { return client.seen.size() == 1; });
}

TEST_P(AsioTransportTest, AHandlerMayEndTheTransport) {
  Node server(executor), client(executor);
  const PeerId peer = client.transport->connect(*server.transport->listen(wanted_address()));
  until([&] { return client.seen.size() == 1; });
  server.transport->on_message(Channel::disk, [&](PeerId, ByteView) { server.transport.reset(); });
  for (int i = 0; i < 3; ++i) client.transport->send(peer, Channel::disk, text("x"), {});
  until([&] { return server.transport == nullptr; });
  until([&] { return client.seen.size() == 2; });
}

TEST_P(AsioTransportTest, AnAddressThatIsTakenIsAnError) {
  Node server(executor), second(executor);
  const std::string address = *server.transport->listen(wanted_address());
  const auto refused = second.transport->listen(address);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Errc::in_use);
  EXPECT_THAT(refused.error().message(), HasSubstr(address));
}

TEST_P(AsioTransportTest, ASocketFileLeftByADeadServerIsReplaced) {
  if (!GetParam()) return;
  const int dead = ::socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un name{};
  name.sun_family = AF_UNIX;
  socket_path.copy(name.sun_path, sizeof name.sun_path - 1);
  ASSERT_EQ(::bind(dead, reinterpret_cast<sockaddr*>(&name), sizeof name), 0);
  ::close(dead);
  {
    Node server(executor);
    EXPECT_TRUE(server.transport->listen(wanted_address()));
    struct stat status {};
    ASSERT_EQ(::stat(socket_path.c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 0777, 0600u);
  }
  EXPECT_FALSE(std::filesystem::exists(socket_path));
}

class GarbageTest : public AsioTransportTest {};
INSTANTIATE_TEST_SUITE_P(Tcp, GarbageTest, testing::Values(false));

TEST_P(GarbageTest, GarbageEndsItsConnectionAloneWithOneLine) {
  Node server(executor), client(executor);
  const std::string address = *server.transport->listen(wanted_address());
  client.transport->connect(address);
  until([&] { return client.seen.size() == 1; });
  for (const std::string& garbage :
       {std::string("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), std::string(100, '\0'),
        std::string(100000, '\xff'), std::string("PLUMERIAxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx")}) {
    log_lines.clear();
    const int fd = raw_connection(address);
    raw_send(fd, as_bytes(garbage));
    until_closed(fd);
    ::close(fd);
    EXPECT_EQ(log_lines.size(), 1u);
    EXPECT_THAT(log_lines, Contains(HasSubstr("127.0.0.1:")));
  }
  EXPECT_EQ(client.seen.size(), 1u);
  EXPECT_EQ(server.seen.size(), 1u);
}

TEST_P(GarbageTest, BadFramesEndTheConnection) {
  Node server(executor);
  const std::string address = *server.transport->listen(wanted_address());
  const Handshake handshake = encode_handshake({.protocol_version = net::protocol_version});
  const Bytes head = text("head");
  FrameHeader good = encode_frame(Channel::disk, head, 0);
  const auto with_lengths = [](std::uint32_t body, std::uint32_t head_length,
                               std::uint8_t channel) {
    FrameHeader frame{};
    store(frame.data(), body);
    store(frame.data() + 4, head_length);
    store(frame.data() + 8, channel);
    // The checksum is right, so only the lengths are wrong.
    const FrameHeader sample =
        encode_frame(Channel{channel}, Bytes(head_length), body - head_length);
    store(frame.data() + 16, load<std::uint32_t>(sample.data() + 16));
    return frame;
  };
  FrameHeader flipped = good;
  flipped[1] ^= std::byte{1};
  for (const FrameHeader& bad :
       {flipped, with_lengths(net::message_size_max + 1, 4, 2), with_lengths(4, 4, 9)}) {
    log_lines.clear();
    const int fd = raw_connection(address);
    raw_send(fd, handshake);
    raw_send(fd, good);
    raw_send(fd, head);
    raw_send(fd, bad);
    until_closed(fd);
    ::close(fd);
    until([&] { return server.seen.size() == 3; });
    EXPECT_EQ(server.seen, (std::vector<std::string>{"+", "head", "-"}));
    EXPECT_EQ(log_lines.size(), 1u);
    server.seen.clear();
  }
  // A damaged head.
  const int fd = raw_connection(address);
  raw_send(fd, handshake);
  raw_send(fd, good);
  raw_send(fd, text("heaD"));
  until_closed(fd);
  ::close(fd);
  until([&] { return server.seen.size() == 2; });
  EXPECT_EQ(server.seen, (std::vector<std::string>{"+", "-"}));
}

TEST_P(GarbageTest, AMessageInPiecesArrivesAndHalfAMessageIsDropped) {
  Node server(executor);
  const std::string address = *server.transport->listen(wanted_address());
  Bytes stream;
  const Handshake handshake = encode_handshake({.protocol_version = net::protocol_version});
  stream.insert(stream.end(), handshake.begin(), handshake.end());
  for (int i = 0; i < 2; ++i) {
    const FrameHeader frame = encode_frame(Channel::disk, text("head"), 3);
    stream.insert(stream.end(), frame.begin(), frame.end());
    const Bytes body = text("headtai");
    stream.insert(stream.end(), body.begin(), body.end());
  }
  stream.pop_back();
  const int fd = raw_connection(address);
  for (const std::byte b : stream) {
    raw_send(fd, ByteView(&b, 1));
    run_for(10us);
  }
  until([&] { return server.seen.size() == 2; });
  ::close(fd);
  until([&] { return server.seen.size() == 3; });
  EXPECT_EQ(server.seen, (std::vector<std::string>{"+", "headtai", "-"}));
  EXPECT_THAT(log_lines, Contains(HasSubstr("middle of a message")));
}

TEST_P(GarbageTest, WhoDoesNotGreetInTimeIsDisconnected) {
  Node server(executor, {.handshake_timeout = 20ms});
  const std::string address = *server.transport->listen(wanted_address());
  const int fd = raw_connection(address);
  until_closed(fd);
  ::close(fd);
  EXPECT_THAT(log_lines, Contains(HasSubstr("greet")));
}

TEST_P(GarbageTest, WhoGreetsAndSaysNothingIsDisconnected) {
  Node server(executor, {.silence_max = 20ms});
  Node client(executor);
  const std::string address = *server.transport->listen(wanted_address());
  const PeerId peer = client.transport->connect(address);
  until([&] { return client.seen.size() == 1; });
  client.transport->send(peer, Channel::disk, text("hello"), {});
  const int fd = raw_connection(address);
  raw_send(fd, encode_handshake({.protocol_version = net::protocol_version}));
  until_closed(fd);
  ::close(fd);
  EXPECT_THAT(log_lines, Contains(HasSubstr("said nothing")));
  EXPECT_EQ(client.seen.size(), 1u);  // Who has spoken may be silent.
}

TEST_P(GarbageTest, WhoDoesNotFinishAMessageIsDisconnected) {
  // One stops, the other one goes on too slowly.
  for (const bool goes_on : {false, true}) {
    Node server(executor, {.pause_max = goes_on ? 10s : 20ms, .message_time_max = 40ms});
    const std::string address = *server.transport->listen(wanted_address());
    const int fd = raw_connection(address);
    raw_send(fd, encode_handshake({.protocol_version = net::protocol_version}));
    raw_send(fd, encode_frame(Channel::disk, text("head"), net::message_size_max - 100));
    log_lines.clear();
    const TimePoint end = executor.now() + 10s;
    while (log_lines.empty() && executor.now() < end) {
      const std::byte one{};
      if (goes_on) (void)::send(fd, &one, 1, MSG_NOSIGNAL);
      run_for(5ms);
    }
    until_closed(fd);
    ::close(fd);
    EXPECT_THAT(log_lines, Contains(HasSubstr("did not finish a message")));
  }
}

TEST_P(GarbageTest, MoreConnectionsThanAllowedAreRefused) {
  Node server(executor, {.connections_max = 2});
  const std::string address = *server.transport->listen(wanted_address());
  Node clients[] = {Node(executor), Node(executor)};
  for (Node& client : clients) client.transport->connect(address);
  until([&] { return server.seen.size() == 2; });
  const int fd = raw_connection(address);
  until_closed(fd);
  ::close(fd);
  EXPECT_THAT(log_lines, Contains(HasSubstr("refused a connection")));
}

TEST_P(GarbageTest, WrongAddressesAreExplained) {
  Node node(executor);
  for (const char* wrong : {"", ":80", "host:99999", "host:x", "[::1", "unix:", "[::1]80"}) {
    const auto refused = node.transport->listen(wrong);
    ASSERT_FALSE(refused) << wrong;
    EXPECT_EQ(refused.error().code, Errc::invalid) << wrong;
    EXPECT_THAT(refused.error().message(), HasSubstr(wrong));
  }
  const PeerId nowhere = node.transport->connect("host:99999");
  until([&] { return !node.transport->last_error(nowhere).empty(); });
  const PeerId closed = node.transport->connect("127.0.0.1:1");
  until([&] { return !node.transport->last_error(closed).empty(); });
  EXPECT_THAT(node.transport->last_error(closed), HasSubstr("refused"));
}

TEST_P(GarbageTest, IpVersion6Works) {
  Node server(executor), client(executor);
  const auto address = server.transport->listen("[::1]:0");
  if (!address) return;  // This machine has none.
  client.transport->connect(*address);
  until([&] { return server.seen.size() == 1; });
}

}  // namespace
}  // namespace plumeria::os
