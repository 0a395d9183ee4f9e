// A snapshot as a disk of its own, for a mount that looks at it: what is written stays in memory,
// in this handle, over what the snapshot holds.
//
// So production code can start on it as after a power cut of everything (replay logs, take leases,
// free orphans), and what it changes is gone with the handle. Every lease is admitted until it is
// fenced.
//
// Space       Each block that was written takes its 4 KiB of memory; nothing bounds them but what
//             recovery writes.
// Ownership   Borrows the disk that has the snapshot, which outlives it.
// Threads     The executor's. Errors: the disk's; Errc::stale when the snapshot was deleted.
#pragma once

#include <absl/container/btree_map.h>

#include <map>
#include <optional>
#include <set>
#include <string>

#include "disk/disk.h"

namespace plumeria::disk {

class SnapshotView final : public VirtualDisk {
 public:
  SnapshotView(VirtualDisk& below, SnapshotId id) : below_(below), id_(id) {}

  Task<Result<Bytes>> read(Address from, std::uint64_t length) override;
  Task<Status> write(Address to, SharedBytes data, LeaseNumber lease,
                     Durability durability) override;
  Task<Status> discard(Address from, std::uint64_t length, LeaseNumber lease) override;
  Task<Status> flush() override;
  Task<Status> flush_segments(std::vector<Segment> segments) override;
  Task<Status> preallocate(Address from, std::uint64_t length, LeaseNumber lease) override;
  Task<Result<std::optional<Extent>>> next_extent(Segment segment, std::uint64_t from) override;
  // Of what was written here; of the snapshot itself nobody asks.
  Task<Result<std::uint64_t>> allocated(Segment segment) override;
  Task<Result<std::vector<Segment>>> list_segments(Segment first, std::size_t limit) override;
  // That of the disk below.
  Task<Result<Usage>> usage() override;
  Task<Result<Register>> read_register(std::string_view name) override;
  Task<Result<std::uint64_t>> write_register(std::string_view name, std::uint64_t expected,
                                             Bytes value, LeaseNumber lease) override;
  Task<Status> admit(LeaseNumber lease) override;
  Task<Status> fence(LeaseNumber lease) override;

 private:
  static constexpr std::uint64_t block_size = 4096;
  using Blocks = absl::btree_map<std::uint64_t, Bytes>;  // by number; empty: zeros
  struct Changed {
    Blocks blocks;
    std::uint64_t hidden_from = ~std::uint64_t{0};  // the snapshot counts only below this
  };

  Status check(LeaseNumber lease) const;
  Task<Result<Bytes>> read_below(Address from, std::uint64_t length);
  Task<Result<Bytes>> block(Segment segment, std::uint64_t number);
  Task<Status> put(Address to, ByteView data);
  Task<Result<Register>> find_register(std::string name);
  Task<Result<std::uint64_t>> update_register(std::string name, std::uint64_t expected,
                                              Bytes value);
  Task<Status> zero_part(Address from, std::uint64_t length);

  VirtualDisk& below_;
  const SnapshotId id_;
  std::map<Segment, Changed> changed_;
  std::map<std::string, Register, std::less<>> registers_;  // that were read or written
  std::set<LeaseNumber> fenced_;
};

}  // namespace plumeria::disk
