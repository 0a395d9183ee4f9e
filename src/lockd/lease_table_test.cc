#include "lockd/lease_table.h"

#include <gtest/gtest.h>

namespace plumeria::lockd {
namespace {

constexpr LeaseNumber one{1}, two{2};

TEST(LeaseTableTest, ALeaseLivesAsLongAsItIsRenewed) {
  LeaseTable table(10s, 60s);
  table.joined(TimePoint{}, one);
  EXPECT_TRUE(table.due(TimePoint{9s}).empty());
  EXPECT_TRUE(table.renew(TimePoint{9s}, one));
  EXPECT_EQ(table.left(TimePoint{10s}, one), Duration(9s));
  EXPECT_TRUE(table.due(TimePoint{18s}).empty());
  EXPECT_EQ(table.due(TimePoint{19s}).size(), 1u);
  table.dying(one);
  EXPECT_FALSE(table.renew(TimePoint{19s}, one));
  EXPECT_TRUE(table.due(TimePoint{30s}).empty());
}

TEST(LeaseTableTest, NothingIsKnownBeforeEveryInheritedLeaseHasReportedOrIsGone) {
  LeaseTable table(10s, 60s);
  table.inherited(TimePoint{}, one, 10s);
  table.inherited_dying(two);
  EXPECT_FALSE(table.rebuilt());
  EXPECT_FALSE(table.report(TimePoint{1s}, one, 1, true).acknowledge);  // page 0 is missing
  EXPECT_TRUE(table.report(TimePoint{1s}, one, 0, false).accept);
  EXPECT_FALSE(table.report(TimePoint{1s}, one, 0, false).accept);  // a duplicate
  EXPECT_TRUE(table.report(TimePoint{1s}, one, 0, false).acknowledge);
  EXPECT_TRUE(table.report(TimePoint{1s}, one, 1, true).accept);
  EXPECT_FALSE(table.rebuilt());
  table.gone(two);
  EXPECT_TRUE(table.rebuilt());
}

TEST(LeaseTableTest, OneThatDiesWhileItReportsCountsAsUnknown) {
  LeaseTable table(10s, 60s);
  table.inherited(TimePoint{}, one, 10s);
  EXPECT_TRUE(table.report(TimePoint{1s}, one, 0, false).accept);
  EXPECT_EQ(table.due(TimePoint{10s}).size(), 1u);
  table.dying(one);
  EXPECT_FALSE(table.report(TimePoint{11s}, one, 1, true).accept);
  EXPECT_FALSE(table.rebuilt());
  table.gone(one);
  EXPECT_TRUE(table.rebuilt());
}

TEST(LeaseTableTest, OneThatRenewsButDoesNotReportIsEnded) {
  LeaseTable table(10s, 60s);
  table.inherited(TimePoint{}, one, 30s);
  EXPECT_TRUE(table.due(TimePoint{29s}).empty());  // the longest lease that was ever given counts
  for (int second = 5; second < 60; second += 5) {
    const TimePoint now{std::chrono::seconds(second)};
    EXPECT_TRUE(table.renew(now, one));
    EXPECT_TRUE(table.due(now).empty());
  }
  EXPECT_TRUE(table.due(TimePoint{60s}).empty());  // Until 65 s it may rely on its locks.
  EXPECT_FALSE(table.renew(TimePoint{60s}, one));
  EXPECT_EQ(table.due(TimePoint{65s}).size(), 1u);
}

// Its clerk goes on using what it holds until its lease has run out (tests/model/lease.pml, fault
// ended_before_it_ran_out).
TEST(LeaseTableTest, ACondemnedLeaseEndsWhenItRunsOut) {
  LeaseTable table(10s, 60s);
  table.joined(TimePoint{}, one);
  EXPECT_TRUE(table.renew(TimePoint{4s}, one));
  EXPECT_TRUE(table.condemn(one, "it keeps a lock"));
  EXPECT_FALSE(table.condemn(one, "again"));
  EXPECT_FALSE(table.renew(TimePoint{8s}, one));
  EXPECT_TRUE(table.live(one));
  EXPECT_TRUE(table.due(TimePoint{13s}).empty());
  const auto due = table.due(TimePoint{14s});
  ASSERT_EQ(due.size(), 1u);
  EXPECT_EQ(due[0].why, "it keeps a lock");
}

}  // namespace
}  // namespace plumeria::lockd
