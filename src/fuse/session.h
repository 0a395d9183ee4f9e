// One mount as the kernel sees it: requests of /dev/fuse become calls of fs::Operations, and their
// results replies. No policy of its own but the rules of docs/kernel.md.
//
// Life        open() mounts (requests queue in the kernel), start() serves, until the file system
//             is unmounted from outside or abort() ends it; then `ended` is called once. Destroy
//             it only when no operation runs any more, or with the executor stopped.
// Replies     One thread reads and answers. A reply is handed to the kernel before the pins that
//             cover it are dropped.
// Threads     The executor's. Ownership: borrows executor and operations.
// Errors      Errc becomes an errno (fuse/errno.h); what EIO hides goes to the log.
#pragma once

#include <memory>
#include <vector>

#include "base/task.h"
#include "fs/operations.h"
#include "fuse/device.h"
#include "fuse/kernel_cache.h"
#include "fuse/replies.h"
#include "os/real_world.h"

namespace plumeria::fuse {

struct SessionOptions {
  MountPoint mount_point;
  std::size_t notification_threads_max = 16;
  // Ask the device before the executor goes to sleep. At most one session of an executor.
  bool poll_before_sleeping = false;
};

struct SessionStatistics {
  std::uint64_t requests = 0, errors = 0, interrupts = 0;
  CacheStatistics cache;
};

class Session {
 public:
  static Result<std::unique_ptr<Session>> open(os::RealExecutor& executor, SessionOptions options);
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  mount::KernelCache& kernel_cache() { return cache_; }

  void start(fs::Operations& operations, Callback ended);

  // Asks the kernel to unmount; `lazily` also while files are open. The answer comes when the
  // kernel is done, which may need our replies.
  Task<Status> unmount(bool lazily);
  // Ends the connection at once; whatever the applications wait for fails.
  Status abort() { return device_->abort(); }

  std::uint32_t connection() const { return device_->connection(); }
  SessionStatistics statistics() const;
  // Requests being worked on; after `ended` they only become fewer.
  std::size_t running() const { return tasks_.running(); }

 private:
  struct Parts;

  Session(os::RealExecutor& executor, std::unique_ptr<Device> device, SessionOptions options);

  bool drain();
  Bytes take_buffer();
  void handle(ByteView bytes);
  void handle_names(Request request, Arguments& arguments);
  void handle_data(Request request, Arguments& arguments);
  void handle_xattrs(Request request, Arguments& arguments);
  void handle_locks(Request request, Arguments& arguments);
  void handle_rest(Request request, Arguments& arguments);
  void initialize(Request request, Arguments& arguments);
  void end();

  os::RealExecutor& executor_;
  const SessionOptions options_;
  std::unique_ptr<Device> device_;
  KernelCache cache_;
  Replies replies_;
  std::unique_ptr<Parts> parts_;
  Callback ended_;
  bool setxattr_is_extended_ = false;  // what INIT agreed on
  bool serving_ = false;
  int draining_ = 0;
  std::vector<Bytes> spare_buffers_;
  SessionStatistics statistics_;
  TaskScope tasks_;
};

}  // namespace plumeria::fuse
