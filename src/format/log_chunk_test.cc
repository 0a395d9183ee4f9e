#include "format/log_chunk.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace plumeria::format {
namespace {

Bytes chunk_of(std::vector<std::string> records, ChunkHeader& header) {
  ChunkBuilder builder;
  for (const std::string& record : records) builder.add(as_bytes(record));
  return std::move(builder).finish(header);
}

TEST(LogChunk, RecordsComeBack) {
  ChunkHeader header{.lease = 7, .slot = 3, .position = 1024, .durable = 512, .first = 11};
  header.predecessor = 99;
  const Bytes chunk = chunk_of({"one", "", "three"}, header);
  EXPECT_EQ(chunk.size(), log_sector);
  EXPECT_EQ(header.last, 13u);

  const auto read = decode_chunk(chunk);
  ASSERT_TRUE(read);
  EXPECT_EQ(read->lease, 7u);
  EXPECT_EQ(read->slot, 3u);
  EXPECT_EQ(read->position, 1024u);
  EXPECT_EQ(read->end(), 1024u + 512);
  EXPECT_EQ(read->durable, 512u);
  EXPECT_EQ(read->predecessor, 99u);
  EXPECT_EQ(read->checksum, header.checksum);
  const auto records = chunk_records(*read, chunk);
  ASSERT_TRUE(records);
  ASSERT_EQ(records->size(), 3u);
  EXPECT_EQ(as_text(records->at(0)), "one");
  EXPECT_EQ(as_text(records->at(1)), "");
  EXPECT_EQ(as_text(records->at(2)), "three");
}

TEST(LogChunk, TornAtAnySectorIsNoChunk) {
  ChunkHeader header{.lease = 7, .slot = 3, .first = 1};
  const Bytes chunk = chunk_of({std::string(3000, 'x'), std::string(2000, 'y')}, header);
  for (std::size_t sector = 0; sector < chunk.size(); sector += log_sector) {
    Bytes torn = chunk;
    std::fill_n(torn.begin() + sector, log_sector, std::byte{0});
    EXPECT_FALSE(decode_chunk(torn)) << "sector " << sector;
    EXPECT_FALSE(decode_chunk(ByteView(chunk).first(sector))) << "cut off at " << sector;
  }
  EXPECT_TRUE(decode_chunk(chunk));
}

TEST(LogChunk, EveryFlippedBitIsSeen) {
  ChunkHeader header{.lease = 7, .slot = 3, .first = 1};
  const Bytes chunk = chunk_of({"record"}, header);
  for (std::size_t bit = 0; bit < chunk.size() * 8; ++bit) {
    Bytes flipped = chunk;
    flipped[bit / 8] ^= std::byte(1 << (bit % 8));
    EXPECT_FALSE(decode_chunk(flipped)) << "bit " << bit;
  }
}

TEST(LogChunk, ALargestChunkHasTheLargestSize) {
  ChunkBuilder builder;
  const Bytes record(100'000);
  while (builder.fits(record.size())) builder.add(record);
  const std::size_t left = chunk_size_max - builder.size();
  ASSERT_TRUE(builder.fits(left - record_prefix_size));
  builder.add(Bytes(left - record_prefix_size));
  EXPECT_FALSE(builder.fits(log_sector));
  EXPECT_EQ(builder.size(), chunk_size_max);
  ChunkHeader header{.first = 1};
  EXPECT_TRUE(decode_chunk(std::move(builder).finish(header)));
}

TEST(LogHeader, ComesBack) {
  const LogHeader header{.generation = 6,
                         .state = LogState::in_use,
                         .slot = 4,
                         .lease = 12,
                         .start = 512 * 77,
                         .predecessor = 5,
                         .first = 900,
                         .log_size = 64 << 20};
  const Bytes block = encode_log_header(header);
  const auto read = decode_log_header(block, log_header_block(4, 6));
  ASSERT_TRUE(read) << read.error().message();
  EXPECT_EQ(*read, header);
}

TEST(LogHeader, ZerosAreNoHeaderAndDamageIsNamed) {
  const BlockId id = log_header_block(4, 1);
  EXPECT_EQ(*decode_log_header(Bytes(block_size), id), LogHeader{});

  Bytes block = encode_log_header({.generation = 1, .slot = 4, .log_size = 1 << 20});
  EXPECT_FALSE(decode_log_header(block, log_header_block(4, 2))) << "it is the other block";
  Bytes newer = block;
  newer[32] = std::byte{2};
  seal(newer, id);
  EXPECT_EQ(decode_log_header(newer, id).error().code, Errc::version);
  block[50] ^= std::byte{1};
  EXPECT_EQ(decode_log_header(block, id).error().message(),
            "log of slot 4, block 1 (bad checksum): damaged");
}

}  // namespace
}  // namespace plumeria::format
