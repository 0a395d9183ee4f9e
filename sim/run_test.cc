// Seeds of whole simulated runs, some twice.
#include "sim/run.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace plumeria::sim {
namespace {

using testing::IsEmpty;

struct Case {
  const char* workload;
  Trouble trouble;
};

class RunTest : public testing::TestWithParam<Case> {};

TEST_P(RunTest, TheSameSeedTakesTheSameCourseTwice) {
  RunOptions options;
  options.seed = 7;
  options.workload = GetParam().workload;
  options.trouble = GetParam().trouble;
  options.faults_for = 4s;
  const RunReport first = run(options);
  const RunReport second = run(options);
  EXPECT_THAT(first.failure, IsEmpty());
  EXPECT_EQ(first.trace_hash, second.trace_hash);
  EXPECT_EQ(first.events, second.events);
}

INSTANTIATE_TEST_SUITE_P(Workloads, RunTest,
                         testing::Values(Case{"files", Trouble::none}, Case{"files", Trouble::all},
                                         Case{"names", Trouble::none}, Case{"names", Trouble::all},
                                         Case{"tree", Trouble::calm}),
                         [](const auto& param_info) {
                           return std::string(param_info.param.workload) + "_" +
                                  trouble_name(param_info.param.trouble);
                         });

}  // namespace
}  // namespace plumeria::sim
