// The contract of disk/disk.h as tests, for every implementation.
//
// A test program of an implementation includes this, writes a ContractHarness for it and says
//   INSTANTIATE_TEST_SUITE_P(Mine, DiskContract, testing::Values(ContractCase{"mine", make_mine}),
//                            contract_case_name);
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/async.h"
#include "disk/disk.h"
#include "disk/snapshot_view.h"

namespace plumeria::disk {

// A fresh, empty disk and the executor that it runs on.
class ContractHarness {
 public:
  virtual ~ContractHarness() = default;
  virtual VirtualDisk& disk() = 0;
  // Where leases are admitted and fenced: the disk of the process that owns the store.
  virtual VirtualDisk& owner() { return disk(); }
  virtual Executor& executor() = 0;
  // Runs the executor until `task` has ended.
  virtual void run(Task<void> task) = 0;
};

struct ContractCase {
  std::string name;
  std::function<std::unique_ptr<ContractHarness>()> make;
};
inline std::string contract_case_name(const testing::TestParamInfo<ContractCase>& info) {
  return info.param.name;
}

class DiskContract : public testing::TestWithParam<ContractCase> {
 protected:
  void SetUp() override {
    harness_ = GetParam().make();
    ASSERT_TRUE(wait(harness_->owner().admit(me)));
  }

  VirtualDisk& disk() { return harness_->disk(); }
  VirtualDisk& owner() { return harness_->owner(); }
  Executor& executor() { return harness_->executor(); }

  template <class T>
  T wait(Task<T> task) {
    struct Run {
      static Task<void> keep(Task<T> inner, std::optional<T>* result) {
        result->emplace(co_await inner);
      }
    };
    std::optional<T> result;
    harness_->run(Run::keep(std::move(task), &result));
    return std::move(*result);
  }
  template <class T>
  std::vector<T> wait_for_all(std::vector<Task<T>> tasks) {
    return wait(gather(executor(), std::move(tasks)));
  }

  static Bytes pattern(std::size_t length, std::uint64_t seed) {
    Bytes bytes(length);
    std::uint64_t state = seed * 0x9e3779b97f4a7c15 + 1;
    for (std::byte& b : bytes) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      b = static_cast<std::byte>((state >> 56) | 1);  // never zero
    }
    return bytes;
  }
  Bytes read(Address from, std::uint64_t length) {
    Result<Bytes> bytes = wait(disk().read(from, length));
    EXPECT_TRUE(bytes) << bytes.error().message();
    if (!bytes) return Bytes(length);
    EXPECT_EQ(bytes->size(), length);
    return *std::move(bytes);
  }
  Status write(Address to, Bytes data, LeaseNumber lease = me,
               Durability durability = Durability::retain) {
    return wait(disk().write(to, SharedBytes(std::move(data)), lease, durability));
  }
  Bytes read_snapshot(SnapshotId id, Address from, std::uint64_t length) {
    Result<Bytes> bytes = wait(disk().read_snapshot(id, from, length));
    EXPECT_TRUE(bytes) << bytes.error().message();
    if (!bytes) return Bytes(length);
    EXPECT_EQ(bytes->size(), length);
    return *std::move(bytes);
  }
  SnapshotId make_snapshot(const std::string& name) {
    const Result<SnapshotId> made = wait(disk().create_snapshot(name, WallTime{7}, me));
    EXPECT_TRUE(made) << made.error().message();
    return made ? *made : SnapshotId::none;
  }
  static Errc code(const auto& result) { return result ? Errc{-1} : result.error().code; }

  static constexpr LeaseNumber me{7};
  static constexpr Segment region{2};
  static constexpr Segment data_segment{(1ull << 63) | 0x1234567};

 private:
  std::unique_ptr<ContractHarness> harness_;
};

TEST_P(DiskContract, WhatWasNeverWrittenReadsAsZeros) {
  EXPECT_TRUE(all_zero(read({region, 0}, 4096)));
  EXPECT_TRUE(all_zero(read({data_segment, 123}, 1000)));
  EXPECT_TRUE(all_zero(read({region, 1ull << 62}, transfer_max)));
  ASSERT_TRUE(write({region, 8192}, pattern(4096, 1)));
  EXPECT_TRUE(all_zero(read({region, 0}, 8192)));
  EXPECT_TRUE(all_zero(read({region, 8192 + 4096}, 8192)));
  EXPECT_TRUE(all_zero(read({Segment{3}, 8192}, 4096)));
}

TEST_P(DiskContract, WhatWasWrittenIsReadWhereverItBeginsAndEnds) {
  Bytes expected(3 * 4096);
  std::uint64_t seed = 0;
  for (const auto& [offset, length] : std::vector<std::pair<std::size_t, std::size_t>>{
           {0, 4096}, {4096, 1}, {4095, 2}, {1, 511}, {513, 7000}, {12287, 1}, {8000, 4096}}) {
    const Bytes data = pattern(length, ++seed);
    ASSERT_TRUE(write({data_segment, offset}, data));
    std::copy(data.begin(), data.end(), expected.begin() + static_cast<std::ptrdiff_t>(offset));
    EXPECT_EQ(read({data_segment, 0}, expected.size()), expected) << offset << "+" << length;
    EXPECT_EQ(read({data_segment, offset}, length), data);
  }
}

TEST_P(DiskContract, TheLongestTransferWorks) {
  const Bytes data = pattern(transfer_max, 3);
  ASSERT_TRUE(write({data_segment, 100}, data));
  EXPECT_EQ(read({data_segment, 100}, transfer_max), data);
}

TEST_P(DiskContract, SegmentsAreApart) {
  std::vector<Segment> segments;
  for (std::uint64_t i = 0; i < 40; ++i) {
    segments.push_back(Segment{(1ull << 63) | i});
    segments.push_back(Segment{(1ull << 32) + i});
  }
  for (std::size_t i = 0; i < segments.size(); ++i) {
    ASSERT_TRUE(write({segments[i], 0}, pattern(512, i)));
  }
  for (std::size_t i = 0; i < segments.size(); ++i) {
    EXPECT_EQ(read({segments[i], 0}, 512), pattern(512, i));
  }
}

TEST_P(DiskContract, AnAcknowledgedWriteIsVisibleToEveryone) {
  ASSERT_TRUE(write({region, 0}, pattern(4096, 1), me, Durability::logged));
  const Result<Bytes> seen = wait(owner().read({region, 0}, 4096));
  ASSERT_TRUE(seen);
  EXPECT_EQ(*seen, pattern(4096, 1));
}

TEST_P(DiskContract, ManyOperationsAtOnceAllArrive) {
  std::vector<Task<Status>> writes;
  for (std::uint64_t i = 0; i < 200; ++i) {
    writes.push_back(disk().write({data_segment, i * 5000}, SharedBytes(pattern(5000, i)), me,
                                  Durability::retain));
  }
  for (const Status& status : wait_for_all(std::move(writes))) EXPECT_TRUE(status);
  std::vector<Task<Result<Bytes>>> reads;
  for (std::uint64_t i = 0; i < 200; ++i) {
    reads.push_back(disk().read({data_segment, i * 5000}, 5000));
  }
  const auto results = wait_for_all(std::move(reads));
  for (std::uint64_t i = 0; i < 200; ++i) {
    ASSERT_TRUE(results[i]);
    EXPECT_EQ(*results[i], pattern(5000, i));
  }
}

TEST_P(DiskContract, DiscardZeroesExactlyItsRange) {
  const std::size_t size = 8 * 4096;
  for (const auto& [from, length] : std::vector<std::pair<std::size_t, std::size_t>>{
           {4096, 4096}, {100, 200}, {4000, 200}, {4000, 9000}, {0, 4097}, {8191, 2}}) {
    Bytes expected = pattern(size, from);
    ASSERT_TRUE(write({data_segment, 0}, expected));
    ASSERT_TRUE(wait(disk().discard({data_segment, from}, length, me)));
    std::fill_n(expected.begin() + static_cast<std::ptrdiff_t>(from), length, std::byte{0});
    EXPECT_EQ(read({data_segment, 0}, size), expected) << from << "+" << length;
  }
}

TEST_P(DiskContract, DiscardMayReachToTheEndOfTheSegment) {
  const std::uint64_t to_the_end = ~std::uint64_t{0};
  ASSERT_TRUE(write({data_segment, 0}, pattern(20000, 1)));
  ASSERT_TRUE(wait(disk().discard({data_segment, 5000}, to_the_end, me)));
  Bytes kept = pattern(20000, 1);
  kept.resize(5000);
  EXPECT_EQ(read({data_segment, 0}, 5000), kept);
  EXPECT_TRUE(all_zero(read({data_segment, 5000}, 100000)));
  ASSERT_TRUE(wait(disk().discard({data_segment, 0}, to_the_end, me)));
  EXPECT_TRUE(all_zero(read({data_segment, 0}, 20000)));
  ASSERT_TRUE(write({data_segment, 10}, pattern(10, 2)));  // and it can be written again
  EXPECT_TRUE(all_zero(read({data_segment, 0}, 10)));
  EXPECT_EQ(read({data_segment, 10}, 10), pattern(10, 2));
  EXPECT_TRUE(all_zero(read({data_segment, 20}, 30000)));
}

TEST_P(DiskContract, DiscardOfWhatWasNeverWrittenIsNoError) {
  EXPECT_TRUE(wait(disk().discard({data_segment, 0}, ~std::uint64_t{0}, me)));
  EXPECT_TRUE(wait(disk().discard({region, 1ull << 40}, 4096, me)));
}

TEST_P(DiskContract, FlushCoversEverythingAndMayBeCalledAtAnyTime) {
  EXPECT_TRUE(wait(disk().flush()));
  ASSERT_TRUE(write({region, 0}, pattern(100, 1)));
  for (std::uint64_t i = 0; i < 50; ++i) {
    ASSERT_TRUE(write({Segment{(1ull << 63) | i}, 0}, pattern(100, i)));
  }
  std::vector<Task<Status>> flushes;
  for (int i = 0; i < 10; ++i) flushes.push_back(disk().flush());
  for (const Status& status : wait_for_all(std::move(flushes))) EXPECT_TRUE(status);
  EXPECT_EQ(read({region, 0}, 100), pattern(100, 1));
}

TEST_P(DiskContract, SegmentsAreFlushedByThemselvesAlsoThoseThatAreNotThere) {
  ASSERT_TRUE(write({region, 0}, pattern(100, 1)));
  ASSERT_TRUE(write({data_segment, 0}, pattern(100, 2)));
  std::vector<Task<Status>> flushes;
  flushes.push_back(disk().flush_segments({region}));
  flushes.push_back(disk().flush());
  flushes.push_back(disk().flush_segments({data_segment, region, Segment{(1ull << 63) | 99}}));
  for (const Status& status : wait_for_all(std::move(flushes))) EXPECT_TRUE(status);
  ASSERT_TRUE(wait(disk().discard({data_segment, 0}, ~std::uint64_t{0}, me)));
  EXPECT_TRUE(wait(disk().flush_segments({data_segment})));
  EXPECT_EQ(read({region, 0}, 100), pattern(100, 1));
}

TEST_P(DiskContract, ALeaseThatWasNotAdmittedChangesNothing) {
  const LeaseNumber stranger{8};
  ASSERT_TRUE(write({region, 0}, pattern(4096, 1)));
  EXPECT_EQ(code(write({region, 0}, pattern(4096, 2), stranger)), Errc::fenced);
  EXPECT_EQ(code(write({region, 0}, pattern(4096, 2), LeaseNumber::none)), Errc::fenced);
  EXPECT_EQ(code(wait(disk().discard({region, 0}, 4096, stranger))), Errc::fenced);
  EXPECT_EQ(code(wait(disk().preallocate({region, 0}, 4096, stranger))), Errc::fenced);
  EXPECT_EQ(code(wait(disk().write_register("r", 0, pattern(3, 3), stranger))), Errc::fenced);
  EXPECT_EQ(read({region, 0}, 4096), pattern(4096, 1));
  EXPECT_EQ(wait(disk().read_register("r"))->version, 0u);
  ASSERT_TRUE(wait(owner().admit(stranger)));
  EXPECT_TRUE(write({region, 0}, pattern(4096, 2), stranger));
}

TEST_P(DiskContract, AFencedLeaseChangesNothingMoreAndNeverComesBack) {
  const LeaseNumber other{9};
  ASSERT_TRUE(wait(owner().admit(other)));
  ASSERT_TRUE(wait(owner().admit(other)));  // Twice is no error.
  ASSERT_TRUE(write({region, 0}, pattern(4096, 1), other));
  ASSERT_TRUE(wait(owner().fence(other)));
  ASSERT_TRUE(wait(owner().fence(other)));
  EXPECT_EQ(code(write({region, 0}, pattern(4096, 2), other)), Errc::fenced);
  EXPECT_EQ(code(wait(disk().discard({region, 0}, 4096, other))), Errc::fenced);
  EXPECT_EQ(code(wait(owner().admit(other))), Errc::fenced);
  EXPECT_EQ(read({region, 0}, 4096), pattern(4096, 1));
  EXPECT_TRUE(write({region, 4096}, pattern(4096, 3), me));  // Others go on.
  const LeaseNumber never_admitted{11};
  EXPECT_TRUE(wait(owner().fence(never_admitted)));
  EXPECT_EQ(code(wait(owner().admit(never_admitted))), Errc::fenced);
}

// Whatever is under way when the fence is asked for either has happened when it returns, or never
// will.
TEST_P(DiskContract, FenceReturnsWhenWritesAdmittedBeforeHaveEnded) {
  struct Run {
    static Task<void> write(VirtualDisk* disk, Segment segment, std::uint64_t block,
                            LeaseNumber lease) {
      const SharedBytes data(pattern(65536, block));
      (void)co_await disk->write({segment, block * 65536}, data, lease, Durability::retain);
    }
    static Task<void> discard(VirtualDisk* disk, Segment segment, std::uint64_t block,
                              LeaseNumber lease) {
      (void)co_await disk->discard({segment, block * 65536}, 65536, lease);
    }
    static Task<Result<std::vector<Bytes>>> snapshot(VirtualDisk* disk, Segment segment) {
      std::vector<Bytes> blocks;
      for (std::uint64_t block = 0; block < 40; ++block) {
        auto bytes = co_await disk->read({segment, block * 65536}, 65536);
        if (!bytes) co_return fail(bytes.error());
        blocks.push_back(*std::move(bytes));
      }
      co_return blocks;
    }
  };
  const LeaseNumber victim{12};
  ASSERT_TRUE(wait(owner().admit(victim)));
  for (std::uint64_t block = 20; block < 40; ++block) {
    ASSERT_TRUE(write({data_segment, block * 65536}, pattern(65536, block)));
  }
  std::vector<Bytes> at_fence;
  {
    TaskScope scope;
    for (std::uint64_t block = 0; block < 20; ++block) {
      scope.spawn(Run::write(&disk(), data_segment, block, victim));
      scope.spawn(Run::discard(&disk(), data_segment, 20 + block, victim));
    }
    ASSERT_TRUE(wait(owner().fence(victim)));
    at_fence = *wait(Run::snapshot(&owner(), data_segment));
    struct Wait {
      static Task<bool> until_done(Executor& executor, const TaskScope& scope, VirtualDisk& disk) {
        while (scope.running() > 0) {
          (void)co_await disk.usage();  // Takes time on every kind of disk.
          co_await yield_to(executor);
        }
        co_return true;
      }
    };
    EXPECT_TRUE(wait(Wait::until_done(executor(), scope, disk())));
  }
  EXPECT_EQ(*wait(Run::snapshot(&owner(), data_segment)), at_fence);
}

TEST_P(DiskContract, PreallocatedSpaceReadsAsZerosAndKeepsWhatIsThere) {
  ASSERT_TRUE(write({region, 4096}, pattern(4096, 1)));
  ASSERT_TRUE(wait(disk().preallocate({region, 0}, 1u << 20, me)));
  EXPECT_TRUE(all_zero(read({region, 0}, 4096)));
  EXPECT_EQ(read({region, 4096}, 4096), pattern(4096, 1));
  EXPECT_TRUE(all_zero(read({region, 8192}, 1u << 20)));
  ASSERT_TRUE(write({region, 8192}, pattern(4096, 2)));
  EXPECT_EQ(read({region, 8192}, 4096), pattern(4096, 2));
}

TEST_P(DiskContract, ExtentsCoverAllDataAndEnd) {
  EXPECT_FALSE(wait(disk().next_extent(data_segment, 0))->has_value());
  const std::vector<std::uint64_t> places{0, 10u << 20, (10u << 20) + 4096, 1ull << 33};
  for (const std::uint64_t place : places) {
    ASSERT_TRUE(write({data_segment, place}, pattern(4096, place)));
  }
  ASSERT_TRUE(wait(disk().flush()));
  std::vector<std::uint64_t> found;
  std::uint64_t from = 0, total = 0;
  while (true) {
    const auto extent = *wait(disk().next_extent(data_segment, from));
    if (!extent) break;
    ASSERT_GE(extent->offset, from);
    ASSERT_GT(extent->length, 0u);
    for (const std::uint64_t place : places) {
      if (place >= extent->offset && place + 4096 <= extent->offset + extent->length) {
        found.push_back(place);
      }
    }
    total += extent->length;
    from = extent->offset + extent->length;
  }
  EXPECT_EQ(found, places);
  EXPECT_LT(total, 1u << 30);  // It found holes.
  // From within an extent: the rest of it.
  const auto rest = *wait(disk().next_extent(data_segment, 100));
  ASSERT_TRUE(rest);
  EXPECT_EQ(rest->offset, 100u);
  EXPECT_FALSE(wait(disk().next_extent(data_segment, 1ull << 40))->has_value());
  EXPECT_EQ(*wait(disk().allocated(data_segment)), places.size() * 4096);
  EXPECT_EQ(*wait(disk().allocated(Segment{12345})), 0u);
}

TEST_P(DiskContract, SegmentsAreListedInOrderAndInPages) {
  EXPECT_TRUE(wait(disk().list_segments(Segment{0}, 10))->empty());
  std::vector<Segment> made;
  for (const std::uint64_t number :
       {0ull, 2ull, 300ull, 1ull << 32, 1ull << 63, (1ull << 63) + 256, ~0ull}) {
    made.push_back(Segment{number});
    ASSERT_TRUE(write({Segment{number}, 0}, pattern(10, number)));
  }
  EXPECT_EQ(*wait(disk().list_segments(Segment{0}, 100)), made);
  EXPECT_THAT(*wait(disk().list_segments(Segment{2}, 2)),
              testing::ElementsAre(Segment{2}, Segment{300}));
  ASSERT_TRUE(wait(disk().discard({Segment{300}, 0}, ~std::uint64_t{0}, me)));
  EXPECT_THAT(*wait(disk().list_segments(Segment{1}, 2)),
              testing::ElementsAre(Segment{2}, Segment{1ull << 32}));
}

TEST_P(DiskContract, UsageTellsOfRoom) {
  const Result<Usage> usage = wait(disk().usage());
  ASSERT_TRUE(usage);
  EXPECT_GT(usage->available, 0u);
  EXPECT_LE(usage->available, usage->total);
}

TEST_P(DiskContract, ASegmentIsAsLongAsUsageSays) {
  const Result<Usage> usage = wait(disk().usage());
  ASSERT_TRUE(usage);
  EXPECT_GT(usage->segment_max, std::uint64_t{1} << 40);
  const Address last{Segment{300}, usage->segment_max - 1};
  EXPECT_TRUE(
      wait(disk().write(last, SharedBytes(Bytes(1, std::byte{7})), me, Durability::retain)));
  EXPECT_EQ(*wait(disk().read(last, 1)), Bytes(1, std::byte{7}));
}

TEST_P(DiskContract, ARegisterIsUpdatedOnlyByWhoHasReadIt) {
  EXPECT_EQ(wait(disk().read_register("view"))->version, 0u);
  const auto first = wait(disk().write_register("view", 0, pattern(10, 1), me));
  ASSERT_TRUE(first);
  EXPECT_GT(*first, 0u);
  EXPECT_EQ(code(wait(disk().write_register("view", 0, pattern(10, 2), me))), Errc::mismatch);
  EXPECT_EQ(code(wait(disk().write_register("view", *first + 1, pattern(10, 2), me))),
            Errc::mismatch);
  EXPECT_EQ(wait(disk().read_register("view"))->value, pattern(10, 1));
  const auto second = wait(disk().write_register("view", *first, pattern(20, 3), me));
  ASSERT_TRUE(second);
  EXPECT_GT(*second, *first);
  const auto read_back = wait(disk().read_register("view"));
  EXPECT_EQ(read_back->version, *second);
  EXPECT_EQ(read_back->value, pattern(20, 3));
}

TEST_P(DiskContract, RegistersHoldAnyNameAndAnySizeUpToTheLimit) {
  const std::vector<std::string> names{"a", "A", "lease/7", "..", "%41", "with space", "\xc3\xa4"};
  std::uint64_t seed = 0;
  for (const std::string& name : names) {
    ASSERT_TRUE(wait(disk().write_register(name, 0, pattern(10, ++seed), me))) << name;
  }
  seed = 0;
  for (const std::string& name : names) {
    EXPECT_EQ(wait(disk().read_register(name))->value, pattern(10, ++seed)) << name;
  }
  std::uint64_t version = 0;
  for (const std::size_t size :
       {std::size_t{0}, std::size_t{1}, std::size_t{100000}, register_size_max, std::size_t{5}}) {
    const auto updated = wait(disk().write_register("sized", version, pattern(size, size), me));
    ASSERT_TRUE(updated) << size;
    version = *updated;
    EXPECT_EQ(wait(disk().read_register("sized"))->value, pattern(size, size)) << size;
  }
}

TEST_P(DiskContract, OfTwoWhoUpdateARegisterAtOnceOneWins) {
  const auto version = wait(disk().write_register("view", 0, pattern(10, 0), me));
  std::vector<Task<Result<std::uint64_t>>> updates;
  for (std::uint64_t i = 1; i <= 5; ++i) {
    updates.push_back(disk().write_register("view", *version, pattern(10, i), me));
  }
  const auto results = wait_for_all(std::move(updates));
  std::uint64_t winner = 0;
  for (std::uint64_t i = 1; i <= 5; ++i) {
    if (!results[i - 1]) {
      EXPECT_EQ(results[i - 1].error().code, Errc::mismatch);
      continue;
    }
    EXPECT_EQ(winner, 0u);
    winner = i;
  }
  ASSERT_NE(winner, 0u);
  EXPECT_EQ(wait(disk().read_register("view"))->value, pattern(10, winner));
}

// ---- snapshots

TEST_P(DiskContract, ASnapshotShowsWhatWasThereWhateverIsChangedSince) {
  const Bytes old = pattern(5 * 4096 + 100, 1);
  const Segment gone{(1ull << 63) | 77}, fresh{(1ull << 63) | 78};
  ASSERT_TRUE(write({region, 3 * 4096}, old));
  ASSERT_TRUE(write({data_segment, 0}, old));
  ASSERT_TRUE(write({gone, 512}, old));
  ASSERT_TRUE(wait(disk().write_register("r", 0, pattern(10, 2), me)));
  const SnapshotId id = make_snapshot("first");

  ASSERT_TRUE(write({region, 4 * 4096 + 10}, pattern(50, 3)));
  ASSERT_TRUE(write({region, 100 * 4096}, pattern(50, 3)));
  ASSERT_TRUE(wait(disk().discard({data_segment, 4000}, 5000, me)));
  ASSERT_TRUE(write({data_segment, 1u << 20}, pattern(50, 4)));
  ASSERT_TRUE(wait(disk().discard({gone, 0}, ~std::uint64_t{0}, me)));
  ASSERT_TRUE(write({gone, 0}, pattern(8192, 5)));
  ASSERT_TRUE(write({fresh, 4096}, pattern(100, 6)));
  ASSERT_TRUE(wait(disk().write_register("r", 1, pattern(10, 7), me)));
  ASSERT_TRUE(wait(disk().write_register("later", 0, pattern(10, 7), me)));

  EXPECT_EQ(read_snapshot(id, {region, 3 * 4096}, old.size()), old);
  EXPECT_TRUE(all_zero(read_snapshot(id, {region, 0}, 3 * 4096)));
  EXPECT_TRUE(all_zero(read_snapshot(id, {region, 100 * 4096}, 4096)));
  EXPECT_EQ(read_snapshot(id, {data_segment, 0}, old.size()), old);
  EXPECT_TRUE(all_zero(read_snapshot(id, {data_segment, 1u << 20}, 4096)));
  EXPECT_EQ(read_snapshot(id, {gone, 512}, old.size()), old);
  EXPECT_TRUE(all_zero(read_snapshot(id, {gone, 0}, 512)));
  EXPECT_TRUE(all_zero(read_snapshot(id, {fresh, 0}, 16384)));
  EXPECT_EQ(wait(disk().read_snapshot_register(id, "r"))->value, pattern(10, 2));
  EXPECT_EQ(wait(disk().read_snapshot_register(id, "later"))->version, 0u);
  // And the present is the present.
  EXPECT_EQ(read({gone, 0}, 8192), pattern(8192, 5));
  EXPECT_EQ(read({region, 4 * 4096 + 10}, 50), pattern(50, 3));
}

TEST_P(DiskContract, EachSnapshotHasItsOwnTime) {
  std::vector<SnapshotId> ids;
  for (std::uint64_t i = 0; i < 4; ++i) {
    ASSERT_TRUE(write({region, i * 4096}, pattern(3 * 4096, i)));
    ids.push_back(make_snapshot("s" + std::to_string(i)));
  }
  ASSERT_TRUE(wait(disk().discard({region, 0}, ~std::uint64_t{0}, me)));
  const auto expect_all = [&](std::size_t without) {
    for (std::uint64_t i = 0; i < 4; ++i) {
      if (i == without) continue;
      Bytes expected(6 * 4096);
      for (std::uint64_t j = 0; j <= i; ++j) {
        const Bytes written = pattern(3 * 4096, j);
        std::copy(written.begin(), written.end(),
                  expected.begin() + static_cast<std::ptrdiff_t>(j * 4096));
      }
      EXPECT_EQ(read_snapshot(ids[i], {region, 0}, expected.size()), expected) << i;
    }
  };
  expect_all(4);
  // One in the middle, and then the newest and the oldest, are not missed by the others.
  ASSERT_TRUE(wait(disk().delete_snapshot(ids[1], me)));
  expect_all(1);
  ASSERT_TRUE(write({region, 0}, pattern(6 * 4096, 9)));
  expect_all(1);
  ASSERT_TRUE(wait(disk().delete_snapshot(ids[3], me)));
  ASSERT_TRUE(write({region, 4096}, pattern(6 * 4096, 10)));
  ASSERT_TRUE(wait(disk().delete_snapshot(ids[0], me)));
  Bytes expected(6 * 4096);
  for (std::uint64_t j = 0; j <= 2; ++j) {
    const Bytes written = pattern(3 * 4096, j);
    std::copy(written.begin(), written.end(),
              expected.begin() + static_cast<std::ptrdiff_t>(j * 4096));
  }
  EXPECT_EQ(read_snapshot(ids[2], {region, 0}, expected.size()), expected);
  EXPECT_EQ(code(wait(disk().read_snapshot(ids[1], {region, 0}, 512))), Errc::stale);
}

TEST_P(DiskContract, SnapshotsAreListedFromTheOldestOn) {
  EXPECT_TRUE(wait(disk().list_snapshots())->empty());
  const SnapshotId a = make_snapshot("a"), b = make_snapshot("b");
  EXPECT_EQ(code(wait(disk().create_snapshot("a", WallTime{9}, me))), Errc::exist);
  EXPECT_EQ(code(wait(disk().create_snapshot("../a", WallTime{9}, me))), Errc::invalid);
  const auto both = *wait(disk().list_snapshots());
  ASSERT_EQ(both.size(), 2u);
  EXPECT_EQ(both[0].id, a);
  EXPECT_EQ(both[0].name, "a");
  EXPECT_EQ(both[0].created, WallTime{7});
  EXPECT_EQ(both[1].id, b);
  ASSERT_TRUE(wait(disk().delete_snapshot(a, me)));
  EXPECT_EQ(code(wait(disk().delete_snapshot(a, me))), Errc::stale);
  const SnapshotId again = make_snapshot("a");
  EXPECT_NE(again, a);
  EXPECT_EQ(wait(disk().list_snapshots())->size(), 2u);
}

TEST_P(DiskContract, OnlyAnAdmittedLeaseMakesAndDeletesSnapshots) {
  const LeaseNumber stranger{8};
  EXPECT_EQ(code(wait(disk().create_snapshot("a", WallTime{7}, stranger))), Errc::fenced);
  const SnapshotId id = make_snapshot("a");
  EXPECT_EQ(code(wait(disk().delete_snapshot(id, stranger))), Errc::fenced);
  EXPECT_EQ(wait(disk().list_snapshots())->size(), 1u);
}

TEST_P(DiskContract, ASnapshotTellsWhereItHasData) {
  ASSERT_TRUE(write({region, 8192}, pattern(4096, 1)));
  ASSERT_TRUE(write({data_segment, 1u << 20}, pattern(4096, 2)));
  const SnapshotId id = make_snapshot("a");
  ASSERT_TRUE(wait(disk().discard({region, 0}, ~std::uint64_t{0}, me)));
  ASSERT_TRUE(write({data_segment, 1u << 20}, pattern(4096, 3)));
  ASSERT_TRUE(write({data_segment, 0}, pattern(4096, 3)));
  ASSERT_TRUE(write({Segment{300}, 0}, pattern(4096, 4)));
  EXPECT_THAT(*wait(disk().list_snapshot_segments(id, Segment{0}, 100)),
              testing::ElementsAre(region, data_segment));
  EXPECT_EQ(wait(disk().next_snapshot_extent(id, region, 0))->value(), (Extent{8192, 4096}));
  EXPECT_EQ(wait(disk().next_snapshot_extent(id, data_segment, 0))->value(),
            (Extent{1u << 20, 4096}));
  EXPECT_FALSE(wait(disk().next_snapshot_extent(id, data_segment, (1u << 20) + 4096))->has_value());
}

TEST_P(DiskContract, WhatIsWrittenToAViewOfASnapshotStaysThere) {
  ASSERT_TRUE(write({region, 0}, pattern(4 * 4096, 1)));
  ASSERT_TRUE(wait(disk().write_register("r", 0, pattern(10, 2), me)));
  const SnapshotId id = make_snapshot("a");
  SnapshotView view(disk(), id);
  const LeaseNumber other{99};
  Bytes expected = pattern(4 * 4096, 1);
  const Bytes change = pattern(5000, 3);
  ASSERT_TRUE(
      wait(view.write({region, 100}, SharedBytes(Bytes(change)), other, Durability::retain)));
  std::copy(change.begin(), change.end(), expected.begin() + 100);
  ASSERT_TRUE(wait(view.discard({region, 2 * 4096 - 7}, 4096 + 20, other)));
  std::fill_n(expected.begin() + 2 * 4096 - 7, 4096 + 20, std::byte{0});
  EXPECT_EQ(*wait(view.read({region, 0}, expected.size())), expected);
  ASSERT_TRUE(wait(view.discard({region, 3 * 4096 + 50}, ~std::uint64_t{0}, other)));
  std::fill(expected.begin() + 3 * 4096 + 50, expected.end(), std::byte{0});
  EXPECT_EQ(*wait(view.read({region, 0}, expected.size())), expected);
  EXPECT_EQ(*wait(view.write_register("r", 1, pattern(10, 4), other)), 2u);
  EXPECT_EQ(code(wait(view.write_register("r", 1, pattern(10, 4), other))), Errc::mismatch);
  EXPECT_EQ(wait(view.read_register("r"))->value, pattern(10, 4));
  ASSERT_TRUE(wait(view.fence(other)));
  EXPECT_EQ(code(wait(view.discard({region, 0}, 1, other))), Errc::fenced);
  EXPECT_THAT(*wait(view.list_segments(Segment{0}, 10)), testing::ElementsAre(region));
  EXPECT_EQ(read({region, 0}, 4 * 4096), pattern(4 * 4096, 1));
  EXPECT_EQ(read_snapshot(id, {region, 0}, 4 * 4096), pattern(4 * 4096, 1));
}

// Changes of random ranges with snapshots made and deleted at random, all compared with copies.
TEST_P(DiskContract, SnapshotsStayWhatTheyWereUnderRandomChanges) {
  constexpr std::size_t size = 40 * 4096;
  std::uint64_t state = 12345;
  const auto below = [&state](std::uint64_t limit) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (state >> 33) % limit;
  };
  const std::vector<Segment> segments{region, data_segment, Segment{(1ull << 63) | 5}};
  using Image = std::vector<Bytes>;
  Image present(segments.size(), Bytes(size));
  std::vector<std::pair<SnapshotId, Image>> snapshots;
  for (std::uint64_t step = 0; step < 250; ++step) {
    const std::size_t which = below(segments.size());
    const std::size_t from = below(size - 1);
    const std::size_t length = 1 + below(std::min<std::size_t>(size - from, 3 * 4096));
    const std::uint64_t what = below(20);
    if (what < 12) {
      const Bytes data = pattern(length, step);
      ASSERT_TRUE(write({segments[which], from}, data));
      std::copy(data.begin(), data.end(),
                present[which].begin() + static_cast<std::ptrdiff_t>(from));
    } else if (what < 15) {
      ASSERT_TRUE(wait(disk().discard({segments[which], from}, length, me)));
      std::fill_n(present[which].begin() + static_cast<std::ptrdiff_t>(from), length, std::byte{0});
    } else if (what < 16) {
      ASSERT_TRUE(wait(disk().discard({segments[which], 0}, ~std::uint64_t{0}, me)));
      present[which] = Bytes(size);
    } else if (what < 18) {
      snapshots.emplace_back(make_snapshot("s" + std::to_string(step)), present);
    } else if (!snapshots.empty() && snapshots.size() > below(6)) {
      const auto victim = snapshots.begin() + static_cast<std::ptrdiff_t>(below(snapshots.size()));
      ASSERT_TRUE(wait(disk().delete_snapshot(victim->first, me)));
      snapshots.erase(victim);
    }
    if (step % 10 != 0) continue;
    for (std::size_t i = 0; i < segments.size(); ++i) {
      ASSERT_EQ(read({segments[i], 0}, size), present[i]) << "step " << step;
      for (const auto& [id, image] : snapshots) {
        ASSERT_EQ(read_snapshot(id, {segments[i], 0}, size), image[i]) << "step " << step;
      }
    }
  }
}

}  // namespace plumeria::disk
