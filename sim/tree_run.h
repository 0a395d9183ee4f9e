// Random calls, one after the other on alternating mounts, each compared with the reference.
#pragma once

#include <cstdint>
#include <string>

#include "sim/cluster.h"
#include "sim/nemesis.h"

namespace plumeria::sim {

struct TreeRunOptions {
  std::uint64_t calls = 400;
};

// Empty: every call gave the same as the reference, and so did the whole trees at the end.
std::string run_tree(Cluster& cluster, Nemesis& nemesis, RandomStream random,
                     TreeRunOptions options, std::uint64_t* calls_done);

// One line for each file below `path`: its path, type, mode, owner, links, size, content. What
// differs between two such texts differs between two trees.
Task<std::string> describe_tree(Kernel* kernel, std::string path);

}  // namespace plumeria::sim
