// plumeria mkfs STORE
#include <absl/strings/str_cat.h>

#include <cstdio>

#include "cli/command.h"
#include "cli/runtime.h"
#include "format/superblock.h"
#include "lock/lease.h"
#include "mount/mount.h"
#include "wal/log.h"

namespace plumeria::cli {
namespace {

struct Arguments {
  std::string store, label;
  std::uint64_t log_size = wal::log_size_default;
  double lease_seconds = 10;
};

// A number that no clerk or server ever gets: they count up from 1.
constexpr lock::LeaseNumber maker{~0ull};

Task<Status> format(os::HostStore& disk, mount::FormatOptions options) {
  CO_TRY_STATUS(co_await disk.admit(maker));
  CO_TRY_STATUS(co_await mount::format_store(disk, std::move(options)));
  CO_TRY_STATUS(co_await disk.flush());
  CO_TRY_STATUS(co_await disk.fence(maker));
  co_return co_await disk.close();
}

Exit run(const Arguments& arguments) {
  Runtime runtime;
  auto disk = os::HostStore::create(runtime.executor, runtime.pool, arguments.store, {});
  if (!disk) return complain(disk.error());
  mount::FormatOptions options;
  options.label = arguments.label;
  options.log_size = arguments.log_size;
  options.lease_duration =
      std::chrono::milliseconds(static_cast<std::int64_t>(arguments.lease_seconds * 1000));
  options.lease = maker;
  options.now = runtime.executor.wall();
  options.hash_seed = runtime.random.next();
  const Status made = runtime.executor.run_until_done(format(**disk, std::move(options)));
  if (!made) {
    disk->reset();
    os::HostStore::remove(arguments.store);
    return complain(made.error());
  }
  std::printf("%s is a store now; mount it: plumeria mount %s DIR\n", arguments.store.c_str(),
              arguments.store.c_str());
  return Exit::ok;
}

}  // namespace

void add_mkfs(CLI::App& app, Exit& exit) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* command = app.add_subcommand(
      "mkfs", "Make an empty store in a directory that is empty or does not exist yet");
  command->footer(absl::StrCat(
      "STORE and its space are those of the host's file system, which needs sparse files.\n"
      "  plumeria mkfs /srv/store --label home --lease 5\n",
      exit_codes()));
  command->add_option("STORE", arguments->store, "the directory")
      ->required()
      ->check(not_empty())
      ->type_name("");
  command->add_option("--label", arguments->label, "a name for people, up to 63 bytes")
      ->check([](const std::string& label) {
        return label.size() <= format::label_max ? "" : "longer than 63 bytes";
      })
      ->type_name("TEXT");
  command
      ->add_option("--log-size", arguments->log_size,
                   "bytes of each mount's log, at least 1M, e.g. 64M: more is faster under load, "
                   "and takes longer to replay")
      ->transform(size_between(wal::log_size_min, std::uint64_t{1} << 40, format::block_size))
      ->type_name("SIZE")
      ->default_str("64M");
  command
      ->add_option("--lease", arguments->lease_seconds,
                   "how long a mount may be silent before it is given up, 1 to 3600")
      ->check(seconds_between(lease_seconds_min, lease_seconds_max))
      ->type_name("SECONDS")
      ->capture_default_str();
  command->callback([arguments, &exit] { exit = run(*arguments); });
}

}  // namespace plumeria::cli
