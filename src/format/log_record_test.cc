#include "format/log_record.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/seeded_random.h"

namespace plumeria::format {
namespace {

constexpr BlockId inode_17{inode_segment, 17};

Bytes block_of_version(std::uint64_t version) {
  Bytes block(block_size);
  format_block(block, BlockType::inode, 17, version);
  return block;
}

Change only_change(ByteView record) {
  auto changes = decode_record(record);
  EXPECT_TRUE(changes) << changes.error().message();
  EXPECT_EQ(changes->size(), 1u);
  return changes->at(0);
}

// What replay makes of `before` with the record of the change to `after`.
Bytes replayed(const Bytes& before, const Bytes& after) {
  RecordBuilder builder;
  builder.add_delta(inode_17, before, after);
  Bytes block = before;
  const Bytes record = builder.take();
  apply_change(only_change(record), block);
  return block;
}

TEST(LogRecord, ImageLeavesOutTheZeroTailAndTheChecksum) {
  Bytes block = block_of_version(5);
  block[100] = std::byte{7};
  seal(block, inode_17);
  RecordBuilder builder;
  builder.add_image(inode_17, block);
  EXPECT_EQ(builder.size(), change_header_size + 101);

  const Bytes record = builder.take();
  EXPECT_TRUE(builder.empty());
  Bytes other(block_size, std::byte{0xff});
  apply_change(only_change(record), other);
  seal(other, inode_17);
  EXPECT_EQ(other, block);
}

TEST(LogRecord, DeltaHoldsOnlyTheBytesThatDiffer) {
  const Bytes before = block_of_version(5);
  Bytes after = before;
  set_version(after, 6);
  after[1003] = std::byte{1};
  after[1009] = std::byte{2};  // near: one range, with what lies between
  after[4095] = std::byte{3};
  RecordBuilder builder;
  builder.add_delta(inode_17, before, after);
  EXPECT_EQ(builder.size(), change_header_size + (4 + 7) + (4 + 1));
  const auto ranges = delta_ranges(only_change(builder.view()));
  ASSERT_EQ(ranges.size(), 2u);
  EXPECT_EQ(ranges[0].offset, 1003u);
  EXPECT_EQ(ranges[0].bytes.size(), 7u);
  EXPECT_EQ(ranges[1].offset, 4095u);
  EXPECT_EQ(ranges[1].bytes[0], std::byte{3});
  EXPECT_EQ(replayed(before, after), after);
}

TEST(LogRecord, DeltaOfVersionAloneIsEmpty) {
  const Bytes before = block_of_version(5);
  Bytes after = before;
  set_version(after, 6);
  RecordBuilder builder;
  builder.add_delta(inode_17, before, after);
  EXPECT_EQ(builder.size(), change_header_size);
  EXPECT_EQ(replayed(before, after), after);
}

TEST(LogRecord, RandomDeltasApply) {
  SeededRandom random(1);
  for (int round = 0; round < 2000; ++round) {
    Bytes before = block_of_version(9);
    for (auto& b : MutableByteView(before).subspan(block_header_size)) b = std::byte(random() % 3);
    Bytes after = before;
    set_version(after, 10);
    for (std::uint64_t edits = random() % 20; edits > 0; --edits) {
      const std::size_t at = 24 + random() % (block_size - 24);
      const std::size_t length = std::min(block_size - at, random() % 70);
      for (std::size_t i = at; i < at + length; ++i) after[i] = std::byte(random() % 3);
    }
    ASSERT_EQ(replayed(before, after), after) << "round " << round;
  }
}

TEST(LogRecord, ADeltaThatWouldBeLongerBecomesAnImage) {
  Bytes before = block_of_version(5), after = block_of_version(6);
  for (std::size_t i = block_header_size; i < block_size; ++i) before[i] = std::byte{1};
  RecordBuilder builder;
  builder.add_delta(inode_17, before,
                    after);  // everything becomes zero: the image is only a header
  EXPECT_EQ(only_change(builder.view()).kind, ChangeKind::image);
  EXPECT_EQ(builder.size(), change_header_size + block_header_size);
  EXPECT_EQ(replayed(before, after), after);
}

// Every second word: the most that the headers of ranges can cost.
TEST(LogRecord, NoDeltaIsLongerThanTheBound) {
  const Bytes before = block_of_version(5);
  Bytes after = block_of_version(6);
  for (std::size_t i = block_header_size; i < block_size; i += 16) {
    std::fill_n(after.begin() + i, 8, std::byte{1});
  }
  RecordBuilder builder;
  builder.add_delta(inode_17, before, after);
  EXPECT_LE(builder.size(), record_size_bound(1));
  EXPECT_EQ(replayed(before, after), after);
}

TEST(LogRecord, SeveralChangesKeepTheirOrder) {
  RecordBuilder builder;
  builder.add_image({piece_segment, 3}, block_of_version(1));
  builder.add_image(inode_17, block_of_version(2));
  const Bytes record = builder.take();
  const auto changes = decode_record(record);
  ASSERT_TRUE(changes);
  ASSERT_EQ(changes->size(), 2u);
  EXPECT_EQ(changes->at(0).block, (BlockId{piece_segment, 3}));
  EXPECT_EQ(changes->at(1).version, 2u);
}

// Whatever the bytes are: a result or an error, and what decodes applies within the block.
TEST(LogRecord, DamagedRecordsAreRefusedOrHarmless) {
  SeededRandom random(2);
  const Bytes before = block_of_version(5);
  Bytes after = before;
  set_version(after, 6);
  for (std::size_t i = 100; i < 4000; i += 300) after[i] = std::byte{9};
  RecordBuilder builder;
  builder.add_delta(inode_17, before, after);
  builder.add_image(inode_17, after);
  const Bytes record = builder.take();
  for (int round = 0; round < 20000; ++round) {
    Bytes damaged = record;
    for (std::uint64_t flips = 1 + random() % 4; flips > 0; --flips) {
      damaged[random() % damaged.size()] = std::byte(random());
    }
    if (random() % 4 == 0) damaged.resize(random() % damaged.size());
    Bytes block = before;
    if (const auto changes = decode_record(damaged)) {
      for (const Change& change : *changes) apply_change(change, block);
    }
  }
}

TEST(LogRecord, ErrorsSayWhatIsWrong) {
  EXPECT_EQ(decode_record({}).error().what, "log record without a change");
  RecordBuilder builder;
  builder.add_image(inode_17, block_of_version(5));
  Bytes record = builder.take();
  record[16] = std::byte{6};  // the change claims another version than the image
  EXPECT_EQ(decode_record(record).error().what,
            "log record of inode 17 version 6 (image of another version)");
  record.pop_back();
  EXPECT_EQ(decode_record(record).error().what, "log record is cut off");
}

}  // namespace
}  // namespace plumeria::format
