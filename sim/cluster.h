// A whole cluster of production code in one simulation: a server and some mounts, or one embedded
// mount, on a simulated disk and network, each mount under a model of a kernel.
//
//   server node      SimDisk ── serve::Server ── SimTransport
//   mount node i     SimTransport ── disk::RemoteDisk, mount::Mount ── Kernel
//   embedded         SimDisk ── serve::Server ── net::Loopback ── mount::Mount ── Kernel
//
// Processes die by crash (kill -9), by power cuts of the server's machine, or stop in peace; what
// is down can be started again, as a new process on the same node. Kernel and descriptors die with
// their mount.
//
// Ownership  The cluster owns everything; applications are tasks that run in a mount's process
//            (spawn) and are destroyed with it.
// Errors     A cluster that does not come up in time is the simulation's failure.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "mount/mount.h"
#include "serve/server.h"
#include "sim/disk.h"
#include "sim/kernel_model.h"
#include "sim/network.h"
#include "sim/world.h"

namespace plumeria::sim {

struct ClusterOptions {
  std::uint64_t seed = 1;
  std::size_t mounts = 2;
  bool embedded = false;  // one node with everything; mounts is 1
  Duration lease = 2s;
  std::uint64_t log_size = wal::log_size_min;
  std::uint64_t cache_size = 16ull << 20;
  double trim_log_above = wal::trim_above_default;
  std::uint64_t event_budget = 50'000'000;
  SimulationOptions simulation;  // its seed and event budget are those above
  NetworkOptions network;
  DiskOptions disk;
  KernelOptions kernel;
};

class Cluster {
 public:
  // An empty store and no process yet.
  explicit Cluster(ClusterOptions options);
  ~Cluster();
  Cluster(const Cluster&) = delete;
  Cluster& operator=(const Cluster&) = delete;

  Simulation& simulation() { return simulation_; }
  const Simulation& simulation() const { return simulation_; }
  SimDisk& disk() { return disk_; }
  SimNetwork& network() { return network_; }
  std::size_t mounts() const { return mounts_.size(); }

  // Starts everything that is down and waits until it is up.
  void start();
  // Starts what is down, or could not start; returns at once.
  void restart_what_is_down();
  // Whether everything is up, and nothing paused or joining again.
  bool all_up() const;
  void wait_until_all_up(Duration limit);

  // Mounts.
  bool is_up(std::size_t mount) const;
  // Why its process ended instead of coming up; nothing if it has not.
  std::optional<Error> start_error(std::size_t mount) const;
  Kernel& kernel(std::size_t mount);  // Requires: is_up.
  // Of its present process, or of the one that has just died; none if it never had one.
  lock::LeaseNumber lease_of(std::size_t mount) const;
  mount::Mount& mount(std::size_t mount);
  Node& node(std::size_t mount) { return *mounts_[mount].node; }
  std::uint64_t life(std::size_t mount) const { return mounts_[mount].node->life(); }
  // When it last went on after a pause.
  Duration resumed_at(std::size_t mount) const { return mounts_[mount].resumed_at; }
  void crash_mount(std::size_t mount);
  void start_mount(std::size_t mount);   // Requires: down. Returns at once.
  Status stop_mount(std::size_t mount);  // In peace; it is down afterwards.
  void pause_mount(std::size_t mount);
  void resume_mount(std::size_t mount);
  // Runs in the mount's process until it ends or the process dies. Requires: is_up.
  void spawn(std::size_t mount, Task<void> task);
  // Runs to its end; nothing if the process died meanwhile.
  template <class T>
  std::optional<T> try_run(std::size_t mount, Task<T> task) {
    return simulation_.try_run(*mounts_[mount].node, std::move(task));
  }
  template <class T>
  T run(std::size_t mount, Task<T> task) {
    return simulation_.run(*mounts_[mount].node, std::move(task));
  }

  // The server (embedded: the one process).
  Node& server_node() { return *server_.node; }
  bool server_is_up() const;
  serve::Server& server();  // Requires: server_is_up.
  void crash_server();
  void start_server();  // Requires: down.
  Status stop_server();
  // The server's machine loses its power: unflushed writes are kept, dropped and torn, the server
  // (embedded: the mount) dies. start_server() (start_mount(0)) turns it on again.
  void power_cut() { disk_.power_cut(); }

  // A view for checks, from outside of the server's machine.
  disk::VirtualDisk& inspection() { return *inspection_; }
  Node& inspector() { return *inspector_; }

  // Problems of the store as fsck sees it now, and what a checker of the world has seen so far
  // (Simulation::violate); every process must be down or quiet.
  std::vector<std::string> check();
  // What fsck would find if the power failed at this moment, of all machines. At any time: it looks
  // at a copy, outside of the simulation.
  std::vector<std::string> check_after_imagined_power_cut(std::uint64_t seed) const;

 private:
  struct MountProcess;
  struct ServerProcess;
  // No two mounts may use a lock in conflicting modes, and no kernel caches what a lock of another
  // mount covers exclusively: looked at whenever a lock is granted.
  struct GrantChecker final : clerk::GrantObserver {
    GrantChecker(Cluster& c, std::size_t m) : cluster(c), mount(m) {}
    void granted(lock::LockName name, lock::Mode mode) override {
      cluster.check_grant(mount, name, mode);
    }
    Cluster& cluster;
    const std::size_t mount;
  };
  struct MountSlot {
    Node* node = nullptr;
    std::unique_ptr<GrantChecker> checker;
    std::unique_ptr<MountProcess> process;
    Duration resumed_at{};
  };
  struct ServerSlot {
    Node* node = nullptr;
    std::unique_ptr<ServerProcess> process;
  };

  void check_grant(std::size_t mount, lock::LockName name, lock::Mode mode);
  void format();
  void bury_mount(std::size_t mount);
  void bury_server();
  Task<void> run_server(ServerProcess* process);
  Task<void> run_mount(std::size_t mount, MountProcess* process);

  const ClusterOptions options_;
  Simulation simulation_;
  SimDisk disk_;
  SimNetwork network_;
  RandomStream random_;
  Node* inspector_ = nullptr;
  std::unique_ptr<disk::VirtualDisk> inspection_;
  ServerSlot server_;
  std::vector<MountSlot> mounts_;
  std::uint64_t incarnation_ = 0;
};

}  // namespace plumeria::sim
