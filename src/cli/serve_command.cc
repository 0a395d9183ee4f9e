// plumeria serve STORE
#include <absl/strings/str_cat.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <memory>

#include "base/async.h"
#include "base/log.h"
#include "cli/admin.h"
#include "cli/command.h"
#include "cli/launch.h"
#include "cli/lock_report.h"
#include "cli/report.h"
#include "cli/runtime.h"
#include "cli/store.h"
#include "os/asio_transport.h"
#include "serve/server.h"

namespace plumeria::cli {
namespace {

constexpr std::size_t locks_report_max = 3u << 20;  // bytes; a message has no more than 4 MiB

struct Arguments {
  std::string store, listen{os::default_listen_address};
  double lease_seconds = 0;  // 0: the store's own
  LaunchOptions launch;
};

// Everything that runs while the store is served.
struct Service {
  Service(Runtime& runtime, OpenStore open, const Arguments& arguments)
      : world(runtime.world()),
        store(std::move(open)),
        transport(runtime.executor, runtime.random,
                  {.identity = store.disk->identity(), .connections_max = connections_max()}),
        server(runtime.world(), *store.disk, transport, options(store, arguments)),
        admin(
            transport, [this] { return status(); },
            [this] { return locks_to_json(server.locks().program_locks(), locks_report_max); }),
        stop(runtime.executor) {}

  // Connections must not take the descriptors that the store's files need.
  static std::size_t connections_max() {
    rlimit limit{};
    if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return 256;
    return std::min<std::size_t>(4096, limit.rlim_cur / 2);
  }
  static serve::ServerOptions options(const OpenStore& store, const Arguments& arguments) {
    serve::ServerOptions options;
    options.log_size = store.superblock.log_size;
    options.incarnation = store.disk->incarnation();
    options.lease_duration = std::chrono::milliseconds(store.superblock.lease_milliseconds);
    if (arguments.lease_seconds > 0) {
      options.lease_duration =
          std::chrono::milliseconds(static_cast<std::int64_t>(arguments.lease_seconds * 1000));
    }
    return options;
  }
  nlohmann::json status() {
    return {{"what", absl::StrCat("server of ", store.disk->path(), " at ", address)},
            {"pid", ::getpid()},
            {"address", address},
            {"store", report(*store.disk, store.superblock)},
            {"server", report(server.status())}};
  }

  const World world;
  OpenStore store;
  os::AsioTransport transport;
  serve::Server server;
  AdminServer admin;
  Event stop;
  bool stop_asked = false;
  std::string address;
};

Task<Status> stop_cleanly(Service& service) {
  CO_TRY_STATUS(co_await service.server.stop());
  co_return co_await service.store.disk->close();
}

// Start to stop. An error of the start leaves the store unclean on purpose: what was not replayed
// will be at the next start.
Task<Status> serve_until_asked(Service& service, Launch& launch, std::string listen) {
  CO_TRY_STATUS(co_await service.server.start());
  auto address = service.transport.listen(listen);
  if (!address) {
    CO_TRY_STATUS(co_await stop_cleanly(service));
    co_return fail(std::move(address).error());
  }
  service.address = *address;
  const std::string& store = service.store.disk->path();
  AdminServer::listen_for(service.transport, store, admin_address(store));
  launch.ready(absl::StrCat("serving ", service.store.disk->path(), " at ", service.address));
  while (!service.stop_asked) co_await service.stop.next();
  log_info("stopping");
  service.store.disk->ending();
  const Status stopped = co_await stop_cleanly(service);
  co_await service.admin.ended(service.world, stopped);
  co_return stopped;
}

Exit run(const Arguments& arguments) {
  auto path = directory_path(arguments.store);
  if (!path) return complain(path.error());
  LaunchOptions launch_options = arguments.launch;
  launch_options.name = absl::StrCat("serve ", *path);
  Launch launch(launch_options);
  Runtime runtime;
  auto store = open_store(runtime, *path, /*read_only=*/false);
  if (!store) return launch.failed(store.error());
  // Mounts then wait for the next server, to which they send again what no flush has covered; an
  // error would make them lose it.
  (*store).disk->on_broken([&launch](const Error& error) { launch.die(error); });
  Service service(runtime, std::move(*store), arguments);
  runtime.on_signal([&service](int signal) {
    log_info(absl::StrCat("signal ", signal));
    service.stop_asked = true;
    service.stop.notify_all();
  });
  const Status ended =
      runtime.executor.run_until_done(serve_until_asked(service, launch, arguments.listen));
  if (!ended) return launch.failed(ended.error());
  return Exit::ok;
}

}  // namespace

void add_serve(CLI::App& app, Exit& exit) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* command = app.add_subcommand(
      "serve", "Serve a store to mounts of this and other machines, and be their lock server");
  command->footer(
      "Returns when mounts can connect; the daemon stays. Stop it with SIGTERM: mounts then pause\n"
      "and go on when it is back. There is no encryption and no authentication: listen only where\n"
      "you trust everyone.\n"
      "  plumeria serve /srv/store --listen 192.0.2.1:7411\n" +
      exit_codes());
  command->add_option("STORE", arguments->store, "the directory that mkfs made")
      ->required()
      ->type_name("");
  command
      ->add_option(
          "--listen", arguments->listen,
          "address to serve at: HOST:PORT, [V6]:PORT or unix:PATH; port 0 takes a free one")
      ->check([](const std::string& text) {
        const Status is_address = os::check_address(text);
        return is_address ? std::string() : is_address.error().what;
      })
      ->type_name("ADDRESS")
      ->capture_default_str();
  command
      ->add_option("--lease", arguments->lease_seconds,
                   "how long a mount may be silent before it is given up, 1 to 3600 (default: as "
                   "mkfs was told)")
      ->check(seconds_between(lease_seconds_min, lease_seconds_max))
      ->type_name("SECONDS");
  add_launch_options(*command, arguments->launch);
  command->callback([arguments, &exit] { exit = run(*arguments); });
}

}  // namespace plumeria::cli
