#include "disk/admission.h"

#include <gtest/gtest.h>

namespace plumeria::disk {
namespace {

using lock::LeaseNumber;

TEST(AdmissionTest, OnlyTheAdmittedMayChangeAnything) {
  Admission admission;
  EXPECT_EQ(admission.check(LeaseNumber{1}).error().code, Errc::fenced);
  ASSERT_TRUE(admission.admit(LeaseNumber{1}));
  EXPECT_TRUE(admission.check(LeaseNumber{1}));
  EXPECT_FALSE(admission.check(LeaseNumber{2}));
  EXPECT_FALSE(admission.admit(LeaseNumber::none));
}

TEST(AdmissionTest, AFencedLeaseIsNeverAdmittedAgain) {
  Admission admission;
  ASSERT_TRUE(admission.admit(LeaseNumber{5}));
  EXPECT_TRUE(admission.fence(LeaseNumber{5}));
  EXPECT_FALSE(admission.fence(LeaseNumber{5}));
  EXPECT_EQ(admission.check(LeaseNumber{5}).error().code, Errc::fenced);
  EXPECT_EQ(admission.admit(LeaseNumber{5}).error().code, Errc::fenced);
  // A lower number that was only handed out earlier may still come.
  EXPECT_TRUE(admission.admit(LeaseNumber{4}));
  EXPECT_TRUE(admission.fence(LeaseNumber{7}));  // It was never admitted.
  EXPECT_FALSE(admission.admit(LeaseNumber{7}));
}

TEST(AdmissionTest, CountsWhatItRefused) {
  Admission admission;
  for (int i = 0; i < 3; ++i) EXPECT_FALSE(admission.check(LeaseNumber{9}));
  EXPECT_EQ(admission.late().at(LeaseNumber{9}).tried, 3u);
  EXPECT_EQ(admission.late().at(LeaseNumber{9}).refused, 3u);
  for (std::uint64_t i = 10; i < 1000; ++i) EXPECT_FALSE(admission.check(LeaseNumber{i}));
  EXPECT_LE(admission.late().size(), Admission::late_max);
}

TEST(AdmissionTest, SurvivesEncodingWithAllOrdersOfFencing) {
  for (std::uint64_t pattern = 0; pattern < 256; ++pattern) {
    Admission admission;
    for (const std::uint64_t i : {3, 0, 5, 4, 7, 1, 2, 6}) {
      ASSERT_TRUE(admission.admit(LeaseNumber{i + 1}));
      if (pattern >> i & 1) admission.fence(LeaseNumber{i + 1});
    }
    const Result<Admission> copy = Admission::decode(admission.encode());
    ASSERT_TRUE(copy);
    for (std::uint64_t i = 0; i < 8; ++i) {
      EXPECT_EQ(copy->is_fenced(LeaseNumber{i + 1}), (pattern >> i & 1) != 0) << pattern;
      EXPECT_EQ(copy->is_admitted(LeaseNumber{i + 1}), (pattern >> i & 1) == 0) << pattern;
    }
    EXPECT_FALSE(copy->is_fenced(LeaseNumber{9}));
  }
}

TEST(AdmissionTest, GapsDoNotGrowWithoutBound) {
  Admission admission;
  ASSERT_TRUE(admission.admit(LeaseNumber{2}));
  for (std::uint64_t i = 1; i < 5000; i += 2) admission.fence(LeaseNumber{i});
  EXPECT_LT(admission.encode().size(), Admission::runs_max * 16 + 64);
  EXPECT_TRUE(admission.is_fenced(LeaseNumber{1}));
  EXPECT_TRUE(admission.is_fenced(LeaseNumber{4999}));
  EXPECT_FALSE(admission.is_fenced(LeaseNumber{4998}));
  EXPECT_TRUE(admission.check(LeaseNumber{2}));  // Joined with its neighbours, but still admitted.
  EXPECT_TRUE(admission.fence(LeaseNumber{2}));
  EXPECT_FALSE(admission.check(LeaseNumber{2}));
}

TEST(AdmissionTest, DamageIsNoticed) {
  Admission admission;
  ASSERT_TRUE(admission.admit(LeaseNumber{1}));
  admission.fence(LeaseNumber{2});
  const Bytes good = admission.encode();
  for (std::size_t i = 0; i < good.size(); ++i) {
    Bytes bad = good;
    bad[i] ^= std::byte{1};
    EXPECT_FALSE(Admission::decode(bad)) << i;
    EXPECT_FALSE(Admission::decode(ByteView(good).first(i))) << i;
  }
}

}  // namespace
}  // namespace plumeria::disk
