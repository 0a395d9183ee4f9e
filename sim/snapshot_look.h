// What a snapshot shows, seen by production code that mounts it, in a simulation of its own.
#pragma once

#include <string>
#include <vector>

#include "sim/disk.h"

namespace plumeria::sim {

struct SnapshotLook {
  std::string tree;                   // describe_tree() of it, or why it cannot be had
  std::vector<std::string> problems;  // that fsck finds
};

// `log_size`: of the store.
SnapshotLook look_at_snapshot(const SimDisk& disk, disk::SnapshotId id, std::uint64_t log_size);

}  // namespace plumeria::sim
