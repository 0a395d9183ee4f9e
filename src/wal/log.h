// The private write-ahead log of one mount: a ring of checksummed chunks on the virtual disk
// (docs/format.md, "Log"; Frangipani, section 4).
//
// A record is the bytes of one atomic metadata change (format/log_record.h). Records are numbered
// from 1 on (LogPosition) and kept in memory until a sync writes them, all that wait in one chunk
// or a few, each whole or not there after a crash.
//
// Invariant   trimmed() <= durable() <= end(), and all only grow.
// Rounds      At most one round is under way: write all chunks and, if records were trimmed, the
//             header; flush; wake those who waited for it. Who comes too late waits for the next.
// Damage      Every chunk tells how far the log was durable before it, and when no chunk follows
//             for a while a header does: so what is missing from it is noticed.
// Room        Is set aside by reserve() before an operation takes its first lock, so that append()
//             never waits. Part of the ring is kept for giving up locks, because writing back under
//             a lock is what makes room for the others. A trimmed record's room is used again only
//             when the header that says so is durable.
// Ownership   Borrows the disk, which outlives the log. Reservations must not outlive the log.
// Threads     The executor's; sync(), reserve() and finish() wait.
// Errors      The first failed write or flush seals the log: from then on every call returns its
//             error, the mount stops, and another one recovers it as if it had died.
#pragma once

#include <cstdint>
#include <memory>
#include <utility>

#include "base/number.h"
#include "base/result.h"
#include "base/task.h"
#include "base/world.h"
#include "disk/disk.h"
#include "format/log_chunk.h"
#include "lock/lease.h"

namespace plumeria::wal {

enum class LogPosition : std::uint64_t { none = 0 };
inline LogPosition next(LogPosition p) { return LogPosition{raw(p) + 1}; }
inline LogPosition before(LogPosition p) { return LogPosition{raw(p) - 1}; }

constexpr std::uint64_t log_size_default = 64ull << 20;  // bytes
constexpr std::uint64_t log_size_min = 1ull << 20;
constexpr std::uint64_t record_size_max = 256u << 10;
constexpr std::uint64_t record_overhead = format::record_overhead_max;
constexpr double trim_above_default = 0.5;  // how full the log gets before it is trimmed

class Log;

// Room in the log that was set aside for one operation; what is not used goes back when it is
// destroyed. reserve(n) pays for one record of up to n bytes, or for several if each but the first
// was counted with record_overhead more.
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
  // The largest record that it still pays for.
  std::uint64_t left() const { return bytes_ > record_overhead ? bytes_ - record_overhead : 0; }

 private:
  friend class Log;
  Log* log_ = nullptr;
  std::uint64_t bytes_ = 0;  // with record_overhead for each record
};

struct LogStatus {
  std::uint64_t size = 0, used = 0, reserved = 0;  // bytes; used counts what is not trimmed
  LogPosition end{}, durable{}, trimmed{};
  std::uint64_t syncs = 0, records = 0, bytes_written = 0;
};

class Log {
 public:
  // `size` in bytes, a multiple of 4096, at least log_size_min: that of the store's superblock.
  // `trim_above` is a pressure, from 0 to less than 1.
  Log(World world, disk::VirtualDisk& disk, std::uint32_t slot, std::uint64_t size,
      lock::LeaseNumber lease, double trim_above = trim_above_default);
  ~Log();
  Log(const Log&) = delete;
  Log& operator=(const Log&) = delete;

  // Takes over the slot's log, which is empty or has been replayed and trimmed: preallocates it if
  // it is new, and makes its first header of this lease durable. Errc::corrupt when it still holds
  // records (they were not recovered), or is damaged. Everything else requires that it succeeded.
  Task<Status> start();

  // Sets aside room for a record of `bytes`, waiting until there is some (first come, first
  // served). To be called before an operation takes its first lock. `for_revoke` draws on the
  // reserve that is kept for giving up locks, and never waits behind others. Errc::log_full only
  // when the log is too small for it even when empty.
  Task<Result<Reservation>> reserve(std::uint64_t bytes, bool for_revoke = false);

  // Keeps the record in memory; a crash loses it until sync(). Pays with `reservation`, which must
  // have room for it (a CHECK).
  Result<LogPosition> append(ByteView record, Reservation& reservation);

  // All records up to `last` survive a crash of anything when this returns. Concurrent callers
  // share writes and flushes (group commit). There is always a flush that began after the call,
  // also when the records are durable already: it covers everything that was acknowledged to the
  // caller before, such as file data. Who needs the records only compares durable() first.
  Task<Status> sync(LogPosition last);
  Task<Status> sync_all() { return sync(end()); }

  // Records up to `last` are not needed any more: their blocks are in place and a flush that began
  // after that has returned. Whole chunks are trimmed, of what is durable. Waits for nothing: the
  // header is written by the next round, and by one of its own when room is scarce.
  Task<Status> trim(LogPosition last);

  // After everything is written back, flushed and trimmed (a CHECK): marks the log empty and its
  // owner gone, durably. Every later call returns Errc::shut_down.
  Task<Status> finish();
  // Returns when no write of it is on its way. Before it is destroyed while the executor goes on.
  Task<void> settled();

  LogPosition end() const;  // last record appended
  LogPosition durable() const;
  LogPosition trimmed() const;  // last record of the last chunk trimmed
  LogStatus status() const;
  // How full, from 0 to 1, with what is reserved; at 1 reserve() waits.
  double pressure() const;
  // It is time to write blocks back and to trim.
  bool is_scarce() const;
  // Called (posted to the executor) when somebody waits for room, again after each round that did
  // not help him, and when it becomes scarce.
  void on_pressure(Callback callback);

 private:
  friend class Reservation;
  struct State;
  std::shared_ptr<State> state_;  // shared only with callbacks that are posted
};

}  // namespace plumeria::wal
