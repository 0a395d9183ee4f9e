// From a command to a daemon, so that the command ends when the daemon is usable, with its error
// and exit code if it is not.
//
// Launch forks (unless in the foreground): the command's own process waits for ready() or failed()
// and leaves; the constructor returns in the daemon only. To be made before any thread. The daemon
// has a session of its own, works in / and reads nothing; its messages go to the log file (or
// syslog), what it prints on standard error too (a failed CHECK). Until ready() every warning and
// error also reaches the terminal.
//
// On a busy machine a mount that waits for a processor keeps waiting everybody who wants its locks,
// and at last loses its lease; so it goes before ordinary processes, if it may (CAP_SYS_NICE).
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "cli/command.h"

namespace plumeria::cli {

struct LaunchOptions {
  bool foreground = false;
  std::string log = "/var/log/plumeria.log";  // or "syslog"; unused in the foreground
  std::string pid_file;                       // empty: none
  std::string name;                           // in each line of the log
  std::optional<int> nice;  // -20 to 19; without, -10 unless whoever starts us has set another
};

// Adds --foreground, --log, --pid-file and --nice.
void add_launch_options(CLI::App& command, LaunchOptions& options);

class Launch {
 public:
  explicit Launch(LaunchOptions options);
  // Removes the pid file.
  ~Launch();
  Launch(const Launch&) = delete;
  Launch& operator=(const Launch&) = delete;

  // The command that started us succeeds with `message` on standard output (if any).
  void ready(std::string_view message);
  // The command that started us fails with this error, which is logged too.
  Exit failed(const Error& error);
  // Ends the process at once, as a crash would.
  [[noreturn]] void die(const Error& error);

 private:
  void tell(Exit exit, std::string_view message);

  LaunchOptions options_;
  int to_command_ = -1;  // pipe; -1 when it has been told, or in the foreground
};

}  // namespace plumeria::cli
