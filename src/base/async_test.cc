#include "base/async.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "base/manual_executor.h"

namespace plumeria {
namespace {

using testing::ElementsAre;

struct SplitMix : Random {
  std::uint64_t state = 1;
  std::uint64_t next() override { return state += 0x9e3779b97f4a7c15; }
};

class AsyncTest : public testing::Test {
 protected:
  ManualExecutor executor;
  SplitMix random;
  World world{executor, random, executor};
  std::vector<std::string> seen;
  TaskScope scope;  // Last: destroyed before what its tasks use.
};

Task<void> await_future(Future<int> future, std::vector<std::string>& to) {
  to.push_back("got " + std::to_string(co_await future));
}

TEST_F(AsyncTest, AFutureBringsTheValueWhicheverSideIsFirst) {
  Promise<int> early(executor), late(executor);
  early.set(1);
  scope.spawn(await_future(early.future(), seen));
  EXPECT_THAT(seen, ElementsAre("got 1"));
  scope.spawn(await_future(late.future(), seen));
  late.set(2);
  EXPECT_THAT(seen, ElementsAre("got 1")) << "the waiter runs from the executor";
  executor.run();
  EXPECT_THAT(seen, ElementsAre("got 1", "got 2"));
}

Task<void> await_event(Event& event, std::string name, std::vector<std::string>& to) {
  co_await event.next();
  to.push_back(name);
  co_await event.next();
  to.push_back(name + " again");
}

TEST_F(AsyncTest, AnEventWakesOnlyThoseWhoWaitedBefore) {
  Event event(executor);
  event.notify_all();
  scope.spawn(await_event(event, "a", seen));
  scope.spawn(await_event(event, "b", seen));
  executor.run();
  EXPECT_TRUE(seen.empty());
  event.notify_all();
  EXPECT_FALSE(event.has_waiters());
  executor.run();
  EXPECT_THAT(seen, ElementsAre("a", "b"));
  event.notify_all();
  executor.run();
  EXPECT_THAT(seen, ElementsAre("a", "b", "a again", "b again"));
}

Task<void> take(Semaphore& semaphore, std::uint64_t count, std::string name,
                std::vector<std::string>& to) {
  co_await semaphore.acquire(count);
  to.push_back(name);
}

TEST_F(AsyncTest, ASemaphoreServesInOrderAndLetsNobodyOvertake) {
  Semaphore semaphore(executor, 2);
  scope.spawn(take(semaphore, 3, "large", seen));
  scope.spawn(take(semaphore, 1, "small", seen));
  EXPECT_FALSE(semaphore.try_acquire(1)) << "there is room, but others wait";
  semaphore.release(1);
  executor.run();
  EXPECT_THAT(seen, ElementsAre("large"));
  semaphore.release(3);
  executor.run();
  EXPECT_THAT(seen, ElementsAre("large", "small"));
  EXPECT_EQ(semaphore.available(), 2u);
}

Task<void> guarded(Mutex& mutex, Event& go_on, std::string name, std::vector<std::string>& to) {
  auto guard = co_await mutex.lock();
  to.push_back(name + " in");
  co_await go_on.next();
  to.push_back(name + " out");
}

TEST_F(AsyncTest, AMutexIsHeldUntilItsGuardIsGone) {
  Mutex mutex(executor);
  Event go_on(executor);
  scope.spawn(guarded(mutex, go_on, "a", seen));
  scope.spawn(guarded(mutex, go_on, "b", seen));
  EXPECT_TRUE(mutex.is_locked());
  go_on.notify_all();
  executor.run();
  EXPECT_THAT(seen, ElementsAre("a in", "a out", "b in"));
  go_on.notify_all();
  executor.run();
  EXPECT_FALSE(mutex.is_locked());
}

Task<void> nap(World world, Duration duration, std::string name, std::vector<std::string>& to) {
  co_await sleep_for(world, duration);
  to.push_back(name);
}

TEST_F(AsyncTest, SleepersWakeInTheOrderOfTheirTimes) {
  scope.spawn(nap(world, 3s, "long", seen));
  scope.spawn(nap(world, 1s, "short", seen));
  executor.advance(2s);
  EXPECT_THAT(seen, ElementsAre("short"));
  executor.advance(1s);
  EXPECT_THAT(seen, ElementsAre("short", "long"));
}

Task<int> nap_and_tell(World world, Duration duration, int value) {
  co_await sleep_for(world, duration);
  co_return value;
}
Task<void> gather_three(World world, std::vector<int>& to) {
  std::vector<Task<int>> tasks;
  tasks.push_back(nap_and_tell(world, 3s, 1));
  tasks.push_back(nap_and_tell(world, 1s, 2));
  tasks.push_back(nap_and_tell(world, 0s, 3));
  to = co_await gather(world.executor, std::move(tasks));
}

TEST_F(AsyncTest, GatherWaitsForAllAndKeepsTheirOrder) {
  std::vector<int> results;
  scope.spawn(gather_three(world, results));
  executor.advance(2s);
  EXPECT_TRUE(results.empty());
  executor.advance(1s);
  EXPECT_THAT(results, ElementsAre(1, 2, 3));
}

}  // namespace
}  // namespace plumeria
