// Task<T>: a lazy coroutine with one awaiter. TaskScope: owner of coroutines that nobody awaits.
//
// A Task starts when it is awaited and is destroyed with the Task object. It never uses symmetric
// transfer: a child that finishes at once returns to its parent like a function call, so that loops
// of thousands of such awaits need no tail calls (GCC gives none in sanitizer builds).
//
// Threads: all of one executor. Errors: exceptions must not leave a coroutine (std::terminate).
//
// GCC 12 destroys some temporaries of a co_await expression twice, so: never build an aggregate
// with braces, a lambda coroutine, or a conditional operator inside a co_await expression; name it
// first. A coroutine takes what it keeps by value, and a lambda coroutine must not have captures.
#pragma once

#include <coroutine>
#include <exception>
#include <optional>
#include <utility>

#include "base/check.h"
#include "base/world.h"

namespace plumeria {

template <class T>
class Task;

namespace task_detail {

struct PromiseBase {
  std::coroutine_handle<> continuation;

  struct FinalAwaiter {
    bool await_ready() noexcept { return false; }
    template <class Promise>
    void await_suspend(std::coroutine_handle<Promise> finished) noexcept {
      if (auto next = std::exchange(finished.promise().continuation, nullptr)) next.resume();
    }
    void await_resume() noexcept {}
  };
  std::suspend_always initial_suspend() noexcept { return {}; }
  FinalAwaiter final_suspend() noexcept { return {}; }
  void unhandled_exception() noexcept { std::terminate(); }
};

template <class T>
struct Promise : PromiseBase {
  std::optional<T> value;
  Task<T> get_return_object();
  template <class U>
  void return_value(U&& result) {
    value.emplace(std::forward<U>(result));
  }
  T take() { return std::move(*value); }
};

template <>
struct Promise<void> : PromiseBase {
  Task<void> get_return_object();
  void return_void() {}
  void take() {}
};

}  // namespace task_detail

template <class T = void>
class [[nodiscard]] Task {
 public:
  using promise_type = task_detail::Promise<T>;
  using Handle = std::coroutine_handle<promise_type>;

  Task() = default;
  explicit Task(Handle handle) : handle_(handle) {}
  Task(Task&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Task& operator=(Task&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  ~Task() {
    if (handle_) handle_.destroy();
  }

  bool await_ready() const noexcept { return false; }
  bool await_suspend(std::coroutine_handle<> parent) {
    handle_.resume();
    if (handle_.done()) return false;  // It never waited: go on without suspending.
    handle_.promise().continuation = parent;
    return true;
  }
  T await_resume() { return handle_.promise().take(); }

 private:
  Handle handle_;
};

template <class T>
Task<T> task_detail::Promise<T>::get_return_object() {
  return Task<T>(Task<T>::Handle::from_promise(*this));
}
inline Task<void> task_detail::Promise<void>::get_return_object() {
  return Task<void>(Task<void>::Handle::from_promise(*this));
}

// Owns running coroutines that nobody awaits. Its destructor destroys the frames of those that
// still wait; that is allowed only once nothing can resume them any more (the executor was stopped,
// or the node crashed).
class TaskScope {
 public:
  TaskScope() = default;
  TaskScope(const TaskScope&) = delete;
  TaskScope& operator=(const TaskScope&) = delete;
  ~TaskScope();

  // Starts `task` at once, on the caller's stack, and keeps it until it ends.
  void spawn(Task<void> task);
  std::size_t running() const { return running_; }

 private:
  struct Root;
  struct Link {
    Link* previous = this;
    Link* next = this;
  };
  Link list_;
  std::size_t running_ = 0;
};

}  // namespace plumeria
