// A coroutine waits for a job of the Notifier, or looks at it from time to time.
#pragma once

#include <memory>
#include <vector>

#include "base/async.h"
#include "fuse/notifier.h"

namespace plumeria::fuse {

// Shared by a coroutine, the job's end and a timer; whoever comes later finds it still there.
struct Watch {
  explicit Watch(Executor& executor) : changed(executor) {}
  Event changed;
  bool done = false;

  static Notifier::JobPointer start(Notifier& notifier, const std::shared_ptr<Watch>& watch,
                                    std::vector<Bytes> messages) {
    return notifier.start(std::move(messages), [watch] {
      watch->done = true;
      watch->changed.notify_all();
    });
  }
  // Until the job is done or it is time to look at it, after 100 us.
  static Task<void> wait(os::RealExecutor* executor, std::shared_ptr<Watch> watch) {
    const TimerId timer =
        executor->at(executor->now() + 100us, [watch] { watch->changed.notify_all(); });
    co_await watch->changed.next();
    executor->cancel(timer);
  }
  static Task<void> wait_until_done(std::shared_ptr<Watch> watch) {
    while (!watch->done) co_await watch->changed.next();
  }
};

}  // namespace plumeria::fuse
