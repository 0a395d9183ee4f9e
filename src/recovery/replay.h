// Replays logs: brings the blocks that their records name to the newest version
// (docs/format.md, "Log"; Frangipani, section 4).
//
// Takes no locks: the dead lease still holds them. Records of all given logs are merged by block
// and version; a record applies when its version is higher than the block's, a delta only to the
// version right before its own. So repeating a replay, or a crash in the middle of one, does no
// harm, and logs may be replayed one by one in any order. A block that does not decode is replaced
// only by an image, and only in a replay of all logs: then it was torn by the power cut, since
// every unflushed write in place has its record in one of them. In a replay of one log it is
// damage.
//
// Memory     The records that are not trimmed, at most the sum of the logs' sizes.
// Errors     Errc::corrupt names the log or block that is damaged. The blocks that could be brought
//            up to date were, but nothing has been trimmed: the replay can be repeated.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "base/task.h"
#include "base/world.h"
#include "disk/disk.h"
#include "format/block.h"
#include "lock/lease.h"

namespace plumeria::recovery {

struct ReplayReport {
  std::uint64_t logs = 0, records = 0, changes = 0, blocks_written = 0, bytes_read = 0;
  Duration took{};
  // What ReplayOptions::salvage has passed over: in words, and which logs and blocks.
  std::vector<std::string> given_up;
  std::vector<std::uint32_t> damaged_logs;
  std::vector<format::BlockId> damaged_blocks;
};

struct ReplayOptions {
  std::uint64_t log_size = 0;  // of the store
  lock::LeaseNumber lease{};   // of the replayer, for its writes
  bool all_logs = false;       // every log of the store is among the slots
  // Of the replayed slots, those whose owner is gone: marked empty after the flush.
  std::vector<std::uint32_t> trim;
  // For repair: damage is no error. Of a damaged log the records before the damage count (it is not
  // trimmed), a block whose changes do not fit stays as it is, and one that does not decode is
  // replaced by an image even if it claims to be newer.
  bool salvage = false;
};

// Replays the logs of `slots`, flushes, trims those asked for, flushes again. An empty or never
// used log is no error. Requires that nobody writes to these logs (their leases are fenced, or
// nobody is admitted yet).
Task<Result<ReplayReport>> replay(World world, disk::VirtualDisk& disk,
                                  std::vector<std::uint32_t> slots, ReplayOptions options);

// The blocks that replay() would write, as it would write them; changes nothing. So a store can be
// looked at as it will be after recovery. `lease` and `trim` do not matter.
Task<Result<std::map<format::BlockId, Bytes>>> preview(World world, disk::VirtualDisk& disk,
                                                       std::vector<std::uint32_t> slots,
                                                       ReplayOptions options);

}  // namespace plumeria::recovery
