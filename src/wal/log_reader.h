// Reads a log back: for replay, for its next owner, and for people (docs/format.md, "Log").
//
// Reading changes nothing and takes no lock; what is appended meanwhile may or may not be seen.
// Errors: Errc::corrupt names the log or the chunk that is damaged. A torn end, as a crash leaves
// it, is no error: the log ends before it.
#pragma once

#include <absl/functional/any_invocable.h>

#include <cstdint>
#include <optional>
#include <string>

#include "base/result.h"
#include "base/task.h"
#include "disk/disk.h"
#include "format/log_chunk.h"
#include "wal/log.h"

namespace plumeria::wal {

// The two headers of a log taken together.
struct LogState {
  format::LogHeader header;  // the one that counts; generation 0: the log was never used
  std::optional<format::LogHeader> other;  // the older one, if it was ever written and is whole
  bool other_damaged = false;  // the other one is not whole: torn by a crash, or damaged
  std::string damage;          // then: names it
};
Task<Result<LogState>> read_log_header(disk::VirtualDisk& disk, std::uint32_t slot);

struct LogRecord {
  LogPosition number{};
  format::ChunkHeader chunk;  // of the chunk that it is in
  ByteView bytes;
  SharedBytes memory;  // keeps `bytes`
};
// An error ends the reading and is its result.
using RecordVisitor = absl::AnyInvocable<Status(const LogRecord&)>;

struct LogContents {
  format::LogHeader header;
  std::uint64_t records = 0, chunks = 0;
  std::uint64_t end = 0;  // position after the last chunk
  bool torn = false;      // a chunk of this lease was begun there and is not whole
  std::uint64_t bytes_read = 0;
};

enum class DamageCheck : std::uint8_t {
  // Looks through the whole ring for proof that the log went on where the chain of chunks ends.
  // Requires that nobody writes to the log.
  whole_ring,
  none,  // a log in use: what is appended meanwhile would look like proof
};

// Visits the records of one slot's log in their order. `log_size` is that of the store; a log that
// was made with another one is Errc::corrupt.
Task<Result<LogContents>> read_log(disk::VirtualDisk& disk, std::uint32_t slot,
                                   std::uint64_t log_size, DamageCheck check,
                                   RecordVisitor visitor);

// For repair: the header with which `lease` took the log over, where it is the damaged one of the
// two. Nothing unless the first chunk of the lease is there, which proves what stood in it.
Task<Result<std::optional<format::LogHeader>>> lost_first_header(disk::VirtualDisk& disk,
                                                                 std::uint32_t slot,
                                                                 std::uint64_t log_size,
                                                                 lock::LeaseNumber lease);

// Marks the log as empty: its records up to what was read are in place, and a flush has returned
// since. Durable only after a flush. Errc::mismatch if the log is not as it was read: somebody else
// has emptied it and it may have a new owner.
Task<Status> mark_empty(disk::VirtualDisk& disk, LogContents read, lock::LeaseNumber lease);

}  // namespace plumeria::wal
