#include "base/rare.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <string>

namespace plumeria {
namespace {

std::map<std::string, std::uint64_t> all_marks() {
  std::map<std::string, std::uint64_t> marks;
  for (const RareMark* mark = rare_marks(); mark != nullptr; mark = mark->next()) {
    EXPECT_TRUE(marks.emplace(std::string(mark->text()), mark->times()).second) << mark->text();
  }
  return marks;
}

void walk(bool far) {
  rarely<"test: walked">();
  if (far) rarely<"test: walked far">();
}

TEST(RareTest, MarksAreKnownBeforeTheyAreReachedAndCountedAfter) {
  EXPECT_THAT(all_marks(),
              testing::IsSupersetOf({std::pair<const std::string, std::uint64_t>{"test: walked", 0},
                                     {"test: walked far", 0}}));
  walk(false);
  walk(true);
  EXPECT_EQ(all_marks().at("test: walked"), 2u);
  EXPECT_EQ(all_marks().at("test: walked far"), 1u);
}

}  // namespace
}  // namespace plumeria
