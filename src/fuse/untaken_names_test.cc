#include "fuse/untaken_names.h"

#include <gtest/gtest.h>

#include <set>

#include "base/async.h"
#include "os/real_world.h"

namespace plumeria::fuse {
namespace {

constexpr fs::InodeNumber made{5}, other{6};

struct UntakenNamesTest : testing::Test {
  os::RealExecutor executor;
  std::map<std::uint32_t, Taken> threads;
  std::set<std::uint32_t> left;
  UntakenCreations creations{executor, [this](std::uint32_t thread) { return threads.at(thread); }};
  UntakenListings listings{executor,
                           [this](std::uint32_t thread) { return left.contains(thread); }};

  template <class T>
  T run(Task<T> task) {
    TaskScope tasks;
    std::optional<T> result;
    struct Run {
      static Task<void> one(Task<T> work, std::optional<T>* result, os::RealExecutor* executor) {
        *result = co_await work;
        executor->stop();
      }
    };
    tasks.spawn(Run::one(std::move(task), &result, &executor));
    if (!result) executor.run();
    return *result;
  }
  bool taken_within(fs::InodeNumber inode, Duration time) {
    return run(creations.wait(inode, executor.now() + time));
  }
};

TEST_F(UntakenNamesTest, ACreationIsWaitedForUntilItsThreadHasRun) {
  ASSERT_TRUE(creations.may_send(7));
  creations.sent(7, made);
  threads[7] = Taken::no;
  EXPECT_TRUE(creations.any(made));
  EXPECT_FALSE(creations.any(other));
  EXPECT_TRUE(taken_within(other, 0ms));
  EXPECT_FALSE(taken_within(made, 2ms));
  executor.at(executor.now() + 2ms, [this] { threads[7] = Taken::yes; });
  EXPECT_TRUE(taken_within(made, 10s));
  EXPECT_FALSE(creations.any(made));
}

TEST_F(UntakenNamesTest, ACreationIsTakenByWhoAsksAgain) {
  creations.sent(7, made);
  creations.heard_from(8);
  EXPECT_TRUE(creations.any(made));
  creations.heard_from(7);
  EXPECT_FALSE(creations.any(made));
}

TEST_F(UntakenNamesTest, AThreadThatOnlyRanOnceBetweenLooksHasNotTakenIt) {
  creations.sent(7, made);
  threads[7] = Taken::soon;
  EXPECT_FALSE(taken_within(made, -1ms));
  threads[7] = Taken::no;
  EXPECT_FALSE(taken_within(made, -1ms));
  threads[7] = Taken::soon;
  EXPECT_FALSE(taken_within(made, -1ms));
  EXPECT_TRUE(taken_within(made, -1ms));
}

TEST_F(UntakenNamesTest, ManyThatAreNotTakenLeaveNoRoom) {
  EXPECT_FALSE(creations.may_send(0));
  for (std::uint32_t thread = 1; thread <= UntakenCreations::limit; ++thread) {
    ASSERT_TRUE(creations.may_send(thread));
    threads[thread] = Taken::no;
    creations.sent(thread, made);
  }
  EXPECT_FALSE(creations.may_send(1000));
  threads[3] = Taken::yes;
  EXPECT_TRUE(creations.may_send(1000));
}

TEST_F(UntakenNamesTest, AListingIsWaitedForUntilItsThreadIsOutOfTheCall) {
  listings.sent(0, made);
  listings.sent(7, made);
  listings.sent(8, other);
  executor.at(executor.now() + 2ms, [this] { left.insert(7); });
  const TimePoint before = executor.now();
  struct Wait {
    static Task<bool> one(UntakenListings* listings) {
      co_await listings->wait(made);
      co_return true;
    }
  };
  EXPECT_TRUE(run(Wait::one(&listings)));
  EXPECT_GE(executor.now() - before, 2ms);
  EXPECT_TRUE(run(Wait::one(&listings)));  // and is forgotten
}

}  // namespace
}  // namespace plumeria::fuse
