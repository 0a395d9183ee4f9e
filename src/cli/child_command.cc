#include "cli/child_command.h"

#include <absl/strings/str_cat.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <string_view>

namespace plumeria::cli {
namespace {

// Pointers to texts that outlive them, as execvpe() wants them.
std::vector<char*> pointers(const std::vector<std::string>& texts) {
  std::vector<char*> all;
  for (const std::string& text : texts) all.push_back(const_cast<char*>(text.c_str()));
  all.push_back(nullptr);
  return all;
}

std::vector<std::string> environment(const std::vector<std::string>& variables) {
  std::vector<std::string> all = variables;
  for (char** one = environ; *one != nullptr; ++one) {
    const std::string_view text = *one;
    const std::string_view name = text.substr(0, text.find('='));
    bool is_set = false;
    for (const std::string& variable : variables) {
      is_set = is_set || variable.substr(0, variable.find('=')) == name;
    }
    if (!is_set) all.emplace_back(text);
  }
  return all;
}

// In the child; only what is allowed between fork and exec.
[[noreturn]] void become(char* const* words, char* const* variables, pid_t parent) {
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  ::signal(SIGPIPE, SIG_DFL);
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) ::_exit(1);
  ::execvpe(words[0], words, variables);
  const int error = errno;
  const char* why = ::strerror(error);
  for (const char* part : {"plumeria: ", static_cast<const char*>(words[0]), ": ", why, "\n"}) {
    if (::write(STDERR_FILENO, part, std::strlen(part)) < 0) break;
  }
  ::_exit(error == ENOENT ? 127 : 126);
}

}  // namespace

ChildCommand::~ChildCommand() {
  if (descriptor_ < 0) return;
  executor_.unwatch(descriptor_);
  ::close(descriptor_);
}

Status ChildCommand::start(const std::vector<std::string>& words,
                           const std::vector<std::string>& variables, std::function<void()> ended) {
  ended_ = std::move(ended);
  const std::vector<std::string> whole_environment = environment(variables);
  const std::vector<char*> word_pointers = pointers(words);
  const std::vector<char*> variable_pointers = pointers(whole_environment);
  const pid_t parent = ::getpid();
  pid_ = ::fork();
  if (pid_ == 0) become(word_pointers.data(), variable_pointers.data(), parent);
  if (pid_ < 0) return fail(Errc::io, absl::StrCat(words[0], ": ", std::strerror(errno)));
  descriptor_ = static_cast<int>(::syscall(SYS_pidfd_open, pid_, 0));
  if (descriptor_ < 0) {
    signal(SIGKILL);
    return fail(Errc::io, absl::StrCat(words[0], ": ", std::strerror(errno)));
  }
  return executor_.watch(descriptor_, EPOLLIN, [this] { reap(); });
}

void ChildCommand::signal(int number) {
  if (pid_ > 0) ::kill(pid_, number);
}

void ChildCommand::reap() {
  int status = 0;
  if (pid_ <= 0 || ::waitpid(pid_, &status, WNOHANG) != pid_) return;
  executor_.unwatch(descriptor_);
  ::close(descriptor_);
  descriptor_ = -1;
  pid_ = -1;
  exit_code_ = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
  ended_();
}

}  // namespace plumeria::cli
