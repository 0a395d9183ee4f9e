#include "sim/snapshot_look.h"

#include <absl/strings/str_cat.h>

#include "check/check.h"
#include "disk/snapshot_view.h"
#include "mount/mount.h"
#include "net/loopback.h"
#include "serve/server.h"
#include "sim/kernel_model.h"
#include "sim/tree_run.h"

namespace plumeria::sim {
namespace {

mount::MountOptions mount_options() {
  mount::MountOptions options;
  options.label = "looker";
  return options;
}

serve::ServerOptions server_options(std::uint64_t log_size) {
  serve::ServerOptions options;
  options.log_size = log_size;
  options.in_process = true;
  return options;
}

// As the command `snapshot mount` puts it together.
struct Looker {
  Looker(Node& node, disk::VirtualDisk& disk, disk::SnapshotId id, std::uint64_t log_size)
      : view(disk, id),
        loopback(node.world().executor),
        server(node.world(), view, loopback.server(), server_options(log_size)),
        kernel(node, KernelOptions{}, 1, applications),
        mount(node.world(), view, loopback.client(), loopback.client().connect("server"), kernel,
              mount_options()) {
    kernel.set_operations(&mount.operations());
  }

  Task<std::string> look() {
    Status started = co_await server.start();
    if (started) started = co_await mount.start();
    if (!started) co_return absl::StrCat("cannot start: ", started.error().message());
    co_return co_await describe_tree(&kernel, "");
  }

  disk::SnapshotView view;
  net::Loopback loopback;
  serve::Server server;
  TaskScope applications;
  Kernel kernel;
  mount::Mount mount;
};

}  // namespace

SnapshotLook look_at_snapshot(const SimDisk& disk, disk::SnapshotId id, std::uint64_t log_size) {
  SnapshotLook look;
  Simulation elsewhere(1);
  Node& node = elsewhere.add_node("looker");
  SimDisk copy(elsewhere, DiskOptions{});
  copy.become_copy_after_power_cut(disk);
  const auto below = copy.open(node);
  disk::SnapshotView view(*below, id);
  const auto report = elsewhere.run(node, check::run(node.world(), view, {}));
  if (report) {
    look.problems = report->problems;
  } else {
    look.problems.push_back(absl::StrCat("the check is impossible: ", report.error().message()));
  }
  Looker looker(node, *below, id, log_size);
  look.tree = elsewhere.run(node, looker.look());
  node.crash();
  return look;
}

}  // namespace plumeria::sim
