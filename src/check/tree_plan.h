// Decides where each directory hangs in the tree, from what the directories say about each other.
// Pure.
#pragma once

#include <cstdint>
#include <vector>

#include "check/inventory.h"

namespace plumeria::check {

// A place of directories that no entry leads to any more.
constexpr std::uint64_t in_lost_and_found = ~std::uint64_t{0};

// An entry that names a directory.
struct DirectoryEdge {
  std::uint64_t directory = 0, child = 0;
};

// Sets `place` and `is_orphan` of all directories: where several entries name one, that counts of
// which the directory itself says that it is its parent, else the first. What then does not hang
// below the root goes into lost+found; of a circle, the directory of the lowest number. A directory
// without links that nothing names is an orphan, and what stands in it does not count.
void plan_tree(std::vector<Node>& nodes, const std::vector<DirectoryEdge>& edges);

}  // namespace plumeria::check
