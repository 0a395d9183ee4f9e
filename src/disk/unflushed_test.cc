#include "disk/unflushed.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace plumeria::disk {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(UnflushedTest, ASegmentStaysUntilAFlushThatBeganAfterItsLastChange) {
  Unflushed unflushed;
  EXPECT_THAT(unflushed.segments(), IsEmpty());
  unflushed.changed(Segment{7});
  unflushed.changed(Segment{3});
  const Unflushed::Mark first = unflushed.begin();
  unflushed.changed(Segment{7});
  const Unflushed::Mark second = unflushed.begin();
  EXPECT_THAT(unflushed.segments(), ElementsAre(Segment{3}, Segment{7}));
  unflushed.covered(first);
  EXPECT_THAT(unflushed.segments(), ElementsAre(Segment{7}));
  unflushed.covered(second);
  EXPECT_THAT(unflushed.segments(), IsEmpty());
}

// The second must not trust that the first will succeed, or that it has ended.
TEST(UnflushedTest, AFlushThatBeginsWhileAnotherIsUnderWayNamesTheSameSegments) {
  Unflushed unflushed;
  unflushed.changed(Segment{7});
  (void)unflushed.begin();
  (void)unflushed.begin();
  EXPECT_THAT(unflushed.segments(), ElementsAre(Segment{7}));
}

}  // namespace
}  // namespace plumeria::disk
