// The parts of one server put together: lock server, disk server and the replay of logs, in the
// order that makes a start safe after any end (docs/protocol.md, "Start of a server").
//
// Start       1. the lock server reads the view and gets itself a lease;
//             2. the register "server" tells whether the last server of this store stopped cleanly;
//                it is marked open, durably;
//             3. after an unclean end the logs of *all* slots in use are replayed together, those
//                of living mounts too (their blocks in place may have been lost with the page
//                cache); after a clean one those of the dead. The logs of the dead are trimmed;
//             4. only now are others admitted: the disk server answers, then the lock server.
// While up    An expired lease is fenced by the lock server, then its log is replayed here.
// Stop        Clerks are not served any more, everything acknowledged is flushed, and the register
//             is marked closed. Mounts that live on keep their leases over a restart.
// Seams       Knows no operating system: the same code serves a host directory over TCP, the one
//             mount of its own process (net/loopback.h), and simulated clusters.
// Ownership   Borrows world, disk and transport, which outlive it. One Server a store.
// Threads     The executor's.
// Errors      start() names what is damaged or in use; the server is then only to be destroyed.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "base/result.h"
#include "base/task.h"
#include "base/world.h"
#include "disk/disk.h"
#include "diskd/server.h"
#include "lockd/server.h"
#include "net/transport.h"
#include "recovery/replay.h"

namespace plumeria::serve {

struct ServerOptions {
  Duration lease_duration = 10s;
  std::uint64_t log_size = 0;     // bytes, from the store's superblock
  std::uint64_t incarnation = 0;  // of the store, larger after each start; unused if in_process
  // The only client is the mount in this very process, which uses the disk directly: no disk server
  // is started, and clerks of an earlier process are known to be dead.
  bool in_process = false;
};

struct ServerStatus {
  lockd::LockServerStatus locks;
  bool was_clean = false;        // how the last server of this store ended
  recovery::ReplayReport first;  // the replay at the start
  std::uint64_t replays = 0;     // of dead mounts since then
  recovery::ReplayReport last;   // the latest of these
  std::uint64_t replay_errors = 0;
  std::string last_replay_error;
  diskd::DiskServerStatus disk;
};

class Server {
 public:
  Server(World world, disk::VirtualDisk& disk, net::Transport& transport, ServerOptions options);
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  // Steps 1 to 4 above.
  Task<Status> start();
  Task<Status> stop();

  ServerStatus status() const;
  lockd::LockServer& locks();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace plumeria::serve
