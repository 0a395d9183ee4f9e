#include "fuse/second_lookup.h"

#include <gtest/gtest.h>

namespace plumeria::fuse {
namespace {

constexpr lock::LockName directory{lock::LockClass::inode, 5};

struct Owner final : clerk::PinOwner {
  void unpin(lock::LockName, lock::Mode) override { --pins; }
  bool holds() const override { return true; }
  clerk::Pin pin() {
    ++pins;
    return {this, directory, lock::Mode::shared};
  }
  int pins = 0;
};

class SecondLookupTest : public ::testing::Test {
 protected:
  void run_for(Duration time) {
    executor_.at(executor_.now() + time, [this] { executor_.stop(); });
    executor_.run();
  }

  os::RealExecutor executor_;
  Owner owner_;
  SecondLookup lookup_{executor_};
};

TEST_F(SecondLookupTest, TheFirstKeepsNothing) {
  EXPECT_FALSE(lookup_.wants(7));
  lookup_.looked_up(7, owner_.pin());
  EXPECT_EQ(owner_.pins, 0);
}

TEST_F(SecondLookupTest, TheSecondKeepsTheDirectoryUntilItsRequestIsAnswered) {
  lookup_.found_stale(7);
  EXPECT_TRUE(lookup_.wants(7));
  EXPECT_FALSE(lookup_.wants(8));
  lookup_.looked_up(7, owner_.pin());
  EXPECT_EQ(owner_.pins, 1);
  lookup_.answered(8);
  EXPECT_EQ(owner_.pins, 1);
  lookup_.answered(7);
  EXPECT_EQ(owner_.pins, 0);
  EXPECT_FALSE(lookup_.wants(7));
}

TEST_F(SecondLookupTest, OfSeveralNamesTheLastStays) {
  lookup_.found_stale(7);
  lookup_.looked_up(7, owner_.pin());
  lookup_.make_way(7);
  EXPECT_EQ(owner_.pins, 0);
  EXPECT_TRUE(lookup_.wants(7));
  lookup_.looked_up(7, owner_.pin());
  EXPECT_EQ(owner_.pins, 1);
}

TEST_F(SecondLookupTest, WhoDoesNotComeBackKeepsItForAShortWhile) {
  lookup_.found_stale(7);
  lookup_.looked_up(7, owner_.pin());
  run_for(SecondLookup::patience / 2);
  EXPECT_EQ(owner_.pins, 1);
  run_for(SecondLookup::patience);
  EXPECT_EQ(owner_.pins, 0);
}

TEST_F(SecondLookupTest, WhoComesBackKeepsItWhileHisRequestIsWorkedOn) {
  lookup_.found_stale(7);
  lookup_.looked_up(7, owner_.pin());
  lookup_.arrived(7);
  run_for(SecondLookup::patience + 50ms);
  EXPECT_EQ(owner_.pins, 1);
  lookup_.answered(7);
  EXPECT_EQ(owner_.pins, 0);
  lookup_.found_stale(7);
  lookup_.looked_up(7, owner_.pin());
  lookup_.arrived(7);
  run_for(SecondLookup::working_patience + 50ms);
  EXPECT_EQ(owner_.pins, 0);
}

TEST_F(SecondLookupTest, WhoOnlyAskedForAttributesDoesNotKeepItForLong) {
  lookup_.found_stale(7);
  lookup_.looked_up(7, owner_.pin());
  lookup_.arrived(7);
  lookup_.asked(7);
  EXPECT_EQ(owner_.pins, 1);
  run_for(SecondLookup::asked_patience + 10ms);
  EXPECT_EQ(owner_.pins, 0);
  // It may have had no processor, and be on the way to the last name.
  EXPECT_TRUE(lookup_.wants(7));
  lookup_.looked_up(7, owner_.pin());
  EXPECT_EQ(owner_.pins, 1);
}

TEST_F(SecondLookupTest, AllIsLetGoWithTheLocks) {
  lookup_.found_stale(7);
  lookup_.found_stale(8);
  lookup_.looked_up(7, owner_.pin());
  lookup_.looked_up(8, owner_.pin());
  EXPECT_EQ(owner_.pins, 2);
  lookup_.let_go_of_all();
  EXPECT_EQ(owner_.pins, 0);
  EXPECT_FALSE(lookup_.wants(7));
}

}  // namespace
}  // namespace plumeria::fuse
