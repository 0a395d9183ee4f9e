// Two ends of a network inside one process: what one sends, the other one's handler gets in a later
// turn of the executor, in order, never lost. The embedded mount talks to its own lock server so.
//
// Both ends may connect() to the other, any number of times (the address does not matter); each
// time makes a new pair of peers, connected in the next turn.
//
// Threads     The executor's. Ownership: Loopback owns both ends and may go while messages are
// under way: they are dropped.
#pragma once

#include <memory>

#include "base/world.h"
#include "net/transport.h"

namespace plumeria::net {

class Loopback {
 public:
  explicit Loopback(Executor& executor);
  ~Loopback();
  Loopback(const Loopback&) = delete;
  Loopback& operator=(const Loopback&) = delete;

  Transport& client();
  Transport& server();

 private:
  class End;
  struct Shared;
  std::shared_ptr<Shared> shared_;
};

}  // namespace plumeria::net
