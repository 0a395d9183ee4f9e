#include "os/kept_ranges.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace plumeria::os {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

TEST(KeptRangesTest, GapsAreWhatIsNotKept) {
  KeptRanges kept;
  EXPECT_THAT(kept.gaps(0, 10), ElementsAre(Range{0, 10}));
  kept.insert({10, 20}, 1000);
  kept.insert({30, 40}, KeptRanges::zeros);
  EXPECT_THAT(kept.gaps(0, 50), ElementsAre(Range{0, 10}, Range{20, 30}, Range{40, 50}));
  EXPECT_THAT(kept.gaps(15, 35), ElementsAre(Range{20, 30}));
  EXPECT_THAT(kept.gaps(10, 20), IsEmpty());
  kept.insert({40, no_end}, KeptRanges::zeros);
  EXPECT_THAT(kept.gaps(35, no_end), IsEmpty());
}

TEST(KeptRangesTest, EachByteIsFoundAtItsPlace) {
  KeptRanges kept;
  kept.insert({10, 20}, 1000);
  EXPECT_FALSE(kept.find(9).is_kept);
  EXPECT_EQ(kept.find(9).end, 10u);
  EXPECT_TRUE(kept.find(10).is_kept);
  EXPECT_EQ(kept.find(13).place, 1003u);
  EXPECT_EQ(kept.find(13).end, 20u);
  EXPECT_FALSE(kept.find(20).is_kept);
  EXPECT_EQ(kept.find(20).end, no_end);
}

TEST(KeptRangesTest, WhatFollowsInBothPlacesIsOneRange) {
  KeptRanges kept;
  kept.insert({10, 20}, 1000);
  kept.insert({30, 40}, 1020);
  kept.insert({20, 30}, 1010);
  EXPECT_EQ(kept.size(), 1u);
  EXPECT_EQ(kept.find(35).place, 1025u);
  kept.insert({40, 50}, 2000);
  EXPECT_EQ(kept.size(), 2u);
  kept.insert({60, 70}, KeptRanges::zeros);
  kept.insert({70, no_end}, KeptRanges::zeros);
  EXPECT_EQ(kept.size(), 3u);
  EXPECT_EQ(kept.find(1u << 30).place, KeptRanges::zeros);
  EXPECT_EQ(kept.with_bytes().size(), 2u);
}

}  // namespace
}  // namespace plumeria::os
