#include "recovery/replay.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "base/fault.h"
#include "base/seeded_random.h"
#include "format/log_record.h"
#include "wal/log.h"
#include "wal/log_reader.h"
#include "wal/test_disk.h"

namespace plumeria::recovery {
namespace {

using format::block_size;
using format::BlockId;
using lock::LeaseNumber;
using ::testing::HasSubstr;

constexpr BlockId inode_17{format::inode_segment, 17};
constexpr std::uint64_t log_size = wal::log_size_min;

disk::Address address_of(BlockId id) { return {disk::Segment{id.segment}, id.offset()}; }

// The state of inode `id` at a version: what is in it depends on nothing else.
Bytes block_at(BlockId id, std::uint64_t version) {
  Bytes block(block_size);
  format::format_block(block, format::BlockType::inode, id.number, version);
  SeededRandom random(1000 * id.number);
  for (std::uint64_t v = 1; v <= version; ++v) {
    const std::size_t at = 600 + random() % 3000;
    for (std::size_t i = at; i < at + 100; ++i) block[i] = std::byte(v);
  }
  format::seal(block, id);
  return block;
}

// A mount as far as its log and its writes in place go.
class Writer {
 public:
  Writer(wal::TestWorld& test, wal::TestDisk& disk, std::uint32_t slot, LeaseNumber lease)
      : test_(test), disk_(disk), log_(test.world, disk, slot, log_size, lease) {
    const Status started = test.wait_for(log_.start());
    EXPECT_TRUE(started) << started.error().message();
  }
  Writer& image(BlockId id, std::uint64_t version) {
    builder_.add_image(id, block_at(id, version));
    return commit();
  }
  Writer& delta(BlockId id, std::uint64_t version) {
    builder_.add_delta(id, block_at(id, version - 1), block_at(id, version));
    return commit();
  }
  Writer& in_place(BlockId id, std::uint64_t version) {
    SharedBytes block(block_at(id, version));
    EXPECT_TRUE(test_.wait_for(
        disk_.write(address_of(id), block, LeaseNumber{1}, disk::Durability::logged)));
    return *this;
  }
  Writer& sync() {
    EXPECT_TRUE(test_.wait_for(log_.sync_all()));
    return *this;
  }
  wal::Log& log() { return log_; }

 private:
  Writer& commit() {
    auto room = test_.wait_for(log_.reserve(builder_.size()));
    EXPECT_TRUE(log_.append(builder_.take(), *room));
    return *this;
  }

  wal::TestWorld& test_;
  wal::TestDisk& disk_;
  wal::Log log_;
  format::RecordBuilder builder_;
};

class ReplayTest : public ::testing::Test, public wal::TestWorld {
 public:
  Result<ReplayReport> replay_logs(std::vector<std::uint32_t> slots, bool all = false) {
    ReplayOptions options{.log_size = log_size, .lease = LeaseNumber{1}, .all_logs = all};
    options.trim = slots;
    return wait_for(replay(world, disk, slots, options));
  }
  void expect_version(BlockId id, std::uint64_t version) {
    EXPECT_EQ(disk.peek(address_of(id), block_size), block_at(id, version))
        << to_string(id) << " is not of version " << version;
  }
  bool is_empty(std::uint32_t slot) {
    return wait_for(wal::read_log_header(disk, slot))->header.state == format::LogState::empty;
  }
  void damage(BlockId id, std::size_t at) {
    disk.visible()[disk::Segment{id.segment}][id.offset() + at] ^= std::byte{0xff};
  }

  wal::TestDisk disk{executor, 1};
};

TEST_F(ReplayTest, BringsBlocksToTheirNewestVersion) {
  Writer(*this, disk, 3, LeaseNumber{7})
      .image(inode_17, 1)
      .delta(inode_17, 2)
      .image({format::piece_segment, 4}, 1)
      .delta(inode_17, 3)
      .sync();
  const auto report = replay_logs({3});
  ASSERT_TRUE(report) << report.error().message();
  expect_version(inode_17, 3);
  expect_version({format::piece_segment, 4}, 1);
  EXPECT_EQ(report->records, 4u);
  EXPECT_EQ(report->changes, 4u);
  EXPECT_EQ(report->blocks_written, 2u);
  EXPECT_TRUE(is_empty(3));
}

TEST_F(ReplayTest, UnusedLogsAreNoError) {
  const auto report = replay_logs({0, 1, 2}, true);
  ASSERT_TRUE(report) << report.error().message();
  EXPECT_EQ(report->logs, 3u);
  EXPECT_EQ(report->records, 0u);
}

TEST_F(ReplayTest, AnUnusedLogIsNotTakenForThatOfSlotZero) {
  Writer(*this, disk, 0, LeaseNumber{7}).image(inode_17, 1).sync();
  const auto report = replay_logs({5});
  ASSERT_TRUE(report) << report.error().message();
  EXPECT_FALSE(is_empty(0));
}

TEST_F(ReplayTest, ANewerBlockStaysAsItIs) {
  Writer writer(*this, disk, 3, LeaseNumber{7});
  writer.image(inode_17, 5).delta(inode_17, 6).sync().in_place(inode_17, 9);
  const auto report = replay_logs({3});
  ASSERT_TRUE(report) << report.error().message();
  expect_version(inode_17, 9);
  EXPECT_EQ(report->blocks_written, 0u);
}

TEST_F(ReplayTest, StartsInTheMiddleWhereTheBlockIs) {
  Writer writer(*this, disk, 3, LeaseNumber{7});
  writer.image(inode_17, 1).delta(inode_17, 2).delta(inode_17, 3).delta(inode_17, 4).sync();
  writer.in_place(inode_17, 2);
  ASSERT_TRUE(replay_logs({3}));
  expect_version(inode_17, 4);
}

// The block went from slot 2 to slot 3 and back: each new owner begins with an image.
TEST_F(ReplayTest, TwoLogsAreMergedByVersion) {
  Writer a(*this, disk, 2, LeaseNumber{7}), b(*this, disk, 3, LeaseNumber{8});
  a.image(inode_17, 1).delta(inode_17, 2).sync();
  b.image(inode_17, 3).delta(inode_17, 4).sync();
  a.image(inode_17, 5).delta(inode_17, 6).sync();
  ASSERT_TRUE(replay_logs({3, 2}, true));
  expect_version(inode_17, 6);
}

TEST_F(ReplayTest, LogsReplayOneByOneInAnyOrder) {
  for (const bool newer_first : {false, true}) {
    wal::TestWorld test;
    wal::TestDisk other(test.executor, 1);
    Writer a(test, other, 2, LeaseNumber{7}), b(test, other, 3, LeaseNumber{8});
    // What b builds on is in place: a gave the lock up.
    a.image(inode_17, 1).delta(inode_17, 2).sync().in_place(inode_17, 2);
    b.image(inode_17, 3).delta(inode_17, 4).sync();
    for (const std::uint32_t slot : newer_first ? std::vector{3u, 2u} : std::vector{2u, 3u}) {
      ReplayOptions options{.log_size = log_size, .lease = LeaseNumber{1}, .trim = {slot}};
      ASSERT_TRUE(test.wait_for(replay(test.world, other, {slot}, options)));
    }
    EXPECT_EQ(other.peek(address_of(inode_17), block_size), block_at(inode_17, 4));
  }
}

TEST_F(ReplayTest, RepeatingItIsHarmless) {
  Writer(*this, disk, 3, LeaseNumber{7}).image(inode_17, 1).delta(inode_17, 2).sync();
  ReplayOptions options{.log_size = log_size, .lease = LeaseNumber{1}};
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(wait_for(replay(world, disk, {3}, options)));
  expect_version(inode_17, 2);
  EXPECT_FALSE(is_empty(3)) << "nobody asked to trim it";
  EXPECT_TRUE(replay_logs({3}));
  EXPECT_TRUE(is_empty(3));
}

TEST_F(ReplayTest, PreviewWritesNothing) {
  Writer(*this, disk, 3, LeaseNumber{7}).image(inode_17, 1).delta(inode_17, 2).sync();
  const std::uint64_t writes = disk.writes;
  ReplayOptions options{.log_size = log_size};
  const auto blocks = wait_for(preview(world, disk, {3}, options));
  ASSERT_TRUE(blocks) << blocks.error().message();
  ASSERT_EQ(blocks->size(), 1u);
  EXPECT_EQ(blocks->at(inode_17), block_at(inode_17, 2));
  EXPECT_EQ(disk.writes, writes);
}

TEST_F(ReplayTest, AGapInTheVersionsIsReported) {
  Writer(*this, disk, 3, LeaseNumber{7}).delta(inode_17, 5).sync().in_place(inode_17, 2);
  const auto report = replay_logs({3});
  ASSERT_FALSE(report);
  EXPECT_EQ(report.error().message(),
            "inode 17 (the log of slot 3 goes on with version 5, but the block has version 2): "
            "damaged");
  EXPECT_FALSE(is_empty(3));
  expect_version(inode_17, 2);
}

TEST_F(ReplayTest, TheSameVersionInTwoLogsIsReported) {
  Writer(*this, disk, 2, LeaseNumber{7}).image(inode_17, 5).sync();
  Writer(*this, disk, 3, LeaseNumber{8}).image(inode_17, 5).sync();
  EXPECT_EQ(replay_logs({2, 3}).error().what,
            "inode 17 (version 5 is in the log of slot 2 and again in that of slot 3)");
}

TEST_F(ReplayTest, ADamagedBlockIsReplacedOnlyInAReplayOfAllLogs) {
  Writer writer(*this, disk, 3, LeaseNumber{7});
  writer.image(inode_17, 2).delta(inode_17, 3).sync().in_place(inode_17, 3);
  damage(inode_17, 2000);
  const auto alone = replay_logs({3});
  ASSERT_FALSE(alone);
  EXPECT_EQ(alone.error().message(), "inode 17 (bad checksum): damaged");
  EXPECT_FALSE(is_empty(3));
  ASSERT_TRUE(replay_logs({3}, /*all=*/true));
  expect_version(inode_17, 3);
}

TEST_F(ReplayTest, ADamagedBlockIsNotReplacedByADelta) {
  Writer writer(*this, disk, 3, LeaseNumber{7});
  writer.delta(inode_17, 3).sync().in_place(inode_17, 2);
  damage(inode_17, 2000);
  EXPECT_EQ(replay_logs({3}, /*all=*/true).error().what, "inode 17 (bad checksum)");
}

TEST_F(ReplayTest, ADamagedBlockNewerThanEveryRecordIsNotReplaced) {
  Writer writer(*this, disk, 3, LeaseNumber{7});
  writer.image(inode_17, 3).sync().in_place(inode_17, 8);
  damage(inode_17, 2000);
  EXPECT_EQ(replay_logs({3}, /*all=*/true).error().what, "inode 17 (bad checksum)");
}

TEST_F(ReplayTest, OneDamagedBlockDoesNotKeepTheOthersFromReplay) {
  Writer writer(*this, disk, 3, LeaseNumber{7});
  for (std::uint64_t number = 1; number <= 20; ++number) {
    writer.image({format::inode_segment, number}, 1);
  }
  writer.sync().in_place(inode_17, 1);
  damage(inode_17, 2000);
  EXPECT_FALSE(replay_logs({3}));
  expect_version({format::inode_segment, 16}, 1);
  expect_version({format::inode_segment, 18}, 1);
  EXPECT_FALSE(is_empty(3));
}

TEST_F(ReplayTest, NeighboursAreReadAndWrittenTogether) {
  Writer writer(*this, disk, 3, LeaseNumber{7});
  for (std::uint64_t number = 0; number < 64; ++number) {
    writer.image({format::inode_segment, 1000 + number}, 1);
  }
  writer.sync();
  const std::uint64_t writes = disk.writes;
  ASSERT_TRUE(replay_logs({3}));
  EXPECT_EQ(disk.writes - writes, 2u) << "the blocks, and the log's header";
}

TEST_F(ReplayTest, AFailedWriteTrimsNothing) {
  Writer(*this, disk, 3, LeaseNumber{7}).image(inode_17, 1).sync();
  disk.fail_writes = Error{Errc::io, "test"};
  EXPECT_EQ(replay_logs({3}).error().code, Errc::io);
  disk.fail_writes.reset();
  EXPECT_FALSE(is_empty(3));
  ASSERT_TRUE(replay_logs({3}));
  expect_version(inode_17, 1);
}

// Writes of several mounts and logs, by the rules of the cache; then a power cut of everything, a
// replay that is cut off after each of its writes in turn, and a last one.
TEST(ReplayPowerCut, EveryDurableVersionIsThereHoweverOftenItIsCut) {
  for (std::uint64_t seed = 1; seed <= 60; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    SeededRandom random(seed);
    struct State {
      std::uint64_t version = 0, durable = 0;
      std::uint32_t owner = 0;
      bool image_next = true;
    };
    std::map<BlockId, State> blocks;
    wal::TestDisk::Contents left;
    {
      wal::TestWorld test;
      wal::TestDisk disk(test.executor, seed);
      Writer writers[] = {{test, disk, 0, LeaseNumber{1}}, {test, disk, 1, LeaseNumber{2}}};
      for (int step = 0; step < 150; ++step) {
        const BlockId id{format::inode_segment, 1 + random() % 12};
        State& block = blocks[id];
        Writer& owner = writers[block.owner];
        if (random() % 8 == 0) {  // gives the lock up
          owner.sync();
          block.durable = block.version;
          if (block.version > 0) owner.in_place(id, block.version);
          block.owner = 1 - block.owner;
          block.image_next = true;
        } else if (random() % 8 == 0 && block.version > 0) {  // writes back
          owner.sync();
          for (auto& [other, state] : blocks) {
            if (state.owner == block.owner) state.durable = state.version;
          }
          owner.in_place(id, block.version);
          block.image_next = true;
        } else {
          ++block.version;
          block.image_next ? owner.image(id, block.version) : owner.delta(id, block.version);
          block.image_next = false;
        }
      }
      left = disk.after_power_cut();
    }
    for (std::uint64_t cut_after = 0; cut_after < 6; ++cut_after) {
      wal::TestWorld test;
      wal::TestDisk disk(test.executor, seed + cut_after, left);
      disk.fail_after_writes = cut_after;
      ReplayOptions options{.log_size = log_size, .lease = LeaseNumber{9}, .all_logs = true};
      options.trim = {0, 1};
      (void)test.wait_for(replay(test.world, disk, {0, 1}, options));
      left = disk.after_power_cut();
    }
    wal::TestWorld test;
    wal::TestDisk disk(test.executor, seed, left);
    ReplayOptions options{.log_size = log_size, .lease = LeaseNumber{9}, .all_logs = true};
    options.trim = {0, 1};
    const auto report = test.wait_for(replay(test.world, disk, {0, 1}, options));
    ASSERT_TRUE(report) << report.error().message();
    for (const auto& [id, state] : blocks) {
      const Bytes block = disk.peek(address_of(id), block_size);
      ASSERT_TRUE(format::verify(block, id));
      const std::uint64_t version = format::version_of(block);
      ASSERT_GE(version, state.durable);
      ASSERT_LE(version, state.version);
      if (version > 0) {
        ASSERT_EQ(block, block_at(id, version));
      }
    }
  }
}

#ifdef PLUMERIA_PLANTED_FAULTS
// The writer dies between the write of his record and the flush, then the power fails during the
// replay.
TEST(ReplayPowerCut, ARecordIsDurableBeforeItIsApplied) {
  constexpr BlockId other{format::inode_segment, 5000};
  for (std::uint64_t seed = 1; seed <= 100; ++seed) {
    wal::TestDisk::Contents left;
    const ReplayOptions options{.log_size = log_size, .lease = LeaseNumber{9}, .all_logs = true};
    {
      wal::TestWorld test;
      wal::TestDisk disk(test.executor, seed);
      wal::Log log(test.world, disk, 0, log_size, LeaseNumber{1});
      ASSERT_TRUE(test.wait_for(log.start()));
      format::RecordBuilder record;
      record.add_image(inode_17, block_at(inode_17, 1));
      record.add_image(other, block_at(other, 1));
      auto room = test.wait_for(log.reserve(record.size()));
      ASSERT_TRUE(log.append(record.take(), *room));
      disk.fail_flushes = Error{Errc::io, "test"};
      EXPECT_FALSE(test.wait_for(log.sync_all()));
      disk.fail_flushes.reset();
      disk.fail_after_writes = disk.writes + 1;
      EXPECT_FALSE(test.wait_for(replay(test.world, disk, {0}, options)));
      left = disk.after_power_cut();
    }
    wal::TestWorld test;
    wal::TestDisk disk(test.executor, seed, left);
    ASSERT_TRUE(test.wait_for(replay(test.world, disk, {0}, options)));
    const auto version_of = [&](BlockId id) {
      return format::version_of(disk.peek(address_of(id), block_size));
    };
    EXPECT_EQ(version_of(inode_17), version_of(other)) << "seed " << seed;
  }
}

TEST_F(ReplayTest, PlantedFaultReplaysWithoutLookingAtVersions) {
  Writer writer(*this, disk, 3, LeaseNumber{7});
  writer.image(inode_17, 5).sync().in_place(inode_17, 9);
  plant(Fault::replay_without_version_check);
  EXPECT_TRUE(replay_logs({3}));
  plant(Fault::none);
  expect_version(inode_17, 5);
}
#endif

}  // namespace
}  // namespace plumeria::recovery
