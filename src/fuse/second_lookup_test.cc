#include "fuse/second_lookup.h"

#include <gtest/gtest.h>

namespace plumeria::fuse {
namespace {

constexpr lock::LockName open_lock{lock::LockClass::open, 5};

struct Owner final : clerk::PinOwner {
  void unpin(lock::LockName, lock::Mode) override { --pins; }
  bool holds() const override { return true; }
  clerk::Pin pin() {
    ++pins;
    return {this, open_lock, lock::Mode::shared};
  }
  int pins = 0;
};

class SecondLookupTest : public ::testing::Test {
 protected:
  os::RealExecutor executor_;
  Owner owner_;
  SecondLookup lookup_{executor_};
};

TEST_F(SecondLookupTest, OnlyWhoFoundHisInodeGoneKeepsAnything) {
  EXPECT_FALSE(lookup_.wants(7));
  lookup_.found_stale(7);
  EXPECT_TRUE(lookup_.wants(7));
  EXPECT_FALSE(lookup_.wants(8));
}

TEST_F(SecondLookupTest, TheSecondIsKeptUntilItsRequestIsAnswered) {
  lookup_.found_stale(7);
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
  EXPECT_TRUE(lookup_.wants(7));
  lookup_.looked_up(7, owner_.pin());
  EXPECT_EQ(owner_.pins, 1);
  lookup_.looked_up(7, clerk::Pin());  // The lease was lost.
  EXPECT_EQ(owner_.pins, 0);
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
