// The clerk: a mount's side of the lock service. It keeps granted locks until somebody else wants
// them, hands them to the local operations that ask, and keeps the lease (docs/protocol.md, "The
// lock service"; Calypso, Frangipani §6).
//
// Two levels. Globally this client holds each lock in some Mode, granted by the lock server and
// kept ("sticky"). Locally any number of operations hold Pins: many shared, or one exclusive, first
// come first served. An operation pins every lock it needs, in the order of LockName, works, and
// drops the pins (two-phase). It pins a lock once, and waits only while every pin it holds compares
// smaller than the one it asks for.
//
// Revoke, in this order, for one lock:
//   1. The server's revoke arrives. Local operations may go on to pin for as long as the lock is
//      busy, up to `linger_max`; operations that waited for a grant which the revoke overtook are
//      served first.
//   2. handler.revoke_begins(name, keep), synchronously; from now on new pins that conflict with
//      `keep` wait until the lock is granted anew.
//   3. Existing conflicting pins drain.
//   4. co_await handler.give_up(name, keep): kernel invalidation and write-back. No pin conflicts
//      now; the lock still counts as held globally, and the handler may serve requests under it.
//   5. The release or downgrade is sent, handler.revoke_ended(name, keep) is called, waiting local
//      requests ask the server again.
// The clerk gives up its own shared hold the same way before it asks for exclusive. A revoke to
// none that comes during 2 to 4 of a downgrade follows after it as a second one.
//
// The lease is counted from before the renewal was sent. When it cannot be renewed in time the
// clerk is *suspended*: pins are not given, handler.suspended() runs before the deadline,
// everything is kept; on success handler.resumed(), maybe while suspended() still runs. It is
// *lost* only when the server says so, or the disk does (declare_lost): handler.lost(); from then
// on every call returns Errc::lost. Pins that were given before stay with their owners until
// dropped.
//
// Threads: the executor's. Ownership: the clerk outlives its pins and tasks, unless the executor
// was stopped; one transport end serves one clerk at a time. Errors: Errc::lost, unavailable (never
// for a wait: waits last as long as the outage), again (a refused try), shut_down (after leave()).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/task.h"
#include "base/world.h"
#include "clerk/pin.h"
#include "lock/file_locks.h"
#include "lock/lease.h"
#include "lock/name.h"
#include "lock/program_name.h"
#include "net/transport.h"

namespace plumeria::clerk {

using lock::LeaseNumber;
using lock::LockName;
using lock::Mode;

class Clerk;

// What the mount does when locks go. All calls come from the executor's thread.
class RevokeHandler {
 public:
  virtual ~RevokeHandler() = default;
  // Step 2 above; must not wait.
  virtual void revoke_begins(LockName name, Mode keep) = 0;
  // Step 4. `keep` is shared (a downgrade) or none. After it nothing that the lock covered may be
  // cached beyond `keep`, and everything dirty under it is durable. It cannot fail:
  // a mount that cannot write back waits until the lease is lost.
  virtual Task<void> give_up(LockName name, Mode keep) = 0;
  // Step 5. The global mode is `keep` now.
  virtual void revoke_ended(LockName name, Mode keep) = 0;
  // A try of another client asks for this lock. False: refuse it (an open file; the duty to reclaim
  // is then this mount's). Asked only for LockClass::open; other classes refuse a try
  // while they hold a conflicting mode.
  virtual bool may_take(LockName name) = 0;

  // The lease could not be renewed and `deadline` comes: drop what the kernel caches before it
  // (a process that was stopped may come too late).
  virtual Task<void> suspended(TimePoint deadline) = 0;
  virtual void resumed() = 0;
  virtual void lost(std::string_view reason) = 0;
};

using lock::FileLock;  // State lives at the lock server.

// Told of each lock as it is granted, before any operation uses it: for tests and checkers.
class GrantObserver {
 public:
  virtual void granted(LockName name, Mode mode) = 0;

 protected:
  ~GrantObserver() = default;
};

struct ClerkOptions {
  std::string label;             // host:directory, for status and messages
  bool has_log = true;           // gets a log slot: a mount, and not a program
  Duration linger_idle = 200us;  // see docs/protocol.md, "Linger"
  Duration linger_max = 25ms;
  std::uint64_t locks_max = 1'000'000;  // beyond it unused locks are given back, oldest first
  GrantObserver* observer = nullptr;    // outlives the clerk
};

// What joining tells.
struct Membership {
  LeaseNumber lease{};
  std::uint32_t slot = 0;  // the log slot of this lease
  Duration lease_duration{};
  std::int64_t wall_offset = 0;  // ns to add to this machine's wall clock to get the store's time
};

struct ClerkStatus {
  Membership membership;
  bool suspended = false, lost = false;
  std::uint64_t locks_shared = 0, locks_exclusive = 0;
  // Locks given up wholly, and to shared, at whoever's wish.
  std::uint64_t revokes = 0, downgrades = 0, requests = 0, local_hits = 0, messages_sent = 0,
                messages_received = 0;
  Duration lease_left{};
};

class Clerk final : public PinOwner {
 public:
  // `server` is a peer of `transport`. The handler is set before join() and outlives the clerk's
  // last task.
  Clerk(World world, net::Transport& transport, net::PeerId server, ClerkOptions options);
  ~Clerk();
  Clerk(const Clerk&) = delete;
  Clerk& operator=(const Clerk&) = delete;

  void set_handler(RevokeHandler* handler);

  // Gets a lease; retried until it answers or `give_up_after` has passed (Errc::unavailable, with
  // the last error).
  Task<Result<Membership>> join(Duration give_up_after);
  // Gives everything back without calling the handler (the mount has written back and stopped) and
  // ends the lease in peace.
  Task<Status> leave();
  // The disk has refused a write of this lease: it is over, as if the server had said so.
  void declare_lost(std::string reason);

  // Returns when no call of the handler is running. Once the lease is lost none begins any more, so
  // the clerk may be destroyed then, and another one take its place, while the executor goes on.
  Task<void> settled();
  // Destroys the calls of the handler that are running, before what they use is destroyed. Only
  // when nothing can resume them any more (TaskScope in base/task.h): the end of a process.
  void abandon_calls();

  // Waits for the lock as long as it takes. The fast path (already held, no conflict) does not
  // suspend and sends nothing.
  Task<Result<Pin>> acquire(LockName name, Mode mode);
  // The same for a caller that giving the lock up may have to wait for (a request that holds pages
  // in the kernel): Errc::again as soon as a revoke has begun, or this clerk gives up its shared
  // hold to ask for exclusive, before the pin could be given. To be repeated after revoke_ended.
  Task<Result<Pin>> acquire_unless_revoked(LockName name, Mode mode);
  // Held already and free of local conflict and of a revoke in progress: a pin, else nothing. Never
  // waits or sends: the way to take a lock out of order.
  std::optional<Pin> try_local(LockName name, Mode mode);
  // The same for a mount that makes its kernel forget because the lease runs out: a suspended clerk
  // gives such pins until the deadline, and before those who wait.
  std::optional<Pin> try_local_to_forget(LockName name, Mode mode);
  // Asks the server if need be, but never makes another client give up a lock (except class open,
  // see may_take). Errc::again if refused.
  Task<Result<Pin>> try_acquire(LockName name, Mode mode);
  // Asks for all of these without waiting for one after the other, in as few messages as possible,
  // as tries; the number granted is returned. Later try_local() finds them. For the locks of free
  // inodes.
  Task<std::size_t> prefetch(std::vector<LockName> names, Mode mode);
  // Gives an idle lock back (in the background, with the handler called as for a revoke to none).
  void give_back(LockName name);

  // The lock that this name is. The server is told the name with each request, for those who ask.
  LockName program_lock(const lock::ProgramName& name);
  // The number of the grant that is held: above those of all grants before it, of whatever lock and
  // client of this store. 0: nothing is held.
  std::uint64_t fence(LockName name) const;
  // The global mode held now (whatever a revoke is about to do to it).
  Mode held(LockName name) const;
  // True from revoke_begins to revoke_ended.
  bool revoking(LockName name) const;
  // True while the handler gives the lock up: no pin conflicts with what will be kept.
  bool giving_up(LockName name) const;

  // File locks. set_file_lock waits when `wait`, until granted or cancelled: Errc::again (no wait),
  // deadlock, interrupted. `request` names a waiting call for cancel_file_lock; it is unique among
  // those waiting.
  Task<Status> set_file_lock(FileLock lock, bool wait, std::uint64_t request);
  void cancel_file_lock(std::uint64_t request);
  // The first conflicting lock, or mode none.
  Task<Result<FileLock>> test_file_lock(FileLock lock);
  // All locks of this owner on this inode (close of a descriptor).
  Task<Status> drop_file_locks(std::uint64_t inode, bool is_flock, std::uint64_t owner);

  const Membership& membership() const;
  bool usable() const;  // neither suspended nor lost
  // The deadline has not come: what is held is surely still ours.
  bool lasts() const;
  ClerkStatus status() const;

 private:
  void unpin(LockName name, Mode mode) override;
  bool holds() const override;

  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace plumeria::clerk
