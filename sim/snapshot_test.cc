// Snapshots of simulated stores: exact while the store goes on, whole or not there after a power
// cut at any change, and a barrier that stops all mounts.
#include <absl/strings/str_cat.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/async.h"
#include "sim/cluster.h"
#include "sim/snapshot_look.h"
#include "sim/tree_run.h"

namespace plumeria::sim {
namespace {

using testing::AnyOf;
using testing::IsEmpty;

constexpr Duration limit = 100s;
constexpr std::uint64_t seeds = 3;  // for each place of a power cut

Bytes filled(std::size_t size, int value) { return Bytes(size, static_cast<std::byte>(value)); }

// Not synced: it is the snapshot's business to get hold of it.
Task<Status> write_file(Kernel* kernel, std::string path, Bytes content) {
  OpenFlags flags;
  flags.writable = flags.create = true;
  CO_TRY(const Descriptor file, co_await kernel->open(path, flags, 0644));
  CO_TRY(const std::uint64_t written, co_await kernel->pwrite(file, 0, std::move(content)));
  CHECK(written > 0);
  co_return co_await kernel->close(file);
}

Task<Status> make_tree(Kernel* kernel, int value) {
  (void)co_await kernel->mkdir("a", 0755);
  CO_TRY_STATUS(co_await write_file(kernel, "a/small", filled(1000, value)));
  CO_TRY_STATUS(co_await write_file(kernel, "a/middle", filled(30'000, value + 1)));
  co_return co_await write_file(kernel, "large", filled(150'000, value + 2));
}

Task<Status> destroy_tree(Kernel* kernel) {
  CO_TRY_STATUS(co_await kernel->unlink("a/small"));
  CO_TRY_STATUS(co_await kernel->truncate("a/middle", 10));
  CO_TRY_STATUS(co_await kernel->unlink("large"));
  CO_TRY_STATUS(co_await kernel->rename("a", "b", 0));
  co_return co_await kernel->sync();
}

Task<Status> only_status(Task<Result<mount::SnapshotMade>> task) {
  const auto made = co_await task;
  co_return made ? Status() : fail(made.error());
}

Task<void> note_end(Task<Status> task, std::optional<Status>* result) {
  result->emplace(co_await task);
}

class SnapshotTest : public testing::TestWithParam<bool> {
 protected:
  static ClusterOptions options(std::uint64_t seed) {
    ClusterOptions cluster;
    cluster.seed = seed;
    cluster.embedded = GetParam();
    cluster.mounts = GetParam() ? 1 : 2;
    return cluster;
  }
  static std::size_t last(const Cluster& cluster) { return cluster.mounts() - 1; }
  static std::string tree(Cluster& cluster, std::size_t mount) {
    return cluster.run(mount, describe_tree(&cluster.kernel(mount), ""));
  }
  static SnapshotLook look(Cluster& cluster, disk::SnapshotId id) {
    return look_at_snapshot(cluster.disk(), id, ClusterOptions{}.log_size);
  }
  static std::vector<disk::Snapshot> list(Cluster& cluster) {
    return *cluster.simulation().run(cluster.inspector(), cluster.inspection().list_snapshots());
  }
  static void expect_ok(const Status& status) { ASSERT_TRUE(status) << status.error().message(); }
  static void expect_clean(Cluster& cluster) {
    for (std::size_t i = 0; i < cluster.mounts(); ++i) expect_ok(cluster.stop_mount(i));
    EXPECT_THAT(cluster.check(), IsEmpty());
  }
  // The operation on mount 0, cut off at a change of the disk; whether that came.
  bool run_into_cut(Cluster& cluster, std::uint64_t changes, Task<Status> task) {
    result_.reset();
    const auto is_cut = [&] { return cluster.disk().power_was_cut(); };
    cluster.disk().cut_power_after(changes);
    cluster.spawn(0, note_end(std::move(task), &result_));
    EXPECT_TRUE(cluster.simulation().run_until([&] { return result_ || is_cut(); }, limit));
    const bool cut = is_cut();
    cluster.disk().never_cut_power();
    cluster.wait_until_all_up(limit);
    // A served mount asks the restarted server again.
    if (!GetParam()) {
      EXPECT_TRUE(cluster.simulation().run_until([&] { return result_.has_value(); }, limit));
    }
    return cut;
  }

  std::optional<Status> result_;
};

TEST_P(SnapshotTest, ShowsWhatEveryMountHadWrittenAndNothingLater) {
  Cluster cluster(options(1));
  cluster.start();
  expect_ok(cluster.run(0, make_tree(&cluster.kernel(0), 1)));
  expect_ok(cluster.run(last(cluster),
                        write_file(&cluster.kernel(last(cluster)), "other", filled(200'000, 9))));
  const auto made = cluster.run(0, cluster.mount(0).create_snapshot("first"));
  ASSERT_TRUE(made) << made.error().message();
  const std::string before = tree(cluster, 0);
  expect_ok(cluster.run(last(cluster), destroy_tree(&cluster.kernel(last(cluster)))));
  EXPECT_NE(tree(cluster, 0), before);
  EXPECT_EQ(look(cluster, made->id).tree, before);
  EXPECT_THAT(look(cluster, made->id).problems, IsEmpty());
  expect_ok(cluster.run(last(cluster), cluster.mount(last(cluster)).delete_snapshot("first")));
  EXPECT_EQ(cluster.disk().snapshots(), 0u);
  expect_clean(cluster);
}

TEST_P(SnapshotTest, NamesAreTakenOnceAndMissedWhenTheyAreNotThere) {
  Cluster cluster(options(1));
  cluster.start();
  ASSERT_TRUE(cluster.run(0, cluster.mount(0).create_snapshot("first")));
  const auto again =
      cluster.run(last(cluster), cluster.mount(last(cluster)).create_snapshot("first"));
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().code, Errc::exist);
  const auto bad = cluster.run(0, cluster.mount(0).create_snapshot("a/b"));
  ASSERT_FALSE(bad);
  EXPECT_EQ(bad.error().code, Errc::invalid);
  const Status missing = cluster.run(0, cluster.mount(0).delete_snapshot("second"));
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code, Errc::no_entry);
}

TEST_P(SnapshotTest, IsWholeOrNotThereAfterAPowerCutAtAnyChangeOfItsCreation) {
  bool cut = true;
  for (std::uint64_t round = 0; cut && round < 1000 * seeds; ++round) {
    Cluster cluster(options(round + 1));
    cluster.start();
    expect_ok(cluster.run(0, make_tree(&cluster.kernel(0), 1)));
    expect_ok(cluster.run(0, cluster.kernel(0).sync()));
    expect_ok(cluster.run(last(cluster), cluster.kernel(last(cluster)).truncate("a/small", 1700)));
    expect_ok(cluster.run(last(cluster), cluster.kernel(last(cluster)).sync()));
    const std::string before = tree(cluster, 0);
    cut = run_into_cut(cluster, round / seeds,
                       only_status(cluster.mount(0).create_snapshot("first")));
    EXPECT_EQ(tree(cluster, last(cluster)), before) << "round=" << round;
    const auto all = list(cluster);
    ASSERT_LE(all.size(), 1u);
    if (result_) {
      EXPECT_TRUE(*result_) << result_->error().message();
      EXPECT_EQ(all.size(), 1u);
    }
    if (!all.empty()) {
      const SnapshotLook seen = look(cluster, all[0].id);
      EXPECT_EQ(seen.tree, before) << "round=" << round;
      EXPECT_THAT(seen.problems, IsEmpty());
    }
    expect_clean(cluster);
  }
  EXPECT_FALSE(cut) << "the operation never ends";
}

TEST_P(SnapshotTest, IsWholeOrGoneAfterAPowerCutAtAnyChangeOfItsDeletion) {
  bool cut = true;
  for (std::uint64_t round = 0; cut && round < 1000 * seeds; ++round) {
    Cluster cluster(options(round + 1));
    cluster.start();
    expect_ok(cluster.run(0, make_tree(&cluster.kernel(0), 1)));
    ASSERT_TRUE(cluster.run(0, cluster.mount(0).create_snapshot("first")));
    const std::string before = tree(cluster, 0);
    expect_ok(cluster.run(0, destroy_tree(&cluster.kernel(0))));
    const std::string now = tree(cluster, 0);
    cut = run_into_cut(cluster, round / seeds, cluster.mount(0).delete_snapshot("first"));
    EXPECT_EQ(tree(cluster, last(cluster)), now) << "round=" << round;
    const auto all = list(cluster);
    if (result_) {
      EXPECT_TRUE(*result_) << result_->error().message();
      EXPECT_THAT(all, IsEmpty());
    }
    if (!all.empty()) {
      EXPECT_EQ(look(cluster, all[0].id).tree, before) << "round=" << round;
    }
    expect_clean(cluster);
  }
  EXPECT_FALSE(cut) << "the operation never ends";
}

constexpr std::uint64_t turns = 120;

// Whoever's turn it is makes the next file: on one mount after the other.
Task<Status> take_turns(World world, Kernel* kernel, std::uint64_t side, std::uint64_t sides,
                        std::uint64_t* turn) {
  while (*turn < turns) {
    if (*turn % sides != side) {
      co_await sleep_for(world, 50us);
      continue;
    }
    CO_TRY_STATUS(co_await write_file(kernel, absl::StrCat("t", *turn), filled(50, 1)));
    ++*turn;
  }
  co_return Status();
}

// How many of the files are there, one after the other and each but the last complete; the
// number of all files if one is missing before another.
std::uint64_t count_turns(const std::string& tree) {
  std::uint64_t count = 0;
  for (; tree.find(absl::StrCat("t", count, ": ")) != std::string::npos; ++count) {
    const std::string next = absl::StrCat("t", count + 1, ": ");
    if (tree.find(next) == std::string::npos) continue;
    const std::size_t line = tree.find(absl::StrCat("t", count, ": "));
    const std::string text = tree.substr(line, tree.find('\n', line) - line);
    EXPECT_THAT(text, testing::HasSubstr(" size 50 "));
  }
  for (std::uint64_t later = count; later < turns; ++later) {
    EXPECT_EQ(tree.find(absl::StrCat("t", later, ": ")), std::string::npos)
        << later << " is there without " << count;
  }
  return count;
}

TEST_P(SnapshotTest, StopsAllMountsForItsMoment) {
  for (std::uint64_t seed = 1; seed <= 10; ++seed) {
    Cluster cluster(options(seed));
    cluster.start();
    std::uint64_t turn = 0;
    std::vector<std::optional<Status>> writers(cluster.mounts());
    for (std::size_t i = 0; i < cluster.mounts(); ++i) {
      cluster.spawn(i, note_end(take_turns(cluster.node(i).world(), &cluster.kernel(i), i,
                                           cluster.mounts(), &turn),
                                &writers[i]));
    }
    struct Made {
      disk::SnapshotId id;
      std::uint64_t before, after;  // turns
    };
    std::vector<Made> all;
    for (std::size_t n = 0; n < 4; ++n) {
      cluster.simulation().run_for(Duration(3ms));
      const std::size_t mount = n % cluster.mounts();
      const std::uint64_t before = turn;
      const auto snapshot =
          cluster.run(mount, cluster.mount(mount).create_snapshot(absl::StrCat("s", n)));
      ASSERT_TRUE(snapshot) << snapshot.error().message();
      all.push_back({snapshot->id, before, turn});
    }
    for (std::size_t i = 0; i < cluster.mounts(); ++i) {
      EXPECT_TRUE(cluster.simulation().run_until([&] { return writers[i].has_value(); }, limit));
      expect_ok(*writers[i]);
    }
    for (const Made& made : all) {
      const SnapshotLook seen = look(cluster, made.id);
      EXPECT_THAT(seen.problems, IsEmpty());
      const std::uint64_t count = count_turns(seen.tree);
      EXPECT_GE(count, made.before) << "seed " << seed;
      EXPECT_LE(count, made.after + 1) << "seed " << seed;
    }
    expect_clean(cluster);
  }
}

INSTANTIATE_TEST_SUITE_P(Stores, SnapshotTest, testing::Values(true, false),
                         [](const auto& param_info) {
                           return std::string(param_info.param ? "Embedded" : "Served");
                         });

}  // namespace
}  // namespace plumeria::sim
