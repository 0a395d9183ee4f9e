// The last steps of a repair: orphan lists, allocation pieces and data segments follow from what
// the inodes and directories use.
#pragma once

#include <absl/container/flat_hash_set.h>

#include <cstdint>
#include <set>
#include <utility>
#include <vector>

#include "check/piece_count.h"
#include "check/repair_parts.h"

namespace plumeria::check {

class SpaceRepair {
 public:
  explicit SpaceRepair(RepairParts& parts) : parts_(parts) {}

  // In this order; each leaves everything settled.
  Task<Status> repair_orphan_lists();
  Task<Status> repair_pieces(const absl::flat_hash_set<std::uint64_t>& directory_blocks);
  Task<Status> discard_segments();

 private:
  Task<Status> repair_orphan_list(std::uint32_t slot);
  bool take_wrong_entries_away(format::BlockId id, MutableByteView block);

  RepairParts& parts_;
  std::set<std::pair<format::OrphanKind, std::uint64_t>> seen_;  // in the list at hand
  PieceCount count_;
  std::vector<std::uint64_t> segments_;  // that hold data
};

}  // namespace plumeria::check
