// An inode that is kept (fs::Operations::keep) outlives its last name; without that it is freed.
#include <gtest/gtest.h>

#include "sim/cluster.h"

namespace plumeria::sim {
namespace {

constexpr Duration retries = 12s;  // in which what nobody keeps is reclaimed

class KeepTest : public testing::TestWithParam<std::size_t> {
 protected:
  KeepTest() : cluster_({.mounts = 2}) { cluster_.start(); }

  fs::Operations& operations() { return cluster_.mount(0).operations(); }
  void make_file() {
    OpenFlags flags;
    flags.writable = flags.create = true;
    Kernel& kernel = cluster_.kernel(0);
    const auto file = cluster_.run(0, kernel.open("file", flags, 0644));
    ASSERT_TRUE(file);
    ASSERT_TRUE(cluster_.run(0, kernel.close(*file)));
  }
  // On mount 0, as who opens a path.
  fs::InodeNumber look_up(bool and_keep) {
    auto found = cluster_.run(0, operations().lookup(fs::root_inode, "file"));
    CHECK(found && found->attributes);
    const fs::InodeNumber inode = found->attributes->inode;
    if (!and_keep) return inode;
    auto pin = cluster_.run(0, operations().keep(inode));
    CHECK(pin);
    kept_ = std::move(*pin);
    return inode;
  }
  void remove_and_wait() {
    EXPECT_TRUE(cluster_.run(GetParam(), cluster_.kernel(GetParam()).unlink("file")));
    cluster_.simulation().run_for(retries);
  }
  Result<fs::HandleId> open(fs::InodeNumber inode) {
    return cluster_.run(0, operations().open(inode, 0));
  }

  std::optional<std::uint32_t> links_of(fs::InodeNumber inode) {
    const auto found = cluster_.run(0, operations().getattr(inode));
    if (!found) return {};
    return found->value.links;
  }

  Cluster cluster_;
  clerk::Pin kept_;
};

TEST_P(KeepTest, WhatIsKeptCanBeOpenedAfterItsLastNameWent) {
  make_file();
  const fs::InodeNumber inode = look_up(true);
  remove_and_wait();
  EXPECT_EQ(links_of(inode), 0);
  const auto handle = open(inode);
  ASSERT_TRUE(handle);
  kept_.drop();
  cluster_.simulation().run_for(retries);
  EXPECT_EQ(links_of(inode), 0);
  EXPECT_TRUE(cluster_.run(0, operations().release(*handle)));
  cluster_.simulation().run_for(retries);
  EXPECT_EQ(open(inode).error().code, Errc::stale);
}

TEST_P(KeepTest, WhatIsKeptAndNotOpenedIsFreedLater) {
  make_file();
  const fs::InodeNumber inode = look_up(true);
  remove_and_wait();
  kept_.drop();
  cluster_.simulation().run_for(retries);
  EXPECT_EQ(open(inode).error().code, Errc::stale);
}

TEST_P(KeepTest, WhatIsNotKeptIsGone) {
  make_file();
  const fs::InodeNumber inode = look_up(false);
  remove_and_wait();
  EXPECT_EQ(open(inode).error().code, Errc::stale);
}

// By the mount that opens it, and by the other.
INSTANTIATE_TEST_SUITE_P(RemovedByMount, KeepTest, testing::Values(0, 1));

}  // namespace
}  // namespace plumeria::sim
