// Writes metadata blocks for a repair, so that an interruption at any point loses no block that was
// whole before.
//
// A block that is whole goes through the log of the repair first, as every change of a mount does:
// if it is torn in place, the log has its image. What lies in a place that is damaged or counts for
// nothing is written there directly.
//
// Ownership   Borrows disk, log and observer.
// Errors      Errc::interrupted when the observer wants the end; else those of the disk. After any
//             of them nothing else may be called.
#pragma once

#include <cstdint>
#include <map>

#include "base/bytes.h"
#include "base/result.h"
#include "base/task.h"
#include "check/observer.h"
#include "disk/disk.h"
#include "format/block.h"
#include "wal/log.h"

namespace plumeria::check {

class BlockWriter {
 public:
  BlockWriter(disk::VirtualDisk& disk, wal::Log& log, lock::LeaseNumber lease, Observer* observer)
      : disk_(disk), log_(log), lease_(lease), observer_(observer) {}

  // The block's next content, with the version that it has on the disk; it gets the next one. At
  // most one change of a block between two settle().
  Task<Status> change(format::BlockId id, Bytes block);
  // With a version that is above what was there, as far as anybody can tell.
  Task<Status> replace(format::BlockId id, Bytes block);
  // Frees the space of a whole segment.
  Task<Status> discard(std::uint64_t segment);
  // All of it is in place and durable.
  Task<Status> settle();

  std::uint64_t written() const { return written_; }  // blocks

 private:
  Task<Status> commit();
  Task<Status> write(format::BlockId id, Bytes block);
  Status go_on() const;

  disk::VirtualDisk& disk_;
  wal::Log& log_;
  const lock::LeaseNumber lease_;
  Observer* const observer_;
  std::map<format::BlockId, Bytes> changes_;  // not in the log yet
  bool unflushed_ = false;
  std::uint64_t written_ = 0;
};

}  // namespace plumeria::check
