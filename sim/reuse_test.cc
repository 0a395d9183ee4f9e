// Files that come and go leave nothing on the disk that the next ones do not use.
#include <absl/strings/str_cat.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "format/layout.h"
#include "format/piece.h"
#include "sim/cluster.h"

namespace plumeria::sim {
namespace {

using testing::IsEmpty;

// More than one allocation piece has inodes for.
constexpr std::uint64_t files = format::units_per_piece(format::Unit::inode) * 5 / 4;

Task<Status> make_files(Kernel* kernel) {
  OpenFlags flags;
  flags.writable = flags.create = true;
  for (std::uint64_t i = 0; i < files; ++i) {
    CO_TRY(const Descriptor file, co_await kernel->open(absl::StrCat("f", i), flags, 0644));
    CO_TRY_STATUS(co_await kernel->close(file));
  }
  co_return co_await kernel->sync();
}
Task<Status> remove_files(Kernel* kernel) {
  for (std::uint64_t i = 0; i < files; ++i) {
    CO_TRY_STATUS(co_await kernel->unlink(absl::StrCat("f", i)));
  }
  co_return co_await kernel->sync();
}

TEST(ReuseTest, InodesOfRemovedFilesAreTakenAgain) {
  ClusterOptions options;
  options.embedded = true;
  options.mounts = 1;
  options.cache_size = 128ull << 20;
  options.log_size = 64ull << 20;
  Cluster cluster(options);
  cluster.start();
  for (int round = 0; round < 3; ++round) {
    ASSERT_TRUE(cluster.run(0, make_files(&cluster.kernel(0))));
    ASSERT_TRUE(cluster.run(0, remove_files(&cluster.kernel(0))));
  }
  ASSERT_TRUE(cluster.stop_mount(0));
  EXPECT_THAT(cluster.check(), IsEmpty());
  // The piece that is in use is filled first, then the one that has become empty.
  const std::size_t written = cluster.disk().blocks(Segment{format::inode_segment}).size();
  EXPECT_GT(written, files);
  EXPECT_LE(written, 2 * format::units_per_piece(format::Unit::inode) + 1);
}

}  // namespace
}  // namespace plumeria::sim
