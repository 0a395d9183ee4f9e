#include "fuse/data_requests.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "base/fault.h"
#include "base/number.h"

namespace plumeria::fuse {

namespace {

constexpr Duration repeat_interval = 50us;
constexpr Duration read_patience = 500ms, held_up_patience = 20ms, writer_patience = 3ms;

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

DataRequests::DataRequests(os::RealExecutor& executor, fs::Operations& operations,
                           KernelCache& cache, Replies& replies, LockRequests& locks)
    : executor_(executor),
      operations_(operations),
      cache_(cache),
      replies_(replies),
      locks_(locks) {
  root_.inode = fs::root_inode;
  root_.mode = S_IFDIR | 0755;
  root_.links = 2;
}

Task<void> DataRequests::getattr(Request request) {
  if (cache_.sizes().is_ours(request.thread)) {
    const auto told = cache_.sizes().attributes_for(request.inode, request.thread);
    if (told || request.inode == fs::root_inode) {
      replies_.with(request, encode_attributes(told.value_or(root_), false));
    } else {
      replies_.failed(request, EAGAIN);
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
      found = co_await operations_.getattr_unless_revoked(request.inode, lock::Mode::exclusive);
    } else if (access == fs::Access::under_revoke) {
      found = co_await operations_.getattr_under_revoke(request.inode);
    } else {
      found = co_await operations_.getattr(request.inode);
    }
    cache_.executed(request.inode, access);
    const bool must_wait = found && !data.waits && !cache_.may_cut_pages(request.inode) &&
                           cache_.sizes().may_believe_in_more(request.inode, found->value.size);
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
    } else if (found && !made_sure &&
               !cache_.sizes().is_sure_of_size(request.inode, found->value.size)) {
      made_sure = co_await cache_.sizes().make_sure_of_size(found->value, is_last(times));
      found->pins.clear();
      // What keeps others out may be the call itself that asks: lseek(2) to the end.
      if (!made_sure) co_await cache_.sizes().wait_for_changer(request.inode);
      if (is_last(times++)) made_sure = true;  // Else it is only told, and may be ignored.
    } else {
      reply_attributes(request, data, access, found);
      co_return;
    }
    cache_.executing(request.inode, access);
  }
}

void DataRequests::reply_attributes(const Request& request, const DataRequest& data,
                                    fs::Access access,
                                    const Result<fs::Covered<fs::Attributes>>& found) {
  cache_.replying(request.inode, data, access);
  if (!found) {
    const auto removed = cache_.removed_directory(request.inode);
    if (removed && found.error().code == Errc::stale) {
      replies_.with(request, encode_attributes(*removed, false));
    } else {
      replies_.failed(request, found.error());
    }
    return;
  }
  cache_.attributes_sent(found->value);
  cache_.sizes().size_told(request.inode, found->value.size);
  if (request.inode == fs::root_inode) root_ = found->value;
  const bool valid =
      covers(found->pins, request.inode) || planted(Fault::fuse_attributes_uncovered);
  if (valid) cache_.attributes_told(request.inode);
  replies_.with(request, encode_attributes(found->value, valid));
}

Task<fs::Access> DataRequests::admitted(fs::InodeNumber inode, DataRequest data) {
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

Task<bool> DataRequests::to_be_repeated(fs::InodeNumber inode, DataRequest data, fs::Access access,
                                        Errc code) {
  if (code != Errc::again || access != fs::Access::normal) co_return false;
  cache_.withdraw(inode, data);
  // The revoke may have begun in the file system and not yet here.
  co_await sleep_until(executor_, executor_.now() + repeat_interval);
  co_return true;
}

Task<void> DataRequests::setattr(Request request, fuse_setattr_in in) {
  const fs::Changes changes = decode_changes(in);
  if (cache_.sizes().is_ours(request.thread)) {
    const auto to_set = cache_.sizes().size_for(request.inode, request.thread);
    if (to_set) {
      replies_.with(request, encode_attributes(*to_set, false));
    } else {
      replies_.failed(request, EAGAIN);
    }
    co_return;
  }
  DataRequest data;
  data.unique = request.unique;
  data.kind = DataKind::truncate;
  data.range = {in.size, Range::no_end};
  cache_.sizes().changes_file(request.inode);
  for (;;) {
    fs::Access access = fs::Access::normal;
    if (changes.size) access = co_await admitted(request.inode, data);
    auto done = co_await operations_.setattr(request.inode, changes, request.caller, access);
    cache_.executed(request.inode, access);
    if (!done && changes.size) {
      const bool repeat = co_await to_be_repeated(request.inode, data, access, done.error().code);
      if (repeat) continue;
    }
    if (changes.size) cache_.replying(request.inode, data, access);
    if (!done) {
      replies_.failed(request, done.error());
    } else {
      // Not for ever even if covered: the kernel takes these attributes without asking whether they
      // were invalidated between our reply and its waking up (docs/kernel.md, "Attributes").
      cache_.attributes_sent(done->value);
      cache_.sizes().size_set_by(request.inode, request.thread, done->value.size);
      replies_.with(request, encode_attributes(done->value, false));
    }
    co_return;
  }
}

// An append that the kernel puts into its page cache goes there at the end that it knows, in one
// WRITE for each page; and while it is under way the kernel learns of no other end. Directly it is
// one WRITE, so that nobody else's bytes come between.
std::uint32_t DataRequests::open_flags_for(std::uint32_t flags) const {
  const bool appends = is_writable(flags) && (flags & O_APPEND) != 0;
  const bool may_map = (flags & O_ACCMODE) == O_RDWR;
  const bool direct = appends && (direct_may_map_ || !may_map);
  return FOPEN_KEEP_CACHE | (direct ? FOPEN_DIRECT_IO : 0);
}

Task<void> DataRequests::open_file(Request request, std::uint32_t flags) {
  auto handle = co_await operations_.open(request.inode, flags);
  if (!handle) {
    replies_.failed(request, handle.error());
    co_return;
  }
  fuse_open_out out{};
  out.fh = raw(*handle);
  out.open_flags = open_flags_for(flags);
  opened(request.inode, flags);
  if (replies_.with(request, out) == 0) {
    note_if_direct(out);
    co_return;
  }
  closed(request.inode, flags);
  (void)co_await operations_.release(*handle);
}

void DataRequests::note_if_direct(const fuse_open_out& opened) {
  if ((opened.open_flags & FOPEN_DIRECT_IO) != 0) direct_handles_.insert(opened.fh);
}

void DataRequests::opened(fs::InodeNumber inode, std::uint32_t flags) {
  ++handles_[inode];
  cache_.opened(inode, flags);
}

bool DataRequests::closed(fs::InodeNumber inode, std::uint32_t flags) {
  cache_.closed(inode, flags);
  const auto found = handles_.find(inode);
  if (found == handles_.end() || --found->second > 0) return false;
  handles_.erase(found);
  return true;
}

Task<void> DataRequests::release(Request request, fuse_release_in in) {
  direct_handles_.erase(in.fh);
  if ((in.release_flags & FUSE_RELEASE_FLOCK_UNLOCK) != 0) {
    (void)co_await operations_.drop_file_locks(request.inode, true, in.lock_owner);
  }
  if (closed(request.inode, in.flags)) co_await locks_.closed(request.inode);
  auto done = co_await operations_.release(fs::HandleId{in.fh});
  replies_.status(request, done);
}

// READs of more than a page are sent ahead of those who want them. Who waits for a page that such a
// one could not fill asks for it alone.
bool DataRequests::is_ahead(const fuse_read_in& in) const {
  const bool direct = (in.flags & O_DIRECT) != 0 || direct_handles_.contains(in.fh);
  return in.size > page_size && !direct;
}

Task<void> DataRequests::read(Request request, fuse_read_in in) {
  DataRequest data;
  data.unique = request.unique;
  data.kind = DataKind::read;
  data.range = range_of(in.offset, in.size);
  for (;;) {
    const fs::Access access = co_await admitted(request.inode, data);
    auto bytes = co_await operations_.read(request.inode, in.offset, in.size, access);
    cache_.executed(request.inode, access);
    // What is behind the end would be shown as zeros. A READ's own reply may be ignored, too.
    bool refused = false;
    SizeAttempts attempts{executor_.now(), executor_.now(), 0, 0};
    while (bytes && bytes->size() < in.size && !refused && may_try_again(request.inode, attempts) &&
           cache_.sizes().may_believe_in_more(request.inode, in.offset + bytes->size())) {
      const bool sure = co_await make_sure_of_size(request.inode, access, false);
      refused = !sure && is_ahead(in);
      if (!sure && !refused) {
        count_attempt(request.inode, attempts);
        co_await back_off(attempts.times++);
      }
      cache_.executing(request.inode, access);
      bytes = co_await operations_.read(request.inode, in.offset, in.size, access);
      cache_.executed(request.inode, access);
    }
    if (!bytes) {
      const bool repeat = co_await to_be_repeated(request.inode, data, access, bytes.error().code);
      if (repeat) continue;
    }
    cache_.replying(request.inode, data, access);
    if (bytes && refused) {
      replies_.failed(request, EAGAIN);
    } else if (bytes) {
      const std::uint64_t end = in.offset + bytes->size();
      if (bytes->size() < in.size && cache_.sizes().may_believe_in_more(request.inode, end)) {
        cache_.count_unsure_read();
        cache_.sizes().size_told(request.inode, end);
      }
      replies_.send(request, bytes->data(), bytes->size());
      cache_.read_sent(request.inode, data.range, request.thread);
    } else {
      replies_.failed(request, bytes.error());
    }
    co_return;
  }
}

void DataRequests::count_attempt(fs::InodeNumber inode, SizeAttempts& attempts) const {
  if (!cache_.sizes().is_in_the_way(inode)) ++attempts.in_vain;
  if (!cache_.sizes().is_held_up(inode)) attempts.ran = executor_.now();
}

// A thread of ours that has not had a processor is waited for. One that sleeps waits for whoever is
// changing the file, and he may wait for this READ: a write(2) for its page, others for the lock
// that does not go before the READ is answered.
bool DataRequests::may_try_again(fs::InodeNumber inode, const SizeAttempts& attempts) const {
  const TimePoint now = executor_.now();
  const Duration asleep = cache_.has_writer(inode) ? writer_patience : held_up_patience;
  return attempts.in_vain < size_attempts && now - attempts.ran <= asleep &&
         now - attempts.began <= read_patience;
}

Task<void> DataRequests::back_off(std::uint32_t times) {
  return sleep_until(executor_, executor_.now() + repeat_interval * (1u << std::min(times, 5u)));
}

Task<bool> DataRequests::make_sure_of_size(fs::InodeNumber inode, fs::Access access, bool may_ask) {
  Result<fs::Covered<fs::Attributes>> now;
  if (access == fs::Access::under_revoke) {
    now = co_await operations_.getattr_under_revoke(inode);
  } else {
    const lock::Mode mode =
        cache_.may_cut_pages(inode) ? lock::Mode::shared : lock::Mode::exclusive;
    now = co_await operations_.getattr_unless_revoked(inode, mode);
  }
  if (!now) co_return true;
  const bool sure = co_await cache_.sizes().make_sure_of_size(now->value, may_ask);
  co_return sure;
}

Task<Result<fs::WriteReply>> DataRequests::write_once(Request request, fuse_write_in in,
                                                      SharedBytes bytes, fs::Access access) {
  const bool kill_suid = (in.write_flags & write_kill_suidgid) != 0;
  if (kind_of(in) == DataKind::writepage) {
    auto done =
        co_await operations_.write_mapped(request.inode, in.offset, bytes, kill_suid, access);
    if (done) done->written = in.size;
    co_return done;
  }
  auto done =
      co_await operations_.write(request.inode, in.offset, bytes, appends(in), kill_suid, access);
  co_return done;
}

// Where the kernel does not know the true end, a mapping's dirty page around it holds zeros beyond
// it. It must be written before the append, or it is written over it.
Task<void> DataRequests::flush_before_append(fs::InodeNumber inode, std::uint64_t offset,
                                             std::uint64_t length, fs::Access access) {
  std::uint64_t end = offset;
  if (access == fs::Access::under_revoke) {
    auto now = co_await operations_.getattr_under_revoke(inode);
    if (now) end = now->value.size;
  } else {
    auto now = co_await operations_.getattr(inode);
    if (now) end = now->value.size;
  }
  if (end != offset) co_await cache_.invalidate_before_append(inode, range_of(end, length));
}

Task<void> DataRequests::write(Request request, fuse_write_in in, SharedBytes bytes) {
  const bool of_mapping = (in.write_flags & FUSE_WRITE_CACHE) != 0;
  DataRequest data;
  data.unique = request.unique;
  data.kind = kind_of(in);
  data.range = range_of(in.offset, in.size);
  if (!of_mapping) cache_.sizes().changes_file(request.inode);
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
    if (cache_.sizes().setting(request.inode))
      co_await cache_.sizes().wait_while_setting(request.inode);
    if (written && !of_mapping) {
      const Range where = range_of(written->offset, written->written);
      if (cache_.must_invalidate(request.inode, data, where)) {
        co_await cache_.invalidate_own(request.inode, data, where);
      }
    }
    cache_.replying(request.inode, data, access);
    if (!written) {
      replies_.failed(request, written.error());
    } else {
      if (!of_mapping)
        cache_.sizes().written_by(request.inode, request.thread, in.offset + written->written);
      fuse_write_out out{};
      out.size = static_cast<std::uint32_t>(written->written);
      replies_.with(request, out);
    }
    co_return;
  }
}

// The kernel holds the file as for a truncation, has sent what is dirty of the range, and forgets
// its pages when this is answered.
Task<void> DataRequests::fallocate(Request request, fuse_fallocate_in in) {
  DataRequest data;
  data.unique = request.unique;
  data.kind = DataKind::truncate;
  data.range = range_of(in.offset, in.length);
  cache_.sizes().changes_file(request.inode);
  const bool kill_suid = request.caller.uid != 0;
  auto call = [this, request, in, kill_suid](fs::Access access) {
    return operations_.fallocate(request.inode, in.offset, in.length, in.mode, kill_suid, access);
  };
  auto done = co_await in_turn<Status>(request.inode, data, std::move(call));
  if (done && (in.mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)) != 0) {
    cache_.sizes().cuts_pages(request.inode, request.thread);
  }
  // The kernel lengthens the file by itself then.
  if (done && (in.mode & FALLOC_FL_KEEP_SIZE) == 0) {
    cache_.sizes().written_by(request.inode, request.thread, in.offset + in.length);
  }
  replies_.status(request, done);
}

// lseek(2) keeps those out who change the file.
Task<void> DataRequests::seek(Request request, fuse_lseek_in in) {
  DataRequest data;
  data.unique = request.unique;
  data.kind = DataKind::attributes;
  data.range = {0, 0};
  auto call = [this, request, in](fs::Access access) {
    return operations_.seek(request.inode, in.offset, in.whence == SEEK_HOLE, access);
  };
  auto found = co_await in_turn<Result<std::uint64_t>>(request.inode, data, std::move(call));
  if (!found) {
    replies_.failed(request, found.error());
    co_return;
  }
  fuse_lseek_out out{};
  out.offset = *found;
  replies_.with(request, out);
}

Task<void> DataRequests::fsync(Request request, bool data_only) {
  auto done = co_await operations_.fsync(request.inode, data_only);
  replies_.status(request, done);
}

Task<void> DataRequests::sync_everything(Request request) {
  auto done = co_await operations_.sync_everything();
  replies_.status(request, done);
}

Task<void> DataRequests::statfs(Request request) {
  auto found = co_await operations_.statfs();
  if (!found) {
    replies_.failed(request, found.error());
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
  replies_.with(request, out);
}

}  // namespace plumeria::fuse
