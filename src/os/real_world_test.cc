#include "os/real_world.h"

#include <gtest/gtest.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <thread>

#include "base/async.h"

namespace plumeria::os {
namespace {

TEST(RealExecutorTest, RunsInTheOrderOfPosting) {
  RealExecutor executor;
  std::vector<int> order;
  for (int i = 0; i < 100; ++i) executor.post([&order, i] { order.push_back(i); });
  executor.post([&] { executor.stop(); });
  executor.run();
  ASSERT_EQ(order.size(), 100u);
  EXPECT_TRUE(std::is_sorted(order.begin(), order.end()));
}

TEST(RealExecutorTest, StopReturnsAfterTheEventThatRunsAndRunGoesOnThere) {
  RealExecutor executor;
  std::vector<int> order;
  executor.post([&] {
    order.push_back(1);
    executor.stop();
  });
  executor.post([&] {
    order.push_back(2);
    executor.stop();
  });
  executor.run();
  EXPECT_EQ(order, (std::vector<int>{1}));
  executor.run();
  EXPECT_EQ(order, (std::vector<int>{1, 2}));
}

TEST(RealExecutorTest, WorkThatNeverEndsKeepsNobodyWaiting) {
  RealExecutor executor;
  int pipe[2];
  ASSERT_EQ(::pipe(pipe), 0);
  executor.set_idle_poll([] { return true; });
  int waited_for = 2;
  const auto one_less = [&] {
    if (--waited_for == 0) executor.stop();
  };
  ASSERT_TRUE(executor.watch(pipe[0], EPOLLIN, [&] {
    executor.unwatch(pipe[0]);
    one_less();
  }));
  executor.at(executor.now() + 1ms, one_less);
  std::thread other([&] { ASSERT_EQ(::write(pipe[1], "x", 1), 1); });
  executor.run();
  other.join();
  EXPECT_EQ(waited_for, 0);
  ::close(pipe[0]);
  ::close(pipe[1]);
}

TEST(RealExecutorTest, TimersRunInTheOrderOfTheirTimesAndNotBeforeThem) {
  RealExecutor executor;
  std::vector<int> order;
  const TimePoint start = executor.now();
  executor.at(start + 3ms, [&] {
    order.push_back(3);
    EXPECT_GE(executor.now(), start + 3ms);
    executor.stop();
  });
  executor.at(start + 1ms, [&] { order.push_back(1); });
  executor.at(start + 2ms, [&] { order.push_back(2); });
  executor.run();
  EXPECT_EQ(order, (std::vector<int>{1, 2, 3}));
}

TEST(RealExecutorTest, ACancelledTimerDoesNotRunEvenIfItIsDueTogetherWithItsCanceller) {
  RealExecutor executor;
  const TimePoint past = executor.now() - 1s;
  TimerId second{};
  bool ran = false;
  executor.at(past, [&] { executor.cancel(second); });
  second = executor.at(past, [&] { ran = true; });
  executor.at(past, [&] { executor.stop(); });
  executor.run();
  executor.cancel(second);  // No effect.
  EXPECT_FALSE(ran);
}

TEST(RealExecutorTest, ShortTimersAreMorePreciseThanAMillisecond) {
  RealExecutor executor;
  std::vector<Duration> late;
  for (int i = 0; i < 21; ++i) {
    const TimePoint when = executor.now() + 200us;
    executor.at(when, [&] {
      late.push_back(executor.now() - when);
      executor.stop();
    });
    executor.run();
  }
  std::sort(late.begin(), late.end());
  EXPECT_LT(late[0], 800us);  // The best one: the machine may be busy.
}

TEST(RealExecutorTest, OtherThreadsWakeIt) {
  RealExecutor executor;
  int count = 0;
  std::thread thread([&] {
    for (int i = 0; i < 1000; ++i) {
      executor.post_from_any_thread([&] {
        if (++count == 1000) executor.stop();
      });
      if (i % 100 == 0) std::this_thread::sleep_for(1ms);
    }
  });
  executor.run();
  thread.join();
  EXPECT_EQ(count, 1000);
}

TEST(RealExecutorTest, StopFromAnotherThreadWakesIt) {
  RealExecutor executor;
  std::thread thread([&] {
    std::this_thread::sleep_for(2ms);
    executor.stop();
  });
  executor.run();
  thread.join();
}

TEST(RealExecutorTest, AWatchedDescriptorIsReportedUntilItIsRead) {
  RealExecutor executor;
  int pipe_ends[2];
  ASSERT_EQ(pipe(pipe_ends), 0);
  int calls = 0;
  std::string text;
  ASSERT_TRUE(executor.watch(pipe_ends[0], EPOLLIN, [&] {
    char c = 0;
    ++calls;
    ASSERT_EQ(read(pipe_ends[0], &c, 1), 1);
    text.push_back(c);
    if (c != '.') return;
    executor.unwatch(pipe_ends[0]);
    executor.stop();
  }));
  ASSERT_EQ(write(pipe_ends[1], "abc.d", 5), 5);
  executor.run();
  EXPECT_EQ(text, "abc.");
  EXPECT_EQ(calls, 4);
  // It was left open, and nobody is told any more.
  executor.at(executor.now() + 1ms, [&] { executor.stop(); });
  executor.run();
  EXPECT_EQ(calls, 4);
  close(pipe_ends[0]);
  close(pipe_ends[1]);
}

TEST(RealExecutorTest, DescriptorsAndTimersGetTheirTurnUnderConstantWork) {
  RealExecutor executor;
  int pipe_ends[2];
  ASSERT_EQ(pipe(pipe_ends), 0);
  ASSERT_EQ(write(pipe_ends[1], "x", 1), 1);
  bool seen = false, timer = false;
  ASSERT_TRUE(executor.watch(pipe_ends[0], EPOLLIN, [&] {
    seen = true;
    executor.unwatch(pipe_ends[0]);
  }));
  executor.at(executor.now(), [&] { timer = true; });
  struct Busy {
    static Task<void> loop(RealExecutor& executor, bool& seen, bool& timer) {
      for (int i = 0; i < 1'000'000 && !(seen && timer); ++i) co_await yield_to(executor);
    }
  };
  executor.run_until_done(Busy::loop(executor, seen, timer));
  EXPECT_TRUE(seen);
  EXPECT_TRUE(timer);
  close(pipe_ends[0]);
  close(pipe_ends[1]);
}

TEST(RealExecutorTest, WatchingAFileThatCannotBeWatchedIsAnError) {
  RealExecutor executor;
  EXPECT_FALSE(executor.watch(-1, EPOLLIN, [] {}));
}

TEST(RealExecutorTest, TheIdlePollIsAskedBeforeItSleeps) {
  RealExecutor executor;
  int polls = 0;
  executor.set_idle_poll([&] {
    if (++polls == 3) executor.stop();
    return true;
  });
  executor.run();
  EXPECT_EQ(polls, 3);
}

TEST(RealExecutorTest, WhatIsLeftIsDroppedAtTheEnd) {
  auto alive = std::make_shared<int>(1);
  const std::weak_ptr<int> seen = alive;
  {
    RealExecutor executor;
    executor.post([alive] {});
    executor.at(executor.now() + 1h, [alive] {});
    executor.post_from_any_thread([alive] {});
    alive.reset();
  }
  EXPECT_TRUE(seen.expired());
}

TEST(ThreadPoolTest, ResultsComeBackOnTheExecutorsThread) {
  RealExecutor executor;
  ThreadPool pool(executor, 3);
  struct Run {
    static Task<int> sum(ThreadPool& pool, std::thread::id here) {
      int total = 0;
      for (int i = 0; i < 50; ++i) {
        const int value = co_await pool.run([i, here] {
          EXPECT_NE(std::this_thread::get_id(), here);
          return i;
        });
        EXPECT_EQ(std::this_thread::get_id(), here);
        total += value;
      }
      co_return total;
    }
  };
  EXPECT_EQ(executor.run_until_done(Run::sum(pool, std::this_thread::get_id())), 1225);
}

TEST(ThreadPoolTest, TheDestructorFinishesWhatWasGivenToIt) {
  RealExecutor executor;
  std::atomic<int> done = 0;
  {
    ThreadPool pool(executor, 2);
    for (int i = 0; i < 20; ++i) pool.submit([&] { ++done; }, {});
  }
  EXPECT_EQ(done, 20);
}

TEST(RealRandomTest, TwoOfThemDiffer) {
  RealRandom a, b;
  EXPECT_NE(a.next(), b.next());
  EXPECT_NE(a.next(), a.next());
}

}  // namespace
}  // namespace plumeria::os
