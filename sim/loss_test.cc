// What a mount leaves behind that dies, or whose lease is lost, in the middle of something.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "sim/cluster.h"

namespace plumeria::sim {
namespace {

constexpr Duration limit = 100s;

Bytes filled(std::size_t size, char value) { return Bytes(size, static_cast<std::byte>(value)); }

OpenFlags to_write(bool create = false) {
  OpenFlags flags;
  flags.writable = true;
  flags.create = create;
  return flags;
}

Task<Status> write_file(Kernel* kernel, std::string path, std::uint64_t offset, Bytes content) {
  CO_TRY(const Descriptor file, co_await kernel->open(path, to_write(true), 0644));
  CO_TRY(const std::uint64_t written, co_await kernel->pwrite(file, offset, std::move(content)));
  CHECK(written > 0);
  CO_TRY_STATUS(co_await kernel->fsync(file));
  co_return co_await kernel->close(file);
}

Task<Result<Bytes>> read_file(Kernel* kernel, std::string path, std::uint32_t size) {
  CO_TRY(const Descriptor file, co_await kernel->open(path, OpenFlags{}, 0));
  CO_TRY(Bytes content, co_await kernel->pread(file, 0, size));
  CO_TRY_STATUS(co_await kernel->close(file));
  co_return content;
}

Task<void> note_end(Task<Status> task, std::optional<Status>* result) {
  result->emplace(co_await task);
}

ClusterOptions two_mounts() {
  ClusterOptions options;
  options.mounts = 2;
  options.kernel.write_back_max = 1000s;  // Dirty pages of mappings stay in the kernel.
  return options;
}

bool has_joined_again(Cluster& cluster, std::size_t mount) {
  const mount::MountStatus status = cluster.mount(mount).status();
  return status.rejoins > 0 && !status.rejoining;
}

// Mount 0 is cut off until others have what it had; then it comes back.
void lose_lease_of_mount_0(Cluster& cluster, Task<Status> meanwhile_on_mount_1) {
  cluster.network().cut_both("mount0", "server");
  const Status done = cluster.run(1, std::move(meanwhile_on_mount_1));
  EXPECT_TRUE(done) << done.error().message();
  cluster.network().heal();
  EXPECT_TRUE(cluster.simulation().run_until([&] { return has_joined_again(cluster, 0); }, limit));
}

TEST(LossTest, PagesStoredIntoUnderALostLeaseAreNotWrittenUnderTheNext) {
  Cluster cluster(two_mounts());
  cluster.start();
  ASSERT_TRUE(cluster.run(0, write_file(&cluster.kernel(0), "file", 0, filled(9000, 'a'))));
  Kernel& kernel = cluster.kernel(0);
  const auto file = cluster.run(0, kernel.open("file", to_write(), 0));
  ASSERT_TRUE(file);
  ASSERT_TRUE(cluster.run(0, kernel.store(*file, 100, filled(10, 'x'))));
  lose_lease_of_mount_0(cluster, write_file(&cluster.kernel(1), "file", 0, filled(9000, 'b')));
  cluster.simulation().run_for(5s);

  EXPECT_EQ(cluster.run(1, read_file(&cluster.kernel(1), "file", 9000)), filled(9000, 'b'));
  // Who stored is told, until he closes the file.
  EXPECT_EQ(cluster.run(0, kernel.fsync(*file)).error().code, Errc::io);
  EXPECT_EQ(cluster.run(0, kernel.pread(*file, 0, 10)).error().code, Errc::io);
  EXPECT_EQ(cluster.run(0, kernel.fstat(*file)).error().code, Errc::io);
  EXPECT_TRUE(cluster.run(0, kernel.close(*file)));
  EXPECT_EQ(cluster.run(0, read_file(&kernel, "file", 9000)), filled(9000, 'b'));
}

TEST(LossTest, CleanFilesGoOnAfterALostLease) {
  Cluster cluster(two_mounts());
  cluster.start();
  ASSERT_TRUE(cluster.run(0, write_file(&cluster.kernel(0), "file", 0, filled(9000, 'a'))));
  Kernel& kernel = cluster.kernel(0);
  const auto file = cluster.run(0, kernel.open("file", to_write(), 0));
  ASSERT_TRUE(file);
  ASSERT_TRUE(cluster.run(0, kernel.pread(*file, 0, 9000)));
  lose_lease_of_mount_0(cluster, write_file(&cluster.kernel(1), "file", 0, filled(9000, 'b')));

  EXPECT_EQ(cluster.run(0, kernel.pread(*file, 0, 9000)), filled(9000, 'b'));
  EXPECT_TRUE(cluster.run(0, kernel.store(*file, 8000, filled(10, 'c'))));
  EXPECT_TRUE(cluster.run(0, kernel.fsync(*file)));
  EXPECT_TRUE(cluster.run(0, kernel.close(*file)));
}

TEST(LossTest, FsyncOfADirectoryTellsOnceThatACreationWasLost) {
  Cluster cluster(two_mounts());
  cluster.start();
  Kernel& kernel = cluster.kernel(0);
  ASSERT_TRUE(cluster.run(0, kernel.mkdir("directory", 0755)));
  ASSERT_TRUE(cluster.run(0, kernel.sync()));
  const auto file = cluster.run(0, kernel.open("directory/file", to_write(true), 0644));
  ASSERT_TRUE(file);
  ASSERT_TRUE(cluster.run(0, kernel.close(*file)));
  lose_lease_of_mount_0(cluster, cluster.kernel(1).mkdir("directory/other", 0755));

  EXPECT_EQ(cluster.run(0, kernel.stat("directory/file")).error().code, Errc::no_entry);
  EXPECT_EQ(cluster.run(0, kernel.fsync_directory("directory")).error().code, Errc::io);
  EXPECT_TRUE(cluster.run(0, kernel.fsync_directory("directory")));
}

// Data of a larger size are on the disk before the record of that size. If the writer dies between
// the two, they must not show when somebody else makes the file larger.
class LostExtensionTest : public testing::TestWithParam<std::uint64_t> {};

TEST_P(LostExtensionTest, DoesNotShowWhenTheFileGrowsAgain) {
  const std::uint64_t old_size = GetParam(), lost_size = old_size + 20'000;
  const auto grown = static_cast<std::uint32_t>(lost_size + 10'000);
  bool crashed = true;
  for (std::uint64_t changes = 1; crashed && changes < 1000; ++changes) {
    ClusterOptions options = two_mounts();
    options.seed = changes;
    Cluster cluster(options);
    cluster.start();
    ASSERT_TRUE(cluster.run(0, write_file(&cluster.kernel(0), "file", 0, filled(old_size, 'a'))));
    std::optional<Status> result;
    const std::uint64_t crash_at = cluster.disk().changes() + changes;
    Bytes more = filled(lost_size - old_size, 'b');
    cluster.spawn(
        0, note_end(write_file(&cluster.kernel(0), "file", old_size, std::move(more)), &result));
    cluster.simulation().run_until(
        [&] { return result.has_value() || cluster.disk().changes() >= crash_at; }, limit);
    crashed = !result.has_value();
    cluster.crash_mount(0);

    Kernel& kernel = cluster.kernel(1);
    const auto seen = cluster.run(1, kernel.stat("file"));
    ASSERT_TRUE(seen);
    EXPECT_THAT(seen->size, testing::AnyOf(old_size, lost_size));
    ASSERT_TRUE(cluster.run(1, kernel.truncate("file", grown)));
    const auto content = cluster.run(1, read_file(&kernel, "file", grown));
    ASSERT_TRUE(content);
    const auto first = content->begin() + static_cast<std::ptrdiff_t>(seen->size);
    EXPECT_TRUE(std::all_of(first, content->end(), [](std::byte b) { return b == std::byte{0}; }))
        << "after " << changes << " changes";
  }
  EXPECT_FALSE(crashed);
}

INSTANTIATE_TEST_SUITE_P(Sizes, LostExtensionTest,
                         testing::Values(1000,       // in the inode
                                         30'000,     // in small blocks, the last one in part
                                         100'000));  // in a segment

}  // namespace
}  // namespace plumeria::sim
