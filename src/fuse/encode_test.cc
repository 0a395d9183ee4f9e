#include "fuse/encode.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include "fuse/errno.h"

namespace plumeria::fuse {
namespace {

TEST(EncodeTest, TimesBeforeTheEpochKeepTheirNanoseconds) {
  fs::Attributes attributes;
  attributes.mtime = WallTime{-1};
  const fuse_attr out = encode(attributes);
  EXPECT_EQ(static_cast<std::int64_t>(out.mtime), -1);
  EXPECT_EQ(out.mtimensec, 999'999'999u);
}

TEST(EncodeTest, UncoveredRepliesAreNotCached) {
  fs::Attributes attributes;
  attributes.inode = fs::InodeNumber{7};
  Validity validity;
  validity.name = true;
  const fuse_entry_out out = encode_entry(attributes, validity);
  EXPECT_EQ(out.nodeid, 7u);
  EXPECT_EQ(out.entry_valid, cache_for_ever);
  EXPECT_EQ(out.attr_valid, 0u);
}

TEST(EncodeTest, EntriesAreAlignedAndStopAtTheLimit) {
  fs::DirectoryEntry entry;
  entry.name = "abc";
  entry.inode = fs::InodeNumber{9};
  entry.type = S_IFDIR;
  entry.cookie = 5;
  Bytes out;
  ASSERT_TRUE(append_entry(out, 64, entry));
  EXPECT_EQ(out.size(), 32u);
  const auto head = load<fuse_dirent>(out.data());
  EXPECT_EQ(head.ino, 9u);
  EXPECT_EQ(head.off, 5u);
  EXPECT_EQ(head.namelen, 3u);
  EXPECT_EQ(head.type, 4u);  // DT_DIR
  ASSERT_TRUE(append_entry(out, 64, entry));
  EXPECT_FALSE(append_entry(out, 64, entry));
  EXPECT_EQ(out.size(), 64u);
}

TEST(EncodeTest, LocksToTheEnd) {
  fuse_lk_in in{};
  in.lk.start = 5;
  in.lk.end = INT64_MAX;
  in.lk.type = F_WRLCK;
  in.lk_flags = FUSE_LK_FLOCK;
  const clerk::FileLock lock = decode_lock(3, in);
  EXPECT_EQ(lock.end, ~0ull);
  EXPECT_EQ(lock.mode, lock::Mode::exclusive);
  EXPECT_TRUE(lock.is_flock);
  const fuse_lk_out out = encode_lock(lock);
  EXPECT_EQ(out.lk.end, static_cast<std::uint64_t>(INT64_MAX));
  EXPECT_EQ(out.lk.type, static_cast<std::uint32_t>(F_WRLCK));
}

TEST(ErrnoTest, TroublesOfTheWorldAreInputOutputErrors) {
  EXPECT_EQ(errno_of(Errc::lost), EIO);
  EXPECT_TRUE(worth_a_log_line(Errc::corrupt));
  EXPECT_EQ(errno_of(Errc::not_empty), ENOTEMPTY);
  EXPECT_FALSE(worth_a_log_line(Errc::no_entry));
}

}  // namespace
}  // namespace plumeria::fuse
