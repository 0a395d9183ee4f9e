// Reads metadata blocks as they are after a replay of all logs, which nobody has done yet.
//
// Threads: the executor's. Ownership: borrows the disk. Errors: those of the disk; blocks are not
// verified here.
#pragma once

#include <absl/functional/any_invocable.h>

#include <cstdint>
#include <map>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "base/task.h"
#include "base/world.h"
#include "disk/disk.h"
#include "format/block.h"

namespace plumeria::check {

class StoreReader {
 public:
  using Visitor = absl::AnyInvocable<void(format::BlockId, ByteView)>;

  // `replayed`: what a replay would write (recovery/replay.h, preview()).
  StoreReader(World world, disk::VirtualDisk& disk, std::map<format::BlockId, Bytes> replayed);

  // In the order of the ids.
  Task<Result<std::vector<Bytes>>> blocks(std::vector<format::BlockId> ids);
  // Every block of the segment that was ever written, in ascending order.
  Task<Status> each_block(std::uint64_t segment, Visitor visit);
  // All segments in [first, end) that hold something, ascending.
  Task<Result<std::vector<std::uint64_t>>> segments(std::uint64_t first, std::uint64_t end);

 private:
  // Block numbers [first, end).
  struct Range {
    std::uint64_t first = 0, end = 0;
  };
  Task<Result<std::vector<Range>>> written_ranges(std::uint64_t segment);
  Task<Result<Bytes>> block(format::BlockId id);

  World world_;
  disk::VirtualDisk& disk_;
  const std::map<format::BlockId, Bytes> replayed_;
};

}  // namespace plumeria::check
