#include "format/directory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <random>
#include <string>

namespace plumeria::format {
namespace {

constexpr std::uint64_t seed = 7;
constexpr std::size_t inline_area_size_for_tests = 3776;

EntryView entry(std::string_view name, std::uint64_t inode, std::uint64_t cookie) {
  return {cookie, inode, 8, name};
}

TEST(EntryList, ZerosAreAnEmptyList) {
  const Bytes area(inline_area_size_for_tests);
  EXPECT_TRUE(check_entries(area).has_value());
  EXPECT_TRUE(is_empty_list(area));
  EXPECT_FALSE(find_entry(area, cookie_base("a", seed), "a").has_value());
}

TEST(EntryList, FindsWhatWasInserted) {
  Bytes area(inline_area_size_for_tests);
  const std::uint64_t base = cookie_base("name", seed);
  ASSERT_TRUE(insert_entry(area, entry("name", 17, base)));
  const auto found = find_entry(area, base, "name");
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(found->inode, 17u);
  EXPECT_EQ(found->cookie, base);
  EXPECT_FALSE(is_empty_list(area));
}

TEST(EntryList, NamesOfOneHashGetDifferentCookies) {
  Bytes area(inline_area_size_for_tests);
  const std::uint64_t base = cookie_base("x", seed);
  for (std::uint64_t i = 0; i < cookie_collisions; ++i) {
    const auto cookie = free_cookie(area, base);
    ASSERT_TRUE(cookie.has_value());
    EXPECT_EQ(*cookie, base + i);
    const std::string name = "n" + std::to_string(i);
    ASSERT_TRUE(insert_entry(area, entry(name, i + 1, *cookie)));
  }
  EXPECT_FALSE(free_cookie(area, base).has_value());
  remove_entry(area, base + 3);
  EXPECT_EQ(free_cookie(area, base), base + 3);
}

TEST(EntryList, CookiesStandAboveThoseOfDotAndDotDot) {
  for (int i = 0; i < 1000; ++i) EXPECT_GT(cookie_base(std::to_string(i), seed), cookie_dotdot);
}

// Random insertions and removals against a map; the list must stay well-formed and say the same.
TEST(EntryList, BehavesLikeAMap) {
  std::mt19937_64 random(1);
  Bytes area(inline_area_size_for_tests);
  std::map<std::string, std::uint64_t> model;
  for (int step = 0; step < 20000; ++step) {
    const std::string name(1 + random() % 30, static_cast<char>('a' + random() % 26));
    const std::uint64_t base = cookie_base(name, seed);
    const auto found = find_entry(area, base, name);
    ASSERT_EQ(found.has_value(), model.contains(name));
    if (found) {
      ASSERT_EQ(found->inode, model[name]);
      remove_entry(area, found->cookie);
      model.erase(name);
    } else if (const auto cookie = free_cookie(area, base)) {
      const std::uint64_t inode = 1 + random() % 1000;
      if (insert_entry(area, entry(name, inode, *cookie))) model[name] = inode;
    }
    ASSERT_TRUE(check_entries(area).has_value());
    ASSERT_EQ(sorted_entries(area).size(), model.size());
  }
  EXPECT_FALSE(model.empty());
}

TEST(EntryList, RemovedRoomIsUsedAgain) {
  Bytes area(200);
  ASSERT_TRUE(insert_entry(area, entry(std::string(100, 'a'), 1, 8)));
  ASSERT_FALSE(insert_entry(area, entry(std::string(100, 'b'), 2, 16)));
  remove_entry(area, 8);
  EXPECT_TRUE(insert_entry(area, entry(std::string(100, 'b'), 2, 16)));
}

TEST(EntryList, DamageIsReported) {
  Bytes area(inline_area_size_for_tests);
  ASSERT_TRUE(insert_entry(area, entry("a", 1, 8)));
  store(area.data() + 16, std::uint16_t{3});
  EXPECT_FALSE(check_entries(area).has_value());
  store(area.data() + 16, std::uint16_t{60000});
  EXPECT_FALSE(check_entries(area).has_value());
}

TEST(InnerBlock, FindsTheChildForACookie) {
  Bytes block(block_size);
  format_inner(block, 5, 1, 0, 1);
  inner_insert(block, 0, {0, 100});
  inner_insert(block, 1, {800, 101});
  inner_insert(block, 1, {400, 102});
  EXPECT_EQ(inner_child(block, inner_find(block, 8)).block, 100u);
  EXPECT_EQ(inner_child(block, inner_find(block, 400)).block, 102u);
  EXPECT_EQ(inner_child(block, inner_find(block, 799)).block, 102u);
  EXPECT_EQ(inner_child(block, inner_find(block, ~0ull)).block, 101u);
  inner_remove(block, 1);
  EXPECT_EQ(inner_child(block, inner_find(block, 799)).block, 100u);
}

TEST(InnerBlock, SplitsInTwo) {
  Bytes left(block_size);
  Bytes right(block_size);
  format_inner(left, 5, 1, 0, 1);
  format_inner(right, 5, 1, 80, 1);
  for (std::uint64_t i = 0; i < 20; ++i) inner_insert(left, i, {8 * i, i + 1});
  inner_split(left, right, 10);
  EXPECT_EQ(inner_size(left), 10u);
  EXPECT_EQ(inner_size(right), 10u);
  EXPECT_EQ(inner_child(right, 0).low, 80u);
}

}  // namespace
}  // namespace plumeria::format
