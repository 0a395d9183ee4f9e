#include "cache/dirty_data.h"

#include <algorithm>

#include "base/check.h"

namespace plumeria::cache {

void DirtyData::insert(std::uint64_t offset, SharedBytes data) {
  CHECK(!data.empty());
  // Small appends to a run are joined, so that a file written byte by byte stays one run.
  constexpr std::size_t join_max = 4096;
  erase(offset, offset + data.size());
  const auto next = runs_.lower_bound(offset);
  if (next != runs_.begin()) {
    const auto previous = std::prev(next);
    const std::size_t joined = previous->second.size() + data.size();
    if (previous->first + previous->second.size() == offset && joined <= join_max) {
      Bytes both = to_bytes(previous->second.view());
      both.insert(both.end(), data.view().begin(), data.view().end());
      bytes_ += data.size();
      previous->second = SharedBytes(std::move(both));
      return;
    }
  }
  bytes_ += data.size();
  runs_.emplace(offset, std::move(data));
}

void DirtyData::insert_below(std::uint64_t offset, SharedBytes data) {
  const std::uint64_t end = offset + data.size();
  std::uint64_t at = offset;
  while (at < end) {
    auto after = runs_.upper_bound(at);
    if (after != runs_.begin()) {
      const auto before = std::prev(after);
      const std::uint64_t covered = before->first + before->second.size();
      if (covered > at) {
        at = covered;
        continue;
      }
    }
    const std::uint64_t until = after == runs_.end() ? end : std::min(end, after->first);
    insert(at, data.slice(at - offset, until - at));
    at = until;
  }
}

void DirtyData::erase(std::uint64_t from, std::uint64_t to) {
  if (from >= to) return;
  auto run = runs_.lower_bound(from);
  if (run != runs_.begin()) {
    const auto before = std::prev(run);
    if (before->first + before->second.size() > from) run = before;
  }
  while (run != runs_.end() && run->first < to) {
    const std::uint64_t start = run->first;
    const SharedBytes data = run->second;
    const std::uint64_t end = start + data.size();
    bytes_ -= data.size();
    run = runs_.erase(run);
    if (start < from) {
      bytes_ += from - start;
      runs_.emplace(start, data.slice(0, from - start));
    }
    if (end > to) {
      bytes_ += end - to;
      run = runs_.emplace(to, data.slice(to - start, end - to)).first;
    }
  }
}

void DirtyData::overlay(std::uint64_t offset, MutableByteView to) const {
  const std::uint64_t end = offset + to.size();
  auto run = runs_.lower_bound(offset);
  if (run != runs_.begin()) {
    const auto before = std::prev(run);
    if (before->first + before->second.size() > offset) run = before;
  }
  for (; run != runs_.end() && run->first < end; ++run) {
    const std::uint64_t first = std::max(run->first, offset);
    const std::uint64_t last = std::min(run->first + run->second.size(), end);
    std::memcpy(to.data() + (first - offset), run->second.view().data() + (first - run->first),
                last - first);
  }
}

DirtyData DirtyData::overlapping(std::uint64_t from, std::uint64_t to) const {
  DirtyData found;
  auto run = runs_.upper_bound(from);
  if (run != runs_.begin()) --run;
  for (; run != runs_.end() && run->first < to; ++run) {
    if (run->first + run->second.size() > from) found.insert(run->first, run->second);
  }
  return found;
}

bool DirtyData::covers(std::uint64_t from, std::uint64_t to) const {
  std::uint64_t at = from;
  while (at < to) {
    auto after = runs_.upper_bound(at);
    if (after == runs_.begin()) return false;
    const auto run = std::prev(after);
    const std::uint64_t end = run->first + run->second.size();
    if (end <= at) return false;
    at = end;
  }
  return true;
}

}  // namespace plumeria::cache
