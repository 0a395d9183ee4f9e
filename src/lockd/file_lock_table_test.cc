#include "lockd/file_lock_table.h"

#include <absl/strings/str_cat.h>
#include <gtest/gtest.h>

#include "base/number.h"
#include "base/seeded_random.h"

namespace plumeria::lockd {
namespace {

using lock::FileLockCall;
using lock::FileLockKind;
using lock::FileLockResult;
using lock::Mode;

constexpr LeaseNumber first{1}, second{2}, third{3};

class FileLockTableTest : public ::testing::Test {
 protected:
  static FileLock range(std::uint64_t owner, std::uint64_t start, std::uint64_t end, Mode mode) {
    return {.inode = 1, .owner = owner, .start = start, .end = end, .mode = mode};
  }
  static FileLock flock(std::uint64_t owner, Mode mode) {
    return {.inode = 1, .is_flock = true, .owner = owner, .mode = mode};
  }
  // "ok", "again", …; "waits" without an answer; with those that others got: "ok, 2: ok".
  std::string call(LeaseNumber from, FileLockKind kind, FileLock lock, bool wait = false) {
    FileLockCall message;
    message.call = CallNumber{++calls_[from]};
    message.kind = kind;
    message.wait = wait;
    message.lock = lock;
    return send(from, message);
  }
  std::string send(LeaseNumber from, const FileLockCall& message) {
    last_ = message;
    FileLockTable::Answers answers;
    table_.call(from, message, answers);
    table_.check_invariants();
    return say(from, answers);
  }
  static std::string say(LeaseNumber from, const FileLockTable::Answers& answers) {
    constexpr const char* names[] = {"?", "ok", "again", "deadlock", "interrupted"};
    std::string text;
    for (const auto& [lease, answer] : answers) {
      if (!text.empty()) text += ", ";
      if (lease != from) absl::StrAppend(&text, raw(lease), ": ");
      text += names[raw(answer.result)];
    }
    return text.empty() ? "waits" : text;
  }
  std::string set(LeaseNumber from, FileLock lock) { return call(from, FileLockKind::set, lock); }
  std::string wait(LeaseNumber from, FileLock lock) {
    return call(from, FileLockKind::set, lock, true);
  }

  FileLockTable table_;
  std::map<LeaseNumber, std::uint64_t> calls_;
  FileLockCall last_;
};

TEST_F(FileLockTableTest, RangesOfDifferentOwnersConflictWhereTheyOverlap) {
  EXPECT_EQ(set(first, range(1, 0, 9, Mode::exclusive)), "ok");
  EXPECT_EQ(set(second, range(1, 10, 19, Mode::exclusive)), "ok");
  EXPECT_EQ(set(first, range(2, 5, 14, Mode::shared)), "again");
  EXPECT_EQ(set(first, range(1, 5, 7, Mode::none)), "ok");  // splits
  EXPECT_EQ(set(first, range(2, 5, 7, Mode::shared)), "ok");
  EXPECT_EQ(set(second, range(1, 5, 7, Mode::shared)), "ok");
  EXPECT_EQ(table_.locks(), 5u);
  EXPECT_EQ(set(second, range(1, 5, 7, Mode::exclusive)), "again");  // keeps the shared one
  EXPECT_EQ(set(third, range(1, 6, 6, Mode::exclusive)), "again");
}

TEST_F(FileLockTableTest, FlockAndFcntlDoNotSeeEachOther) {
  EXPECT_EQ(set(first, range(1, 0, ~0ull, Mode::exclusive)), "ok");
  EXPECT_EQ(set(second, flock(1, Mode::exclusive)), "ok");
  EXPECT_EQ(set(first, flock(1, Mode::shared)), "again");
}

TEST_F(FileLockTableTest, WaitersAreServedInOrderWhenTheHolderUnlocks) {
  EXPECT_EQ(set(first, range(1, 0, 9, Mode::exclusive)), "ok");
  EXPECT_EQ(wait(second, range(1, 0, 4, Mode::exclusive)), "waits");
  EXPECT_EQ(wait(third, range(1, 3, 9, Mode::shared)), "waits");
  EXPECT_EQ(set(first, range(1, 0, 9, Mode::none)), "ok, 2: ok");
  EXPECT_EQ(set(second, range(1, 0, 9, Mode::shared)), "ok, 3: ok");  // a downgrade
}

TEST_F(FileLockTableTest, AFlockConversionGivesTheOldLockUpFirst) {
  EXPECT_EQ(set(first, flock(1, Mode::shared)), "ok");
  EXPECT_EQ(set(second, flock(1, Mode::shared)), "ok");
  EXPECT_EQ(wait(second, flock(1, Mode::exclusive)), "waits");
  EXPECT_EQ(set(first, flock(1, Mode::exclusive)), "ok");
  EXPECT_EQ(set(first, flock(1, Mode::none)), "ok, 2: ok");
}

TEST_F(FileLockTableTest, ACycleOfWaitersIsADeadlockAcrossFilesAndClients) {
  FileLock a = range(1, 0, 0, Mode::exclusive), b = a, c = a;
  b.inode = 2;
  c.inode = 3;
  EXPECT_EQ(set(first, a), "ok");
  EXPECT_EQ(set(second, b), "ok");
  EXPECT_EQ(set(third, c), "ok");
  EXPECT_EQ(wait(first, b), "waits");
  EXPECT_EQ(wait(second, c), "waits");
  EXPECT_EQ(wait(third, a), "deadlock");
  c.mode = Mode::none;
  EXPECT_EQ(set(third, c), "ok, 2: ok");
}

TEST_F(FileLockTableTest, TwoUpgradesOfOneRangeAreADeadlock) {
  EXPECT_EQ(set(first, range(1, 0, 9, Mode::shared)), "ok");
  EXPECT_EQ(set(second, range(1, 0, 9, Mode::shared)), "ok");
  EXPECT_EQ(wait(first, range(1, 0, 9, Mode::exclusive)), "waits");
  EXPECT_EQ(wait(second, range(1, 0, 9, Mode::exclusive)), "deadlock");
}

TEST_F(FileLockTableTest, ARepeatedCallIsDoneOnceOnly) {
  EXPECT_EQ(set(first, range(1, 0, 9, Mode::exclusive)), "ok");
  const FileLockCall lock = last_;
  EXPECT_EQ(set(first, range(1, 0, 9, Mode::none)), "ok");
  EXPECT_EQ(send(first, lock), "ok");  // the same answer; nothing is locked again
  EXPECT_EQ(table_.locks(), 0u);
  FileLockCall test;
  test.call = test.done_below = CallNumber{10};
  test.kind = FileLockKind::test;
  test.lock = range(1, 0, 9, Mode::exclusive);
  EXPECT_EQ(send(first, test), "ok");
  EXPECT_EQ(send(first, lock), "waits");  // so old that no answer is kept, nor needed
  EXPECT_EQ(table_.locks(), 0u);
}

TEST_F(FileLockTableTest, ACancelThatOvertakesItsCallIsItsAnswer) {
  EXPECT_EQ(set(first, range(1, 0, 9, Mode::exclusive)), "ok");
  FileLockCall cancel;
  cancel.call = CallNumber{1};
  cancel.kind = FileLockKind::cancel;
  EXPECT_EQ(send(second, cancel), "interrupted");
  EXPECT_EQ(wait(second, range(1, 0, 9, Mode::exclusive)), "interrupted");
  EXPECT_EQ(table_.waiting(), 0u);
}

TEST_F(FileLockTableTest, TestTellsTheFirstConflictingLock) {
  EXPECT_EQ(set(first, range(1, 10, 19, Mode::shared)), "ok");
  EXPECT_EQ(set(first, range(2, 0, 5, Mode::exclusive)), "ok");
  FileLockTable::Answers answers;
  FileLockCall test;
  test.call = CallNumber{1};
  test.kind = FileLockKind::test;
  test.lock = range(1, 3, 99, Mode::exclusive);
  table_.call(second, test, answers);
  EXPECT_EQ(answers.at(0).answer.lock, range(2, 0, 5, Mode::exclusive));
  test.call = CallNumber{2};
  test.lock = range(1, 10, 12, Mode::shared);
  table_.call(second, test, answers);
  EXPECT_EQ(answers.at(1).answer.lock.mode, Mode::none);
}

TEST_F(FileLockTableTest, EverythingOfALeaseGoesWithIt) {
  EXPECT_EQ(set(first, range(1, 0, 9, Mode::exclusive)), "ok");
  EXPECT_EQ(set(first, flock(2, Mode::exclusive)), "ok");
  EXPECT_EQ(wait(second, range(1, 0, 9, Mode::exclusive)), "waits");
  EXPECT_EQ(wait(second, flock(1, Mode::shared)), "waits");
  table_.dying(first);
  EXPECT_EQ(table_.waiting(), 2u);
  FileLockTable::Answers answers;
  table_.gone(first, answers);
  EXPECT_EQ(say(second, answers), "ok, ok");
  table_.check_invariants();
}

TEST_F(FileLockTableTest, RandomCallsKeepTheInvariants) {
  SeededRandom random(3);
  for (int i = 0; i < 30'000; ++i) {
    const LeaseNumber from{1 + random.below(3)};
    FileLock lock = range(random.below(3), random.below(20), 0, Mode{});
    lock.mode = static_cast<Mode>(random.below(3));
    lock.end = lock.start + random.below(10);
    lock.inode = random.below(2);
    lock.is_flock = random.below(4) == 0;
    if (lock.is_flock) lock.start = 0, lock.end = ~0ull;
    if (random.below(200) == 0) {
      FileLockTable::Answers answers;
      table_.gone(from, answers);
      calls_[from] += 10;
    } else if (random.below(5) == 0) {
      FileLockCall cancel;
      cancel.call = CallNumber{1 + random.below(calls_[from] + 1)};
      cancel.kind = FileLockKind::cancel;
      if (raw(cancel.call) <= calls_[from]) send(from, cancel);
    } else {
      call(from, random.below(8) == 0 ? FileLockKind::drop : FileLockKind::set, lock,
           random.below(2) == 0);
    }
  }
}

}  // namespace
}  // namespace plumeria::lockd
