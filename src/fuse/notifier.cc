#include "fuse/notifier.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>

#include "base/check.h"
#include "fuse/thread_state.h"
#include "fuse/wire.h"

namespace plumeria::fuse {

namespace {

template <class Body>
Bytes message(std::int32_t code, const Body& body, std::string_view tail = {}) {
  // A notification is a reply to no request, with its code where the error would be.
  const std::size_t tail_size = tail.empty() ? 0 : tail.size() + 1;
  Bytes bytes(sizeof(fuse_out_header) + sizeof body + tail_size);
  fuse_out_header header{};
  header.len = static_cast<std::uint32_t>(bytes.size());
  header.error = code;
  std::memcpy(bytes.data(), &header, sizeof header);
  std::memcpy(bytes.data() + sizeof header, &body, sizeof body);
  if (!tail.empty())
    std::memcpy(bytes.data() + sizeof header + sizeof body, tail.data(), tail.size());
  return bytes;
}

}  // namespace

Bytes forget_inode(std::uint64_t inode, std::int64_t offset, std::int64_t length) {
  fuse_notify_inval_inode_out body{};
  body.ino = inode;
  body.off = offset;
  body.len = length;
  return message(FUSE_NOTIFY_INVAL_INODE, body);
}

Bytes forget_attributes(std::uint64_t inode) { return forget_inode(inode, -1, 0); }

Bytes new_epoch() {
  Bytes bytes(sizeof(fuse_out_header));
  fuse_out_header header{};
  header.len = sizeof header;
  header.error = notify_inc_epoch;
  std::memcpy(bytes.data(), &header, sizeof header);
  return bytes;
}

Bytes forget_entry(std::uint64_t parent, std::string_view name, bool expire_only) {
  fuse_notify_inval_entry_out body{};
  body.parent = parent;
  body.namelen = static_cast<std::uint32_t>(name.size());
  body.flags = expire_only ? 1u : 0u;  // FUSE_EXPIRE_ONLY
  return message(FUSE_NOTIFY_INVAL_ENTRY, body, name);
}

Bytes make_longer(std::uint64_t inode, std::uint64_t size) {
  CHECK(size > 0);
  fuse_notify_store_out body{};
  body.nodeid = inode;
  body.offset = size - 1;
  body.size = 1;
  Bytes bytes = message(FUSE_NOTIFY_STORE, body);
  fuse_out_header header{};
  std::memcpy(&header, bytes.data(), sizeof header);
  header.len += body.size;
  std::memcpy(bytes.data(), &header, sizeof header);
  return bytes;
}

struct Notifier::Worker {
  std::thread thread;
  std::atomic<pid_t> id = 0;
  std::unique_ptr<ProcFile> state, schedule;  // the executor's, opened at the first look
};

struct Notifier::Job {
  std::vector<Bytes> messages;
  Callback work;
  Callback finished;
  std::atomic<Worker*> worker = nullptr;
  int error = 0;
  bool any_unknown = false;
  bool done = false;          // the executor's
  std::string last_schedule;  // at the last look
};

bool Notifier::done(const Job& job) { return job.done; }
int Notifier::error(const Job& job) { return job.error; }
bool Notifier::any_unknown(const Job& job) { return job.any_unknown; }
std::uint32_t Notifier::thread(const Job& job) {
  const Worker* worker = job.worker;
  return worker == nullptr ? 0 : static_cast<std::uint32_t>(worker->id.load());
}

Notifier::Notifier(os::RealExecutor& executor, const Device& device, std::size_t threads_max)
    : executor_(executor), device_(device), threads_max_(threads_max) {
  CHECK(threads_max > 0);
}

Notifier::~Notifier() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  for (auto& worker : workers_) worker->thread.join();
}

Notifier::JobPointer Notifier::start(std::vector<Bytes> messages, Callback finished) {
  auto job = std::make_shared<Job>();
  job->messages = std::move(messages);
  job->finished = std::move(finished);
  enqueue(job);
  return job;
}

Notifier::JobPointer Notifier::start(Callback work, Callback finished) {
  auto job = std::make_shared<Job>();
  job->work = std::move(work);
  job->finished = std::move(finished);
  enqueue(job);
  return job;
}

void Notifier::enqueue(const JobPointer& job) {
  ++*running_;
  {
    const std::lock_guard lock(mutex_);
    queue_.push_back(job);
    if (idle_ < queue_.size() && workers_.size() < threads_max_) {
      workers_.push_back(std::make_unique<Worker>());
      Worker& worker = *workers_.back();
      worker.thread = std::thread([this, &worker] { serve(worker); });
    }
  }
  wake_.notify_one();
}

void Notifier::serve(Worker& worker) {
  sigset_t all;
  sigfillset(&all);
  pthread_sigmask(SIG_BLOCK, &all, nullptr);
  pthread_setname_np(pthread_self(), "notify");
  worker.id = static_cast<pid_t>(::syscall(SYS_gettid));
  std::unique_lock lock(mutex_);
  for (;;) {
    ++idle_;
    wake_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
    --idle_;
    if (queue_.empty()) return;
    const JobPointer job = std::move(queue_.front());
    queue_.pop_front();
    lock.unlock();
    job->worker = &worker;
    if (job->work) job->work();
    for (const Bytes& bytes : job->messages) {
      const int error = device_.notify(bytes);
      if (error == ENOENT) {
        job->any_unknown = true;
      } else if (error != 0 && job->error == 0) {
        job->error = error;
      }
    }
    executor_.post_from_any_thread([count = running_, job] {
      job->done = true;
      --*count;
      job->finished();
    });
    lock.lock();
  }
}

bool Notifier::sleeps_without_progress(Job& job) {
  if (job.done) return false;
  Worker* worker = job.worker;
  if (worker == nullptr) return false;  // All threads are at work; its turn comes.
  if (worker->state == nullptr) {
    const auto thread = static_cast<std::uint32_t>(worker->id);
    worker->state = std::make_unique<ProcFile>(thread, "stat");
    worker->schedule = std::make_unique<ProcFile>(thread, "schedstat");
  }
  const char state = state_in(worker->state->read());
  const bool asleep = state == '\0' || state == 'D' || state == 'S';
  const std::string_view schedule = worker->schedule->read();
  const bool same = job.last_schedule == schedule;
  job.last_schedule = schedule;
  return asleep && same;
}

}  // namespace plumeria::fuse
