#include "sim/disk.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "base/number.h"
#include "format/layout.h"
#include "format/log_chunk.h"

namespace plumeria::sim {
namespace {

using disk::Durability;
using disk::VirtualDisk;
using testing::ElementsAre;

constexpr LeaseNumber lease{5};
constexpr Segment segment{77};

SharedBytes filled(std::size_t size, int value) {
  return SharedBytes(Bytes(size, std::byte(value)));
}

class SimDiskTest : public testing::Test {
 protected:
  explicit SimDiskTest(std::uint64_t seed = 1) : simulation_(seed), disk_(simulation_, {}) {
    handle_ = disk_.open(node_);
    must(handle_->admit(lease));
  }
  void must(Task<Status> task) {
    const Status status = simulation_.run(node_, std::move(task));
    ASSERT_TRUE(status) << status.error().message();
  }
  Errc error_of(Task<Status> task) {
    const Status status = simulation_.run(node_, std::move(task));
    return status ? Errc{-1} : status.error().code;
  }
  Task<Status> write(std::uint64_t offset, SharedBytes data, LeaseNumber by = lease) {
    return handle_->write(Address{segment, offset}, std::move(data), by, Durability::logged);
  }
  int byte_at(std::uint64_t offset) {
    return static_cast<int>(disk_.peek(Address{segment, offset}, 1)[0]);
  }
  void restart() {
    handle_.reset();
    if (node_.alive()) node_.crash();
    if (!disk_.power_is_on()) disk_.power_on();
    node_.start();
    handle_ = disk_.open(node_);
  }

  Simulation simulation_;
  Node& node_ = simulation_.add_node("a");
  SimDisk disk_;
  std::unique_ptr<VirtualDisk> handle_;
};

TEST_F(SimDiskTest, WhatWasNeverWrittenReadsAsZero) {
  const auto read = simulation_.run(node_, handle_->read(Address{segment, 1 << 30}, 100));
  ASSERT_TRUE(read);
  EXPECT_EQ(*read, Bytes(100));
}

TEST_F(SimDiskTest, AWriteIsReadBackAcrossBlocks) {
  must(write(4000, filled(10000, 7)));
  const auto read = simulation_.run(node_, handle_->read(Address{segment, 3999}, 10002));
  ASSERT_TRUE(read);
  EXPECT_EQ((*read)[0], std::byte{0});
  EXPECT_EQ((*read)[1], std::byte{7});
  EXPECT_EQ((*read)[10000], std::byte{7});
  EXPECT_EQ((*read)[10001], std::byte{0});
}

TEST_F(SimDiskTest, DiscardFreesWholeBlocksAndZeroesTheRest) {
  must(write(0, filled(3 * 4096, 7)));
  EXPECT_EQ(disk_.used_bytes(), 3u * 4096);
  must(handle_->discard(Address{segment, 100}, ~0ull, lease));
  EXPECT_EQ(byte_at(99), 7);
  EXPECT_EQ(byte_at(100), 0);
  EXPECT_EQ(byte_at(4096), 0);
  EXPECT_EQ(disk_.used_bytes(), 4096u);
}

TEST_F(SimDiskTest, OnlyAdmittedLeasesChangeAnything) {
  EXPECT_EQ(error_of(write(0, filled(1, 1), LeaseNumber{6})), Errc::fenced);
  must(handle_->fence(lease));
  EXPECT_EQ(error_of(write(0, filled(1, 1))), Errc::fenced);
  EXPECT_EQ(error_of(handle_->admit(lease)), Errc::fenced);
  EXPECT_EQ(byte_at(0), 0);
  EXPECT_EQ(disk_.count(lease).tried, 1u);
  EXPECT_EQ(disk_.count(lease).refused, 1u);
}

Task<void> note_order(Task<Status> task, int number, std::vector<int>* order) {
  (void)co_await task;
  order->push_back(number);
}

TEST_F(SimDiskTest, ConcurrentWritesEndInAnyOrder) {
  std::vector<int> order;
  TaskScope scope;
  for (int i = 0; i < 20; ++i) {
    scope.spawn(note_order(write(static_cast<std::uint64_t>(i) * 4096, filled(512, 1)), i, &order));
  }
  simulation_.run_for(1s);
  ASSERT_EQ(order.size(), 20u);
  EXPECT_FALSE(std::is_sorted(order.begin(), order.end()));
}

TEST_F(SimDiskTest, FenceReturnsAfterTheAdmittedWritesHaveFinished) {
  for (int round = 0; round < 50; ++round) {
    const LeaseNumber dying{100 + static_cast<std::uint64_t>(round)};
    const auto at = static_cast<std::uint64_t>(round) * 4096;
    must(handle_->admit(dying));
    std::vector<int> order;
    TaskScope scope;
    scope.spawn(note_order(write(at, filled(512, 9), dying), 1, &order));
    simulation_.run_for(20us);
    must(handle_->fence(dying));
    const int after_fence = byte_at(at);
    simulation_.run_for(1s);
    EXPECT_EQ(byte_at(at), after_fence);
  }
}

TEST_F(SimDiskTest, AFlushedWriteSurvivesEveryPowerCut) {
  must(write(0, filled(4096, 1)));
  must(handle_->flush());
  disk_.power_cut();
  EXPECT_FALSE(node_.alive());
  EXPECT_EQ(byte_at(0), 1);
  EXPECT_EQ(disk_.peek_durable(Address{segment, 0}, 4096), Bytes(4096, std::byte{1}));
}

TEST_F(SimDiskTest, AFlushOfSegmentsCoversThoseAlone) {
  constexpr Segment other{78};
  bool lost = false;
  for (std::uint64_t offset = 0; offset < 64 * 4096; offset += 4096) {
    must(write(offset, filled(4096, 7)));
    must(handle_->write(Address{other, offset}, filled(4096, 8), lease, Durability::retain));
  }
  must(handle_->flush_segments({segment}));
  disk_.power_cut();
  for (std::uint64_t offset = 0; offset < 64 * 4096; offset += 4096) {
    EXPECT_EQ(byte_at(offset), 7);
    lost |= disk_.peek(Address{other, offset}, 1)[0] != std::byte{8};
  }
  EXPECT_TRUE(lost);
}

TEST_F(SimDiskTest, AKilledProcessLosesNoAcknowledgedWrite) {
  must(write(0, filled(4096, 1)));
  restart();
  EXPECT_EQ(byte_at(0), 1);
  EXPECT_TRUE(disk_.is_admitted(lease));
}

TEST_F(SimDiskTest, APowerCutKeepsDropsAndTearsUnflushedWritesAtSectors) {
  std::set<std::vector<int>> seen;
  for (int round = 0; round < 200; ++round) {
    must(write(0, filled(2048, 1)));
    must(handle_->flush());
    must(write(0, filled(2048, 2)));
    disk_.power_cut();
    std::vector<int> sectors;
    for (std::uint64_t sector = 0; sector < 4; ++sector) {
      const Bytes bytes = disk_.peek(Address{segment, sector * 512}, 512);
      EXPECT_EQ(bytes, Bytes(512, bytes[0]));
      sectors.push_back(static_cast<int>(bytes[0]));
    }
    seen.insert(sectors);
    restart();
  }
  EXPECT_TRUE(seen.contains({1, 1, 1, 1}));
  EXPECT_TRUE(seen.contains({2, 2, 2, 2}));
  EXPECT_GT(seen.size(), 8u);
}

TEST_F(SimDiskTest, APowerCutReordersUnflushedWrites) {
  std::set<int> seen;
  for (int round = 0; round < 100; ++round) {
    must(write(0, filled(512, 1)));
    must(handle_->flush());
    must(write(0, filled(512, 2)));
    must(write(0, filled(512, 3)));
    disk_.power_cut();
    seen.insert(byte_at(0));
    restart();
  }
  EXPECT_THAT(seen, ElementsAre(1, 2, 3));
}

TEST_F(SimDiskTest, ThePowerIsCutAfterTheGivenNumberOfChanges) {
  disk_.cut_power_after(2);
  must(write(0, filled(512, 1)));
  must(write(512, filled(512, 1)));
  const auto third = simulation_.try_run(node_, write(1024, filled(512, 1)));
  EXPECT_FALSE(third);
  EXPECT_TRUE(disk_.power_was_cut());
  EXPECT_FALSE(disk_.power_is_on());
}

TEST_F(SimDiskTest, ThePowerIsCutAtAPlaceOfItsOwn) {
  const auto change = [this](std::uint64_t in, std::uint64_t offset) {
    return handle_->write(Address{Segment{in}, offset}, filled(512, 1), lease, Durability::logged);
  };
  struct Row {
    Place place;
    std::uint64_t segment, offset;
  };
  const std::uint64_t log = format::log_segment(3);
  const Row rows[] = {{Place::log_header, log, 0},
                      {Place::log_header, log, 4096},
                      {Place::log_ring, log, format::log_ring_start},
                      {Place::metadata, format::inode_segment, 4096},
                      {Place::metadata, format::orphan_segment(3), 0},
                      {Place::file_data, format::small_segment, 4096},
                      {Place::file_data, format::data_segment_bit + 5, 0}};
  for (const Row& row : rows) {
    disk_.cut_power_after(1, row.place);
    for (const Row& other : rows) {
      if (other.place != row.place) must(change(other.segment, other.offset));
    }
    must(change(row.segment, row.offset));
    EXPECT_FALSE(simulation_.try_run(node_, change(row.segment, row.offset)));
    EXPECT_FALSE(disk_.power_is_on());
    restart();
  }
}

TEST_F(SimDiskTest, RegistersAreDurableWhenAcknowledgedAndCompareVersions) {
  const auto created =
      simulation_.run(node_, handle_->write_register("view", 0, Bytes(3, std::byte{9}), lease));
  ASSERT_TRUE(created);
  const auto stale = simulation_.run(node_, handle_->write_register("view", 0, {}, lease));
  ASSERT_FALSE(stale);
  EXPECT_EQ(stale.error().code, Errc::mismatch);
  disk_.power_cut();
  restart();
  const auto read = simulation_.run(node_, handle_->read_register("view"));
  ASSERT_TRUE(read);
  EXPECT_EQ(read->version, *created);
  EXPECT_EQ(read->value, Bytes(3, std::byte{9}));
}

TEST_F(SimDiskTest, AFullDiskRefusesWritesButNotPreallocatedOnes) {
  disk_.set_capacity(4 * 4096);
  must(handle_->preallocate(Address{segment, 0}, 2 * 4096, lease));
  must(write(1 << 20, filled(2 * 4096, 1)));
  EXPECT_EQ(error_of(write(1 << 22, filled(1, 1))), Errc::no_space);
  must(write(0, filled(2 * 4096, 1)));
  const auto usage = simulation_.run(node_, handle_->usage());
  ASSERT_TRUE(usage);
  EXPECT_EQ(usage->available, 0u);
}

TEST_F(SimDiskTest, PlannedErrorsComeOnce) {
  disk_.fail_next(DiskOperation::flush, Errc::io);
  EXPECT_EQ(error_of(handle_->flush()), Errc::io);
  must(handle_->flush());
}

TEST_F(SimDiskTest, ExtentsAndSegmentsAreListed) {
  must(write(8192, filled(4096, 1)));
  must(write(12288, filled(1, 1)));
  must(handle_->write(Address{Segment{3}, 0}, filled(1, 1), lease, Durability::logged));
  const auto extent = simulation_.run(node_, handle_->next_extent(segment, 10));
  ASSERT_TRUE(extent && *extent);
  EXPECT_EQ(**extent, (disk::Extent{8192, 8192}));
  const auto none = simulation_.run(node_, handle_->next_extent(segment, 16384));
  ASSERT_TRUE(none);
  EXPECT_FALSE(*none);
  const auto listed = simulation_.run(node_, handle_->list_segments(Segment{0}, 10));
  ASSERT_TRUE(listed);
  EXPECT_THAT(*listed, ElementsAre(Segment{3}, segment));
}

}  // namespace
}  // namespace plumeria::sim
