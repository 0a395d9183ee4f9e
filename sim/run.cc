#include "sim/run.h"

#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>

#include <algorithm>

#include "base/rare.h"
#include "sim/snapshot_look.h"
#include "sim/tree_run.h"
#include "sim/workload.h"

namespace plumeria::sim {
namespace {

constexpr Duration up_limit = 300s;
constexpr Duration quiet_limit = 300s;

ClusterOptions cluster_options(const RunOptions& options) {
  RandomStream random(options.seed * 7919 + 1);
  ClusterOptions cluster;
  cluster.seed = options.seed;
  cluster.embedded = options.embedded;
  cluster.mounts = options.mounts != 0 ? options.mounts : random.between(2, 4);
  if (options.embedded) cluster.mounts = 1;
  // Now and then a cache so small that blocks come and go.
  if (random.chance(1, 4)) cluster.cache_size = 1u << 20;
  // And often a log that is trimmed so soon that a crash finds little of it.
  if (random.chance(1, 3)) cluster.trim_log_above = random.chance(1, 2) ? 0.02 : 0.1;
  if (options.trim_log_above) cluster.trim_log_above = *options.trim_log_above;
  return cluster;
}

std::unique_ptr<Workload> make_workload(const std::string& name, Cluster& cluster) {
  RandomStream random = cluster.simulation().stream(absl::StrCat("workload ", name));
  if (name == "names") return make_name_workload(cluster, random);
  CHECK(name == "files");
  return make_file_workload(cluster, random);
}

// Imagines power cuts of all machines at many moments, most of them when something is being written
// that must come after something else; and keeps what fsck finds first.
class ImaginedCuts {
 public:
  explicit ImaginedCuts(Cluster& cluster)
      : cluster_(cluster), random_(cluster.simulation().stream("imagined cuts")) {
    cluster_.disk().on_change([this](Place place) { changed(place); });
  }
  ~ImaginedCuts() { cluster_.disk().on_change({}); }
  ImaginedCuts(const ImaginedCuts&) = delete;
  ImaginedCuts& operator=(const ImaginedCuts&) = delete;

 private:
  void changed(Place place) {
    std::uint64_t one_in = 2000;
    if (place == Place::log_header) one_in = 4;
    if (place == Place::metadata) one_in = 60;
    if (!random_.chance(1, one_in) || !cluster_.simulation().violation().empty()) return;
    rarely<"world: a power cut is imagined">();
    const auto problems = cluster_.check_after_imagined_power_cut(random_.next());
    if (problems.empty()) return;
    cluster_.simulation().violate(
        absl::StrCat("fsck, had the power failed: ", absl::StrJoin(problems, "\n      ")));
  }

  Cluster& cluster_;
  RandomStream random_;
};

// Makes snapshots while clients and faults go on; all that come about must be sound.
class Snapshots {
 public:
  explicit Snapshots(Cluster& cluster)
      : cluster_(cluster), random_(cluster.simulation().stream("snapshots")) {}

  void now_and_then() {
    if (!random_.chance(1, 40)) return;
    const std::size_t mount = random_.below(cluster_.mounts());
    if (!cluster_.is_up(mount)) return;
    const std::string name = absl::StrCat("s", ++begun_);
    const bool deletes = begun_ % 4 == 0;
    cluster_.spawn(mount, make(&cluster_.mount(mount), name, deletes));
  }

  std::string verify() const {
    const auto all =
        cluster_.simulation().run(cluster_.inspector(), cluster_.inspection().list_snapshots());
    for (const disk::Snapshot& snapshot : *all) {
      rarely<"world: a snapshot was made among clients and faults">();
      const SnapshotLook look =
          look_at_snapshot(cluster_.disk(), snapshot.id, ClusterOptions{}.log_size);
      if (look.problems.empty() && look.tree.find("error") == std::string::npos) continue;
      return absl::StrCat("snapshot ", snapshot.name, ": ", absl::StrJoin(look.problems, "\n"),
                          "\n", look.tree);
    }
    return "";
  }

 private:
  static Task<void> make(mount::Mount* mount, std::string name, bool deletes) {
    const auto made = co_await mount->create_snapshot(name);
    if (made && deletes) (void)co_await mount->delete_snapshot(name);
  }

  Cluster& cluster_;
  RandomStream random_;
  std::uint64_t begun_ = 0;
};

// Runs the clients through the faults; what is left is a healed, quiet cluster.
std::string run_clients(Cluster& cluster, Workload& workload, Nemesis& nemesis,
                        const RunOptions& options) {
  Simulation& simulation = cluster.simulation();
  RandomStream random = simulation.stream("strikes");
  Snapshots snapshots(cluster);
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
    snapshots.now_and_then();
    if (!simulation.violation().empty()) return simulation.violation();
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
  const std::string wrong = workload.verify();
  return wrong.empty() ? snapshots.verify() : wrong;
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
  marks["world: message lost"] += network.lost;
  marks["world: message doubled"] += network.doubled;
  marks["world: message reordered"] += network.reordered;
  marks["world: connection broken"] += network.breaks;
  for (const auto& [lease, count] : cluster.disk().counts()) {
    marks["world: write refused by a fence"] += count.refused;
  }
  if (cluster.server_is_up()) {
    const serve::ServerStatus server = cluster.server().status();
    marks["lock server: log of a dead mount replayed"] += server.replays;
    marks["lock server: logs replayed at a start"] += server.first.logs;
    marks["lock server: lease expired"] += server.locks.expired;
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
    marks["clerk: revoke"] += cluster.mount(i).status().clerk.revokes;
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
  const ImaginedCuts imagined(cluster);
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
  collect_marks(cluster, report);
  if (report.failure.empty()) report.failure = stop_and_check(cluster);
  report.trace_hash = simulation.trace_hash();
  report.events = simulation.events();
  report.virtual_time = simulation.now();
  return report;
}

}  // namespace plumeria::sim
