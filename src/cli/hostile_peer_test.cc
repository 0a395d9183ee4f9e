// Peers that say anything at all, over real sockets to a whole server of a real store: their frames
// are good, so that what is in them is decoded. Nothing may crash or hang the server, nothing may
// be written, and whoever behaves is served all the while.
#include <absl/strings/str_cat.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <random>
#include <string>

#include "base/log.h"
#include "check/check.h"
#include "clerk/clerk.h"
#include "disk/remote_disk.h"
#include "disk/wire.h"
#include "lock/messages.h"
#include "mount/mount.h"
#include "os/asio_transport.h"
#include "os/host_store.h"
#include "serve/server.h"

namespace plumeria::cli {
namespace {

using net::Channel;
using net::PeerId;

constexpr lock::LeaseNumber maker{~0ull};
constexpr std::uint64_t log_size = 1u << 20;

class NothingToGiveUp final : public clerk::RevokeHandler {
 public:
  void revoke_begins(lock::LockName, lock::Mode) override {}
  Task<void> give_up(lock::LockName, lock::Mode) override { co_return; }
  void revoke_ended(lock::LockName, lock::Mode) override {}
  bool may_take(lock::LockName) override { return true; }
  Task<void> suspended(TimePoint) override { co_return; }
  void resumed() override {}
  void lost(std::string_view) override {}
};

class HostilePeerTest : public testing::Test {
 protected:
  HostilePeerTest() {
    previous_sink_ = set_log_sink([](Severity, std::string_view) {});
    std::string pattern = testing::TempDir() + "plumeria-hostile-XXXXXX";
    folder_ = ::mkdtemp(pattern.data());
    store_ = *os::HostStore::create(executor_, pool_, folder_ + "/store", {});
    CHECK(wait(format()));
    serve::ServerOptions options{.lease_duration = 1s, .log_size = log_size};
    options.incarnation = store_->incarnation();
    server_.emplace(world(), *store_, server_transport_, options);
    CHECK(wait(server_->start()));
    address_ = *server_transport_.listen("127.0.0.1:0");
    connect();
  }
  ~HostilePeerTest() override {
    set_log_sink(previous_sink_);
    std::filesystem::remove_all(folder_);
  }

  World world() { return {executor_, random_, executor_}; }
  template <class T>
  T wait(Task<T> task) {
    return executor_.run_until_done(std::move(task));
  }
  void wait(Task<void> task) { executor_.run_until_done(std::move(task)); }
  void run_for(Duration duration) {
    executor_.at(executor_.now() + duration, [this] { executor_.stop(); });
    executor_.run();
  }
  Task<Status> format() {
    CO_TRY_STATUS(co_await store_->admit(maker));
    mount::FormatOptions options;
    options.log_size = log_size;
    options.lease = maker;
    CO_TRY_STATUS(co_await mount::format_store(*store_, std::move(options)));
    co_return co_await store_->fence(maker);
  }

  // The hostile peer, connected again whenever it was thrown out. It uses what it is told.
  void connect() {
    hostile_.emplace(executor_, random_, os::AsioTransport::Options{.retry_min = 1ms});
    hostile_->on_connection(Channel::disk, [this](PeerId, bool connected) {
      connected_ = connected;
      connections_ += connected;
    });
    hostile_->on_message(Channel::disk, [this](PeerId, ByteView message) {
      const auto opened = disk::wire::decode_opened(message);
      if (opened) session_ = opened->session;
    });
    hostile_->on_message(Channel::lock, [this](PeerId, ByteView bytes) {
      const auto message = lock::decode_message(bytes, lock::Direction::from_server);
      if (message && message->header.lease != lock::LeaseNumber::none) {
        lease_ = message->header.lease;
        epoch_ = message->header.epoch;
      }
    });
    peer_ = hostile_->connect(address_);
  }

  std::uint64_t below(std::uint64_t end) { return chance_() % end; }
  bool one_in(std::uint64_t times) { return below(times) == 0; }
  // A number of any size, or one at an edge.
  std::uint64_t number() {
    constexpr std::uint64_t edges[] = {0, 1, 4095, 4096, 1ull << 31, 1ull << 32, 1ull << 63, ~0ull};
    if (one_in(2)) return edges[below(std::size(edges))] - below(2);
    return chance_() >> below(64);
  }
  Bytes noise(std::size_t size) {
    Bytes bytes(size);
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(chance_());
    return bytes;
  }
  void spoil(Bytes& bytes) {
    if (bytes.empty() || !one_in(1000)) return;
    for (std::uint64_t i = below(4); i > 0; --i) bytes[below(bytes.size())] = std::byte(below(256));
    if (one_in(4)) bytes.resize(below(bytes.size()));
  }

  // Mostly what can be executed, now and then what cannot be.
  Bytes disk_message() {
    using disk::wire::Operation;
    if (one_in(1000)) return noise(below(200));
    if (one_in(50) || session_.number == 0) {
      return encode(disk::wire::Open{number(), {store_->incarnation() + below(2), number()}});
    }
    const bool wild = one_in(500);
    disk::wire::Request request;
    request.session = one_in(50) ? disk::wire::SessionId{number(), number()} : session_;
    request.number = wild ? number() : ++requests_;
    request.answered_below = wild ? number() : 0;
    request.operation = static_cast<Operation>(wild ? below(256) : 1 + below(12));
    request.address = {disk::Segment{number()}, number()};
    request.length = number();
    if (request.operation == Operation::read && !wild) request.length = 1 + below(100'000);
    request.lease = lock::LeaseNumber{one_in(2) ? number() | 1ull << 40 : 0};
    request.durability = static_cast<disk::Durability>(wild ? below(256) : below(2));
    if (one_in(2)) request.name = std::string(below(200), static_cast<char>(below(256)));
    Bytes bytes = encode(request);
    const bool carries = request.operation == Operation::write ||
                         request.operation == Operation::write_register || wild;
    const Bytes payload = noise(carries ? 1 + below(20'000) : 0);
    bytes.insert(bytes.end(), payload.begin(), payload.end());
    spoil(bytes);
    return bytes;
  }

  lock::Mode mode() { return static_cast<lock::Mode>(one_in(5000) ? below(256) : 1 + below(2)); }
  lock::LockName name() {  // of nothing that others use
    const auto lock_class = one_in(5000) ? below(256) : 1 + below(6);
    return {static_cast<lock::LockClass>(lock_class), below(100) | 1ull << 50};
  }
  lock::FileLock file_lock() {
    const auto pid = static_cast<std::uint32_t>(number());
    std::uint64_t start = number(), end = number();
    if (start > end && !one_in(1000)) std::swap(start, end);
    return {below(100) | 1ull << 50, one_in(2), number(), start, end, mode(), pid};
  }
  lock::Report report() {
    lock::Report report{static_cast<std::uint32_t>(number()), one_in(2), {}, {}};
    for (std::uint64_t i = below(5); i > 0; --i) {
      report.holds.push_back({name(), lock::Sequence{number()}, mode()});
      report.file_locks.push_back(file_lock());
    }
    return report;
  }
  lock::Item lock_item() {
    const auto sequence = lock::Sequence{number() | 1};
    switch (below(8)) {
      case 0:
      case 1:
        return lock::Request{name(), sequence, mode(), one_in(2)};
      case 2:
        return lock::Release{name(), sequence, one_in(2) ? lock::Mode::none : lock::Mode::shared};
      case 3:
        return lock::Keep{name(), sequence, number()};
      case 4:
        return report();
      case 5:
      case 6:
        return lock::FileLockCall{lock::CallNumber{number()}, lock::CallNumber{number()},
                                  static_cast<lock::FileLockKind>(1 + below(4)), one_in(2),
                                  file_lock()};
      default:
        if (one_in(1000)) return lock::Grant{name(), sequence, mode()};  // A server's.
        return lock::Renew{};
    }
  }
  Bytes lock_message() {
    if (one_in(1000)) return noise(below(200));
    lock::Outbox outbox;
    const bool joins = lease_ == lock::LeaseNumber::none || one_in(400);
    if (joins) outbox.add(lock::Join{chance_(), {}, std::string(below(60), 'x')});
    for (std::uint64_t i = 1 + below(6); i > 0; --i) outbox.add(lock_item());
    lock::Header header{lock::Direction::from_clerk, epoch_, lease_};
    if (joins) header.lease = lock::LeaseNumber::none;
    if (one_in(4)) header.lease = lock::LeaseNumber{number() | 1ull << 40};
    if (one_in(8)) header.epoch = lock::Epoch{number()};
    Bytes bytes = std::move(outbox.take(header).front());
    spoil(bytes);
    return bytes;
  }
  Bytes admin_message() {
    constexpr const char* sayings[] = {"",     "{",
                                       "[]",   "{\"ask\":7}",
                                       "null", "{\"ask\":\"dance\"}",
                                       "\xff", "{\"ask\":\"status\"}"};
    if (one_in(4)) return Bytes(below(100'000), std::byte{'['});
    return to_bytes(as_bytes(std::string_view(sayings[below(std::size(sayings))])));
  }
  void say_something() {
    if (one_in(500)) return hostile_->send(peer_, Channel::admin, admin_message(), {});
    if (one_in(3)) return hostile_->send(peer_, Channel::lock, lock_message(), {});
    hostile_->send(peer_, Channel::disk, disk_message(), {});
  }

  LogSink previous_sink_;
  std::mt19937_64 chance_{20'261'126};
  std::string folder_, address_;
  os::RealExecutor executor_;
  os::RealRandom random_;
  std::unique_ptr<os::HostStore> store_;
  os::ThreadPool pool_{executor_, 2};
  os::AsioTransport server_transport_{executor_, random_, {}};
  std::optional<serve::Server> server_;
  std::optional<os::AsioTransport> hostile_;
  PeerId peer_{};
  disk::wire::SessionId session_;
  bool connected_ = false;
  std::uint64_t connections_ = 0, requests_ = 0;
  lock::LeaseNumber lease_{};
  lock::Epoch epoch_{};
};

TEST_F(HostilePeerTest, NothingThatIsSaidHarmsTheServerOrOtherClients) {
  os::AsioTransport transport(executor_, random_, {});
  disk::RemoteDisk disk(world(), transport, address_, {});
  NothingToGiveUp handler;
  clerk::Clerk clerk(world(), transport, transport.connect(address_), {.label = "well-behaved"});
  clerk.set_handler(&handler);
  const auto member = wait(clerk.join(10s));
  ASSERT_TRUE(member) << member.error().message();
  const disk::Segment mine{1ull << 63 | 0x77};

  const TimePoint end = executor_.now() + (std::getenv("PLUMERIA_LONG") != nullptr ? 60s : 4s);
  std::uint64_t said = 0, turns = 0;
  while (executor_.now() < end) {
    for (int i = 0; i < 50 && connected_; ++i, ++said) say_something();
    run_for(1ms);
    // The well-behaved one takes a lock, writes, syncs and reads what it wrote.
    const Bytes content = noise(4096);
    const disk::Address place{mine, 4096 * (turns % 50)};
    const lock::LockName lock_name{lock::LockClass::inode, 2 + turns % 100};
    const TimePoint begin = executor_.now();
    const auto pin = wait(clerk.acquire(lock_name, lock::Mode::exclusive));
    ASSERT_TRUE(pin) << pin.error().message();
    ASSERT_TRUE(wait(
        disk.write(place, SharedBytes(Bytes(content)), member->lease, disk::Durability::retain)));
    ASSERT_TRUE(wait(disk.flush()));
    const auto back = wait(disk.read(place, 4096));
    ASSERT_TRUE(back);
    ASSERT_TRUE(*back == content) << "turn " << turns;
    EXPECT_LT(executor_.now() - begin, 10s);
    ++turns;
  }
  const serve::ServerStatus status = server_->status();
  std::printf(
      "said %llu messages in %llu connections, the disk server executed %llu, %llu leases "
      "ended, %llu turns of the well-behaved client\n",
      static_cast<unsigned long long>(said), static_cast<unsigned long long>(connections_),
      static_cast<unsigned long long>(status.disk.requests),
      static_cast<unsigned long long>(status.locks.expired),
      static_cast<unsigned long long>(turns));
  EXPECT_GT(turns, 10u);
  EXPECT_GT(status.disk.requests, turns * 3 + 100);
  // Nobody but the well-behaved one has written.
  const auto segments = wait(store_->list_segments(disk::Segment{1ull << 63}, 10));
  ASSERT_TRUE(segments);
  EXPECT_THAT(*segments, testing::ElementsAre(mine));
  EXPECT_TRUE(wait(clerk.leave()));
  wait(disk.stop());
  hostile_.reset();
  run_for(2s);  // What the hostile one has joined with is over.
  EXPECT_TRUE(wait(server_->stop()));
  const auto report = wait(check::run(world(), *store_, {}));
  ASSERT_TRUE(report) << report.error().message();
  EXPECT_THAT(report->problems, testing::IsEmpty());
}

}  // namespace
}  // namespace plumeria::cli
