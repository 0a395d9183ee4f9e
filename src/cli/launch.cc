#include "cli/launch.h"

#include <absl/strings/str_cat.h>
#include <fcntl.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/sinks/syslog_sink.h>
#include <spdlog/spdlog.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "base/log.h"

namespace plumeria::cli {
namespace {

void to_spdlog(Severity severity, std::string_view text) {
  switch (severity) {
    case Severity::debug:
      return spdlog::debug("{}", text);
    case Severity::info:
      return spdlog::info("{}", text);
    case Severity::warning:
      return spdlog::warn("{}", text);
    case Severity::error:
      return spdlog::error("{}", text);
  }
}

// Standard error is the log, so that lines of libraries and a failed CHECK are in it as well.
void log_to_stderr(const std::string& name) {
  spdlog::set_default_logger(spdlog::stderr_color_mt("stderr"));
  spdlog::set_pattern(absl::StrCat("%Y-%m-%d %H:%M:%S.%e %P ", name, " %^%l%$ %v"));
}

void open_log(const LaunchOptions& options) {
  if (!options.foreground && options.log == "syslog") {
    spdlog::set_default_logger(spdlog::syslog_logger_mt("syslog", "plumeria", LOG_PID, LOG_DAEMON));
    spdlog::set_pattern(absl::StrCat(options.name, " %v"));
  } else {
    log_to_stderr(options.name);
  }
  spdlog::set_level(std::getenv("PLUMERIA_DEBUG") != nullptr ? spdlog::level::debug
                                                             : spdlog::level::info);
  spdlog::flush_on(spdlog::level::info);
  set_log_sink(to_spdlog);
}

// Replaces the three standard descriptors. Returns an empty text or what went wrong.
std::string redirect(const std::string& log) {
  const int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  if (null < 0) return absl::StrCat("/dev/null: ", std::strerror(errno));
  int messages = null;
  if (log != "syslog") {
    messages = ::open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (messages < 0) {
      return absl::StrCat("log file ", log, ": ", std::strerror(errno),
                          ::geteuid() == 0 ? "" : " (a daemon is started by root, or with --log)");
    }
  }
  ::dup2(null, STDIN_FILENO);
  ::dup2(null, STDOUT_FILENO);
  ::dup2(messages, STDERR_FILENO);
  return {};
}

// The command's own process: passes on how the start of the daemon ended.
[[noreturn]] void wait_for_daemon(int from_daemon, pid_t daemon) {
  std::string told;
  char buffer[4096];
  ssize_t got = 0;
  while ((got = ::read(from_daemon, buffer, sizeof buffer)) != 0) {
    if (got > 0) told.append(buffer, static_cast<std::size_t>(got));
    if (got < 0 && errno != EINTR) break;
  }
  if (told.empty()) {  // It died without a word; its last words are in the log.
    int status = 0;
    ::waitpid(daemon, &status, 0);
    complain(WIFSIGNALED(status) ? absl::StrCat("the daemon died of signal ", WTERMSIG(status),
                                                " while it started; see its log")
                                 : std::string("the daemon ended while it started; see its log"));
    ::_exit(static_cast<int>(Exit::failed));
  }
  const Exit exit{told[0]};
  const std::string message = told.substr(1);
  if (exit != Exit::ok) complain(message);
  if (exit == Exit::ok && !message.empty()) std::printf("%s\n", message.c_str());
  std::fflush(stdout);
  ::_exit(static_cast<int>(exit));
}

void take_priority(std::optional<int> nice) {
  constexpr int usual = 0, ours = -10;
  const int now = ::getpriority(PRIO_PROCESS, 0);
  const int wanted = nice.value_or(now == usual ? ours : now);
  if (wanted == now || ::setpriority(PRIO_PROCESS, 0, wanted) == 0) return;
  log_info(absl::StrCat("runs at nice level ", now, ", not ", wanted, ": ", std::strerror(errno)));
}

// Returns an empty text or what went wrong.
std::string write_pid_file(const std::string& path) {
  if (path.empty()) return {};
  std::FILE* file = std::fopen(path.c_str(), "we");
  bool written = file != nullptr && std::fprintf(file, "%d\n", static_cast<int>(::getpid())) > 0;
  if (file != nullptr) written = std::fclose(file) == 0 && written;
  return written ? std::string() : absl::StrCat("pid file ", path, ": ", std::strerror(errno));
}

std::string absolute(const std::string& path) {
  if (path.empty() || path[0] == '/' || path == "syslog") return path;
  char* here = ::getcwd(nullptr, 0);
  std::string whole = absl::StrCat(here == nullptr ? "" : here, "/", path);
  std::free(here);
  return whole;
}

}  // namespace

void add_launch_options(CLI::App& command, LaunchOptions& options) {
  CLI::Option* foreground =
      command.add_flag("-f,--foreground", options.foreground,
                       "stay in the foreground and print messages to the terminal");
  command
      .add_option("--log", options.log,
                  "file that gets the daemon's messages, or \"syslog\" (not with --foreground)")
      ->excludes(foreground)
      ->type_name("FILE")
      ->capture_default_str();
  command.add_option("--pid-file", options.pid_file, "file that gets the number of the process")
      ->type_name("FILE");
  command
      .add_option("--nice", options.nice,
                  "priority, -20 (first) to 19; without it -10, or what nice(1) has set")
      ->check(CLI::Range(-20, 19))
      ->type_name("N");
}

Launch::Launch(LaunchOptions options) : options_(std::move(options)) {
  options_.log = absolute(options_.log);
  options_.pid_file = absolute(options_.pid_file);
  std::string wrong;
  if (!options_.foreground) {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) {
      complain(absl::StrCat("pipe: ", std::strerror(errno)));
      std::exit(static_cast<int>(Exit::failed));
    }
    std::fflush(nullptr);
    const pid_t daemon = ::fork();
    if (daemon < 0) {
      complain(absl::StrCat("fork: ", std::strerror(errno)));
      std::exit(static_cast<int>(Exit::failed));
    }
    if (daemon > 0) {
      ::close(ends[1]);
      wait_for_daemon(ends[0], daemon);
    }
    ::close(ends[0]);
    to_command_ = ends[1];
    ::setsid();
    wrong = redirect(options_.log);
    if (wrong.empty() && ::chdir("/") != 0) wrong = "cannot change to /";
  }
  open_log(options_);
  take_priority(options_.nice);
  if (wrong.empty()) wrong = write_pid_file(options_.pid_file);
  if (!wrong.empty()) {
    if (options_.foreground) complain(wrong);
    tell(Exit::failed, wrong);
    std::exit(static_cast<int>(Exit::failed));
  }
}

Launch::~Launch() {
  if (!options_.pid_file.empty()) ::unlink(options_.pid_file.c_str());
  set_log_sink(nullptr);
}

void Launch::tell(Exit exit, std::string_view message) {
  if (to_command_ < 0) return;
  std::string told(1, static_cast<char>(exit));
  told += message;
  // The pipe takes a message of this size at once; if the command is gone nobody needs it.
  if (::write(to_command_, told.data(), told.size()) < 0) log_debug("nobody waits for our start");
  ::close(to_command_);
  to_command_ = -1;
}

void Launch::ready(std::string_view message) {
  if (!message.empty()) log_info(message);
  tell(Exit::ok, message);
}

void Launch::die(const Error& error) {
  const Exit exit = failed(error);
  if (!options_.pid_file.empty()) ::unlink(options_.pid_file.c_str());
  std::_Exit(static_cast<int>(exit));
}

Exit Launch::failed(const Error& error) {
  log_error(error.message());
  tell(exit_of(error), error.message());
  return exit_of(error);
}

}  // namespace plumeria::cli
