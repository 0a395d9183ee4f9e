#include "disk/snapshot_view.h"

#include <absl/strings/str_cat.h>

#include <algorithm>

#include "base/check.h"
#include "base/number.h"

namespace plumeria::disk {

namespace {

constexpr std::uint64_t no_end = ~std::uint64_t{0};

std::uint64_t end_of(Address from, std::uint64_t length) {
  return length > no_end - from.offset ? no_end : from.offset + length;
}

}  // namespace

Status SnapshotView::check(LeaseNumber lease) const {
  if (fenced_.contains(lease)) return fail(Errc::fenced, absl::StrCat("lease ", raw(lease)));
  return {};
}

// Without what was written here.
Task<Result<Bytes>> SnapshotView::read_below(Address from, std::uint64_t length) {
  const auto changed = changed_.find(from.segment);
  const std::uint64_t hidden = changed == changed_.end() ? no_end : changed->second.hidden_from;
  if (from.offset >= hidden) co_return Bytes(length);
  const std::uint64_t shown = std::min(length, hidden - from.offset);
  CO_TRY(Bytes bytes, co_await below_.read_snapshot(id_, from, shown));
  bytes.resize(length);
  co_return bytes;
}

Task<Result<Bytes>> SnapshotView::read(Address from, std::uint64_t length) {
  CO_TRY(Bytes bytes, co_await read_below(from, length));
  const auto changed = changed_.find(from.segment);
  if (changed == changed_.end()) co_return bytes;
  const std::uint64_t end = from.offset + length;
  const Blocks& blocks = changed->second.blocks;
  for (auto it = blocks.lower_bound(from.offset / block_size);
       it != blocks.end() && it->first * block_size < end; ++it) {
    const std::uint64_t start = it->first * block_size;
    const std::uint64_t low = std::max(from.offset, start),
                        high = std::min(end, start + block_size);
    std::byte* to = bytes.data() + (low - from.offset);
    if (it->second.empty()) {
      std::fill_n(to, high - low, std::byte{0});
    } else {
      std::copy_n(it->second.data() + (low - start), high - low, to);
    }
  }
  co_return bytes;
}

Task<Result<Bytes>> SnapshotView::block(Segment segment, std::uint64_t number) {
  const auto changed = changed_.find(segment);
  if (changed != changed_.end()) {
    const auto found = changed->second.blocks.find(number);
    if (found != changed->second.blocks.end()) {
      Bytes bytes = found->second;
      bytes.resize(block_size);
      co_return bytes;
    }
  }
  const Address at{segment, number * block_size};
  co_return co_await read_below(at, block_size);
}

Task<Status> SnapshotView::put(Address to, ByteView data) {
  while (!data.empty()) {
    const std::uint64_t number = to.offset / block_size, inside = to.offset % block_size;
    const std::size_t part = std::min<std::uint64_t>(data.size(), block_size - inside);
    Bytes bytes;
    if (part < block_size) {
      CO_TRY(bytes, co_await block(to.segment, number));
    }
    bytes.resize(block_size);
    std::copy_n(data.begin(), part, bytes.begin() + static_cast<std::ptrdiff_t>(inside));
    changed_[to.segment].blocks[number] = std::move(bytes);
    to.offset += part;
    data = data.subspan(part);
  }
  co_return Status();
}

Task<Status> SnapshotView::write(Address to, SharedBytes data, LeaseNumber lease, Durability) {
  CHECK(!data.empty() && data.size() <= transfer_max);
  CO_TRY_STATUS(check(lease));
  co_return co_await put(to, data.view());
}

Task<Status> SnapshotView::zero_part(Address from, std::uint64_t length) {
  if (length == 0) co_return Status();
  const Bytes zeros(length);
  co_return co_await put(from, zeros);
}

Task<Status> SnapshotView::discard(Address from, std::uint64_t length, LeaseNumber lease) {
  CO_TRY_STATUS(check(lease));
  const std::uint64_t end = end_of(from, length);
  const std::uint64_t first = from.offset / block_size + (from.offset % block_size == 0 ? 0 : 1);
  const std::uint64_t last = end / block_size;  // whole blocks: [first, last)
  if (first >= last) {
    const std::uint64_t border = std::min(end, first * block_size);
    CO_TRY_STATUS(co_await zero_part(from, border - from.offset));
    const Address rest{from.segment, border};
    co_return co_await zero_part(rest, end - border);
  }
  CO_TRY_STATUS(co_await zero_part(from, first * block_size - from.offset));
  if (end == no_end) {
    Changed& changed = changed_[from.segment];
    changed.blocks.erase(changed.blocks.lower_bound(first), changed.blocks.end());
    changed.hidden_from = std::min(changed.hidden_from, first * block_size);
    co_return Status();
  }
  const Address rest{from.segment, last * block_size};
  CO_TRY_STATUS(co_await zero_part(rest, end - rest.offset));
  for (std::uint64_t at = first * block_size;;) {
    CO_TRY(const std::optional<Extent> extent, co_await next_extent(from.segment, at));
    if (!extent || extent->offset >= last * block_size) co_return Status();
    at = std::min(extent->offset + extent->length, last * block_size);
    Blocks& blocks = changed_[from.segment].blocks;
    for (std::uint64_t number = extent->offset / block_size; number * block_size < at; ++number) {
      blocks[number].clear();
    }
  }
}

Task<Status> SnapshotView::flush() { co_return Status(); }
Task<Status> SnapshotView::flush_segments(std::vector<Segment>) { co_return Status(); }

Task<Status> SnapshotView::preallocate(Address, std::uint64_t, LeaseNumber lease) {
  co_return check(lease);
}

Task<Result<std::optional<Extent>>> SnapshotView::next_extent(Segment segment, std::uint64_t from) {
  const auto changed = changed_.find(segment);
  std::optional<Extent> best;
  std::uint64_t hidden = no_end;
  if (changed != changed_.end()) {
    hidden = changed->second.hidden_from;
    const Blocks& blocks = changed->second.blocks;
    auto it = blocks.lower_bound(from / block_size);
    while (it != blocks.end() && it->second.empty()) ++it;
    if (it != blocks.end()) {
      const std::uint64_t begin = std::max(from, it->first * block_size);
      best = Extent{begin, (it->first + 1) * block_size - begin};
    }
  }
  for (std::uint64_t at = from; at < hidden;) {
    CO_TRY(std::optional<Extent> extent, co_await below_.next_snapshot_extent(id_, segment, at));
    if (!extent || extent->offset >= hidden) break;
    const std::uint64_t end = std::min(extent->offset + extent->length, hidden);
    // Up to the next block that was written here, which counts instead.
    std::uint64_t begin = extent->offset, stop = end;
    const auto now = changed_.find(segment);
    if (now != changed_.end()) {
      const Blocks& blocks = now->second.blocks;
      while (begin < end && blocks.contains(begin / block_size)) {
        begin = std::min(end, (begin / block_size + 1) * block_size);
      }
      const auto next = blocks.lower_bound(begin / block_size);
      if (next != blocks.end()) stop = std::min(end, next->first * block_size);
    }
    if (begin < end) {
      if (!best || begin < best->offset) best = Extent{begin, stop - begin};
      break;
    }
    at = end;
  }
  co_return best;
}

Task<Result<std::uint64_t>> SnapshotView::allocated(Segment segment) {
  const auto changed = changed_.find(segment);
  co_return changed == changed_.end() ? 0 : changed->second.blocks.size() * block_size;
}

Task<Result<std::vector<Segment>>> SnapshotView::list_segments(Segment first, std::size_t limit) {
  CO_TRY(const std::vector<Segment> below,
         co_await below_.list_snapshot_segments(id_, first, limit));
  std::vector<Segment> all;
  for (const Segment segment : below) {
    const auto changed = changed_.find(segment);
    if (changed == changed_.end() || changed->second.hidden_from > 0) all.push_back(segment);
  }
  for (auto it = changed_.lower_bound(first); it != changed_.end(); ++it) {
    // Behind the last of a list that was cut others may come that are not in it.
    if (below.size() == limit && it->first > below.back()) break;
    const Blocks& blocks = it->second.blocks;
    const bool has_data = std::any_of(blocks.begin(), blocks.end(),
                                      [](const auto& entry) { return !entry.second.empty(); });
    if (has_data) all.push_back(it->first);
  }
  std::sort(all.begin(), all.end());
  all.erase(std::unique(all.begin(), all.end()), all.end());
  if (all.size() > limit) all.resize(limit);
  if (all.empty() && below.size() == limit && raw(below.back()) != no_end) {
    co_return co_await list_segments(Segment{raw(below.back()) + 1}, limit);
  }
  co_return all;
}

Task<Result<Usage>> SnapshotView::usage() {
  // Below may be a disk that shows nothing but snapshots.
  Usage usage{0, 0, segment_limit};
  const Result<Usage> found = co_await below_.usage();
  if (found) usage = *found;
  co_return usage;
}

Task<Result<Register>> SnapshotView::read_register(std::string_view name) {
  return find_register(std::string(name));
}

Task<Result<Register>> SnapshotView::find_register(std::string name) {
  const auto found = registers_.find(name);
  if (found != registers_.end()) co_return found->second;
  CO_TRY(Register content, co_await below_.read_snapshot_register(id_, name));
  co_return registers_.try_emplace(std::move(name), std::move(content)).first->second;
}

Task<Result<std::uint64_t>> SnapshotView::write_register(std::string_view name,
                                                         std::uint64_t expected, Bytes value,
                                                         LeaseNumber lease) {
  struct Refused {
    static Task<Result<std::uint64_t>> because(Error error) { co_return fail(std::move(error)); }
  };
  if (const Status status = check(lease); !status) return Refused::because(status.error());
  return update_register(std::string(name), expected, std::move(value));
}

Task<Result<std::uint64_t>> SnapshotView::update_register(std::string name, std::uint64_t expected,
                                                          Bytes value) {
  CO_TRY_STATUS(co_await find_register(name));
  Register& content = registers_[name];
  if (content.version != expected) {
    co_return fail(Errc::mismatch, absl::StrCat("register ", name, " has version ", content.version,
                                                ", not ", expected));
  }
  content = Register{expected + 1, std::move(value)};
  co_return expected + 1;
}

Task<Status> SnapshotView::admit(LeaseNumber lease) { co_return check(lease); }

Task<Status> SnapshotView::fence(LeaseNumber lease) {
  fenced_.insert(lease);
  co_return Status();
}

}  // namespace plumeria::disk
