// Which leases may change a store (docs/protocol.md, "Fence"): the ones that were admitted and not
// fenced since. Shared by every implementation of VirtualDisk that keeps leases itself.
//
// Invariant   A lease that was fenced once is never admitted again. Pure: no I/O, no time; the
//             owner makes encode() durable before it acknowledges an admit() or a fence().
// Bound       Fenced numbers are kept as runs; beyond runs_max the lowest two are joined, with the
//             numbers between them, which are far older than anything that could still be admitted.
#pragma once

#include <cstdint>
#include <map>
#include <set>

#include "base/bytes.h"
#include "base/result.h"
#include "lock/lease.h"

namespace plumeria::disk {

// What leases that are not admitted have sent. More tried than refused would be a hole in the
// fence.
struct LateChanges {
  std::uint64_t tried = 0, refused = 0;
};

class Admission {
 public:
  static constexpr std::size_t runs_max = 1024;
  static constexpr std::size_t late_max = 256;

  // Errc::fenced if it was fenced before, or is nobody. Admitting twice is no error.
  Status admit(lock::LeaseNumber lease);
  // True if that changed anything.
  bool fence(lock::LeaseNumber lease);
  bool is_admitted(lock::LeaseNumber lease) const { return admitted_.contains(lease); }
  bool is_fenced(lock::LeaseNumber lease) const;

  // For every change: Errc::fenced unless `lease` is admitted.
  Status check(lock::LeaseNumber lease);
  // By lease; the lowest leases are forgotten beyond late_max.
  const std::map<lock::LeaseNumber, LateChanges>& late() const { return late_; }

  Bytes encode() const;
  // Errc::corrupt if `bytes` are not what encode() makes.
  static Result<Admission> decode(ByteView bytes);

 private:
  std::set<lock::LeaseNumber> admitted_;
  std::map<std::uint64_t, std::uint64_t> fenced_;  // first → last of each run; never adjacent
  std::map<lock::LeaseNumber, LateChanges> late_;
};

}  // namespace plumeria::disk
