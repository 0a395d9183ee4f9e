#include "sim/world.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "base/async.h"

namespace plumeria::sim {
namespace {

using testing::ElementsAre;

Task<int> sleep_and_return(World world, Duration duration, int value) {
  co_await sleep_for(world, duration);
  co_return value;
}

Task<void> note_after(World world, Duration duration, std::string name,
                      std::vector<std::string>* notes) {
  co_await sleep_for(world, duration);
  notes->push_back(name);
}

Task<void> yield_for_ever(World world) {
  for (;;) co_await yield_to(world.executor);
}

TEST(SimulationTest, RunsATaskInVirtualTime) {
  Simulation simulation(1);
  Node& node = simulation.add_node("a", Skew{});
  EXPECT_EQ(simulation.run(node, sleep_and_return(node.world(), 100s, 7)), 7);
  EXPECT_GE(simulation.now(), 100s);
  EXPECT_LT(simulation.now(), 101s);
}

TEST(SimulationTest, TheSameSeedGivesTheSameTrace) {
  const auto run = [](std::uint64_t seed) {
    Simulation simulation(seed);
    std::vector<std::string> notes;
    TaskScope scope;
    Node& a = simulation.add_node("a");
    Node& b = simulation.add_node("b");
    scope.spawn(note_after(a.world(), Duration(a.world().random.below(1000)), "a", &notes));
    scope.spawn(note_after(b.world(), Duration(b.world().random.below(1000)), "b", &notes));
    simulation.run_for(1s);
    return simulation.trace_hash();
  };
  EXPECT_EQ(run(1), run(1));
  EXPECT_NE(run(1), run(2));
}

TEST(SimulationTest, AnEndlessLoopFailsWithTheSeed) {
  const auto loop = [] {
    Simulation simulation(SimulationOptions{.seed = 4711, .event_budget = 1000});
    Node& node = simulation.add_node("a");
    simulation.run(node, yield_for_ever(node.world()), 100000s);
  };
  EXPECT_DEATH(loop(), "event budget is spent.*\n.*seed 4711");
}

TEST(SimulationTest, ATaskThatDoesNotEndInTimeFails) {
  const auto late = [] {
    Simulation simulation(1);
    Node& node = simulation.add_node("a");
    simulation.run(node, sleep_and_return(node.world(), 100s, 1), 50s);
  };
  EXPECT_DEATH(late(), "did not end within 50 s");
}

TEST(NodeTest, ClocksRunAtTheirOwnSpeedFromTheirOwnStart) {
  Simulation simulation(1);
  Node& slow = simulation.add_node("slow", Skew{.drift_ppm = -10'000, .boot_offset = 5s});
  Node& fast = simulation.add_node("fast", Skew{.drift_ppm = 10'000, .wall_offset = -7});
  const WallTime wall = fast.world().clock.wall();
  simulation.run_for(100s);
  EXPECT_EQ(slow.world().clock.now().time_since_epoch(), 5s + 99s);
  EXPECT_EQ(fast.world().clock.now().time_since_epoch(), 101s);
  EXPECT_EQ(static_cast<std::int64_t>(fast.world().clock.wall()) - static_cast<std::int64_t>(wall),
            101'000'000'000);
}

TEST(NodeTest, ATimerRunsWhenTheNodesOwnClockSaysSo) {
  Simulation simulation(1);
  Node& slow = simulation.add_node("slow", Skew{.drift_ppm = -10'000, .boot_offset = 5s});
  const TimePoint due = slow.world().clock.now() + 99s;
  TimePoint ran{};
  slow.world().executor.at(due, [&] { ran = slow.world().clock.now(); });
  simulation.run_for(Duration(99s));
  EXPECT_EQ(ran, TimePoint{});
  simulation.run_for(Duration(2s));
  EXPECT_GE(ran, due);
  EXPECT_LT(ran, due + 1ms);
}

TEST(NodeTest, PostsRunInTheirOrder) {
  Simulation simulation(1);
  Node& node = simulation.add_node("a");
  std::vector<int> order;
  for (int i = 0; i < 4; ++i) node.world().executor.post([&order, i] { order.push_back(i); });
  simulation.run_for(1s);
  EXPECT_THAT(order, ElementsAre(0, 1, 2, 3));
}

TEST(NodeTest, ACancelledTimerDoesNotRunEvenWhenItIsDue) {
  Simulation simulation(1);
  Node& node = simulation.add_node("a");
  World world = node.world();
  bool ran = false;
  TimerId second = TimerId::none;
  const TimePoint due = world.clock.now() + 1s;
  world.executor.at(due, [&] { world.executor.cancel(second); });
  second = world.executor.at(due, [&] { ran = true; });
  simulation.run_for(2s);
  EXPECT_FALSE(ran);
}

TEST(NodeTest, APausedNodeRunsNothingAndCatchesUp) {
  Simulation simulation(1);
  Node& node = simulation.add_node("a");
  TaskScope scope;
  std::vector<std::string> notes;
  scope.spawn(note_after(node.world(), 1s, "x", &notes));
  node.pause();
  simulation.run_for(10s);
  EXPECT_THAT(notes, ElementsAre());
  node.resume();
  simulation.run_for(1ms);
  EXPECT_THAT(notes, ElementsAre("x"));
}

TEST(NodeTest, ACrashDropsWhatIsQueuedAndTheNextLifeStartsEmpty) {
  Simulation simulation(1);
  Node& node = simulation.add_node("a");
  std::vector<std::string> notes;
  auto scope = std::make_unique<TaskScope>();
  scope->spawn(note_after(node.world(), 1s, "timer", &notes));
  node.world().executor.post([&] { notes.push_back("post"); });
  const std::uint64_t old_life = node.life();
  node.crash();
  node.world().executor.post([&] { notes.push_back("post to the dead"); });
  scope.reset();
  node.start();
  node.deliver(old_life, [&] { notes.push_back("late delivery"); });
  node.deliver(node.life(), [&] { notes.push_back("delivery"); });
  simulation.run_for(2s);
  EXPECT_THAT(notes, ElementsAre("delivery"));
}

TEST(NodeTest, TryRunTellsOfACrash) {
  Simulation simulation(1);
  Node& node = simulation.add_node("a");
  simulation.after(1s, [&] { node.crash(); });
  EXPECT_EQ(simulation.try_run(node, sleep_and_return(node.world(), 2s, 1)), std::nullopt);
}

}  // namespace
}  // namespace plumeria::sim
