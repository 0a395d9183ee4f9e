#include "wal/log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/seeded_random.h"
#include "wal/log_reader.h"
#include "wal/test_disk.h"

namespace plumeria::wal {
namespace {

using lock::LeaseNumber;
using ::testing::ElementsAre;
using ::testing::ElementsAreArray;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr std::uint32_t slot = 3;
constexpr LeaseNumber lease{7};
const disk::Segment segment{format::log_segment(slot)};

struct Recovered {
  LogContents contents;
  std::vector<std::string> records;
};

class LogTest : public ::testing::Test, public TestWorld {
 public:
  LogTest() { make(lease); }

  void make(LeaseNumber owner) {
    log.reset();
    log.emplace(world, disk, slot, log_size_min, owner);
  }
  void start_log() {
    const Status started = wait_for(log->start());
    ASSERT_TRUE(started) << started.error().message();
  }
  LogPosition append(std::string_view text) {
    auto room = wait_for(log->reserve(text.size()));
    CHECK(room.has_value());
    return log->append(as_bytes(text), *room).value();
  }
  void sync() { ASSERT_TRUE(wait_for(log->sync_all())); }

  // Reads what a recovery would find on `from`.
  Result<Recovered> read(TestDisk::Contents from) {
    TestWorld other;
    TestDisk copy(other.executor, 1, std::move(from));
    Recovered recovered;
    auto visitor = [&recovered](const LogRecord& record) -> Status {
      recovered.records.emplace_back(as_text(record.bytes));
      return {};
    };
    auto contents = other.wait_for(
        read_log(copy, slot, log_size_min, DamageCheck::whole_ring, std::move(visitor)));
    if (!contents) return fail(contents.error());
    recovered.contents = *contents;
    return recovered;
  }
  std::vector<std::string> records_after_cut() {
    auto recovered = read(disk.after_power_cut());
    EXPECT_TRUE(recovered) << recovered.error().message();
    return recovered ? recovered->records : std::vector<std::string>{"unreadable"};
  }
  // What a replay leaves behind.
  void empty_the_log() {
    auto contents = wait_for(read_log(disk, slot, log_size_min, DamageCheck::whole_ring,
                                      [](const LogRecord&) { return Status{}; }));
    ASSERT_TRUE(contents) << contents.error().message();
    ASSERT_TRUE(wait_for(mark_empty(disk, *contents, LeaseNumber{1})));
    ASSERT_TRUE(wait_for(disk.flush()));
  }

  TestDisk disk{executor, 1};
  std::optional<Log> log;
};

TEST_F(LogTest, SyncedRecordsSurviveAndOthersDoNot) {
  start_log();
  append("one");
  append("two");
  sync();
  EXPECT_EQ(log->durable(), LogPosition{2});
  append("three");
  EXPECT_EQ(log->end(), LogPosition{3});
  EXPECT_THAT(records_after_cut(), ElementsAre("one", "two"));
}

TEST_F(LogTest, ARecordThatIsTornIsIgnoredWithAllAfterIt) {
  start_log();
  append("kept");
  sync();
  append(std::string(3000, 'x'));
  sync();
  // One sector of the second chunk is missing, as if its flush had never returned.
  auto left = disk.visible();
  TestDisk::put(left, {segment, format::log_ring_start + 512 + 1024}, Bytes(512));
  EXPECT_FALSE(read(disk.visible())->contents.torn);
  auto recovered = read(left);
  ASSERT_TRUE(recovered) << recovered.error().message();
  EXPECT_THAT(recovered->records, ElementsAre("kept"));
  EXPECT_TRUE(recovered->contents.torn);
}

TEST_F(LogTest, DamageBelowWhatWasDurableIsReported) {
  start_log();
  append("first");
  sync();
  append("second");
  sync();
  append("third");
  sync();
  auto left = disk.visible();
  left[segment][format::log_ring_start + 100] ^= std::byte{1};
  auto recovered = read(left);
  ASSERT_FALSE(recovered);
  EXPECT_EQ(recovered.error().code, Errc::corrupt);
  EXPECT_THAT(recovered.error().what, HasSubstr("log of slot 3 (no valid chunk at position 0"));
}

TEST_F(LogTest, ATornHeaderLeavesTheOtherOneUsable) {
  start_log();
  append("trimmed");
  sync();
  append("kept");
  sync();
  ASSERT_TRUE(wait_for(log->trim(LogPosition{1})));
  sync();  // writes header 2, into block 0
  auto left = disk.visible();
  auto whole = read(left);
  ASSERT_TRUE(whole);
  EXPECT_THAT(whole->records, ElementsAre("kept"));

  TestDisk::put(left, {segment, 0}, Bytes(512, std::byte{0xaa}));
  auto recovered = read(left);
  ASSERT_TRUE(recovered) << recovered.error().message();
  EXPECT_THAT(recovered->records, ElementsAre("trimmed", "kept"));

  TestDisk::put(left, {segment, format::block_size}, Bytes(512, std::byte{0xaa}));
  EXPECT_EQ(read(left).error().message(), "log of slot 3, block 1 (bad magic): damaged");
}

TEST_F(LogTest, ALostHeaderWhoseRoomWasUsedAgainIsReported) {
  start_log();  // header 1, in block 1
  for (int i = 0; i < 3; ++i) append(std::string(200'000, 'x'));
  sync();
  ASSERT_TRUE(wait_for(log->trim(log->end())));
  sync();                                                         // header 2, in block 0
  for (int i = 0; i < 3; ++i) append(std::string(200'000, 'x'));  // goes over the first ones
  sync();

  auto left = disk.visible();
  left[segment][format::block_size + 50] ^= std::byte{1};
  auto recovered = read(left);
  ASSERT_TRUE(recovered) << recovered.error().message();
  EXPECT_EQ(recovered->records.size(), 3u) << "the older header is no loss";

  left = disk.visible();
  left[segment][50] ^= std::byte{1};
  recovered = read(left);
  ASSERT_FALSE(recovered);
  EXPECT_THAT(recovered.error().what, HasSubstr("but lease 7 has written on to position"));
}

TEST_F(LogTest, GoesRoundTheEndOfTheRing) {
  start_log();
  std::vector<std::string> kept;
  for (int i = 0; i < 40; ++i) {
    kept.push_back(std::to_string(i) + std::string(70'000 + i, 'x'));
    append(kept.back());
    sync();
    if (kept.size() > 5) {
      ASSERT_TRUE(wait_for(log->trim(before(before(log->durable())))));
      kept.erase(kept.begin(), kept.end() - 2);
    }
  }
  sync();
  const auto records = records_after_cut();
  ASSERT_GE(records.size(), kept.size());
  EXPECT_THAT(std::vector(records.end() - kept.size(), records.end()), ElementsAreArray(kept));
  EXPECT_GT(log->status().bytes_written, 2 * log_size_min);
}

TEST_F(LogTest, AnOldTailIsNotTakenForANewOne) {
  start_log();
  append("old 1");
  sync();
  append("old 2");
  sync();
  // The power cut took the header that a trim would have written: emptied at its start.
  empty_the_log();
  auto header = *wait_for(read_log_header(disk, slot));
  make(LeaseNumber{8});
  start_log();
  EXPECT_EQ(header.header.start, 1024u) << "a new owner goes on where the old one ended";

  // Even at the same place, with the same numbers and sizes.
  auto contents = disk.visible();
  format::LogHeader same = wait_for(read_log_header(disk, slot))->header;
  ++same.generation;
  same.start = same.durable = 0;
  const auto block = format::log_header_block(slot, same.generation);
  TestDisk::put(contents, {segment, block.offset()}, format::encode_log_header(same));
  auto recovered = read(contents);
  ASSERT_TRUE(recovered) << recovered.error().message();
  EXPECT_THAT(recovered->records, IsEmpty());
}

TEST_F(LogTest, RecordsThatWereNotReplayedAreNotOverwritten) {
  start_log();
  append("somebody needs this");
  sync();
  make(LeaseNumber{8});
  const Status started = wait_for(log->start());
  ASSERT_FALSE(started);
  EXPECT_EQ(started.error().what,
            "log of slot 3 (holds 1 records of lease 7 that were not replayed)");
  empty_the_log();
  make(LeaseNumber{9});
  start_log();
  append("new");
  sync();
  EXPECT_THAT(records_after_cut(), ElementsAre("new"));
}

TEST_F(LogTest, TheLastChunkIsVouchedForWhenTheLogIsIdle) {
  start_log();
  append("one");
  sync();
  append("two");
  sync();
  const auto flip_last = [](TestDisk::Contents contents) {
    Bytes& log_bytes = contents[segment];
    for (std::size_t at = log_bytes.size(); at-- > 0;) {
      if (log_bytes[at] == std::byte{0}) continue;
      log_bytes[at] ^= std::byte{1};
      break;
    }
    return contents;
  };
  // At once it looks like a torn end …
  const auto torn = read(flip_last(disk.visible()));
  ASSERT_TRUE(torn);
  EXPECT_THAT(torn->records, ElementsAre("one"));
  executor.advance(20ms);
  // … and later it is damage, while a power cut takes no more than the header.
  const auto damaged = read(flip_last(disk.visible()));
  ASSERT_FALSE(damaged);
  EXPECT_THAT(damaged.error().what, HasSubstr("it was durable to"));
  for (int cut = 0; cut < 20; ++cut) EXPECT_THAT(records_after_cut(), ElementsAre("one", "two"));
  // The log goes on from there.
  append("three");
  sync();
  EXPECT_THAT(records_after_cut(), ElementsAre("one", "two", "three"));
}

TEST_F(LogTest, ALogOfAnotherSizeIsRefused) {
  start_log();
  Log other(world, disk, slot, 2 * log_size_min, LeaseNumber{8});
  EXPECT_THAT(wait_for(other.start()).error().what, HasSubstr("made with 1048576 bytes"));
}

TEST_F(LogTest, WhoSyncsTogetherSharesAFlush) {
  start_log();
  const std::uint64_t flushes = disk.flushes, writes = disk.writes;
  TaskScope scope;
  std::vector<std::shared_ptr<std::optional<Status>>> done;
  for (int i = 0; i < 100; ++i) done.push_back(start(scope, log->sync(append("record"))));
  executor.advance(1ms);
  for (const auto& status : done) ASSERT_TRUE(status->has_value() && (*status)->has_value());
  EXPECT_LE(disk.flushes - flushes, 3u) << "the first round takes what there is, the next the rest";
  EXPECT_EQ(disk.writes - writes, disk.flushes - flushes);
}

TEST_F(LogTest, SyncFlushesAlsoWithoutARecord) {
  start_log();
  const std::uint64_t flushes = disk.flushes, writes = disk.writes;
  sync();
  EXPECT_EQ(disk.flushes, flushes + 1) << "it is what makes file data durable";
  EXPECT_EQ(disk.writes, writes);
}

TEST_F(LogTest, ReserveWaitsForRoomInOrder) {
  start_log();
  std::vector<Reservation> held;
  while (log->pressure() < 0.7) held.push_back(*wait_for(log->reserve(record_size_max / 4)));
  TaskScope scope;
  const auto big = start(scope, log->reserve(500'000));
  const auto small = start(scope, log->reserve(100));
  executor.advance(1ms);
  EXPECT_FALSE(big->has_value());
  EXPECT_FALSE(small->has_value()) << "overtook one who came before";

  const auto revoke = start(scope, log->reserve(100, /*for_revoke=*/true));
  executor.advance(1ms);
  EXPECT_TRUE(revoke->has_value()) << "giving up a lock never waits behind others";

  held.clear();
  executor.advance(1ms);
  ASSERT_TRUE(big->has_value() && small->has_value());
  EXPECT_GE((**big)->left(), 500'000u);
}

TEST_F(LogTest, TrimmedRoomIsUsedOnlyWhenItsHeaderIsDurable) {
  start_log();
  while (log->pressure() < 0.95) append(std::string(30'000, 'x'));
  sync();
  TaskScope scope;
  const auto room = start(scope, log->reserve(200'000));
  executor.advance(1ms);
  EXPECT_FALSE(room->has_value());
  const std::uint64_t flushes = disk.flushes;
  ASSERT_TRUE(wait_for(log->trim(log->durable())));
  EXPECT_EQ(log->trimmed(), log->end());
  EXPECT_FALSE(room->has_value()) << "the old header still needs the old records";
  executor.advance(1ms);
  EXPECT_TRUE(room->has_value());
  EXPECT_EQ(disk.flushes, flushes + 1);
  EXPECT_LT(log->status().used, 1024u);
}

TEST_F(LogTest, PressureIsToldWhenHalfIsPassedAndWhenSomebodyWaits) {
  int told = 0;
  log->on_pressure([&told] { ++told; });
  start_log();
  while (log->pressure() <= 0.5) {
    EXPECT_EQ(told, 0);
    append(std::string(30'000, 'x'));
  }
  executor.run();
  EXPECT_EQ(told, 1);
  while (log->pressure() < 0.95) append(std::string(30'000, 'x'));
  executor.run();
  EXPECT_EQ(told, 1);
  TaskScope scope;
  const auto room = start(scope, log->reserve(200'000));
  executor.run();
  EXPECT_EQ(told, 2);
  sync();
  EXPECT_GE(told, 3) << "the round did not help";
}

TEST_F(LogTest, MoreThanTheLogCanHoldIsAnError) {
  start_log();
  auto room = wait_for(log->reserve(log_size_min));
  ASSERT_FALSE(room);
  EXPECT_EQ(room.error().code, Errc::log_full);
}

TEST_F(LogTest, AReservationPaysForOneRecordOfItsSize) {
  start_log();
  const std::uint64_t records = 3;
  const std::uint64_t bytes = 100 * records + record_overhead * (records - 1);
  Reservation room = *wait_for(log->reserve(bytes));
  for (std::uint64_t i = 0; i < records; ++i) {
    ASSERT_TRUE(log->append(Bytes(100), room));
    sync();  // each in a chunk of its own
  }
  EXPECT_EQ(room.left(), 0u);
  EXPECT_EQ(log->status().reserved, 0u);
}

TEST_F(LogTest, AFailedWriteSealsTheLog) {
  start_log();
  append("one");
  disk.fail_writes = Error{Errc::fenced, "test"};
  TaskScope scope;
  Reservation room = *wait_for(log->reserve(100));
  while (log->pressure() < 0.9) append(std::string(30'000, 'x'));
  const auto waiting = start(scope, log->reserve(400'000));
  EXPECT_EQ(wait_for(log->sync_all()).error().code, Errc::fenced);
  executor.run();
  ASSERT_TRUE(waiting->has_value());
  EXPECT_EQ((*waiting)->error().code, Errc::fenced);
  EXPECT_EQ(log->append(as_bytes("two"), room).error().code, Errc::fenced);
  EXPECT_EQ(wait_for(log->reserve(1)).error().code, Errc::fenced);
  EXPECT_EQ(wait_for(log->trim(LogPosition{1})).error().code, Errc::fenced);
  EXPECT_EQ(wait_for(log->finish()).error().code, Errc::fenced);
  EXPECT_EQ(log->durable(), LogPosition::none);
}

TEST_F(LogTest, AFailedFlushSealsTheLog) {
  start_log();
  append("one");
  disk.fail_flushes = Error{Errc::io, "test"};
  EXPECT_EQ(wait_for(log->sync_all()).error().code, Errc::io);
  disk.fail_flushes.reset();
  EXPECT_EQ(wait_for(log->sync_all()).error().code, Errc::io) << "its writes may be lost by now";
}

TEST_F(LogTest, AFinishedLogIsEmptyAndStartsAgain) {
  start_log();
  append("one");
  sync();
  ASSERT_TRUE(wait_for(log->trim(log->end())));
  ASSERT_TRUE(wait_for(log->finish()));
  EXPECT_EQ(wait_for(log->sync_all()).error().code, Errc::shut_down);
  EXPECT_THAT(records_after_cut(), IsEmpty());
  make(LeaseNumber{8});
  start_log();
  append("two");
  sync();
  EXPECT_THAT(records_after_cut(), ElementsAre("two"));
}

// Appends, syncs, trims and finishes at random; cuts the power at a random moment. What is read
// back is a part of what was appended without a gap, holds everything that was durable and not
// trimmed, and is never called damaged. Then the next owner goes on with what the cut has left.
TEST(LogPowerCut, WhatWasDurableIsReadBackAndNothingElse) {
  for (std::uint64_t seed = 1; seed <= 100; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    SeededRandom random(seed);
    TestDisk::Contents contents;
    for (std::uint64_t owner = 1; owner <= 3; ++owner) {
      std::vector<std::string> appended;
      LogPosition durable{}, trimmed{};
      {
        TestWorld test;
        TestDisk disk(test.executor, seed * 10 + owner, contents);
        Log log(test.world, disk, slot, log_size_min, LeaseNumber{owner});
        const Status started = test.wait_for(log.start());
        ASSERT_TRUE(started) << started.error().message();
        TaskScope scope;
        for (std::uint64_t steps = random() % 150; steps > 0; --steps) {
          const std::uint64_t size = random() % (random() % 8 == 0 ? 200'000 : 2'000);
          auto room = test.start(scope, log.reserve(size));
          if (!room->has_value()) {
            (void)test.start(scope, log.trim(log.durable()));
            test.executor.advance(1ms);
          }
          if (room->has_value()) {
            appended.push_back(std::to_string(appended.size()));
            appended.back().resize(std::max<std::size_t>(size, appended.back().size()), 'x');
            if (appended.back().size() <= (**room)->left()) {
              ASSERT_TRUE(log.append(as_bytes(appended.back()), ***room));
            } else {
              appended.pop_back();
            }
          }
          if (random() % 3 == 0) (void)test.start(scope, log.sync_all());
          if (random() % 10 == 0) {
            (void)test.start(scope, log.trim(LogPosition{random() % (raw(log.end()) + 1)}));
          }
          test.executor.advance(std::chrono::microseconds(random() % 20));
        }
        durable = log.durable();
        trimmed = log.trimmed();
        contents = disk.after_power_cut();
      }
      TestWorld test;
      TestDisk disk(test.executor, 1, contents);
      std::vector<std::pair<LogPosition, std::string>> found;
      auto visitor = [&found](const LogRecord& record) -> Status {
        found.emplace_back(record.number, as_text(record.bytes));
        return {};
      };
      auto read = test.wait_for(
          read_log(disk, slot, log_size_min, DamageCheck::whole_ring, std::move(visitor)));
      ASSERT_TRUE(read) << read.error().message();
      for (std::size_t i = 0; i < found.size(); ++i) {
        ASSERT_EQ(raw(found[i].first), raw(found[0].first) + i);
        ASSERT_EQ(found[i].second, appended[raw(found[i].first) - 1]);
      }
      if (durable > trimmed) {
        ASSERT_FALSE(found.empty());
        ASSERT_LE(found.front().first, next(trimmed));
        ASSERT_GE(found.back().first, durable);
      }
      ASSERT_TRUE(test.wait_for(mark_empty(disk, *read, LeaseNumber{owner})));
      ASSERT_TRUE(test.wait_for(disk.flush()));
      contents = disk.visible();
    }
  }
}

}  // namespace
}  // namespace plumeria::wal
