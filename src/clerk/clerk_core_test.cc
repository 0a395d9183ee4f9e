// More of the clerk's conversations are in tests/lock/testdata.
#include "clerk/clerk_core.h"

#include <gtest/gtest.h>

#include "clerk/file_lock_client.h"
#include "clerk/lease_keeper.h"

namespace plumeria::clerk {
namespace {

constexpr LockName name{lock::LockClass::inode, 7};

class ClerkCoreTest : public ::testing::Test {
 protected:
  explicit ClerkCoreTest(ClerkCoreOptions options = {}) : core_(options) {
    core_.set_usable(now_, true, out_);
  }
  ~ClerkCoreTest() override { core_.check_invariants(); }

  // Asks for a lock and grants what is asked for.
  void hold(LockName which, Mode mode) {
    core_.acquire(now_, which, mode, out_);
    const Sequence sequence = last(Effect::Kind::send_request).sequence;
    core_.grant(now_, {which, sequence, mode}, out_);
    core_.unpin(now_, which, mode, out_);
    out_.clear();
  }
  Effect last(Effect::Kind kind) const {
    for (auto effect = out_.rbegin(); effect != out_.rend(); ++effect) {
      if (effect->kind == kind) return *effect;
    }
    ADD_FAILURE() << "no such effect";
    return {};
  }
  bool has(Effect::Kind kind) const {
    for (const Effect& effect : out_) {
      if (effect.kind == kind) return true;
    }
    return false;
  }
  void revoke(Mode keep, std::uint64_t sequence = 1) {
    core_.revoke(now_, {name, Sequence{sequence}, keep, false, 0}, out_);
  }

  ClerkCore core_;
  TimePoint now_{1s};
  Effects out_;
  Sequence sequence_of_grant_{};
};

TEST_F(ClerkCoreTest, ABusyLockLingersUntilItIsIdleButNotForEver) {
  hold(name, Mode::exclusive);
  revoke(Mode::none);
  EXPECT_FALSE(has(Effect::Kind::revoke_begins));
  for (int i = 0; i < 49; ++i) {  // in use every 100 µs
    EXPECT_TRUE(core_.try_pin(now_, name, Mode::exclusive));
    core_.unpin(now_, name, Mode::exclusive, out_);
    now_ += 100us;
    core_.tick(now_, out_);
    ASSERT_FALSE(has(Effect::Kind::revoke_begins)) << i;
  }
  now_ += 100us;  // 5 ms are over
  core_.tick(now_, out_);
  EXPECT_TRUE(has(Effect::Kind::revoke_begins));
  EXPECT_FALSE(core_.try_pin(now_, name, Mode::shared));
  core_.given_up(now_, name, out_);
}

TEST_F(ClerkCoreTest, LocalOperationsShareAPieceAndARevokeWaitsForAllOfThem) {
  const LockName piece{lock::LockClass::piece, 3};
  hold(piece, Mode::exclusive);
  EXPECT_TRUE(core_.try_pin(now_, piece, Mode::exclusive));
  EXPECT_TRUE(core_.try_pin(now_, piece, Mode::exclusive));
  core_.revoke(now_, {piece, Sequence{1}, Mode::none, false, 0}, out_);
  now_ += 5ms;
  core_.tick(now_, out_);
  EXPECT_TRUE(has(Effect::Kind::revoke_begins));
  EXPECT_FALSE(core_.try_pin(now_, piece, Mode::exclusive));
  core_.unpin(now_, piece, Mode::exclusive, out_);
  EXPECT_FALSE(has(Effect::Kind::give_up));
  core_.unpin(now_, piece, Mode::exclusive, out_);
  EXPECT_TRUE(has(Effect::Kind::give_up));
  core_.given_up(now_, piece, out_);
}

TEST_F(ClerkCoreTest, WhoCannotWaitForARevokeIsRefusedWhenOneBegins) {
  hold(name, Mode::shared);
  EXPECT_TRUE(core_.try_pin(now_, name, Mode::shared));
  // The shared hold must be given up first, and that may have to wait for the caller.
  const WaiterId waiter = core_.acquire_unless_revoked(now_, name, Mode::exclusive, out_);
  EXPECT_TRUE(has(Effect::Kind::revoke_begins));
  ASSERT_TRUE(has(Effect::Kind::refused));
  EXPECT_EQ(out_.back().waiter, waiter);
  core_.acquire_unless_revoked(now_, name, Mode::exclusive, out_);
  EXPECT_EQ(out_.back().kind, Effect::Kind::refused) << "the revoke has begun";
  core_.unpin(now_, name, Mode::shared, out_);
  core_.given_up(now_, name, out_);
  EXPECT_EQ(core_.held(name), Mode::none);
  EXPECT_FALSE(has(Effect::Kind::send_request));
}

// The downgrade may wait for a READ that the kernel has sent, and that is not served before one who
// waits for the exclusive lock.
TEST_F(ClerkCoreTest, WhoMayBlockADowngradeDoesNotWaitBehindOneWhoWantsMore) {
  hold(name, Mode::exclusive);
  EXPECT_TRUE(core_.try_pin(now_, name, Mode::exclusive));
  core_.acquire(now_, name, Mode::exclusive, out_);
  const WaiterId before = core_.acquire_unless_revoked(now_, name, Mode::shared, out_);
  EXPECT_FALSE(has(Effect::Kind::refused));
  revoke(Mode::shared);
  now_ += 5ms;
  core_.tick(now_, out_);
  ASSERT_TRUE(has(Effect::Kind::revoke_begins));
  ASSERT_TRUE(has(Effect::Kind::refused));
  EXPECT_EQ(out_.back().waiter, before);
  const WaiterId after = core_.acquire_unless_revoked(now_, name, Mode::shared, out_);
  ASSERT_EQ(out_.back().kind, Effect::Kind::refused);
  EXPECT_EQ(out_.back().waiter, after);
}

TEST_F(ClerkCoreTest, ARevokeThatStillDrainsEndsWithTheLease) {
  hold(name, Mode::exclusive);
  EXPECT_TRUE(core_.try_pin(now_, name, Mode::exclusive));
  revoke(Mode::none);
  now_ += 5ms;
  core_.tick(now_, out_);
  ASSERT_TRUE(has(Effect::Kind::revoke_begins));
  core_.lose(out_);
  EXPECT_TRUE(has(Effect::Kind::revoke_ended));
  EXPECT_FALSE(has(Effect::Kind::give_up));
  core_.unpin(now_, name, Mode::exclusive, out_);
}

// Two mounts that create files in one directory look a name up, then write.
TEST_F(ClerkCoreTest, WhoReadsWhatAWriterTookAsksForExclusiveUntilThatWasInVain) {
  const auto taken_away = [&] {
    now_ += 1s;
    core_.revoke(now_, {name, sequence_of_grant_, Mode::none, false, 0}, out_);
    core_.given_up(now_, name, out_);
    out_.clear();
  };
  const auto read = [&] {
    core_.acquire(now_, name, Mode::shared, out_);
    const Effect asked = last(Effect::Kind::send_request);
    sequence_of_grant_ = asked.sequence;
    core_.grant(now_, {name, asked.sequence, asked.mode}, out_);
    core_.unpin(now_, name, Mode::shared, out_);
    return asked.mode;
  };
  EXPECT_EQ(read(), Mode::shared);
  taken_away();
  EXPECT_EQ(read(), Mode::shared) << "it was only read";
  taken_away();
  hold(name, Mode::exclusive);
  sequence_of_grant_ = Sequence{3};
  taken_away();
  EXPECT_EQ(read(), Mode::exclusive);
  EXPECT_TRUE(core_.try_pin(now_, name, Mode::exclusive));
  core_.unpin(now_, name, Mode::exclusive, out_);
  // A downgrade in between changes nothing.
  now_ += 1s;
  core_.revoke(now_, {name, sequence_of_grant_, Mode::shared, false, 0}, out_);
  core_.given_up(now_, name, out_);
  taken_away();
  EXPECT_EQ(read(), Mode::exclusive);
  taken_away();
  EXPECT_EQ(read(), Mode::shared) << "it was not written last time";
}

TEST_F(ClerkCoreTest, TheUsualGapIsRememberedWhileOthersHaveTheLock) {
  hold(name, Mode::exclusive);
  for (int i = 0; i < 9; ++i) {
    now_ += 500us;
    EXPECT_TRUE(core_.try_pin(now_, name, Mode::exclusive));
    core_.unpin(now_, name, Mode::exclusive, out_);
  }
  revoke(Mode::none);
  now_ += 1s;
  core_.tick(now_, out_);
  core_.given_up(now_, name, out_);
  hold(name, Mode::exclusive);
  revoke(Mode::none, 2);
  now_ += 1ms;
  core_.tick(now_, out_);
  EXPECT_FALSE(has(Effect::Kind::revoke_begins));
  now_ += 1ms;
  core_.tick(now_, out_);
  EXPECT_TRUE(has(Effect::Kind::revoke_begins));
  core_.given_up(now_, name, out_);
}

TEST_F(ClerkCoreTest, AnIdleLockIsGivenUpAfterTheIdleTime) {
  hold(name, Mode::exclusive);
  revoke(Mode::none);
  EXPECT_EQ(core_.next_tick(), now_ + 200us);
  now_ += 200us;
  core_.tick(now_, out_);
  EXPECT_TRUE(has(Effect::Kind::give_up));
}

TEST_F(ClerkCoreTest, ALockThatWasNotUsedLatelyIsGivenUpAtOnce) {
  hold(name, Mode::exclusive);
  now_ += 1ms;
  revoke(Mode::none);
  EXPECT_TRUE(has(Effect::Kind::give_up));
}

TEST_F(ClerkCoreTest, ADowngradeDoesNotWaitForSharedPins) {
  hold(name, Mode::exclusive);
  ASSERT_TRUE(core_.try_pin(now_, name, Mode::shared));
  now_ += 6ms;
  revoke(Mode::shared);
  now_ += 6ms;
  core_.tick(now_, out_);
  EXPECT_EQ(last(Effect::Kind::give_up).mode, Mode::shared);
  EXPECT_TRUE(core_.try_pin(now_, name, Mode::shared));  // also meanwhile
  EXPECT_FALSE(core_.try_pin(now_, name, Mode::exclusive));
  core_.given_up(now_, name, out_);
  EXPECT_EQ(core_.held(name), Mode::shared);
  EXPECT_EQ(core_.shared_pins(name), 2u);
}

TEST_F(ClerkCoreTest, WhileSuspendedNothingIsPinnedAndEverythingIsKept) {
  hold(name, Mode::exclusive);
  core_.set_usable(now_, false, out_);
  EXPECT_FALSE(core_.try_pin(now_, name, Mode::shared));
  core_.acquire(now_, name, Mode::shared, out_);
  EXPECT_FALSE(has(Effect::Kind::granted));
  EXPECT_EQ(core_.held(name), Mode::exclusive);
  core_.set_usable(now_, true, out_);
  EXPECT_TRUE(has(Effect::Kind::granted));
}

TEST_F(ClerkCoreTest, WhoWaitsWhenTheLeaseIsLostIsTold) {
  hold(name, Mode::shared);
  core_.acquire(now_, {lock::LockClass::inode, 8}, Mode::shared, out_);
  const PrefetchId prefetch =
      core_.prefetch(now_, {{lock::LockClass::inode, 9}}, Mode::shared, out_);
  core_.lose(out_);
  EXPECT_TRUE(has(Effect::Kind::lost));
  EXPECT_EQ(last(Effect::Kind::prefetched).prefetch, prefetch);
  EXPECT_EQ(core_.held(name), Mode::none);
  EXPECT_FALSE(core_.try_pin(now_, name, Mode::shared));
}

TEST_F(ClerkCoreTest, AnUnansweredRequestIsSentAgainAndAgain) {
  core_.acquire(now_, name, Mode::shared, out_);
  const Sequence sequence = last(Effect::Kind::send_request).sequence;
  int sent = 0;
  for (const TimePoint end = now_ + 10s; now_ < end; now_ = core_.next_tick()) {
    out_.clear();
    core_.tick(now_, out_);
    for (const Effect& effect : out_) {
      EXPECT_EQ(effect.sequence, sequence);
      ++sent;
    }
  }
  EXPECT_GE(sent, 5);
}

class SmallClerkCoreTest : public ClerkCoreTest {
 protected:
  SmallClerkCoreTest() : ClerkCoreTest({.locks_max = 10}) {}
};

TEST_F(SmallClerkCoreTest, TheLeastRecentlyUsedLocksAreGivenBack) {
  for (std::uint64_t i = 0; i < 10; ++i) hold({lock::LockClass::inode, i}, Mode::shared);
  for (std::uint64_t i = 100; i < 130; ++i) {
    core_.acquire(now_, {lock::LockClass::inode, i}, Mode::shared, out_);
    core_.grant(
        now_,
        {{lock::LockClass::inode, i}, last(Effect::Kind::send_request).sequence, Mode::shared},
        out_);
    core_.unpin(now_, {lock::LockClass::inode, i}, Mode::shared, out_);
    ASSERT_TRUE(core_.try_pin(now_, {lock::LockClass::inode, 3}, Mode::shared));  // always in use
    core_.unpin(now_, {lock::LockClass::inode, 3}, Mode::shared, out_);
    for (const Effect& effect : std::exchange(out_, {})) {
      if (effect.kind == Effect::Kind::give_up) core_.given_up(now_, effect.name, out_);
    }
  }
  EXPECT_LE(core_.held_shared(), 12u);
  EXPECT_EQ(core_.held({lock::LockClass::inode, 3}), Mode::shared);
  EXPECT_EQ(core_.held({lock::LockClass::inode, 0}), Mode::none);
}

TEST(LeaseKeeperTest, CountsFromBeforeTheRenewalWasSent) {
  LeaseKeeper keeper;
  const lock::LeaseTerms terms{10s, 1000};
  keeper.renewed(TimePoint{3s}, TimePoint{1s}, terms);
  EXPECT_EQ(keeper.deadline(), TimePoint{11s});
  EXPECT_TRUE(keeper.usable(TimePoint{8s}));
  EXPECT_FALSE(keeper.usable(TimePoint{9s}));  // though no timer has run
}

TEST(LeaseKeeperTest, RenewsBeforeAThirdIsOverAndSuspendsWithAMargin) {
  LeaseKeeper keeper;
  const lock::LeaseTerms terms{9s, 1000};
  keeper.renewed(TimePoint{}, TimePoint{}, terms);
  EXPECT_LT(keeper.next_tick(), TimePoint{3s});
  int renewals = 0, reconnects = 0;
  TimePoint now{};
  for (;;) {
    now = keeper.next_tick();
    const auto due = keeper.tick(now);
    if (due.suspend) break;
    renewals += due.renew;
    reconnects += due.reconnect;
  }
  EXPECT_EQ(now, TimePoint{7200ms});
  EXPECT_GT(renewals, 5);
  EXPECT_GT(reconnects, 0);
  EXPECT_FALSE(keeper.renewed(TimePoint{20s}, TimePoint{8s}, terms));  // answered too late
  EXPECT_TRUE(keeper.suspended());
  EXPECT_TRUE(keeper.renewed(TimePoint{20s}, TimePoint{19s}, terms));
  EXPECT_TRUE(keeper.usable(TimePoint{21s}));
}

TEST(LeaseKeeperTest, OldAnswersAndAnswersToNothingDoNotCount) {
  LeaseKeeper keeper;
  const lock::LeaseTerms terms{10s, 1000};
  keeper.renewed(TimePoint{2s}, TimePoint{2s}, terms);
  keeper.renewed(TimePoint{3s}, TimePoint{1s}, terms);
  keeper.renewed(TimePoint{3s}, TimePoint{99s}, terms);
  EXPECT_EQ(keeper.deadline(), TimePoint{12s});
}

TEST(FileLockClientTest, RemembersWhatWasGrantedAndRepeatsWhatWasNot) {
  FileLockClient client;
  FileLockClient::Messages out;
  const FileLock lock{.inode = 1, .owner = 2, .start = 0, .end = 9, .mode = Mode::exclusive};
  const CallNumber first = client.begin(TimePoint{}, lock::FileLockKind::set, lock, false, 0, out);
  EXPECT_FALSE(client.nothing_to_drop(lock));
  EXPECT_TRUE(client.answered({first, lock::FileLockResult::ok, lock}));
  EXPECT_FALSE(client.answered({first, lock::FileLockResult::ok, lock}));  // a duplicate
  EXPECT_EQ(client.held(), std::vector<FileLock>{lock});
  FileLock other = lock;
  other.owner = 3;
  EXPECT_TRUE(client.nothing_to_drop(other));
  const CallNumber second = client.begin(TimePoint{}, lock::FileLockKind::set, other, true, 5, out);
  out.clear();
  client.tick(client.next_tick(), out);
  ASSERT_EQ(out.size(), 1u);
  EXPECT_EQ(out[0].call, second);
  EXPECT_EQ(out[0].done_below, second);
  out.clear();
  client.cancel(TimePoint{}, 5, out);
  EXPECT_EQ(out.back().kind, lock::FileLockKind::cancel);
  EXPECT_TRUE(client.answered({second, lock::FileLockResult::interrupted, other}));
  EXPECT_EQ(client.next_tick(), TimePoint::max());
}

}  // namespace
}  // namespace plumeria::clerk
