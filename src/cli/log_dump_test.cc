// What `plumeria logdump` prints, of real logs in a real store.
#include "cli/log_dump.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "cli/runtime.h"
#include "cli/store.h"
#include "format/log_record.h"
#include "mount/mount.h"
#include "wal/log.h"

namespace plumeria::cli {
namespace {

using testing::HasSubstr;
using testing::Not;

constexpr std::uint32_t slot = 3;
constexpr lock::LeaseNumber lease{7};
constexpr format::BlockId inode_17{format::inode_segment, 17}, piece_2{format::piece_segment, 2};
const disk::Segment segment{format::log_segment(slot)};

class LogDumpTest : public testing::Test {
 protected:
  LogDumpTest() {
    std::string pattern = testing::TempDir() + "plumeria-logdump-XXXXXX";
    folder = ::mkdtemp(pattern.data());
    store = *os::HostStore::create(runtime.executor, runtime.pool, folder + "/store", {});
    mount::FormatOptions options;
    options.log_size = wal::log_size_min;
    options.lease = lease;
    EXPECT_TRUE(run(store->admit(lease)));
    EXPECT_TRUE(run(mount::format_store(*store, options)));
    superblock = *run(read_superblock(*store));
  }
  ~LogDumpTest() override {
    store.reset();
    std::filesystem::remove_all(folder);
  }

  template <class T>
  T run(Task<T> task) {
    return runtime.executor.run_until_done(std::move(task));
  }

  // Three chunks: an image of an inode; a delta of it; a delta with an image of a piece.
  void write_log() {
    wal::Log log(runtime.world(), *store, slot, wal::log_size_min, lease);
    ASSERT_TRUE(run(log.start()));
    Bytes inode = block(format::BlockType::inode, 17, 5);
    format::RecordBuilder record;
    record.add_image(inode_17, inode);
    append(log, record);
    change(record, inode, 1000, 0xab);
    append(log, record);
    change(record, inode, 2000, 0xcd);
    record.add_image(piece_2, block(format::BlockType::piece, 2, 9));
    append(log, record);
    run(log.settled());
  }

  // The log as it is printed, and what the report says.
  std::string dump(LogDumpOptions options = {}) {
    std::string text;
    options.store = "STORE";
    const auto done = run(dump_logs(runtime.world(), *store, superblock, std::move(options),
                                    [&text](std::string_view part) { text += part; }));
    EXPECT_TRUE(done) << done.error().message();
    report = done ? *done : LogDumpReport{};
    return text;
  }
  nlohmann::json dump_json(LogDumpOptions options = {}) {
    options.json = true;
    return nlohmann::json::parse(dump(std::move(options)));
  }
  void overwrite(std::uint64_t offset, Bytes bytes) {
    EXPECT_TRUE(run(store->write({segment, offset}, SharedBytes(std::move(bytes)), lease,
                                 disk::Durability::retain)));
  }

  std::string folder;
  Runtime runtime;
  std::unique_ptr<os::HostStore> store;
  format::Superblock superblock;
  LogDumpReport report;

 private:
  static Bytes block(format::BlockType type, std::uint64_t owner, std::uint64_t version) {
    Bytes bytes(format::block_size);
    format::format_block(bytes, type, owner, version);
    return bytes;
  }
  static void change(format::RecordBuilder& record, Bytes& inode, std::size_t at, int value) {
    const Bytes before = inode;
    inode[at] = std::byte(value);
    format::set_version(inode, format::version_of(inode) + 1);
    record.add_delta(inode_17, before, inode);
  }
  void append(wal::Log& log, format::RecordBuilder& record) {
    auto room = run(log.reserve(record.size()));
    ASSERT_TRUE(log.append(record.take(), *room));
    ASSERT_TRUE(run(log.sync_all()));
  }
};

TEST_F(LogDumpTest, AStoreThatWasNeverMountedHasNoLog) {
  EXPECT_EQ(dump(), "store STORE, logs of 1048576 bytes\n");
  EXPECT_EQ(report.logs, 0u);
  EXPECT_THAT(dump({.slot = 5}), HasSubstr("log of slot 5: never used\n"));
  EXPECT_EQ(dump_json({.slot = 5})["logs"][0]["ended"], "never used");
}

TEST_F(LogDumpTest, EveryRecordAndChangeIsPrinted) {
  write_log();
  const std::string text = dump();
  EXPECT_EQ(report.logs, 1u);
  EXPECT_EQ(report.damaged, 0u);
  EXPECT_THAT(text, HasSubstr("log of slot 3: in use\n  valid header: generation "));
  EXPECT_THAT(text, HasSubstr("lease 7, from position 0 and record 1 on"));
  EXPECT_THAT(text, HasSubstr(R"(
  chunk at position 0: 512 bytes, records 1 to 1; before it durable to 0
    record 1: 60 bytes
      inode 17                 version 5        image of 32 bytes
)"));
  EXPECT_THAT(text, HasSubstr(R"(
    record 3: 93 bytes
      inode 17                 version 7        delta of 5 bytes
      piece 2                  version 9        image of 32 bytes
  end at position 1536 after 3 records in 3 chunks
)"));
}

TEST_F(LogDumpTest, JsonHoldsTheSame) {
  write_log();
  const auto log = dump_json({.ranges = true})["logs"][0];
  EXPECT_EQ(log["slot"], slot);
  EXPECT_EQ(log["header"]["lease"], 7);
  EXPECT_EQ(log["ended"], "end");
  EXPECT_EQ(log["position"], 1536);
  EXPECT_EQ(log["record_count"], 3);
  ASSERT_EQ(log["chunks"].size(), 3u);
  const auto record = log["chunks"][2]["records"][0];
  EXPECT_EQ(record["number"], 3);
  EXPECT_EQ(record["changes"][0]["ranges"],
            nlohmann::json::parse(R"([{"offset": 2000, "length": 1, "bytes": "cd"}])"));
  EXPECT_EQ(record["changes"][1]["block"], "piece 2");
  EXPECT_FALSE(record["changes"][1].contains("ranges"));
}

TEST_F(LogDumpTest, OnlyWhatChangesOneBlock) {
  write_log();
  const std::string text = dump({.block = BlockFilter{format::piece_segment, 2}});
  EXPECT_THAT(text, HasSubstr("piece 2"));
  EXPECT_THAT(text, Not(HasSubstr("inode 17")));
  EXPECT_THAT(text, Not(HasSubstr("record 1:")));
  EXPECT_THAT(text, HasSubstr("after 3 records in 3 chunks")) << "the log itself is as it is";
  EXPECT_THAT(dump({.block = BlockFilter{format::piece_segment, 3}}), Not(HasSubstr("chunk at")));
}

TEST_F(LogDumpTest, ATornEndIsToldFromAnOrdinaryOne) {
  write_log();
  // Half of a chunk, as its writer's death leaves it: intact but for its last byte.
  format::ChunkBuilder builder;
  builder.add(as_bytes(std::string(600, 'x')));
  format::ChunkHeader header{.lease = 7, .slot = slot, .position = 1536, .durable = 1536};
  header.first = 4;
  Bytes chunk = std::move(builder).finish(header);
  chunk.back() ^= std::byte{1};
  overwrite(format::log_ring_start + 1536, std::move(chunk));
  EXPECT_THAT(dump(), HasSubstr("torn: a chunk was begun at position 1536"));
  EXPECT_EQ(dump_json()["logs"][0]["ended"], "torn");
  EXPECT_EQ(report.damaged, 0u);
}

TEST_F(LogDumpTest, DamageIsToldAndWhatComesBeforeItIsPrinted) {
  write_log();
  overwrite(format::log_ring_start + 512 + 80, Bytes(8, std::byte{0xff}));
  const std::string text = dump();
  EXPECT_THAT(text, HasSubstr("record 1:"));
  EXPECT_THAT(text, Not(HasSubstr("record 2:")));
  EXPECT_THAT(text, HasSubstr("damaged: log of slot 3 (no valid chunk at position 512"));
  EXPECT_EQ(report.damaged, 1u);
  EXPECT_EQ(dump_json()["logs"][0]["ended"], "damaged");
}

TEST_F(LogDumpTest, WithoutAHeaderNothingIsPrintedButTheDamage) {
  write_log();
  overwrite(0, Bytes(2 * format::block_size, std::byte{0xff}));
  EXPECT_THAT(dump(), HasSubstr("log of slot 3: no header\n  damaged: log of slot 3, block "));
  EXPECT_EQ(report.damaged, 1u);
  EXPECT_FALSE(dump_json()["logs"][0].contains("header"));
}

TEST(BlockFilter, Names) {
  struct Row {
    const char* text;
    format::BlockId block;
  };
  for (const Row& row : {Row{"inode:17", inode_17}, Row{"piece:2", piece_2},
                         Row{"directory:1", {format::directory_segment, 1}},
                         Row{"orphans:4", {format::orphan_segment(4), 9}}}) {
    const auto filter = parse_block_filter(row.text);
    ASSERT_TRUE(filter) << row.text;
    EXPECT_TRUE(filter->matches(row.block)) << row.text;
    EXPECT_FALSE(filter->matches({format::small_segment, row.block.number})) << row.text;
  }
  for (const char* wrong :
       {"", "inode", "inode:", "inode:x", "inode:-1", "file:3", "orphans:4294967296"}) {
    EXPECT_FALSE(parse_block_filter(wrong)) << wrong;
  }
}

}  // namespace
}  // namespace plumeria::cli
