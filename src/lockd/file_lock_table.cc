#include "lockd/file_lock_table.h"

#include <algorithm>

#include "base/check.h"

namespace plumeria::lockd {

using lock::FileLockKind;
using lock::FileLockResult;
using lock::Mode;

const FileLock* FileLockTable::conflicting(LeaseNumber from, const FileLock& lock) const {
  auto file = files_.find(file_of(lock));
  if (file == files_.end() || lock.mode == Mode::none) return nullptr;
  const FileLock* first = nullptr;
  for (const auto& [owner, held] : file->second) {
    if (owner == Owner{from, lock.owner}) continue;
    for (const FileLock& other : held) {
      if (!lock::overlap(lock, other) || lock::compatible(lock.mode, other.mode)) continue;
      if (first == nullptr || other.start < first->start) first = &other;
    }
  }
  return first;
}

std::vector<FileLockTable::Owner> FileLockTable::blockers(LeaseNumber from,
                                                          const FileLock& lock) const {
  std::vector<Owner> owners;
  auto file = files_.find(file_of(lock));
  if (file == files_.end()) return owners;
  for (const auto& [owner, held] : file->second) {
    if (owner == Owner{from, lock.owner}) continue;
    const bool blocks = std::any_of(held.begin(), held.end(), [&](const FileLock& other) {
      return lock::overlap(lock, other) && !lock::compatible(lock.mode, other.mode);
    });
    if (blocks) owners.push_back(owner);
  }
  return owners;
}

// Whether somebody whom this call would wait for waits, directly or not, for its owner.
bool FileLockTable::would_deadlock(LeaseNumber from, const FileLock& lock) const {
  const Owner self{from, lock.owner};
  std::set<Owner> seen;
  std::vector<Owner> open = blockers(from, lock);
  while (!open.empty()) {
    const Owner owner = open.back();
    open.pop_back();
    if (owner == self) return true;
    if (!seen.insert(owner).second) continue;
    for (const Waiting& waiting : waiting_) {
      if (waiting.lock.is_flock || Owner{waiting.lease, waiting.lock.owner} != owner) continue;
      for (Owner next : blockers(waiting.lease, waiting.lock)) open.push_back(next);
    }
  }
  return false;
}

void FileLockTable::change(LeaseNumber from, const FileLock& lock) {
  auto file = files_.try_emplace(file_of(lock)).first;
  auto owner = file->second.try_emplace(Owner{from, lock.owner}).first;
  lock::apply(owner->second, lock);
  if (owner->second.empty()) file->second.erase(owner);
  if (file->second.empty()) files_.erase(file);
}

void FileLockTable::finish(LeaseNumber from, const lock::FileLockAnswer& answer, Answers& out) {
  Client& client = clients_[from];
  client.waiting.erase(answer.call);
  client.answered.emplace(answer.call, answer);
  out.push_back({from, answer});
}

void FileLockTable::call(LeaseNumber from, const lock::FileLockCall& call, Answers& out) {
  Client& client = clients_[from];
  client.done_below = std::max(client.done_below, call.done_below);
  client.answered.erase(client.answered.begin(), client.answered.lower_bound(client.done_below));
  if (call.call < client.done_below) return;
  auto answered = client.answered.find(call.call);
  if (answered != client.answered.end()) {
    out.push_back({from, answered->second});
    return;
  }
  if (call.kind == FileLockKind::cancel) {
    cancel(from, call.call, out);
    return;
  }
  if (client.waiting.contains(call.call)) return;
  switch (call.kind) {
    case FileLockKind::set:
      set(from, call, out);
      break;
    case FileLockKind::test: {
      lock::FileLockAnswer answer{call.call, FileLockResult::ok, call.lock};
      const FileLock* other = conflicting(from, call.lock);
      if (other != nullptr) {
        answer.lock = *other;
      } else {
        answer.lock.mode = Mode::none;
      }
      finish(from, answer, out);
      break;
    }
    case FileLockKind::drop:
      drop(from, call.lock);
      finish(from, {call.call, FileLockResult::ok, call.lock}, out);
      wake(file_of(call.lock), out);
      break;
    case FileLockKind::cancel:
      break;
  }
}

void FileLockTable::set(LeaseNumber from, const lock::FileLockCall& call, Answers& out) {
  const FileLock& lock = call.lock;
  // A flock conversion first gives the old lock up, as on Linux.
  if (lock.is_flock) drop(from, lock);
  lock::FileLockAnswer answer{call.call, FileLockResult::ok, lock};
  if (conflicting(from, lock) == nullptr) {
    change(from, lock);
    finish(from, answer, out);
    // An unlock, a downgrade, or a conversion may let others in.
    wake(file_of(lock), out);
    return;
  }
  if (!call.wait) {
    answer.result = FileLockResult::again;
  } else if (!lock.is_flock && would_deadlock(from, lock)) {
    answer.result = FileLockResult::deadlock;
  } else {
    clients_[from].waiting.insert(call.call);
    waiting_.push_back({from, call.call, lock});
    if (lock.is_flock) wake(file_of(lock), out);
    return;
  }
  finish(from, answer, out);
  if (lock.is_flock) wake(file_of(lock), out);
}

void FileLockTable::drop(LeaseNumber from, const FileLock& lock) {
  auto file = files_.find(file_of(lock));
  if (file == files_.end()) return;
  file->second.erase(Owner{from, lock.owner});
  if (file->second.empty()) files_.erase(file);
}

void FileLockTable::cancel(LeaseNumber from, CallNumber call, Answers& out) {
  lock::FileLockAnswer answer{call, FileLockResult::interrupted, {}};
  auto at = std::find_if(waiting_.begin(), waiting_.end(), [&](const Waiting& waiting) {
    return waiting.lease == from && waiting.call == call;
  });
  if (at != waiting_.end()) {
    answer.lock = at->lock;
    waiting_.erase(at);
  }
  finish(from, answer, out);  // Also of a call that is still on its way: it will find this answer.
}

void FileLockTable::wake(File file, Answers& out) {
  for (std::size_t i = 0; i < waiting_.size();) {
    const Waiting waiting = waiting_[i];
    if (file_of(waiting.lock) != file || conflicting(waiting.lease, waiting.lock) != nullptr) {
      ++i;
      continue;
    }
    waiting_.erase(waiting_.begin() + static_cast<std::ptrdiff_t>(i));
    change(waiting.lease, waiting.lock);
    finish(waiting.lease, {waiting.call, FileLockResult::ok, waiting.lock}, out);
    i = 0;  // An owner's own change (exclusive to shared) may let an earlier one in.
  }
}

void FileLockTable::reported(LeaseNumber from, const FileLock& lock) { change(from, lock); }

void FileLockTable::dying(LeaseNumber lease) {
  std::erase_if(waiting_, [lease](const Waiting& waiting) { return waiting.lease == lease; });
  clients_.erase(lease);
}

void FileLockTable::gone(LeaseNumber lease, Answers& out) {
  dying(lease);
  std::vector<File> changed;
  for (auto file = files_.begin(); file != files_.end();) {
    const auto removed = std::erase_if(
        file->second, [lease](const auto& owner) { return owner.first.lease == lease; });
    if (removed > 0) changed.push_back(file->first);
    file = file->second.empty() ? files_.erase(file) : std::next(file);
  }
  for (File file : changed) wake(file, out);
}

std::uint64_t FileLockTable::locks() const {
  std::uint64_t count = 0;
  for (const auto& [file, owners] : files_) {
    for (const auto& [owner, held] : owners) count += held.size();
  }
  return count;
}

void FileLockTable::check_invariants() const {
  for (const auto& [file, owners] : files_) {
    CHECK(!owners.empty());
    for (const auto& [owner, held] : owners) {
      CHECK(!held.empty());
      for (const FileLock& lock : held) CHECK(conflicting(owner.lease, lock) == nullptr);
    }
  }
  for (const Waiting& waiting : waiting_) {
    CHECK(conflicting(waiting.lease, waiting.lock) != nullptr);
    CHECK(clients_.at(waiting.lease).waiting.contains(waiting.call));
  }
}

}  // namespace plumeria::lockd
