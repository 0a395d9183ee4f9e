// One mount as the kernel sees it: requests of /dev/fuse become calls of fs::Operations, and their
// results replies. No policy of its own but the rules of docs/kernel.md.
//
// Life        open() mounts (requests queue in the kernel), start() serves, until the file system
// is
//             unmounted from outside or abort() ends it; then `ended` is called once. Destroy it
//             only when no operation runs any more, or with the executor stopped.
// Replies     One thread reads and answers. A reply is handed to the kernel before the pins that
//             cover it are dropped.
// Threads     The executor's. Ownership: borrows executor and operations.
// Errors      Errc becomes an errno (fuse/errno.h); what EIO hides goes to the log.
#pragma once

#include <absl/container/flat_hash_map.h>
#include <absl/container/flat_hash_set.h>

#include <memory>
#include <set>
#include <string>

#include "base/task.h"
#include "fs/operations.h"
#include "fuse/device.h"
#include "fuse/encode.h"
#include "fuse/kernel_cache.h"
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
  // What every request starts with, kept while it is answered.
  struct Request {
    std::uint64_t unique = 0;
    std::uint32_t opcode = 0;
    fs::InodeNumber inode{};
    fs::Caller caller;
    std::uint32_t thread = 0;
  };
  class Arguments;

  Session(os::RealExecutor& executor, std::unique_ptr<Device> device, SessionOptions options);

  bool drain();
  void handle(ByteView bytes);
  void handle_names(Request request, Arguments& arguments);
  void handle_data(Request request, Arguments& arguments);
  void handle_locks(Request request, Arguments& arguments);
  void handle_rest(Request request, Arguments& arguments);
  void initialize(Request request, Arguments& arguments);
  void forget(std::uint64_t inode, std::uint64_t count);
  void end();

  Task<void> lookup(Request request, std::string name);
  Task<void> getattr(Request request);
  Task<void> setattr(Request request, fuse_setattr_in in);
  Task<void> readlink(Request request);
  Task<void> make(Request request, std::string name, std::uint32_t mode, std::uint32_t rdev);
  Task<void> symlink(Request request, std::string name, std::string target);
  Task<void> link(Request request, std::uint64_t inode, std::string name);
  Task<void> remove(Request request, std::string name);
  Task<void> rename(Request request, std::string name, std::uint64_t new_parent,
                    std::string new_name, std::uint32_t flags);
  Task<void> create(Request request, std::string name, fuse_create_in in);
  Task<void> open_file(Request request, std::uint32_t flags);
  Task<void> release(Request request, fuse_release_in in);
  Task<void> read(Request request, fuse_read_in in);
  // Before a READ tells the kernel where the file ends: it is to believe that.
  Task<bool> make_sure_of_size(fs::InodeNumber inode, fs::Access access, bool may_ask);
  bool is_ahead(const fuse_read_in& in) const;
  void note_if_direct(const fuse_open_out& opened);
  Task<void> back_off(std::uint32_t times);
  Task<void> write(Request request, fuse_write_in in, SharedBytes data);
  Task<Result<fs::WriteReply>> write_once(Request request, fuse_write_in in, SharedBytes bytes,
                                          fs::Access access);
  Task<void> flush_before_append(fs::InodeNumber inode, std::uint64_t offset, std::uint64_t length,
                                 fs::Access access);
  Task<void> flush(Request request, fuse_flush_in in);
  Task<void> fsync(Request request, bool data_only);
  Task<void> sync_everything(Request request);
  Task<void> readdir(Request request, fuse_read_in in, bool plus);
  Task<void> statfs(Request request);
  Task<void> test_lock(Request request, fuse_lk_in in);
  Task<void> set_lock(Request request, fuse_lk_in in, bool wait);

  std::uint32_t open_flags_for(std::uint32_t flags) const;

  void opened(fs::InodeNumber inode, std::uint32_t flags);
  // Whether that was the last handle.
  bool closed(fs::InodeNumber inode, std::uint32_t flags);

  // Waits until a data request may run; tells how.
  Task<fs::Access> admitted(fs::InodeNumber inode, DataRequest data);
  // Whether the request is to be admitted again, because it did nothing.
  Task<bool> to_be_repeated(fs::InodeNumber inode, DataRequest data, fs::Access access, Errc code);

  // 0, or the errno with which the kernel refused the reply (ENOENT: nobody waits for it).
  int reply(const Request& request, const void* body, std::size_t size);
  template <class Body>
  int reply_with(const Request& request, const Body& body) {
    return reply(request, &body, sizeof body);
  }
  void reply_done(const Request& request) { reply(request, nullptr, 0); }
  void reply_errno(const Request& request, int error);
  void reply_error(const Request& request, const Error& error);
  void reply_status(const Request& request, const Status& status);
  void reply_attributes(const Request& request, const DataRequest& data, fs::Access access,
                        const Result<fs::Covered<fs::Attributes>>& found);
  // An entry for the kernel to keep, which counts as a lookup.
  int reply_entry(const Request& request, const fuse_entry_out& entry);
  // What a creation tells: its attributes are not to be cached (docs/kernel.md, "Attributes").
  void reply_created(const Request& request, const Result<fs::Covered<fs::Attributes>>& made);

  os::RealExecutor& executor_;
  const SessionOptions options_;
  std::unique_ptr<Device> device_;
  KernelCache cache_;
  fs::Operations* operations_ = nullptr;
  Callback ended_;
  bool serving_ = false;
  bool direct_may_map_ = false;
  Bytes buffer_;
  fs::Attributes root_;                                          // as the kernel was told last
  absl::flat_hash_map<fs::InodeNumber, std::uint32_t> handles_;  // open ones; never iterated
  std::set<std::uint64_t> direct_handles_;                       // opened past the kernel's cache
  // Who had fcntl locks of a file since it was opened here; never iterated.
  absl::flat_hash_map<fs::InodeNumber, std::set<std::uint64_t>> record_locked_;
  absl::flat_hash_set<std::uint64_t> waiting_locks_;  // requests that INTERRUPT can end
  SessionStatistics statistics_;
  TimePoint last_logged_{};
  std::uint64_t not_logged_ = 0;
  TaskScope tasks_;
};

}  // namespace plumeria::fuse
