// The lock server and its clerks as they run in production, on simulated machines.
#include <gtest/gtest.h>

#include "base/async.h"
#include "base/fault.h"
#include "base/log.h"
#include "base/number.h"
#include "flags.h"
#include "lock/view.h"
#include "service_world.h"

namespace plumeria::lock_test {
namespace {

constexpr LockName lock_seven{lock::LockClass::inode, 7};

class ServiceTest : public ::testing::Test {
 protected:
  ServiceTest() {
    set_log_sink([](Severity, std::string_view) {});
  }

  ServiceWorld& make(ServiceOptions options) {
    world_ = std::make_unique<ServiceWorld>(options);
    world_->start_server();
    for (int i = 0; i < options.clients; ++i) world_->start_client(i);
    EXPECT_TRUE(run_until([this] { return all_joined(); }, 10s));
    return *world_;
  }
  bool all_joined() {
    for (int i = 0; i < world_->clients(); ++i) {
      if (!world_->client(i).joined()) return false;
    }
    return true;
  }
  bool run_until(const std::function<bool()>& done, Duration limit) {
    return world_->simulation().run_until(done, limit);
  }
  // Runs an acquire of client `index` to its end.
  Result<clerk::Pin> acquire(int index, LockName name, Mode mode) {
    return world_->simulation().run(world_->client(index).node(),
                                    world_->client(index).clerk().acquire(name, mode), 100s);
  }
  // Client `index` waits for lock_seven in the background.
  void wait_for(int index, TaskScope* scope, bool* granted) {
    struct Wait {
      static Task<void> run(clerk::Clerk* clerk, bool* done) {
        Task<Result<clerk::Pin>> taking = clerk->acquire(lock_seven, Mode::exclusive);
        auto taken = co_await taking;
        *done = taken.has_value();
      }
    };
    Machine& client = world_->client(index);
    client.node().deliver(client.node().life(), [&client, scope, granted] {
      scope->spawn(Wait::run(&client.clerk(), granted));
    });
  }
  lockd::LeaseStatus lease_status(LeaseNumber lease) {
    for (auto& status : world_->server().status().leases) {
      if (status.lease == lease) return status;
    }
    return {};
  }

  std::unique_ptr<ServiceWorld> world_;
};

TEST_F(ServiceTest, JoiningGivesALeaseASlotAndTheStoresTime) {
  ServiceWorld& world = make({.clients = 3});
  std::set<std::uint32_t> slots;
  for (int i = 0; i < 3; ++i) {
    const clerk::Membership& membership = world.client(i).clerk().membership();
    EXPECT_TRUE(world.disk().is_admitted(membership.lease));
    EXPECT_EQ(membership.lease_duration, Duration(2s));
    slots.insert(membership.slot);
    const auto own = raw(world.client(i).node().world().clock.wall()) + membership.wall_offset;
    const auto stores = raw(world.server_node().world().clock.wall());
    EXPECT_LT(std::abs(own - stores), 10'000'000);
  }
  EXPECT_EQ(slots, (std::set<std::uint32_t>{0, 1, 2}));
}

TEST_F(ServiceTest, AHeldLockIsTakenAgainWithoutAMessage) {
  ServiceWorld& world = make({.clients = 1});
  ASSERT_TRUE(acquire(0, lock_seven, Mode::exclusive).has_value());
  const auto before = world.client(0).clerk().status();
  for (int i = 0; i < 100; ++i) {
    EXPECT_TRUE(world.client(0).clerk().try_local(lock_seven, Mode::exclusive).has_value());
  }
  const auto after = world.client(0).clerk().status();
  EXPECT_EQ(after.messages_sent, before.messages_sent);
  EXPECT_EQ(after.local_hits, before.local_hits + 100);
}

TEST_F(ServiceTest, PrefetchBringsManyLocksWithOneMessage) {
  ServiceWorld& world = make({.clients = 2});
  { auto taken = acquire(1, {lock::LockClass::inode, 105}, Mode::shared); }
  std::vector<LockName> names;
  for (std::uint64_t i = 100; i < 400; ++i) names.push_back({lock::LockClass::inode, i});
  world.simulation().run_for(1s);
  const auto before = world.client(0).clerk().status();
  const std::size_t granted = world.simulation().run(
      world.client(0).node(), world.client(0).clerk().prefetch(names, Mode::exclusive));
  EXPECT_EQ(granted, 299u);
  EXPECT_EQ(world.client(0).clerk().status().messages_sent, before.messages_sent + 1);
  EXPECT_FALSE(world.client(0).clerk().try_local(names[5], Mode::exclusive).has_value());
  EXPECT_TRUE(world.client(0).clerk().try_local(names[6], Mode::exclusive).has_value());
}

TEST_F(ServiceTest, LeavingFreesSlotAndLocksAtOnceAndEndsTheLease) {
  ServiceWorld& world = make({.clients = 2});
  { auto pin = acquire(0, lock_seven, Mode::exclusive); }
  const clerk::Membership left = world.client(0).clerk().membership();
  ASSERT_TRUE(
      world.simulation().run(world.client(0).node(), world.client(0).clerk().leave()).has_value());
  EXPECT_TRUE(world.disk().is_fenced(left.lease));
  EXPECT_EQ(world.server().status().leases.size(), 1u);
  EXPECT_TRUE(acquire(1, lock_seven, Mode::exclusive).has_value());
  EXPECT_EQ(world.recoveries(), 0u);
  auto refused = acquire(0, lock_seven, Mode::shared);
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code, Errc::shut_down);
}

TEST_F(ServiceTest, ADeadClientsLocksComeFreeAfterItsLeaseAndItsReplay) {
  ServiceWorld& world = make({.clients = 2});
  { auto pin = acquire(0, lock_seven, Mode::exclusive); }
  const std::uint32_t slot = world.client(0).clerk().membership().slot;
  world.crash_client(0);
  const Duration before = world.simulation().now();
  EXPECT_TRUE(acquire(1, lock_seven, Mode::exclusive).has_value());
  EXPECT_EQ(world.recoveries(), 1u);
  const Duration waited = world.simulation().now() - before;
  EXPECT_GT(waited, Duration(1s));
  EXPECT_LT(waited, Duration(4s));
  world.start_client(0);
  EXPECT_TRUE(run_until([&] { return world.client(0).joined(); }, 5s));
  EXPECT_EQ(world.client(0).clerk().membership().slot, slot);  // it is free again
}

TEST_F(ServiceTest, AFailedReplayFreezesTheLocksUntilItSucceeds) {
  ServiceWorld& world = make({.clients = 2});
  { auto pin = acquire(0, lock_seven, Mode::exclusive); }
  world.set_recovery_fails(true);
  const LeaseNumber dead = world.client(0).clerk().membership().lease;
  world.crash_client(0);
  world.simulation().run_for(60s);
  EXPECT_EQ(lease_status(dead).state, "recovering");
  { auto other = acquire(1, {lock::LockClass::inode, 8}, Mode::exclusive); }  // others go on
  EXPECT_FALSE(world.simulation()
                   .run(world.client(1).node(),
                        world.client(1).clerk().try_acquire(lock_seven, Mode::shared))
                   .has_value());
  world.set_recovery_fails(false);
  EXPECT_TRUE(acquire(1, lock_seven, Mode::exclusive).has_value());
  EXPECT_EQ(world.recoveries(), 1u);
}

TEST_F(ServiceTest, ACutClientIsSuspendedThenGoesOnIfItComesBackInTime) {
  ServiceWorld& world = make({.clients = 1, .lease = 10s});
  { auto pin = acquire(0, lock_seven, Mode::exclusive); }
  world.network().cut_both("client0", "server");
  world.simulation().run_for(8500ms);
  EXPECT_FALSE(world.client(0).clerk().usable());
  EXPECT_TRUE(world.client(0).clerk().status().suspended);
  EXPECT_FALSE(world.client(0).clerk().try_local(lock_seven, Mode::shared).has_value());
  EXPECT_EQ(world.client(0).suspensions(), 1);
  world.network().heal();
  EXPECT_TRUE(acquire(0, lock_seven, Mode::exclusive).has_value());
  EXPECT_EQ(world.client(0).resumptions(), 1);
  EXPECT_FALSE(world.client(0).is_lost());
}

TEST_F(ServiceTest, APinOfASuspendedClientHoldsNothing) {
  ServiceWorld& world = make({.clients = 1, .lease = 10s});
  auto pin = acquire(0, lock_seven, Mode::exclusive);
  EXPECT_TRUE(pin->holds());
  world.network().cut_both("client0", "server");
  world.simulation().run_for(8500ms);
  EXPECT_FALSE(pin->holds());
  world.network().heal();
  EXPECT_TRUE(run_until([&] { return world.client(0).clerk().usable(); }, 5s));
  EXPECT_TRUE(pin->holds());
}

TEST_F(ServiceTest, APinOutlivesItsLeaseAndItsClerkAndHoldsNothing) {
  ServiceWorld& world = make({.clients = 1});
  auto pin = acquire(0, lock_seven, Mode::exclusive);
  world.client(0).clerk().declare_lost("a test says so");
  EXPECT_FALSE(pin->holds());
  EXPECT_TRUE(static_cast<bool>(*pin));
  world.crash_client(0);
  EXPECT_FALSE(pin->holds());
  pin->drop();
  EXPECT_FALSE(static_cast<bool>(*pin));
}

TEST_F(ServiceTest, AClientCutOffForLongIsToldThatItIsLost) {
  ServiceWorld& world = make({.clients = 2});
  { auto pin = acquire(0, lock_seven, Mode::exclusive); }
  world.network().cut_both("client0", "server");
  EXPECT_TRUE(acquire(1, lock_seven, Mode::exclusive).has_value());
  EXPECT_FALSE(world.client(0).is_lost());
  world.network().heal();
  auto refused = acquire(0, lock_seven, Mode::exclusive);
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code, Errc::lost);
  EXPECT_TRUE(world.client(0).is_lost());
  EXPECT_EQ(world.client(0).clerk().held(lock_seven), Mode::none);
}

TEST_F(ServiceTest, ARestartOfTheServerLosesNoLockAndNoClient) {
  ServiceWorld& world = make({.clients = 2});
  auto pin = acquire(0, lock_seven, Mode::exclusive);
  world.crash_server();
  world.simulation().run_for(20s);  // much longer than a lease
  EXPECT_TRUE(world.client(0).clerk().status().suspended);
  world.start_server();
  EXPECT_TRUE(world.server().status().rebuilding);
  bool granted = false;
  TaskScope scope;
  wait_for(1, &scope, &granted);
  world.simulation().run_for(3s);
  EXPECT_FALSE(world.server().status().rebuilding);
  EXPECT_FALSE(granted);
  EXPECT_TRUE(world.client(0).clerk().usable());
  EXPECT_EQ(world.client(0).clerk().held(lock_seven), Mode::exclusive);
  pin->drop();
  EXPECT_TRUE(run_until([&] { return granted; }, 3s));
  EXPECT_EQ(world.recoveries(), 0u);
}

TEST_F(ServiceTest, AClientThatDiedWithTheServerFreezesEverythingUntilItIsReplayed) {
  ServiceWorld& world = make({.clients = 2});
  { auto pin = acquire(0, lock_seven, Mode::exclusive); }
  world.crash_client(0);
  world.crash_server();
  world.start_server();
  // Its locks are unknown, so even a lock that nobody holds waits for its replay.
  auto other = acquire(1, {lock::LockClass::inode, 8}, Mode::exclusive);
  EXPECT_TRUE(other.has_value());
  EXPECT_EQ(world.recoveries(), 1u);
}

// Reader, writer, reader on one name, again and again: the reader downgrades the writer, the writer
// revokes the readers, and nobody loses anything.
TEST_F(ServiceTest, ReadersAndAWriterOfOneProgramLockTakeTurns) {
  ServiceWorld& world = make({.clients = 3});
  const lock::ProgramName called{"table", std::string(lock::program_name_max, 'n')};
  LockName name;
  for (int i = 0; i < 3; ++i) name = world.client(i).clerk().program_lock(called);
  std::uint64_t last = 0;
  for (std::uint64_t round = 1; round <= 10; ++round) {
    for (int client : {0, 1, 2}) {
      const Mode mode = client == 1 ? Mode::exclusive : Mode::shared;
      ASSERT_TRUE(acquire(client, name, mode).has_value());
      const std::uint64_t fence = world.client(client).clerk().fence(name);
      EXPECT_GT(fence, last);
      last = fence;
    }
    EXPECT_EQ(world.client(1).clerk().held(name), Mode::shared);
    EXPECT_EQ(world.client(1).clerk().status().downgrades, round);
    EXPECT_EQ(world.client(2).clerk().status().revokes, round - 1);
    const auto locks = world.server().program_locks();
    ASSERT_EQ(locks.size(), 1u);
    EXPECT_EQ(locks[0].name, called);
    EXPECT_EQ(locks[0].holders.size(), 2u);
  }
  EXPECT_EQ(world.server().status().expired, 0u);
}

TEST_F(ServiceTest, FenceNumbersGrowAcrossARestartOfTheServer) {
  ServiceWorld& world = make({.clients = 2});
  const lock::ProgramName called{"table", "name"};
  const LockName name = world.client(0).clerk().program_lock(called);
  auto pin = acquire(0, name, Mode::exclusive);
  const std::uint64_t before = world.client(0).clerk().fence(name);
  EXPECT_GT(before, 0u);
  world.crash_server();
  world.start_server();
  EXPECT_TRUE(run_until([&] { return !world.server().status().rebuilding; }, 10s));
  EXPECT_EQ(world.client(0).clerk().fence(name), before);
  ASSERT_EQ(world.server().program_locks().size(), 1u);
  EXPECT_EQ(world.server().program_locks()[0].name, called);  // It was told with the report.
  pin->drop();
  ASSERT_TRUE(acquire(1, name, Mode::exclusive).has_value());
  EXPECT_GT(world.client(1).clerk().fence(name), before);
}

TEST_F(ServiceTest, AHolderThatDoesNotGiveUpLosesItsLeaseAfterTheDeadline) {
  ServiceWorld& world = make({.clients = 2});
  auto pin = acquire(0, lock_seven, Mode::exclusive);  // and never drops it
  const Duration before = world.simulation().now();
  EXPECT_TRUE(acquire(1, lock_seven, Mode::shared).has_value());
  EXPECT_GT(world.simulation().now() - before, Duration(60s));
  EXPECT_LT(world.simulation().now() - before, Duration(70s));
  EXPECT_EQ(world.server().status().expired, 1u);
  EXPECT_TRUE(run_until([&] { return world.client(0).is_lost(); }, 5s));
}

TEST_F(ServiceTest, AServerThatWasStoppedItselfExpiresNobody) {
  ServiceWorld& world = make({.clients = 2});
  world.server_node().pause();
  world.simulation().run_for(30s);
  world.server_node().resume();
  world.simulation().run_for(5s);
  EXPECT_EQ(world.server().status().expired, 0u);
  EXPECT_TRUE(acquire(0, lock_seven, Mode::exclusive).has_value());
}

TEST_F(ServiceTest, AClientThatWasStoppedGivesNoPinBeforeItKnowsWhetherItIsLost) {
  ServiceWorld& world = make({.clients = 2});
  { auto pin = acquire(0, lock_seven, Mode::exclusive); }
  world.client(0).node().pause();
  { auto pin = acquire(1, lock_seven, Mode::exclusive); }
  EXPECT_FALSE(world.client(0).clerk().usable());
  EXPECT_FALSE(world.client(0).clerk().try_local(lock_seven, Mode::shared).has_value());
  world.client(0).node().resume();
  EXPECT_TRUE(run_until([&] { return world.client(0).is_lost(); }, 5s));
}

TEST_F(ServiceTest, AServerThatStopsLeavesNoLeaseOfItsOwnBehind) {
  ServiceWorld& world = make({.clients = 1});
  const LeaseNumber own = world.server().own_lease();
  EXPECT_TRUE(world.disk().is_admitted(own));
  EXPECT_TRUE(world.simulation().run(world.server_node(), world.server().stop()).has_value());
  EXPECT_TRUE(world.disk().is_fenced(own));
  auto view = lock::decode_view(world.disk().peek_register(lock::view_register)->value);
  ASSERT_TRUE(view.has_value());
  EXPECT_EQ(view->find(own), nullptr);
  EXPECT_EQ(view->leases.size(), 1u);  // the client goes on with the next server
}

TEST_F(ServiceTest, ClerksInTheServersProcessAreDeadWhenItStartsAgain) {
  ServiceWorld& world = make({.clients = 2, .in_process = true});
  const LeaseNumber lease = world.client(0).clerk().membership().lease;
  world.crash_client(0);
  world.crash_client(1);
  world.crash_server();
  world.start_server();  // fenced, replayed and gone before it serves
  EXPECT_TRUE(world.disk().is_fenced(lease));
  EXPECT_TRUE(world.server().slots_in_use().empty());
  EXPECT_FALSE(world.server().status().rebuilding);
  world.start_client(0);
  EXPECT_TRUE(run_until([&] { return world.client(0).joined(); }, 1s));
  EXPECT_TRUE(acquire(0, lock_seven, Mode::exclusive).has_value());
}

TEST_F(ServiceTest, AServerThatWasReplacedGrantsNothingMore) {
  ServiceWorld& world = make({.clients = 2});
  { auto pin = acquire(0, lock_seven, Mode::exclusive); }
  sim::Node& node = world.simulation().add_node("server2");
  sim::SimTransport transport(world.network(), node);
  auto disk = world.disk().open(node, sim::Attachment::outside);
  lockd::LockServer successor(node.world(), transport, *disk, world, {.lease_duration = 2s});
  ASSERT_TRUE(world.simulation().run(node, successor.prepare()).has_value());
  successor.serve();
  world.crash_client(0);
  // The old server finds the lease run out, and its own out of date when it says so in the view.
  bool granted = false;
  TaskScope scope;
  wait_for(1, &scope, &granted);
  world.simulation().run_for(20s);
  EXPECT_FALSE(granted);
  EXPECT_EQ(world.server().status().recovered, 0u);
  EXPECT_EQ(world.client(1).clerk().held(lock_seven), Mode::none);
  world.crash_client(1);  // The scope's coroutine is not resumed any more.
}

TEST_F(ServiceTest, AShorterLeaseAfterARestartStillWaitsForTheLongerOne) {
  ServiceWorld& world = make({.clients = 2, .lease = 20s});
  { auto pin = acquire(0, lock_seven, Mode::exclusive); }
  world.crash_client(0);
  world.crash_server();
  world.set_lease(2s);
  world.start_server();
  const Duration before = world.simulation().now();
  EXPECT_TRUE(acquire(1, lock_seven, Mode::exclusive).has_value());
  EXPECT_GT(world.simulation().now() - before, Duration(19s));
  world.simulation().run_for(5s);
  auto view = lock::decode_view(world.disk().peek_register(lock::view_register)->value);
  EXPECT_EQ(view->lease_duration, Duration(2s));  // from now on only the shorter one counts
}

// Client 0 is stopped between sending a renewal and reading its answer, for longer than its lease.
// Whether it believes in the lease afterwards, while client 1 has its lock.
bool believes_in_a_late_answer(ServiceWorld& world) {
  world.simulation().run_for(1s);
  clerk::Clerk& clerk = world.client(0).clerk();
  const std::uint64_t sent = clerk.status().messages_sent;
  world.simulation().run_until([&] { return clerk.status().messages_sent > sent; }, 2s);
  world.client(0).node().pause();
  auto taken = world.simulation().run(world.client(1).node(),
                                      world.client(1).clerk().acquire(lock_seven, Mode::exclusive));
  bool believes = !taken.has_value();
  world.client(0).node().resume();
  for (int i = 0; i < 1000 && !believes; ++i) {
    world.simulation().step();
    believes = clerk.usable();
  }
  return believes;
}

TEST_F(ServiceTest, ALeaseCountsFromBeforeTheRenewalWasSent) {
  ServiceWorld& world = make({.clients = 2});
  { auto pin = acquire(0, lock_seven, Mode::exclusive); }
  EXPECT_FALSE(believes_in_a_late_answer(world));
}

TEST_F(ServiceTest, GarbageEndsThatConnectionAlone) {
  ServiceWorld& world = make({.clients = 2});
  sim::Node& stranger = world.simulation().add_node("stranger");
  sim::SimTransport transport(world.network(), stranger);
  const net::PeerId server = transport.connect("server");
  int breaks = 0;
  transport.on_connection(net::Channel::lock, [&](net::PeerId, bool up) { breaks += !up; });
  world.simulation().run_for(1s);
  transport.send(server, net::Channel::lock, to_bytes(as_bytes("garbage")), {});
  world.simulation().run_for(1s);
  EXPECT_GT(breaks, 0);
  EXPECT_TRUE(acquire(0, lock_seven, Mode::exclusive).has_value());
  transport.on_connection(net::Channel::lock, {});
}

// ---- File locks ----

clerk::FileLock file_lock(std::uint64_t owner, std::uint64_t start, std::uint64_t end, Mode mode) {
  return {.inode = 5, .owner = owner, .start = start, .end = end, .mode = mode};
}

class FileLockServiceTest : public ServiceTest {
 protected:
  Status set(int index, clerk::FileLock lock, bool wait = false) {
    return world_->simulation().run(world_->client(index).node(),
                                    world_->client(index).clerk().set_file_lock(lock, wait, 1));
  }
};

TEST_F(FileLockServiceTest, LocksConflictAcrossClientsAndSurviveARestartOfTheServer) {
  ServiceWorld& world = make({.clients = 2});
  EXPECT_TRUE(set(0, file_lock(1, 0, 9, Mode::exclusive)).has_value());
  EXPECT_EQ(set(1, file_lock(1, 5, 6, Mode::shared)).error().code, Errc::again);
  EXPECT_TRUE(set(1, file_lock(1, 10, 19, Mode::exclusive)).has_value());
  world.crash_server();
  world.start_server();
  EXPECT_EQ(set(1, file_lock(1, 5, 6, Mode::shared)).error().code, Errc::again);
  auto found = world.simulation().run(
      world.client(0).node(),
      world.client(0).clerk().test_file_lock(file_lock(1, 0, 100, Mode::exclusive)));
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(found->start, 10u);
  EXPECT_EQ(found->end, 19u);
  EXPECT_TRUE(set(0, file_lock(1, 0, 9, Mode::none)).has_value());
  EXPECT_TRUE(set(1, file_lock(1, 5, 6, Mode::shared)).has_value());
}

TEST_F(FileLockServiceTest, AWaitingCallIsGrantedWhenTheHolderDies) {
  ServiceWorld& world = make({.clients = 2});
  EXPECT_TRUE(set(0, file_lock(1, 0, 9, Mode::exclusive)).has_value());
  world.crash_client(0);
  EXPECT_TRUE(set(1, file_lock(1, 0, 9, Mode::exclusive), true).has_value());
  EXPECT_EQ(world.recoveries(), 1u);
}

TEST_F(FileLockServiceTest, ACancelledCallIsInterruptedAndHoldsNothing) {
  ServiceWorld& world = make({.clients = 2});
  EXPECT_TRUE(set(0, file_lock(1, 0, 9, Mode::exclusive)).has_value());
  sim::Node& node = world.client(1).node();
  world.simulation().after(500ms, [&] {
    node.deliver(node.life(), [&] { world.client(1).clerk().cancel_file_lock(1); });
  });
  EXPECT_EQ(set(1, file_lock(1, 0, 9, Mode::exclusive), true).error().code, Errc::interrupted);
  EXPECT_TRUE(set(0, file_lock(1, 0, 9, Mode::none)).has_value());
  EXPECT_TRUE(set(0, file_lock(2, 0, 9, Mode::exclusive)).has_value());
}

// Two owners of two clients count a file of one number up under an exclusive lock, over a network
// that loses and doubles messages.
Task<void> count_up(clerk::Clerk* clerk, sim::Node* node, std::uint64_t owner, int times,
                    int* counter, int* done) {
  for (int i = 0; i < times; ++i) {
    Task<Status> locking = clerk->set_file_lock(file_lock(owner, 0, 9, Mode::exclusive), true, 0);
    Status status = co_await locking;
    EXPECT_TRUE(status.has_value());
    const int seen = *counter;
    Task<void> pause = sleep_for(node->world(), 1ms);
    co_await pause;
    *counter = seen + 1;
    Task<Status> unlocking =
        i % 2 == 0 ? clerk->drop_file_locks(5, false, owner)
                   : clerk->set_file_lock(file_lock(owner, 0, 9, Mode::none), false, 0);
    status = co_await unlocking;
    EXPECT_TRUE(status.has_value());
  }
  ++*done;
}

TEST_F(FileLockServiceTest, NoUpdateUnderALockIsLostWhateverTheNetworkDoes) {
  ServiceOptions options{.seed = 5, .clients = 2};
  options.network.lost = options.network.doubled = options.network.reordered = 50'000;
  ServiceWorld& world = make(options);
  int counter = 0, done = 0;
  TaskScope scope;
  for (int index = 0; index < 2; ++index) {
    Machine& client = world.client(index);
    client.node().deliver(client.node().life(), [&] {
      for (std::uint64_t owner = 1; owner <= 2; ++owner) {
        scope.spawn(count_up(&client.clerk(), &client.node(), owner, 50, &counter, &done));
      }
    });
  }
  world.simulation().run_for(5s);
  world.crash_server();
  world.start_server();
  EXPECT_TRUE(run_until([&] { return done == 4; }, 300s));
  EXPECT_EQ(counter, 200);
}

// ---- Chance ----

// Faults of every kind for a while, then none, and progress is demanded.
void random_run(std::uint64_t seed, int rounds) {
  sim::RandomStream chance(seed * 77 + 1);
  ServiceOptions options;
  options.seed = seed;
  options.clients = 2 + static_cast<int>(chance.below(3));
  options.network.lost = static_cast<std::uint32_t>(chance.below(20'000));
  options.network.doubled = static_cast<std::uint32_t>(chance.below(20'000));
  options.network.reordered = static_cast<std::uint32_t>(chance.below(20'000));
  options.network.delayed_long = static_cast<std::uint32_t>(chance.below(5'000));
  ServiceWorld world(options);
  world.set_recovery_failures(30);
  world.start_server();
  for (int i = 0; i < options.clients; ++i) world.start_client(i);
  world.start_workers();
  for (int round = 0; round < rounds; ++round) {
    world.simulation().run_for(chance.between(Duration(10ms), Duration(1500ms)));
    const int victim = static_cast<int>(chance.below(static_cast<std::uint64_t>(options.clients)));
    sim::Node& node = world.client(victim).node();
    switch (chance.below(7)) {
      case 0:
        world.crash_client(victim);
        world.start_client(victim);
        break;
      case 1:
        world.crash_server();
        world.simulation().run_for(chance.between(Duration(0), Duration(5s)));
        world.start_server();
        break;
      case 2:
        world.network().cut_both(node.name(), "server");
        break;
      case 3:
        world.network().cut("server", node.name());
        break;
      case 4:
        if (node.paused()) {
          node.resume();
        } else {
          node.pause();
        }
        break;
      case 5:
        world.server_node().pause();
        world.simulation().run_for(chance.between(Duration(0), Duration(4s)));
        world.server_node().resume();
        break;
      default:
        world.network().heal();
    }
    for (int i = 0; i < options.clients; ++i) {
      if (!world.client(i).is_lost() || world.client(i).node().paused()) continue;
      world.crash_client(i);
      world.start_client(i);
    }
  }
  world.network().heal();
  world.network().set_options({});
  world.set_recovery_failures(0);
  for (int i = 0; i < options.clients; ++i) {
    if (world.client(i).node().paused()) world.client(i).node().resume();
  }
  world.simulation().run_for(15s);
  for (int i = 0; i < options.clients; ++i) {
    if (!world.client(i).is_lost()) continue;
    world.crash_client(i);
    world.start_client(i);
  }
  world.demand_progress(20, 30s);
}

TEST_F(ServiceTest, NothingConflictsUnderFaultsAndEverybodyGoesOnAfterThem) {
  for (std::uint64_t i = 0; i < seeds; ++i) random_run(first_seed + i, 30);
}

#ifdef PLUMERIA_PLANTED_FAULTS

using PlantedFaultDeathTest = ServiceTest;

void run_planted(Fault fault) {
  plant(fault);
  for (std::uint64_t seed = 1; seed <= 200; ++seed) random_run(seed, 30);
}

TEST_F(PlantedFaultDeathTest, GrantingBeforeEverybodyHasReportedIsFound) {
  EXPECT_DEATH(run_planted(Fault::gainer_grants_early), "simulation failed");
}
TEST_F(PlantedFaultDeathTest, GrantingWhileARevokeIsOnItsWayIsFound) {
  EXPECT_DEATH(run_planted(Fault::in_transition_ignored), "simulation failed");
}
TEST_F(PlantedFaultDeathTest, CountingTheLeaseFromTheReplyIsFound) {
  plant(Fault::renewal_counted_from_reply);
  ServiceWorld& world = make({.clients = 2});
  { auto pin = acquire(0, lock_seven, Mode::exclusive); }
  EXPECT_TRUE(believes_in_a_late_answer(world));
  plant(Fault::none);
}

#endif

}  // namespace
}  // namespace plumeria::lock_test
