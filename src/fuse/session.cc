#include "fuse/session.h"

#include <absl/strings/str_cat.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/stat.h>

#include <algorithm>
#include <thread>

#include "base/log.h"
#include "base/number.h"
#include "fuse/data_requests.h"
#include "fuse/lock_requests.h"
#include "fuse/name_requests.h"
#include "fuse/xattr_requests.h"

namespace plumeria::fuse {

namespace {

constexpr std::size_t buffer_size = fs::io_size_max + 4096;
constexpr std::size_t spare_buffers_max = 2;
constexpr int drains_max = 8;                  // within each other
constexpr std::size_t requests_per_wake = 64;  // before others of the executor get their turn

// INIT flags that we ask for if the kernel has them. Never FUSE_WRITEBACK_CACHE (the kernel would
// stay the authority for sizes), never FUSE_AUTO_INVAL_DATA (we say what is stale), no splicing.
constexpr std::uint32_t wanted_flags =
    FUSE_ASYNC_READ | FUSE_POSIX_LOCKS | FUSE_FLOCK_LOCKS | FUSE_BIG_WRITES | FUSE_DONT_MASK |
    FUSE_DO_READDIRPLUS | FUSE_READDIRPLUS_AUTO | FUSE_ASYNC_DIO | FUSE_PARALLEL_DIROPS |
    FUSE_ABORT_ERROR | FUSE_MAX_PAGES | FUSE_CACHE_SYMLINKS | FUSE_EXPLICIT_INVAL_DATA |
    FUSE_HANDLE_KILLPRIV_V2 | FUSE_EXPORT_SUPPORT | FUSE_POSIX_ACL | FUSE_SETXATTR_EXT |
    FUSE_INIT_EXT;

}  // namespace

// What answers requests, once there is a file system to ask.
struct Session::Parts {
  Parts(os::RealExecutor& executor, fs::Operations& operations, KernelCache& cache,
        Replies& replies)
      : locks(operations, replies),
        data(executor, operations, cache, replies, locks),
        names(operations, cache, replies, data),
        xattrs(operations, cache, replies, data) {}
  LockRequests locks;
  DataRequests data;
  NameRequests names;
  XattrRequests xattrs;
};

Result<std::unique_ptr<Session>> Session::open(os::RealExecutor& executor, SessionOptions options) {
  TRY(std::unique_ptr<Device> device, Device::open(options.mount_point));
  return std::unique_ptr<Session>(new Session(executor, std::move(device), std::move(options)));
}

Session::Session(os::RealExecutor& executor, std::unique_ptr<Device> device, SessionOptions options)
    : executor_(executor),
      options_(std::move(options)),
      device_(std::move(device)),
      cache_(executor, *device_, options_.notification_threads_max,
             [this] {
               while (serving_ && drain()) {
               }
             }),
      replies_(executor, *device_, cache_) {}

Session::~Session() {
  if (serving_) {
    // Nobody will answer any more; a notification that waits for an answer must not wait for ever.
    const Status aborted = device_->abort();
    if (!aborted) log_warning(aborted.error().message());
    end();
  }
}

void Session::start(fs::Operations& operations, Callback ended) {
  CHECK(parts_ == nullptr);
  parts_ = std::make_unique<Parts>(executor_, operations, cache_, replies_);
  ended_ = std::move(ended);
  serving_ = true;
  const Status watched = executor_.watch(device_->fd(), EPOLLIN, [this] { drain(); });
  CHECK(watched.has_value());
  if (options_.poll_before_sleeping) executor_.set_idle_poll([this] { return drain(); });
}

SessionStatistics Session::statistics() const {
  SessionStatistics statistics = statistics_;
  statistics.errors = replies_.errors();
  statistics.cache = cache_.statistics();
  return statistics;
}

Task<Status> Session::unmount(bool lazily) {
  // umount(2) waits for dirty pages, which we must take meanwhile.
  Promise<Status> promise(executor_);
  auto future = promise.future();
  std::thread([this, promise, lazily] {
    Status done = device_->unmount(lazily);
    executor_.post_from_any_thread([promise, done]() mutable { promise.set(std::move(done)); });
  }).detach();
  Status done = co_await future;
  co_return done;
}

void Session::end() {
  if (!serving_) return;
  serving_ = false;
  executor_.unwatch(device_->fd());
  if (options_.poll_before_sleeping) executor_.set_idle_poll({});
  cache_.stop();
  if (ended_) executor_.post(std::move(ended_));
}

// True: it has done something, and more may be waiting.
bool Session::drain() {
  if (!serving_ || draining_ == drains_max) return false;
  ++draining_;
  Bytes buffer = take_buffer();
  bool any = false;
  for (std::size_t i = 0; i < requests_per_wake && serving_; ++i) {
    const Result<std::size_t> length = device_->read(buffer);
    if (!length) {
      if (length.error().code != Errc::shut_down) log_error(length.error().message());
      end();
      break;
    }
    if (*length == 0) break;
    handle(ByteView(buffer).first(*length));
    any = true;
  }
  --draining_;
  if (spare_buffers_.size() < spare_buffers_max) spare_buffers_.push_back(std::move(buffer));
  return any;
}

// What a request sets going may drain the device in turn, before the request is taken apart.
Bytes Session::take_buffer() {
  if (spare_buffers_.empty()) return Bytes(buffer_size);
  Bytes buffer = std::move(spare_buffers_.back());
  spare_buffers_.pop_back();
  return buffer;
}

void Session::handle(ByteView bytes) {
  Arguments arguments(bytes);
  const auto header = arguments.get<fuse_in_header>();
  CHECK(arguments.ok() && header.len == bytes.size());  // The kernel keeps to its own protocol.
  ++statistics_.requests;
  Request request;
  request.unique = header.unique;
  request.opcode = header.opcode;
  request.inode = fs::InodeNumber{header.nodeid};
  request.caller.uid = header.uid;
  request.caller.gid = header.gid;
  request.thread = header.pid;
  cache_.thread_seen(header.pid);
  cache_.sizes().heard_from(request.inode, header.pid);
  switch (header.opcode) {
    case FUSE_LOOKUP:
    case FUSE_READLINK:
    case FUSE_MKNOD:
    case FUSE_MKDIR:
    case FUSE_SYMLINK:
    case FUSE_LINK:
    case FUSE_UNLINK:
    case FUSE_RMDIR:
    case FUSE_RENAME:
    case FUSE_RENAME2:
    case FUSE_CREATE:
    case FUSE_READDIR:
    case FUSE_READDIRPLUS:
      handle_names(request, arguments);
      break;
    case FUSE_GETATTR:
    case FUSE_SETATTR:
    case FUSE_OPEN:
    case FUSE_RELEASE:
    case FUSE_READ:
    case FUSE_WRITE:
    case FUSE_FLUSH:
    case FUSE_FSYNC:
    case FUSE_FSYNCDIR:
    case FUSE_FALLOCATE:
    case FUSE_LSEEK:
      handle_data(request, arguments);
      break;
    case FUSE_GETXATTR:
    case FUSE_LISTXATTR:
    case FUSE_SETXATTR:
    case FUSE_REMOVEXATTR:
      handle_xattrs(request, arguments);
      break;
    case FUSE_GETLK:
    case FUSE_SETLK:
    case FUSE_SETLKW:
    case FUSE_INTERRUPT:
      handle_locks(request, arguments);
      break;
    default:
      handle_rest(request, arguments);
      break;
  }
  CHECK(arguments.ok());
}

void Session::handle_names(Request request, Arguments& arguments) {
  switch (request.opcode) {
    case FUSE_LOOKUP:
      tasks_.spawn(parts_->names.lookup(request, arguments.text()));
      break;
    case FUSE_READLINK:
      tasks_.spawn(parts_->names.readlink(request));
      break;
    case FUSE_MKNOD: {
      const auto in = arguments.get<fuse_mknod_in>();
      request.caller.umask = in.umask;
      tasks_.spawn(parts_->names.make(request, arguments.text(), in.mode, in.rdev));
      break;
    }
    case FUSE_MKDIR: {
      const auto in = arguments.get<fuse_mkdir_in>();
      request.caller.umask = in.umask;
      tasks_.spawn(parts_->names.make(request, arguments.text(), S_IFDIR | (in.mode & 07777), 0));
      break;
    }
    case FUSE_SYMLINK: {
      std::string name = arguments.text();
      tasks_.spawn(parts_->names.symlink(request, std::move(name), arguments.text()));
      break;
    }
    case FUSE_LINK: {
      const auto in = arguments.get<fuse_link_in>();
      tasks_.spawn(parts_->names.link(request, in.oldnodeid, arguments.text()));
      break;
    }
    case FUSE_UNLINK:
    case FUSE_RMDIR:
      tasks_.spawn(parts_->names.remove(request, arguments.text()));
      break;
    case FUSE_RENAME: {
      const auto in = arguments.get<fuse_rename_in>();
      std::string name = arguments.text();
      tasks_.spawn(parts_->names.rename(request, std::move(name), in.newdir, arguments.text(), 0));
      break;
    }
    case FUSE_RENAME2: {
      const auto in = arguments.get<fuse_rename2_in>();
      std::string name = arguments.text();
      tasks_.spawn(
          parts_->names.rename(request, std::move(name), in.newdir, arguments.text(), in.flags));
      break;
    }
    case FUSE_CREATE: {
      const auto in = arguments.get<fuse_create_in>();
      request.caller.umask = in.umask;
      tasks_.spawn(parts_->names.create(request, arguments.text(), in));
      break;
    }
    default:
      tasks_.spawn(parts_->names.readdir(request, arguments.get<fuse_read_in>(),
                                         request.opcode == FUSE_READDIRPLUS));
      break;
  }
}

void Session::handle_data(Request request, Arguments& arguments) {
  switch (request.opcode) {
    case FUSE_GETATTR:
      tasks_.spawn(parts_->data.getattr(request));
      break;
    case FUSE_SETATTR:
      tasks_.spawn(parts_->data.setattr(request, arguments.get<fuse_setattr_in>()));
      break;
    case FUSE_OPEN:
      tasks_.spawn(parts_->data.open_file(request, arguments.get<fuse_open_in>().flags));
      break;
    case FUSE_RELEASE:
      tasks_.spawn(parts_->data.release(request, arguments.get<fuse_release_in>()));
      break;
    case FUSE_READ:
      tasks_.spawn(parts_->data.read(request, arguments.get<fuse_read_in>()));
      break;
    case FUSE_WRITE: {
      const auto in = arguments.get<fuse_write_in>();
      CHECK(arguments.rest().size() >= in.size);
      tasks_.spawn(
          parts_->data.write(request, in, SharedBytes::copy_of(arguments.rest().first(in.size))));
      break;
    }
    case FUSE_FLUSH: {
      const auto in = arguments.get<fuse_flush_in>();
      if (parts_->locks.had_any(request.inode, in.lock_owner)) {
        tasks_.spawn(parts_->locks.flush(request, in));
      } else {
        replies_.done(request);
      }
      break;
    }
    case FUSE_FALLOCATE:
      tasks_.spawn(parts_->data.fallocate(request, arguments.get<fuse_fallocate_in>()));
      break;
    case FUSE_LSEEK:
      tasks_.spawn(parts_->data.seek(request, arguments.get<fuse_lseek_in>()));
      break;
    default:
      tasks_.spawn(parts_->data.fsync(
          request, (arguments.get<fuse_fsync_in>().fsync_flags & FUSE_FSYNC_FDATASYNC) != 0));
      break;
  }
}

void Session::handle_xattrs(Request request, Arguments& arguments) {
  switch (request.opcode) {
    case FUSE_GETXATTR: {
      const auto in = arguments.get<fuse_getxattr_in>();
      tasks_.spawn(parts_->xattrs.get(request, in.size, arguments.text()));
      break;
    }
    case FUSE_LISTXATTR:
      tasks_.spawn(parts_->xattrs.list(request, arguments.get<fuse_getxattr_in>().size));
      break;
    case FUSE_SETXATTR: {
      fuse_setxattr_in in{};
      if (setxattr_is_extended_) {
        in = arguments.get<fuse_setxattr_in>();
      } else {
        in.size = arguments.get<std::uint32_t>();
        in.flags = arguments.get<std::uint32_t>();
      }
      std::string name = arguments.text();
      CHECK(arguments.rest().size() >= in.size);
      tasks_.spawn(parts_->xattrs.set(request, in, std::move(name),
                                      to_bytes(arguments.rest().first(in.size))));
      break;
    }
    default:
      tasks_.spawn(parts_->xattrs.remove(request, arguments.text()));
      break;
  }
}

void Session::handle_locks(Request request, Arguments& arguments) {
  if (request.opcode == FUSE_INTERRUPT) {
    ++statistics_.interrupts;
    parts_->locks.interrupt(arguments.get<fuse_interrupt_in>().unique);
    return;
  }
  const auto in = arguments.get<fuse_lk_in>();
  if (request.opcode == FUSE_GETLK) {
    tasks_.spawn(parts_->locks.test(request, in));
  } else {
    tasks_.spawn(parts_->locks.set(request, in, request.opcode == FUSE_SETLKW));
  }
}

void Session::handle_rest(Request request, Arguments& arguments) {
  switch (request.opcode) {
    case FUSE_INIT:
      initialize(request, arguments);
      break;
    case FUSE_STATFS:
      tasks_.spawn(parts_->data.statfs(request));
      break;
    case FUSE_SYNCFS:
      tasks_.spawn(parts_->data.sync_everything(request));
      break;
    case FUSE_FORGET:
      parts_->names.forget(raw(request.inode), arguments.get<fuse_forget_in>().nlookup);
      break;
    case FUSE_BATCH_FORGET: {
      const auto in = arguments.get<fuse_batch_forget_in>();
      for (std::uint32_t i = 0; i < in.count && arguments.ok(); ++i) {
        const auto one = arguments.get<fuse_forget_one>();
        parts_->names.forget(one.nodeid, one.nlookup);
      }
      break;
    }
    case FUSE_DESTROY:
      replies_.done(request);
      break;
    // ENOSYS once: the kernel does not ask again. A directory needs no handle, and its listing is
    // then cached as if we had allowed it; of the others it makes EOPNOTSUPP or does them itself.
    default:
      replies_.failed(request, ENOSYS);
      break;
  }
}

void Session::initialize(Request request, Arguments& arguments) {
  const auto in = arguments.get<fuse_init_in>();
  if (in.major != FUSE_KERNEL_VERSION || in.minor < minor_least) {
    log_error(absl::StrCat("this kernel speaks FUSE ", in.major, ".", in.minor, "; Plumeria needs ",
                           FUSE_KERNEL_VERSION, ".", minor_least, " or newer"));
    replies_.failed(request, EPROTO);
    return;
  }
  cache_.set_has_epoch(in.minor >= minor_with_epoch);
  if (in.minor < minor_with_epoch) {
    log_info("this kernel cannot drop all names at once (Linux 6.16 can): names are not cached");
  }
  fuse_init_out out{};
  out.major = FUSE_KERNEL_VERSION;
  out.minor = std::min(in.minor, minor_we_speak);
  out.max_readahead = in.max_readahead;
  out.flags = in.flags & wanted_flags;
  setxattr_is_extended_ = (out.flags & FUSE_SETXATTR_EXT) != 0;
  // Reads of one file that wait for its lock must never keep the dirty pages of another file from
  // being sent, and all of these are "background".
  const bool direct_may_map =
      (in.flags & FUSE_INIT_EXT) != 0 && (in.flags2 & direct_io_allow_mmap_2) != 0;
  parts_->data.set_direct_may_map(direct_may_map);
  if (direct_may_map) out.flags2 = direct_io_allow_mmap_2;
  out.max_background = 65535;
  out.congestion_threshold = 49151;
  out.max_write = fs::io_size_max;
  out.max_pages = fs::io_size_max / page_size;
  out.time_gran = 1;
  replies_.with(request, out);
}

}  // namespace plumeria::fuse
