// Decides what a clerk does with its locks (docs/protocol.md, "States of a lock at the clerk").
//
// A pure state machine: local calls, messages and the time go in, effects come out, to be carried
// out in order before anything else is done with the clerk. It does no I/O and never reads a clock.
//
// Invariant   Pins of one lock do not conflict, and are covered by the mode held. While a lock is
//             given up no pin conflicts with what is kept. At most one request of a lock is
//             outstanding, and only while nothing is held.
#pragma once

#include <absl/container/btree_set.h>
#include <absl/container/flat_hash_map.h>

#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "base/time.h"
#include "clerk/habits.h"
#include "lock/messages.h"
#include "lock/name.h"

namespace plumeria::clerk {

using lock::LockName;
using lock::Mode;
using lock::Sequence;

enum class WaiterId : std::uint64_t { none = 0 };
enum class PrefetchId : std::uint64_t { none = 0 };

struct Effect {
  enum class Kind : std::uint8_t {
    send_request,   // name, sequence, mode, is_try
    send_release,   // name, sequence, mode: what is kept
    send_keep,      // name, sequence, round
    ask_may_take,   // name, sequence, round: the shell answers with may_take()
    revoke_begins,  // name, mode: what will be kept
    give_up,        // name, mode: run the handler, then call given_up()
    revoke_ended,   // name, mode: what is kept
    granted,        // waiter: it has its pin
    refused,        // waiter: its try was refused
    lost,           // waiter: the lease is gone
    prefetched,     // prefetch, count: all answered, so many granted
  };
  Kind kind = Kind::send_request;
  LockName name;
  Mode mode = Mode::none;
  bool is_try = false;
  Sequence sequence{};
  std::uint64_t round = 0;  // also the count of `prefetched`
  WaiterId waiter{};
  PrefetchId prefetch{};
};
using Effects = std::vector<Effect>;

struct ClerkCoreOptions {
  Duration linger_idle = 200us;
  Duration linger_idle_max = 2ms;
  Duration linger_least = 5ms;  // if it stays busy
  Duration linger_max = 25ms;
  std::uint64_t locks_max = 1'000'000;
  Duration request_again = 250ms;  // then 500 ms, …
  Duration request_again_most = 2s;
};

class ClerkCore {
 public:
  explicit ClerkCore(ClerkCoreOptions options);
  ~ClerkCore();

  // Whether pins may be given: false before joining, while suspended, and after lose().
  void set_usable(TimePoint now, bool usable, Effects& out);
  // The lease is over: everybody who waits is told, and everything later fails.
  void lose(Effects& out);
  bool is_lost() const { return lost_; }

  // Pins if the lock is held, free of conflict and not on its way out, and nobody waits before us.
  // Requires: the lease is usable.
  bool try_pin(TimePoint now, LockName name, Mode mode);
  // The same, also while suspended, and before those who wait. Requires: the lease lasts.
  bool try_pin_first(TimePoint now, LockName name, Mode mode);
  // Queues behind those who wait. Requires: !is_lost(). Answered by an effect, maybe at once.
  WaiterId acquire(TimePoint now, LockName name, Mode mode, Effects& out);
  // The same, but refused as soon as what is held is being given up before the pin could be given:
  // the give-up may be waiting for the caller.
  WaiterId acquire_unless_revoked(TimePoint now, LockName name, Mode mode, Effects& out);
  // The same, but refused rather than waiting for somebody else.
  WaiterId try_acquire(TimePoint now, LockName name, Mode mode, Effects& out);
  PrefetchId prefetch(TimePoint now, const std::vector<LockName>& names, Mode mode, Effects& out);
  void unpin(TimePoint now, LockName name, Mode mode, Effects& out);
  // Whether unpin() will look at the time and may have effects: spares the clock otherwise.
  bool unpin_matters(LockName name) const;
  void give_back(TimePoint now, LockName name, Effects& out);

  // Messages of this clerk's server and epoch.
  void grant(TimePoint now, const lock::Grant& grant, Effects& out);
  void refused(TimePoint now, const lock::Refused& refused, Effects& out);
  void revoke(TimePoint now, const lock::Revoke& revoke, Effects& out);
  // Answers of the shell.
  void may_take(TimePoint now, LockName name, Sequence sequence, std::uint64_t round, bool may,
                Effects& out);
  void given_up(TimePoint now, LockName name, Effects& out);

  std::vector<lock::Hold> holds() const;
  // The server was replaced: what is held, for the report; remembered revokes are void.
  std::vector<lock::Hold> rejoin();
  // Everything that waits for the server asks again (a connection was made, a rebuild is over).
  void ask_again(TimePoint now, Effects& out);

  void tick(TimePoint now, Effects& out);
  TimePoint next_tick() const;

  Mode held(LockName name) const;
  std::uint64_t fence(LockName name) const;  // of the grant that is held; 0: none
  bool revoking(LockName name) const;
  bool giving_up(LockName name) const;  // the handler runs; no pin conflicts with what is kept
  std::uint64_t held_shared() const { return held_shared_; }
  std::uint64_t held_exclusive() const { return held_exclusive_; }
  std::size_t entries() const { return entries_.size(); }
  // Aborts if an invariant is broken; walks everything.
  void check_invariants() const;
  // Local holds, for tests.
  std::uint32_t shared_pins(LockName name) const;
  bool exclusive_pin(LockName name) const;

 private:
  struct Entry {
    enum class Stage : std::uint8_t { none, lingering, draining, giving_up };
    struct Waiter {
      WaiterId id{};
      Mode mode = Mode::none;
      bool is_try = false;
      bool leaves_at_revoke = false;
    };

    LockName name;
    Mode held = Mode::none;
    Mode asked = Mode::none;  // of the outstanding request
    bool asked_try = false;
    Stage stage = Stage::none;
    Mode keep = Mode::none;                  // what the revoke under way leaves
    Mode remembered_keep = Mode::exclusive;  // below exclusive: a revoke that runs later
    bool touched = false;                    // pinned since it was last looked at for giving back
    std::uint32_t shared_pins = 0;
    std::uint32_t exclusive_pins = 0;  // above 1 only if lock::shared_within_client()
    Sequence sequence{};               // of the grant that is held, or of the outstanding request
    std::uint64_t fence = 0;           // of the grant that is held
    TimePoint last_used{};
    Duration usual_gap{};  // between uses, while it is held
    bool used_since_grant = false;
    bool written_since_grant = false;
    bool taken = false;  // somebody else has revoked it since the grant
    TimePoint give_up_began{};
    TimePoint linger_due = TimePoint::max(), linger_until{};
    TimePoint ask_again_at = TimePoint::max();
    Duration ask_again_after{};
    PrefetchId prefetch{};  // that the outstanding request belongs to
    std::vector<Waiter> waiters;
    Entry* older = nullptr;
    Entry* newer = nullptr;

    bool idle() const { return shared_pins == 0 && exclusive_pins == 0 && waiters.empty(); }
  };

  Entry* find(LockName name) const;
  static bool needs_advance(const Entry& entry);
  static Effect about(Effect::Kind kind, const Entry& entry, Mode mode);
  static Effect to_waiter(Effect::Kind kind, const Entry& entry, const Entry::Waiter& waiter);
  Entry& find_or_make(LockName name);
  void erase(Entry& entry);
  void append(Entry& entry);
  void unlink(Entry& entry);
  void set_held(Entry& entry, Mode mode);
  bool can_pin(const Entry& entry, Mode mode) const;
  void pin(TimePoint now, Entry& entry, Mode mode);
  void serve_waiters(TimePoint now, Entry& entry, Effects& out);
  void advance(TimePoint now, Entry& entry, Effects& out);
  void request(TimePoint now, Entry& entry, Mode mode, bool is_try, Effects& out);
  void answered(Entry& entry, bool granted, Effects& out);
  void start_revoke(TimePoint now, Entry& entry, Mode keep, Effects& out);
  void begin_give_up(TimePoint now, Entry& entry, Mode keep, Effects& out);
  void give_up_if_drained(TimePoint now, Entry& entry, Effects& out);
  void set_linger(Entry& entry, TimePoint due);
  Duration linger_idle(const Entry& entry) const;
  Duration linger_longest() const;
  void linger_tick(TimePoint now, Entry& entry, Effects& out);
  void refuse_those_who_leave(Entry& entry, Effects& out);
  void count_prefetched(PrefetchId id, bool granted, Effects& out);
  void evict(TimePoint now, Effects& out);

  ClerkCoreOptions options_;
  bool usable_ = false, lost_ = false;
  absl::flat_hash_map<LockName, std::unique_ptr<Entry>> entries_;
  // All entries, roughly from the least recently used on; their order is that of calls, so it is
  // the same in every run.
  Entry* oldest_ = nullptr;
  Entry* newest_ = nullptr;
  absl::btree_set<LockName> outstanding_;                           // with a request outstanding
  absl::btree_set<std::pair<TimePoint, LockName>> request_timers_;  // of these
  absl::btree_set<std::pair<TimePoint, LockName>> linger_timers_;
  struct Prefetch {
    std::size_t left = 0, granted = 0;
  };
  std::map<PrefetchId, Prefetch> prefetches_;
  Habits habits_{1024};
  Duration give_up_cost_{};  // of late, of an exclusive lock
  std::uint64_t held_shared_ = 0, held_exclusive_ = 0;
  std::uint64_t last_sequence_ = 0, last_waiter_ = 0, last_prefetch_ = 0;
};

}  // namespace plumeria::clerk
