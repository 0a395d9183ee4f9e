// Replays logs: brings the blocks that their records name to the newest version (DESIGN §5, RULES
// 1–5, 13, 14).
//
// Takes no locks: the dead lease still holds them. Records of all given logs are merged by block
// and version; a record applies when its version is higher than the block's. Repeating a replay, or
// a crash in the middle of one, does no harm.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/task.h"
#include "base/world.h"
#include "disk/disk.h"
#include "lock/lease.h"

namespace plumeria::recovery {

struct ReplayReport {
  std::uint64_t logs = 0, records = 0, changes = 0, blocks_written = 0, bytes_read = 0;
  Duration took{};
};

struct ReplayOptions {
  std::uint64_t log_size = 0;  // of the store
  lock::LeaseNumber lease{};   // of the replayer, for its writes
  bool all_logs =
      false;  // every log of the store: images may replace blocks that do not decode (RULES 4)
  std::vector<std::uint32_t>
      trim;  // of the replayed slots, those whose owner is gone: marked empty after the flush
};

// Replays the logs of `slots`, flushes, trims those asked for, flushes again. Errc::corrupt names
// the log or block that is damaged; then nothing has been trimmed. An empty or never used log is no
// error.
Task<Result<ReplayReport>> replay(World world, disk::VirtualDisk& disk,
                                  std::vector<std::uint32_t> slots, ReplayOptions options);

}  // namespace plumeria::recovery
