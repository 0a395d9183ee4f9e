// Requests of the kernel for attributes, handles and data, which wait for their turn while a lock
// goes (PageGate), and tell sizes that the kernel believes (docs/kernel.md, "Sizes").
//
// Threads     The executor's. Ownership: borrows all that it is made with.
#pragma once

#include <absl/container/flat_hash_map.h>

#include <set>

#include "base/task.h"
#include "fuse/encode.h"
#include "fuse/lock_requests.h"
#include "fuse/replies.h"

namespace plumeria::fuse {

class DataRequests {
 public:
  DataRequests(os::RealExecutor& executor, fs::Operations& operations, KernelCache& cache,
               Replies& replies, LockRequests& locks);

  // Whether the kernel maps files that it reads directly (FUSE_DIRECT_IO_ALLOW_MMAP).
  void set_direct_may_map(bool may) { direct_may_map_ = may; }

  Task<void> getattr(Request request);
  Task<void> setattr(Request request, fuse_setattr_in in);
  Task<void> open_file(Request request, std::uint32_t flags);
  Task<void> release(Request request, fuse_release_in in);
  Task<void> read(Request request, fuse_read_in in);
  Task<void> write(Request request, fuse_write_in in, SharedBytes data);
  Task<void> fallocate(Request request, fuse_fallocate_in in);
  Task<void> seek(Request request, fuse_lseek_in in);
  Task<void> fsync(Request request, bool data_only);
  Task<void> sync_everything(Request request);
  Task<void> statfs(Request request);

  // Before a reply tells the kernel where the file ends: it is to believe that. True: it does, or
  // the file is gone. To be tried size_attempts times at most; only the last, if any, may ask
  // (KernelCache::make_sure_of_size).
  static constexpr std::uint32_t size_attempts = 3;
  static bool is_last(std::uint32_t attempt) { return attempt + 1 >= size_attempts; }
  Task<bool> make_sure_of_size(fs::InodeNumber inode, fs::Access access, bool may_ask);

  // Handles, by the flags of open(2): the FOPEN_* flags for a reply, and what is open.
  std::uint32_t open_flags_for(std::uint32_t flags) const;
  void opened(fs::InodeNumber inode, std::uint32_t flags);
  // Whether that was the last handle.
  bool closed(fs::InodeNumber inode, std::uint32_t flags);
  void note_if_direct(const fuse_open_out& opened);

  // For a request that changes the kernel's cache by its reply alone: `call(access)` makes a Task
  // of its operation, and is made again when its turn comes again because the lock went. The reply
  // is to be sent next.
  template <class R, class Call>
  Task<R> in_turn(fs::InodeNumber inode, DataRequest data, Call call) {
    for (;;) {
      const fs::Access access = co_await admitted(inode, data);
      R done = co_await call(access);
      cache_.executed(inode, access);
      if (!done) {
        const bool repeat = co_await to_be_repeated(inode, data, access, done.error().code);
        if (repeat) continue;
      }
      cache_.replying(inode, data, access);
      co_return done;
    }
  }

 private:
  // Waits until a data request may run; tells how.
  Task<fs::Access> admitted(fs::InodeNumber inode, DataRequest data);
  // Whether the request is to be admitted again, because it did nothing.
  Task<bool> to_be_repeated(fs::InodeNumber inode, DataRequest data, fs::Access access, Errc code);
  bool is_ahead(const fuse_read_in& in) const;
  // Of a READ to make sure of the size.
  struct SizeAttempts {
    TimePoint began, ran;          // `ran`: when what is in the way was last seen to run
    std::uint32_t times, in_vain;  // `in_vain`: though nobody was in the way
  };
  void count_attempt(fs::InodeNumber inode, SizeAttempts& attempts) const;
  bool may_try_again(fs::InodeNumber inode, const SizeAttempts& attempts) const;
  Task<void> back_off(std::uint32_t times);
  Task<Result<fs::WriteReply>> write_once(Request request, fuse_write_in in, SharedBytes bytes,
                                          fs::Access access);
  Task<void> flush_before_append(fs::InodeNumber inode, std::uint64_t offset, std::uint64_t length,
                                 fs::Access access);
  void reply_attributes(const Request& request, const DataRequest& data, fs::Access access,
                        const Result<fs::Covered<fs::Attributes>>& found);

  os::RealExecutor& executor_;
  fs::Operations& operations_;
  KernelCache& cache_;
  Replies& replies_;
  LockRequests& locks_;
  bool direct_may_map_ = false;
  fs::Attributes root_;                                          // as the kernel was told last
  absl::flat_hash_map<fs::InodeNumber, std::uint32_t> handles_;  // open ones; never iterated
  std::set<std::uint64_t> direct_handles_;                       // opened past the kernel's cache
};

}  // namespace plumeria::fuse
