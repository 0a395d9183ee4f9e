#include "fuse/size_belief.h"

#include <gtest/gtest.h>

namespace plumeria::fuse {
namespace {

bool is_surely(const SizeBelief& belief, std::uint64_t size) {
  return !belief.may_be_less_than(size) && !belief.may_be_more_than(size);
}

TEST(SizeBeliefTest, TheFirstReplyIsBelieved) {
  const SizeBelief belief(100);
  EXPECT_TRUE(is_surely(belief, 100));
}

TEST(SizeBeliefTest, ALaterReplyMayBeIgnored) {
  SizeBelief belief(100);
  belief.told(300);
  EXPECT_TRUE(belief.may_be_less_than(300));
  EXPECT_FALSE(belief.may_be_less_than(100));
  EXPECT_TRUE(belief.may_be_more_than(100));
}

TEST(SizeBeliefTest, TheNextRequestOfAThreadShowsThatItTookItsReply) {
  SizeBelief belief(100);
  belief.will_be(7, 50);
  belief.heard_from(8);
  EXPECT_TRUE(belief.may_be_more_than(50));
  belief.heard_from(7);
  EXPECT_TRUE(is_surely(belief, 50));
}

TEST(SizeBeliefTest, AWriteBeforeTheEndChangesNothing) {
  SizeBelief belief(100);
  belief.will_be_at_least(7, 60);
  EXPECT_TRUE(is_surely(belief, 100));
  belief.will_be_at_least(7, 160);
  EXPECT_TRUE(belief.may_be_less_than(160));
  belief.heard_from(7);
  EXPECT_TRUE(is_surely(belief, 160));
}

TEST(SizeBeliefTest, WhatWasSeenIsSure) {
  SizeBelief belief(100);
  belief.told(300);
  belief.is(200);
  EXPECT_TRUE(is_surely(belief, 200));
}

TEST(SizeBeliefTest, AThreadMayStillChangeWhatWasSeen) {
  SizeBelief belief(100);
  belief.will_be(7, 50);
  belief.is(100);
  EXPECT_TRUE(belief.may_be_less_than(100));
  belief.heard_from(7);
  EXPECT_TRUE(is_surely(belief, 50));
}

TEST(SizeBeliefTest, WhatComesBeforeAThreadRunsCountsToo) {
  SizeBelief belief(100);
  belief.will_be_at_least(7, 200);
  belief.told(150);
  belief.told(300);
  belief.heard_from(7);
  EXPECT_TRUE(belief.may_be_less_than(200));
  EXPECT_TRUE(belief.may_be_more_than(200));
  belief.is_at_least(300);
  EXPECT_TRUE(is_surely(belief, 300));
}

}  // namespace
}  // namespace plumeria::fuse
