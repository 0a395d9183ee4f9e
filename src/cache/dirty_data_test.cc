#include "cache/dirty_data.h"

#include <gtest/gtest.h>

#include <random>
#include <string>

namespace plumeria::cache {
namespace {

SharedBytes text(std::string_view t) { return SharedBytes::copy_of(as_bytes(t)); }

std::string read(const DirtyData& data, std::uint64_t offset, std::size_t size) {
  Bytes bytes(size, std::byte{'.'});
  data.overlay(offset, bytes);
  return std::string(as_text(bytes));
}

TEST(DirtyData, NewerBytesReplaceOlderOnes) {
  DirtyData data;
  data.insert(0, text("aaaaaaaa"));
  data.insert(2, text("bbb"));
  EXPECT_EQ(read(data, 0, 10), "aabbbaaa..");
  EXPECT_EQ(data.bytes(), 8u);
}

TEST(DirtyData, InsertBelowFillsOnlyGaps) {
  DirtyData data;
  data.insert(2, text("bbb"));
  data.insert_below(0, text("aaaaaaaa"));
  EXPECT_EQ(read(data, 0, 8), "aabbbaaa");
}

TEST(DirtyData, TruncateCutsARunInTwo) {
  DirtyData data;
  data.insert(0, text("abcdef"));
  data.truncate(3);
  EXPECT_EQ(read(data, 0, 6), "abc...");
  EXPECT_EQ(data.bytes(), 3u);
}

TEST(DirtyData, KnowsWhatItCovers) {
  DirtyData data;
  data.insert(0, text("ab"));
  data.insert(5, text("cd"));
  EXPECT_TRUE(data.covers(0, 2));
  EXPECT_TRUE(data.covers(5, 7));
  EXPECT_FALSE(data.covers(1, 6));
}

TEST(DirtyData, FindsTheRunsThatOverlapARange) {
  DirtyData data;
  for (const std::uint64_t at : {0, 10, 20, 30}) data.insert(at, text("xxxx"));
  EXPECT_EQ(data.overlapping(13, 21).bytes(), 8u);
  EXPECT_EQ(read(data.overlapping(13, 21), 8, 18), "..xxxx......xxxx..");
  EXPECT_TRUE(data.overlapping(14, 20).empty());
  EXPECT_TRUE(DirtyData().overlapping(0, 100).empty());
}

TEST(DirtyData, BehavesLikeAnArray) {
  std::mt19937_64 random(3);
  DirtyData data;
  std::string model(300, '.');
  for (int step = 0; step < 20000; ++step) {
    const std::uint64_t from = random() % 280;
    const std::size_t size = 1 + random() % 20;
    if (random() % 4 == 0) {
      data.erase(from, from + size);
      model.replace(from, size, std::string(size, '.'));
    } else {
      const std::string bytes(size, static_cast<char>('a' + random() % 26));
      data.insert(from, text(bytes));
      model.replace(from, size, bytes);
    }
    ASSERT_EQ(read(data, 0, 300), model);
    ASSERT_EQ(data.bytes(), 300u - std::count(model.begin(), model.end(), '.'));
  }
}

}  // namespace
}  // namespace plumeria::cache
