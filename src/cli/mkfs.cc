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
  if (!made) return complain(made.error());
  std::printf("%s is a store now; mount it: plumeria mount %s DIR\n", arguments.store.c_str(),
              arguments.store.c_str());
  return Exit::ok;
}

std::string check_log_size(const std::string& text) {
  const std::uint64_t size = std::stoull(text);
  if (size < wal::log_size_min) return "at least 1 MiB";
  return size % format::block_size == 0 ? "" : "a multiple of 4096";
}

}  // namespace

void add_mkfs(CLI::App& app, Exit& exit) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* command = app.add_subcommand(
      "mkfs", "Make an empty store in a directory that is empty or does not exist yet");
  command->add_option("STORE", arguments->store, "the directory")->required();
  command->add_option("--label", arguments->label, "a name for people, up to 63 bytes")
      ->check([](const std::string& label) {
        return label.size() <= format::label_max ? "" : "longer than 63 bytes";
      });
  command
      ->add_option("--log-size", arguments->log_size,
                   "bytes of each mount's log, e.g. 64M: more is faster under load, and takes "
                   "longer to replay")
      ->transform(CLI::AsSizeValue(false))
      ->check(check_log_size)
      ->default_str("64M");
  command
      ->add_option("--lease", arguments->lease_seconds,
                   "seconds after which a silent mount is given up")
      ->check(CLI::Range(lease_seconds_min, lease_seconds_max))
      ->capture_default_str();
  command->callback([arguments, &exit] { exit = run(*arguments); });
}

}  // namespace plumeria::cli
