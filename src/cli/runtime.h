// The real world of one command or daemon: executor, chance, threads for blocking calls, signals.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/world.h"
#include "os/host_store.h"
#include "os/real_world.h"

namespace plumeria::cli {

class Runtime {
 public:
  // Blocks SIGTERM, SIGINT and SIGHUP for this and all later threads, for on_signal().
  Runtime();
  ~Runtime();
  Runtime(const Runtime&) = delete;
  Runtime& operator=(const Runtime&) = delete;

  World world() { return World{executor, random, executor}; }
  // Calls `handler` on the executor for each of the signals that arrives from now on.
  void on_signal(std::function<void(int signal)> handler);

  os::RealExecutor executor;
  os::RealRandom random;
  os::ThreadPool pool;

 private:
  int signals_ = -1;
};

// What a user names as the thing to mount, serve or look at: an existing directory is a store, what
// else contains a slash is a mistake, and the rest an address.
struct Target {
  bool is_address = false;
  std::string text;  // absolute path, or HOST:PORT
};
Result<Target> resolve(const std::string& text);

// A restarted lock server waits one lease for its clerks to come back, so they look for it more
// often than the shortest lease lasts.
constexpr Duration reconnect_pause_max = 400ms;
constexpr double lease_seconds_min = 1, lease_seconds_max = 3600;

// Absolute, without symbolic links. Errc::no_entry, not_directory. Does not touch a mount point of
// ours, whose daemon may not answer.
Result<std::string> directory_path(const std::string& path);
// The device number of the Plumeria file system that is mounted at this absolute path, as text; the
// uppermost, if there are several. Nothing: there is none.
std::optional<std::string> device_mounted_at(const std::string& path);
inline bool is_mounted(const std::string& path) { return device_mounted_at(path).has_value(); }
// The nearest mount point of ours that this absolute path is below, or is; empty if there is none.
std::string mount_point_above(std::string path);
// Whether the daemon of the mount there has died. False also if that cannot be found out in time.
bool is_dead_mount(const std::string& path);
// An address that is the name of nothing may have been meant as a directory.
Error with_hint(Error error, const Target& target);

}  // namespace plumeria::cli
