#include "check/directory_tree.h"

#include <algorithm>
#include <numeric>
#include <set>
#include <tuple>

#include "base/check.h"
#include "format/inode.h"

namespace plumeria::check {
namespace {

constexpr std::uint64_t hash_mask = ~(format::cookie_collisions - 1);
// A quarter is left for names to come.
constexpr std::size_t leaf_bytes = (format::block_size - format::directory_area_at) * 3 / 4;
constexpr std::size_t inner_children = format::inner_fanout * 3 / 4;

std::size_t size_of(const Entry& entry) { return (20 + entry.name.size() + 3) / 4 * 4; }

format::EntryView view_of(const Entry& entry) {
  return {entry.cookie, entry.inode, entry.type, entry.name};
}

// Entries of one hash, in the order in which they came.
void settle_group(std::vector<Entry> group, std::uint64_t base, SortedEntries& sorted) {
  std::set<std::string> names;
  std::uint32_t taken = 0;
  std::vector<Entry> kept, without_cookie;
  for (Entry& entry : group) {
    if (!names.insert(entry.name).second) {
      sorted.has_changed = true;
      sorted.dropped.push_back(std::move(entry));
      continue;
    }
    const std::uint64_t place = entry.cookie - base;
    const bool fits = place < format::cookie_collisions && (taken >> place & 1) == 0;
    if (fits) taken |= 1u << place;
    (fits ? kept : without_cookie).push_back(std::move(entry));
  }
  for (Entry& entry : without_cookie) {
    sorted.has_changed = true;
    std::uint64_t place = 0;
    while (place < format::cookie_collisions && (taken >> place & 1) != 0) ++place;
    if (place == format::cookie_collisions) {
      sorted.dropped.push_back(std::move(entry));
      continue;
    }
    taken |= 1u << place;
    entry.cookie = base + place;
    kept.push_back(std::move(entry));
  }
  std::sort(kept.begin(), kept.end(),
            [](const Entry& a, const Entry& b) { return a.cookie < b.cookie; });
  std::move(kept.begin(), kept.end(), std::back_inserter(sorted.entries));
}

}  // namespace

SortedEntries sort_entries(std::vector<Entry> entries, std::uint64_t hash_seed) {
  std::vector<std::pair<std::uint64_t, Entry>> keyed;
  for (Entry& entry : entries) {
    const std::uint64_t base = format::cookie_base(entry.name, hash_seed);
    keyed.emplace_back(base, std::move(entry));
  }
  std::stable_sort(keyed.begin(), keyed.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  SortedEntries sorted;
  for (std::size_t from = 0, to; from < keyed.size(); from = to) {
    std::vector<Entry> group;
    for (to = from; to < keyed.size() && keyed[to].first == keyed[from].first; ++to) {
      group.push_back(std::move(keyed[to].second));
    }
    settle_group(std::move(group), keyed[from].first, sorted);
  }
  return sorted;
}

DirectoryTree::DirectoryTree(std::vector<Entry> entries) : entries_(std::move(entries)) {
  std::size_t bytes = 0;
  for (const Entry& entry : entries_) bytes += size_of(entry);
  if (bytes <= format::inline_max) return;
  fill_leaves();
  sizes_.push_back(leaf_begins_.size());
  while (sizes_.back() > 1) {
    sizes_.push_back((sizes_.back() + inner_children - 1) / inner_children);
  }
  CHECK(sizes_.size() <= format::directory_levels_max);
}

// Entries of one hash stay together; there are at most eight of them, so they fit.
void DirectoryTree::fill_leaves() {
  std::size_t used = 0;
  for (std::size_t from = 0, to; from < entries_.size(); from = to) {
    std::size_t bytes = 0;
    const std::uint64_t hash = entries_[from].cookie & hash_mask;
    for (to = from; to < entries_.size() && (entries_[to].cookie & hash_mask) == hash; ++to) {
      bytes += size_of(entries_[to]);
    }
    if (leaf_begins_.empty() || used + bytes > leaf_bytes) {
      leaf_begins_.push_back(from);
      used = 0;
    }
    used += bytes;
  }
}

std::size_t DirectoryTree::blocks() const {
  return std::accumulate(sizes_.begin(), sizes_.end(), std::size_t{0});
}

Bytes DirectoryTree::inline_area() const {
  CHECK(sizes_.empty());
  Bytes area(format::inline_max);
  for (const Entry& entry : entries_) CHECK(format::insert_entry(area, view_of(entry)));
  return area;
}

std::vector<std::pair<format::BlockId, Bytes>> DirectoryTree::encode(
    std::uint64_t directory, const std::vector<Place>& places) const {
  CHECK(places.size() == blocks());
  std::vector<std::pair<format::BlockId, Bytes>> blocks;
  std::vector<format::Child> level;  // the last one that was made
  for (std::size_t i = 0; i < leaf_begins_.size(); ++i) {
    const std::size_t begin = leaf_begins_[i];
    const std::size_t end = i + 1 < leaf_begins_.size() ? leaf_begins_[i + 1] : entries_.size();
    const std::uint64_t low = i == 0 ? 0 : entries_[begin].cookie & hash_mask;
    const Place& place = places[blocks.size()];
    Bytes block(format::block_size);
    format::format_leaf(block, directory, place.version, low);
    for (std::size_t j = begin; j < end; ++j) {
      CHECK(format::insert_entry(format::leaf_area(MutableByteView(block)), view_of(entries_[j])));
    }
    level.push_back({low, place.number});
    blocks.emplace_back(format::directory_block(place.number), std::move(block));
  }
  for (std::uint32_t height = 1; height < levels(); ++height) {
    std::vector<format::Child> above;
    for (std::size_t from = 0; from < level.size(); from += inner_children) {
      const std::size_t to = std::min(level.size(), from + inner_children);
      const Place& place = places[blocks.size()];
      Bytes block(format::block_size);
      format::format_inner(block, directory, place.version, level[from].low, height);
      for (std::size_t j = from; j < to; ++j) format::inner_insert(block, j - from, level[j]);
      above.push_back({level[from].low, place.number});
      blocks.emplace_back(format::directory_block(place.number), std::move(block));
    }
    level = std::move(above);
  }
  return blocks;
}

}  // namespace plumeria::check
