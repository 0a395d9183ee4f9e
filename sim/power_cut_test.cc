// Cuts the power after 0, 1, 2, … changes of the disk during one operation. Each time recovery must
// find the tree from before or from after, and nothing else, and fsck nothing wrong.
#include <absl/strings/str_cat.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/falloc.h>
#include <linux/fs.h>

#include "sim/cluster.h"
#include "sim/tree_run.h"

namespace plumeria::sim {
namespace {

using testing::AnyOf;
using testing::IsEmpty;

constexpr Duration limit = 100s;
constexpr Duration background = 4s;  // until all is written back
constexpr std::uint64_t seeds = 3;   // for each place of the cut

Bytes filled(std::size_t size, int value) { return Bytes(size, static_cast<std::byte>(value)); }

OpenFlags to_write(bool create) {
  OpenFlags flags;
  flags.writable = true;
  flags.create = create;
  return flags;
}

Task<Status> write_file(Kernel* kernel, std::string path, Bytes content) {
  CO_TRY(const Descriptor file, co_await kernel->open(path, to_write(true), 0644));
  CO_TRY(const std::uint64_t written, co_await kernel->pwrite(file, 0, std::move(content)));
  CHECK(written > 0);
  CO_TRY_STATUS(co_await kernel->fsync(file));
  co_return co_await kernel->close(file);
}

Task<Status> make_tree(Kernel* kernel) {
  CO_TRY_STATUS(co_await kernel->mkdir("a", 0755));
  CO_TRY_STATUS(co_await kernel->mkdir("b", 0755));
  CO_TRY_STATUS(co_await write_file(kernel, "a/small", filled(1000, 1)));
  CO_TRY_STATUS(co_await write_file(kernel, "a/middle", filled(30'000, 2)));
  CO_TRY_STATUS(co_await write_file(kernel, "b/large", filled(150'000, 3)));
  CO_TRY_STATUS(co_await write_file(kernel, "b/described", filled(10, 6)));
  CO_TRY_STATUS(co_await kernel->setxattr("b/described", "user.x", filled(2000, 7), 0));
  co_return co_await kernel->sync();
}

// The operations, each made durable at its end.
Task<Status> create_file(Kernel* kernel) {
  CO_TRY(const Descriptor file, co_await kernel->open("b/new", to_write(true), 0600));
  CO_TRY_STATUS(co_await kernel->close(file));
  co_return co_await kernel->sync();
}
Task<Status> rename_over(Kernel* kernel) {
  CO_TRY_STATUS(co_await kernel->rename("a/small", "b/large", 0));
  co_return co_await kernel->sync();
}
Task<Status> unlink_open_file(Kernel* kernel) {
  CO_TRY(const Descriptor file, co_await kernel->open("a/middle", OpenFlags{}, 0));
  CO_TRY_STATUS(co_await kernel->unlink("a/middle"));
  CO_TRY_STATUS(co_await kernel->sync());
  auto read = co_await kernel->pread(file, 0, 30'000);
  if (!read) co_return fail(read.error());
  CHECK(*read == filled(30'000, 2));
  CO_TRY_STATUS(co_await kernel->close(file));
  co_return co_await kernel->sync();
}
Task<Status> truncate_file(Kernel* kernel) {
  CO_TRY_STATUS(co_await kernel->truncate("b/large", 70'001));
  co_return co_await kernel->sync();
}
Task<Status> append_to_file(Kernel* kernel) {
  OpenFlags flags = to_write(false);
  flags.append = true;
  CO_TRY(const Descriptor file, co_await kernel->open("a/middle", flags, 0));
  CO_TRY(const std::uint64_t written, co_await kernel->pwrite(file, 0, filled(50'000, 4)));
  CHECK(written == 50'000);
  CO_TRY_STATUS(co_await kernel->fsync(file));
  co_return co_await kernel->close(file);
}

// Of pages with small blocks, and of a data segment.
Task<Status> punch_holes(Kernel* kernel, const char* path, std::uint64_t offset,
                         std::uint64_t length) {
  CO_TRY(const Descriptor file, co_await kernel->open(path, to_write(false), 0));
  CO_TRY_STATUS(
      co_await kernel->fallocate(file, offset, length, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE));
  CO_TRY_STATUS(co_await kernel->fsync(file));
  co_return co_await kernel->close(file);
}
Task<Status> punch_small_file(Kernel* kernel) {
  return punch_holes(kernel, "a/middle", 4096, 8192);
}
Task<Status> punch_large_file(Kernel* kernel) {
  return punch_holes(kernel, "b/large", 81920, 4096);
}
Task<Status> reserve_space(Kernel* kernel) {
  CO_TRY(const Descriptor file, co_await kernel->open("a/small", to_write(false), 0));
  CO_TRY_STATUS(co_await kernel->fallocate(file, 0, 200'000, 0));
  CO_TRY_STATUS(co_await kernel->fsync(file));
  co_return co_await kernel->close(file);
}
Task<Status> exchange(Kernel* kernel) {
  CO_TRY_STATUS(co_await kernel->rename("a/small", "b/large", RENAME_EXCHANGE));
  co_return co_await kernel->sync();
}
Task<Status> set_xattr(Kernel* kernel) {
  CO_TRY_STATUS(co_await kernel->setxattr("a/small", "user.x", filled(3000, 5), 0));
  co_return co_await kernel->sync();
}
Task<Status> remove_file_with_xattr(Kernel* kernel) {
  CO_TRY_STATUS(co_await kernel->unlink("b/described"));
  co_return co_await kernel->sync();
}

struct Case {
  const char* name;
  Task<Status> (*operation)(Kernel*);
};

Task<void> note_end(Task<Status> task, std::optional<Status>* result) {
  result->emplace(co_await task);
}

class PowerCutTest : public testing::TestWithParam<Case> {
 protected:
  static ClusterOptions options(bool embedded, std::uint64_t seed) {
    ClusterOptions cluster;
    cluster.seed = seed;
    cluster.embedded = embedded;
    cluster.mounts = embedded ? 1 : 2;
    return cluster;
  }
  static std::string tree(Cluster& cluster, std::size_t mount) {
    return cluster.run(mount, describe_tree(&cluster.kernel(mount), ""));
  }
  static void prepare(Cluster& cluster) {
    cluster.start();
    const Status made = cluster.run(0, make_tree(&cluster.kernel(0)));
    ASSERT_TRUE(made) << made.error().message();
  }
  void expect_clean(Cluster& cluster) {
    for (std::size_t i = 0; i < cluster.mounts(); ++i) {
      const Status stopped = cluster.stop_mount(i);
      EXPECT_TRUE(stopped) << stopped.error().message();
    }
    EXPECT_THAT(cluster.check(), IsEmpty());
  }
  void find_before_and_after() {
    Cluster cluster(options(true, 1));
    prepare(cluster);
    before_ = tree(cluster, 0);
    const Status done = cluster.run(0, GetParam().operation(&cluster.kernel(0)));
    ASSERT_TRUE(done) << done.error().message();
    after_ = tree(cluster, 0);
    ASSERT_NE(before_, after_);
    expect_clean(cluster);
  }
  // Runs the operation on mount 0, and what the mount does in the background afterwards, until the
  // power is cut. What the operation had returned by then.
  std::optional<Status> run_into_cut(Cluster& cluster, std::uint64_t changes) {
    result_.reset();
    const auto is_cut = [&] { return cluster.disk().power_was_cut(); };
    cluster.disk().cut_power_after(changes);
    cluster.spawn(0, note_end(GetParam().operation(&cluster.kernel(0)), &result_));
    EXPECT_TRUE(cluster.simulation().run_until([&] { return result_ || is_cut(); }, limit));
    cluster.simulation().run_until(is_cut, background);
    return result_;
  }

  std::string before_, after_;
  std::optional<Status> result_;
};

TEST_P(PowerCutTest, LeavesTheTreeFromBeforeOrAfterWhenAllIsLost) {
  find_before_and_after();
  bool cut = true;
  for (std::uint64_t round = 0; cut && round < 1000 * seeds; ++round) {
    const std::uint64_t changes = round / seeds;
    Cluster cluster(options(true, round + 1));
    prepare(cluster);
    const std::optional<Status> result = run_into_cut(cluster, changes);
    // The end of the mount writes everything to its place.
    if (cluster.is_up(0)) (void)cluster.stop_mount(0);
    cut = cluster.disk().power_was_cut();
    cluster.disk().never_cut_power();
    cluster.wait_until_all_up(limit);
    if (result) {
      EXPECT_TRUE(*result);
      EXPECT_EQ(tree(cluster, 0), after_) << "round=" << round << " changes=" << changes;
    } else {
      EXPECT_THAT(tree(cluster, 0), AnyOf(before_, after_))
          << "round=" << round << " changes=" << changes;
    }
    expect_clean(cluster);
  }
  EXPECT_FALSE(cut) << "the operation never ends";
}

TEST_P(PowerCutTest, LosesNothingWhenOnlyTheServerLosesPower) {
  find_before_and_after();
  bool cut = true;
  for (std::uint64_t round = 0; cut && round < 1000 * seeds; ++round) {
    const std::uint64_t changes = round / seeds;
    Cluster cluster(options(false, round + 1));
    prepare(cluster);
    std::optional<Status> result = run_into_cut(cluster, changes);
    cut = cluster.disk().power_was_cut();
    cluster.disk().never_cut_power();
    if (cut) cluster.wait_until_all_up(limit);
    EXPECT_TRUE(cluster.simulation().run_until([&] { return result_.has_value(); }, limit));
    ASSERT_TRUE(result_);
    EXPECT_TRUE(*result_);
    EXPECT_EQ(tree(cluster, 1), after_) << "round=" << round << " changes=" << changes;
    expect_clean(cluster);
  }
  EXPECT_FALSE(cut) << "the operation never ends";
}

TEST_P(PowerCutTest, LeavesOneOfTheTwoTreesWhenServerAndMountDieTogether) {
  find_before_and_after();
  bool cut = true;
  for (std::uint64_t round = 0; cut && round < 1000 * seeds; ++round) {
    const std::uint64_t changes = round / seeds;
    Cluster cluster(options(false, round + 1));
    prepare(cluster);
    const std::optional<Status> result = run_into_cut(cluster, changes);
    cut = cluster.disk().power_was_cut();
    cluster.disk().never_cut_power();
    cluster.crash_mount(0);
    cluster.wait_until_all_up(limit);
    if (result) {
      EXPECT_EQ(tree(cluster, 1), after_) << "round=" << round << " changes=" << changes;
    } else {
      EXPECT_THAT(tree(cluster, 1), AnyOf(before_, after_))
          << "round=" << round << " changes=" << changes;
    }
    expect_clean(cluster);
  }
  EXPECT_FALSE(cut) << "the operation never ends";
}

INSTANTIATE_TEST_SUITE_P(
    Operations, PowerCutTest,
    testing::Values(Case{"Create", create_file}, Case{"RenameOver", rename_over},
                    Case{"UnlinkOpen", unlink_open_file}, Case{"Truncate", truncate_file},
                    Case{"Append", append_to_file}, Case{"PunchSmall", punch_small_file},
                    Case{"PunchLarge", punch_large_file}, Case{"Reserve", reserve_space},
                    Case{"Exchange", exchange}, Case{"SetXattr", set_xattr},
                    Case{"RemoveWithXattr", remove_file_with_xattr}),
    [](const auto& param_info) { return std::string(param_info.param.name); });

}  // namespace
}  // namespace plumeria::sim
