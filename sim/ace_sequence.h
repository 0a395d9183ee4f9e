// Sequences of file-system operations with calls like fsync between them, generated exhaustively
// (the ACE of CrashMonkey, OSDI'18): the small workloads that find most crash bugs.
//
// The files: foo, bar in the root, the same in A and B; the directories A, B, A/C, C. An operation
// has fixed arguments out of them. What it needs is made first: outside of the sequence, durably,
// if nothing before has touched it, else within it, right before the operation and not durably.
// Files that are made in that way have sizes by their names (nominal_size): foo lies in its inode,
// bar in small blocks, A/foo and B/foo have data segments.
//
// Pure values and functions.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "sim/world.h"

namespace plumeria::sim::ace {

enum class Do {
  make_file,  // without a byte
  make_directory,
  write,
  store,  // through a shared mapping
  space,  // fallocate
  truncate,
  link,
  unlink,
  remove_directory,
  rename,
  symlink,
  set_xattr,
  remove_xattr,
  change_mode,
};

struct Operation {
  Do what{};
  std::string path, other;
  std::int64_t offset = 0;  // truncate: the new size
  bool from_end = false;    // the offset counts from the end of the file
  std::uint64_t length = 0;
  std::uint32_t flags = 0;  // of fallocate, rename
};

enum class Persist { nothing, file, directory, everything };

struct Persistence {
  Persist what{};
  std::string path;
};

struct Step {
  Operation operation;
  Persistence then;  // right after it
};

struct Sequence {
  std::vector<Operation> setup;  // durable before the first step
  std::vector<Step> steps;       // with dependencies among them
};

// All operations that sequences are made of.
const std::vector<Operation>& operations();

std::uint64_t nominal_size(const std::string& path);

// Sequences of a length have numbers below count(length): which operations, and which of the calls
// that make sense after each. The last operation always has one.
std::uint64_t count(std::size_t length);
// Nothing if an earlier operation leaves what makes a later one impossible.
std::optional<Sequence> sequence(std::size_t length, std::uint64_t number);

// Combinations of operations of a length, whatever call comes after each; and a sequence of one of
// them, whose calls chance picks.
std::uint64_t combinations(std::size_t length);
std::uint64_t pick(std::size_t length, std::uint64_t combination, RandomStream& random);

std::string text_of(const Operation& operation);
std::string text_of(const Sequence& sequence);

}  // namespace plumeria::sim::ace
