#include "os/kept_ranges.h"

#include <algorithm>

#include "base/check.h"

namespace plumeria::os {

KeptRanges::Found KeptRanges::find(std::uint64_t offset) const {
  Found found;
  auto next = ranges_.upper_bound(offset);
  if (next != ranges_.end()) found.end = next->first;
  if (next == ranges_.begin()) return found;
  const auto& [from, kept] = *--next;
  if (kept.end <= offset) return found;
  found.is_kept = true;
  found.end = kept.end;
  found.place = kept.place == zeros ? zeros : kept.place + (offset - from);
  return found;
}

std::vector<Range> KeptRanges::gaps(std::uint64_t from, std::uint64_t end) const {
  std::vector<Range> found;
  while (from < end) {
    const Found here = find(from);
    const std::uint64_t to = std::min(here.end, end);
    if (!here.is_kept) found.push_back({from, to});
    from = to;
  }
  return found;
}

void KeptRanges::insert(Range range, std::uint64_t place) {
  CHECK(range.from < range.end);
  auto next = ranges_.lower_bound(range.from);
  CHECK(next == ranges_.end() || next->first >= range.end);
  const auto follows = [](std::uint64_t before, std::uint64_t length, std::uint64_t after) {
    return before == zeros || after == zeros ? before == after : before + length == after;
  };
  if (next != ranges_.end() && next->first == range.end &&
      follows(place, range.end - range.from, next->second.place)) {
    range.end = next->second.end;
    next = ranges_.erase(next);
  }
  if (next != ranges_.begin()) {
    auto before = next;
    --before;
    CHECK(before->second.end <= range.from);
    if (before->second.end == range.from &&
        follows(before->second.place, range.from - before->first, place)) {
      before->second.end = range.end;
      return;
    }
  }
  ranges_.emplace(range.from, Kept{range.end, place});
}

std::vector<std::pair<Range, std::uint64_t>> KeptRanges::with_bytes() const {
  std::vector<std::pair<Range, std::uint64_t>> found;
  for (const auto& [from, kept] : ranges_) {
    if (kept.place != zeros) found.emplace_back(Range{from, kept.end}, kept.place);
  }
  return found;
}

bool KeptRanges::has_bytes() const {
  return std::any_of(ranges_.begin(), ranges_.end(),
                     [](const auto& entry) { return entry.second.place != zeros; });
}

}  // namespace plumeria::os
