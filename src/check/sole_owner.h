// Makes this program the only one that may change a store: takes a lease, ends all others, replays
// their logs and empties them, and gets a log of its own.
//
// Order       claim() before anything is changed, then take_over_logs(); leave() at the end.
// Crash       The view names our lease with its slot, and the register of the server's end says
//             that it was not a clean one: so the next server, or the next repair, replays our log
//             with all others.
// Ownership   Borrows the disk, which nobody else has open.
// Threads     The executor's.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/task.h"
#include "base/world.h"
#include "check/account.h"
#include "disk/disk.h"
#include "lock/view.h"
#include "wal/log.h"

namespace plumeria::check {

class SoleOwner {
 public:
  SoleOwner(World world, disk::VirtualDisk& disk, Account& account)
      : world_(world), disk_(disk), account_(account) {}

  // Mounts that wait for their server to come back lose what they have not written.
  Task<Status> claim();
  // What is damaged in the logs is given up, and told. Blocks in which one bit is wrong are put
  // right on the way if a log has changes of them.
  Task<Status> take_over_logs(std::uint64_t log_size);
  // Everything is in place and trimmed: the store is as after a clean end.
  Task<Status> leave();
  // To be awaited before it is destroyed, in case leave() did not come to its end.
  Task<void> settled();

  lock::LeaseNumber lease() const { return lease_; }
  wal::Log& log() { return *log_; }  // Requires: take_over_logs().
  std::uint64_t replayed_blocks() const { return replayed_blocks_; }
  // A block in place that does not decode gets its flipped bit back, if that is all.
  Task<Result<bool>> put_flipped_bit_right(format::BlockId id);

 private:
  Task<Status> write_view();
  Task<Status> mark(bool open);
  Task<Status> put_headers_right(std::uint32_t slot, std::uint64_t log_size);
  Task<Result<std::vector<std::uint32_t>>> logs_that_count(const std::vector<std::uint32_t>& slots,
                                                           std::uint64_t log_size);
  Task<Status> replay(std::vector<std::uint32_t> slots, std::uint64_t log_size);
  Task<Status> discard_damaged(const std::vector<std::uint32_t>& slots);
  const lock::LeaseRecord* owner_of(std::uint32_t slot) const;

  World world_;
  disk::VirtualDisk& disk_;
  Account& account_;
  lock::View view_;
  std::uint64_t view_version_ = 0, end_version_ = 0;
  lock::LeaseNumber lease_{};
  std::optional<wal::Log> log_;
  std::vector<std::uint32_t> damaged_logs_;
  std::uint64_t replayed_blocks_ = 0;
};

}  // namespace plumeria::check
