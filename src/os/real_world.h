// The real world behind base/world.h: an executor on one thread, the clocks, chance, and a small
// pool of threads for calls that block.
//
// Order       post() and resume() run in the order in which they were called; timers when due, in
//             the order of their times. Between every few events file descriptors get their turn.
// Cost        post/resume from the own thread need no system call and no lock. The loop sleeps in
//             the kernel only when nothing is ready.
// Threads     run() makes its caller the executor's thread. Only post_from_any_thread(), stop(),
//             now() and wall() may be called from other threads; everything else belongs to the
//             executor's thread, or to the thread that sets things up before run().
// Ownership   Who posts a callback keeps alive what it refers to. What is still queued when the
//             executor is destroyed is dropped without being run.
#pragma once

#include <absl/container/btree_map.h>
#include <absl/container/flat_hash_map.h>

#include <atomic>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include "base/async.h"
#include "base/result.h"
#include "base/task.h"
#include "base/world.h"
#include "os/spin_policy.h"

namespace asio {
class io_context;
}

namespace plumeria::os {

class RealExecutor final : public Executor, public Clock {
 public:
  RealExecutor();
  ~RealExecutor() override;
  RealExecutor(const RealExecutor&) = delete;
  RealExecutor& operator=(const RealExecutor&) = delete;

  void post(Callback callback) override;
  void resume(std::coroutine_handle<> coroutine) override;
  TimerId at(TimePoint when, Callback callback) override;
  void cancel(TimerId timer) override;

  TimePoint now() const override;  // CLOCK_BOOTTIME: goes on while the machine sleeps
  WallTime wall() const override;

  // Runs until stop(); may be called again afterwards and goes on where it stopped.
  void run();
  // Runs `task` to its end and returns its result; for main() and tests. Other work runs meanwhile.
  template <class T>
  T run_until_done(Task<T> task);
  void run_until_done(Task<void> task);
  // Thread-safe; callable from the executor's own callbacks too. run() returns after the event that
  // runs now.
  void stop();

  // Like post(), from any thread.
  void post_from_any_thread(Callback callback);

  // Calls `ready` whenever `fd` has one of `events` (EPOLLIN, EPOLLOUT; errors and hang-ups count
  // as both). Level-triggered: what `ready` leaves unread is reported again. The fd stays the
  // caller's, who calls unwatch() before closing it. One watch an fd.
  Status watch(int fd, std::uint32_t events, Callback ready);
  void unwatch(int fd);

  // `poll` is asked each time before the loop would go to sleep: it does what it finds to do
  // without waiting and tells whether it found something (the loop then goes round instead of
  // sleeping). It spares a wake-up through the kernel to those whose own read is as cheap. One at a
  // time; an empty one removes it.
  void set_idle_poll(absl::AnyInvocable<bool()> poll);

  // For AsioTransport, whose sockets share this loop.
  asio::io_context& io_context();

 private:
  struct Item {
    std::coroutine_handle<> coroutine;  // or else
    Callback callback;
  };
  struct Reactor;
  struct Watch;
  using TimerKey = std::pair<TimePoint, TimerId>;

  void run_batch();
  void take_inbox();
  void run_due_timers();
  void poll_descriptors();
  bool find_work();  // without sleeping
  void sleep();
  void wake();
  void arm(const std::shared_ptr<Watch>& watch, bool for_reading);

  std::unique_ptr<Reactor> reactor_;
  std::vector<Item> ready_;
  std::vector<Item> batch_;
  std::size_t batch_at_ = 0;
  std::size_t run_since_poll_ = 0;
  absl::btree_map<TimerKey, Callback> timers_;
  absl::flat_hash_map<TimerId, TimePoint> timer_times_;  // never iterated
  std::uint64_t last_timer_ = 0;
  absl::AnyInvocable<bool()> idle_poll_;
  SpinPolicy spin_;
  absl::flat_hash_map<int, std::shared_ptr<Watch>> watches_;  // never iterated

  std::mutex inbox_mutex_;
  std::vector<Callback> inbox_;
  std::atomic<bool> inbox_filled_ = false;
  std::atomic<bool> asleep_ = false;
  std::atomic<bool> stopping_ = false;
};

// A pseudo-random generator seeded by the kernel's. Not for secrets.
class RealRandom final : public Random {
 public:
  RealRandom();
  std::uint64_t next() override;

 private:
  std::uint64_t state_[4];
};

// A fixed number of threads for calls that block. Jobs start in the order in which they were given.
// The destructor waits for all jobs; their completions are still posted to the executor, which
// outlives the pool.
class ThreadPool {
 public:
  ThreadPool(RealExecutor& executor, std::size_t threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  // Runs `work` on a thread of the pool, then `done` (if any) on the executor.
  void submit(Callback work, Callback done);

  // `auto result = co_await pool.run([=] { … });` The work owns what it uses: the waiting coroutine
  // may be destroyed meanwhile.
  template <class Work>
  auto run(Work work) -> Task<std::invoke_result_t<Work&>>;

 private:
  struct Job {
    Callback work, done;
  };
  void serve();

  RealExecutor& executor_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Job> jobs_;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

template <class Work>
auto ThreadPool::run(Work work) -> Task<std::invoke_result_t<Work&>> {
  using T = std::invoke_result_t<Work&>;
  Promise<T> promise(executor_);
  auto result = std::make_shared<std::optional<T>>();
  Future<T> future = promise.future();
  submit([result, work = std::move(work)]() mutable { result->emplace(work()); },
         [result, promise] { promise.set(std::move(**result)); });
  T value = co_await future;
  co_return value;
}

template <class T>
T RealExecutor::run_until_done(Task<T> task) {
  struct Run {
    static Task<void> keep(Task<T> inner, std::optional<T>* result) {
      result->emplace(co_await inner);
    }
  };
  std::optional<T> result;
  run_until_done(Run::keep(std::move(task), &result));
  return std::move(*result);
}

}  // namespace plumeria::os
