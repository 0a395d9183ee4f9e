#include "tests/stress/fake_locks.h"

#include <algorithm>

#include "base/number.h"

namespace plumeria::fake {

namespace {

LockName name_of(std::uint64_t inode) { return {lock::LockClass::inode, inode}; }

}  // namespace

MountLocks::MountLocks(World world, LockServer& server, mount::KernelCache& kernel, Giver& giver)
    : world_(world), server_(server), kernel_(kernel), giver_(giver), changed_(world.executor) {}

bool MountLocks::fits(const Lock& lock, Mode mode) const {
  if (!lock::covers(lock.held, mode) || lock.exclusive_pin) return false;
  return mode == Mode::shared || lock.shared_pins == 0;
}

bool MountLocks::revoking(std::uint64_t inode) const {
  const auto found = locks_.find(inode);
  return found != locks_.end() && found->second.revoking;
}

Pin MountLocks::try_local(std::uint64_t inode, Mode mode) {
  const auto found = locks_.find(inode);
  if (found == locks_.end()) return {};
  Lock& lock = found->second;
  if (lock.revoking || !lock.waiters.empty() || !fits(lock, mode)) return {};
  (mode == Mode::shared) ? void(++lock.shared_pins) : void(lock.exclusive_pin = true);
  return Pin(this, name_of(inode), mode);
}

Task<Pin> MountLocks::acquire(std::uint64_t inode, Mode mode) {
  Pin pin = try_local(inode, mode);
  if (pin) co_return pin;
  Promise<bool> promise(world_.executor);
  auto future = promise.future();
  Waiter waiter{next_ticket_++, mode, promise};
  locks_[inode].waiters.push_back(std::move(waiter));
  serve(inode);
  co_await future;
  co_return Pin(this, name_of(inode), mode);
}

void MountLocks::unpin(LockName name, Mode mode) {
  Lock& lock = locks_[name.number];
  if (mode == Mode::shared) {
    CHECK(lock.shared_pins > 0);
    --lock.shared_pins;
  } else {
    CHECK(lock.exclusive_pin);
    lock.exclusive_pin = false;
  }
  serve(name.number);
  changed_.notify_all();
}

void MountLocks::serve(std::uint64_t inode) {
  Lock& lock = locks_[inode];
  while (!lock.waiters.empty()) {
    Waiter& first = lock.waiters.front();
    if (lock.revoking && first.ticket > lock.revoke_ticket) return;
    if (fits(lock, first.mode)) {
      (first.mode == Mode::shared) ? void(++lock.shared_pins) : void(lock.exclusive_pin = true);
      first.granted.set(true);
      lock.waiters.pop_front();
      continue;
    }
    if (!lock::covers(lock.held, first.mode) && !lock.revoking && !lock.requesting) {
      lock.requesting = true;
      tasks_.spawn(request(inode, first.mode));
    }
    return;
  }
}

Task<void> MountLocks::request(std::uint64_t inode, Mode mode) {
  // From shared to exclusive: give up, then queue.
  if (locks_[inode].held != Mode::none) {
    const std::uint64_t grant = locks_[inode].grant;
    co_await revoke(inode, Mode::none, grant);
    server_.released(inode, Mode::none, grant);
  }
  co_await server_.acquire(this, inode, mode);
  locks_[inode].requesting = false;
  serve(inode);
  changed_.notify_all();
}

Task<void> MountLocks::revoke(std::uint64_t inode, Mode keep, std::uint64_t grant) {
  Lock& lock = locks_[inode];
  while (lock.revoking) co_await changed_.next();
  if (lock.grant != grant || lock.held <= keep) co_return;
  lock.revoking = true;
  lock.keep = keep;
  lock.revoke_ticket = next_ticket_++;
  kernel_.hold(fs::InodeNumber{inode});
  for (;;) {
    const bool pinned = lock.exclusive_pin || (keep == Mode::none && lock.shared_pins > 0);
    const bool to_serve = !lock.waiters.empty() &&
                          lock.waiters.front().ticket < lock.revoke_ticket &&
                          lock::covers(lock.held, lock.waiters.front().mode);
    if (!pinned && !to_serve) break;
    co_await changed_.next();
  }
  co_await kernel_.drop(fs::InodeNumber{inode}, giver_.what_to_drop(inode, lock.held, keep));
  lock.held = keep;
  lock.revoking = false;
  kernel_.release(fs::InodeNumber{inode});
  serve(inode);
  changed_.notify_all();
}

void MountLocks::print(std::FILE* to) const {
  for (const auto& [inode, lock] : locks_) {
    if (lock.waiters.empty() && !lock.requesting && !lock.revoking && lock.shared_pins == 0 &&
        !lock.exclusive_pin) {
      continue;
    }
    std::fprintf(to, "  inode %lu: held %s grant %lu, pins %u%s,%s%s waiters", inode,
                 lock::mode_name(lock.held), lock.grant, lock.shared_pins,
                 lock.exclusive_pin ? " exclusive" : "", lock.requesting ? " requesting," : "",
                 lock.revoking ? " revoking," : "");
    for (const Waiter& waiter : lock.waiters) {
      std::fprintf(to, " %s@%lu", lock::mode_name(waiter.mode), waiter.ticket);
    }
    std::fprintf(to, " (revoke@%lu)\n", lock.revoke_ticket);
  }
}

// ---- the server

void LockServer::print(std::FILE* to) const {
  for (const auto& [inode, entry] : entries_) {
    if (entry.queue.empty()) continue;
    std::fprintf(to, "  inode %lu: holders", inode);
    for (const Holder& holder : entry.holders) {
      std::fprintf(to, " %p %s grant %lu%s", static_cast<void*>(holder.who),
                   lock::mode_name(holder.mode), holder.grant,
                   holder.being_revoked ? " being revoked" : "");
    }
    std::fprintf(to, "; queue");
    for (const Request& request : entry.queue) {
      std::fprintf(to, " %p %s", static_cast<void*>(request.who), lock::mode_name(request.mode));
    }
    std::fprintf(to, "\n");
  }
}

Task<void> LockServer::message() {
  if (latency_max_ == Duration::zero()) co_return;
  const auto time = world_.random.below(static_cast<std::uint64_t>(latency_max_.count()) + 1);
  co_await sleep_for(world_, Duration(static_cast<std::int64_t>(time)));
}

Task<void> LockServer::acquire(MountLocks* who, std::uint64_t inode, Mode mode) {
  co_await message();
  Promise<bool> promise(world_.executor);
  auto future = promise.future();
  Request request{who, mode, promise};
  entries_[inode].queue.push_back(std::move(request));
  serve(inode);
  co_await future;
}

void LockServer::serve(std::uint64_t inode) {
  Entry& entry = entries_[inode];
  while (!entry.queue.empty()) {
    Request& first = entry.queue.front();
    const Mode keep = first.mode == Mode::shared ? Mode::shared : Mode::none;
    bool conflict = false;
    for (Holder& holder : entry.holders) {
      if (holder.who == first.who || lock::compatible(holder.mode, first.mode)) continue;
      conflict = true;
      if (std::exchange(holder.being_revoked, true)) continue;
      tasks_.spawn(revoke(holder.who, inode, keep, holder.grant));
    }
    if (conflict) return;
    const std::uint64_t grant = next_grant_++;
    entry.holders.push_back({first.who, first.mode, grant, false});
    // At once, so that no revoke overtakes this grant.
    first.who->locks_[inode].held = first.mode;
    first.who->locks_[inode].grant = grant;
    first.granted.set(true);
    entry.queue.pop_front();
  }
}

Task<void> LockServer::revoke(MountLocks* holder, std::uint64_t inode, Mode keep,
                              std::uint64_t grant) {
  ++revokes;
  co_await message();
  co_await holder->revoke(inode, keep, grant);
  co_await message();
  released(inode, keep, grant);
}

void LockServer::released(std::uint64_t inode, Mode keep, std::uint64_t grant) {
  Entry& entry = entries_[inode];
  std::erase_if(entry.holders, [&](Holder& holder) {
    if (holder.grant != grant) return false;
    holder.mode = std::min(holder.mode, keep);
    holder.being_revoked = false;
    return holder.mode == Mode::none;
  });
  serve(inode);
}

}  // namespace plumeria::fake
