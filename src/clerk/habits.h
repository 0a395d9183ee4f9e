// What a clerk remembers of locks that others have taken from it: who uses a lock as it did before
// is served better when it comes back.
//
// A guess and no more: nothing depends on it but time. Bounded; the oldest are forgotten.
#pragma once

#include <absl/container/flat_hash_map.h>

#include <cstddef>
#include <deque>

#include "base/time.h"
#include "lock/name.h"

namespace plumeria::clerk {

struct Habit {
  Duration usual_gap{};  // between uses, while it was held
  // It was written under, then taken by somebody who wants to write: it migrates (adaptive
  // detection of migratory sharing: Stenström, Brorsson, Sandberg, ISCA'93). Whoever reads first
  // will write next, so asking for shared would only make the lock change hands twice.
  bool migrates = false;
};

class Habits {
 public:
  explicit Habits(std::size_t limit) : limit_(limit) {}

  Habit of(lock::LockName name) const {
    const auto found = habits_.find(name);
    return found == habits_.end() ? Habit{} : found->second;
  }
  void remember(lock::LockName name, Habit habit) {
    const auto [at, is_new] = habits_.insert_or_assign(name, habit);
    if (!is_new) return;
    order_.push_back(name);
    if (order_.size() <= limit_) return;
    habits_.erase(order_.front());
    order_.pop_front();
  }

 private:
  const std::size_t limit_;
  absl::flat_hash_map<lock::LockName, Habit> habits_;
  std::deque<lock::LockName> order_;  // of their first remembering
};

}  // namespace plumeria::clerk
