// flock and fcntl locks as values, and the range arithmetic of one owner's locks on one file.
#pragma once

#include <cstdint>
#include <vector>

#include "lock/name.h"

namespace plumeria::lock {

// A flock or fcntl lock on a range of bytes, with its owner.
struct FileLock {
  std::uint64_t inode = 0;
  bool is_flock = false;      // flock(2) and fcntl(2) locks do not see each other
  std::uint64_t owner = 0;    // unique within its client
  std::uint64_t start = 0;    // bytes
  std::uint64_t end = ~0ull;  // last byte, inclusive
  Mode mode = Mode::none;     // none: unlock
  std::uint32_t pid = 0;      // for F_GETLK

  friend bool operator==(const FileLock&, const FileLock&) = default;
};

inline bool overlap(const FileLock& a, const FileLock& b) {
  return a.start <= b.end && b.start <= a.end;
}

// Replaces what `held` (the locks of one owner on one file: disjoint, by start) has in the range of
// `lock` by `lock`, or by nothing if its mode is none. Splits what sticks out, merges neighbours
// of the same mode.
void apply(std::vector<FileLock>& held, const FileLock& lock);

}  // namespace plumeria::lock
