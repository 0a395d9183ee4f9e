// plumeria mount STORE|HOST:PORT DIR, and plumeria snapshot mount TARGET NAME DIR
#include "cli/mount_command.h"

#include <absl/strings/match.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_split.h>
#include <sys/mount.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <optional>

#include "base/async.h"
#include "base/log.h"
#include "cli/admin.h"
#include "cli/command.h"
#include "cli/guardian.h"
#include "cli/launch.h"
#include "cli/mount_source.h"
#include "cli/report.h"
#include "cli/runtime.h"
#include "cli/snapshot_place.h"
#include "cli/snapshot_report.h"
#include "fuse/session.h"
#include "mount/mount.h"
#include "os/asio_transport.h"

namespace plumeria::cli {
namespace {

// A signal to end while files are open detaches the mount; this long they can still be used.
constexpr Duration grace_for_open_files = 5s;
constexpr Duration patience_for_status = 2s;

constexpr std::uint64_t cache_size_min = 8u << 20, cache_size_max = 1ull << 50;

struct Arguments {
  std::string target, directory;
  std::string snapshot;  // empty: the store itself
  std::vector<std::string> options;
  std::uint64_t cache_size = 256u << 20;
  double patience_seconds = 30;
  LaunchOptions launch;
};

// What -o asks for.
struct Wanted {
  fuse::MountPoint point;
  bool over_files = false;  // the directory need not be empty
  std::string snapshot;     // its name; empty: the store itself
};

// The options of mount(8) that have a meaning here; an empty text, or what is wrong.
std::string apply_option(std::string_view option, Wanted& wanted) {
  fuse::MountPoint& point = wanted.point;
  if (option == "ro" || option == "rw") {
    point.read_only = option == "ro";
  } else if (option == "suid" || option == "dev") {
    point.allow_suid = true;
  } else if (option == "nosuid" || option == "nodev") {
    point.allow_suid = false;
  } else if (option == "exec" || option == "noexec") {
    point.no_exec = option == "noexec";
  } else if (option.starts_with("snapshot=")) {
    wanted.snapshot = std::string(option.substr(option.find('=') + 1));
  } else if (option == "nonempty") {
    wanted.over_files = true;
  } else if (option != "defaults" && option != "_netdev" && option != "nofail" && !option.empty()) {
    return absl::StrCat("-o: unknown mount option \"", std::string(option), "\"");
  }
  return {};
}
std::string apply_options(const std::vector<std::string>& lists, Wanted& wanted) {
  for (const std::string& list : lists) {
    for (const std::string& option : std::vector<std::string>(absl::StrSplit(list, ','))) {
      const std::string wrong = apply_option(option, wanted);
      if (!wrong.empty()) return wrong;
    }
  }
  return {};
}

std::string host_name() {
  char name[256] = {};
  if (::gethostname(name, sizeof name - 1) != 0) return "localhost";
  return name;
}

// Everything that runs while the file system is mounted, in the order in which it is built.
struct Mounted {
  Mounted(Runtime& r, Guardian& g, Target t, SnapshotPlace place, std::string name,
          fuse::MountPoint p)
      : runtime(r),
        guardian(g),
        target(std::move(t)),
        snapshot_place(std::move(place)),
        snapshot(std::move(name)),
        point(std::move(p)),
        transport(r.executor, r.random, {.retry_max = reconnect_pause_max}),
        admin(transport, [this] { return status(); }),
        changed(r.executor) {}

  nlohmann::json status() {
    nlohmann::json status{{"what", absl::StrCat("mount of ", what(), " at ", point.directory)},
                          {"pid", ::getpid()},
                          {"source", target.text}};
    if (mount) status["mount"] = report(mount->status());
    if (source) source->report_to(status);
    return status;
  }
  std::string what() const {
    return snapshot.empty() ? target.text
                            : absl::StrCat("snapshot ", snapshot, " of ", target.text);
  }

  Runtime& runtime;
  Guardian& guardian;
  const Target target;
  const SnapshotPlace snapshot_place;
  const std::string snapshot;  // its name; empty: the store itself
  const fuse::MountPoint point;
  os::AsioTransport transport;
  AdminServer admin;
  std::unique_ptr<MountSource> source;
  std::unique_ptr<fuse::Session> session;
  std::unique_ptr<mount::Mount> mount;
  Event changed;
  int signals = 0;
  bool ended = false;
  int signals_after_end = 0;
  TaskScope tasks;
};

Task<Status> start(Mounted& mounted, mount::MountOptions options) {
  if (mounted.snapshot.empty()) {
    CO_TRY(mounted.source, make_source(mounted.runtime, mounted.transport, mounted.target));
  } else {
    CO_TRY(mounted.source, make_snapshot_source(mounted.runtime, mounted.transport,
                                                mounted.snapshot_place, mounted.snapshot));
  }
  CO_TRY_STATUS(co_await mounted.source->start(options.join_timeout));
  fuse::SessionOptions session;
  session.mount_point = mounted.point;
  session.poll_before_sleeping = true;
  CO_TRY(mounted.session, fuse::Session::open(mounted.runtime.executor, std::move(session)));
  mounted.guardian.watch(mounted.session->connection());
  mounted.mount = std::make_unique<mount::Mount>(
      mounted.runtime.world(), mounted.source->disk(), mounted.source->transport(),
      mounted.source->lock_server(), mounted.session->kernel_cache(), std::move(options));
  CO_TRY_STATUS(co_await mounted.mount->start());
  mounted.session->start(mounted.mount->operations(), [&mounted] {
    mounted.ended = true;
    mounted.changed.notify_all();
  });
  const std::string& directory = mounted.point.directory;
  AdminServer::listen_for(mounted.transport, directory, admin_address_of_mount(directory));
  if (mounted.target.is_address || !mounted.snapshot.empty()) co_return Status{};
  // Whoever holds the store makes its snapshots, and shows them.
  mount::Mount* const mount = mounted.mount.get();
  mounted.admin.answer_with("snapshot create", [mount](nlohmann::json question) {
    return answer_create(*mount, std::move(question));
  });
  mounted.admin.answer_with("snapshot delete", [mount](nlohmann::json question) {
    return answer_delete(*mount, std::move(question));
  });
  mounted.source->share_snapshots(mounted.transport);
  const std::string& store = mounted.target.text;
  AdminServer::listen_for(mounted.transport, store, admin_address(store));
  co_return Status{};
}

// After the first signal: unmounts, at once if nothing is open, else when the grace is over.
Task<void> unmount_when_asked(Mounted& mounted) {
  while (mounted.signals == 0) co_await mounted.changed.next();
  const Status unmounted = co_await mounted.session->unmount(/*lazily=*/false);
  if (unmounted) co_return;
  log_warning(absl::StrCat(mounted.point.directory, ": ", unmounted.error().message(),
                           "; detached, it ends in 5 s or at the next signal"));
  const Status detached = co_await mounted.session->unmount(/*lazily=*/true);
  if (!detached) log_error(detached.error().message());
  mounted.runtime.executor.at(mounted.runtime.executor.now() + grace_for_open_files, [&mounted] {
    ++mounted.signals;
    mounted.changed.notify_all();
  });
  while (mounted.signals < 2 && !mounted.ended) co_await mounted.changed.next();
  if (mounted.ended) co_return;
  const Status aborted = mounted.session->abort();
  if (!aborted) log_error(aborted.error().message());
}

// Writing back waits for as long as the server is away; who does not want to wait says so twice.
void give_up_at_second_signal(Mounted& mounted) {
  if (++mounted.signals_after_end < 2) {
    log_warning("still writing back; another signal gives up what is not written");
    return;
  }
  log_error(absl::StrCat(mounted.point.directory, ": gave up; not everything was written"));
  std::_Exit(static_cast<int>(Exit::failed));
}

Task<Status> stop(Mounted& mounted) {
  while (mounted.session->running() > 0) co_await sleep_for(mounted.runtime.world(), 1ms);
  CO_TRY_STATUS(co_await mounted.mount->stop());
  co_return co_await mounted.source->stop();
}

Task<Status> mount_until_ended(Mounted& mounted, mount::MountOptions options, Launch& launch) {
  CO_TRY_STATUS(co_await start(mounted, std::move(options)));
  launch.ready("");
  log_info(absl::StrCat("mounted ", mounted.what(), " at ", mounted.point.directory));
  mounted.tasks.spawn(unmount_when_asked(mounted));
  while (!mounted.ended) co_await mounted.changed.next();
  log_info("unmounted; writing everything back");
  mounted.source->ending();
  const Status stopped = co_await stop(mounted);
  co_await mounted.admin.ended(mounted.runtime.world(), stopped);
  if (stopped) log_info("all is written");
  co_return stopped;
}

// Nothing may be mounted there but what a daemon has left that died.
Status check_mount_point(const std::string& directory, bool over_files) {
  if (is_mounted(directory)) {
    // First the daemon itself is asked: what touches the mount may wait for a server that is away.
    if (ask(admin_address_of_mount(directory), "status", patience_for_status) ||
        !is_dead_mount(directory)) {
      return fail(Errc::busy, absl::StrCat(directory, ": something is mounted here already"));
    }
    if (::umount2(directory.c_str(), MNT_DETACH) != 0) {
      return fail(Errc::busy,
                  absl::StrCat(directory, ": the mount of a daemon that died is still here"));
    }
    log_warning(absl::StrCat(directory, ": the mount of a daemon that died was still here"));
  }
  std::error_code error;
  if (!over_files && !std::filesystem::is_empty(directory, error) && !error) {
    return fail(Errc::not_empty,
                absl::StrCat(directory, " (a mount hides what is in it; -o nonempty allows that)"));
  }
  return {};
}

// What can be found wrong before anything starts.
Result<Target> check(const Arguments& arguments, Wanted& wanted) {
  fuse::MountPoint& point = wanted.point;
  TRY(Target target, resolve(arguments.target));
  TRY(point.directory, directory_path(arguments.directory));
  if (!target.is_address && (absl::StartsWith(point.directory + "/", target.text + "/") ||
                             absl::StartsWith(target.text + "/", point.directory + "/"))) {
    return fail(Errc::invalid, "store and mount point are inside one another");
  }
  TRY_STATUS(check_mount_point(point.directory, wanted.over_files));
  point.source = target.text;
  return target;
}

Exit run(const Arguments& arguments) {
  Wanted wanted;
  wanted.snapshot = arguments.snapshot;
  const std::string wrong = apply_options(arguments.options, wanted);
  if (!wrong.empty()) {
    complain(wrong);
    return Exit::usage;
  }
  fuse::MountPoint& point = wanted.point;
  Result<SnapshotPlace> place = SnapshotPlace();
  if (!wanted.snapshot.empty()) place = find_snapshot_place(arguments.target);
  if (!place) return complain(place.error());
  auto target = check(arguments, wanted);
  if (!target) return complain(target.error());
  if (!wanted.snapshot.empty()) {
    target->is_address = place->kind == SnapshotPlace::Kind::server;
    target->text = place->text;
    point.source = absl::StrCat(place->text, "@", wanted.snapshot);
    point.read_only = true;
  }
  LaunchOptions launch_options = arguments.launch;
  launch_options.name = absl::StrCat("mount ", point.directory);
  Launch launch(launch_options);

  mount::MountOptions options;
  options.label = absl::StrCat(host_name(), ":", point.directory);
  options.cache_size = arguments.cache_size;
  options.join_timeout =
      std::chrono::milliseconds(static_cast<std::int64_t>(arguments.patience_seconds * 1000));
  auto guardian = Guardian::start();
  if (!guardian) return launch.failed(guardian.error());
  Runtime runtime;
  Mounted mounted(runtime, *guardian, std::move(*target), *std::move(place),
                  std::move(wanted.snapshot), std::move(point));
  runtime.on_signal([&mounted](int signal) {
    log_info(absl::StrCat("signal ", signal));
    if (mounted.ended) give_up_at_second_signal(mounted);
    ++mounted.signals;
    mounted.changed.notify_all();
  });
  const Status ended =
      runtime.executor.run_until_done(mount_until_ended(mounted, std::move(options), launch));
  if (!ended) return launch.failed(with_hint(ended.error(), mounted.target));
  return Exit::ok;
}

// What both commands have behind the thing to mount.
void add_arguments(CLI::App* command, const std::shared_ptr<Arguments>& arguments) {
  command->add_option("DIR", arguments->directory, "the mount point, an existing directory")
      ->required()
      ->check(not_empty())
      ->type_name("");
  command->add_option("-o", arguments->options, "mount options, separated by commas")
      ->allow_extra_args(false)
      ->type_name("OPTIONS");
  command
      ->add_option("--cache-size", arguments->cache_size,
                   "memory for metadata and for data not yet written, at least 8M, e.g. 512M")
      ->transform(size_between(cache_size_min, cache_size_max, 1))
      ->type_name("SIZE")
      ->default_str("256M");
  command
      ->add_option("--timeout", arguments->patience_seconds, "how long to try to reach the server")
      ->check(seconds_between(0.1, 86400))
      ->type_name("SECONDS")
      ->capture_default_str();
  add_launch_options(*command, arguments->launch);
}

}  // namespace

void add_mount(CLI::App& app, Exit& exit) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* command =
      app.add_subcommand("mount", "Mount a store of this machine, or what a server shares");
  command->footer(
      "Returns when the mount can be used; the daemon stays until it is unmounted. Options of -o:\n"
      "ro, rw, suid, nosuid, dev, nodev, exec, noexec (default: rw,nosuid,nodev,exec),\n"
      "nonempty to mount over a directory that is not empty, and snapshot=NAME to mount a\n"
      "snapshot, read-only.\n"
      "  plumeria mount /srv/store /mnt\n"
      "  plumeria mount 192.0.2.1:7411 /mnt -o ro\n" +
      exit_codes());
  command
      ->add_option("TARGET", arguments->target,
                   "a store (an existing directory), or HOST[:PORT] of `plumeria serve`; port 7411")
      ->required()
      ->check(not_empty())
      ->type_name("");
  add_arguments(command, arguments);
  command->callback([arguments, &exit] { exit = run(*arguments); });
}

void add_mount_of_snapshot(CLI::App& snapshots, Exit& exit) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* command =
      snapshots.add_subcommand("mount", "Mount a snapshot, read-only, beside the store in use");
  command->footer(
      "As `plumeria mount TARGET DIR -o snapshot=NAME`. It is unmounted like any mount. While a\n"
      "snapshot of a store that nobody uses is mounted, the store cannot be.\n" +
      exit_codes());
  command
      ->add_option("TARGET", arguments->target,
                   "a store, the mount point of one, or HOST[:PORT] of `plumeria serve`")
      ->required()
      ->check(not_empty())
      ->type_name("");
  command->add_option("NAME", arguments->snapshot, "of the snapshot")
      ->required()
      ->check(not_empty())
      ->type_name("");
  add_arguments(command, arguments);
  command->callback([arguments, &exit] { exit = run(*arguments); });
}

}  // namespace plumeria::cli
