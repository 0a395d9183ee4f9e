// The private write-ahead log of one mount: a ring of checksummed chunks on the virtual disk
// (DESIGN §5; Frangipani §4).
//
// A record is the bytes of one atomic metadata change (format/log_record.h). Records are numbered
// from 1 on (LogPosition) and kept in memory until a sync writes them, all that wait in one chunk
// or a few, each whole or not there after a crash; chunks carry the lease and the checksum of their
// predecessor (RULES 8).
//
// Invariant   trimmed() <= durable() <= end(), and all only grow.
// Ownership   Borrows the disk, which outlives the log.
// Threads     The executor's; sync() and reserve() wait.
// Errors      The first failed write or flush seals the log: from then on every call returns its
// error, the mount stops, and
//             another one recovers it as if it had died.
#pragma once

#include <cstdint>
#include <memory>
#include <utility>

#include "base/number.h"
#include "base/result.h"
#include "base/task.h"
#include "base/world.h"
#include "disk/disk.h"
#include "lock/lease.h"

namespace plumeria::wal {

enum class LogPosition : std::uint64_t { none = 0 };
inline LogPosition next(LogPosition p) { return LogPosition{raw(p) + 1}; }
inline LogPosition before(LogPosition p) { return LogPosition{raw(p) - 1}; }

constexpr std::uint64_t log_size_default = 64ull << 20;  // bytes
constexpr std::uint64_t log_size_min = 1ull << 20;
constexpr std::uint64_t record_size_max = 256u << 10;

class Log;

// Room in the log that was set aside for one operation; what is not used goes back when it is
// destroyed.
class Reservation {
 public:
  Reservation() = default;
  Reservation(Reservation&& other) noexcept
      : log_(std::exchange(other.log_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  Reservation& operator=(Reservation&& other) noexcept {
    std::swap(log_, other.log_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~Reservation();
  std::uint64_t left() const { return bytes_; }

 private:
  friend class Log;
  Log* log_ = nullptr;
  std::uint64_t bytes_ = 0;
};

struct LogStatus {
  std::uint64_t size = 0, used = 0, reserved = 0;  // bytes; used counts what is not trimmed
  LogPosition end{}, durable{}, trimmed{};
  std::uint64_t syncs = 0, records = 0, bytes_written = 0;
};

class Log {
 public:
  // `size` in bytes, a multiple of 4096, at least log_size_min: that of the store's superblock.
  Log(World world, disk::VirtualDisk& disk, std::uint32_t slot, std::uint64_t size,
      lock::LeaseNumber lease);
  ~Log();
  Log(const Log&) = delete;
  Log& operator=(const Log&) = delete;

  // Takes over the slot's log, which is empty or has been replayed and trimmed: preallocates it if
  // it is new, and makes its first header of this lease durable. Errc::corrupt when it still holds
  // records of an earlier lease (not recovered).
  Task<Status> start();

  // Sets aside `bytes` for records, waiting until there is room (first come, first served). To be
  // taken before an operation's first lock (RULES 8). `for_revoke` draws on the reserve that is
  // kept for giving up locks, and never waits behind others.
  Task<Result<Reservation>> reserve(std::uint64_t bytes, bool for_revoke = false);

  // Keeps the record in memory; a crash loses it until sync(). Pays with `reservation`, which must
  // have room for it (a CHECK).
  Result<LogPosition> append(ByteView record, Reservation& reservation);

  // All records up to `last` survive a crash of anything when this returns. Concurrent callers
  // share writes and flushes (group commit). The flush covers everything acknowledged before the
  // call.
  Task<Status> sync(LogPosition last);
  Task<Status> sync_all() { return sync(end()); }

  // Records up to `last` are not needed any more: their blocks are in place and a flush that began
  // after that has returned (RULES 3). The room is free again once the new header is durable, which
  // the next flush does; waits for nothing itself but the header's write. `last` may be beyond
  // durable(): then only what is durable is trimmed.
  Task<Status> trim(LogPosition last);

  // After everything is written back, flushed and trimmed: marks the log empty and its owner gone,
  // durably.
  Task<Status> finish();

  LogPosition end() const;  // last record appended
  LogPosition durable() const;
  LogPosition trimmed() const;
  LogStatus status() const;
  // How full: 0…1, counting reservations. The cache writes blocks back to trim above a half.
  double pressure() const;
  // Called (from the executor) when somebody waits for room or pressure passes one half.
  void on_pressure(Callback callback);

 private:
  friend class Reservation;
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace plumeria::wal
