#include "cli/lock_report.h"

#include <gtest/gtest.h>

#include "base/number.h"

namespace plumeria::cli {
namespace {

using lockd::ProgramLock;
using lockd::ProgramParty;

ProgramParty party(std::uint64_t lease, lock::Mode mode, std::uint64_t fence = 0) {
  ProgramParty one;
  one.lease = lock::LeaseNumber{lease};
  one.label = "host:" + std::to_string(lease);
  one.mode = mode;
  one.fence = fence;
  one.since = 1500ms;
  return one;
}

// 3 waits for a, which 2 holds, who waits for b, which 1 holds.
nlohmann::json two_locks() {
  const ProgramLock a{
      {"t", "a"}, {party(2, lock::Mode::shared, 8)}, {party(3, lock::Mode::exclusive)}};
  const ProgramLock b{
      {"t", "b"}, {party(1, lock::Mode::exclusive)}, {party(2, lock::Mode::shared)}};
  return locks_to_json({a, b}, 100000);
}

TEST(LockReportTest, TellsTheWholeChain) {
  EXPECT_EQ(chain_to_text(two_locks(), "t", "a"),
            "t/a\n"
            "  held shared for 1.5 s: host:2 (lease 2, fence 8)\n"
            "  waits exclusive for 1.5 s: host:3 (lease 3)\n"
            "  lease 2 waits itself for\n"
            "    t/b\n"
            "      held exclusive for longer than this server runs: host:1 (lease 1)\n"
            "      waits shared for 1.5 s: host:2 (lease 2)\n");
  EXPECT_EQ(chain_to_text(two_locks(), "u", "a"), "u/a: nobody holds it, nobody waits for it\n");
}

TEST(LockReportTest, ACircleEnds) {
  const ProgramLock a{
      {"t", "a"}, {party(1, lock::Mode::exclusive)}, {party(2, lock::Mode::shared)}};
  const ProgramLock b{
      {"t", "b"}, {party(2, lock::Mode::exclusive)}, {party(1, lock::Mode::shared)}};
  EXPECT_NE(chain_to_text(locks_to_json({a, b}, 100000), "t", "a").find("t/a: see above"),
            std::string::npos);
}

TEST(LockReportTest, NamesDoNotControlTheTerminal) {
  const ProgramLock odd{{"t", "a\n\x1b[2J\xc3\xa9"}, {party(1, lock::Mode::shared)}, {}};
  const std::string text = locks_to_text(locks_to_json({odd}, 100000));
  EXPECT_EQ(text.substr(0, text.find('\n')), "t/a\\x0a\\x1b[2J\xc3\xa9");
}

TEST(LockReportTest, OneTableIsChosen) {
  EXPECT_EQ(of_table(two_locks(), "t")["locks"].size(), 2u);
  EXPECT_EQ(of_table(two_locks(), "u")["locks"].size(), 0u);
  EXPECT_EQ(of_table(two_locks(), "")["locks"].size(), 2u);
}

TEST(LockReportTest, WhatDoesNotFitIsCounted) {
  std::vector<ProgramLock> locks(10, {{"t", std::string(4096, 'x')}, {}, {}});
  const auto report = locks_to_json(locks, 60000);
  EXPECT_EQ(report["locks"].size(), 2u);
  EXPECT_EQ(report["left_off"], 8);
  EXPECT_NE(locks_to_text(report).find("and 8 more"), std::string::npos);
}

// Whoever answers may be anybody.
TEST(LockReportTest, NonsenseIsNoHarm) {
  for (const char* text : {"{}", "[]", "3", R"({"locks": 3})", R"({"locks": [[]]})",
                           R"({"locks": [{"holders": [{}], "waiters": {}}]})",
                           R"({"locks": [{"table": 3, "holders": [3], "waiters": [[]]}]})"}) {
    const auto nonsense = nlohmann::json::parse(text);
    EXPECT_EQ(locks_to_text(of_table(nonsense, "t")), "") << text;
    EXPECT_EQ(chain_to_text(nonsense, "t", "n"), "t/n: nobody holds it, nobody waits for it\n")
        << text;
  }
}

}  // namespace
}  // namespace plumeria::cli
