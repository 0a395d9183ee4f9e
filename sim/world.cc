#include "sim/world.h"

#include <absl/strings/str_cat.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "base/checksum.h"

namespace plumeria::sim {
namespace {

constexpr std::int64_t million = 1'000'000;
// 2026-01-01 00:00:00 UTC: what a wall clock without skew shows at the start.
constexpr std::int64_t wall_start = 1'767'225'600ll * 1'000'000'000ll;

std::uint64_t split_mix(std::uint64_t& state) {
  std::uint64_t z = (state += 0x9e3779b97f4a7c15ull);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}
std::uint64_t rotate_left(std::uint64_t x, int k) { return (x << k) | (x >> (64 - k)); }

std::string& hint_storage() {
  static std::string hint;
  return hint;
}

}  // namespace

void set_replay_hint(std::string hint) { hint_storage() = std::move(hint); }
const std::string& replay_hint() { return hint_storage(); }

// --- RandomStream --------------------------------------------------------------------------------

RandomStream::RandomStream(std::uint64_t seed) {
  for (std::uint64_t& word : state_) word = split_mix(seed);
}

std::uint64_t RandomStream::next() {
  const std::uint64_t result = rotate_left(state_[1] * 5, 7) * 9;
  const std::uint64_t t = state_[1] << 17;
  state_[2] ^= state_[0];
  state_[3] ^= state_[1];
  state_[1] ^= state_[2];
  state_[0] ^= state_[3];
  state_[2] ^= t;
  state_[3] = rotate_left(state_[3], 45);
  return result;
}

// --- Node ----------------------------------------------------------------------------------------

Node::Node(Simulation& simulation, std::string name, std::uint64_t index, Skew skew,
           std::uint64_t seed)
    : simulation_(simulation),
      name_(std::move(name)),
      index_(index),
      skew_(skew),
      random_(seed),
      cost_(seed + 1) {}
Node::~Node() = default;

std::int64_t Node::local_elapsed() const {
  const auto elapsed = static_cast<__int128>(simulation_.now().count());
  return static_cast<std::int64_t>(elapsed * (million + skew_.drift_ppm) / million);
}

Duration Node::true_elapsed(TimePoint when) const {
  const auto local = static_cast<__int128>((when.time_since_epoch() - skew_.boot_offset).count());
  if (local <= 0) return Duration{0};
  const __int128 rate = million + skew_.drift_ppm;
  return Duration(static_cast<Duration::rep>((local * million + rate - 1) / rate));  // Never early.
}

TimePoint Node::NodeClock::now() const {
  return TimePoint(node_.skew_.boot_offset + Duration(node_.local_elapsed()));
}
WallTime Node::NodeClock::wall() const {
  return WallTime{wall_start + node_.skew_.wall_offset + node_.local_elapsed()};
}

void Node::NodeExecutor::post(Callback callback) {
  node_.enqueue(Ready{std::move(callback), nullptr});
}
void Node::NodeExecutor::resume(std::coroutine_handle<> coroutine) {
  node_.enqueue(Ready{nullptr, coroutine});
}

TimerId Node::NodeExecutor::at(TimePoint when, Callback callback) {
  const std::uint64_t timer = ++node_.last_timer_;
  if (!node_.alive_) return TimerId{timer};
  node_.timers_.emplace(timer, std::move(callback));
  Node* node = &node_;
  const Duration due = std::max(node_.true_elapsed(when), node_.simulation_.now());
  node_.simulation_.at(due, [node, timer] { node->timer_due(timer); });
  return TimerId{timer};
}

void Node::NodeExecutor::cancel(TimerId timer) {
  node_.timers_.erase(static_cast<std::uint64_t>(timer));
}

// The timer stays cancellable until it really runs: its turn in the queue looks it up again.
void Node::timer_due(std::uint64_t timer) {
  if (!timers_.contains(timer)) return;
  enqueue(Ready{[this, timer] {
                  auto found = timers_.find(timer);
                  if (found == timers_.end()) return;
                  Callback callback = std::move(found->second);
                  timers_.erase(found);
                  callback();
                },
                nullptr});
}

void Node::deliver(std::uint64_t life, Callback callback) {
  if (life == life_) enqueue(Ready{std::move(callback), nullptr});
}

void Node::enqueue(Ready ready) {
  if (!alive_) return;
  ready_.push_back(std::move(ready));
  schedule_wake();
}

void Node::schedule_wake() {
  if (wake_scheduled_ || paused_ || ready_.empty()) return;
  wake_scheduled_ = true;
  simulation_.at(std::max(simulation_.now(), busy_until_), [this] { wake(); });
}

void Node::wake() {
  wake_scheduled_ = false;
  if (!alive_ || paused_ || ready_.empty()) return;
  Ready ready = std::move(ready_.front());
  ready_.pop_front();
  simulation_.mix(index_);
  const auto cost_max = simulation_.options_.callback_cost_max;
  busy_until_ = simulation_.now() + cost_.between(Duration{0}, cost_max);
  if (ready.coroutine) {
    ready.coroutine.resume();
  } else {
    ready.callback();
  }
  schedule_wake();
}

void Node::pause() {
  CHECK(alive_);
  simulation_.trace(name_, "paused");
  paused_ = true;
}

void Node::resume() {
  CHECK(alive_);
  simulation_.trace(name_, "resumed");
  paused_ = false;
  schedule_wake();
}

void Node::crash() {
  CHECK(alive_);
  simulation_.trace(name_, "crashed");
  simulation_.mix(index_ ^ 0xdeadull);
  alive_ = false;
  paused_ = false;
  // Destroyed only after the queue is empty: a callback's destructor may post (which does nothing).
  std::deque<Ready> dropped = std::exchange(ready_, {});
  auto timers = std::exchange(timers_, {});
  for (auto& hook : crash_hooks_) hook();
}

void Node::start() {
  CHECK(!alive_);
  simulation_.trace(name_, "started");
  alive_ = true;
  ++life_;
}

// --- Simulation ----------------------------------------------------------------------------------

Simulation::Simulation(SimulationOptions options) : options_(options) {}
Simulation::~Simulation() = default;

RandomStream Simulation::stream(std::string_view purpose) const {
  return RandomStream(checksum(as_bytes(purpose), options_.seed));
}

Node& Simulation::add_node(std::string name) {
  RandomStream random = stream(absl::StrCat("skew of ", name));
  const auto around_zero = [&random](std::int64_t max) {
    const auto width = static_cast<std::uint64_t>(2 * max);
    return static_cast<std::int64_t>(random.between(0, width)) - max;
  };
  Skew skew;
  skew.drift_ppm = around_zero(options_.drift_ppm_max);
  skew.boot_offset = random.between(1s, Duration(1000h));
  skew.wall_offset = around_zero(options_.wall_offset_max.count());
  return add_node(std::move(name), skew);
}

Node& Simulation::add_node(std::string name, Skew skew) {
  const std::uint64_t seed = stream(absl::StrCat("node ", name)).next();
  nodes_.push_back(std::unique_ptr<Node>(
      new Node(*this, std::move(name), static_cast<std::uint64_t>(nodes_.size()), skew, seed)));
  return *nodes_.back();
}

void Simulation::at(Duration when, Callback callback) {
  CHECK(when >= now_);
  queue_.push_back(Event{when, ++last_order_, std::move(callback)});
  std::push_heap(queue_.begin(), queue_.end(), later);
}

bool Simulation::step() {
  if (queue_.empty()) return false;
  std::pop_heap(queue_.begin(), queue_.end(), later);
  Event event = std::move(queue_.back());
  queue_.pop_back();
  now_ = event.time;
  if (++events_ > options_.event_budget) fail("the event budget is spent: an endless loop");
  mix(static_cast<std::uint64_t>(now_.count()));
  event.callback();
  return true;
}

void Simulation::run_for(Duration duration) {
  const Duration end = now_ + duration;
  while (!queue_.empty() && queue_.front().time <= end) step();
  now_ = end;
}

bool Simulation::run_until(const std::function<bool()>& done, Duration limit) {
  const Duration end = now_ + limit;
  while (!done()) {
    if (queue_.empty() || queue_.front().time > end) return false;
    step();
  }
  return true;
}

Task<void> Simulation::mark_done(Task<void> task, bool* done) {
  co_await task;
  *done = true;
}

void Simulation::drive(Node& node, TaskScope& scope, Task<void> task, const bool* done,
                       Duration limit) {
  CHECK(node.alive());
  const std::uint64_t life = node.life();
  const auto held = std::make_shared<Task<void>>(std::move(task));
  node.deliver(life, [&scope, held] { scope.spawn(std::move(*held)); });
  const auto crashed = [&] { return !node.alive() || node.life() != life; };
  if (!run_until([&] { return *done || crashed(); }, limit)) {
    fail(absl::StrCat("a task on ", node.name(), " did not end within ", limit / 1s,
                      " s of virtual time"));
  }
}

bool Simulation::try_run(Node& node, Task<void> task, Duration limit) {
  bool done = false;
  {
    TaskScope scope;
    drive(node, scope, mark_done(std::move(task), &done), &done, limit);
  }
  return done;
}

void Simulation::run(Node& node, Task<void> task, Duration limit) {
  if (!try_run(node, std::move(task), limit)) {
    fail("the node crashed while a task ran that had to end");
  }
}

void Simulation::mix(std::uint64_t value) {
  std::uint64_t state = trace_hash_ ^ value;
  trace_hash_ = split_mix(state);
}

void Simulation::trace(std::string_view where, std::string_view what) {
  if (!trace_sink_) return;
  trace_sink_(absl::StrCat(now_ / 1us, " us ", std::string(where), ": ", std::string(what)));
}

void Simulation::violate(std::string_view what) {
  trace("checker", what);
  if (!violation_.empty()) return;
  violation_ = absl::StrCat("at ", now_ / 1us, " us: ", std::string(what));
}

void Simulation::fail(std::string_view what) const {
  std::fprintf(stderr, "simulation failed at %lld us: %.*s\nseed %llu %s\n",
               static_cast<long long>(now_ / 1us), static_cast<int>(what.size()), what.data(),
               static_cast<unsigned long long>(options_.seed), replay_hint().c_str());
  std::fflush(stderr);
  std::abort();
}

}  // namespace plumeria::sim
