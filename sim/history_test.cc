#include "sim/history.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace plumeria::sim {
namespace {

Operation op(std::uint32_t mount, Action action, std::uint64_t argument, int called, int returned) {
  Operation operation{mount, action, argument, Duration(called), std::nullopt};
  if (returned >= 0) operation.returned = Duration(returned);
  return operation;
}
constexpr int unknown = -1;

struct Row {
  const char* name;
  std::vector<Operation> operations;
  bool linearizable;
};

TEST(HistoryTest, FindsWhatNoOrderExplains) {
  const std::vector<Row> rows = {
      {"empty", {}, true},
      {"read of the start", {op(1, Action::read, 0, 0, 1)}, true},
      {"read what was written",
       {op(1, Action::write, 7, 0, 1), op(2, Action::read, 7, 2, 3)},
       true},
      {"stale read", {op(1, Action::write, 7, 0, 1), op(2, Action::read, 0, 2, 3)}, false},
      {"either while they overlap",
       {op(1, Action::write, 7, 0, 5), op(2, Action::read, 0, 2, 3), op(2, Action::read, 7, 4, 6)},
       true},
      {"no way back",
       {op(1, Action::write, 7, 0, 9), op(2, Action::read, 7, 1, 2), op(3, Action::read, 0, 3, 4)},
       false},
      {"unknown write may have happened",
       {op(1, Action::write, 7, 0, unknown), op(2, Action::read, 7, 5, 6)},
       true},
      {"unknown write may not have happened",
       {op(1, Action::write, 7, 0, unknown), op(2, Action::read, 0, 5, 6)},
       true},
      {"two creates of one name",
       {op(1, Action::create, 7, 0, 5), op(2, Action::create, 8, 0, 5)},
       false},
      {"create, remove, create",
       {op(1, Action::create, 7, 0, 5), op(2, Action::create, 8, 0, 5),
        op(3, Action::remove, 0, 0, 5)},
       true},
      {"found what was put",
       {op(1, Action::put, 0, 0, 1), op(2, Action::read, 8, 2, 3), op(2, Action::read, 9, 4, 5)},
       false},
      {"lost append",
       {op(1, Action::append, 7, 0, 1), op(2, Action::append, 8, 0, 1),
        op(1, Action::read, appended(0, 7), 2, 3)},
       false},
      {"size",
       {op(1, Action::extend, 9, 0, 1), op(2, Action::extend, 5, 2, 3),
        op(2, Action::read, 9, 4, 5)},
       true},
  };
  for (const Row& row : rows) {
    EXPECT_EQ(check_key(row.operations).linearizable, row.linearizable) << row.name;
  }
}

TEST(HistoryTest, ACrashMayLoseWhatNobodyElseSaw) {
  const std::vector<Operation> start = {op(1, Action::write, 7, 0, 1),
                                        op(1, Action::write, 8, 2, 3)};
  const auto with = [&](std::vector<Operation> more) {
    std::vector<Operation> all = start;
    all.insert(all.end(), more.begin(), more.end());
    return check_key(all).linearizable;
  };
  const Operation crash = op(1, Action::crash, 0, 10, unknown);
  EXPECT_TRUE(with({crash, op(2, Action::read, 0, 20, 21)}));
  EXPECT_TRUE(with({crash, op(2, Action::read, 7, 20, 21)}));
  EXPECT_TRUE(with({crash, op(2, Action::read, 8, 20, 21)}));
  EXPECT_FALSE(with({crash, op(2, Action::read, 0, 20, 21), op(2, Action::read, 7, 22, 23)}));
  EXPECT_FALSE(with({op(2, Action::read, 0, 20, 21)})) << "no crash";
  EXPECT_FALSE(with({op(2, Action::crash, 0, 10, unknown), op(3, Action::read, 0, 20, 21)}))
      << "another mount's crash";
}

TEST(HistoryTest, WhatWasSyncedOrSeenSurvivesACrash) {
  const Operation written = op(1, Action::write, 7, 0, 1);
  const Operation crash = op(1, Action::crash, 0, 10, unknown);
  const Operation lost = op(2, Action::read, 0, 20, 21);
  EXPECT_FALSE(check_key({written, op(1, Action::sync, 0, 2, 3), crash, lost}).linearizable);
  EXPECT_FALSE(check_key({written, op(2, Action::read, 7, 2, 3), crash, lost}).linearizable);
  EXPECT_TRUE(check_key({written, op(1, Action::read, 7, 2, 3), crash, lost}).linearizable);
}

TEST(HistoryTest, NothingOfADeadMountComesAfterItsRecovery) {
  const Operation unfinished = op(1, Action::write, 7, 0, unknown);
  const Operation death = op(1, Action::death, 0, 5, 10);
  const Operation before = op(2, Action::read, 0, 6, 7), after = op(2, Action::read, 0, 11, 12),
                  seen = op(2, Action::read, 7, 13, 14);
  EXPECT_TRUE(check_key({unfinished, death, before, seen}).linearizable);
  EXPECT_TRUE(check_key({unfinished, death, before, after}).linearizable);
  EXPECT_FALSE(check_key({unfinished, death, after, seen}).linearizable);
  const Operation crash = op(1, Action::crash, 0, 5, 10);
  EXPECT_TRUE(check_key({unfinished, crash, after, seen}).linearizable) << "it goes on";
}

TEST(HistoryTest, TwoUnseenValuesAreNotTheSame) {
  EXPECT_TRUE(check_key({op(1, Action::put, 1, 0, 1), op(1, Action::sync, 0, 2, 3),
                         op(1, Action::put, 2, 4, 5), op(1, Action::read, 7, 6, 7),
                         op(1, Action::crash, 0, 8, unknown), op(2, Action::read, 9, 10, 11)})
                  .linearizable);
}

TEST(HistoryTest, ExplainsWhatDidNotFit) {
  const CheckResult result =
      check_key({op(1, Action::write, 7, 0, 1000), op(2, Action::read, 5, 2000, 3000)});
  EXPECT_FALSE(result.linearizable);
  EXPECT_THAT(result.explanation, testing::HasSubstr("mount 2 read 5 [2 .. 3 us]"));
}

TEST(HistoryTest, LongHistoriesOfFewClientsAreChecked) {
  std::vector<Operation> operations;
  for (int i = 0; i < 1000; ++i) {
    const auto mount = static_cast<std::uint32_t>(i % 3);
    operations.push_back(
        op(mount, Action::write, static_cast<std::uint64_t>(i), 10 * i, 10 * i + 25));
  }
  const CheckResult result = check_key(operations);
  EXPECT_TRUE(result.linearizable);
  EXPECT_FALSE(result.gave_up);
}

}  // namespace
}  // namespace plumeria::sim
