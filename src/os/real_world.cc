#include "os/real_world.h"

#include <absl/strings/str_cat.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include <asio/executor_work_guard.hpp>
#include <asio/io_context.hpp>
#include <asio/posix/stream_descriptor.hpp>
#include <asio/post.hpp>
#include <bit>
#include <cstring>

#include "base/check.h"
#include "base/number.h"

namespace plumeria::os {

namespace {

// So many events run before file descriptors, timers and other threads get their turn: it makes
// their system call cheap beside the events, and keeps them from starving.
constexpr std::size_t events_per_poll = 32;
constexpr int descriptors_per_poll = 16;
constexpr Duration spin_time = 30us;

timespec read_clock(clockid_t clock) {
  timespec time{};
  CHECK(clock_gettime(clock, &time) == 0);
  return time;
}

}  // namespace

// Asio does the sockets and the sleeping. Its own timers know only milliseconds here, so a timerfd
// wakes the loop for ours.
struct RealExecutor::Reactor {
  Reactor() : work(asio::make_work_guard(io)), timer(io) {
    const int fd = timerfd_create(CLOCK_BOOTTIME, TFD_NONBLOCK | TFD_CLOEXEC);
    CHECK(fd >= 0);
    timer.assign(fd);
    await_timer();
  }

  void await_timer() {
    timer.async_wait(asio::posix::stream_descriptor::wait_read, [this](asio::error_code error) {
      if (error) return;
      std::uint64_t expirations = 0;
      (void)!::read(timer.native_handle(), &expirations, sizeof expirations);
      armed = TimePoint::max();
      await_timer();
    });
  }

  // Wakes the loop at `when` or before (a timer cancelled meanwhile wakes it for nothing).
  void wake_at(TimePoint when) {
    if (armed <= when) return;
    const auto since_boot = std::max(when.time_since_epoch(), Duration(1));
    itimerspec spec{};
    spec.it_value.tv_sec = since_boot / 1s;
    spec.it_value.tv_nsec = (since_boot % 1s).count();
    CHECK(timerfd_settime(timer.native_handle(), TFD_TIMER_ABSTIME, &spec, nullptr) == 0);
    armed = when;
  }

  asio::io_context io{1};
  asio::executor_work_guard<asio::io_context::executor_type> work;
  asio::posix::stream_descriptor timer;
  TimePoint armed = TimePoint::max();
};

struct RealExecutor::Watch {
  Watch(asio::io_context& io, Callback callback) : descriptor(io), ready(std::move(callback)) {}
  ~Watch() {
    if (descriptor.is_open()) descriptor.release();
  }
  asio::posix::stream_descriptor descriptor;
  Callback ready;
};

RealExecutor::RealExecutor() : reactor_(std::make_unique<Reactor>()) {}

RealExecutor::~RealExecutor() {
  watches_.clear();
  // Callbacks may own things whose destructors post or cancel: drop them while all parts stand.
  while (!ready_.empty() || !batch_.empty() || !timers_.empty()) {
    const auto ready = std::exchange(ready_, {});
    const auto batch = std::exchange(batch_, {});
    const auto timers = std::exchange(timers_, {});
  }
}

void RealExecutor::post(Callback callback) { ready_.push_back({nullptr, std::move(callback)}); }

void RealExecutor::resume(std::coroutine_handle<> coroutine) { ready_.push_back({coroutine, {}}); }

TimerId RealExecutor::at(TimePoint when, Callback callback) {
  const TimerId id{++last_timer_};
  timers_.emplace(TimerKey(when, id), std::move(callback));
  timer_times_.emplace(id, when);
  return id;
}

void RealExecutor::cancel(TimerId timer) {
  const auto found = timer_times_.find(timer);
  if (found == timer_times_.end()) return;
  const auto entry = timers_.find(TimerKey(found->second, timer));
  CHECK(entry != timers_.end());
  const Callback dropped = std::move(entry->second);  // Its destructor may call us again.
  timers_.erase(entry);
  timer_times_.erase(found);
}

TimePoint RealExecutor::now() const {
  const timespec time = read_clock(CLOCK_BOOTTIME);
  return TimePoint(std::chrono::seconds(time.tv_sec) + std::chrono::nanoseconds(time.tv_nsec));
}

WallTime RealExecutor::wall() const {
  const timespec time = read_clock(CLOCK_REALTIME);
  return WallTime{time.tv_sec * 1'000'000'000 + time.tv_nsec};
}

void RealExecutor::run() {
  while (true) {
    if (stopping_.load(std::memory_order_relaxed) && stopping_.exchange(false)) return;
    if (batch_at_ == batch_.size()) {
      batch_.clear();
      batch_at_ = 0;
      batch_.swap(ready_);
    }
    if (batch_.empty()) {
      take_inbox();
      run_due_timers();
      if (ready_.empty() && !find_work() && ready_.empty()) {
        sleep();
        run_since_poll_ = 0;
      } else if (++run_since_poll_ >= events_per_poll) {
        run_since_poll_ = 0;
        poll_descriptors();
      }
    } else if (run_since_poll_ >= events_per_poll) {
      run_since_poll_ = 0;
      take_inbox();
      run_due_timers();
      poll_descriptors();
    } else {
      ++run_since_poll_;
      Item item = std::move(batch_[batch_at_++]);
      if (item.coroutine) {
        item.coroutine.resume();
      } else {
        item.callback();
      }
    }
  }
}

void RealExecutor::run_until_done(Task<void> task) {
  struct Run {
    static Task<void> one(Task<void> inner, RealExecutor* executor, bool* done) {
      co_await inner;
      *done = true;
      executor->stop();
    }
  };
  bool done = false;
  TaskScope scope;
  scope.spawn(Run::one(std::move(task), this, &done));
  while (!done) run();
  stopping_ = false;
}

void RealExecutor::take_inbox() {
  if (!inbox_filled_.load(std::memory_order_acquire)) return;
  std::vector<Callback> taken;
  {
    const std::lock_guard lock(inbox_mutex_);
    taken.swap(inbox_);
    inbox_filled_ = false;
  }
  for (Callback& callback : taken) post(std::move(callback));
}

void RealExecutor::run_due_timers() {
  if (timers_.empty()) return;
  const TimePoint due = now();
  while (!timers_.empty() && timers_.begin()->first.first <= due) {
    Callback callback = std::move(timers_.begin()->second);
    timer_times_.erase(timers_.begin()->first.second);
    timers_.erase(timers_.begin());
    callback();
    if (stopping_.load(std::memory_order_relaxed)) return;
  }
}

void RealExecutor::poll_descriptors() {
  for (int i = 0; i < descriptors_per_poll; ++i) {
    if (reactor_->io.poll_one() == 0) return;
  }
}

bool RealExecutor::find_work() {
  if (!idle_poll_) return false;
  if (idle_poll_()) return true;
  if (!spin_.wants()) return false;
  TimePoint until = now() + spin_time;
  if (!timers_.empty()) until = std::min(until, timers_.begin()->first.first);
  bool found = false;
  while (!found && ready_.empty() && !inbox_filled_ && !stopping_ && now() < until) {
    found = (idle_poll_ && idle_poll_()) || reactor_->io.poll_one() > 0;
  }
  spin_.spun(found);
  return found;
}

void RealExecutor::sleep() {
  asleep_ = true;  // From here on other threads wake us, so look again what they did before.
  if (!inbox_filled_ && !stopping_) {
    if (!timers_.empty()) reactor_->wake_at(timers_.begin()->first.first);
    reactor_->io.run_one();
  }
  asleep_ = false;
}

void RealExecutor::wake() {
  if (asleep_.exchange(false)) asio::post(reactor_->io, [] {});
}

void RealExecutor::stop() {
  stopping_ = true;
  wake();
}

void RealExecutor::post_from_any_thread(Callback callback) {
  {
    const std::lock_guard lock(inbox_mutex_);
    inbox_.push_back(std::move(callback));
    inbox_filled_ = true;
  }
  wake();
}

Status RealExecutor::watch(int fd, std::uint32_t events, Callback ready) {
  CHECK(!watches_.contains(fd));
  auto watch = std::make_shared<Watch>(reactor_->io, std::move(ready));
  asio::error_code error;
  watch->descriptor.assign(fd, error);
  if (error) {
    return fail(Errc::io,
                absl::StrCat("cannot watch file descriptor ", fd, " (", error.message(), ")"));
  }
  watches_.emplace(fd, watch);
  if (events & EPOLLIN) arm(watch, true);
  if (events & EPOLLOUT) arm(watch, false);
  return {};
}

void RealExecutor::arm(const std::shared_ptr<Watch>& watch, bool for_reading) {
  const auto type = for_reading ? asio::posix::stream_descriptor::wait_read
                                : asio::posix::stream_descriptor::wait_write;
  const std::weak_ptr<Watch> weak = watch;
  watch->descriptor.async_wait(type, [this, weak, for_reading](asio::error_code error) {
    const std::shared_ptr<Watch> watched = weak.lock();  // It may remove itself.
    if (error || !watched || !watched->descriptor.is_open()) return;
    watched->ready();
    if (watched->descriptor.is_open()) arm(watched, for_reading);
  });
}

void RealExecutor::unwatch(int fd) {
  const auto found = watches_.find(fd);
  if (found == watches_.end()) return;
  const std::shared_ptr<Watch> watch = found->second;
  watches_.erase(found);
  watch->descriptor.release();
}

void RealExecutor::set_idle_poll(absl::AnyInvocable<bool()> poll) { idle_poll_ = std::move(poll); }

asio::io_context& RealExecutor::io_context() { return reactor_->io; }

RealRandom::RealRandom() {
  auto* to = reinterpret_cast<char*>(state_);
  std::size_t done = 0;
  while (done < sizeof state_) {
    const ssize_t got = getrandom(to + done, sizeof state_ - done, 0);
    CHECK(got > 0 || errno == EINTR);
    if (got > 0) done += static_cast<std::size_t>(got);
  }
}

// xoshiro256**, Blackman and Vigna 2018.
std::uint64_t RealRandom::next() {
  const std::uint64_t result = std::rotl(state_[1] * 5, 7) * 9;
  const std::uint64_t shifted = state_[1] << 17;
  state_[2] ^= state_[0];
  state_[3] ^= state_[1];
  state_[1] ^= state_[2];
  state_[0] ^= state_[3];
  state_[2] ^= shifted;
  state_[3] = std::rotl(state_[3], 45);
  return result;
}

ThreadPool::ThreadPool(RealExecutor& executor, std::size_t threads) : executor_(executor) {
  CHECK(threads > 0);
  // Signals are the main thread's business.
  sigset_t all, before;
  sigfillset(&all);
  CHECK(pthread_sigmask(SIG_SETMASK, &all, &before) == 0);
  for (std::size_t i = 0; i < threads; ++i) threads_.emplace_back([this] { serve(); });
  CHECK(pthread_sigmask(SIG_SETMASK, &before, nullptr) == 0);
}

ThreadPool::~ThreadPool() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void ThreadPool::submit(Callback work, Callback done) {
  {
    const std::lock_guard lock(mutex_);
    CHECK(!stopping_);
    jobs_.push_back({std::move(work), std::move(done)});
  }
  wake_.notify_one();
}

void ThreadPool::serve() {
  std::unique_lock lock(mutex_);
  while (true) {
    wake_.wait(lock, [&] { return stopping_ || !jobs_.empty(); });
    if (jobs_.empty()) return;
    Job job = std::move(jobs_.front());
    jobs_.pop_front();
    lock.unlock();
    job.work();
    job.work = nullptr;
    if (job.done) executor_.post_from_any_thread(std::move(job.done));
    lock.lock();
  }
}

}  // namespace plumeria::os
