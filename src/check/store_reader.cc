#include "check/store_reader.h"

#include <algorithm>
#include <set>
#include <utility>

#include "base/async.h"

namespace plumeria::check {
namespace {

using format::block_size;
using format::BlockId;

constexpr std::uint64_t read_blocks = 256;  // 1 MiB at a time
constexpr std::size_t segments_at_once = 1024;

disk::Address address_of(BlockId id) { return {disk::Segment{id.segment}, id.offset()}; }

}  // namespace

StoreReader::StoreReader(World world, disk::VirtualDisk& disk, std::map<BlockId, Bytes> replayed)
    : world_(world), disk_(disk), replayed_(std::move(replayed)) {}

Task<Result<Bytes>> StoreReader::block(BlockId id) {
  const auto replayed = replayed_.find(id);
  if (replayed != replayed_.end()) co_return replayed->second;
  co_return co_await disk_.read(address_of(id), block_size);
}

Task<Result<std::vector<Bytes>>> StoreReader::blocks(std::vector<BlockId> ids) {
  std::vector<Task<Result<Bytes>>> reads;
  for (const BlockId id : ids) reads.push_back(block(id));
  std::vector<Result<Bytes>> results = co_await gather(world_.executor, std::move(reads));
  std::vector<Bytes> blocks;
  for (Result<Bytes>& result : results) {
    if (!result) co_return fail(std::move(result).error());
    blocks.push_back(*std::move(result));
  }
  co_return blocks;
}

// What the disk knows as written, with what a replay would write there.
Task<Result<std::vector<StoreReader::Range>>> StoreReader::written_ranges(std::uint64_t segment) {
  std::vector<Range> ranges;
  std::uint64_t from = 0;
  while (true) {
    CO_TRY(const auto extent, co_await disk_.next_extent(disk::Segment{segment}, from));
    if (!extent) break;
    from = extent->offset + extent->length;
    ranges.push_back({extent->offset / block_size, (from + block_size - 1) / block_size});
  }
  const auto first = replayed_.lower_bound(BlockId{segment, 0});
  for (auto at = first; at != replayed_.end() && at->first.segment == segment; ++at) {
    ranges.push_back({at->first.number, at->first.number + 1});
  }
  std::sort(ranges.begin(), ranges.end(),
            [](const Range& a, const Range& b) { return a.first < b.first; });
  std::vector<Range> merged;
  for (const Range& range : ranges) {
    if (!merged.empty() && range.first <= merged.back().end) {
      merged.back().end = std::max(merged.back().end, range.end);
    } else {
      merged.push_back(range);
    }
  }
  co_return merged;
}

Task<Status> StoreReader::each_block(std::uint64_t segment, Visitor visit) {
  CO_TRY(const std::vector<Range> ranges, co_await written_ranges(segment));
  for (const Range& range : ranges) {
    for (std::uint64_t first = range.first; first < range.end; first += read_blocks) {
      const std::uint64_t count = std::min(read_blocks, range.end - first);
      CO_TRY(const Bytes bytes,
             co_await disk_.read(address_of({segment, first}), count * block_size));
      for (std::uint64_t i = 0; i < count; ++i) {
        const BlockId id{segment, first + i};
        const auto replayed = replayed_.find(id);
        const ByteView block = replayed != replayed_.end()
                                   ? ByteView(replayed->second)
                                   : ByteView(bytes).subspan(i * block_size, block_size);
        if (!all_zero(block)) visit(id, block);
      }
      // A disk that answers at once would keep everything else from running, such as a signal.
      co_await yield_to(world_.executor);
    }
  }
  co_return Status{};
}

Task<Result<std::vector<std::uint64_t>>> StoreReader::segments(std::uint64_t first,
                                                               std::uint64_t end) {
  std::set<std::uint64_t> found;
  for (const auto& [id, block] : replayed_) {
    if (id.segment >= first && id.segment < end) found.insert(id.segment);
  }
  std::uint64_t from = first;
  while (from < end) {
    CO_TRY(const auto some, co_await disk_.list_segments(disk::Segment{from}, segments_at_once));
    for (const disk::Segment segment : some) {
      if (static_cast<std::uint64_t>(segment) >= end) break;
      found.insert(static_cast<std::uint64_t>(segment));
    }
    if (some.size() < segments_at_once) break;
    from = static_cast<std::uint64_t>(some.back()) + 1;
    if (from == 0) break;  // The very last segment was listed.
  }
  co_return std::vector<std::uint64_t>(found.begin(), found.end());
}

}  // namespace plumeria::check
