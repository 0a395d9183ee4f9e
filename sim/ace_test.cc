// Generated sequences that found something once, many times over.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/falloc.h>

#include "sim/ace_run.h"

namespace plumeria::sim::ace {
namespace {

using testing::IsEmpty;

struct Case {
  const char* name;
  std::vector<Operation> operations;  // nothing is made durable between them
  Persistence at_last;
};

// One file, alone in its directory, with a data segment.
const std::vector<Operation> setup = {
    {Do::make_directory, "A", "", 0, false, 0, 0},
    {Do::make_file, "A/foo", "", 0, false, 0, 0},
    {Do::write, "A/foo", "", 0, false, 80'000, 0},
};

class AceTest : public testing::TestWithParam<Case> {};

TEST_P(AceTest, KeepsThePromise) {
  Sequence sequence;
  sequence.setup = setup;
  for (const Operation& operation : GetParam().operations) {
    sequence.steps.push_back({operation, {}});
  }
  sequence.steps.back().then = GetParam().at_last;
  for (std::uint64_t seed = 1; seed <= 100; ++seed) {
    const Outcome outcome = run(sequence, seed, Cuts::many);
    EXPECT_FALSE(outcome.impossible);
    ASSERT_THAT(outcome.failure, IsEmpty()) << "seed=" << seed << " " << text_of(sequence);
  }
}

constexpr std::uint32_t keep = FALLOC_FL_KEEP_SIZE;
INSTANTIATE_TEST_SUITE_P(
    Found, AceTest,
    testing::Values(
        // Zeroing beyond the end took bytes that the truncation, undone by the cut, brought back.
        Case{"ZeroBehindATruncation",
             {{Do::truncate, "A/foo", "", 40'000, false, 0, 0},
              {Do::space, "A/foo", "", -700, true, 5000, FALLOC_FL_ZERO_RANGE}},
             {Persist::directory, "A"}},
        Case{"PunchBehindATruncation",
             {{Do::truncate, "A/foo", "", 40'000, false, 0, 0},
              {Do::space, "A/foo", "", 30'000, false, 30'000, FALLOC_FL_PUNCH_HOLE | keep}},
             {Persist::file, "A/foo"}}),
    [](const auto& param_info) { return std::string(param_info.param.name); });

}  // namespace
}  // namespace plumeria::sim::ace
