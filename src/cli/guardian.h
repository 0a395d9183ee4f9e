// A second process that sees a mount's daemon die, and ends the FUSE connection if its threads
// cannot.
//
// A thread that waits in the kernel for an invalidation (docs/kernel.md) cannot be killed: with the
// daemon dead nobody answers what it waits for, so the process would stay for ever, the mount point
// hang, and everything that touches it with it. The only way out is to abort the connection from
// outside.
//
// The guardian ends when the daemon has. Threads: start() before the program makes any.
#pragma once

#include <sys/types.h>

#include <cstdint>

#include "base/result.h"

namespace plumeria::cli {

class Guardian {
 public:
  // Forks the guardian of this process.
  static Result<Guardian> start();
  Guardian(Guardian&& other) noexcept;
  Guardian& operator=(Guardian&&) = delete;
  ~Guardian();

  // From now on it watches over this connection (a number below /sys/fs/fuse/connections).
  void watch(std::uint32_t connection);

 private:
  explicit Guardian(int to_child) : to_child_(to_child) {}
  int to_child_;
};

}  // namespace plumeria::cli
