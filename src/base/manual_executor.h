// For unit tests: an executor whose time passes only when the test says so.
//
// run() does everything that is posted, at the present time; advance() goes on to later timers.
// Threads: one. Ownership: outlives whatever was posted to it.
#pragma once

#include <algorithm>
#include <deque>
#include <map>
#include <utility>

#include "base/world.h"

namespace plumeria {

class ManualExecutor : public Executor, public Clock {
 public:
  void post(Callback callback) override { ready_.push_back(std::move(callback)); }
  void resume(std::coroutine_handle<> coroutine) override {
    ready_.push_back([coroutine] { coroutine.resume(); });
  }
  TimerId at(TimePoint when, Callback callback) override {
    const TimerId id{++timers_made_};
    timers_.emplace(std::pair(when, id), std::move(callback));
    return id;
  }
  void cancel(TimerId timer) override {
    std::erase_if(timers_, [timer](const auto& entry) { return entry.first.second == timer; });
  }

  TimePoint now() const override { return now_; }
  WallTime wall() const override { return WallTime{now_.time_since_epoch().count()}; }

  void run() {
    while (!ready_.empty()) {
      Callback next = std::move(ready_.front());
      ready_.pop_front();
      next();
    }
  }
  void advance(Duration by) {
    const TimePoint end = now_ + by;
    run();
    while (!timers_.empty() && timers_.begin()->first.first <= end) {
      now_ = std::max(now_, timers_.begin()->first.first);
      ready_.push_back(std::move(timers_.extract(timers_.begin()).mapped()));
      run();
    }
    now_ = end;
  }

 private:
  TimePoint now_{};
  std::deque<Callback> ready_;
  std::map<std::pair<TimePoint, TimerId>, Callback> timers_;
  std::uint64_t timers_made_ = 0;
};

}  // namespace plumeria
