// plumeria snapshot create|list|delete|mount
#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <absl/time/time.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <vector>

#include "cli/admin.h"
#include "cli/command.h"
#include "cli/mount_command.h"
#include "cli/mount_source.h"
#include "cli/runtime.h"
#include "cli/snapshot_place.h"
#include "cli/snapshot_report.h"
#include "cli/store.h"
#include "disk/remote_disk.h"
#include "mount/snapshot.h"
#include "os/asio_transport.h"

namespace plumeria::cli {
namespace {

using Kind = SnapshotPlace::Kind;

struct Arguments {
  std::string target, name;
  double patience_seconds = 60;
  bool json = false;

  Duration patience() const {
    return std::chrono::milliseconds(static_cast<std::int64_t>(patience_seconds * 1000));
  }
};

// What is done under a lease of its own.
using Deed = std::function<Task<Result<nlohmann::json>>(World, clerk::Clerk&, disk::VirtualDisk&)>;

Task<Result<nlohmann::json>> visit(Runtime& runtime, MountSource& source, Duration patience,
                                   const Deed& deed, bool& others_may_wait) {
  CO_TRY_STATUS(co_await source.start(patience));
  mount::Visit visit(runtime.world(), source.transport(), source.lock_server(),
                     absl::StrCat("snapshot command ", ::getpid()));
  CO_TRY_STATUS(co_await visit.begin(patience));
  others_may_wait = true;
  Result<nlohmann::json> result = co_await deed(runtime.world(), visit.clerk(), source.disk());
  const Status left = co_await visit.end();
  others_may_wait = false;
  const Status stopped = co_await source.stop();
  if (result && !left) co_return fail(left.error());
  if (result && !stopped) co_return fail(stopped.error());
  co_return result;
}

// A store that nobody holds is opened, and recovered if need be, as for a mount.
Result<nlohmann::json> do_at(const SnapshotPlace& place, Duration patience, const Deed& deed) {
  Runtime runtime;
  os::AsioTransport transport(runtime.executor, runtime.random, {});
  const Target target{place.kind == Kind::server,
                      place.kind == Kind::server ? place.address : place.text};
  TRY(const std::unique_ptr<MountSource> source, make_source(runtime, transport, target));
  // Whoever ends in the middle keeps everybody waiting until his lease is over.
  bool others_may_wait = false, was_asked = false;
  runtime.on_signal([&](int) {
    if (!others_may_wait || was_asked) std::_Exit(static_cast<int>(Exit::failed));
    was_asked = true;
  });
  return runtime.executor.run_until_done(visit(runtime, *source, patience, deed, others_may_wait));
}

Task<Result<std::vector<disk::Snapshot>>> list_remote(disk::RemoteDisk* disk, Duration patience) {
  CO_TRY_STATUS(co_await disk->wait_until_connected(patience));
  co_return co_await disk->list_snapshots();
}

Result<std::vector<disk::Snapshot>> list_at(const SnapshotPlace& place, Duration patience) {
  Runtime runtime;
  if (place.kind == Kind::unused_store) {
    TRY(const OpenStore store, open_store(runtime, place.text, /*read_only=*/true));
    return runtime.executor.run_until_done(store.disk->list_snapshots());
  }
  runtime.on_signal([](int) { std::_Exit(static_cast<int>(Exit::failed)); });
  os::AsioTransport transport(runtime.executor, runtime.random, {});
  disk::RemoteDisk::Options options;
  disk::RemoteDisk disk(runtime.world(), transport, place.address, options);
  return runtime.executor.run_until_done(list_remote(&disk, patience));
}

Result<nlohmann::json> ask_mount(const SnapshotPlace& place, const char* question,
                                 const Arguments& arguments) {
  const nlohmann::json text{{"ask", question}, {"name", arguments.name}};
  TRY(nlohmann::json answer, ask(place.address, text, arguments.patience()));
  TRY_STATUS(error_in(answer));
  return answer;
}

Result<nlohmann::json> create(const Arguments& arguments) {
  TRY_STATUS(disk::check_snapshot_name(arguments.name));
  TRY(const SnapshotPlace place, find_snapshot_place(arguments.target));
  if (place.kind == Kind::mount_of_store) return ask_mount(place, "snapshot create", arguments);
  struct Create {
    static Task<Result<nlohmann::json>> run(World world, clerk::Clerk* clerk,
                                            disk::VirtualDisk* disk, std::string name) {
      CO_TRY(const mount::SnapshotMade made,
             co_await mount::make_snapshot(world, *clerk, *disk, name, mount::WriteBack()));
      co_return report_made(made, name);
    }
  };
  const Deed deed = [&](World world, clerk::Clerk& clerk, disk::VirtualDisk& disk) {
    return Create::run(world, &clerk, &disk, arguments.name);
  };
  return do_at(place, arguments.patience(), deed);
}

Result<nlohmann::json> remove(const Arguments& arguments) {
  TRY(const SnapshotPlace place, find_snapshot_place(arguments.target));
  if (place.kind == Kind::mount_of_store) return ask_mount(place, "snapshot delete", arguments);
  struct Remove {
    static Task<Result<nlohmann::json>> run(clerk::Clerk* clerk, disk::VirtualDisk* disk,
                                            std::string name) {
      CO_TRY_STATUS(co_await mount::remove_snapshot(*clerk, *disk, std::move(name)));
      co_return nlohmann::json::object();
    }
  };
  const Deed deed = [&](World, clerk::Clerk& clerk, disk::VirtualDisk& disk) {
    return Remove::run(&clerk, &disk, arguments.name);
  };
  return do_at(place, arguments.patience(), deed);
}

Exit run_create(const Arguments& arguments) {
  const auto made = create(arguments);
  if (!made) return complain(made.error());
  if (arguments.json) {
    std::puts(made->dump(2).c_str());
  } else {
    std::printf("snapshot %s: changes paused for %.0f ms\n", arguments.name.c_str(),
                made->value("paused_ms", 0.0));
  }
  return Exit::ok;
}

Exit run_delete(const Arguments& arguments) {
  const auto removed = remove(arguments);
  return removed ? Exit::ok : complain(removed.error());
}

Exit run_list(const Arguments& arguments) {
  const auto place = find_snapshot_place(arguments.target);
  if (!place) return complain(place.error());
  const auto all = list_at(*place, arguments.patience());
  if (!all) return complain(all.error());
  nlohmann::json report = nlohmann::json::array();
  for (const disk::Snapshot& one : *all) {
    const absl::Time created = absl::FromUnixNanos(static_cast<std::int64_t>(one.created));
    const std::string time =
        absl::FormatTime("%Y-%m-%d %H:%M:%S UTC", created, absl::UTCTimeZone());
    report.push_back({{"name", one.name},
                      {"id", static_cast<std::uint64_t>(one.id)},
                      {"created", time},
                      {"kept", one.bytes}});
    if (!arguments.json) {
      std::printf("%s  %10.1f MiB  %s\n", time.c_str(), static_cast<double>(one.bytes) / (1 << 20),
                  one.name.c_str());
    }
  }
  if (arguments.json) std::puts(report.dump(2).c_str());
  return Exit::ok;
}

void add_target(CLI::App& command, Arguments& arguments) {
  command
      .add_option("TARGET", arguments.target,
                  "a store, the mount point of one, or HOST[:PORT] of `plumeria serve`")
      ->required()
      ->check(not_empty())
      ->type_name("");
  command.add_option("--timeout", arguments.patience_seconds, "how long to wait for the answer")
      ->check(seconds_between(0.1, 86400))
      ->type_name("SECONDS")
      ->capture_default_str();
}

void add_name(CLI::App& command, Arguments& arguments) {
  command.add_option("NAME", arguments.name, "of the snapshot: letters, digits and -_.:+@=")
      ->required()
      ->check(not_empty())
      ->type_name("");
}

}  // namespace

void add_snapshot(CLI::App& app, Exit& exit) {
  CLI::App* group = app.add_subcommand("snapshot", "Keep the store as it is at a moment");
  group->require_subcommand(1);
  group->footer(
      "A snapshot shows everything that was written on any mount when it was made. It takes no\n"
      "space but for what is changed afterwards.\n"
      "  plumeria snapshot create /mnt monday\n"
      "  plumeria snapshot mount /mnt monday /mnt.monday    # read-only, beside the store in use\n"
      "  plumeria snapshot delete /mnt monday\n" +
      exit_codes());
  const auto add = [&](const char* name, const char* what, bool named,
                       Exit (*run)(const Arguments&), bool has_json) {
    auto arguments = std::make_shared<Arguments>();
    CLI::App* command = group->add_subcommand(name, what);
    command->footer(exit_codes());
    add_target(*command, *arguments);
    if (named) add_name(*command, *arguments);
    if (has_json) command->add_flag("--json", arguments->json, "as JSON, for programs");
    command->callback([arguments, &exit, run] { exit = run(*arguments); });
  };
  add("create", "Make a snapshot; changes pause for a moment on all mounts", true, run_create,
      true);
  add("list", "Show the snapshots, from the oldest on, and the space that they keep", false,
      run_list, true);
  add("delete", "Delete a snapshot; returns when its space is free", true, run_delete, false);
  add_mount_of_snapshot(*group, exit);
}

}  // namespace plumeria::cli
