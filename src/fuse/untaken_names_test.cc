#include "fuse/untaken_names.h"

#include <gtest/gtest.h>

#include <set>

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

  bool run(Task<bool> wait) {
    struct Wait {
      static Task<void> one(Task<bool> task, bool* taken) { *taken = co_await task; }
    };
    bool taken = false;
    executor.run_until_done(Wait::one(std::move(wait), &taken));
    return taken;
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

TEST_F(UntakenNamesTest, AThreadThatIsSeenToRunOnceHasNotTakenIt) {
  creations.sent(7, made);
  threads[7] = Taken::soon;
  EXPECT_FALSE(taken_within(made, -1ms));
  EXPECT_FALSE(taken_within(made, -1ms));  // Who else looked does not count.
  EXPECT_TRUE(taken_within(made, 10s));
}

TEST_F(UntakenNamesTest, NobodyWaitsAnyMoreWhenItEnds) {
  creations.sent(7, made);
  threads[7] = Taken::no;
  listings.sent(7, made);
  executor.at(executor.now() + 2ms, [this] {
    creations.stop();
    listings.stop();
  });
  EXPECT_TRUE(run(creations.wait(made, TimePoint::max(), 1ms)));
  const TimePoint before = executor.now();
  executor.run_until_done(listings.wait(made));
  EXPECT_LT(executor.now() - before, UntakenListings::patience);
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
  executor.run_until_done(listings.wait(made));
  EXPECT_GE(executor.now() - before, 2ms);
  left.clear();
  executor.run_until_done(listings.wait(made));  // It is forgotten.
  EXPECT_LT(executor.now() - before, UntakenListings::patience);
}

}  // namespace
}  // namespace plumeria::fuse
