// Makes a damaged store one that can be mounted again: `plumeria fsck --repair`.
//
// What can be read stays, what cannot be read is given up, and each of that is told. In this order:
//
//   1. ends all leases, replays all logs and empties them (sole_owner.h);
//   2. reads all metadata (inventory.h). A block in which one bit is wrong is put right; any other
//      damaged inode is lost. Of two that use one block the one that was changed last keeps it;
//   3. decides where each directory hangs (tree_plan.h), takes away entries that lead nowhere, and
//      makes damaged indexes anew from the leaves that are left;
//   4. what no entry leads to any more goes into /lost+found, as #NUMBER;
//   5. link counts, parents and counts of entries follow from the entries; lost inodes become free;
//   6. orphan lists, then allocation pieces, follow from what is in use;
//   7. data segments that nobody has are discarded.
//
// Whatever interrupts it, a repair that is begun again ends as well: each step makes its changes
// durable before the next one begins, frees what has no use any more only when nothing leads to it,
// and relies on nothing but the disk. A block that was whole is never lost by a write that a power
// cut tears (block_writer.h).
//
// Cannot repair  The superblock (but for a single bit), the registers, and data of files: these
// have
//                no checksums.
// Requires       Nobody else has the disk.
// Memory         See inventory.h, and the entries of the largest directory twice.
// Errors         Errc::interrupted when the observer wants the end; Errc::corrupt, not_a_store and
//                version when it cannot be repaired; those of the disk. To be begun again after all
//                but these three.
#pragma once

#include <cstdint>

#include "base/result.h"
#include "base/task.h"
#include "base/world.h"
#include "check/account.h"
#include "check/observer.h"
#include "disk/disk.h"

namespace plumeria::check {

struct RepairOptions {
  Account::Tell tell;            // one line for each thing that was changed or lost
  Observer* observer = nullptr;  // sees the progress, and may end it
};

struct RepairReport {
  std::uint64_t repairs = 0, losses = 0;  // lines told
  std::uint64_t replayed_blocks = 0;      // that the logs brought up to date
  std::uint64_t found = 0;                // inodes that are in lost+found now
  bool has_changed() const { return repairs + losses > 0; }
};

Task<Result<RepairReport>> repair(World world, disk::VirtualDisk& disk, RepairOptions options);

}  // namespace plumeria::check
