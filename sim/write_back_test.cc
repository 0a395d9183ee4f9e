// What a mount does in the background without being asked: what was written becomes durable, and
// memory stays bounded.
#include <absl/strings/str_cat.h>
#include <gtest/gtest.h>

#include "sim/cluster.h"

namespace plumeria::sim {
namespace {

constexpr std::uint64_t files = 3000;

Task<Status> make_files(Kernel* kernel) {
  OpenFlags flags;
  flags.writable = true;
  flags.create = true;
  for (std::uint64_t i = 0; i < files; ++i) {
    CO_TRY(const Descriptor file, co_await kernel->open(absl::StrCat("f", i), flags, 0644));
    CO_TRY(const std::uint64_t written,
           co_await kernel->pwrite(file, 0, Bytes(100, static_cast<std::byte>(i % 256))));
    CHECK(written == 100);
    CO_TRY_STATUS(co_await kernel->close(file));
  }
  co_return Status();
}

Task<std::uint64_t> count_whole_files(Kernel* kernel) {
  std::uint64_t whole = 0;
  for (std::uint64_t i = 0; i < files; ++i) {
    const auto file = co_await kernel->open(absl::StrCat("f", i), OpenFlags{}, 0);
    if (!file) continue;
    const auto content = co_await kernel->pread(*file, 0, 200);
    if (content && *content == Bytes(100, static_cast<std::byte>(i % 256))) ++whole;
    (void)co_await kernel->close(*file);
  }
  co_return whole;
}

TEST(WriteBackTest, ManySmallFilesAreDurableSoonWithoutAnFsync) {
  Cluster cluster({.mounts = 1, .embedded = true});
  cluster.start();
  const Status made = cluster.run(0, make_files(&cluster.kernel(0)));
  ASSERT_TRUE(made) << made.error().message();
  cluster.simulation().run_for(2s);  // the write-back interval of 1 s, and what it takes
  cluster.power_cut();
  cluster.wait_until_all_up(100s);
  EXPECT_EQ(cluster.run(0, count_whole_files(&cluster.kernel(0))), files);
}

TEST(WriteBackTest, ATruncationIsDurableSoonWithoutAnFsync) {
  for (const std::uint64_t size : {500u, 2000u, 50'000u}) {
    Cluster cluster({.mounts = 1, .embedded = true});
    cluster.start();
    const auto make = [](Kernel* kernel) -> Task<Status> {
      OpenFlags flags;
      flags.writable = flags.create = true;
      CO_TRY(const Descriptor file, co_await kernel->open("file", flags, 0644));
      CO_TRY(const std::uint64_t written, co_await kernel->pwrite(file, 0, Bytes(1000)));
      CHECK(written == 1000);
      CO_TRY_STATUS(co_await kernel->fsync(file));
      co_return co_await kernel->close(file);
    };
    ASSERT_TRUE(cluster.run(0, make(&cluster.kernel(0))));
    ASSERT_TRUE(cluster.run(0, cluster.kernel(0).truncate("file", size)));
    cluster.simulation().run_for(2s);
    cluster.power_cut();
    cluster.wait_until_all_up(100s);
    const auto seen = cluster.run(0, cluster.kernel(0).stat("file"));
    ASSERT_TRUE(seen);
    EXPECT_EQ(seen->size, size);
  }
}

Task<Status> write_at(Kernel* kernel, std::uint64_t offset, Bytes data) {
  OpenFlags flags;
  flags.writable = flags.create = true;
  CO_TRY(const Descriptor file, co_await kernel->open("file", flags, 0644));
  CO_TRY(const std::uint64_t written, co_await kernel->pwrite(file, offset, std::move(data)));
  CHECK(written > 0);
  co_return co_await kernel->close(file);
}

Task<void> read_page(Kernel* kernel, Descriptor file, std::uint64_t offset,
                     std::optional<Bytes>* seen) {
  auto bytes = co_await kernel->pread(file, offset, 4096);
  CHECK(bytes);
  *seen = *std::move(bytes);
}

// The other mount's wish to read makes the lock shared, and what is dirty under it is written,
// while the answer of the disk to a read here is on its way.
TEST(WriteBackTest, AReadUnderWaySeesWhatIsWrittenBackMeanwhile) {
  constexpr std::uint64_t page = 61440, changed = 65024;
  const Bytes old(100'000, std::byte{'a'}), fresh(100, std::byte{'b'});
  for (std::uint64_t seed = 1; seed <= 40; ++seed) {
    ClusterOptions options;
    options.seed = seed;
    options.network.delayed_long = 200'000;  // in a million: what the disk says comes late
    options.network.reordered = 500'000;
    options.network.long_delay_max = 100ms;
    Cluster cluster(options);
    cluster.start();
    Kernel& kernel = cluster.kernel(0);
    ASSERT_TRUE(cluster.run(0, write_at(&kernel, 0, old)));
    ASSERT_TRUE(cluster.run(0, kernel.sync()));
    const auto file0 = cluster.run(0, kernel.open("file", OpenFlags{}, 0));
    const auto file1 = cluster.run(1, cluster.kernel(1).open("file", OpenFlags{}, 0));
    ASSERT_TRUE(file0 && file1);
    kernel.shrink();
    ASSERT_TRUE(cluster.run(0, write_at(&kernel, changed, fresh)));
    std::optional<Bytes> here, there;
    cluster.spawn(0, read_page(&kernel, *file0, page, &here));
    cluster.spawn(1, read_page(&cluster.kernel(1), *file1, page, &there));
    ASSERT_TRUE(cluster.simulation().run_until([&] { return here && there; }, 100s));
    for (const Bytes& seen : {*here, *there}) {
      EXPECT_EQ(Bytes(seen.begin() + (changed - page), seen.begin() + (changed - page + 100)),
                fresh)
          << "seed=" << seed;
    }
  }
}

TEST(WriteBackTest, BlocksThatWaitToBeWrittenStayWithinTheCache) {
  constexpr std::uint64_t cache_size = 4u << 20;
  Cluster cluster({.mounts = 1, .embedded = true, .log_size = 64u << 20, .cache_size = cache_size});
  cluster.start();
  std::optional<Status> made;
  const auto note = [](Task<Status> task, std::optional<Status>* result) -> Task<void> {
    result->emplace(co_await task);
  };
  cluster.spawn(0, note(make_files(&cluster.kernel(0)), &made));
  std::uint64_t most = 0;
  while (!made) {
    cluster.simulation().run_for(100us);
    most = std::max(most, cluster.mount(0).status().cache_used);
  }
  ASSERT_TRUE(*made) << made->error().message();
  EXPECT_GT(most, cache_size / 2);
  EXPECT_LT(most, cache_size * 5 / 4);
}

}  // namespace
}  // namespace plumeria::sim
