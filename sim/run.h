// One simulated run from its seed: a cluster, a workload, faults, and the verdict.
//
// Workloads   files, names   clients on all mounts at once; histories are checked
//             tree           one call after the other, alternating between mounts, compared with
//                            sim/reference.h call by call and as a whole tree at the end
// Verdict     What the workload saw is right; no two mounts ever had a lock in conflicting modes,
// no
//             kernel cached what another mount changed, no change of a fenced lease reached the
//             disk; had all power failed at any of many moments, fsck would have found nothing
//             after the replay; once healed, all clients come to their end in bounded time; every
//             mount stops in peace; fsck finds nothing.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "sim/nemesis.h"

namespace plumeria::sim {

struct RunOptions {
  std::uint64_t seed = 1;
  std::string workload = "files";
  Trouble trouble = Trouble::none;
  std::size_t mounts = 0;  // 0: by the seed
  bool embedded = false;
  Duration faults_for = 20s;             // of virtual time
  std::optional<double> trim_log_above;  // wal::Log; nothing: by the seed
  std::function<void(std::string_view)> trace;
};

struct RunReport {
  std::string failure;  // empty: all is well
  std::uint64_t trace_hash = 0;
  std::uint64_t events = 0, calls = 0;
  Duration virtual_time{};
  std::map<std::string, std::uint64_t> marks;  // besides those of base/rare.h
};

const std::vector<std::string>& workload_names();

// Requires: a workload of that name.
RunReport run(const RunOptions& options);

}  // namespace plumeria::sim
