// Clerks and a lock table over a network that loses, doubles and reorders: after every step nobody
// believes in conflicting holds, and when the faults end everybody is served.
#include <gtest/gtest.h>

#include <algorithm>

#include "base/fault.h"
#include "base/seeded_random.h"
#include "core_world.h"
#include "flags.h"

namespace plumeria::lock_test {
namespace {

constexpr int steps = 2500;
constexpr std::uint64_t locks[] = {1, 2, 3, 101, 102};

class RandomRun {
 public:
  explicit RandomRun(std::uint64_t seed)
      : random_(seed),
        clients_(2 + static_cast<int>(random_.below(4))),
        world_(clients_, options()) {}

  void run() {
    for (int step = 0; step < steps; ++step) {
      one_step();
      world_.check();
    }
    heal();
  }

 private:
  clerk::ClerkCoreOptions options() {
    clerk::ClerkCoreOptions options;
    if (random_.below(2) == 0) options.linger_idle = options.linger_max = Duration::zero();
    if (random_.below(3) == 0) options.locks_max = 2;
    return options;
  }
  ClientNumber any_client() { return 1 + random_.below(static_cast<std::uint64_t>(clients_)); }
  std::uint64_t any_lock() { return locks[random_.below(std::size(locks))]; }
  Mode any_mode() { return random_.below(2) == 0 ? Mode::shared : Mode::exclusive; }

  void one_step() {
    const std::uint64_t what = random_.below(100);
    if (what < 9) {
      world_.acquire(any_client(), any_lock(), any_mode());
    } else if (what < 12) {
      world_.acquire_unless_revoked(any_client(), any_lock(), any_mode());
    } else if (what < 16) {
      world_.try_acquire(any_client(), any_lock(), any_mode());
    } else if (what < 18) {
      world_.give_back(any_client(), any_lock());
    } else if (what < 19) {
      world_.refuse_tries(any_client(), random_.below(2) == 0);
    } else if (what < 34) {
      drop_one();
    } else if (what < 46) {
      finish_one();
    } else if (what < 51) {
      world_.advance(Duration(random_.below(400'000'000)));
    } else if (what == 51 && random_.below(8) == 0) {
      restart();
    } else {
      network();
    }
  }
  void drop_one() {
    const auto pins = world_.pins();
    if (pins.empty()) return;
    const auto& pin = pins[random_.below(pins.size())];
    world_.drop(pin.client, pin.lock, pin.mode);
  }
  void finish_one() {
    const auto all = world_.giving_up();
    if (all.empty()) return;
    const auto [client, lock] = all[random_.below(all.size())];
    world_.finish_give_up(client, lock);
  }
  void network() {
    if (world_.in_flight() == 0) return;
    const std::size_t window = std::min<std::size_t>(world_.in_flight(), 6);
    const std::size_t index =
        random_.below(10) == 0 ? random_.below(world_.in_flight()) : random_.below(window);
    const std::uint64_t fate = random_.below(20);
    if (fate == 0) {
      world_.lose(index);
    } else {
      world_.deliver(index, fate <= 2);
    }
  }
  // Reports arrive one by one, with other things in between; old messages go on flying about.
  void restart() {
    world_.restart_server();
    std::vector<ClientNumber> silent;
    for (int i = 1; i <= clients_; ++i) silent.push_back(static_cast<ClientNumber>(i));
    std::shuffle(silent.begin(), silent.end(), random_);
    for (ClientNumber client : silent) {
      for (int i = 0; i < 20; ++i) {
        if (random_.below(2) == 0) network();
        if (random_.below(4) == 0) drop_one();
        if (random_.below(4) == 0) finish_one();
        if (random_.below(8) == 0) world_.acquire(any_client(), any_lock(), any_mode());
        world_.check();
      }
      world_.report(client);
      world_.check();
    }
    world_.start_granting();
  }

  // No more faults and no more wishes: everybody drops what is pinned and is served.
  void heal() {
    for (int round = 0; round < 20'000 && world_.waiting() > 0; ++round) {
      world_.deliver_all();
      drop_one();
      finish_one();
      world_.check();
      if (world_.pins().empty() && world_.giving_up().empty() && world_.in_flight() == 0) {
        world_.advance(std::min(world_.until_next_tick(), Duration(1s)));
      }
    }
    EXPECT_EQ(world_.waiting(), 0u);
  }

  SeededRandom random_;
  int clients_;
  CoreWorld world_;
};

TEST(RandomTest, NobodyBelievesInConflictingHoldsAndEverybodyIsServed) {
  for (std::uint64_t seed = first_seed; seed < first_seed + seeds * 5; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    RandomRun(seed).run();
    if (testing::Test::HasFailure()) break;
  }
}

#ifdef PLUMERIA_PLANTED_FAULTS

void run_planted(Fault fault) {
  plant(fault);
  for (std::uint64_t seed = 1; seed <= 300; ++seed) RandomRun(seed).run();
}
TEST(RandomDeathTest, GrantingWhileARevokeIsOnItsWayIsFound) {
  EXPECT_DEATH(run_planted(Fault::in_transition_ignored), "both hold");
}
TEST(RandomDeathTest, GrantingBeforeEverybodyHasReportedIsFound) {
  EXPECT_DEATH(run_planted(Fault::gainer_grants_early), "both hold");
}

#endif

}  // namespace
}  // namespace plumeria::lock_test
