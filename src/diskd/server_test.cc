// The disk server and its client together, over a network that loses, doubles and reorders.
#include "diskd/server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "disk/contract_test.h"
#include "disk/remote_disk.h"
#include "disk/wire.h"
#include "diskd/test_world.h"
#include "net/loopback.h"

namespace plumeria::diskd {
namespace {

using disk::Address;
using disk::Durability;
using disk::LeaseNumber;
using disk::RemoteDisk;
using disk::Segment;

class LossyHarness final : public disk::ContractHarness {
 public:
  explicit LossyHarness(Losses losses) : network_(time_, losses) {}
  disk::VirtualDisk& disk() override { return remote_; }
  disk::VirtualDisk& owner() override { return memory_; }
  Executor& executor() override { return time_; }
  void run(Task<void> task) override { time_.run(std::move(task)); }

 private:
  VirtualTime time_{1};
  LossyNetwork network_;
  MemoryDisk memory_{time_};
  DiskServer server_{time_.world(), network_.server(), memory_, 5, {}};
  RemoteDisk remote_{time_.world(), network_.add_client(), "server", {}};
};

class LoopbackHarness final : public disk::ContractHarness {
 public:
  disk::VirtualDisk& disk() override { return remote_; }
  Executor& executor() override { return time_; }
  void run(Task<void> task) override { time_.run(std::move(task)); }

 private:
  VirtualTime time_{1};
  net::Loopback loopback_{time_};
  MemoryDisk memory_{time_};
  DiskServer server_{time_.world(), loopback_.server(), memory_, 5, {.allow_lease_control = true}};
  RemoteDisk remote_{time_.world(), loopback_.client(), "server", {}};
};

class DirectHarness final : public disk::ContractHarness {
 public:
  disk::VirtualDisk& disk() override { return memory_; }
  Executor& executor() override { return time_; }
  void run(Task<void> task) override { time_.run(std::move(task)); }

 private:
  VirtualTime time_{1};
  MemoryDisk memory_{time_};
};

}  // namespace
}  // namespace plumeria::diskd

namespace plumeria::disk {
INSTANTIATE_TEST_SUITE_P(
    Remote, DiskContract,
    testing::Values(
        ContractCase{"memory", [] { return std::make_unique<diskd::DirectHarness>(); }},
        ContractCase{"loopback", [] { return std::make_unique<diskd::LoopbackHarness>(); }},
        ContractCase{
            "lossy",
            [] {
              return std::make_unique<diskd::LossyHarness>(diskd::Losses{
                  .lost_percent = 10, .doubled_percent = 10, .delay_max = 5ms, .late_percent = 5});
            }}),
    contract_case_name);
}  // namespace plumeria::disk

namespace plumeria::diskd {
namespace {

// One store; its server can be restarted, with or without loss of what was not flushed.
class DiskServerTest : public testing::TestWithParam<std::uint64_t> {
 protected:
  DiskServerTest() { start_server(); }

  void start_server() {
    server = std::make_unique<DiskServer>(time.world(), network.server(), memory, ++incarnation,
                                          DiskServerOptions{.allow_lease_control = true});
    network.set_server_up(true);
  }
  // kill -9, or a power cut: nothing that was under way goes on.
  void stop_server(bool power_cut) {
    network.set_server_up(false);
    wait_void(server->stop());  // What it had begun ends; the answers are lost.
    server.reset();
    if (power_cut) memory.cut_power();
  }
  void restart_server(bool power_cut) {
    stop_server(power_cut);
    start_server();
  }
  void wait_void(Task<void> task) { time.run(std::move(task)); }
  template <class T>
  T wait(Task<T> task) {
    struct Run {
      static Task<void> keep(Task<T> inner, std::optional<T>* result) {
        result->emplace(co_await inner);
      }
    };
    std::optional<T> result;
    time.run(Run::keep(std::move(task), &result));
    return std::move(*result);
  }
  std::unique_ptr<RemoteDisk> connect(RemoteDisk::Options options = {}) {
    auto remote =
        std::make_unique<RemoteDisk>(time.world(), network.add_client(), "server", options);
    CHECK(wait(remote->wait_until_connected(60s)));
    return remote;
  }
  Status write(RemoteDisk& remote, Address to, Bytes data,
               Durability durability = Durability::retain) {
    return wait(remote.write(to, SharedBytes(std::move(data)), me, durability));
  }
  static Bytes bytes(std::uint8_t value, std::size_t length = 512) {
    return Bytes(length, std::byte{value});
  }

  static constexpr LeaseNumber me{1};
  static constexpr Segment segment{2};
  VirtualTime time{GetParam()};
  LossyNetwork network{time, {}};
  MemoryDisk memory{time};
  std::uint64_t incarnation = 0;
  std::unique_ptr<DiskServer> server;
};

class FactTest : public DiskServerTest {};

TEST_P(FactTest, RetainedWritesComeBackInTheirOrderAfterAPowerCut) {
  auto remote = connect();
  ASSERT_TRUE(wait(memory.admit(me)));
  ASSERT_TRUE(write(*remote, {segment, 0}, bytes(1)));
  ASSERT_TRUE(wait(remote->flush()));
  ASSERT_TRUE(write(*remote, {segment, 0}, bytes(2)));
  ASSERT_TRUE(write(*remote, {segment, 256}, bytes(3)));
  ASSERT_TRUE(write(*remote, {segment, 0}, bytes(4, 100)));
  const Bytes before = memory.peek({segment, 0}, 1024);
  restart_server(true);
  EXPECT_EQ(memory.peek({segment, 0}, 512), bytes(1));
  ASSERT_TRUE(wait(remote->flush()));
  EXPECT_EQ(memory.peek_durable({segment, 0}, 1024), before);
  EXPECT_EQ(remote->counters().restarts, 1u);
  EXPECT_EQ(remote->counters().replayed, 3u);
  EXPECT_EQ(remote->counters().retained_bytes, 0u);
}

TEST_P(FactTest, LoggedWritesThatWereAcknowledgedAreNotSentAgain) {
  auto remote = connect();
  ASSERT_TRUE(wait(memory.admit(me)));
  ASSERT_TRUE(write(*remote, {segment, 0}, bytes(1), Durability::logged));
  EXPECT_EQ(remote->counters().retained_bytes, 0u);
  restart_server(true);
  ASSERT_TRUE(wait(remote->flush()));
  EXPECT_TRUE(all_zero(memory.peek({segment, 0}, 512)));
}

TEST_P(FactTest, WhatAFlushCoveredIsNotSentAgain) {
  auto remote = connect();
  ASSERT_TRUE(wait(memory.admit(me)));
  ASSERT_TRUE(write(*remote, {segment, 0}, bytes(1)));
  ASSERT_TRUE(wait(remote->flush()));
  // Somebody else has the lock now.
  ASSERT_TRUE(wait(memory.write({segment, 0}, SharedBytes(bytes(2)), me, Durability::retain)));
  ASSERT_TRUE(wait(memory.flush()));
  restart_server(true);
  ASSERT_TRUE(wait(remote->flush()));
  EXPECT_EQ(memory.peek({segment, 0}, 512), bytes(2));
}

TEST_P(FactTest, AFlushOfSegmentsCoversThoseAlone) {
  const Segment other{static_cast<std::uint64_t>(segment) + 1};
  auto remote = connect();
  ASSERT_TRUE(wait(memory.admit(me)));
  ASSERT_TRUE(write(*remote, {segment, 0}, bytes(1)));
  ASSERT_TRUE(write(*remote, {other, 0}, bytes(2)));
  ASSERT_TRUE(wait(remote->flush_segments({segment})));
  EXPECT_EQ(memory.peek_durable({segment, 0}, 512), bytes(1));
  EXPECT_TRUE(all_zero(memory.peek_durable({other, 0}, 512)));
  restart_server(true);
  ASSERT_TRUE(wait(remote->flush_segments({other})));
  EXPECT_EQ(memory.peek_durable({other, 0}, 512), bytes(2));
  EXPECT_EQ(remote->counters().replayed, 1u);
  EXPECT_EQ(remote->counters().retained_bytes, 0u);
}

TEST_P(FactTest, DiscardsComeBackBetweenTheWrites) {
  auto remote = connect();
  ASSERT_TRUE(wait(memory.admit(me)));
  ASSERT_TRUE(write(*remote, {segment, 0}, bytes(1)));
  ASSERT_TRUE(wait(remote->discard({segment, 0}, 512, me)));
  ASSERT_TRUE(write(*remote, {segment, 100}, bytes(2, 10)));
  const Bytes before = memory.peek({segment, 0}, 512);
  restart_server(true);
  ASSERT_TRUE(wait(remote->flush()));
  EXPECT_EQ(memory.peek({segment, 0}, 512), before);
}

TEST_P(FactTest, ARestartWithoutLossChangesNothingButTime) {
  auto remote = connect();
  ASSERT_TRUE(wait(memory.admit(me)));
  ASSERT_TRUE(write(*remote, {segment, 0}, bytes(1)));
  stop_server(false);
  time.run_for(60s);
  start_server();
  ASSERT_TRUE(write(*remote, {segment, 512}, bytes(2)));
  EXPECT_EQ(memory.peek({segment, 0}, 512), bytes(1));
  EXPECT_EQ(memory.peek({segment, 512}, 512), bytes(2));
}

TEST_P(FactTest, ALossThatTheServerDoesNotTakeBackFailsEveryFlush) {
  auto remote = connect();
  ASSERT_TRUE(wait(memory.admit(me)));
  ASSERT_TRUE(write(*remote, {segment, 0}, bytes(1)));
  stop_server(true);
  ASSERT_TRUE(wait(memory.fence(me)));
  start_server();
  EXPECT_EQ(wait(remote->flush()).error().code, Errc::fenced);
  EXPECT_EQ(wait(remote->flush()).error().code, Errc::fenced);
  EXPECT_TRUE(all_zero(memory.peek({segment, 0}, 512)));
  remote->forget(me);
  EXPECT_TRUE(wait(remote->flush()));
}

TEST_P(FactTest, AFailedFlushCoversNothing) {
  auto remote = connect();
  ASSERT_TRUE(wait(memory.admit(me)));
  ASSERT_TRUE(write(*remote, {segment, 0}, bytes(1)));
  memory.fail_next_flush(Error{Errc::io, "disk"});
  EXPECT_EQ(wait(remote->flush()).error().code, Errc::io);
  EXPECT_GT(remote->counters().retained_bytes, 0u);
  restart_server(true);
  EXPECT_TRUE(wait(remote->flush()));
  EXPECT_EQ(memory.peek_durable({segment, 0}, 512), bytes(1));
}

TEST_P(FactTest, MuchIsFlushedByItselfSoThatLittleIsKept) {
  auto remote = connect({.retained_soft = 64u << 10, .retained_max = 256u << 10});
  ASSERT_TRUE(wait(memory.admit(me)));
  std::vector<Task<Status>> writes;
  for (std::uint64_t i = 0; i < 100; ++i) {
    writes.push_back(
        remote->write({segment, i * 16384}, SharedBytes(bytes(1, 16384)), me, Durability::retain));
  }
  for (const Status& status : wait(gather(time, std::move(writes)))) EXPECT_TRUE(status);
  EXPECT_LE(remote->counters().retained_bytes, 2u << 20);
  for (std::uint64_t i = 0; i < 50; ++i) {
    ASSERT_TRUE(write(*remote, {segment, i * 16384}, bytes(2, 16384)));
    EXPECT_LE(remote->counters().retained_bytes, (256u << 10) + 20000);
  }
  wait_void(remote->stop());
}

TEST_P(FactTest, ClientsMayNotChangeLeasesUnlessAllowed) {
  auto remote = connect();
  EXPECT_TRUE(wait(remote->admit(me)));
  stop_server(false);
  server = std::make_unique<DiskServer>(time.world(), network.server(), memory, ++incarnation,
                                        DiskServerOptions{});
  network.set_server_up(true);
  EXPECT_EQ(wait(remote->fence(me)).error().code, Errc::not_permitted);
}

TEST_P(FactTest, ACompareAndSwapThatAnswersLateIsNotTakenForALostRace) {
  auto remote = connect();
  ASSERT_TRUE(wait(memory.admit(me)));
  struct Run {
    static Task<void> update(RemoteDisk* disk, std::optional<Result<std::uint64_t>>* result) {
      Bytes value(3, std::byte{9});
      result->emplace(co_await disk->write_register("view", 0, std::move(value), me));
    }
  };
  std::optional<Result<std::uint64_t>> result;
  TaskScope scope;
  scope.spawn(Run::update(remote.get(), &result));
  network.set_losses({.lost_percent = 100});  // The request is under way, the answer will be lost.
  while (memory.peek_version("view") == 0) time.step();
  ASSERT_FALSE(result);
  stop_server(false);
  network.set_losses({});
  start_server();
  while (!result) time.step();
  ASSERT_TRUE(*result) << result->error().message();
  EXPECT_EQ(**result, 1u);
}

TEST_P(FactTest, AServerThatIsAwayIsWaitedForUnlessToldOtherwise) {
  stop_server(false);
  RemoteDisk remote(time.world(), network.add_client(), "server:1", {.give_up_after = 5s});
  const Status connected = wait(remote.wait_until_connected(3s));
  EXPECT_EQ(connected.error().code, Errc::unavailable);
  EXPECT_THAT(connected.error().message(), testing::HasSubstr("server:1"));
  EXPECT_EQ(wait(remote.read({segment, 0}, 10)).error().code, Errc::unavailable);
}

TEST_P(FactTest, GarbageEndsTheConnectionAndNothingElse) {
  auto remote = connect();
  auto& attacker = network.add_client();
  for (std::size_t length = 0; length < 120; ++length) {
    Bytes garbage(length);
    for (std::byte& b : garbage) b = static_cast<std::byte>(time.next());
    if (length > 0) garbage[0] = static_cast<std::byte>(length % 7);
    attacker.send(LossyNetwork::server_id, net::Channel::disk, garbage, {});
  }
  disk::wire::Request request;
  request.session = {1, 1};
  request.number = 1;
  request.operation = disk::wire::Operation::read;
  for (const std::uint64_t length : {std::uint64_t{0}, disk::transfer_max + 1, ~std::uint64_t{0}}) {
    request.length = length;
    attacker.send(LossyNetwork::server_id, net::Channel::disk, encode(request), {});
  }
  time.run_for(1s);
  EXPECT_GT(network.disconnected().size(), 50u);
  EXPECT_TRUE(wait(remote->usage()));
}

TEST_P(FactTest, IdleSessionsOfGoneClientsAreDropped) {
  {
    auto remote = connect();
    EXPECT_EQ(server->status().sessions, 1u);
    network.server().disconnect(net::PeerId{2}, "test");
    time.run_for(1s);
    network.set_server_up(true);
  }
  time.run_for(2000s);
  EXPECT_LE(server->status().sessions, 1u);
}

INSTANTIATE_TEST_SUITE_P(Seeds, FactTest, testing::Range<std::uint64_t>(1, 4));

// Four writers of blocks of their own, over a bad network, while the server loses power again and
// again. A block holds the number of its write; each write may only be followed by later ones, and
// what a flush has covered is never lost.
class ChaosTest : public DiskServerTest {
 protected:
  struct Block {
    std::uint64_t acknowledged = 0;  // the last one
    std::uint64_t flushed = 0;
    std::uint64_t last = 0;
  };
  static Bytes numbered(std::uint64_t number, std::size_t length) {
    Bytes data(length);
    for (std::size_t i = 0; i + 8 <= length; i += 8) store(data.data() + i, number);
    return data;
  }
  Task<void> write_and_flush(RemoteDisk* remote, std::uint64_t first, std::vector<Block>* blocks,
                             int rounds, int* left) {
    for (int round = 0; round < rounds; ++round) {
      for (int i = 0; i < 5; ++i) {
        const std::uint64_t index = first + time.below(4);
        Block& block = blocks->at(index);
        const std::uint64_t number = ++block.last;
        const SharedBytes data(numbered(number, 1024));
        const Address place{segment, index * 1024};
        const Status written = co_await remote->write(place, data, me, Durability::retain);
        EXPECT_TRUE(written);
        block.acknowledged = number;
        Result<Bytes> seen = co_await remote->read(place, 1024);
        EXPECT_TRUE(seen);
        EXPECT_EQ(*seen, numbered(number, 1024));
      }
      std::vector<std::uint64_t> acknowledged;
      for (std::uint64_t i = 0; i < 4; ++i) acknowledged.push_back(blocks->at(first + i).last);
      const Status flushed = co_await remote->flush();
      EXPECT_TRUE(flushed);
      for (std::uint64_t i = 0; i < 4; ++i) blocks->at(first + i).flushed = acknowledged[i];
    }
    --*left;
  }
};

TEST_P(ChaosTest, NothingIsLostAppliedTwiceOrLate) {
  ASSERT_TRUE(wait(memory.admit(me)));
  network.set_losses({.lost_percent = 5,
                      .doubled_percent = 10,
                      .delay_max = 3ms,
                      .late_percent = 10,
                      .late_max = 40s});
  std::vector<Block> blocks(16);
  int left = 4;
  std::vector<std::unique_ptr<RemoteDisk>> remotes;
  TaskScope scope;
  for (std::uint64_t i = 0; i < 4; ++i) {
    remotes.push_back(
        std::make_unique<RemoteDisk>(time.world(), network.add_client(), "server",
                                     RemoteDisk::Options{.window = 1u << 20, .resend_min = 200ms}));
    scope.spawn(write_and_flush(remotes.back().get(), 4 * i, &blocks, 8, &left));
  }
  while (left > 0) {
    time.run_for(Duration(time.below(3'000'000'000)));
    if (left == 0) break;
    restart_server(true);
    for (std::size_t i = 0; i < blocks.size(); ++i) {
      const Bytes data = memory.peek({segment, i * 1024}, 1024);
      EXPECT_GE(load<std::uint64_t>(data.data()), blocks[i].flushed);
      EXPECT_LE(load<std::uint64_t>(data.data()), blocks[i].last);
    }
    ASSERT_LT(time.now().time_since_epoch(), 1h);
  }
  time.run_for(60s);  // The last late copies come.
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    EXPECT_EQ(memory.peek({segment, i * 1024}, 1024), numbered(blocks[i].last, 1024)) << i;
  }
  for (auto& remote : remotes) wait_void(remote->stop());
}

INSTANTIATE_TEST_SUITE_P(Seeds, ChaosTest, testing::Range<std::uint64_t>(1, 41));

}  // namespace
}  // namespace plumeria::diskd
