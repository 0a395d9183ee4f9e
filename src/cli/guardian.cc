#include "cli/guardian.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>

#include "fuse/device.h"

namespace plumeria::cli {
namespace {

constexpr int look_every_ms = 500;

// Whether the process is dying but cannot end: its first thread is gone while others are not, or it
// waits for them to dump core.
bool is_stuck(const std::string& status_path) {
  std::FILE* file = std::fopen(status_path.c_str(), "re");
  if (file == nullptr) return false;
  bool stuck = false;
  char line[256];
  while (std::fgets(line, sizeof line, file) != nullptr) {
    if (std::strncmp(line, "State:\tZ", 8) == 0 || std::strncmp(line, "State:\tX", 8) == 0 ||
        std::strncmp(line, "CoreDumping:\t1", 14) == 0) {
      stuck = true;
    }
  }
  std::fclose(file);
  return stuck;
}

[[noreturn]] void guard(pid_t daemon, int daemon_fd, int from_daemon) {
  int connection = -1;
  const std::string status_path = "/proc/" + std::to_string(daemon) + "/status";
  for (;;) {
    pollfd waits[2] = {{daemon_fd, POLLIN, 0}, {connection >= 0 ? -1 : from_daemon, POLLIN, 0}};
    const int ready = ::poll(waits, 2, look_every_ms);
    if (ready < 0 && errno != EINTR) std::_Exit(1);
    if (ready > 0 && waits[0].revents != 0) std::_Exit(0);  // It has ended wholly.
    if (ready > 0 && waits[1].revents != 0) {
      std::uint32_t number = 0;
      if (::read(from_daemon, &number, sizeof number) != sizeof number) std::_Exit(0);
      // Opened now, as the kernel gives the numbers of connections that have ended to new ones.
      const Result<int> handle = fuse::open_abort(number);
      if (!handle) std::_Exit(0);
      connection = *handle;
    }
    if (connection >= 0 && is_stuck(status_path)) {
      (void)fuse::abort_connection(connection);
      std::_Exit(0);  // Whatever still comes ends by itself now.
    }
  }
}

}  // namespace

Result<Guardian> Guardian::start() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) {
    return fail(Errc::io, std::string("cannot make a pipe: ") + std::strerror(errno));
  }
  const pid_t daemon = ::getpid();
  const int daemon_fd = static_cast<int>(::syscall(SYS_pidfd_open, daemon, 0));
  if (daemon_fd < 0) {
    const int error = errno;
    ::close(ends[0]);
    ::close(ends[1]);
    return fail(Errc::io, std::string("cannot watch this process: ") + std::strerror(error));
  }
  const pid_t child = ::fork();
  if (child < 0) {
    const int error = errno;
    for (int fd : {ends[0], ends[1], daemon_fd}) ::close(fd);
    return fail(Errc::io, std::string("cannot fork: ") + std::strerror(error));
  }
  if (child == 0) {
    // A signal to the group is for the daemon; and nothing of its files may be kept open here.
    ::setsid();
    ::signal(SIGINT, SIG_IGN);
    ::signal(SIGTERM, SIG_IGN);
    ::signal(SIGHUP, SIG_IGN);
    ::prctl(PR_SET_NAME, "plumeria-guard");
    const int high_daemon = ::fcntl(daemon_fd, F_DUPFD, 100);
    const int high_pipe = ::fcntl(ends[0], F_DUPFD, 100);
    if (::dup2(high_daemon, 3) < 0 || ::dup2(high_pipe, 4) < 0) std::_Exit(1);
    ::syscall(SYS_close_range, 5u, ~0u, 0u);
    const int nowhere = ::open("/dev/null", O_RDWR);
    for (int fd = 0; fd < 3 && nowhere >= 0; ++fd) ::dup2(nowhere, fd);
    if (nowhere > 4) ::close(nowhere);
    if (::chdir("/") != 0) std::_Exit(1);
    guard(daemon, 3, 4);
  }
  ::close(ends[0]);
  ::close(daemon_fd);
  return Guardian(ends[1]);
}

Guardian::Guardian(Guardian&& other) noexcept : to_child_(std::exchange(other.to_child_, -1)) {}

Guardian::~Guardian() {
  if (to_child_ >= 0) ::close(to_child_);
}

void Guardian::watch(std::uint32_t connection) {
  if (::write(to_child_, &connection, sizeof connection) != sizeof connection)
    std::perror("guardian");
}

}  // namespace plumeria::cli
