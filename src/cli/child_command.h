// A command that runs as a child of this process, at its terminal.
//
// Threads: the executor's. The child gets SIGKILL when this process dies, whatever it dies of.
#pragma once

#include <sys/types.h>

#include <functional>
#include <string>
#include <vector>

#include "base/result.h"
#include "os/real_world.h"

namespace plumeria::cli {

class ChildCommand {
 public:
  explicit ChildCommand(os::RealExecutor& executor) : executor_(executor) {}
  ~ChildCommand();
  ChildCommand(const ChildCommand&) = delete;
  ChildCommand& operator=(const ChildCommand&) = delete;

  // Starts `words` with these variables ("NAME=value") besides our own. `ended` is called once.
  Status start(const std::vector<std::string>& words, const std::vector<std::string>& variables,
               std::function<void()> ended);
  bool runs() const { return pid_ > 0; }
  void signal(int number);
  // Of one that has ended, as a shell tells it: its exit code, or 128 and the number of the signal;
  // 127 if there is no such command, 126 if it cannot be executed.
  int exit_code() const { return exit_code_; }

 private:
  void reap();

  os::RealExecutor& executor_;
  std::function<void()> ended_;
  pid_t pid_ = -1;
  int descriptor_ = -1;
  int exit_code_ = -1;
};

}  // namespace plumeria::cli
