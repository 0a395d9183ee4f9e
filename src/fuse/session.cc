#include "fuse/session.h"

#include <absl/strings/str_cat.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <thread>

#include "base/fault.h"
#include "base/log.h"
#include "base/number.h"
#include "fuse/errno.h"

namespace plumeria::fuse {

namespace {

constexpr std::size_t buffer_size = fs::io_size_max + 4096;
constexpr std::size_t requests_per_wake = 64;  // before others of the executor get their turn
constexpr Duration repeat_interval = 50us;
constexpr std::uint32_t size_attempts = 3;  // to make the kernel believe where a file ends

// INIT flags that we ask for if the kernel has them. Never FUSE_WRITEBACK_CACHE (the kernel would
// stay the authority for sizes), never FUSE_AUTO_INVAL_DATA (we say what is stale), no splicing.
constexpr std::uint32_t wanted_flags =
    FUSE_ASYNC_READ | FUSE_POSIX_LOCKS | FUSE_FLOCK_LOCKS | FUSE_BIG_WRITES | FUSE_DONT_MASK |
    FUSE_DO_READDIRPLUS | FUSE_READDIRPLUS_AUTO | FUSE_ASYNC_DIO | FUSE_PARALLEL_DIROPS |
    FUSE_ABORT_ERROR | FUSE_MAX_PAGES | FUSE_CACHE_SYMLINKS | FUSE_EXPLICIT_INVAL_DATA |
    FUSE_HANDLE_KILLPRIV_V2 | FUSE_INIT_EXT;

lock::LockName lock_of(fs::InodeNumber inode) { return {lock::LockClass::inode, raw(inode)}; }

bool covers(const std::vector<clerk::Pin>& pins, fs::InodeNumber inode) {
  const lock::LockName name = lock_of(inode);
  return std::any_of(pins.begin(), pins.end(),
                     [&](const clerk::Pin& pin) { return pin && pin.name() == name; });
}

bool is_last(std::uint32_t attempt) { return attempt + 1 >= size_attempts; }

bool is_writable(std::uint32_t flags) { return (flags & O_ACCMODE) != O_RDONLY; }

// The kernel names the lock owner only when it writes directly.
DataKind kind_of(const fuse_write_in& in) {
  if ((in.write_flags & FUSE_WRITE_CACHE) != 0) return DataKind::writepage;
  return (in.write_flags & FUSE_WRITE_LOCKOWNER) != 0 ? DataKind::direct_write : DataKind::write;
}

bool appends(const fuse_write_in& in) {
  return (in.flags & O_APPEND) != 0 && kind_of(in) != DataKind::writepage;
}

Range range_of(std::uint64_t offset, std::uint64_t length) {
  return {offset, offset > Range::no_end - length ? Range::no_end : offset + length};
}

}  // namespace

// The bytes of a request behind its header, taken apart without reading past their end.
class Session::Arguments {
 public:
  explicit Arguments(ByteView bytes) : bytes_(bytes) {}

  template <class T>
  T get() {
    T value{};
    if (bytes_.size() < sizeof value) {
      ok_ = false;
    } else {
      std::memcpy(&value, bytes_.data(), sizeof value);
      bytes_ = bytes_.subspan(sizeof value);
    }
    return value;
  }
  // Up to a zero byte.
  std::string text() {
    const std::string_view all = as_text(bytes_);
    const std::size_t length = all.find('\0');
    if (length == std::string_view::npos) {
      ok_ = false;
      return {};
    }
    bytes_ = bytes_.subspan(length + 1);
    return std::string(all.substr(0, length));
  }
  ByteView rest() const { return bytes_; }
  bool ok() const { return ok_; }

 private:
  ByteView bytes_;
  bool ok_ = true;
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
      buffer_(buffer_size) {
  root_.inode = fs::root_inode;
  root_.mode = S_IFDIR | 0755;
  root_.links = 2;
}

Session::~Session() {
  if (serving_) {
    // Nobody will answer any more; a notification that waits for an answer must not wait for ever.
    const Status aborted = device_->abort();
    if (!aborted) log_warning(aborted.error().message());
    end();
  }
}

void Session::start(fs::Operations& operations, Callback ended) {
  CHECK(operations_ == nullptr);
  operations_ = &operations;
  ended_ = std::move(ended);
  serving_ = true;
  const Status watched = executor_.watch(device_->fd(), EPOLLIN, [this] { drain(); });
  CHECK(watched.has_value());
  if (options_.poll_before_sleeping) executor_.set_idle_poll([this] { return drain(); });
}

SessionStatistics Session::statistics() const {
  SessionStatistics statistics = statistics_;
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
  if (!serving_) return false;
  for (std::size_t i = 0; i < requests_per_wake; ++i) {
    const Result<std::size_t> length = device_->read(buffer_);
    if (!length) {
      if (length.error().code != Errc::shut_down) log_error(length.error().message());
      end();
      return i > 0;
    }
    if (*length == 0) return i > 0;
    handle(ByteView(buffer_).first(*length));
    if (!serving_) return true;
  }
  return true;
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
  cache_.heard_from(request.inode, header.pid);
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
      handle_data(request, arguments);
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
  cache_.second_lookup().make_way(request.thread);
  switch (request.opcode) {
    case FUSE_LOOKUP:
      tasks_.spawn(lookup(request, arguments.text()));
      break;
    case FUSE_READLINK:
      tasks_.spawn(readlink(request));
      break;
    case FUSE_MKNOD: {
      const auto in = arguments.get<fuse_mknod_in>();
      request.caller.umask = in.umask;
      tasks_.spawn(make(request, arguments.text(), in.mode, in.rdev));
      break;
    }
    case FUSE_MKDIR: {
      const auto in = arguments.get<fuse_mkdir_in>();
      request.caller.umask = in.umask;
      tasks_.spawn(make(request, arguments.text(), S_IFDIR | (in.mode & 07777), 0));
      break;
    }
    case FUSE_SYMLINK: {
      std::string name = arguments.text();
      tasks_.spawn(symlink(request, std::move(name), arguments.text()));
      break;
    }
    case FUSE_LINK: {
      const auto in = arguments.get<fuse_link_in>();
      tasks_.spawn(link(request, in.oldnodeid, arguments.text()));
      break;
    }
    case FUSE_UNLINK:
    case FUSE_RMDIR:
      tasks_.spawn(remove(request, arguments.text()));
      break;
    case FUSE_RENAME: {
      const auto in = arguments.get<fuse_rename_in>();
      std::string name = arguments.text();
      tasks_.spawn(rename(request, std::move(name), in.newdir, arguments.text(), 0));
      break;
    }
    case FUSE_RENAME2: {
      const auto in = arguments.get<fuse_rename2_in>();
      std::string name = arguments.text();
      tasks_.spawn(rename(request, std::move(name), in.newdir, arguments.text(), in.flags));
      break;
    }
    case FUSE_CREATE: {
      const auto in = arguments.get<fuse_create_in>();
      request.caller.umask = in.umask;
      tasks_.spawn(create(request, arguments.text(), in));
      break;
    }
    default:
      tasks_.spawn(
          readdir(request, arguments.get<fuse_read_in>(), request.opcode == FUSE_READDIRPLUS));
      break;
  }
}

void Session::handle_data(Request request, Arguments& arguments) {
  switch (request.opcode) {
    case FUSE_GETATTR:
      tasks_.spawn(getattr(request));
      break;
    case FUSE_SETATTR:
      tasks_.spawn(setattr(request, arguments.get<fuse_setattr_in>()));
      break;
    case FUSE_OPEN:
      tasks_.spawn(open_file(request, arguments.get<fuse_open_in>().flags));
      break;
    case FUSE_RELEASE:
      tasks_.spawn(release(request, arguments.get<fuse_release_in>()));
      break;
    case FUSE_READ:
      tasks_.spawn(read(request, arguments.get<fuse_read_in>()));
      break;
    case FUSE_WRITE: {
      const auto in = arguments.get<fuse_write_in>();
      CHECK(arguments.rest().size() >= in.size);
      tasks_.spawn(write(request, in, SharedBytes::copy_of(arguments.rest().first(in.size))));
      break;
    }
    case FUSE_FLUSH: {
      const auto in = arguments.get<fuse_flush_in>();
      const auto owners = record_locked_.find(request.inode);
      if (owners != record_locked_.end() && owners->second.erase(in.lock_owner) > 0) {
        tasks_.spawn(flush(request, in));
      } else {
        reply_done(request);
      }
      break;
    }
    default:
      tasks_.spawn(
          fsync(request, (arguments.get<fuse_fsync_in>().fsync_flags & FUSE_FSYNC_FDATASYNC) != 0));
      break;
  }
}

void Session::handle_locks(Request request, Arguments& arguments) {
  if (request.opcode == FUSE_INTERRUPT) {
    // Only a wait for a file lock ends early; everything else ends by itself.
    const auto in = arguments.get<fuse_interrupt_in>();
    ++statistics_.interrupts;
    if (waiting_locks_.contains(in.unique)) operations_->cancel_file_lock(in.unique);
    return;
  }
  const auto in = arguments.get<fuse_lk_in>();
  if (request.opcode == FUSE_GETLK) {
    tasks_.spawn(test_lock(request, in));
  } else {
    tasks_.spawn(set_lock(request, in, request.opcode == FUSE_SETLKW));
  }
}

void Session::handle_rest(Request request, Arguments& arguments) {
  switch (request.opcode) {
    case FUSE_INIT:
      initialize(request, arguments);
      break;
    case FUSE_STATFS:
      tasks_.spawn(statfs(request));
      break;
    case FUSE_SYNCFS:
      tasks_.spawn(sync_everything(request));
      break;
    case FUSE_FORGET:
      forget(raw(request.inode), arguments.get<fuse_forget_in>().nlookup);
      break;
    case FUSE_BATCH_FORGET: {
      const auto in = arguments.get<fuse_batch_forget_in>();
      for (std::uint32_t i = 0; i < in.count && arguments.ok(); ++i) {
        const auto one = arguments.get<fuse_forget_one>();
        forget(one.nodeid, one.nlookup);
      }
      break;
    }
    case FUSE_DESTROY:
      reply_done(request);
      break;
    // ENOSYS once: the kernel does not ask again. A directory needs no handle, and its listing is
    // then cached as if we had allowed it; of the others it makes EOPNOTSUPP or does them itself.
    default:
      reply_errno(request, ENOSYS);
      break;
  }
}

void Session::initialize(Request request, Arguments& arguments) {
  const auto in = arguments.get<fuse_init_in>();
  if (in.major != FUSE_KERNEL_VERSION || in.minor < minor_least) {
    log_error(absl::StrCat("this kernel speaks FUSE ", in.major, ".", in.minor, "; Plumeria needs ",
                           FUSE_KERNEL_VERSION, ".", minor_least, " or newer"));
    reply_errno(request, EPROTO);
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
  // Reads of one file that wait for its lock must never keep the dirty pages of another file from
  // being sent, and all of these are "background".
  direct_may_map_ = (in.flags & FUSE_INIT_EXT) != 0 && (in.flags2 & direct_io_allow_mmap_2) != 0;
  if (direct_may_map_) out.flags2 = direct_io_allow_mmap_2;
  out.max_background = 65535;
  out.congestion_threshold = 49151;
  out.max_write = fs::io_size_max;
  out.max_pages = fs::io_size_max / page_size;
  out.time_gran = 1;
  reply_with(request, out);
}

void Session::forget(std::uint64_t inode, std::uint64_t count) {
  const fs::InodeNumber number{inode};
  if (!cache_.forgotten(number, count)) return;
  record_locked_.erase(number);
  operations_->forget(number);
}

// ---- names

Task<void> Session::lookup(Request request, std::string name) {
#ifdef PLUMERIA_PLANTED_FAULTS
  if (planted(Fault::fuse_expire_entry_instead_of_epoch)) cache_.name_seen(request.inode, name);
#endif
  auto found = co_await operations_->lookup(request.inode, name);
  for (std::uint32_t times = 0; found && found->attributes;) {
    const fs::Attributes& attributes = *found->attributes;
    const fs::InodeNumber inode = attributes.inode;
    if (cache_.settling(inode)) {
      found->pins.clear();
      co_await cache_.settled(inode);
    } else if (times == size_attempts || cache_.is_sure_of_size(inode, attributes.size)) {
      break;
    } else if (cache_.may_cut_pages(inode) || !cache_.may_believe_in_more(inode, attributes.size)) {
      const bool sure = co_await cache_.make_sure_of_size(attributes, is_last(times++));
      if (sure && !cache_.settling(inode)) break;
      found->pins.clear();
      co_await cache_.wait_for_changer(inode);
    } else {
      found->pins.clear();
      co_await cache_.wait_for_changer(inode);
      (void)co_await make_sure_of_size(inode, fs::Access::normal, is_last(times++));
    }
    found = co_await operations_->lookup(request.inode, name);
  }
  if (!found) {
    reply_error(request, found.error());
    co_return;
  }
  const bool may_cache = cache_.may_cache_names() && covers(found->pins, request.inode);
  if (!found->attributes) {
    reply_with(request, encode_absence(may_cache));
    co_return;
  }
  Validity validity;
  validity.name = may_cache;
  validity.attributes =
      covers(found->pins, found->attributes->inode) || planted(Fault::fuse_attributes_uncovered);
  const int error = reply_entry(request, encode_entry(*found->attributes, validity));
  if (error != 0 || !cache_.second_lookup().wants(request.thread)) co_return;
  for (clerk::Pin& pin : found->pins) {
    if (!pin || pin.name() != lock_of(request.inode)) continue;
    cache_.second_lookup().looked_up(request.thread, std::move(pin));
  }
}

Task<void> Session::readlink(Request request) {
  auto target = co_await operations_->readlink(request.inode);
  if (!target) {
    reply_error(request, target.error());
    co_return;
  }
  reply(request, target->data(), target->size());
}

Task<void> Session::make(Request request, std::string name, std::uint32_t mode,
                         std::uint32_t rdev) {
  if (S_ISDIR(mode)) {
    auto made = co_await operations_->mkdir(request.inode, std::move(name), mode, request.caller);
    reply_created(request, made);
  } else {
    auto made =
        co_await operations_->mknod(request.inode, std::move(name), mode, rdev, request.caller);
    reply_created(request, made);
  }
}

Task<void> Session::symlink(Request request, std::string name, std::string target) {
  auto made = co_await operations_->symlink(request.inode, std::move(name), std::move(target),
                                            request.caller);
  reply_created(request, made);
}

Task<void> Session::link(Request request, std::uint64_t inode, std::string name) {
  auto made = co_await operations_->link(fs::InodeNumber{inode}, request.inode, std::move(name));
  reply_created(request, made);
}

Task<void> Session::remove(Request request, std::string name) {
  if (request.opcode == FUSE_RMDIR) {
    auto done = co_await operations_->rmdir(request.inode, std::move(name));
    reply_status(request, done);
  } else {
    auto done = co_await operations_->unlink(request.inode, std::move(name));
    reply_status(request, done);
  }
}

Task<void> Session::rename(Request request, std::string name, std::uint64_t new_parent,
                           std::string new_name, std::uint32_t flags) {
  auto done = co_await operations_->rename(request.inode, std::move(name),
                                           fs::InodeNumber{new_parent}, std::move(new_name), flags);
  reply_status(request, done);
}

Task<void> Session::create(Request request, std::string name, fuse_create_in in) {
  auto made = co_await operations_->create(request.inode, std::move(name), in.mode, in.flags,
                                           request.caller);
  if (!made) {
    // Somebody else made it after the kernel had looked. For an open without O_EXCL the kernel
    // looks again when told that its knowledge was stale, and opens it with the checks that this
    // needs.
    if (made.error().code == Errc::exist && (in.flags & O_EXCL) == 0) {
      reply_errno(request, ESTALE);
    } else {
      reply_error(request, made.error());
    }
    co_return;
  }
  struct {
    fuse_entry_out entry;
    fuse_open_out open;
  } out{};
  Validity validity;
  validity.name = cache_.may_cache_names() && covers(made->entry.pins, request.inode);
  out.entry = encode_entry(made->entry.value, validity);
  out.open.fh = raw(made->handle);
  out.open.open_flags = open_flags_for(in.flags);
  const fs::InodeNumber inode = made->entry.value.inode;
  const bool is_new = cache_.looked_up(inode, made->entry.value.generation, false);
  cache_.inode_told(inode, made->entry.value.size, is_new);
  opened(inode, in.flags);
  if (reply_with(request, out) == 0) {
    note_if_direct(out.open);
    co_return;
  }
  // Nobody waits for it any more, so nobody will release or forget it.
  closed(inode, in.flags);
  forget(raw(inode), 1);
  (void)co_await operations_->release(made->handle);
}

Task<void> Session::readdir(Request request, fuse_read_in in, bool plus) {
  constexpr std::size_t smallest_entry = 32;
  const std::size_t limit = std::min<std::size_t>(in.size, fs::io_size_max);
  auto listing =
      co_await operations_->readdir(request.inode, in.offset, limit / smallest_entry, plus);
  if (!listing) {
    reply_error(request, listing.error());
    co_return;
  }
  const bool may_cache = cache_.may_cache_names() && covers(listing->pins, request.inode);
  Bytes out;
  out.reserve(limit);
  std::vector<const fs::Attributes*> told;
  for (const fs::DirectoryEntry& entry : listing->value) {
    if (!plus) {
      if (!append_entry(out, limit, entry)) break;
      continue;
    }
    fuse_entry_out head{};
    const bool named = entry.attributes && !cache_.settling(entry.inode) && entry.name != "." &&
                       entry.name != ".." &&
                       cache_.is_sure_of_size(entry.inode, entry.attributes->size);
    if (named) {
      Validity validity;
      validity.name = may_cache;
      validity.attributes = covers(listing->pins, entry.inode);
      head = encode_entry(*entry.attributes, validity);
      if (validity.attributes) cache_.attributes_told(entry.inode);
    }
    if (!append_entry_plus(out, limit, entry, head)) break;
    if (named) told.push_back(&*entry.attributes);
  }
  for (const fs::Attributes* attributes : told) {
    const bool is_new =
        cache_.looked_up(attributes->inode, attributes->generation, S_ISDIR(attributes->mode));
    if (S_ISREG(attributes->mode)) cache_.inode_told(attributes->inode, attributes->size, is_new);
  }
  if (reply(request, out.data(), out.size()) == 0) {
    cache_.listing_sent(request.inode, request.thread);
  } else {
    for (const fs::Attributes* attributes : told) forget(raw(attributes->inode), 1);
  }
}

// ---- attributes and data

Task<void> Session::getattr(Request request) {
  if (cache_.is_ours(request.thread)) {
    const auto told = cache_.attributes_for(request.inode, request.thread);
    if (told || request.inode == fs::root_inode) {
      reply_with(request, encode_attributes(told.value_or(root_), false));
    } else {
      reply_errno(request, EAGAIN);
    }
    co_return;
  }
  DataRequest data;
  data.unique = request.unique;
  data.kind = DataKind::attributes;
  data.range = {0, 0};
  fs::Access access = co_await admitted(request.inode, data);
  std::uint32_t times = 0;  // that it was tried to make sure
  for (bool made_sure = false;;) {
    Result<fs::Covered<fs::Attributes>> found;
    if (data.waits) {
      found = co_await operations_->getattr_unless_revoked(request.inode, lock::Mode::exclusive);
    } else if (access == fs::Access::under_revoke) {
      found = co_await operations_->getattr_under_revoke(request.inode);
    } else {
      found = co_await operations_->getattr(request.inode);
    }
    cache_.executed(request.inode, access);
    const bool must_wait = found && !data.waits && !cache_.may_cut_pages(request.inode) &&
                           cache_.may_believe_in_more(request.inode, found->value.size);
    if (must_wait || (!found && data.waits && found.error().code == Errc::again)) {
      if (found) found->pins.clear();
      cache_.replying(request.inode, data, access);
      if (!must_wait) co_await sleep_until(executor_, executor_.now() + repeat_interval);
      data.waits = true;
      access = co_await admitted(request.inode, data);
      continue;
    }
    if (cache_.settling(request.inode)) {
      if (found) found->pins.clear();
      co_await cache_.settled(request.inode);
    } else if (found && !made_sure && !cache_.is_sure_of_size(request.inode, found->value.size)) {
      made_sure = co_await cache_.make_sure_of_size(found->value, is_last(times));
      found->pins.clear();
      // What keeps others out may be the call itself that asks: lseek(2) to the end.
      if (!made_sure) co_await cache_.wait_for_changer(request.inode);
      ++times;
    } else {
      reply_attributes(request, data, access, found);
      co_return;
    }
    cache_.executing(request.inode, access);
  }
}

void Session::reply_attributes(const Request& request, const DataRequest& data, fs::Access access,
                               const Result<fs::Covered<fs::Attributes>>& found) {
  cache_.replying(request.inode, data, access);
  if (!found) {
    reply_error(request, found.error());
    return;
  }
  cache_.size_told(request.inode, found->value.size);
  if (request.inode == fs::root_inode) root_ = found->value;
  const bool valid =
      covers(found->pins, request.inode) || planted(Fault::fuse_attributes_uncovered);
  if (valid) cache_.attributes_told(request.inode);
  reply_with(request, encode_attributes(found->value, valid));
}

Task<fs::Access> Session::admitted(fs::InodeNumber inode, DataRequest data) {
  for (;;) {
    switch (cache_.arrives(inode, data)) {
      case PageGate::Verdict::run:
        co_return fs::Access::normal;
      case PageGate::Verdict::run_under_revoke:
        co_return fs::Access::under_revoke;
      case PageGate::Verdict::keep:
        break;
    }
    const fs::Access access = co_await cache_.turn(data.unique);
    if (access == fs::Access::under_revoke) co_return access;
  }
}

Task<bool> Session::to_be_repeated(fs::InodeNumber inode, DataRequest data, fs::Access access,
                                   Errc code) {
  if (code != Errc::again || access != fs::Access::normal) co_return false;
  cache_.withdraw(inode, data);
  // The revoke may have begun in the file system and not yet here.
  co_await sleep_until(executor_, executor_.now() + repeat_interval);
  co_return true;
}

Task<void> Session::setattr(Request request, fuse_setattr_in in) {
  const fs::Changes changes = decode_changes(in);
  if (cache_.is_ours(request.thread)) {
    const auto to_set = cache_.size_for(request.inode, request.thread);
    if (to_set) {
      reply_with(request, encode_attributes(*to_set, false));
    } else {
      reply_errno(request, EAGAIN);
    }
    co_return;
  }
  DataRequest data;
  data.unique = request.unique;
  data.kind = DataKind::truncate;
  data.range = {in.size, Range::no_end};
  cache_.changes_file(request.inode);
  for (;;) {
    fs::Access access = fs::Access::normal;
    if (changes.size) access = co_await admitted(request.inode, data);
    auto done = co_await operations_->setattr(request.inode, changes, request.caller, access);
    cache_.executed(request.inode, access);
    if (!done && changes.size) {
      const bool repeat = co_await to_be_repeated(request.inode, data, access, done.error().code);
      if (repeat) continue;
    }
    if (changes.size) cache_.replying(request.inode, data, access);
    if (!done) {
      reply_error(request, done.error());
    } else {
      // Not for ever even if covered: the kernel takes these attributes without asking whether they
      // were invalidated between our reply and its waking up (docs/kernel.md, "Attributes").
      cache_.size_set_by(request.inode, request.thread, done->value.size);
      reply_with(request, encode_attributes(done->value, false));
    }
    co_return;
  }
}

// An append that the kernel puts into its page cache goes there at the end that it knows, in one
// WRITE for each page; and while it is under way the kernel learns of no other end. Directly it is
// one WRITE, so that nobody else's bytes come between.
std::uint32_t Session::open_flags_for(std::uint32_t flags) const {
  const bool appends = is_writable(flags) && (flags & O_APPEND) != 0;
  const bool may_map = (flags & O_ACCMODE) == O_RDWR;
  const bool direct = appends && (direct_may_map_ || !may_map);
  return FOPEN_KEEP_CACHE | (direct ? FOPEN_DIRECT_IO : 0);
}

Task<void> Session::open_file(Request request, std::uint32_t flags) {
  auto handle = co_await operations_->open(request.inode, flags);
  if (!handle) {
    reply_error(request, handle.error());
    co_return;
  }
  fuse_open_out out{};
  out.fh = raw(*handle);
  out.open_flags = open_flags_for(flags);
  opened(request.inode, flags);
  if (reply_with(request, out) == 0) {
    note_if_direct(out);
    co_return;
  }
  closed(request.inode, flags);
  (void)co_await operations_->release(*handle);
}

void Session::note_if_direct(const fuse_open_out& opened) {
  if ((opened.open_flags & FOPEN_DIRECT_IO) != 0) direct_handles_.insert(opened.fh);
}

void Session::opened(fs::InodeNumber inode, std::uint32_t flags) {
  ++handles_[inode];
  cache_.opened(inode, flags);
}

bool Session::closed(fs::InodeNumber inode, std::uint32_t flags) {
  cache_.closed(inode, flags);
  const auto found = handles_.find(inode);
  if (found == handles_.end() || --found->second > 0) return false;
  handles_.erase(found);
  return true;
}

Task<void> Session::release(Request request, fuse_release_in in) {
  direct_handles_.erase(in.fh);
  if ((in.release_flags & FUSE_RELEASE_FLOCK_UNLOCK) != 0) {
    (void)co_await operations_->drop_file_locks(request.inode, true, in.lock_owner);
  }
  // Locks of open file descriptions (F_OFD_SETLK) end without a message; at the latest they end
  // here.
  if (closed(request.inode, in.flags) && record_locked_.contains(request.inode)) {
    const std::set<std::uint64_t> owners = std::move(record_locked_[request.inode]);
    record_locked_.erase(request.inode);
    for (const std::uint64_t owner : owners) {
      (void)co_await operations_->drop_file_locks(request.inode, false, owner);
    }
  }
  auto done = co_await operations_->release(fs::HandleId{in.fh});
  reply_status(request, done);
}

// READs of more than a page are sent ahead of those who want them. Who waits for a page that such a
// one could not fill asks for it alone.
bool Session::is_ahead(const fuse_read_in& in) const {
  const bool direct = (in.flags & O_DIRECT) != 0 || direct_handles_.contains(in.fh);
  return in.size > page_size && !direct;
}

Task<void> Session::read(Request request, fuse_read_in in) {
  DataRequest data;
  data.unique = request.unique;
  data.kind = DataKind::read;
  data.range = range_of(in.offset, in.size);
  for (;;) {
    const fs::Access access = co_await admitted(request.inode, data);
    auto bytes = co_await operations_->read(request.inode, in.offset, in.size, access);
    cache_.executed(request.inode, access);
    // What is behind the end would be shown as zeros. A READ's own reply may be ignored, too.
    bool refused = false;
    for (std::uint32_t times = 0;
         times < size_attempts && bytes && bytes->size() < in.size && !refused &&
         cache_.may_believe_in_more(request.inode, in.offset + bytes->size());
         ++times) {
      const bool sure = co_await make_sure_of_size(request.inode, access, false);
      refused = !sure && is_ahead(in);
      if (!sure && !refused) co_await back_off(times);
      cache_.executing(request.inode, access);
      bytes = co_await operations_->read(request.inode, in.offset, in.size, access);
      cache_.executed(request.inode, access);
    }
    if (!bytes) {
      const bool repeat = co_await to_be_repeated(request.inode, data, access, bytes.error().code);
      if (repeat) continue;
    }
    cache_.replying(request.inode, data, access);
    if (bytes && refused) {
      reply_errno(request, EAGAIN);
    } else if (bytes) {
      const std::uint64_t end = in.offset + bytes->size();
      if (bytes->size() < in.size && cache_.may_believe_in_more(request.inode, end)) {
        cache_.size_told(request.inode, end);
      }
      reply(request, bytes->data(), bytes->size());
      cache_.read_sent(request.inode, data.range, request.thread);
    } else {
      reply_error(request, bytes.error());
    }
    co_return;
  }
}

Task<void> Session::back_off(std::uint32_t times) {
  return sleep_until(executor_, executor_.now() + repeat_interval * (1u << std::min(times, 5u)));
}

Task<bool> Session::make_sure_of_size(fs::InodeNumber inode, fs::Access access, bool may_ask) {
  Result<fs::Covered<fs::Attributes>> now;
  if (access == fs::Access::under_revoke) {
    now = co_await operations_->getattr_under_revoke(inode);
  } else {
    const lock::Mode mode =
        cache_.may_cut_pages(inode) ? lock::Mode::shared : lock::Mode::exclusive;
    now = co_await operations_->getattr_unless_revoked(inode, mode);
  }
  if (!now) co_return true;
  const bool sure = co_await cache_.make_sure_of_size(now->value, may_ask);
  co_return sure;
}

Task<Result<fs::WriteReply>> Session::write_once(Request request, fuse_write_in in,
                                                 SharedBytes bytes, fs::Access access) {
  const bool kill_suid = (in.write_flags & write_kill_suidgid) != 0;
  if (kind_of(in) == DataKind::writepage) {
    auto done =
        co_await operations_->write_mapped(request.inode, in.offset, bytes, kill_suid, access);
    if (done) done->written = in.size;
    co_return done;
  }
  auto done =
      co_await operations_->write(request.inode, in.offset, bytes, appends(in), kill_suid, access);
  co_return done;
}

// Where the kernel does not know the true end, a mapping's dirty page around it holds zeros beyond
// it. It must be written before the append, or it is written over it.
Task<void> Session::flush_before_append(fs::InodeNumber inode, std::uint64_t offset,
                                        std::uint64_t length, fs::Access access) {
  std::uint64_t end = offset;
  if (access == fs::Access::under_revoke) {
    auto now = co_await operations_->getattr_under_revoke(inode);
    if (now) end = now->value.size;
  } else {
    auto now = co_await operations_->getattr(inode);
    if (now) end = now->value.size;
  }
  if (end != offset) co_await cache_.invalidate_before_append(inode, range_of(end, length));
}

Task<void> Session::write(Request request, fuse_write_in in, SharedBytes bytes) {
  const bool of_mapping = (in.write_flags & FUSE_WRITE_CACHE) != 0;
  DataRequest data;
  data.unique = request.unique;
  data.kind = kind_of(in);
  data.range = range_of(in.offset, in.size);
  if (!of_mapping) cache_.changes_file(request.inode);
  // A direct WRITE holds no page, so that nothing waits for it while it waits for the size. Once is
  // enough: it may have to try again because the size was asked for under a shared lock.
  bool flush_first = appends(in) && data.kind == DataKind::direct_write;
  for (;;) {
    const fs::Access access = co_await admitted(request.inode, data);
    if (std::exchange(flush_first, false) && cache_.may_have_dirty_pages(request.inode)) {
      cache_.executed(request.inode, access);
      co_await flush_before_append(request.inode, in.offset, bytes.size(), access);
      cache_.executing(request.inode, access);
    }
    auto written = co_await write_once(request, in, bytes, access);
    cache_.executed(request.inode, access);
    if (!written) {
      const bool repeat =
          co_await to_be_repeated(request.inode, data, access, written.error().code);
      if (repeat) continue;
    }
    cache_.written(request.inode, data);
    if (cache_.setting_size(request.inode)) co_await cache_.wait_while_setting_size(request.inode);
    if (written && !of_mapping) {
      const Range where = range_of(written->offset, written->written);
      if (cache_.must_invalidate(request.inode, data, where)) {
        co_await cache_.invalidate_own(request.inode, data, where);
      }
    }
    cache_.replying(request.inode, data, access);
    if (!written) {
      reply_error(request, written.error());
    } else {
      if (!of_mapping)
        cache_.written_by(request.inode, request.thread, in.offset + written->written);
      fuse_write_out out{};
      out.size = static_cast<std::uint32_t>(written->written);
      reply_with(request, out);
    }
    co_return;
  }
}

Task<void> Session::flush(Request request, fuse_flush_in in) {
  auto done = co_await operations_->drop_file_locks(request.inode, false, in.lock_owner);
  reply_status(request, done);
}

Task<void> Session::fsync(Request request, bool data_only) {
  auto done = co_await operations_->fsync(request.inode, data_only);
  reply_status(request, done);
}

Task<void> Session::sync_everything(Request request) {
  auto done = co_await operations_->sync_everything();
  reply_status(request, done);
}

Task<void> Session::statfs(Request request) {
  auto found = co_await operations_->statfs();
  if (!found) {
    reply_error(request, found.error());
    co_return;
  }
  fuse_statfs_out out{};
  out.st.blocks = found->blocks_total;
  out.st.bfree = found->blocks_free;
  out.st.bavail = found->blocks_free;
  out.st.files = found->inodes_total;
  out.st.ffree = found->inodes_free;
  out.st.bsize = static_cast<std::uint32_t>(found->block_size);
  out.st.frsize = static_cast<std::uint32_t>(found->block_size);
  out.st.namelen = fs::name_max;
  reply_with(request, out);
}

// ---- file locks

Task<void> Session::test_lock(Request request, fuse_lk_in in) {
  auto found = co_await operations_->test_file_lock(decode_lock(raw(request.inode), in));
  if (!found) {
    reply_error(request, found.error());
    co_return;
  }
  reply_with(request, encode_lock(*found));
}

Task<void> Session::set_lock(Request request, fuse_lk_in in, bool wait) {
  const clerk::FileLock lock = decode_lock(raw(request.inode), in);
  // From the first fcntl lock on, closing a descriptor of this file drops its owner's locks.
  if (!lock.is_flock && lock.mode != lock::Mode::none) {
    record_locked_[request.inode].insert(lock.owner);
  }
  if (wait) waiting_locks_.insert(request.unique);
  auto done = co_await operations_->set_file_lock(lock, wait, request.unique);
  if (wait) waiting_locks_.erase(request.unique);
  reply_status(request, done);
}

// ---- replies

int Session::reply(const Request& request, const void* body, std::size_t size) {
  const bool of_a_path = request.opcode == FUSE_LOOKUP || request.opcode == FUSE_GETATTR;
  if (!of_a_path) cache_.second_lookup().answered(request.thread);
  fuse_out_header header{};
  header.unique = request.unique;
  header.len = static_cast<std::uint32_t>(sizeof header + size);
  const std::array<iovec, 2> parts{iovec{&header, sizeof header},
                                   iovec{const_cast<void*>(body), size}};
  const int error = device_->reply(std::span(parts).first(size == 0 ? 1 : 2));
  if (error != 0 && error != ENOENT && error != ENODEV && error != ECONNABORTED) {
    log_error(absl::StrCat("the kernel refuses our reply to request ", request.opcode, ": ",
                           strerror(error)));
  }
  return error;
}

void Session::reply_errno(const Request& request, int error) {
  ++statistics_.errors;
  cache_.second_lookup().answered(request.thread);
  if (error == ESTALE) cache_.second_lookup().found_stale(request.thread);
  fuse_out_header header{};
  header.unique = request.unique;
  header.len = sizeof header;
  header.error = -error;
  const iovec part{&header, sizeof header};
  device_->reply(std::span(&part, 1));
}

void Session::reply_error(const Request& request, const Error& error) {
  if (worth_a_log_line(error.code)) {
    const TimePoint now = executor_.now();
    if (now - last_logged_ < 1s) {
      ++not_logged_;
    } else {
      log_warning(absl::StrCat(
          "request ", request.opcode, " of inode ", raw(request.inode), " fails: ", error.message(),
          not_logged_ > 0 ? absl::StrCat(" (and ", not_logged_, " more)") : ""));
      last_logged_ = now;
      not_logged_ = 0;
    }
  }
  reply_errno(request, errno_of(error.code));
}

void Session::reply_status(const Request& request, const Status& status) {
  if (status) {
    reply_done(request);
  } else {
    reply_error(request, status.error());
  }
}

int Session::reply_entry(const Request& request, const fuse_entry_out& entry) {
  const fs::InodeNumber inode{entry.nodeid};
  const bool is_new = cache_.looked_up(inode, entry.generation, S_ISDIR(entry.attr.mode));
  if (S_ISREG(entry.attr.mode)) cache_.inode_told(inode, entry.attr.size, is_new);
  if (entry.attr_valid != 0) cache_.attributes_told(inode);
  const int error = reply_with(request, entry);
  if (error != 0) forget(entry.nodeid, 1);
  return error;
}

void Session::reply_created(const Request& request,
                            const Result<fs::Covered<fs::Attributes>>& made) {
  if (!made) {
    reply_error(request, made.error());
    return;
  }
  Validity validity;
  validity.name = cache_.may_cache_names() && covers(made->pins, request.inode);
  reply_entry(request, encode_entry(made->value, validity));
}

}  // namespace plumeria::fuse
