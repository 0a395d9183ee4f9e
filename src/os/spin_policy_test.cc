#include "os/spin_policy.h"

#include <gtest/gtest.h>

namespace plumeria::os {
namespace {

// How many of so many chances are taken, if each ends like this.
int spins(SpinPolicy& policy, int chances, bool found) {
  int times = 0;
  for (int i = 0; i < chances; ++i) {
    if (!policy.wants()) continue;
    ++times;
    policy.spun(found);
  }
  return times;
}

TEST(SpinPolicyTest, GoesOnWhileItFindsWork) {
  SpinPolicy policy;
  EXPECT_EQ(spins(policy, 10000, true), 10000);
}

TEST(SpinPolicyTest, GivesUpWhereThereIsNone) {
  SpinPolicy policy;
  EXPECT_LE(spins(policy, 10000, false), 6 * 8);
  // And the longer that lasts, the more.
  EXPECT_LE(spins(policy, 100000, false), 13 * 8);
}

TEST(SpinPolicyTest, ComesBackWhenThereIsWorkAgain) {
  SpinPolicy policy;
  spins(policy, 1000000, false);
  spins(policy, 8192, true);
  EXPECT_EQ(spins(policy, 1000, true), 1000);
  // It has forgotten how long there was none.
  spins(policy, 8, false);
  spins(policy, 256, true);
  EXPECT_EQ(spins(policy, 1000, true), 1000);
}

TEST(SpinPolicyTest, HalfOfTheTimeIsWorthIt) {
  SpinPolicy policy;
  for (int i = 0; i < 1000; ++i) {
    ASSERT_TRUE(policy.wants());
    policy.spun(i % 2 == 0);
  }
}

}  // namespace
}  // namespace plumeria::os
