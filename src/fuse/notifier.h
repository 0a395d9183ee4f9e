// Tells the kernel to forget, on threads of its own, because the kernel may sleep until requests of
// the same file are answered.
//
// A job is a list of notifications, written one after the other by one thread. Whoever waits for it
// looks from time to time whether its thread sleeps in the kernel without progress: then some
// request must be answered before it can go on.
//
// Threads     At most `threads_max`, started when needed. Everything but the writes themselves
//             happens on the executor's thread. A blocked thread cannot be killed (fuse/device.h).
// Ownership   Borrows the device and the executor. The destructor waits for running jobs: abort the
//             connection first if they may be blocked.
#pragma once

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "base/async.h"
#include "base/bytes.h"
#include "fuse/device.h"
#include "os/real_world.h"

namespace plumeria::fuse {

// Messages to the kernel.
Bytes forget_inode(std::uint64_t inode, std::int64_t offset, std::int64_t length);
Bytes forget_attributes(std::uint64_t inode);
Bytes new_epoch();
// The file has at least `size` bytes, whatever the kernel believed. Its pages stay as they are: the
// message announces a byte that Device::notify() does not have.
Bytes make_longer(std::uint64_t inode, std::uint64_t size);
// `expire_only`: it is looked up again at its next use; else it is removed.
Bytes forget_entry(std::uint64_t parent, std::string_view name, bool expire_only);

class Notifier {
 public:
  struct Job;
  using JobPointer = std::shared_ptr<Job>;

  Notifier(os::RealExecutor& executor, const Device& device, std::size_t threads_max);
  ~Notifier();
  Notifier(const Notifier&) = delete;
  Notifier& operator=(const Notifier&) = delete;

  // `finished` is called on the executor.
  JobPointer start(std::vector<Bytes> messages, Callback finished);
  // Any work that may sleep in the kernel as an invalidation does.
  JobPointer start(Callback work, Callback finished);

  static bool done(const Job& job);
  // The first errno but ENOENT (0: none); whether the kernel knew the inode of each message.
  static int error(const Job& job);
  static bool any_unknown(const Job& job);
  // The thread that works on it; 0: none yet.
  static std::uint32_t thread(const Job& job);

  // Whether the job's thread sleeps in the kernel, and has not run since the last look at it.
  static bool sleeps_without_progress(Job& job);

  std::size_t running() const { return *running_; }

 private:
  struct Worker;
  void enqueue(const JobPointer& job);
  void serve(Worker& worker);

  os::RealExecutor& executor_;
  const Device& device_;
  const std::size_t threads_max_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<JobPointer> queue_;
  std::size_t idle_ = 0;
  bool stopping_ = false;
  std::vector<std::unique_ptr<Worker>> workers_;
  std::shared_ptr<std::size_t> running_ = std::make_shared<std::size_t>(0);  // the executor's
};

}  // namespace plumeria::fuse
