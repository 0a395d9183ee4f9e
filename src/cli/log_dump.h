// What the logs of a store say, for people and for programs: `plumeria logdump`.
//
// The store must be at rest: what is appended meanwhile would look like damage. Memory: the records
// of one chunk (1 MiB), whatever the size of the log. Errors: those of reading the disk. Damage of
// a log is part of the output, and the other logs are printed all the same.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "base/task.h"
#include "base/world.h"
#include "disk/disk.h"
#include "format/block.h"
#include "format/superblock.h"

namespace plumeria::cli {

// One block, or all blocks of a segment.
struct BlockFilter {
  std::uint64_t segment = 0;
  std::optional<std::uint64_t> number;

  bool matches(format::BlockId id) const {
    return id.segment == segment && (!number || *number == id.number);
  }
};
// "inode:17", "piece:3", "directory:5" or "orphans:2" (the orphan list of a slot). Errc::invalid.
Result<BlockFilter> parse_block_filter(const std::string& text);

struct LogDumpOptions {
  std::string store;                  // its name in the output
  std::optional<std::uint32_t> slot;  // only this log
  std::optional<BlockFilter> block;   // only records that change it, and only that change
  bool json = false;
  bool ranges = false;  // with what deltas replace
};

struct LogDumpReport {
  std::uint64_t logs = 0;     // with records or damage
  std::uint64_t damaged = 0;  // logs with damage, of whatever kind
};

// Gives the text to `print`, piece by piece.
Task<Result<LogDumpReport>> dump_logs(World world, disk::VirtualDisk& disk,
                                      format::Superblock superblock, LogDumpOptions options,
                                      std::function<void(std::string_view)> print);

}  // namespace plumeria::cli
