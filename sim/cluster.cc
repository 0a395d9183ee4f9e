#include "sim/cluster.h"

#include <absl/strings/str_cat.h>

#include "base/number.h"
#include "check/check.h"
#include "disk/remote_disk.h"
#include "net/loopback.h"

namespace plumeria::sim {
namespace {

// What formats the store: a number that no clerk or server ever gets.
constexpr LeaseNumber maker{~0ull};
constexpr Duration start_limit = 300s;
constexpr const char* server_name = "server";

SimulationOptions simulation_options(const ClusterOptions& options) {
  SimulationOptions simulation = options.simulation;
  simulation.seed = options.seed;
  simulation.event_budget = options.event_budget;
  return simulation;
}

Task<Status> format_disk(disk::VirtualDisk* disk, mount::FormatOptions options) {
  CO_TRY_STATUS(co_await disk->admit(maker));
  CO_TRY_STATUS(co_await mount::format_store(*disk, std::move(options)));
  CO_TRY_STATUS(co_await disk->flush());
  co_return co_await disk->fence(maker);
}

}  // namespace

// The members are destroyed from the last one up: tasks first.
struct Cluster::ServerProcess {
  ServerProcess(Cluster& cluster, Node& node, serve::ServerOptions options)
      : disk(cluster.disk_.open(node)),
        transport(cluster.network_, node),
        server(node.world(), *disk, transport, options) {}
  std::unique_ptr<disk::VirtualDisk> disk;
  SimTransport transport;
  serve::Server server;
  bool up = false, ended = false;
  TaskScope tasks;
};

struct Cluster::MountProcess {
  // Of one that mounts a server.
  MountProcess(Cluster& cluster, Node& node, mount::MountOptions options, std::uint64_t seed)
      : kernel(node, cluster.options_.kernel, seed, applications) {
    transport = std::make_unique<SimTransport>(cluster.network_, node);
    disk = std::make_unique<disk::RemoteDisk>(node.world(), *transport, server_name,
                                              disk::RemoteDisk::Options{});
    const net::PeerId lock_server = transport->connect(server_name);
    mount = std::make_unique<mount::Mount>(node.world(), *disk, *transport, lock_server, kernel,
                                           std::move(options));
    kernel.set_operations(&mount->operations());
  }
  // Of an embedded one.
  MountProcess(Cluster& cluster, Node& node, mount::MountOptions options,
               serve::ServerOptions server_options, std::uint64_t seed)
      : kernel(node, cluster.options_.kernel, seed, applications) {
    disk = cluster.disk_.open(node);
    loopback = std::make_unique<net::Loopback>(node.world().executor);
    server =
        std::make_unique<serve::Server>(node.world(), *disk, loopback->server(), server_options);
    const net::PeerId lock_server = loopback->client().connect(server_name);
    mount = std::make_unique<mount::Mount>(node.world(), *disk, loopback->client(), lock_server,
                                           kernel, std::move(options));
    kernel.set_operations(&mount->operations());
  }

  std::unique_ptr<SimTransport> transport;
  std::unique_ptr<disk::VirtualDisk> disk;
  std::unique_ptr<net::Loopback> loopback;
  std::unique_ptr<serve::Server> server;
  Kernel kernel;
  std::unique_ptr<mount::Mount> mount;
  bool up = false, ended = false;
  std::optional<Error> start_error;
  TaskScope tasks;         // of the process itself
  TaskScope applications;  // that use the mount
};

Cluster::Cluster(ClusterOptions options)
    : options_(options),
      simulation_(simulation_options(options)),
      disk_(simulation_, options.disk),
      network_(simulation_, options.network),
      random_(simulation_.stream("cluster")) {
  CHECK(!options.embedded || options.mounts == 1);
  inspector_ = &simulation_.add_node("inspector");
  inspection_ = disk_.open(*inspector_, Attachment::outside);
  if (!options_.embedded) server_.node = &simulation_.add_node(server_name);
  for (std::size_t i = 0; i < options_.mounts; ++i) {
    mounts_.emplace_back();
    mounts_.back().node = &simulation_.add_node(absl::StrCat("mount", i));
    mounts_.back().checker = std::make_unique<GrantChecker>(*this, i);
  }
  if (options_.embedded) server_.node = mounts_[0].node;
  format();
}

Cluster::~Cluster() {
  // Nothing may resume what is destroyed.
  for (std::size_t i = 0; i < mounts_.size(); ++i) {
    if (mounts_[i].node->alive()) mounts_[i].node->crash();
    bury_mount(i);
  }
  if (!options_.embedded) {
    if (server_.node->alive()) server_.node->crash();
    bury_server();
  }
}

void Cluster::format() {
  mount::FormatOptions format;
  format.label = "simulated";
  format.log_size = options_.log_size;
  format.lease_duration = options_.lease;
  format.lease = maker;
  format.now = inspector_->world().clock.wall();
  format.hash_seed = random_.next();
  const Status made = simulation_.run(*inspector_, format_disk(inspection_.get(), format));
  if (!made) simulation_.fail(absl::StrCat("cannot format: ", made.error().message()));
}

// --- The server ----------------------------------------------------------------------------------

bool Cluster::server_is_up() const {
  if (options_.embedded) return is_up(0);
  return server_.process && server_.process->up && server_.node->alive();
}

serve::Server& Cluster::server() {
  CHECK(server_is_up());
  return options_.embedded ? *mounts_[0].process->server : server_.process->server;
}

void Cluster::bury_server() { server_.process.reset(); }

void Cluster::crash_server() {
  if (options_.embedded) return crash_mount(0);
  server_.node->crash();
}

void Cluster::start_server() {
  if (options_.embedded) return start_mount(0);
  CHECK(!server_.process || !server_.node->alive());
  bury_server();
  if (!disk_.power_is_on()) disk_.power_on();
  if (!server_.node->alive()) server_.node->start();
  serve::ServerOptions server_options;
  server_options.lease_duration = options_.lease;
  server_options.log_size = options_.log_size;
  server_options.incarnation = ++incarnation_;
  server_.process = std::make_unique<ServerProcess>(*this, *server_.node, server_options);
  ServerProcess* process = server_.process.get();
  process->tasks.spawn(run_server(process));
}

Task<void> Cluster::run_server(ServerProcess* process) {
  const Status started = co_await process->server.start();
  if (started) {
    simulation_.trace(server_name, "is up");
    process->up = true;
    co_return;
  }
  simulation_.trace(server_name, absl::StrCat("cannot start: ", started.error().message()));
  process->ended = true;
}

Status Cluster::stop_server() {
  CHECK(server_is_up() && !options_.embedded);
  server_.process->up = false;
  const auto stopped = simulation_.try_run(*server_.node, server_.process->server.stop());
  if (server_.node->alive()) server_.node->crash();  // The end of the process.
  bury_server();
  return stopped ? *stopped : fail(Errc::shut_down, "the server died while it stopped");
}

// --- Mounts --------------------------------------------------------------------------------------

bool Cluster::is_up(std::size_t mount) const {
  const MountSlot& slot = mounts_[mount];
  return slot.process && slot.process->up && slot.node->alive();
}

std::optional<Error> Cluster::start_error(std::size_t mount) const {
  return mounts_[mount].process ? mounts_[mount].process->start_error : std::nullopt;
}

lock::LeaseNumber Cluster::lease_of(std::size_t mount) const {
  const MountSlot& slot = mounts_[mount];
  if (!slot.process) return lock::LeaseNumber::none;
  return slot.process->mount->status().clerk.membership.lease;
}

Kernel& Cluster::kernel(std::size_t mount) {
  CHECK(is_up(mount));
  return mounts_[mount].process->kernel;
}

mount::Mount& Cluster::mount(std::size_t mount) {
  CHECK(is_up(mount));
  return *mounts_[mount].process->mount;
}

void Cluster::bury_mount(std::size_t mount) { mounts_[mount].process.reset(); }

void Cluster::crash_mount(std::size_t mount) { mounts_[mount].node->crash(); }

void Cluster::start_mount(std::size_t mount) {
  MountSlot& slot = mounts_[mount];
  CHECK(!slot.process || !slot.node->alive());
  bury_mount(mount);
  if (options_.embedded && !disk_.power_is_on()) disk_.power_on();
  if (!slot.node->alive()) slot.node->start();
  mount::MountOptions mount_options;
  mount_options.label = absl::StrCat("mount", mount);
  mount_options.grant_observer = slot.checker.get();
  mount_options.cache_size = options_.cache_size;
  mount_options.trim_log_above = options_.trim_log_above;
  mount_options.join_timeout = 20s;
  mount_options.write_back_interval = 500ms;
  const std::uint64_t seed = random_.next();
  if (options_.embedded) {
    serve::ServerOptions server_options;
    server_options.lease_duration = options_.lease;
    server_options.log_size = options_.log_size;
    server_options.in_process = true;
    slot.process = std::make_unique<MountProcess>(*this, *slot.node, std::move(mount_options),
                                                  server_options, seed);
  } else {
    slot.process =
        std::make_unique<MountProcess>(*this, *slot.node, std::move(mount_options), seed);
  }
  MountProcess* process = slot.process.get();
  process->tasks.spawn(run_mount(mount, process));
}

Task<void> Cluster::run_mount(std::size_t mount, MountProcess* process) {
  Status started;
  if (process->server) started = co_await process->server->start();
  if (started) started = co_await process->mount->start();
  const std::string& name = mounts_[mount].node->name();
  if (started) {
    simulation_.trace(name, "is up");
    process->up = true;
    co_return;
  }
  simulation_.trace(name, absl::StrCat("cannot start: ", started.error().message()));
  process->start_error = started.error();
  process->ended = true;
}

Status Cluster::stop_mount(std::size_t mount) {
  CHECK(is_up(mount));
  MountProcess& process = *mounts_[mount].process;
  process.up = false;
  auto stopped = simulation_.try_run(*mounts_[mount].node, process.mount->stop());
  if (stopped && *stopped && process.server) {
    stopped = simulation_.try_run(*mounts_[mount].node, process.server->stop());
  }
  if (mounts_[mount].node->alive()) mounts_[mount].node->crash();  // The end of the process.
  bury_mount(mount);
  return stopped ? *stopped : fail(Errc::shut_down, "the mount died while it stopped");
}

void Cluster::pause_mount(std::size_t mount) { mounts_[mount].node->pause(); }
void Cluster::resume_mount(std::size_t mount) {
  mounts_[mount].node->resume();
  mounts_[mount].resumed_at = simulation_.now();
}

void Cluster::spawn(std::size_t mount, Task<void> task) {
  CHECK(is_up(mount));
  mounts_[mount].process->applications.spawn(std::move(task));
}

// --- All of it -----------------------------------------------------------------------------------

bool Cluster::all_up() const {
  if (!server_is_up() || server_.node->paused()) return false;
  for (std::size_t i = 0; i < mounts_.size(); ++i) {
    if (!is_up(i) || mounts_[i].node->paused()) return false;
    if (mounts_[i].process->mount->status().rejoining) return false;
  }
  return true;
}

// What has died or could not start gets a new process.
void Cluster::restart_what_is_down() {
  if (!options_.embedded) {
    const bool down = !server_.process || !server_.node->alive() || server_.process->ended;
    if (down && server_.process && server_.node->alive()) server_.node->crash();
    if (down) start_server();
  }
  for (std::size_t i = 0; i < mounts_.size(); ++i) {
    MountSlot& slot = mounts_[i];
    const bool down = !slot.process || !slot.node->alive() || slot.process->ended;
    if (down && slot.process && slot.node->alive()) slot.node->crash();
    if (down) start_mount(i);
  }
}

void Cluster::wait_until_all_up(Duration limit) {
  const Duration end = simulation_.now() + limit;
  while (!all_up()) {
    if (simulation_.now() > end) simulation_.fail("the cluster does not come up");
    restart_what_is_down();
    simulation_.run_until([this] { return all_up(); }, 1s);
  }
}

void Cluster::start() { wait_until_all_up(start_limit); }

std::vector<std::string> Cluster::check() {
  auto report = simulation_.run(*inspector_, check::run(inspector_->world(), *inspection_, {}));
  if (!report) return {absl::StrCat("the check is impossible: ", report.error().message())};
  if (!simulation_.violation().empty()) report->problems.push_back(simulation_.violation());
  return report->problems;
}

std::vector<std::string> Cluster::check_after_imagined_power_cut(std::uint64_t seed) const {
  Simulation elsewhere(seed);
  Node& node = elsewhere.add_node("inspector");
  SimDisk copy(elsewhere, DiskOptions{});
  copy.become_copy_after_power_cut(disk_);
  const auto reading = copy.open(node);
  const auto report = elsewhere.run(node, check::run(node.world(), *reading, {}));
  if (!report) return {absl::StrCat("the check is impossible: ", report.error().message())};
  return report->problems;
}

void Cluster::check_grant(std::size_t mount, lock::LockName name, lock::Mode mode) {
  // Who was stopped past his lease finds a grant of that time, and cannot use it.
  if (!lock::covers(mounts_[mount].process->mount->may_use(name), mode)) return;
  for (std::size_t other = 0; other < mounts_.size(); ++other) {
    const MountSlot& slot = mounts_[other];
    if (other == mount || !slot.process || !slot.node->alive()) continue;
    const lock::Mode held = slot.process->mount->may_use(name);
    if (!lock::compatible(held, mode)) {
      simulation_.violate(absl::StrCat("mount", mount, " is granted ", lock::mode_name(mode),
                                       " of ", lock::to_string(name), ", but mount", other,
                                       " still has ", lock::mode_name(held)));
    }
    // The kernel of a process that was stopped goes on serving what it has until that runs again.
    const bool was_stopped = slot.node->paused() || (slot.resumed_at > Duration{0} &&
                                                     simulation_.now() < slot.resumed_at + 100ms);
    if (name.lock_class != lock::LockClass::inode || mode != lock::Mode::exclusive || was_stopped) {
      continue;
    }
    const std::string cached = slot.process->kernel.what_is_cached(InodeNumber{name.number});
    if (!cached.empty()) {
      simulation_.violate(absl::StrCat("mount", mount, " is granted exclusive of ",
                                       lock::to_string(name), ", but the kernel of mount", other,
                                       " still caches its ", cached));
    }
  }
}

}  // namespace plumeria::sim
