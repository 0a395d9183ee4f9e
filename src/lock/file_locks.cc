#include "lock/file_locks.h"

#include <algorithm>

#include "base/check.h"

namespace plumeria::lock {
namespace {

// Adjacent or overlapping, and equal in all that matters.
bool mergeable(const FileLock& left, const FileLock& right) {
  return left.mode == right.mode && left.pid == right.pid &&
         (left.end == ~0ull || left.end + 1 >= right.start);
}

}  // namespace

void apply(std::vector<FileLock>& held, const FileLock& lock) {
  CHECK(lock.start <= lock.end);
  std::vector<FileLock> next;
  next.reserve(held.size() + 2);
  for (const FileLock& old : held) {
    if (!overlap(old, lock)) {
      next.push_back(old);
      continue;
    }
    if (old.start < lock.start) {
      next.push_back(old);
      next.back().end = lock.start - 1;
    }
    if (old.end > lock.end) {
      next.push_back(old);
      next.back().start = lock.end + 1;
    }
  }
  if (lock.mode != Mode::none) next.push_back(lock);
  std::sort(next.begin(), next.end(),
            [](const FileLock& a, const FileLock& b) { return a.start < b.start; });
  held.clear();
  for (const FileLock& piece : next) {
    if (!held.empty() && mergeable(held.back(), piece)) {
      held.back().end = std::max(held.back().end, piece.end);
    } else {
      held.push_back(piece);
    }
  }
}

}  // namespace plumeria::lock
