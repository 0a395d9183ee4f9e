// For unit tests: a virtual disk in memory that keeps unflushed writes apart, so that a test can
// cut the power. Every call takes 1 to 9 microseconds of a ManualExecutor's time.
//
// (The disk of the simulator can do more, but lives above this folder.)
#pragma once

#include <algorithm>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/async.h"
#include "base/manual_executor.h"
#include "base/seeded_random.h"
#include "disk/disk.h"

namespace plumeria::wal {

class TestDisk : public disk::VirtualDisk {
 public:
  using Contents = std::map<disk::Segment, Bytes>;

  TestDisk(ManualExecutor& executor, std::uint64_t seed, Contents contents = {})
      : executor_(executor), random_(seed), durable_(contents), visible_(std::move(contents)) {}

  // What the test may look at and set.
  std::uint64_t reads = 0, writes = 0, flushes = 0;
  std::optional<Error> fail_writes, fail_flushes;
  std::optional<std::uint64_t> fail_after_writes;  // the write after so many fails
  Contents& visible() { return visible_; }

  // What is on the disk after a power cut now: each 512 bytes that were written and not flushed
  // are there or not.
  Contents after_power_cut() {
    Contents left = durable_;
    std::vector<Write> unflushed = unflushed_;
    std::shuffle(unflushed.begin(), unflushed.end(), random_);
    for (const Write& write : unflushed) {
      for (std::size_t at = 0; at < write.data.size(); at += disk::sector) {
        if (random_() % 2 == 0) continue;
        const std::size_t length = std::min<std::size_t>(disk::sector, write.data.size() - at);
        put(left, {write.to.segment, write.to.offset + at}, write.data.view().subspan(at, length));
      }
    }
    return left;
  }

  static void put(Contents& contents, disk::Address to, ByteView data) {
    Bytes& segment = contents[to.segment];
    if (segment.size() < to.offset + data.size()) segment.resize(to.offset + data.size());
    std::copy(data.begin(), data.end(), segment.begin() + to.offset);
  }
  Bytes peek(disk::Address from, std::uint64_t length) const {
    Bytes bytes(length);
    const auto segment = visible_.find(from.segment);
    if (segment == visible_.end() || segment->second.size() <= from.offset) return bytes;
    const std::uint64_t there =
        std::min<std::uint64_t>(length, segment->second.size() - from.offset);
    std::copy_n(segment->second.begin() + from.offset, there, bytes.begin());
    return bytes;
  }

  Task<Result<Bytes>> read(disk::Address from, std::uint64_t length) override {
    CHECK(length > 0 && length <= disk::transfer_max);
    ++reads;
    co_await pause();
    co_return peek(from, length);
  }
  Task<Status> write(disk::Address to, SharedBytes data, disk::LeaseNumber,
                     disk::Durability) override {
    CHECK(!data.empty() && data.size() <= disk::transfer_max);
    if (fail_after_writes && writes >= *fail_after_writes) fail_writes = Error{Errc::io, "test"};
    if (fail_writes) co_return fail(*fail_writes);
    const std::uint64_t number = ++writes;
    unflushed_.push_back(Write{number, to, data, false});
    put(visible_, to, data.view());
    co_await pause();
    for (Write& write : unflushed_) write.acknowledged |= write.number == number;
    co_return Status{};
  }
  // Of whole segments, durable at once.
  Task<Status> discard(disk::Address from, std::uint64_t length, disk::LeaseNumber) override {
    CHECK(from.offset == 0 && length == ~std::uint64_t{0});
    visible_.erase(from.segment);
    durable_.erase(from.segment);
    std::erase_if(unflushed_, [&](const Write& w) { return w.to.segment == from.segment; });
    co_return Status{};
  }
  Task<Status> flush() override {
    if (fail_flushes) co_return fail(*fail_flushes);
    std::vector<Write> covered;
    for (const Write& write : unflushed_) {
      if (write.acknowledged) covered.push_back(write);
    }
    co_await pause();
    ++flushes;
    for (const Write& write : covered) {
      put(durable_, write.to, write.data.view());
      std::erase_if(unflushed_, [&](const Write& w) { return w.number == write.number; });
    }
    co_return Status{};
  }
  Task<Status> flush_segments(std::vector<disk::Segment>) override { return flush(); }
  Task<Status> preallocate(disk::Address, std::uint64_t, disk::LeaseNumber) override {
    co_return Status{};
  }
  Task<Result<std::uint64_t>> allocated(disk::Segment segment) override {
    const auto bytes = visible_.find(segment);
    co_return bytes == visible_.end() ? 0 : bytes->second.size();
  }
  // 4 KiB blocks that are not zero, one by one.
  Task<Result<std::optional<disk::Extent>>> next_extent(disk::Segment segment,
                                                        std::uint64_t from) override {
    constexpr std::uint64_t block = 4096;
    std::optional<disk::Extent> found;
    const auto bytes = visible_.find(segment);
    if (bytes == visible_.end()) co_return found;
    for (std::uint64_t at = from / block * block; at < bytes->second.size() && !found;
         at += block) {
      const disk::Address here{segment, at};
      if (!all_zero(peek(here, block))) found = disk::Extent{at, block};
    }
    co_return found;
  }
  Task<Result<std::vector<disk::Segment>>> list_segments(disk::Segment first,
                                                         std::size_t limit) override {
    std::vector<disk::Segment> segments;
    for (auto at = visible_.lower_bound(first); at != visible_.end(); ++at) {
      if (segments.size() == limit) break;
      segments.push_back(at->first);
    }
    co_return segments;
  }
  Task<Result<disk::Usage>> usage() override { co_return fail(Errc::not_supported); }
  Task<Result<disk::Register>> read_register(std::string_view name) override {
    co_return registers_[std::string(name)];
  }
  Task<Result<std::uint64_t>> write_register(std::string_view name, std::uint64_t expected,
                                             Bytes value, disk::LeaseNumber) override {
    disk::Register& content = registers_[std::string(name)];
    if (content.version != expected) co_return fail(Errc::mismatch);
    content.value = std::move(value);
    co_return ++content.version;
  }
  Task<Status> admit(disk::LeaseNumber) override { co_return Status{}; }
  Task<Status> fence(disk::LeaseNumber) override { co_return Status{}; }

 private:
  struct Write {
    std::uint64_t number;
    disk::Address to;
    SharedBytes data;
    bool acknowledged;
  };
  Task<void> pause() {
    const Duration time = std::chrono::microseconds(1 + random_.below(9));
    co_await sleep_until(executor_, executor_.now() + time);
  }

  ManualExecutor& executor_;
  SeededRandom random_;
  Contents durable_, visible_;
  std::vector<Write> unflushed_;
  std::map<std::string, disk::Register> registers_;
};

// A world whose time passes only in wait_for(), which gives a task up to a second.
class TestWorld {
 public:
  ManualExecutor executor;
  SeededRandom random{1};
  World world{executor, random, executor};

  template <class T>
  T wait_for(Task<T> task) {
    std::optional<T> result;
    TaskScope scope;
    scope.spawn(keep(std::move(task), result));
    for (int i = 0; i < 100'000 && !result; ++i) executor.advance(std::chrono::microseconds(10));
    CHECK(result.has_value());
    return *std::move(result);
  }
  // Starts a task; its result appears at the pointer. The scope must be gone before the executor.
  template <class T>
  std::shared_ptr<std::optional<T>> start(TaskScope& scope, Task<T> task) {
    auto result = std::make_shared<std::optional<T>>();
    scope.spawn(keep_shared(std::move(task), result));
    return result;
  }

 private:
  template <class T>
  static Task<void> keep(Task<T> task, std::optional<T>& result) {
    result.emplace(co_await task);
  }
  template <class T>
  static Task<void> keep_shared(Task<T> task, std::shared_ptr<std::optional<T>> result) {
    result->emplace(co_await task);
  }
};

}  // namespace plumeria::wal
