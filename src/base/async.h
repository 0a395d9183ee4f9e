// Waiting for one another on one executor: Promise/Future, Event, Semaphore, Mutex, sleep, gather.
//
// A waiter is always resumed through the executor, never on the stack of the one who wakes it, so
// that a caller's state is consistent when others run. Waiters wake in the order in which they
// began to wait. Threads: all of one executor; none of these is thread-safe. Ownership: an Event,
// Semaphore or Mutex outlives its waiters, except when the executor was stopped.
#pragma once

#include <deque>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "base/task.h"

namespace plumeria {

// One value, set once, awaited at most once. Promise and Future share the state; either may go
// first.
template <class T>
class Promise;

template <class T>
class Future {
 public:
  bool await_ready() const noexcept { return state_->value.has_value(); }
  void await_suspend(std::coroutine_handle<> waiter) { state_->waiter = waiter; }
  T await_resume() {
    T value = std::move(*state_->value);
    return value;
  }

 private:
  friend class Promise<T>;
  struct State {
    explicit State(Executor& e) : executor(e) {}
    Executor& executor;
    std::optional<T> value;
    std::coroutine_handle<> waiter;
  };
  explicit Future(std::shared_ptr<State> state) : state_(std::move(state)) {}
  std::shared_ptr<State> state_;
};

template <class T>
class Promise {
 public:
  explicit Promise(Executor& executor)
      : state_(std::make_shared<typename Future<T>::State>(executor)) {}
  Future<T> future() const { return Future<T>(state_); }
  bool is_set() const { return state_->value.has_value(); }
  void set(T value) const {
    CHECK(!state_->value.has_value());
    state_->value.emplace(std::move(value));
    if (state_->waiter) state_->executor.resume(std::exchange(state_->waiter, nullptr));
  }

 private:
  std::shared_ptr<typename Future<T>::State> state_;
};

// Something that happens again and again; `co_await event.next()` waits for the next notify_all().
class Event {
 public:
  explicit Event(Executor& executor) : executor_(executor) {}

  auto next() {
    struct Awaiter {
      Event& event;
      bool await_ready() const noexcept { return false; }
      void await_suspend(std::coroutine_handle<> waiter) { event.waiters_.push_back(waiter); }
      void await_resume() {}
    };
    return Awaiter{*this};
  }
  void notify_all() {
    for (auto waiter : std::exchange(waiters_, {})) executor_.resume(waiter);
  }
  bool has_waiters() const { return !waiters_.empty(); }

 private:
  Executor& executor_;
  std::vector<std::coroutine_handle<>> waiters_;
};

// Counts permits; a waiter is handed its permits before those who come later (no overtaking).
class Semaphore {
 public:
  Semaphore(Executor& executor, std::uint64_t permits) : executor_(executor), permits_(permits) {}

  auto acquire(std::uint64_t count = 1) {
    struct Awaiter {
      Semaphore& semaphore;
      std::uint64_t count;
      bool await_ready() { return semaphore.try_acquire(count); }
      void await_suspend(std::coroutine_handle<> waiter) {
        semaphore.waiters_.push_back({waiter, count});
      }
      void await_resume() {}
    };
    return Awaiter{*this, count};
  }
  bool try_acquire(std::uint64_t count = 1) {
    if (!waiters_.empty() || permits_ < count) return false;
    permits_ -= count;
    return true;
  }
  void release(std::uint64_t count = 1) {
    permits_ += count;
    while (!waiters_.empty() && waiters_.front().count <= permits_) {
      permits_ -= waiters_.front().count;
      executor_.resume(waiters_.front().coroutine);
      waiters_.pop_front();
    }
  }
  std::uint64_t available() const { return permits_; }

 private:
  struct Waiter {
    std::coroutine_handle<> coroutine;
    std::uint64_t count;
  };
  Executor& executor_;
  std::uint64_t permits_;
  std::deque<Waiter> waiters_;
};

// `auto guard = co_await mutex.lock();` holds it until the guard is destroyed.
class Mutex {
 public:
  explicit Mutex(Executor& executor) : semaphore_(executor, 1) {}

  class Guard {
   public:
    explicit Guard(Mutex& mutex) : mutex_(&mutex) {}
    Guard(Guard&& other) noexcept : mutex_(std::exchange(other.mutex_, nullptr)) {}
    Guard& operator=(Guard&& other) noexcept {
      std::swap(mutex_, other.mutex_);
      return *this;
    }
    ~Guard() {
      if (mutex_ != nullptr) mutex_->semaphore_.release();
    }

   private:
    Mutex* mutex_;
  };
  Task<Guard> lock() {
    co_await semaphore_.acquire();
    co_return Guard(*this);
  }
  bool is_locked() const { return semaphore_.available() == 0; }

 private:
  Semaphore semaphore_;
};

inline Task<void> sleep_until(Executor& executor, TimePoint when) {
  struct Awaiter {
    Executor& executor;
    TimePoint when;
    bool await_ready() const noexcept { return false; }
    void await_suspend(std::coroutine_handle<> waiter) {
      executor.at(when, [this_executor = &executor, waiter] { this_executor->resume(waiter); });
    }
    void await_resume() {}
  };
  Awaiter awaiter{executor, when};
  co_await awaiter;
}
inline Task<void> sleep_for(World world, Duration duration) {
  return sleep_until(world.executor, world.clock.now() + duration);
}
// Lets everything that is posted already run first.
inline auto yield_to(Executor& executor) {
  struct Awaiter {
    Executor& executor;
    bool await_ready() const noexcept { return false; }
    void await_suspend(std::coroutine_handle<> waiter) { executor.resume(waiter); }
    void await_resume() {}
  };
  return Awaiter{executor};
}

// Runs all tasks side by side; the results are in the order of the tasks.
template <class T>
Task<std::vector<T>> gather(Executor& executor, std::vector<Task<T>> tasks) {
  struct Shared {
    explicit Shared(Executor& e) : done(e) {}
    std::vector<std::optional<T>> results;
    std::size_t left = 0;
    Event done;
  };
  Shared shared(executor);
  shared.results.resize(tasks.size());
  shared.left = tasks.size();
  struct Run {
    static Task<void> one(Task<T> task, Shared& to, std::size_t index) {
      to.results[index].emplace(co_await task);
      if (--to.left == 0) to.done.notify_all();
    }
  };
  TaskScope scope;
  for (std::size_t i = 0; i < tasks.size(); ++i) {
    scope.spawn(Run::one(std::move(tasks[i]), shared, i));
  }
  while (shared.left > 0) co_await shared.done.next();
  std::vector<T> results;
  results.reserve(shared.results.size());
  for (auto& result : shared.results) results.push_back(std::move(*result));
  co_return results;
}

}  // namespace plumeria
