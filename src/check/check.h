// The consistency check of a whole store: `plumeria fsck`, and the simulator's verdict after
// recovery.
//
// Looks at the store as it will be when all logs are replayed; changes nothing. So it needs no
// recovery first, but nobody may change the store meanwhile (mounts must be gone or at rest).
//
// What is checked (docs/format.md describes it): checksum, type, owner and content of every
// metadata block; directory entries, their cookies and the order of the index; that every inode in
// use is reached from the root or stands in an orphan list, with the right count of links; that the
// bits of the allocation pieces are set exactly for what is in use, and nothing is in use twice;
// that versions do not fall when free blocks are used again; that data segments have an owner; that
// every log with records belongs to a lease.
//
// Memory: about 100 bytes for each inode, and the metadata of one directory path.
// Threads: the executor's.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/task.h"
#include "base/world.h"
#include "check/observer.h"
#include "disk/disk.h"

namespace plumeria::check {

struct Options {
  std::size_t findings_max = 200;  // that are kept; the others are only counted
  Observer* observer = nullptr;    // sees the progress
};

struct Report {
  // Each names the block or inode and what is wrong with it.
  std::vector<std::string> problems;
  // Space that belongs to nobody: no harm but its loss. A crash may leave some.
  std::vector<std::string> leaks;
  std::uint64_t problem_count = 0, leak_count = 0;

  std::uint64_t inodes = 0, directories = 0, files = 0, symlinks = 0, others = 0;  // in use
  std::uint64_t entries = 0, directory_blocks = 0, small_blocks = 0, data_segments = 0;
  std::uint64_t pieces = 0, orphans = 0;
  std::uint64_t logs = 0, replayed_blocks = 0;  // logs in use; blocks that a replay would change

  bool is_clean() const { return problem_count == 0; }
};

// An Error only when the check itself is impossible: no store, another version, a log that is
// damaged (its message says where), a disk that cannot be read. Damage elsewhere is in the report.
Task<Result<Report>> run(World world, disk::VirtualDisk& disk, Options options);

}  // namespace plumeria::check
