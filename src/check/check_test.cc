#include "check/check.h"

#include <absl/strings/str_cat.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "check/test_store.h"
#include "format/log_record.h"
#include "wal/log.h"

namespace plumeria::check {
namespace {

using namespace test_store;
using format::block_size;
using format::BlockId;
using format::BlockType;
using format::InodeEditor;
using format::PieceEditor;
using format::Unit;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class CheckTest : public ::testing::Test, public TestStore {};

TEST_F(CheckTest, AWholeStoreIsClean) {
  const Report report = check();
  EXPECT_THAT(report.problems, IsEmpty());
  EXPECT_THAT(report.leaks, IsEmpty());
  EXPECT_EQ(report.inodes, 8u);
  EXPECT_EQ(report.directories, 2u);
  EXPECT_EQ(report.symlinks, 1u);
  EXPECT_EQ(report.entries, 6u + names);
  EXPECT_EQ(report.directory_blocks, 3u);
  EXPECT_EQ(report.small_blocks, 1u);
  EXPECT_EQ(report.data_segments, 1u);
  EXPECT_EQ(report.orphans, 1u);
}

TEST_F(CheckTest, EmptyDisksAndForeignOnesAreNoStores) {
  disk.visible().clear();
  EXPECT_EQ(wait_for(run(world, disk, {})).error().code, Errc::not_a_store);
}

TEST_F(CheckTest, SeesTheStoreAsItIsAfterReplay) {
  const BlockId id = format::inode_block(file);
  Bytes before = peek(id), after = before;
  InodeEditor(after).links(7);
  format::set_version(after, 2);
  wal::Log log(world, disk, 5, wal::log_size_min, lock::LeaseNumber{9});
  ASSERT_TRUE(wait_for(log.start()));
  format::RecordBuilder record;
  record.add_delta(id, before, after);
  auto room = wait_for(log.reserve(record.size()));
  ASSERT_TRUE(log.append(record.view(), *room));
  ASSERT_TRUE(wait_for(log.sync_all()));

  const Report report = check();
  EXPECT_EQ(report.replayed_blocks, 1u);
  EXPECT_THAT(report.problems, ElementsAre("inode 2 has 7 links, counted are 2"));
  EXPECT_EQ(peek(id), before) << "it changes nothing";
}

// One flipped bit in each kind of block: named, whatever bit it is.
TEST_F(CheckTest, AFlippedBitIsReportedWithItsBlock) {
  const struct {
    BlockId id;
    std::string name;
  } blocks[] = {
      {format::piece_block(0), "piece 0"},    {format::inode_block(root), "inode 1"},
      {format::inode_block(file), "inode 2"}, {inner, "directory block 1"},
      {left_leaf, "directory block 2"},       {orphan_list, "orphan list of slot 0, block 0"},
  };
  for (const auto& block : blocks) {
    for (int round = 0; round < 30; ++round) {
      Bytes& bytes = disk.visible()[disk::Segment{block.id.segment}];
      const std::uint64_t bit = random.below(8 * block_size);
      std::byte& byte = bytes[block.id.offset() + bit / 8];
      byte ^= std::byte(1 << (bit % 8));
      EXPECT_THAT(problems(), ::testing::Contains(HasSubstr(block.name))) << "bit " << bit;
      byte ^= std::byte(1 << (bit % 8));
    }
  }
  EXPECT_THAT(problems(), IsEmpty());
}

TEST_F(CheckTest, NamesWhatIsWrong) {
  const wal::TestDisk::Contents whole = disk.visible();
  for (const Mistake& one : mistakes()) {
    disk.visible() = whole;
    one.make();
    EXPECT_THAT(problems(), ::testing::Contains(HasSubstr(one.problem))) << one.problem;
  }
}

TEST_F(CheckTest, DirectoriesInACircleAreNotReached) {
  make_circle();
  EXPECT_THAT(problems(), ElementsAre("directory 3 cannot be reached from the root"));
}

TEST_F(CheckTest, SegmentsWithoutAFileAreLeaks) {
  wal::TestDisk::put(disk.visible(), {disk::Segment{segment + 1}, 0}, Bytes(1, std::byte{1}));
  const Report report = check();
  EXPECT_TRUE(report.is_clean());
  EXPECT_THAT(report.leaks, ElementsAre(absl::StrCat("data segment ", absl::Hex(segment + 1),
                                                     " holds data, but no file has it")));
}

TEST_F(CheckTest, FindingsAreBounded) {
  edit_piece([](PieceEditor& piece) {
    for (std::uint64_t i = 100; i < 200; ++i) piece.set_used(Unit::small_block, i, true);
  });
  const auto report = wait_for(run(world, disk, {.findings_max = 10}));
  ASSERT_TRUE(report);
  EXPECT_EQ(report->problems.size(), 10u);
  EXPECT_EQ(report->problem_count, 100u);
}

TEST_F(CheckTest, ADamagedLogIsAnError) {
  wal::TestDisk::put(disk.visible(), {disk::Segment{format::log_segment(2)}, 0},
                     Bytes(2 * block_size, std::byte{0xaa}));
  const auto report = wait_for(run(world, disk, {}));
  ASSERT_FALSE(report);
  EXPECT_THAT(report.error().message(), HasSubstr("log of slot 2"));
}

}  // namespace
}  // namespace plumeria::check
