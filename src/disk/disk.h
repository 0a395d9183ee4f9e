// The virtual disk: a sparse space of 2^64 segments of 2^64 bytes each, shared by all mounts of a
// store (Petal, ASPLOS'96).
//
// What was never written, or was discarded, reads as zeros.
//
// Visibility  An acknowledged write is visible to everyone's later reads at once. Overlapping
// operations of one caller that are in
//             flight together have no order; a caller that needs one awaits the first.
// Durability  An acknowledged write is durable once a flush that began after the acknowledgement
// has returned. Until then a power
//             cut may keep or drop unflushed writes in any subset and order, and tear them at
//             multiples of 512 bytes. `flush` covers every write acknowledged to anyone.
// Fence       Every change carries the lease of its sender. Changes of a lease that is not admitted
// fail with Errc::fenced and
//             change nothing (docs/protocol.md, "Fence": the disk knows who is admitted, not who is
//             banned).
// Restarts    A remote disk hides restarts of its server: it repeats what was not acknowledged, and
// keeps writes of
//             Durability::retain until a flush of the same incarnation covers them, else it sends
//             them again before anything else (docs/protocol.md, "Disk sessions"). Writes of
//             Durability::logged are protected by log records and are not sent again once
//             acknowledged, because the lock may be with somebody else by then.
// Errors      Errc::io, no_space, fenced, unavailable (gave up), corrupt, shut_down. A failed write
// may have happened in part. Threads     All calls from the executor's thread; tasks complete on
// it. Tests       disk/contract_test.h runs over every implementation.
#pragma once

#include <absl/strings/str_cat.h>

#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "base/task.h"
#include "base/time.h"
#include "lock/lease.h"

namespace plumeria::disk {

using lock::LeaseNumber;

enum class Segment : std::uint64_t {};

struct Address {
  Segment segment{};
  std::uint64_t offset = 0;  // bytes

  friend auto operator<=>(const Address&, const Address&) = default;
  template <typename H>
  friend H AbslHashValue(H h, const Address& a) {
    return H::combine(std::move(h), static_cast<std::uint64_t>(a.segment), a.offset);
  }
};
inline std::string to_string(Address a) {
  return absl::StrCat(absl::Hex(static_cast<std::uint64_t>(a.segment)), "+", absl::Hex(a.offset));
}

constexpr std::uint64_t sector = 512;             // Writes are torn only at multiples of this.
constexpr std::uint64_t transfer_max = 4u << 20;  // Longest read or write, in bytes.
constexpr std::size_t flushed_singly_max = 64;    // Segments of one flush_segments.

enum class Durability : std::uint8_t {
  retain,  // file data and log: the caller still holds the lock when it flushes
  logged,  // a metadata block in place whose log record is durable and not trimmed
};

constexpr std::uint64_t segment_limit = (std::uint64_t{1} << 63) - 1;  // of every disk, in bytes

struct Usage {
  std::uint64_t total = 0;                    // bytes that the store could hold in all
  std::uint64_t available = 0;                // bytes that can still be written
  std::uint64_t segment_max = segment_limit;  // bytes that the longest segment can have
};

struct Extent {
  std::uint64_t offset = 0;  // bytes
  std::uint64_t length = 0;  // > 0
  friend bool operator==(const Extent&, const Extent&) = default;
};

// A small named record with compare-and-swap; version 0 means that it does not exist. Updates are
// durable when acknowledged.
struct Register {
  std::uint64_t version = 0;
  Bytes value;
};
constexpr std::size_t register_size_max = 1u << 20;

// Numbers grow and never come back, so a snapshot that was deleted is not taken for a later one of
// the same name.
enum class SnapshotId : std::uint64_t { none = 0 };
constexpr std::size_t snapshot_name_max = 64;  // bytes

struct Snapshot {
  SnapshotId id{};
  std::string name;
  WallTime created{};       // as its maker said
  std::uint64_t bytes = 0;  // of the disk's space that are kept for it, and for older ones, alone
};

class VirtualDisk {
 public:
  virtual ~VirtualDisk() = default;

  // Exactly `length` bytes. Requires: 0 < length <= transfer_max.
  virtual Task<Result<Bytes>> read(Address from, std::uint64_t length) = 0;
  // Requires: 0 < data.size() <= transfer_max.
  virtual Task<Status> write(Address to, SharedBytes data, LeaseNumber lease,
                             Durability durability) = 0;
  // Frees the space of whole 4 KiB blocks in the range and zeroes the rest of it. `length` may
  // reach to the end of the segment (2^64 - 1). Unordered with a power cut like a write.
  virtual Task<Status> discard(Address from, std::uint64_t length, LeaseNumber lease) = 0;
  virtual Task<Status> flush() = 0;
  // As flush, for what was acknowledged to these segments alone: nothing else has to be written
  // for it. Requires: 0 < segments.size() <= flushed_singly_max.
  virtual Task<Status> flush_segments(std::vector<Segment> segments) = 0;
  // As flush, for what the callers of this handle have changed, without metadata blocks in place
  // (Durability::logged): all that a log sync and an fsync need. May do more.
  virtual Task<Status> flush_retained() { return flush(); }

  // Makes room that later writes to this range need no further space for. Errc::no_space leaves
  // nothing behind.
  virtual Task<Status> preallocate(Address from, std::uint64_t length, LeaseNumber lease) = 0;

  // The first run of bytes at or after `from` that may hold data (holes are what surely reads as
  // zeros, at the disk's own granularity); nothing when only holes follow. Source of SEEK_DATA, du,
  // and of fsck's walks .
  virtual Task<Result<std::optional<Extent>>> next_extent(Segment segment, std::uint64_t from) = 0;
  // Bytes of the disk's space that the segment takes.
  virtual Task<Result<std::uint64_t>> allocated(Segment segment) = 0;
  // All segments that hold data, in ascending order, at most `limit` of them, from `first` on.
  virtual Task<Result<std::vector<Segment>>> list_segments(Segment first, std::size_t limit) = 0;
  virtual Task<Result<Usage>> usage() = 0;

  // Registers. `expected` is the version that the caller has read (0 to create); the new version is
  // returned. Errc::mismatch when it is another by now. Versions only grow.
  virtual Task<Result<Register>> read_register(std::string_view name) = 0;
  virtual Task<Result<std::uint64_t>> write_register(std::string_view name, std::uint64_t expected,
                                                     Bytes value, LeaseNumber lease) = 0;

  // Lets `lease` change the store from now on; durable when it returns. Errc::fenced if it has been
  // fenced before. Both are for the lock service alone, which is in the process that owns the disk
  // (or is trusted by it).
  virtual Task<Status> admit(LeaseNumber lease) = 0;
  // Refuses every change of `lease` from now on, durably and for ever. Returns only when writes
  // that were admitted before have finished (docs/protocol.md, "Fence"). Fencing one that was never
  // admitted is no error.
  virtual Task<Status> fence(LeaseNumber lease) = 0;

  // Snapshots: the disk with its registers as it was at one moment between the call and its return.
  // What was acknowledged before the call is in it, of what is under way any part; what comes later
  // is not. It is durable when the call returns; a crash leaves it whole or not at all. It takes no
  // longer on a large disk than on a small one, except for a flush. Errc::exist; Errc::invalid for
  // a name (check_snapshot_name).
  virtual Task<Result<SnapshotId>> create_snapshot(std::string name, WallTime created,
                                                   LeaseNumber lease);
  // It is gone, durably, when the call returns, and the space that was kept for it alone is free;
  // if a crash comes in between, the space is freed when the disk is opened. Errc::stale: there is
  // none.
  virtual Task<Status> delete_snapshot(SnapshotId id, LeaseNumber lease);
  // From the oldest on.
  virtual Task<Result<std::vector<Snapshot>>> list_snapshots();
  // As the calls without "snapshot". Errc::stale: it was deleted.
  virtual Task<Result<Bytes>> read_snapshot(SnapshotId id, Address from, std::uint64_t length);
  virtual Task<Result<std::optional<Extent>>> next_snapshot_extent(SnapshotId id, Segment segment,
                                                                   std::uint64_t from);
  virtual Task<Result<std::vector<Segment>>> list_snapshot_segments(SnapshotId id, Segment first,
                                                                    std::size_t limit);
  virtual Task<Result<Register>> read_snapshot_register(SnapshotId id, std::string name);

  // What this handle keeps to send again for a lease that is over is dropped: it would be refused,
  // and every flush with it.
  virtual void forget(LeaseNumber) {}
};

// 1 to snapshot_name_max letters, digits and any of "-_.:+@=", not beginning with '.' or '-'.
Status check_snapshot_name(std::string_view name);

}  // namespace plumeria::disk
