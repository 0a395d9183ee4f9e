// The lock server: who holds which lock, which leases live, who recovers whom (docs/protocol.md,
// "The lock service").
//
// A thin shell around pure state machines (lock table, file locks, leases): it receives messages
// from clerks, keeps the table of leases in the store's register "view" by compare-and-swap, admits
// and fences leases at the disk, and has dead logs replayed.
//
// Threads: the executor's. Ownership: borrows everything; the recoverer outlives it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/task.h"
#include "base/world.h"
#include "disk/disk.h"
#include "lock/lease.h"
#include "lock/name.h"
#include "lock/program_name.h"
#include "net/transport.h"

namespace plumeria::lockd {

using lock::LeaseNumber;

// Replays the log of a slot whose lease is expired and fenced. Idempotent. An error freezes the
// locks of that lease and is retried.
class Recoverer {
 public:
  virtual ~Recoverer() = default;
  virtual Task<Status> recover(LeaseNumber dead, std::uint32_t slot) = 0;
};

struct LockServerOptions {
  Duration lease_duration = 10s;
  // Greatest ratio of the speeds of two clocks, above 1, in thousandths: 1010 is 1 %.
  std::uint32_t clock_ratio_milli = 1010;
  Duration revoke_deadline = 60s;  // then the holder's lease is not renewed any more
  bool in_process = false;         // this server's clerks live and die with it (embedded mount)
};

struct LeaseStatus {
  LeaseNumber lease{};
  std::string state;  // live, expired, recovering
  std::string label;
  std::uint32_t slot = 0;
  Duration left{};  // until it expires, if live
  std::uint64_t locks = 0;
};
struct LockServerStatus {
  std::uint64_t epoch = 0;
  bool rebuilding = false;
  LeaseNumber own_lease{};
  std::vector<LeaseStatus> leases;
  std::uint64_t locks = 0, waiting = 0, grants = 0, revokes = 0, expired = 0, recovered = 0;
};

// Who holds or waits for a lock of programs.
struct ProgramParty {
  LeaseNumber lease{};
  std::string label;
  lock::Mode mode = lock::Mode::none;
  bool is_asked = false;    // a holder that others wait for
  std::uint64_t fence = 0;  // of a holder; 0: granted by a server before this one
  Duration since{};         // ago
};
struct ProgramLock {
  lock::ProgramName name;
  std::vector<ProgramParty> holders, waiters;  // who waits, in the order of service
};

class LockServer {
 public:
  LockServer(World world, net::Transport& transport, disk::VirtualDisk& disk, Recoverer& recoverer,
             LockServerOptions options);
  ~LockServer();
  LockServer(const LockServer&) = delete;
  LockServer& operator=(const LockServer&) = delete;

  // Reads the view (creating it in a new store), gets itself a lease, raises the epoch and makes
  // both durable. Clerks are not served yet: the caller replays what must be replayed first, with
  // own_lease().
  Task<Status> prepare();
  LeaseNumber own_lease() const;
  // The slots of all leases that the view records as not yet gone, and of these the ones that
  // surely have no living owner (in-process clerks of a former process; leases already expired).
  std::vector<std::uint32_t> slots_in_use() const;
  std::vector<std::uint32_t> slots_of_the_dead() const;
  // The caller has replayed and trimmed these: they are gone (compare-and-swap), their slots free.
  Task<Status> mark_recovered(std::vector<std::uint32_t> slots);

  // Serves clerks from now on. Leases that were live are given one lease duration to report what
  // they hold (rebuild); nothing is granted before every one has, or is expired and recovered.
  void serve();

  // Stops serving; the own lease is given up.
  Task<Status> stop();

  LockServerStatus status() const;
  // All locks of programs that somebody holds or waits for, by table and name.
  std::vector<ProgramLock> program_locks() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace plumeria::lockd
