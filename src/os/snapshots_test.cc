// Snapshots of a host store as files: what the contract of all disks (disk/contract_test.h) does
// not say.
#include <absl/strings/str_cat.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "base/async.h"
#include "base/check.h"
#include "os/host_store.h"

namespace plumeria::os {
namespace {

using disk::LeaseNumber;
using disk::Segment;
using disk::SnapshotId;

constexpr std::uint64_t to_the_end = ~std::uint64_t{0};

Bytes filled(std::size_t size, int value) { return Bytes(size, static_cast<std::byte>(value)); }

class SnapshotsTest : public testing::Test {
 protected:
  SnapshotsTest() {
    std::string name = testing::TempDir() + "plumeria-snapshots-XXXXXX";
    CHECK(mkdtemp(name.data()) != nullptr);
    folder = name;
    path = folder + "/store";
    store = *HostStore::create(executor, pool, path, {});
    CHECK(wait(store->admit(me)));
  }
  ~SnapshotsTest() override {
    store.reset();
    std::filesystem::remove_all(folder);
  }
  template <class T>
  T wait(Task<T> task) {
    return executor.run_until_done(std::move(task));
  }
  void write(disk::Address to, Bytes data) {
    const Status written =
        wait(store->write(to, SharedBytes(std::move(data)), me, disk::Durability::retain));
    ASSERT_TRUE(written) << written.error().message();
  }
  SnapshotId make(const std::string& name) {
    const auto made = wait(store->create_snapshot(name, WallTime{1}, me));
    EXPECT_TRUE(made) << made.error().message();
    return *made;
  }
  Bytes read(SnapshotId id, disk::Address from, std::uint64_t length) {
    const auto bytes = wait(store->read_snapshot(id, from, length));
    EXPECT_TRUE(bytes) << bytes.error().message();
    return bytes ? *bytes : Bytes();
  }
  Status reopen(bool clean) {
    if (clean) {
      EXPECT_TRUE(wait(store->close()));
    }
    store.reset();
    auto opened = HostStore::open(executor, pool, path, {});
    if (!opened) return fail(opened.error());
    store = *std::move(opened);
    return {};
  }
  std::string folder_of(SnapshotId id) const {
    return absl::StrCat(path, "/snapshots/",
                        absl::Hex(static_cast<std::uint64_t>(id), absl::kZeroPad16));
  }
  std::string format() const {
    std::ifstream identity(path + "/store");
    std::string line;
    std::getline(identity, line);
    std::getline(identity, line);
    return line;
  }
  std::size_t folders() const {
    std::size_t count = 0;
    for (const auto& entry : std::filesystem::directory_iterator(path + "/snapshots")) {
      count += entry.is_directory() ? 1 : 0;
    }
    return count;
  }
  static void flip_bit(const std::string& name, std::streamoff at) {
    std::fstream stream(name, std::ios::in | std::ios::out | std::ios::binary);
    stream.seekg(at);
    const char c = static_cast<char>(stream.get() ^ 1);
    stream.seekp(at);
    stream.put(c);
  }

  static constexpr LeaseNumber me{1};
  static constexpr Segment region{2}, file{1ull << 63}, gone{(1ull << 63) + 1};
  std::string folder, path;
  RealExecutor executor;
  ThreadPool pool{executor, 3};
  std::unique_ptr<HostStore> store;
};

TEST_F(SnapshotsTest, SurviveTheEndOfTheProcess) {
  for (const bool clean : {true, false}) {
    write({region, 0}, filled(8192, 1));
    write({gone, 0}, filled(8192, 2));
    const SnapshotId id = make(clean ? "a" : "b");
    write({region, 4096}, filled(4096, 3));
    ASSERT_TRUE(wait(store->discard({gone, 0}, to_the_end, me)));
    write({file, 0}, filled(4096, 4));
    ASSERT_TRUE(reopen(clean));
    EXPECT_EQ(read(id, {region, 0}, 8192), filled(8192, 1));
    EXPECT_EQ(read(id, {gone, 0}, 8192), filled(8192, 2));
    EXPECT_TRUE(all_zero(read(id, {file, 0}, 4096)));
    write({region, 0}, filled(8192, 5));
    EXPECT_EQ(read(id, {region, 0}, 8192), filled(8192, 1));
    ASSERT_TRUE(wait(store->delete_snapshot(id, me)));
    ASSERT_TRUE(wait(store->discard({file, 0}, to_the_end, me)));
  }
}

TEST_F(SnapshotsTest, OlderProgramsRefuseTheStoreWhileThereAreAny) {
  EXPECT_EQ(format(), "format 1");
  const SnapshotId a = make("a"), b = make("b");
  EXPECT_EQ(format(), "format 2");
  ASSERT_TRUE(reopen(true));
  ASSERT_TRUE(wait(store->delete_snapshot(a, me)));
  EXPECT_EQ(format(), "format 2");
  ASSERT_TRUE(wait(store->delete_snapshot(b, me)));
  EXPECT_EQ(format(), "format 1");
  EXPECT_EQ(folders(), 0u);
  ASSERT_TRUE(reopen(false));
}

// Space in the file system is what st_blocks says.
TEST_F(SnapshotsTest, TheOneInTheMiddleGivesBackWhatOnlyItNeeds) {
  constexpr std::uint64_t size = 1u << 20;
  write({file, 0}, filled(2 * size, 1));
  const SnapshotId a = make("a");
  write({file, 0}, filled(size, 2));  // a keeps the first half
  const SnapshotId b = make("b");
  write({file, 0}, filled(2 * size, 3));  // b keeps both, of which a needs the second
  const SnapshotId c = make("c");
  const auto kept = [&](std::size_t i) { return (*wait(store->list_snapshots()))[i].bytes; };
  EXPECT_GE(kept(1), 2 * size);
  ASSERT_TRUE(wait(store->delete_snapshot(b, me)));
  struct stat data {};
  ASSERT_EQ(::stat((folder_of(b) + "/data").c_str(), &data), 0);
  EXPECT_LT(static_cast<std::uint64_t>(data.st_blocks) * 512, size + size / 2);
  EXPECT_EQ(read(a, {file, 0}, 2 * size), filled(2 * size, 1));
  EXPECT_EQ(read(c, {file, 0}, 2 * size), filled(2 * size, 3));
  ASSERT_TRUE(wait(store->delete_snapshot(a, me)));
  EXPECT_FALSE(std::filesystem::exists(folder_of(b)));
  EXPECT_EQ(folders(), 1u);
}

TEST_F(SnapshotsTest, WhatACrashLeavesBehindIsRemoved) {
  const SnapshotId id = make("a");
  std::filesystem::create_directories(path + "/snapshots/00000000000000ff/segments");
  ASSERT_TRUE(reopen(false));
  EXPECT_EQ(folders(), 1u);
  EXPECT_TRUE(std::filesystem::exists(folder_of(id)));
}

TEST_F(SnapshotsTest, ATornEndOfTheIndexIsCutOff) {
  write({region, 0}, filled(8192, 1));
  const SnapshotId id = make("a");
  write({region, 0}, filled(10, 2));
  {
    std::ofstream index(folder_of(id) + "/index", std::ios::app | std::ios::binary);
    index << std::string(100, 'x');
  }
  ASSERT_TRUE(reopen(false));
  write({region, 4096}, filled(10, 2));
  ASSERT_TRUE(reopen(false));
  EXPECT_EQ(read(id, {region, 0}, 8192), filled(8192, 1));
}

TEST_F(SnapshotsTest, ADamagedIndexIsNotTakenForATornOne) {
  write({region, 0}, filled(5 * 4096, 1));
  const SnapshotId id = make("a");
  write({region, 0}, filled(10, 2));
  write({region, 8192}, filled(10, 2));
  flip_bit(folder_of(id) + "/index", 3);
  const Status opened = reopen(false);
  ASSERT_FALSE(opened);
  EXPECT_EQ(opened.error().code, Errc::corrupt);
  EXPECT_THAT(opened.error().what, testing::HasSubstr("index"));
  flip_bit(folder_of(id) + "/index", 3);
  ASSERT_TRUE(reopen(false));
  // After a clean end nothing can be torn.
  EXPECT_TRUE(wait(store->close()));
  flip_bit(folder_of(id) + "/index", 48 + 3);
  EXPECT_FALSE(reopen(false));
}

TEST_F(SnapshotsTest, ManyChangesAtOnceAllKeepWhatWasThere) {
  constexpr std::uint64_t blocks = 300;
  write({region, 0}, filled(blocks * 4096, 1));
  const SnapshotId id = make("a");
  SnapshotId second{};
  std::vector<Task<Status>> writes;
  for (std::uint64_t i = 0; i < blocks; ++i) {
    const std::uint64_t block = (i * 7) % blocks;
    writes.push_back(store->write({region, block * 4096}, SharedBytes(filled(4096, 2)), me,
                                  disk::Durability::logged));
  }
  struct Both {
    static Task<bool> run(RealExecutor* executor, HostStore* store, std::vector<Task<Status>> all,
                          SnapshotId* made) {
      TaskScope scope;
      scope.spawn(snapshot(store, made));
      for (const Status& status : co_await gather(*executor, std::move(all))) {
        if (!status) co_return false;
      }
      while (*made == SnapshotId::none) co_await yield_to(*executor);
      co_return true;
    }
    static Task<void> snapshot(HostStore* store, SnapshotId* made) {
      const auto id = co_await store->create_snapshot("second", WallTime{2}, me);
      if (id) *made = *id;
    }
  };
  ASSERT_TRUE(wait(Both::run(&executor, store.get(), std::move(writes), &second)));
  EXPECT_EQ(read(id, {region, 0}, blocks * 4096), filled(blocks * 4096, 1));
  const Bytes between = read(second, {region, 0}, blocks * 4096);
  write({region, 0}, filled(blocks * 4096, 3));
  EXPECT_EQ(read(second, {region, 0}, blocks * 4096), between);
  EXPECT_EQ(read(id, {region, 0}, blocks * 4096), filled(blocks * 4096, 1));
}

TEST_F(SnapshotsTest, AReaderOfTheStoreSeesThem) {
  write({region, 0}, filled(4096, 1));
  const SnapshotId id = make("a");
  write({region, 0}, filled(4096, 2));
  EXPECT_TRUE(wait(store->close()));
  store = *HostStore::open(executor, pool, path, {.read_only = true});
  EXPECT_EQ(read(id, {region, 0}, 4096), filled(4096, 1));
  EXPECT_EQ(wait(store->delete_snapshot(id, me)).error().code, Errc::read_only);
}

}  // namespace
}  // namespace plumeria::os
