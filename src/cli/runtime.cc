#include "cli/runtime.h"

#include <absl/strings/match.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <absl/strings/str_split.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "base/log.h"
#include "os/asio_transport.h"

namespace plumeria::cli {
namespace {

constexpr std::size_t pool_threads = 4;

sigset_t ending_signals() {
  sigset_t set;
  sigemptyset(&set);
  for (int signal : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&set, signal);
  return set;
}

// Before the pool's threads are made, so that they inherit it.
std::size_t block_signals_and_count_threads() {
  const sigset_t set = ending_signals();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  return pool_threads;
}

// A server has a descriptor for each connection, and the store's files besides.
void raise_limit_of_files() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == limit.rlim_max) return;
  limit.rlim_cur = limit.rlim_max;
  (void)::setrlimit(RLIMIT_NOFILE, &limit);
}

// Blanks and backslashes as octal numbers.
std::string escaped_as_in_proc(const std::string& path) {
  std::string out;
  for (const char c : path) {
    if (c == ' ' || c == '\t' || c == '\n' || c == '\\') {
      absl::StrAppendFormat(&out, "\\%03o", static_cast<unsigned char>(c));
    } else {
      out += c;
    }
  }
  return out;
}

}  // namespace

Runtime::Runtime() : pool(executor, block_signals_and_count_threads()) {
  raise_limit_of_files();
  const sigset_t set = ending_signals();
  signals_ = ::signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
}

Runtime::~Runtime() {
  if (signals_ < 0) return;
  executor.unwatch(signals_);
  ::close(signals_);
}

void Runtime::on_signal(std::function<void(int)> handler) {
  const Status watched =
      executor.watch(signals_, EPOLLIN, [this, handler = std::move(handler)]() mutable {
        signalfd_siginfo info;
        while (::read(signals_, &info, sizeof info) == sizeof info) {
          handler(static_cast<int>(info.ssi_signo));
        }
      });
  if (!watched) log_warning(absl::StrCat("signals: ", watched.error().message()));
}

std::optional<std::string> device_mounted_at(const std::string& path) {
  std::ifstream table("/proc/self/mountinfo");
  std::optional<std::string> device;
  for (std::string line; std::getline(table, line);) {
    // Number, parent, device, root, mount point, options …, "-", type, source (proc(5)).
    const std::vector<std::string> fields = absl::StrSplit(line, ' ');
    if (fields.size() < 10 || fields[4] != escaped_as_in_proc(path)) continue;
    device.reset();
    if (absl::StrContains(line, " - fuse.plumeria ")) device = fields[2];
  }
  return device;
}

std::string mount_point_above(std::string path) {
  while (!path.empty()) {
    if (is_mounted(path)) return path;
    path.resize(path.rfind('/') == std::string::npos ? 0 : path.rfind('/'));
  }
  return path;
}

Result<std::string> directory_path(const std::string& path) {
  const std::string named = std::filesystem::absolute(path).lexically_normal();
  const std::string bare =
      named.size() > 1 && named.back() == '/' ? named.substr(0, named.size() - 1) : named;
  if (is_mounted(bare)) return bare;
  char* whole = ::realpath(path.c_str(), nullptr);
  if (whole == nullptr) return fail(Errc::no_entry, path);
  std::string result = whole;
  std::free(whole);
  struct stat what {};
  if (::stat(result.c_str(), &what) != 0) return fail(Errc::no_entry, path);
  if (!S_ISDIR(what.st_mode)) return fail(Errc::not_directory, path);
  return result;
}

bool is_dead_mount(const std::string& path) {
  // Another process asks, because whoever asks a daemon that hangs waits for ever.
  constexpr int answers = 0, dead = 1;
  const pid_t child = ::fork();
  if (child < 0) return false;
  if (child == 0) {
    // Unlike attributes, this is never answered from the kernel's cache.
    struct statfs what {};
    ::_exit(::statfs(path.c_str(), &what) != 0 && errno == ENOTCONN ? dead : answers);
  }
  for (int look = 0; look < 100; ++look) {
    int status = 0;
    if (::waitpid(child, &status, WNOHANG) == child) {
      return WIFEXITED(status) && WEXITSTATUS(status) == dead;
    }
    ::usleep(20'000);
  }
  ::kill(child, SIGKILL);
  return false;
}

Error with_hint(Error error, const Target& target) {
  if (target.is_address && error.code == Errc::unavailable &&
      !absl::StrContains(target.text, ":")) {
    absl::StrAppend(&error.what, ", and there is no directory of this name");
  }
  return error;
}

Result<Target> resolve(const std::string& text) {
  auto path = directory_path(text);
  if (path) return Target{false, *path};
  const bool is_file = path.error().code != Errc::no_entry;
  const bool is_path = absl::StrContains(text, "/") && !absl::StartsWith(text, "unix:");
  if (is_file || is_path) {
    return fail(path.error().code,
                absl::StrCat(text, " (neither a store nor HOST:PORT; mkfs makes a store)"));
  }
  TRY_STATUS(os::check_address(text));
  // What has no port may be a misspelt directory; nobody should wait for a host of that name.
  if (!absl::StrContains(text, ":") && !os::knows_host(text)) {
    return fail(Errc::unavailable, absl::StrCat("cannot find host ", text,
                                                ", and there is no directory of this name"));
  }
  return Target{true, text};
}

}  // namespace plumeria::cli
