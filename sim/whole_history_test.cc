#include "sim/whole_history.h"

#include <gtest/gtest.h>

namespace plumeria::sim {
namespace {

using File = FileOperation::Kind;
using Name = NameOperation::Kind;

FileOperation at(FileOperation operation, int called, int returned) {
  operation.called = Duration(called);
  operation.returned = Duration(returned);
  return operation;
}
NameOperation at(NameOperation operation, int called, int returned) {
  operation.called = Duration(called);
  operation.returned = Duration(returned);
  return operation;
}
FileOperation write(std::uint64_t first, std::uint64_t count, std::uint64_t number) {
  return {
      .kind = File::write, .first = first, .count = count, .number = number, .size = first + count};
}
FileOperation read(std::uint64_t first, std::vector<std::uint64_t> values) {
  return {.kind = File::read, .first = first, .values = std::move(values)};
}

struct FileRow {
  const char* name;
  std::vector<FileOperation> operations;
  bool linearizable;
};

TEST(WholeHistoryTest, AFileHasOneOrderForAllItsCells) {
  const std::vector<FileRow> rows = {
      {"two writes at once, the second wins wholly",
       {at(write(0, 2, 7), 0, 9), at(write(0, 2, 8), 0, 9), at(read(0, {8, 8}), 10, 11)},
       true},
      {"two writes at once, each wins a cell",
       {at(write(0, 2, 7), 0, 9), at(write(0, 2, 8), 0, 9), at(read(0, {7, 8}), 10, 11)},
       false},
      {"half a write is never seen", {at(write(0, 2, 7), 0, 9), at(read(0, {7, 0}), 1, 2)}, false},
      {"two reads see two writes in the same order",
       {at(write(0, 1, 7), 0, 9), at(write(1, 1, 8), 0, 9), at(read(0, {7, 0}), 1, 2),
        at(read(0, {0, 8}), 1, 2)},
       false},
      {"a truncation takes cells and size at once",
       {at(write(0, 2, 7), 0, 1), at({.kind = File::truncate, .first = 0, .size = 0}, 2, 9),
        at({.kind = File::look, .size = 0}, 3, 4), at(read(0, {7}), 5, 6)},
       false},
      {"the order of real time",
       {at(write(0, 1, 7), 0, 1), at(write(0, 1, 8), 2, 3), at(read(0, {7}), 4, 5)},
       false},
  };
  for (const FileRow& row : rows) {
    const CheckResult result = check_file(2, row.operations);
    EXPECT_FALSE(result.gave_up) << row.name;
    EXPECT_EQ(result.linearizable, row.linearizable) << row.name << result.explanation;
  }
}

struct NameRow {
  const char* name;
  std::vector<NameOperation> operations;
  bool linearizable;
};

TEST(WholeHistoryTest, NamesHaveOneOrder) {
  const NameOperation create{.kind = Name::create, .name = 0, .identity = 7};
  const NameOperation move{.kind = Name::move, .name = 0, .to = 1};
  const std::vector<NameRow> rows = {
      {"a rename is seen wholly",
       {at(create, 0, 1), at(move, 2, 9), at({.kind = Name::read, .name = 1, .identity = 7}, 3, 4),
        at({.kind = Name::read, .name = 0}, 5, 6)},
       true},
      {"a file never has both names",
       {at(create, 0, 1), at(move, 2, 9), at({.kind = Name::read, .name = 1, .identity = 7}, 3, 4),
        at({.kind = Name::read, .name = 0, .identity = 7}, 5, 6)},
       false},
      {"a file always has one of the names",
       {at(create, 0, 1), at(move, 2, 9), at({.kind = Name::read, .name = 0}, 3, 4),
        at({.kind = Name::read, .name = 1}, 5, 6)},
       false},
      {"two renames of one file",
       {at(create, 0, 1), at(move, 2, 9), at({.kind = Name::move, .name = 0, .to = 2}, 2, 9)},
       false},
      {"created twice", {at(create, 0, 9), at(create, 0, 9)}, false},
      {"found after it was removed",
       {at(create, 0, 1), at({.kind = Name::remove, .name = 0}, 2, 3),
        at({.kind = Name::found, .name = 0}, 4, 5)},
       false},
  };
  for (const NameRow& row : rows) {
    const CheckResult result = check_names(3, row.operations);
    EXPECT_FALSE(result.gave_up) << row.name;
    EXPECT_EQ(result.linearizable, row.linearizable) << row.name << result.explanation;
  }
}

}  // namespace
}  // namespace plumeria::sim
