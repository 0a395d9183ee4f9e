// Decides who holds which lock (docs/protocol.md, "States of a lock at the server").
//
// A pure state machine: events and the time go in, decisions come out, to be carried out in order.
// It does no I/O and never reads a clock. `now` never goes back.
//
// Invariant   No two holders of one lock conflict. A lease is at most once in a lock, as holder or
//             in the queue. The head of a queue conflicts with a holder (while granting). An entry
//             without holders and queue does not exist.
// Fairness    A request waits behind every earlier one of its lock.
// Fence       Each grant has a number above that of every earlier one.
// Memory      About 150 bytes a lock with one holder; see bytes_per_lock().
#pragma once

#include <absl/container/btree_set.h>
#include <absl/container/flat_hash_map.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "base/time.h"
#include "lock/lease.h"
#include "lock/messages.h"
#include "lock/name.h"

namespace plumeria::lockd {

using lock::LeaseNumber;
using lock::LockName;
using lock::Mode;
using lock::Sequence;

// What the shell is to do for `lease`.
struct Decision {
  enum class Kind : std::uint8_t {
    grant,    // send lock::Grant
    refused,  // send lock::Refused
    revoke,   // send lock::Revoke
    expire,   // the holder did not answer a revoke in time: let its lease run out
  };
  Kind kind = Kind::grant;
  LeaseNumber lease{};
  LockName name;
  Sequence sequence{};
  Mode mode = Mode::none;  // of a grant; what a revoked holder is to keep
  bool is_try = false;
  std::uint64_t round = 0;
  std::uint64_t fence = 0;  // of a grant
};
using Decisions = std::vector<Decision>;

struct LockTableOptions {
  Duration revoke_again_first = 250ms;
  Duration revoke_again_most = 2s;
  Duration revoke_deadline = 60s;
};

class LockTable {
 public:
  explicit LockTable(LockTableOptions options) : options_(options) {}

  // Messages of a live lease.
  void request(TimePoint now, LeaseNumber from, const lock::Request& request, Decisions& out);
  void release(TimePoint now, LeaseNumber from, const lock::Release& release, Decisions& out);
  void keep(TimePoint now, LeaseNumber from, const lock::Keep& keep, Decisions& out);
  // One lock of a rebuild's report. Requires: !granting().
  void reported(LeaseNumber from, const lock::Hold& hold);

  // Until start_granting() requests queue and tries are not answered.
  bool granting() const { return granting_; }
  void start_granting(TimePoint now, Decisions& out);

  // The lease is over: its requests go, its holds stay and are not revoked any more.
  void dying(TimePoint now, LeaseNumber lease, Decisions& out);
  // It has been recovered (or left in peace): its holds go.
  void gone(TimePoint now, LeaseNumber lease, Decisions& out);

  // Repeats revokes, ends tries and holders that were silent too long.
  void tick(TimePoint now, Decisions& out);
  // When tick() has something to do; TimePoint::max() if never.
  TimePoint next_tick() const;

  // The first grant from now on has number `fence` + 1.
  void number_grants_from(std::uint64_t fence) { last_fence_ = fence; }

  // One who holds or waits, as `plumeria locks` tells it.
  struct Party {
    LeaseNumber lease{};
    Mode mode = Mode::none;
    Mode asked_to_keep = Mode::exclusive;  // of a holder: below `mode` if it is being revoked
    std::uint64_t fence = 0;               // of a holder; 0 if it was granted by a server before
    TimePoint since{};                     // likewise
  };
  struct Parties {
    LockName name;
    std::vector<Party> holders, waiters;
  };
  // All locks of this class, by name.
  std::vector<Parties> parties(lock::LockClass of) const;
  bool has(LockName name) const { return entries_.contains(name); }

  std::uint64_t locks() const { return entries_.size(); }
  std::uint64_t waiting() const { return waiting_; }
  std::uint64_t held_by(LeaseNumber lease) const;
  Mode mode_of(LeaseNumber lease, LockName name) const;
  bool waits(LeaseNumber lease, LockName name) const;

  // Aborts if an invariant is broken; walks the whole table.
  void check_invariants() const;
  // Of an entry with one holder and no queue, without the hash table's free places.
  static std::size_t bytes_per_lock();

 private:
  struct Holder {
    LeaseNumber lease{};
    Sequence sequence{};
    Mode mode = Mode::none;
    Mode asked_to_keep = Mode::exclusive;  // below `mode`: in transition
    std::uint64_t fence = 0;
    TimePoint since{};
    bool in_transition() const { return asked_to_keep < mode; }
  };
  struct Waiter {
    LeaseNumber lease{};
    Sequence sequence{};
    Mode mode = Mode::none;
    bool is_try = false;
    TimePoint since{};
  };
  // What only a contended lock needs.
  struct Contention {
    std::vector<Waiter> queue;
    // While a holder is in transition:
    TimePoint first_revoke{}, again_at = TimePoint::max();
    Duration again_after{};
    std::uint64_t round = 0;  // of the try at the head whose holders are asked; else 0
  };
  struct Entry {
    std::vector<Holder> holders;  // by lease
    std::unique_ptr<Contention> contention;
  };

  Holder* find_holder(Entry& entry, LeaseNumber lease);
  Waiter* find_waiter(Entry& entry, LeaseNumber lease);
  Contention& contention_of(Entry& entry);
  void add_holder(Entry& entry, const Holder& holder);
  void remove_holder(Entry& entry, LeaseNumber lease);
  void remove_waiter(Entry& entry, LeaseNumber lease);
  void forget_question(Entry& entry);
  void repeat_answer(const Entry& entry, const Holder& holder, LockName name, Decisions& out);
  bool conflicts(const Entry& entry, const Waiter& waiter) const;
  void settle(TimePoint now, LockName name, Decisions& out);
  void grant(TimePoint now, Entry& entry, LockName name, const Waiter& to, Decisions& out);
  void grant_head(TimePoint now, Entry& entry, LockName name, Decisions& out);
  void revoke_for_head(TimePoint now, LockName name, Entry& entry, Decisions& out);
  void refuse_head(Entry& entry, LockName name, Decisions& out);
  void end_transition_if_over(LockName name, Entry& entry);
  void schedule(LockName name, Contention& contention, TimePoint at);
  void tick_entry(TimePoint now, LockName name, Entry& entry, Decisions& out);
  std::vector<LockName> names_with(LeaseNumber lease) const;
  void check_entry(LockName name, const Entry& entry) const;

  LockTableOptions options_;
  absl::flat_hash_map<LockName, Entry> entries_;  // its order never decides anything
  absl::btree_set<std::pair<TimePoint, LockName>> timers_;
  absl::btree_set<LeaseNumber> dying_;
  absl::flat_hash_map<LeaseNumber, std::uint64_t> held_;
  std::uint64_t waiting_ = 0;
  std::uint64_t last_round_ = 0, last_fence_ = 0;
  bool granting_ = false;
};

}  // namespace plumeria::lockd
