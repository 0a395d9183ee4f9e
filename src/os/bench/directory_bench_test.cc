#include "os/bench/directory_bench.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <set>

namespace plumeria::os {
namespace {

using testing::HasSubstr;

class DirectoryBench : public testing::Test {
 protected:
  DirectoryBench() {
    std::string pattern = testing::TempDir() + "plumeria-bench-test-XXXXXX";
    folder = ::mkdtemp(pattern.data());
  }
  ~DirectoryBench() override {
    EXPECT_TRUE(std::filesystem::is_empty(folder)) << "something was left behind";
    std::filesystem::remove_all(folder);
  }
  BenchPlan plan(std::uint64_t threads) const {
    return {.directory = folder, .threads = threads, .files = 40, .size = 2u << 20};
  }

  std::string folder;
};

TEST_F(DirectoryBench, EveryFigureIsThere) {
  for (const std::uint64_t threads : {1, 3}) {
    const auto figures = bench_directory(plan(threads), [](const BenchProgress&) { return true; });
    ASSERT_TRUE(figures) << figures.error().message();
    EXPECT_EQ(figures->size(), 14u);
    std::set<std::string> groups;
    for (const Figure& figure : *figures) {
      groups.insert(figure.group);
      EXPECT_GT(figure.rate, 0) << figure.name;
      EXPECT_GE(figure.calls, threads) << figure.name;
      EXPECT_GT(figure.seconds, 0) << figure.name;
      EXPECT_GT(figure.median_us, 0) << figure.name;
      EXPECT_LE(figure.median_us, figure.p99_us) << figure.name;
      EXPECT_LE(figure.p99_us, figure.max_us) << figure.name;
    }
    EXPECT_EQ(groups.size(), 4u);
  }
}

TEST_F(DirectoryBench, MoreThreadsThanFilesStillDoEverything) {
  BenchPlan few = plan(8);
  few.files = few.size = 1;
  EXPECT_TRUE(bench_directory(few, [](const BenchProgress&) { return true; }));
}

TEST_F(DirectoryBench, ItEndsEarlyWhereverItIsAndLeavesNothing) {
  for (int last = 0; last < 14; ++last) {
    int asked = 0;
    const auto figures =
        bench_directory(plan(2), [&](const BenchProgress&) { return asked++ < last; });
    ASSERT_FALSE(figures) << last;
    EXPECT_EQ(figures.error().code, Errc::interrupted);
  }
}

TEST_F(DirectoryBench, AnErrorNamesTheFileAndLeavesNothing) {
  BenchPlan missing = plan(1);
  missing.directory += "/missing";
  auto figures = bench_directory(missing, [](const BenchProgress&) { return true; });
  ASSERT_FALSE(figures);
  EXPECT_THAT(figures.error().message(), HasSubstr("missing"));

  // Its files go away in the middle.
  figures = bench_directory(plan(2), [&](const BenchProgress& progress) {
    if (progress.name != "stat") return true;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
      if (entry.path().filename() == "f7") return std::filesystem::remove(entry.path());
    }
    return true;
  });
  ASSERT_FALSE(figures);
  EXPECT_EQ(figures.error().code, Errc::no_entry);
  EXPECT_THAT(figures.error().message(), HasSubstr("/f7: cannot stat"));
}

}  // namespace
}  // namespace plumeria::os
