// Locks for the file system in memory that the kernel protocol is tried on: one lock an inode, held
// by mounts, pinned by operations, given up in exactly the steps that clerk/clerk.h promises.
//
// Every mount's part and the server's part live in one process and on one executor; messages
// between them take a random time, so that things meet.
#pragma once

#include <cstdio>
#include <deque>
#include <map>
#include <memory>
#include <vector>

#include "base/async.h"
#include "clerk/clerk.h"
#include "mount/kernel_cache.h"

namespace plumeria::fake {

using clerk::Pin;
using lock::LockName;
using lock::Mode;

class LockServer;

// What the file system of a mount tells the kernel to forget when it gives a lock up.
class Giver {
 public:
  virtual ~Giver() = default;
  virtual mount::What what_to_drop(std::uint64_t inode, Mode held, Mode keep) = 0;
};

class MountLocks final : public clerk::PinOwner {
 public:
  MountLocks(World world, LockServer& server, mount::KernelCache& kernel, Giver& giver);

  Task<Pin> acquire(std::uint64_t inode, Mode mode);
  // Out of order: only what is there already.
  Pin try_local(std::uint64_t inode, Mode mode);
  bool revoking(std::uint64_t inode) const;

  void unpin(LockName name, Mode mode) override;
  bool holds() const override { return true; }
  void print(std::FILE* to) const;  // what is not idle

 private:
  friend class LockServer;
  struct Waiter {
    std::uint64_t ticket;
    Mode mode;
    Promise<bool> granted;
  };
  struct Lock {
    Mode held = Mode::none;
    std::uint64_t grant = 0;  // the server's number of it
    std::uint32_t shared_pins = 0;
    bool exclusive_pin = false;
    std::deque<Waiter> waiters;
    bool requesting = false;
    bool revoking = false;
    Mode keep = Mode::none;
    std::uint64_t revoke_ticket = 0;  // who waited before it is served before it
  };

  bool fits(const Lock& lock, Mode mode) const;
  void serve(std::uint64_t inode);
  Task<void> request(std::uint64_t inode, Mode mode);
  // Only if it is still that grant which is held.
  Task<void> revoke(std::uint64_t inode, Mode keep, std::uint64_t grant);

  World world_;
  LockServer& server_;
  mount::KernelCache& kernel_;
  Giver& giver_;
  std::map<std::uint64_t, Lock> locks_;
  std::uint64_t next_ticket_ = 1;
  Event changed_;
  TaskScope tasks_;
};

class LockServer {
 public:
  LockServer(World world, Duration latency_max) : world_(world), latency_max_(latency_max) {}

  // Returns when `who` holds `mode`.
  Task<void> acquire(MountLocks* who, std::uint64_t inode, Mode mode);
  void released(std::uint64_t inode, Mode keep, std::uint64_t grant);
  Task<void> message();  // the time that one takes
  void print(std::FILE* to) const;

  std::uint64_t revokes = 0;

 private:
  struct Request {
    MountLocks* who;
    Mode mode;
    Promise<bool> granted;
  };
  struct Holder {
    MountLocks* who;
    Mode mode;
    std::uint64_t grant;
    bool being_revoked;
  };
  struct Entry {
    std::vector<Holder> holders;  // in the order in which they came
    std::deque<Request> queue;
  };
  void serve(std::uint64_t inode);
  Task<void> revoke(MountLocks* holder, std::uint64_t inode, Mode keep, std::uint64_t grant);

  World world_;
  std::uint64_t next_grant_ = 1;
  const Duration latency_max_;
  std::map<std::uint64_t, Entry> entries_;
  TaskScope tasks_;
};

}  // namespace plumeria::fake
