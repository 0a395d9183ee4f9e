#include "base/task.h"

namespace plumeria {

// A detached coroutine: linked into its scope while it runs, destroys itself when it ends.
struct TaskScope::Root {
  struct promise_type : Link {
    TaskScope* scope = nullptr;
    ~promise_type() {
      previous->next = next;
      next->previous = previous;
      if (scope != nullptr) --scope->running_;
    }
    Root get_return_object() {
      return Root{std::coroutine_handle<promise_type>::from_promise(*this)};
    }
    std::suspend_always initial_suspend() noexcept { return {}; }
    std::suspend_never final_suspend() noexcept { return {}; }
    void return_void() {}
    void unhandled_exception() noexcept { std::terminate(); }
  };
  std::coroutine_handle<promise_type> handle;

  static Root run(Task<void> task) { co_await task; }
};

void TaskScope::spawn(Task<void> task) {
  Root root = Root::run(std::move(task));
  auto& promise = root.handle.promise();
  promise.scope = this;
  promise.previous = list_.previous;
  promise.next = &list_;
  list_.previous->next = &promise;
  list_.previous = &promise;
  ++running_;
  root.handle.resume();
}

TaskScope::~TaskScope() {
  while (list_.next != &list_) {
    auto& promise = static_cast<Root::promise_type&>(*list_.next);
    std::coroutine_handle<Root::promise_type>::from_promise(promise).destroy();
  }
}

}  // namespace plumeria
