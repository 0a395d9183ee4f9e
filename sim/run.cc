#include "sim/run.h"

#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>

#include <algorithm>

#include "sim/tree_run.h"
#include "sim/workload.h"

namespace plumeria::sim {
namespace {

constexpr Duration up_limit = 300s;
constexpr Duration quiet_limit = 300s;
constexpr std::uint64_t imagined_cut_every = 20;  // moments

ClusterOptions cluster_options(const RunOptions& options) {
  RandomStream random(options.seed * 7919 + 1);
  ClusterOptions cluster;
  cluster.seed = options.seed;
  cluster.embedded = options.embedded;
  cluster.mounts = options.mounts != 0 ? options.mounts : random.between(2, 4);
  if (options.embedded) cluster.mounts = 1;
  // Now and then a cache so small that blocks come and go.
  if (random.chance(1, 4)) cluster.cache_size = 1u << 20;
  return cluster;
}

std::unique_ptr<Workload> make_workload(const std::string& name, Cluster& cluster) {
  RandomStream random = cluster.simulation().stream(absl::StrCat("workload ", name));
  if (name == "names") return make_name_workload(cluster, random);
  CHECK(name == "files");
  return make_file_workload(cluster, random);
}

// Empty, or what a checker of the world has seen, or what fsck would find if the power failed now.
std::string look_at_moment(const Cluster& cluster, RandomStream& random) {
  const std::string& violation = cluster.simulation().violation();
  if (!violation.empty() || !random.chance(1, imagined_cut_every)) return violation;
  const auto problems = cluster.check_after_imagined_power_cut(random.next());
  if (problems.empty()) return "";
  return absl::StrCat("fsck, had the power failed at ", cluster.simulation().now() / 1us,
                      " us: ", absl::StrJoin(problems, "\n      "));
}

// Runs the clients through the faults; what is left is a healed, quiet cluster.
std::string run_clients(Cluster& cluster, Workload& workload, Nemesis& nemesis,
                        const RunOptions& options) {
  Simulation& simulation = cluster.simulation();
  RandomStream random = simulation.stream("strikes"), moments = simulation.stream("moments");
  std::vector<std::uint64_t> started(cluster.mounts(), 0);
  const Duration end = simulation.now() + options.faults_for;
  Duration next_strike = simulation.now() + random.between(Duration(1ms), Duration(1s));
  while (simulation.now() < end && workload.violation().empty()) {
    for (std::size_t i = 0; i < cluster.mounts(); ++i) {
      if (!cluster.is_up(i) || started[i] == cluster.life(i)) continue;
      started[i] = cluster.life(i);
      workload.start_clients(i);
    }
    simulation.run_for(random.between(Duration(1ms), Duration(50ms)));
    nemesis.watch();
    const std::string wrong = look_at_moment(cluster, moments);
    if (!wrong.empty()) return wrong;
    if (simulation.now() < next_strike) continue;
    nemesis.strike();
    next_strike = simulation.now() + random.between(Duration(1ms), Duration(3s));
  }
  nemesis.heal();
  workload.stop();
  cluster.wait_until_all_up(up_limit);
  const bool quiet =
      simulation.run_until([&] { return workload.is_quiet() && cluster.all_up(); }, quiet_limit);
  nemesis.watch();
  if (!simulation.violation().empty()) return simulation.violation();
  if (!workload.violation().empty()) return workload.violation();
  if (!quiet) {
    return absl::StrCat("no progress long after all faults have ended:", workload.who_waits());
  }
  return workload.verify();
}

std::string stop_and_check(Cluster& cluster) {
  for (std::size_t i = 0; i < cluster.mounts(); ++i) {
    const Status stopped = cluster.stop_mount(i);
    if (!stopped) return absl::StrCat("mount", i, " cannot stop: ", stopped.error().message());
  }
  const std::vector<std::string> problems = cluster.check();
  if (problems.empty()) return "";
  return absl::StrCat("fsck: ", absl::StrJoin(problems, "\n      "));
}

void collect_marks(Cluster& cluster, RunReport& report) {
  auto& marks = report.marks;
  const NetworkCount& network = cluster.network().count();
  marks["message lost"] += network.lost;
  marks["message doubled"] += network.doubled;
  marks["message reordered"] += network.reordered;
  marks["connection broken"] += network.breaks;
  for (const auto& [lease, count] : cluster.disk().counts()) {
    marks["write refused by a fence"] += count.refused;
  }
  if (cluster.server_is_up()) {
    const serve::ServerStatus server = cluster.server().status();
    marks["log of a dead mount replayed"] += server.replays;
    marks["logs replayed at a start"] += server.first.logs;
    marks["lease expired"] += server.locks.expired;
  }
  for (std::size_t i = 0; i < cluster.mounts(); ++i) {
    if (!cluster.is_up(i)) continue;
    const KernelCount& kernel = cluster.kernel(i).count();
    marks["kernel: drop"] += kernel.drops;
    marks["kernel: request kept back"] += kernel.kept;
    marks["kernel: request answered under a revoke"] += kernel.answered_under_revoke;
    marks["kernel: dirty page at a drop"] += kernel.dirty_pages_at_drop;
    marks["kernel: request repeated"] += kernel.repeated;
    marks["kernel: name served"] += kernel.served_names;
    marks["kernel: attributes served"] += kernel.served_attributes;
    marks["kernel: page served"] += kernel.served_pages;
    marks["kernel: listing served"] += kernel.served_listings;
    marks["revoke"] += cluster.mount(i).status().clerk.revokes;
  }
}

}  // namespace

const std::vector<std::string>& workload_names() {
  static const std::vector<std::string> names = {"files", "names", "tree"};
  return names;
}

RunReport run(const RunOptions& options) {
  Cluster cluster(cluster_options(options));
  Simulation& simulation = cluster.simulation();
  if (options.trace) simulation.trace_to(options.trace);
  RunReport report;
  cluster.start();
  std::unique_ptr<Workload> workload;
  if (options.workload != "tree") {
    workload = make_workload(options.workload, cluster);
    workload->prepare();
  }
  Nemesis nemesis(cluster, workload.get(), options.trouble, simulation.stream("nemesis"),
                  ClusterOptions{}.lease);
  if (workload) {
    report.failure = run_clients(cluster, *workload, nemesis, options);
    report.calls = workload->calls();
  } else {
    report.failure =
        run_tree(cluster, nemesis, simulation.stream("tree"), TreeRunOptions{}, &report.calls);
  }
  report.marks = nemesis.marks();
  collect_marks(cluster, report);
  if (report.failure.empty()) report.failure = stop_and_check(cluster);
  report.trace_hash = simulation.trace_hash();
  report.events = simulation.events();
  report.virtual_time = simulation.now();
  return report;
}

}  // namespace plumeria::sim
