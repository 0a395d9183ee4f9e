#include "fuse/page_gate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace plumeria::fuse {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using Verdict = PageGate::Verdict;

DataRequest request(std::uint64_t unique, DataKind kind, std::uint64_t begin, std::uint64_t end) {
  DataRequest r;
  r.unique = unique;
  r.kind = kind;
  r.range = {begin, end};
  return r;
}

TEST(RangeTest, TouchedAndCoveredPages) {
  EXPECT_EQ(pages_touched({100, 200}), (Range{0, 4096}));
  EXPECT_EQ(pages_touched({4096, 8192}), (Range{4096, 8192}));
  EXPECT_EQ(pages_touched({100, Range::no_end}), (Range{0, Range::no_end}));
  EXPECT_TRUE(pages_covered({100, 8000}).empty());
  EXPECT_EQ(pages_covered({100, 12288}), (Range{4096, 12288}));
  EXPECT_EQ(pages_covered({0, 8191}), (Range{0, 4096}));
}

TEST(RangeSetTest, JoinsWhatTouches) {
  RangeSet set;
  set.add({0, 10});
  set.add({20, 30});
  set.add({10, 20});
  EXPECT_THAT(set.ranges(), ElementsAre(Range{0, 30}));
}

TEST(RangeSetTest, RemovesFromTheMiddle) {
  RangeSet set;
  set.add({0, 30});
  set.remove({10, 20});
  EXPECT_THAT(set.ranges(), ElementsAre(Range{0, 10}, Range{20, 30}));
  EXPECT_TRUE(set.overlaps({5, 6}));
  EXPECT_FALSE(set.overlaps({10, 20}));
}

TEST(RangeSetTest, RemembersMoreRatherThanLess) {
  RangeSet set;
  for (std::uint64_t i = 0; i <= RangeSet::limit; ++i) set.add({i * 10, i * 10 + 1});
  EXPECT_THAT(set.ranges(), ElementsAre(Range{0, RangeSet::limit * 10 + 1}));
}

TEST(PageGateTest, UnderASharedLockOnlyReadsAreAnswered) {
  PageGate gate;
  gate.hold();
  gate.begin_drop(true, false);
  gate.begin_invalidation(true);
  gate.arrives(request(1, DataKind::write, 100, 200));
  gate.arrives(request(2, DataKind::truncate, 0, Range::no_end));
  gate.arrives(request(3, DataKind::read, 4096, 8192));
  EXPECT_THAT(gate.blocked(), ElementsAre(3));
  EXPECT_THAT(gate.blocked(), IsEmpty());
}

// A page that a READ was given could be stored into; and to invalidate it again would mean to wait
// for a WRITE that cannot be answered under this lock.
TEST(PageGateTest, UnderASharedLockWithAWriterNoReadIsAnswered) {
  PageGate gate;
  gate.hold();
  gate.arrives(request(1, DataKind::write, 100, 200));
  gate.arrives(request(2, DataKind::read, 0, 4096));
  EXPECT_THAT(gate.begin_drop(false, false), IsEmpty());
  gate.arrives(request(3, DataKind::read, 4096, 8192));
  EXPECT_FALSE(gate.may_read());
  EXPECT_THAT(gate.blocked(), IsEmpty());
  EXPECT_THAT(gate.blocked_reads(), IsEmpty());
  EXPECT_THAT(gate.begin_invalidation(false), IsEmpty());
  gate.end_drop();
  EXPECT_THAT(gate.release(), ElementsAre(1, 2, 3));
}

// The kernel has copied the WRITE into a page that is gone by now. Were the READ that brings it
// back answered first, a store into that page would bring the old bytes over the new ones.
TEST(PageGateTest, AReadWaitsForTheWriteThatChangesItsPage) {
  PageGate gate;
  const DataRequest write = request(5, DataKind::write, 100, 200);
  EXPECT_EQ(gate.arrives(request(4, DataKind::read, 0, 4096)), Verdict::run);
  EXPECT_EQ(gate.arrives(write), Verdict::run);
  EXPECT_EQ(gate.arrives(request(6, DataKind::read, 0, 8192)), Verdict::keep);
  EXPECT_EQ(gate.arrives(request(7, DataKind::read, 4096, 8192)), Verdict::run);
  gate.withdrawn(write);
  EXPECT_EQ(gate.arrives(request(8, DataKind::read, 0, 4096)), Verdict::keep);
  EXPECT_EQ(gate.arrives(write), Verdict::run);
  EXPECT_THAT(gate.written(write), ElementsAre(6, 8));
  EXPECT_EQ(gate.arrives(request(6, DataKind::read, 0, 8192)), Verdict::run);
}

TEST(PageGateTest, AReadWaitsForItsWriteAlsoWhileTheLockGoes) {
  PageGate gate;
  gate.hold();
  const DataRequest write = request(1, DataKind::write, 100, 200);
  gate.arrives(write);
  gate.arrives(request(2, DataKind::read, 0, 4096));
  gate.arrives(request(3, DataKind::read, 4096, 8192));
  EXPECT_THAT(gate.begin_drop(true, true), ElementsAre(3, 1));
  EXPECT_THAT(gate.written(write), ElementsAre(2));
  gate.begin_invalidation(true);
  const DataRequest next = request(4, DataKind::write, 100, 200);
  gate.arrives(next);
  gate.arrives(request(5, DataKind::read, 0, 4096));
  EXPECT_THAT(gate.seen_writes(), ElementsAre(4));
  EXPECT_THAT(gate.written(next), IsEmpty());
  EXPECT_THAT(gate.blocked(), ElementsAre(5));
}

TEST(PageGateTest, RunsEverythingWhileNothingIsGivenUp) {
  PageGate gate;
  EXPECT_EQ(gate.arrives(request(1, DataKind::read, 0, 4096)), Verdict::run);
  EXPECT_EQ(gate.arrives(request(2, DataKind::write, 0, 4096)), Verdict::run);
}

TEST(PageGateTest, KeepsRequestsFromHoldToRelease) {
  PageGate gate;
  gate.hold();
  EXPECT_EQ(gate.arrives(request(1, DataKind::read, 0, 4096)), Verdict::keep);
  EXPECT_EQ(gate.arrives(request(2, DataKind::truncate, 0, 4096)), Verdict::keep);
  EXPECT_THAT(gate.release(), ElementsAre(1, 2));
  EXPECT_EQ(gate.arrives(request(1, DataKind::read, 0, 4096)), Verdict::run);
}

TEST(PageGateTest, MappedDirtyPagesRunAsSoonAsTheInvalidationDoes) {
  PageGate gate;
  gate.hold();
  EXPECT_EQ(gate.arrives(request(1, DataKind::writepage, 0, 4096)), Verdict::keep);
  EXPECT_THAT(gate.begin_drop(true, true), ElementsAre(1));
  EXPECT_EQ(gate.arrives(request(2, DataKind::writepage, 0, 4096)), Verdict::run_under_revoke);
}

// The kernel ignores a size that it asked for before an invalidation and is told after it.
TEST(PageGateTest, WhatTellsSizesIsAnsweredBeforeTheInvalidation) {
  PageGate gate;
  gate.hold();
  EXPECT_EQ(gate.arrives(request(1, DataKind::read, 0, 4096)), Verdict::keep);
  EXPECT_EQ(gate.arrives(request(2, DataKind::attributes, 0, 0)), Verdict::keep);
  EXPECT_EQ(gate.arrives(request(3, DataKind::write, 0, 10)), Verdict::keep);
  EXPECT_THAT(gate.begin_drop(true, true), ElementsAre(2, 1, 3));
  EXPECT_EQ(gate.arrives(request(4, DataKind::attributes, 0, 0)), Verdict::run_under_revoke);
  EXPECT_EQ(gate.arrives(request(5, DataKind::read, 0, 4096)), Verdict::keep);
}

// A lock that is given up without its pages (a writer has none under a shared lock) must not leave
// those behind which READs were given on this occasion.
TEST(PageGateTest, PagesOfReadsThatWereAnsweredFirstAreDroppedEvenIfOthersStay) {
  PageGate gate;
  gate.hold();
  const DataRequest read = request(1, DataKind::read, 4096, 8192);
  gate.arrives(read);
  EXPECT_THAT(gate.begin_drop(true, true), ElementsAre(1));
  gate.replying(read);
  EXPECT_THAT(gate.begin_invalidation(false), ElementsAre(Range{4096, 8192}));
  EXPECT_THAT(gate.next_round(), IsEmpty());
}

// Else whoever writes a page in part, again and again, would keep the lock for ever: each of his
// WRITEs locks the page, is answered because it blocks, and asks for another round.
TEST(PageGateTest, AWriteOfAPartNeedsNoFurtherRound) {
  PageGate gate;
  gate.hold();
  gate.begin_drop(true, true);
  EXPECT_THAT(gate.begin_invalidation(true), ElementsAre(Range()));
  const DataRequest part = request(1, DataKind::write, 0, 8);
  gate.arrives(part);
  EXPECT_THAT(gate.seen_writes(), ElementsAre(1));
  gate.replying(part);
  EXPECT_THAT(gate.next_round(), IsEmpty());
  const DataRequest whole = request(2, DataKind::write, 0, 4096 + 8);
  gate.arrives(whole);
  EXPECT_THAT(gate.blocked(), ElementsAre(2));
  gate.replying(whole);
  EXPECT_THAT(gate.next_round(), ElementsAre(Range{0, 4096}));
}

TEST(PageGateTest, AnswersReadsThenTruncatesThenWrites) {
  PageGate gate;
  gate.hold();
  gate.begin_drop(true, true);
  gate.begin_invalidation(true);
  gate.arrives(request(1, DataKind::write, 0, 100));
  gate.arrives(request(2, DataKind::truncate, 50, Range::no_end));
  gate.arrives(request(3, DataKind::read, 8192, 12288));
  gate.arrives(request(4, DataKind::read, 4096, 8192));
  EXPECT_THAT(gate.blocked(), ElementsAre(3, 4));
  EXPECT_THAT(gate.blocked(), ElementsAre(2));
  EXPECT_THAT(gate.blocked(), ElementsAre(1));
  EXPECT_THAT(gate.blocked(), IsEmpty());
}

TEST(PageGateTest, RepeatsWhatWasAnsweredWithoutPagesOfKeptReads) {
  PageGate gate;
  gate.hold();
  gate.begin_drop(true, true);
  gate.begin_invalidation(true);
  const DataRequest answered = request(1, DataKind::read, 0, 12288);
  gate.arrives(answered);
  EXPECT_THAT(gate.blocked(), ElementsAre(1));
  gate.replying(answered);
  gate.arrives(request(2, DataKind::read, 4096, 8192));
  gate.arrives(request(3, DataKind::write, 8192, 8200));
  EXPECT_THAT(gate.next_round(), ElementsAre(Range{0, 4096}, Range{8192, 12288}));
  EXPECT_THAT(gate.next_round(), IsEmpty());
}

TEST(PageGateTest, WriteThatMetNoInvalidationLeavesItsPagesAlone) {
  PageGate gate;
  const DataRequest read = request(1, DataKind::read, 0, 65536);
  gate.arrives(read);
  gate.replying(read);
  const DataRequest write = request(2, DataKind::write, 100, 200);
  gate.arrives(write);
  EXPECT_THAT(gate.invalidate_before_reply(write, write.range), IsEmpty());
}

// 1. the WRITE's bytes are in the page; 2. the page is dropped; 3. a READ fills it with what was
// before; 4. the WRITE is ordered. Without invalidation the page lacks it from then on.
TEST(PageGateTest, WriteThatMetAnInvalidationDropsWhatReadsFilledMeanwhile) {
  PageGate gate;
  gate.hold();
  gate.begin_drop(true, true);
  gate.begin_invalidation(true);
  gate.next_round();
  gate.end_drop();
  gate.release();
  const DataRequest read = request(1, DataKind::read, 0, 4096);
  gate.arrives(read);
  gate.replying(read);
  const DataRequest write = request(2, DataKind::write, 0, 4096);
  gate.arrives(write);
  const auto own = gate.invalidate_before_reply(write, write.range);
  ASSERT_EQ(own.size(), 1u);
  EXPECT_EQ(own[0].range, (Range{0, 4096}));
  EXPECT_FALSE(own[0].may_wait_for_reply);
  gate.replying(write);
  const DataRequest next = request(3, DataKind::write, 0, 4096);
  gate.arrives(next);
  EXPECT_THAT(gate.invalidate_before_reply(next, next.range), IsEmpty());
}

TEST(PageGateTest, PartOfAPageThatNobodyReadIsLockedAndLeftAlone) {
  PageGate gate;
  gate.hold();
  gate.begin_drop(true, true);
  gate.begin_invalidation(true);
  gate.end_drop();
  gate.release();
  const DataRequest write = request(1, DataKind::write, 10, 20);
  gate.arrives(write);
  EXPECT_THAT(gate.invalidate_before_reply(write, write.range), IsEmpty());
}

TEST(PageGateTest, DisturbanceLastsWhileTheInvalidationRuns) {
  PageGate gate;
  gate.hold();
  gate.begin_drop(true, true);
  gate.begin_invalidation(true);
  const DataRequest read = request(1, DataKind::read, 0, 4096);
  gate.arrives(read);
  gate.blocked();
  gate.replying(read);
  const DataRequest first = request(2, DataKind::write, 0, 10);
  gate.arrives(first);
  gate.blocked();
  EXPECT_EQ(gate.invalidate_before_reply(first, first.range).size(), 1u);
  gate.replying(first);
  const DataRequest second = request(3, DataKind::write, 0, 10);
  gate.arrives(second);
  EXPECT_EQ(gate.invalidate_before_reply(second, second.range).size(), 1u);
}

TEST(PageGateTest, DirectWriteDropsThePagesWhereItWent) {
  PageGate gate;
  const DataRequest read = request(1, DataKind::read, 8192, 12288);
  gate.arrives(read);
  gate.replying(read);
  const DataRequest write = request(2, DataKind::direct_write, 100, 200);
  gate.arrives(write);
  const auto own = gate.invalidate_before_reply(write, {9000, 9100});
  ASSERT_EQ(own.size(), 1u);
  EXPECT_EQ(own[0].range, (Range{8192, 12288}));
  EXPECT_FALSE(own[0].may_wait_for_reply);
  EXPECT_THAT(gate.invalidate_before_reply(write, {20000, 20100}), IsEmpty());
}

TEST(PageGateTest, RelocatedAppendDropsBothPlaces) {
  PageGate gate;
  const DataRequest read = request(1, DataKind::read, 0, 4096);
  gate.arrives(read);
  gate.replying(read);
  const DataRequest write = request(2, DataKind::write, 100, 200);
  gate.arrives(write);
  const auto own = gate.invalidate_before_reply(write, {9000, 9100});
  ASSERT_EQ(own.size(), 2u);
  EXPECT_EQ(own[0].range, (Range{8192, 12288}));
  EXPECT_EQ(own[1].range, (Range{0, 4096}));
  EXPECT_TRUE(own[1].may_wait_for_reply);
}

}  // namespace
}  // namespace plumeria::fuse
