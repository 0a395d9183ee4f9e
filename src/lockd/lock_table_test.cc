#include "lockd/lock_table.h"

#include <gtest/gtest.h>

#include "base/number.h"

namespace plumeria::lockd {
namespace {

constexpr LockName name{lock::LockClass::inode, 1};

LeaseNumber lease(std::uint64_t number) { return LeaseNumber{number}; }

class LockTableTest : public ::testing::Test {
 protected:
  LockTableTest() { table_.start_granting(now_, out_); }
  ~LockTableTest() override { table_.check_invariants(); }

  void request(std::uint64_t from, Mode mode, std::uint64_t sequence = 1, LockName which = name) {
    table_.request(now_, lease(from), {which, Sequence{sequence}, mode, false}, out_);
  }
  void release(std::uint64_t from, Mode keep, std::uint64_t sequence = 1) {
    table_.release(now_, lease(from), {name, Sequence{sequence}, keep}, out_);
  }
  std::size_t count(Decision::Kind kind) const {
    std::size_t count = 0;
    for (const Decision& decision : out_) count += decision.kind == kind;
    return count;
  }

  LockTable table_{{}};
  TimePoint now_{};
  Decisions out_;
};

TEST_F(LockTableTest, GrantsAreNumberedInTheirOrder) {
  table_.number_grants_from(100);
  request(1, Mode::exclusive);
  request(2, Mode::exclusive);
  request(1, Mode::exclusive);  // a repetition
  release(1, Mode::none);
  std::vector<std::pair<LeaseNumber, std::uint64_t>> grants;
  for (const Decision& decision : out_) {
    if (decision.kind == Decision::Kind::grant) grants.push_back({decision.lease, decision.fence});
  }
  const std::vector<std::pair<LeaseNumber, std::uint64_t>> expected = {
      {lease(1), 101}, {lease(1), 101}, {lease(2), 102}};
  EXPECT_EQ(grants, expected);
}

TEST_F(LockTableTest, TellsWhoHoldsAndWhoWaitsInWhichOrder) {
  const LockName mine{lock::LockClass::program, 7};
  now_ = TimePoint(5s);
  request(3, Mode::shared, 1, mine);
  request(2, Mode::exclusive, 1, mine);
  now_ = TimePoint(9s);
  request(1, Mode::shared, 1, mine);
  request(1, Mode::shared, 2, name);
  const auto all = table_.parties(lock::LockClass::program);
  ASSERT_EQ(all.size(), 1u);
  ASSERT_EQ(all[0].holders.size(), 1u);
  EXPECT_EQ(all[0].holders[0].lease, lease(3));
  EXPECT_EQ(all[0].holders[0].asked_to_keep, Mode::none);
  EXPECT_EQ(all[0].holders[0].since, TimePoint(5s));
  ASSERT_EQ(all[0].waiters.size(), 2u);
  EXPECT_EQ(all[0].waiters[0].lease, lease(2));
  EXPECT_EQ(all[0].waiters[1].lease, lease(1));
  EXPECT_EQ(all[0].waiters[1].since, TimePoint(9s));
}

// Its command may run for as long as it likes.
TEST_F(LockTableTest, AProgramIsNotHurried) {
  const LockName mine{lock::LockClass::program, 7};
  for (const LockName which : {mine, name}) {
    request(1, Mode::exclusive, 1, which);
    request(2, Mode::exclusive, 1, which);
  }
  for (int second = 0; second < 200; ++second) table_.tick(now_ += 1s, out_);
  for (const Decision& decision : out_) {
    EXPECT_TRUE(decision.kind != Decision::Kind::expire || decision.name == name);
  }
  EXPECT_GT(count(Decision::Kind::expire), 0u);
}

TEST_F(LockTableTest, ModesThatGoTogetherAreGrantedTogether) {
  struct Row {
    Mode held, wanted;
    bool granted;
    Mode keep;
  };
  constexpr Row rows[] = {
      {Mode::shared, Mode::shared, true, Mode::none},
      {Mode::shared, Mode::exclusive, false, Mode::none},
      {Mode::exclusive, Mode::shared, false, Mode::shared},
      {Mode::exclusive, Mode::exclusive, false, Mode::none},
  };
  std::uint64_t number = 10;
  for (const Row& row : rows) {
    const LockName which{lock::LockClass::inode, ++number};
    request(1, row.held, 1, which);
    out_.clear();
    request(2, row.wanted, 1, which);
    ASSERT_EQ(out_.size(), 1u);
    EXPECT_EQ(out_[0].kind, row.granted ? Decision::Kind::grant : Decision::Kind::revoke);
    EXPECT_EQ(out_[0].mode, row.granted ? row.wanted : row.keep);
  }
}

TEST_F(LockTableTest, FiveThousandReadersAreRevokedByOneWriter) {
  for (std::uint64_t i = 1; i <= 5000; ++i) request(i, Mode::shared);
  EXPECT_EQ(count(Decision::Kind::grant), 5000u);
  out_.clear();
  request(6000, Mode::exclusive);
  EXPECT_EQ(count(Decision::Kind::revoke), 5000u);
  out_.clear();
  for (std::uint64_t i = 1; i <= 5000; ++i) release(i, Mode::none);
  ASSERT_EQ(out_.size(), 1u);
  EXPECT_EQ(out_[0].lease, lease(6000));
}

TEST_F(LockTableTest, ReadersBehindAWriterWaitAndAreThenGrantedTogether) {
  request(1, Mode::shared);
  request(2, Mode::exclusive);
  request(3, Mode::shared);
  request(4, Mode::shared);
  EXPECT_EQ(count(Decision::Kind::grant), 1u);
  release(1, Mode::none);
  EXPECT_EQ(count(Decision::Kind::grant), 2u);
  release(2, Mode::shared);
  EXPECT_EQ(count(Decision::Kind::grant), 4u);
}

TEST_F(LockTableTest, ReleasesOfOneGrantMayBeDoubledAndReordered) {
  request(1, Mode::exclusive);
  release(1, Mode::none);
  release(1, Mode::shared);  // was sent before
  EXPECT_EQ(table_.mode_of(lease(1), name), Mode::none);
  request(1, Mode::exclusive, 2);
  release(1, Mode::none, 1);
  EXPECT_EQ(table_.mode_of(lease(1), name), Mode::exclusive);
}

TEST_F(LockTableTest, ARequestSaysThatItsSenderHoldsNothing) {
  request(1, Mode::shared);
  request(2, Mode::exclusive);
  request(1, Mode::exclusive, 2);  // its release is still on the way
  EXPECT_EQ(table_.mode_of(lease(2), name), Mode::exclusive);
  EXPECT_TRUE(table_.waits(lease(1), name));
  request(1, Mode::shared, 1);  // an old duplicate changes nothing
  EXPECT_TRUE(table_.waits(lease(1), name));
}

TEST_F(LockTableTest, RevokesAreRepeatedThenTheHolderIsReported) {
  request(1, Mode::exclusive);
  request(2, Mode::exclusive);
  std::size_t revokes = 0;
  for (out_.clear(); count(Decision::Kind::expire) == 0; out_.clear()) {
    ASSERT_LT(now_, TimePoint{70s});
    now_ = table_.next_tick();
    table_.tick(now_, out_);
    revokes += count(Decision::Kind::revoke);
    if (count(Decision::Kind::expire) > 0) break;
  }
  EXPECT_GE(now_, TimePoint{60s});
  EXPECT_GT(revokes, 25u);
  EXPECT_EQ(out_[0].lease, lease(1));
}

TEST_F(LockTableTest, ALockOfOneHolderIsSmall) { EXPECT_LE(LockTable::bytes_per_lock(), 120u); }

}  // namespace
}  // namespace plumeria::lockd
