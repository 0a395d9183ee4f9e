// The simulated world: virtual time, chance and executors for a whole cluster, in one thread.
//
// Everything that happens in a run follows from its seed: one queue of events, ordered by virtual
// time and then by the order in which they were scheduled; for each purpose a random stream of its
// own, split from the seed by name. Each event is mixed into a trace hash, so two runs of one seed
// can be compared.
//
// A Node is one machine with one process on it: an executor, a clock with a speed and an offset of
// its own, a random stream. Its callbacks run one at a time in the order they were posted, and each
// takes some virtual time, so no loop of yields stands still.
//
// Ownership  The Simulation owns its nodes and outlives all that runs on them. After crash() the
//            node's objects are destroyed by their owner (nothing can resume them any more, as
//            TaskScope asks), then start() opens the next life of the node.
// Errors     fail() prints what happened with the seed and ends the program: a simulated run either
//            goes as expected or is to be replayed. An endless loop ends that way too (event
//            budget).
#pragma once

#include <absl/container/flat_hash_map.h>

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/async.h"
#include "base/task.h"
#include "base/time.h"
#include "base/world.h"

namespace plumeria::sim {

class Simulation;

// xoshiro256**, seeded through SplitMix64.
class RandomStream final : public Random {
 public:
  explicit RandomStream(std::uint64_t seed);
  std::uint64_t next() override;

  // Uniform in [low, high]. Requires: low <= high.
  std::uint64_t between(std::uint64_t low, std::uint64_t high) {
    return low + below(high - low + 1);
  }
  Duration between(Duration low, Duration high) {
    return Duration(static_cast<Duration::rep>(between(static_cast<std::uint64_t>(low.count()),
                                                       static_cast<std::uint64_t>(high.count()))));
  }
  // True `times` times in `of`.
  bool chance(std::uint64_t times, std::uint64_t of) { return below(of) < times; }

 private:
  std::uint64_t state_[4];
};

// How a node's clock differs from true virtual time.
struct Skew {
  std::int64_t drift_ppm = 0;    // how much faster it runs
  Duration boot_offset{};        // what its TimePoint shows at the start
  std::int64_t wall_offset = 0;  // ns that its wall clock is ahead
};

class Node {
 public:
  ~Node();
  Node(const Node&) = delete;
  Node& operator=(const Node&) = delete;

  const std::string& name() const { return name_; }
  std::uint64_t index() const { return index_; }
  Simulation& simulation() const { return simulation_; }

  // The seams for the objects that run on this node; the same for all its lives.
  World world() { return World{clock_, random_, executor_}; }
  const Skew& skew() const { return skew_; }

  bool alive() const { return alive_; }
  bool paused() const { return paused_; }
  std::uint64_t life() const { return life_; }  // grows with each start()

  // SIGSTOP and SIGCONT: timers run out and messages arrive meanwhile, but are handled afterwards.
  void pause();
  void resume();
  // kill -9: all that is queued is dropped, and what is posted from now on as well. Not to be
  // followed by the destruction of the node's objects while one of its callbacks is on the stack.
  void crash();
  // The next life. Requires: crashed, and the objects of the life before are destroyed.
  void start();
  // Told at each crash, after the queue was dropped; for the parts of the world outside the node
  // (disk, network). They outlive the simulation's last event.
  void on_crash(std::function<void()> hook) { crash_hooks_.push_back(std::move(hook)); }

  // From outside: runs `callback` on the node, unless life `life` is over by then.
  void deliver(std::uint64_t life, Callback callback);

 private:
  friend class Simulation;
  struct Ready {
    Callback callback;
    std::coroutine_handle<> coroutine;
  };
  class NodeClock final : public Clock {
   public:
    explicit NodeClock(const Node& node) : node_(node) {}
    TimePoint now() const override;
    WallTime wall() const override;

   private:
    const Node& node_;
  };
  class NodeExecutor final : public Executor {
   public:
    explicit NodeExecutor(Node& node) : node_(node) {}
    void post(Callback callback) override;
    void resume(std::coroutine_handle<> coroutine) override;
    TimerId at(TimePoint when, Callback callback) override;
    void cancel(TimerId timer) override;

   private:
    Node& node_;
  };

  Node(Simulation& simulation, std::string name, std::uint64_t index, Skew skew,
       std::uint64_t seed);
  void enqueue(Ready ready);
  void schedule_wake();
  void wake();
  void timer_due(std::uint64_t timer);
  std::int64_t local_elapsed() const;           // ns on this node's clock since the start
  Duration true_elapsed(TimePoint when) const;  // when its clock shows `when`, since the start

  Simulation& simulation_;
  const std::string name_;
  const std::uint64_t index_;
  const Skew skew_;
  NodeClock clock_{*this};
  NodeExecutor executor_{*this};
  RandomStream random_;
  RandomStream cost_;
  std::deque<Ready> ready_;
  absl::flat_hash_map<std::uint64_t, Callback> timers_;
  std::uint64_t last_timer_ = 0;
  Duration busy_until_{};
  bool wake_scheduled_ = false;
  bool alive_ = true;
  bool paused_ = false;
  std::uint64_t life_ = 1;
  std::vector<std::function<void()>> crash_hooks_;
};

struct SimulationOptions {
  std::uint64_t seed = 1;
  std::int64_t drift_ppm_max = 4000;         // of any node, either way
  Duration wall_offset_max = 3600s;          // of any node, either way
  Duration callback_cost_max = 1us;          // virtual time that one callback takes
  std::uint64_t event_budget = 500'000'000;  // more events than this are an endless loop
};

class Simulation {
 public:
  explicit Simulation(SimulationOptions options);
  explicit Simulation(std::uint64_t seed) : Simulation(SimulationOptions{.seed = seed}) {}
  ~Simulation();
  Simulation(const Simulation&) = delete;
  Simulation& operator=(const Simulation&) = delete;

  std::uint64_t seed() const { return options_.seed; }
  // A stream of its own for each purpose; the same name gives the same stream again.
  RandomStream stream(std::string_view purpose) const;

  // A machine whose clock is skewed by the seed, or as given.
  Node& add_node(std::string name);
  Node& add_node(std::string name, Skew skew);

  // True virtual time since the start; no node sees it.
  Duration now() const { return now_; }

  // Schedules what happens outside the nodes. Events at one time run in the order scheduled.
  void at(Duration when, Callback callback);
  void after(Duration delay, Callback callback) { at(now_ + delay, std::move(callback)); }

  bool step();  // Runs the next event; false: there is none.
  void run_for(Duration duration);
  // Runs until `done()`, at most for `limit` of virtual time; whether it came true.
  bool run_until(const std::function<bool()>& done, Duration limit);

  // Runs `task` on `node` to its end. Nothing when the node crashed meanwhile (the task's frame is
  // destroyed then). Longer than `limit` of virtual time is a failure.
  template <class T>
  std::optional<T> try_run(Node& node, Task<T> task, Duration limit = run_limit);
  bool try_run(Node& node, Task<void> task, Duration limit = run_limit);
  // The same where a crash is a failure as well.
  template <class T>
  T run(Node& node, Task<T> task, Duration limit = run_limit);
  void run(Node& node, Task<void> task, Duration limit = run_limit);

  static constexpr Duration run_limit = 1000s;

  std::uint64_t trace_hash() const { return trace_hash_; }
  std::uint64_t events() const { return events_; }
  void mix(std::uint64_t value);
  // Lines for people, with `--trace`; `text` is only called if somebody listens.
  void trace_to(std::function<void(std::string_view)> sink) { trace_sink_ = std::move(sink); }
  bool tracing() const { return static_cast<bool>(trace_sink_); }
  void trace(std::string_view where, std::string_view what);

  [[noreturn]] void fail(std::string_view what) const;

  // A checker of the world saw what must never happen; the run goes on. The first one counts.
  void violate(std::string_view what);
  const std::string& violation() const { return violation_; }

 private:
  struct Event {
    Duration time;
    std::uint64_t order;
    Callback callback;
  };
  static bool later(const Event& a, const Event& b) {
    return a.time != b.time ? a.time > b.time : a.order > b.order;
  }
  template <class T>
  static Task<void> keep(Task<T> task, std::optional<T>* result) {
    result->emplace(co_await task);
  }
  static Task<void> mark_done(Task<void> task, bool* done);
  void drive(Node& node, TaskScope& scope, Task<void> task, const bool* done, Duration limit);

  const SimulationOptions options_;
  Duration now_{};
  std::uint64_t last_order_ = 0;
  std::uint64_t events_ = 0;
  std::uint64_t trace_hash_ = 0;
  std::vector<Event> queue_;  // a heap by later()
  std::vector<std::unique_ptr<Node>> nodes_;
  std::function<void(std::string_view)> trace_sink_;
  std::string violation_;

  friend class Node;
};

// Told when the program is about to end because of fail(): which run to repeat. Set by main().
void set_replay_hint(std::string hint);
const std::string& replay_hint();

template <class T>
std::optional<T> Simulation::try_run(Node& node, Task<T> task, Duration limit) {
  std::optional<T> result;
  bool done = false;
  {
    TaskScope scope;
    drive(node, scope, mark_done(keep(std::move(task), &result), &done), &done, limit);
  }
  return result;
}
template <class T>
T Simulation::run(Node& node, Task<T> task, Duration limit) {
  std::optional<T> result = try_run(node, std::move(task), limit);
  if (!result) fail("the node crashed while a task ran that had to end");
  return *std::move(result);
}

}  // namespace plumeria::sim
