// Serves one virtual disk to remote_disk.h's clients (docs/protocol.md, "Disk sessions").
//
// Sessions live in memory alone: a restarted server knows none, has a new incarnation, and its
// clients open new ones and repeat what they must. Requests execute as they arrive, side by side;
// whoever needs an order awaits the answer first.
//
// Bounds      Requests under way and answers remembered per session, bytes queued for a slow
//             reader, and the number of sessions. Who exceeds them, or sends what cannot be read,
//             is disconnected with one line in the log.
// Threads     The executor's. Ownership: borrows world, transport (its Channel::disk handlers) and
//             disk. stop() has returned, or the executor was stopped, before it is destroyed.
#pragma once

#include <cstdint>
#include <memory>

#include "base/world.h"
#include "disk/disk.h"
#include "net/transport.h"

namespace plumeria::diskd {

struct DiskServerOptions {
  bool allow_lease_control = false;      // admit and fence for clients; else Errc::not_permitted
  bool snapshots_only = false;           // else than looking at snapshots: Errc::not_permitted
  std::size_t sessions_max = 4096;       // beyond, the one unused for longest is dropped
  std::size_t requests_max = 1u << 14;   // per session: under way, and answers remembered
  std::uint64_t bytes_max = 256u << 20;  // per session: memory of requests under way
  std::size_t queued_max = 256u << 20;   // bytes of answers that a client has not read
  Duration session_idle_max = 600s;      // then a session whose client is gone is dropped
};

struct DiskServerStatus {
  std::uint64_t sessions = 0, requests = 0, repeated = 0, executing = 0;
  std::uint64_t bytes_read = 0, bytes_written = 0;
};

class DiskServer {
 public:
  // Serves from now on. `incarnation`: the store's, larger after each start.
  DiskServer(World world, net::Transport& transport, disk::VirtualDisk& disk,
             std::uint64_t incarnation, DiskServerOptions options);
  ~DiskServer();
  DiskServer(const DiskServer&) = delete;
  DiskServer& operator=(const DiskServer&) = delete;

  // Takes no more requests, and returns when those under way have ended.
  Task<void> stop();
  DiskServerStatus status() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace plumeria::diskd
