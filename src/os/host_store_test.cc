#include "os/host_store.h"

#include <absl/strings/str_cat.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <set>

#include "base/number.h"
#include "disk/contract_test.h"
#include "os/store_directory.h"

namespace plumeria::os {
namespace {

using disk::Address;
using disk::LeaseNumber;
using disk::Segment;
using testing::HasSubstr;

class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    std::string name = testing::TempDir() + "plumeria-store-XXXXXX";
    CHECK(mkdtemp(name.data()) != nullptr);
    path_ = name;
  }
  ~TemporaryDirectory() { std::filesystem::remove_all(path_); }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

class HostHarness final : public disk::ContractHarness {
 public:
  HostHarness() {
    store_ = *HostStore::create(executor_, pool_, directory_ / "store",
                                {.open_files_max = 20});  // so that files are closed and reopened
  }
  disk::VirtualDisk& disk() override { return *store_; }
  Executor& executor() override { return executor_; }
  void run(Task<void> task) override { executor_.run_until_done(std::move(task)); }

 private:
  TemporaryDirectory directory_;
  RealExecutor executor_;
  std::unique_ptr<HostStore> store_;
  ThreadPool pool_{executor_, 3};
};

}  // namespace
}  // namespace plumeria::os

namespace plumeria::disk {
INSTANTIATE_TEST_SUITE_P(Host, DiskContract,
                         testing::Values(ContractCase{
                             "host", [] { return std::make_unique<os::HostHarness>(); }}),
                         contract_case_name);
}  // namespace plumeria::disk

namespace plumeria::os {
namespace {

class HostStoreTest : public testing::Test {
 protected:
  template <class T>
  T wait(Task<T> task) {
    return executor.run_until_done(std::move(task));
  }
  Result<std::unique_ptr<HostStore>> create(HostStore::Options options = {}) {
    return HostStore::create(executor, pool, path, options);
  }
  Result<std::unique_ptr<HostStore>> open(HostStore::Options options = {}) {
    return HostStore::open(executor, pool, path, options);
  }
  Status write(HostStore& store, Address to, Bytes data, LeaseNumber lease = me) {
    return wait(store.write(to, SharedBytes(std::move(data)), lease, disk::Durability::retain));
  }
  std::unique_ptr<HostStore> create_with_me(HostStore::Options options = {}) {
    auto store = create(options);
    CHECK(store);
    CHECK(wait((*store)->admit(me)));
    return *std::move(store);
  }
  void flip_bit(const std::string& file, std::streamoff at) {
    std::fstream stream(file, std::ios::in | std::ios::out | std::ios::binary);
    stream.seekg(at);
    const char c = static_cast<char>(stream.get() ^ 1);
    stream.seekp(at);
    stream.put(c);
  }

  static constexpr LeaseNumber me{1};
  TemporaryDirectory directory;
  const std::string path = directory / "store";
  RealExecutor executor;
  ThreadPool pool{executor, 2};
};

TEST_F(HostStoreTest, EverythingSurvivesClosingAndOpening) {
  auto store = create_with_me();
  const std::uint64_t incarnation = store->incarnation(), identity = store->identity();
  ASSERT_TRUE(write(*store, {Segment{2}, 4096}, Bytes(100, std::byte{1})));
  ASSERT_TRUE(write(*store, {Segment{1ull << 63}, 0}, Bytes(100, std::byte{2})));
  ASSERT_TRUE(wait(store->write_register("view", 0, Bytes(10, std::byte{3}), me)));
  ASSERT_TRUE(wait(store->write_register("view", 1, Bytes(10, std::byte{4}), me)));
  ASSERT_TRUE(wait(store->admit(LeaseNumber{2})));
  ASSERT_TRUE(wait(store->fence(LeaseNumber{2})));
  ASSERT_TRUE(wait(store->close()));
  store.reset();

  store = *open();
  EXPECT_TRUE(store->was_clean());
  EXPECT_GT(store->incarnation(), incarnation);
  EXPECT_EQ(store->identity(), identity);
  EXPECT_EQ(*wait(store->read({Segment{2}, 4096}, 100)), Bytes(100, std::byte{1}));
  EXPECT_EQ(*wait(store->read({Segment{1ull << 63}, 0}, 100)), Bytes(100, std::byte{2}));
  EXPECT_EQ(wait(store->read_register("view"))->version, 2u);
  EXPECT_EQ(wait(store->read_register("view"))->value, Bytes(10, std::byte{4}));
  EXPECT_TRUE(write(*store, {Segment{2}, 0}, Bytes(1)));
  EXPECT_EQ(write(*store, {Segment{2}, 0}, Bytes(1), LeaseNumber{2}).error().code, Errc::fenced);
  EXPECT_EQ(wait(store->admit(LeaseNumber{2})).error().code, Errc::fenced);
}

TEST_F(HostStoreTest, AStoreThatWasNotClosedIsNotClean) {
  auto store = create_with_me();
  const std::uint64_t incarnation = store->incarnation();
  store.reset();
  store = *open();
  EXPECT_FALSE(store->was_clean());
  EXPECT_GT(store->incarnation(), incarnation);
  ASSERT_TRUE(wait(store->close()));
  store.reset();
  EXPECT_TRUE((*open())->was_clean());
}

TEST_F(HostStoreTest, NobodyUsesAStoreThatIsClosed) {
  auto store = create_with_me();
  ASSERT_TRUE(wait(store->close()));
  EXPECT_EQ(write(*store, {Segment{2}, 0}, Bytes(1)).error().code, Errc::shut_down);
}

TEST_F(HostStoreTest, ASecondOpenerIsToldWhoHoldsIt) {
  auto store = create();
  ASSERT_TRUE(store);
  const auto second = open();
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, Errc::in_use);
  EXPECT_THAT(second.error().message(), HasSubstr(absl::StrCat("process ", getpid())));
  EXPECT_THAT(second.error().message(), HasSubstr("os_test"));
  EXPECT_THAT(second.error().message(), HasSubstr(path));
  const auto reader = open({.read_only = true});
  EXPECT_EQ(reader.error().code, Errc::in_use);
  store->reset();
  EXPECT_TRUE(open());
}

TEST_F(HostStoreTest, ADeadHolderIsNoHolder) {
  create()->reset();
  const pid_t child = fork();
  if (child == 0) {
    const auto held = StoreDirectory::open(path, false);
    _exit(held ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(WEXITSTATUS(status), 0);
  const auto store = open();
  ASSERT_TRUE(store);
  EXPECT_FALSE((*store)->was_clean());
}

TEST_F(HostStoreTest, ReadersShareItAndChangeNothing) {
  {
    auto store = create_with_me();
    ASSERT_TRUE(write(*store, {Segment{2}, 0}, Bytes(10, std::byte{5})));
    ASSERT_TRUE(wait(store->close()));
  }
  const auto a = open({.read_only = true}), b = open({.read_only = true});
  ASSERT_TRUE(a);
  ASSERT_TRUE(b);
  EXPECT_EQ(*wait((*b)->read({Segment{2}, 0}, 10)), Bytes(10, std::byte{5}));
  EXPECT_EQ(write(**a, {Segment{2}, 0}, Bytes(1)).error().code, Errc::read_only);
  EXPECT_EQ(wait((*a)->admit(LeaseNumber{9})).error().code, Errc::read_only);
  EXPECT_EQ(open().error().code, Errc::in_use);
}

TEST_F(HostStoreTest, AForeignDirectoryIsRefusedAndLeftAlone) {
  EXPECT_EQ(open().error().code, Errc::not_a_store);  // It does not exist.
  std::filesystem::create_directory(path);
  EXPECT_EQ(open().error().code, Errc::not_a_store);
  EXPECT_TRUE(std::filesystem::is_empty(path));
  std::ofstream(path + "/store") << "a shop\n";
  const auto foreign = open();
  EXPECT_EQ(foreign.error().code, Errc::not_a_store);
  EXPECT_THAT(foreign.error().message(), HasSubstr(path));
  EXPECT_EQ(create().error().code, Errc::exist);
  std::filesystem::remove(path + "/store");
  std::ofstream(path + "/precious") << "data";
  const auto refused = create();
  EXPECT_EQ(refused.error().code, Errc::not_empty);
  EXPECT_THAT(refused.error().message(), HasSubstr("precious"));
}

TEST_F(HostStoreTest, AnEmptyDirectoryBecomesAStore) {
  std::filesystem::create_directory(path);
  std::filesystem::create_directory(path + "/lost+found");
  EXPECT_TRUE(create());
  EXPECT_EQ(create().error().code, Errc::exist);
}

TEST_F(HostStoreTest, AStoreOfANewerFormatIsRefusedByName) {
  create()->reset();
  std::ofstream(path + "/store") << "plumeria store\nformat 99\nsomething new\n";
  const auto newer = open();
  EXPECT_EQ(newer.error().code, Errc::version);
  EXPECT_THAT(newer.error().message(), HasSubstr("99"));
}

TEST_F(HostStoreTest, EveryDamagedBitOfItsOwnFilesIsNoticed) {
  {
    auto store = create_with_me();
    ASSERT_TRUE(wait(store->write_register("view", 0, Bytes(100, std::byte{3}), me)));
    ASSERT_TRUE(wait(store->write_register("view", 1, Bytes(100, std::byte{4}), me)));
    ASSERT_TRUE(wait(store->close()));
  }
  for (std::streamoff at = 0;
       at < static_cast<std::streamoff>(std::filesystem::file_size(path + "/store")); ++at) {
    flip_bit(path + "/store", at);
    EXPECT_FALSE(open({.read_only = true})) << at;
    flip_bit(path + "/store", at);
  }
  for (const char* name : {"/leases", "/registers/view"}) {
    for (const std::streamoff slot : {0, 16384}) {
      for (std::streamoff at = 0; at < 100; ++at) {
        flip_bit(path + name, slot + at);
        const auto damaged = open({.read_only = true});
        // An empty byte beyond the value does not count.
        if (damaged) {
          EXPECT_GT(at, 32);
        } else {
          EXPECT_EQ(damaged.error().code, Errc::corrupt);
          EXPECT_THAT(damaged.error().message(), HasSubstr(path + name));
        }
        flip_bit(path + name, slot + at);
      }
    }
  }
  EXPECT_TRUE(open({.read_only = true}));
  std::filesystem::resize_file(path + "/leases", 10);
  EXPECT_EQ(open().error().code, Errc::corrupt);
  std::filesystem::remove(path + "/leases");
  EXPECT_FALSE(open());
}

TEST_F(HostStoreTest, ADamagedStoreIsRefusedAgainAndAgain) {
  {
    auto store = create_with_me();
    ASSERT_TRUE(wait(store->write_register("view", 0, Bytes(100, std::byte{3}), me)));
    ASSERT_TRUE(wait(store->write_register("view", 1, Bytes(100, std::byte{4}), me)));
    ASSERT_TRUE(wait(store->close()));
  }
  flip_bit(path + "/registers/view", 16384 + 50);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(open().error().code, Errc::corrupt);
  flip_bit(path + "/registers/view", 16384 + 50);
  const auto store = open();
  ASSERT_TRUE(store);
  EXPECT_TRUE((*store)->was_clean());
}

TEST_F(HostStoreTest, ADamagedIncarnationIsNotUsedAgain) {
  for (const std::streamoff slot : {0, 16384}) {
    std::set<std::uint64_t> used;
    for (int i = 0; i < 4; ++i) {
      auto store = i == 0 && slot == 0 ? create() : open();
      ASSERT_TRUE(store);
      EXPECT_TRUE(used.insert((*store)->incarnation()).second);
      if (i == 1) {
        ASSERT_TRUE(wait((*store)->close()));
      }
      store->reset();
      if (i == 2) flip_bit(path + "/state", slot + 40);
    }
  }
}

TEST_F(HostStoreTest, AStoreThatIsGoneFromItsPlaceIsNotWrittenAnyMore) {
  for (const bool moved : {true, false}) {
    auto store = create_with_me();
    const Segment known{2}, other{3}, data{1ull << 63};
    ASSERT_TRUE(write(*store, {known, 0}, Bytes(4096, std::byte{1})));
    ASSERT_TRUE(wait(store->flush()));
    ASSERT_TRUE(write(*store, {known, 0}, Bytes(4096, std::byte{2})));
    if (moved) {
      std::filesystem::rename(path, directory / "elsewhere");
    } else {
      std::filesystem::remove_all(path);
    }
    // What is not found is not taken for empty, and no flush succeeds.
    EXPECT_EQ(wait(store->read({other, 0}, 4096)).error().code, Errc::io);
    const Status flushed = wait(store->flush());
    ASSERT_FALSE(flushed);
    EXPECT_EQ(flushed.error().code, Errc::io);
    EXPECT_THAT(flushed.error().message(), HasSubstr(path));
    EXPECT_EQ(write(*store, {data, 0}, Bytes(10)).error().code, Errc::io);
    EXPECT_EQ(write(*store, {known, 0}, Bytes(10)).error().code, Errc::io);
  }
}

TEST_F(HostStoreTest, ARegisterTornByAPowerCutKeepsItsOldValue) {
  {
    auto store = create_with_me();
    ASSERT_TRUE(wait(store->write_register("view", 0, Bytes(100, std::byte{3}), me)));
    ASSERT_TRUE(wait(store->write_register("view", 1, Bytes(100, std::byte{4}), me)));
  }
  flip_bit(path + "/registers/view", 16384 + 50);  // The newer one; the store was not closed.
  auto store = *open();
  EXPECT_EQ(wait(store->read_register("view"))->value, Bytes(100, std::byte{3}));
  ASSERT_TRUE(wait(store->close()));
  store.reset();
  EXPECT_TRUE(open());  // It was repaired.
}

TEST_F(HostStoreTest, RefusedChangesAreCounted) {
  auto store = create_with_me();
  const LeaseNumber late{5};
  for (int i = 0; i < 3; ++i) EXPECT_FALSE(write(*store, {Segment{2}, 0}, Bytes(1), late));
  EXPECT_EQ(store->late_changes().at(late).refused, 3u);
}

TEST_F(HostStoreTest, DiscardingAWholeSegmentRemovesItsFile) {
  auto store = create_with_me();
  const Segment segment{(1ull << 63) | 0xab};
  ASSERT_TRUE(write(*store, {segment, 0}, Bytes(8192, std::byte{1})));
  EXPECT_TRUE(std::filesystem::exists(segment_path(path, segment)));
  ASSERT_TRUE(wait(store->discard({segment, 0}, ~std::uint64_t{0}, me)));
  EXPECT_FALSE(std::filesystem::exists(segment_path(path, segment)));
}

TEST_F(HostStoreTest, DiscardingAPartFreesItsSpace) {
  auto store = create_with_me();
  const Segment segment{(1ull << 63) | 0xab};
  ASSERT_TRUE(write(*store, {segment, 0}, Bytes(1u << 20, std::byte{1})));
  ASSERT_TRUE(wait(store->discard({segment, 4096}, ~std::uint64_t{0}, me)));
  struct stat status {};
  ASSERT_EQ(stat(segment_path(path, segment).c_str(), &status), 0);
  EXPECT_LE(status.st_blocks * 512, 8192);
}

TEST_F(HostStoreTest, AWriteBeyondWhatTheHostCanAddressIsAnError) {
  auto store = create_with_me();
  EXPECT_EQ(write(*store, {Segment{2}, 1ull << 63}, Bytes(1)).error().code, Errc::file_too_big);
  EXPECT_EQ(write(*store, {Segment{2}, ~std::uint64_t{0}}, Bytes(10)).error().code,
            Errc::file_too_big);
  EXPECT_TRUE(all_zero(*wait(store->read({Segment{2}, ~std::uint64_t{0} - 10}, 10))));
}

TEST_F(HostStoreTest, MoreSegmentsThanOpenFilesAreServed) {
  auto store = create_with_me({.open_files_max = 16});
  for (std::uint64_t i = 0; i < 100; ++i) {
    ASSERT_TRUE(write(*store, {Segment{(1ull << 63) + i}, 0}, Bytes(8, std::byte(i + 1))));
  }
  ASSERT_TRUE(wait(store->flush()));
  for (std::uint64_t i = 0; i < 100; ++i) {
    EXPECT_EQ(*wait(store->read({Segment{(1ull << 63) + i}, 0}, 8)), Bytes(8, std::byte(i + 1)));
  }
  const auto descriptors = std::distance(std::filesystem::directory_iterator("/proc/self/fd"),
                                         std::filesystem::directory_iterator());
  EXPECT_LT(descriptors, 80);
}

TEST(RegisterNameTest, BecomesAFileNameAndBack) {
  for (const std::string name : {"view", "a/b", "..", "%41", "\xff\x01"}) {
    const std::string file_name = register_file_name(name);
    EXPECT_EQ(file_name.find('/'), std::string::npos);
    EXPECT_EQ(file_name.find('.'), std::string::npos);
    EXPECT_EQ(register_name(file_name), name);
  }
}

// A full host disk, on a file system of 4 MiB.
class FullHostStoreTest : public HostStoreTest {
 protected:
  void SetUp() override {
    std::filesystem::create_directory(path);
    ASSERT_EQ(mount("plumeria-test", path.c_str(), "tmpfs", 0, "size=4m"), 0) << "run it as root";
    mounted = true;
  }
  void TearDown() override {
    if (mounted) umount2(path.c_str(), MNT_DETACH);
  }
  bool mounted = false;
};

TEST_F(FullHostStoreTest, WritesFailCleanlyAndLeasesAndRegistersGoOn) {
  auto store = create_with_me();
  ASSERT_TRUE(wait(store->write_register("view", 0, Bytes(1000, std::byte{1}), me)));
  const Segment segment{1ull << 63};
  Status written;
  std::uint64_t at = 0;
  for (; written && at < (8u << 20); at += 65536) {
    written = write(*store, {segment, at}, Bytes(65536, std::byte{7}));
  }
  ASSERT_FALSE(written);
  EXPECT_EQ(written.error().code, Errc::no_space);
  EXPECT_THAT(written.error().message(), HasSubstr(segment_path(path, segment)));
  EXPECT_EQ(wait(store->preallocate({Segment{2}, 0}, 1u << 20, me)).error().code, Errc::no_space);
  EXPECT_TRUE(wait(store->write_register("view", 1, Bytes(2000, std::byte{2}), me)));
  EXPECT_TRUE(wait(store->admit(LeaseNumber{3})));
  EXPECT_TRUE(wait(store->fence(LeaseNumber{3})));
  EXPECT_TRUE(wait(store->flush()));
  EXPECT_EQ(*wait(store->read({segment, 0}, 65536)), Bytes(65536, std::byte{7}));
  ASSERT_TRUE(wait(store->discard({segment, 0}, ~std::uint64_t{0}, me)));
  EXPECT_TRUE(write(*store, {Segment{2}, 0}, Bytes(65536, std::byte{8})));
  EXPECT_TRUE(wait(store->close()));
}

TEST_F(FullHostStoreTest, AStoreThatCannotBeMadeLeavesNothing) {
  std::ofstream(path + "/filler") << std::string(8u << 20, 'x');
  for (std::uintmax_t room = 0; room < 200'000; room += 4096) {
    std::filesystem::resize_file(path + "/filler", (4u << 20) - room);
    const std::string inside = path + "/store";
    auto made = HostStore::create(executor, pool, inside, {});
    if (made) return;
    EXPECT_EQ(made.error().code, Errc::no_space) << made.error().message();
    EXPECT_FALSE(std::filesystem::exists(inside));
  }
  FAIL() << "there is never enough space";
}

TEST_F(FullHostStoreTest, APreallocationThatFailsGivesBackWhatItTook) {
  auto store = create_with_me();
  const std::uint64_t before = wait(store->usage())->available;
  EXPECT_EQ(wait(store->preallocate({Segment{2}, 0}, 8u << 20, me)).error().code, Errc::no_space);
  EXPECT_GE(wait(store->usage())->available + 65536, before);
  EXPECT_TRUE(wait(store->preallocate({Segment{2}, 0}, 1u << 20, me)));
  EXPECT_LE(wait(store->usage())->available + (1u << 20), before);
}

}  // namespace
}  // namespace plumeria::os
