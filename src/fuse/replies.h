// Replies to requests of the kernel, and the errors that they tell.
//
// Threads     The executor's. Ownership: borrows executor, device and cache.
// Errors      Errc becomes an errno (fuse/errno.h); what EIO hides goes to the log, one line a
//             second.
#pragma once

#include <vector>

#include "clerk/pin.h"
#include "fuse/device.h"
#include "fuse/kernel_cache.h"
#include "fuse/request.h"

namespace plumeria::fuse {

// Whether the inode's lock is among the pins: what it covers may be cached.
bool covers(const std::vector<clerk::Pin>& pins, fs::InodeNumber inode);

class Replies {
 public:
  Replies(os::RealExecutor& executor, Device& device, KernelCache& cache)
      : executor_(executor), device_(device), cache_(cache) {}

  // 0, or the errno with which the kernel refused the reply (ENOENT: nobody waits for it).
  int send(const Request& request, const void* body, std::size_t size);
  template <class Body>
  int with(const Request& request, const Body& body) {
    return send(request, &body, sizeof body);
  }
  void done(const Request& request) { send(request, nullptr, 0); }
  void failed(const Request& request, int error);
  void failed(const Request& request, const Error& error);
  void status(const Request& request, const Status& status);

  std::uint64_t errors() const { return errors_; }

 private:
  os::RealExecutor& executor_;
  Device& device_;
  KernelCache& cache_;
  std::uint64_t errors_ = 0;
  TimePoint last_logged_{};
  std::uint64_t not_logged_ = 0;
};

}  // namespace plumeria::fuse
