// Operations on open files and attributes.
#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/stat.h>

#include <algorithm>

#include "base/check.h"
#include "base/rare.h"
#include "fs/data.h"
#include "fs/file_system.h"
#include "fs/space.h"

namespace plumeria::fs {
namespace {

using format::InodeEditor;
using format::InodeView;

// Not for files: for metadata in place, logs of new mounts, registers.
constexpr std::uint64_t space_reserve = 16u << 20;

bool opens_for_writing(std::uint32_t flags) { return (flags & O_ACCMODE) != O_RDONLY; }

// What a write, a truncation or a change of owner leaves of the mode: no suid, and no sgid where it
// means "run as the group".
std::uint32_t without_suid(std::uint32_t mode) {
  if (!S_ISREG(mode)) return mode;
  mode &= ~std::uint32_t{S_ISUID};
  if ((mode & S_IXGRP) != 0) mode &= ~std::uint32_t{S_ISGID};
  return mode;
}

}  // namespace

Status FileSystem::check_lost(InodeNumber inode) const {
  const auto entry = core_.files.find(inode);
  if (entry != core_.files.end() && entry->second->lost) {
    return fail(Errc::io, absl::StrCat("inode ", raw(inode), " lost data with its mount's lease"));
  }
  return {};
}

HandleId FileSystem::add_handle(InodeNumber inode, std::uint64_t generation, std::uint32_t flags) {
  Handle handle;
  handle.id = HandleId{next_handle_++};
  handle.inode = inode;
  handle.generation = generation;
  handle.writable = opens_for_writing(flags);
  FileState& file = core_.file(inode);
  file.generation = generation;
  ++file.handles;
  if (handle.writable) ++file.writers;
  handles_.emplace(handle.id, handle);
  return handle.id;
}

Task<Result<HandleId>> FileSystem::open(InodeNumber inode, std::uint32_t flags) {
  CO_TRY_STATUS(check_lost(inode));
  // With a writer here, pages may be cached only under the exclusive lock; so it is had before the
  // first store can happen.
  const Mode mode = opens_for_writing(flags) ? Mode::exclusive : Mode::shared;
  auto pin = co_await core_.clerk.acquire(inode_lock(inode), mode);
  if (!pin) co_return fail(std::move(pin).error());
  auto block = co_await load_named(inode);
  if (!block) co_return fail(std::move(block).error());
  co_return add_handle(inode, InodeView(block->bytes()).generation(), flags);
}

Task<Status> FileSystem::release(HandleId id) {
  const auto entry = handles_.find(id);
  if (entry == handles_.end()) co_return fail(Errc::bad_handle);
  const Handle handle = entry->second;
  handles_.erase(entry);
  FileState& file = core_.file(handle.inode);
  CHECK(file.handles > 0);
  if (handle.writable) --file.writers;
  if (--file.handles == 0) {
    file.open_pin.drop();
    file.lost = false;
    file.generation = 0;
    if (std::exchange(file.reclaim_on_close, false)) {
      orphans_.look_at(Orphan{OrphanKind::inode, raw(handle.inode)});
    }
    core_.forget_if_idle(handle.inode);
  }
  co_return Status();
}

// Also of a file that lost data: a size without them would make a read(2) end early, not fail.
Task<Result<Covered<Attributes>>> FileSystem::getattr(InodeNumber inode) {
  CO_TRY_STATUS(check_lost(inode));
  auto pin = co_await core_.clerk.acquire(inode_lock(inode), Mode::shared);
  if (!pin) co_return fail(std::move(pin).error());
  auto reply = co_await attributes(inode);
  if (reply) reply->pins.push_back(std::move(*pin));
  co_return reply;
}

Task<Result<Covered<Attributes>>> FileSystem::getattr_under_revoke(InodeNumber inode) {
  // The revoke may be over by the time this runs; then there is no lock to answer under.
  if (core_.clerk.held(inode_lock(inode)) == Mode::none) co_return co_await getattr(inode);
  const UnderRevoke under_revoke(*this, inode, Mode::shared);
  co_return co_await attributes(inode);
}

Task<Result<Covered<Attributes>>> FileSystem::getattr_unless_revoked(InodeNumber inode, Mode mode) {
  CO_TRY_STATUS(check_lost(inode));
  auto hold = co_await hold_data(inode, mode, Access::normal);
  if (!hold) co_return fail(std::move(hold).error());
  auto reply = co_await attributes(inode);
  if (reply) reply->pins.push_back(std::move(hold->pin));
  co_return reply;
}

// Operations without a pin exclude each other as pins do, and the write-back, which clears what it
// has written.
bool FileSystem::may_run_unpinned(InodeNumber inode, Mode mode) const {
  if (writing_back_.contains(inode)) return false;
  const auto running = under_revoke_.find(inode);
  if (running == under_revoke_.end()) return true;
  return running->second.exclusive == 0 && mode == Mode::shared;
}

Task<Result<FileSystem::DataHold>> FileSystem::hold_data(InodeNumber inode, Mode mode,
                                                         Access access) {
  const LockName lock = inode_lock(inode);
  DataHold hold;
  while (access == Access::under_revoke) {
    if (core_.clerk.giving_up(lock)) {
      if (may_run_unpinned(inode, mode)) {
        rarely<"fs: a request is answered under a lock that is given up">();
        hold.under_revoke.emplace(*this, inode, mode);
        co_return hold;
      }
      co_await under_revoke_changed_.next();
      continue;
    }
    // No lock goes: the kernel is made to forget because the lease runs out, or has run out.
    if (auto pin = core_.clerk.try_local_to_forget(lock, mode)) {
      rarely<"fs: a request is answered because the lease runs out">();
      hold.pin = std::move(*pin);
      co_return hold;
    }
    if (is_lost_) co_return fail(Errc::lost);
    if (!lock::covers(core_.clerk.held(lock), mode)) {
      auto pin = co_await core_.clerk.acquire_unless_revoked(lock, mode);
      if (!pin && pin.error().code != Errc::again) co_return fail(std::move(pin).error());
      if (pin) {
        hold.pin = std::move(*pin);
        co_return hold;
      }
    }
    co_await sleep_for(core_.world, 1ms);
  }
  auto pin = co_await core_.clerk.acquire_unless_revoked(lock, mode);
  if (!pin) co_return fail(std::move(pin).error());
  hold.pin = std::move(*pin);
  co_return hold;
}

Task<Result<Covered<Attributes>>> FileSystem::attributes(InodeNumber inode) {
  auto block = co_await load_named(inode);
  if (!block) co_return fail(std::move(block).error());
  Covered<Attributes> reply;
  reply.value = attributes_of(block->bytes(), core_.find_file(inode));
  co_return reply;
}

Task<Result<Covered<Attributes>>> FileSystem::setattr(InodeNumber inode, Changes changes, Caller,
                                                      Access access) {
  CO_TRY_STATUS(check_lost(inode));
  if (changes.size && *changes.size > file_size_max) co_return fail(Errc::file_too_big);
  Covered<Attributes> reply;
  Pin barrier;
  DataHold hold;
  if (changes.size) {
    CO_TRY(barrier, co_await hold_barrier(inode, access));
    auto held = co_await hold_data(inode, Mode::exclusive, access);
    if (!held) co_return fail(std::move(held).error());
    hold.pin = std::move(held->pin);
    if (held->under_revoke) hold.under_revoke.emplace(*std::move(held->under_revoke));
  } else {
    CO_TRY(barrier, co_await core_.clerk.acquire(barrier_lock, Mode::shared));
    auto pin = co_await core_.clerk.acquire(inode_lock(inode), Mode::exclusive);
    if (!pin) co_return fail(std::move(pin).error());
    hold.pin = std::move(*pin);
  }
  auto block = co_await load_named(inode);
  if (!block) co_return fail(std::move(block).error());
  const InodeView view(block->bytes());
  if (changes.size) {
    if (view.is_directory()) co_return fail(Errc::is_directory);
    if (!view.is_regular()) co_return fail(Errc::invalid);
    const std::uint64_t before = size_of(block->bytes(), core_.find_file(inode));
    CO_TRY_STATUS(co_await truncate_data(core_, inode, *changes.size, true));
    if (*changes.size == before && !changes.mtime && !changes.mtime_now) changes.mtime_now = true;
    wake_.notify_all();
  }
  CO_TRY_STATUS(co_await set_attributes(inode, changes));
  reply.value = attributes_of(block->bytes(), core_.find_file(inode));
  if (hold.pin) reply.pins.push_back(std::move(hold.pin));
  co_return reply;
}

// Requires: the inode is held exclusively.
Task<Status> FileSystem::set_attributes(InodeNumber inode, const Changes& changes_by_reference) {
  const Changes changes = changes_by_reference;
  auto block = co_await load_named(inode);
  if (!block) co_return fail(std::move(block).error());
  auto reservation = co_await core_.log.reserve(operation_log_bytes, true);
  if (!reservation) co_return fail(std::move(reservation).error());
  std::optional<XattrBlock> xattrs;
  if (InodeView(block->bytes()).xattr_block() != 0 && (changes.mode || changes.kill_suid)) {
    CO_TRY(xattrs, co_await follow_attributes(*block, changes));
  }
  const std::int64_t now = core_.now();
  Transaction transaction(core_.cache);
  if (xattrs) CO_TRY_STATUS(save_xattrs(core_, transaction, *block, *xattrs, nullptr));
  MutableByteView bytes = transaction.edit(*block);
  const InodeView view(bytes);
  InodeEditor editor(bytes);
  std::uint32_t mode = view.mode();
  if (changes.mode) mode = (mode & S_IFMT) | (*changes.mode & 07777);
  if (changes.kill_suid) mode = without_suid(mode);
  editor.mode(mode);
  if (changes.uid) editor.uid(*changes.uid);
  if (changes.gid) editor.gid(*changes.gid);
  FileState* file = core_.find_file(inode);
  if (changes.atime_now) editor.atime(now);
  if (changes.atime) editor.atime(raw(*changes.atime));
  if (changes.mtime || changes.mtime_now) {
    editor.mtime(changes.mtime ? raw(*changes.mtime) : now);
    if (file != nullptr)
      file->mtime.reset();  // what was written before is older than what was asked for
  }
  editor.ctime(std::max(now, view.ctime()));
  auto position = transaction.commit(*reservation);
  if (!position) co_return fail(std::move(position).error());
  if (file != nullptr) file->last = *position;
  co_return Status();
}

Task<Result<std::string>> FileSystem::readlink(InodeNumber inode) {
  auto pin = co_await core_.clerk.acquire(inode_lock(inode), Mode::shared);
  if (!pin) co_return fail(std::move(pin).error());
  auto block = co_await load_named(inode);
  if (!block) co_return fail(std::move(block).error());
  const InodeView view(block->bytes());
  if (!view.is_symlink()) co_return fail(Errc::invalid);
  co_return std::string(as_text(view.inline_data()));
}

Task<Result<Bytes>> FileSystem::read(InodeNumber inode, std::uint64_t offset, std::uint32_t size,
                                     Access access) {
  CO_TRY_STATUS(check_lost(inode));
  for (;;) {
    const bool exclusive = has_writer(inode) && access == Access::normal;
    auto hold = co_await hold_data(inode, exclusive ? Mode::exclusive : Mode::shared, access);
    if (!hold) co_return fail(std::move(hold).error());
    // A writer may have come while we waited for the shared lock.
    if (!exclusive && has_writer(inode) && access == Access::normal) continue;
    co_return co_await read_data(core_, inode, offset, size);
  }
}

Task<Result<WriteReply>> FileSystem::write(InodeNumber inode, std::uint64_t offset,
                                           SharedBytes data, bool append, bool kill_suid,
                                           Access access) {
  return write_as(append ? WriteKind::append : WriteKind::at_offset, inode, offset, std::move(data),
                  kill_suid, access);
}

Task<Result<WriteReply>> FileSystem::write_mapped(InodeNumber inode, std::uint64_t offset,
                                                  SharedBytes data, bool kill_suid, Access access) {
  return write_as(WriteKind::mapped, inode, offset, std::move(data), kill_suid, access);
}

Task<Result<WriteReply>> FileSystem::write_as(WriteKind kind, InodeNumber inode,
                                              std::uint64_t offset, SharedBytes data,
                                              bool kill_suid, Access access) {
  CO_TRY_STATUS(check_lost(inode));
  WriteReply reply;
  if (data.empty()) co_return reply;
  Status has_space;
  if (access == Access::normal) {
    has_space = co_await take_space(data.size());
    if (!has_space && has_space.error().code != Errc::no_space) co_return fail(has_space.error());
    while (core_.dirty_bytes > dirty_data_max() && !is_lost_) {
      wake_.notify_all();
      co_await clean_.next();
    }
  }
  CO_TRY(const Pin barrier, co_await hold_barrier(inode, access));
  auto hold = co_await hold_data(inode, Mode::exclusive, access);
  if (!hold) co_return fail(std::move(hold).error());
  auto block = co_await load_named(inode);
  if (!block) co_return fail(std::move(block).error());
  const InodeView view(block->bytes());
  if (!view.is_regular()) co_return fail(Errc::invalid);
  const std::uint64_t end = size_of(block->bytes(), core_.find_file(inode));
  reply.offset = kind == WriteKind::append ? end : offset;
  if (kind == WriteKind::mapped && data.size() > std::max(end, offset) - offset) {
    data = data.slice(0, std::max(end, offset) - offset);
    if (data.empty()) co_return reply;
  }
  const std::uint64_t longest = std::min(file_size_max, segment_max_);
  if (reply.offset > longest || data.size() > longest - reply.offset) {
    co_return fail(Errc::file_too_big);
  }
  // What was reserved, or is written over, needs none, if no snapshot needs what is there.
  const std::uint64_t last = reply.offset + data.size();
  if (!has_space) {
    const auto snapshots = co_await core_.disk.list_snapshots();
    if (view.data_segment() == 0 || view.segment_bytes() < std::max(last, end) ||
        (snapshots && !snapshots->empty())) {
      co_return fail(has_space.error());
    }
  }
  reply.written = data.size();
  const bool was_dirty = core_.find_file(inode) != nullptr && core_.find_file(inode)->is_dirty();
  CO_TRY_STATUS(co_await write_data(core_, inode, reply.offset, std::move(data)));
  if (!was_dirty) wake_.notify_all();
  if (kill_suid) CO_TRY_STATUS(co_await kill_privileges(inode, *block));
  co_return reply;
}

Task<Status> FileSystem::fallocate(InodeNumber inode, std::uint64_t offset, std::uint64_t length,
                                   std::uint32_t mode, bool kill_suid, Access access) {
  constexpr std::uint32_t keep = FALLOC_FL_KEEP_SIZE, punch = FALLOC_FL_PUNCH_HOLE,
                          zero = FALLOC_FL_ZERO_RANGE;
  CO_TRY_STATUS(check_lost(inode));
  if (mode != 0 && mode != keep && mode != (punch | keep) && (mode | keep) != (zero | keep)) {
    co_return fail(Errc::not_supported);
  }
  if (length == 0) co_return fail(Errc::invalid);
  const bool reserves = (mode & punch) == 0;
  if (reserves) CO_TRY_STATUS(co_await take_space(length));
  while (access == Access::normal && core_.dirty_bytes > dirty_data_max() && !is_lost_) {
    wake_.notify_all();
    co_await clean_.next();
  }
  CO_TRY(const Pin barrier, co_await hold_barrier(inode, access));
  auto hold = co_await hold_data(inode, Mode::exclusive, access);
  if (!hold) co_return fail(std::move(hold).error());
  CO_TRY(const BlockRef block, co_await load_named(inode));
  if (!InodeView(block.bytes()).is_regular()) co_return fail(Errc::invalid);
  const std::uint64_t longest = reserves ? std::min(file_size_max, segment_max_) : file_size_max;
  if (offset > longest || length > longest - offset) co_return fail(Errc::file_too_big);
  const std::uint64_t end = offset + length;
  if ((mode & (punch | zero)) != 0) {
    CO_TRY_STATUS(co_await punch_data(core_, inode, offset, end, true));
  }
  if (reserves) {
    CO_TRY_STATUS(co_await reserve_data(core_, inode, offset, end, (mode & keep) != 0, true));
  }
  if (kill_suid) CO_TRY_STATUS(co_await kill_privileges(inode, block));
  wake_.notify_all();
  co_return Status();
}

Task<Result<std::uint64_t>> FileSystem::seek(InodeNumber inode, std::uint64_t offset, bool hole,
                                             Access access) {
  CO_TRY_STATUS(check_lost(inode));
  auto hold = co_await hold_data(inode, Mode::shared, access);
  if (!hold) co_return fail(std::move(hold).error());
  CO_TRY(const BlockRef block, co_await load_named(inode));
  if (!InodeView(block.bytes()).is_regular()) co_return fail(Errc::invalid);
  co_return co_await seek_data(core_, inode, offset, hole);
}

// Requires: the inode is held exclusively.
Task<Status> FileSystem::kill_privileges(InodeNumber inode, BlockRef block) {
  const InodeView view(block.bytes());
  CO_TRY(const XattrBlock all, co_await load_xattrs(core_, block));
  if (without_suid(view.mode()) == view.mode() && !all.xattrs.contains(capability_name)) {
    co_return Status();
  }
  Changes changes;
  changes.kill_suid = true;
  co_return co_await set_attributes(inode, changes);
}

Task<Status> FileSystem::fsync(InodeNumber inode, bool) {
  CO_TRY_STATUS(check_lost(inode));
  // Of a directory, or of a file that was opened again since: said once, as Linux does.
  if (lost_unsaid_.erase(inode) > 0) {
    co_return fail(Errc::io, absl::StrCat("inode ", raw(inode), " lost changes with a lease"));
  }
  if (const FileState* file = core_.find_file(inode); file != nullptr && file->is_dirty()) {
    auto pin = co_await core_.clerk.acquire(inode_lock(inode), Mode::exclusive);
    if (!pin) co_return fail(std::move(pin).error());
    CO_TRY_STATUS(co_await commit_data(core_, inode, false));
    clean_.notify_all();
  }
  // The lease may have gone meanwhile, and the data with it.
  CO_TRY_STATUS(check_lost(inode));
  co_return co_await core_.log.sync_all();
}

Task<Status> FileSystem::sync_everything() {
  if (!lost_unsaid_.empty()) {
    const std::size_t count = std::exchange(lost_unsaid_, {}).size();
    co_return fail(Errc::io, absl::StrCat(count, " inodes lost changes with a lease"));
  }
  co_return co_await commit_everything();
}

Task<Status> FileSystem::commit_everything() {
  std::vector<InodeNumber> dirty;
  for (const auto& [inode, file] : core_.files) {
    if (file->is_dirty()) dirty.push_back(inode);
  }
  for (InodeNumber inode : dirty) {
    const FileState* file = core_.find_file(inode);
    if (file == nullptr || !file->is_dirty()) continue;
    auto pin = co_await core_.clerk.acquire(inode_lock(inode), Mode::exclusive);
    if (!pin) co_return fail(std::move(pin).error());
    CO_TRY_STATUS(co_await commit_data(core_, inode, false));
    core_.forget_if_idle(inode);
  }
  clean_.notify_all();
  co_return co_await core_.log.sync_all();
}

// Asks the disk for its free space once a second, and in between counts what is promised, so that a
// write is refused before it is acknowledged rather than lost after.
Task<Status> FileSystem::take_space(std::uint64_t bytes) {
  const TimePoint now = core_.world.clock.now();
  if (bytes > space_ || now - space_asked_ > 1s) {
    space_asked_ = now;
    auto usage = co_await core_.disk.usage();
    if (!usage) co_return fail(std::move(usage).error());
    const std::uint64_t promised = core_.dirty_bytes + space_reserve;
    space_ = usage->available > promised ? usage->available - promised : 0;
    segment_max_ = usage->segment_max;
  }
  if (bytes > space_) co_return fail(Errc::no_space);
  space_ -= bytes;
  co_return Status();
}

Task<Result<FileSystemStatistics>> FileSystem::statfs() {
  auto usage = co_await core_.disk.usage();
  if (!usage) co_return fail(std::move(usage).error());
  FileSystemStatistics statistics;
  statistics.block_size = format::block_size;
  statistics.blocks_total = usage->total / format::block_size;
  const std::uint64_t promised = core_.dirty_bytes + space_reserve;
  const std::uint64_t available = usage->available > promised ? usage->available - promised : 0;
  statistics.blocks_free = available / format::block_size;
  // An inode takes a block, and there is no other limit.
  statistics.inodes_total = statistics.blocks_total;
  statistics.inodes_free = statistics.blocks_free;
  co_return statistics;
}

Task<Status> FileSystem::set_file_lock(clerk::FileLock lock, bool wait, std::uint64_t request) {
  CO_TRY_STATUS(check_lost(InodeNumber{lock.inode}));
  const Mode mode = lock.mode;
  Status status = co_await core_.clerk.set_file_lock(lock, wait, request);
  if (status && mode != Mode::none) ++file_lock_counts_[InodeNumber{lock.inode}];
  co_return status;
}

void FileSystem::cancel_file_lock(std::uint64_t request) { core_.clerk.cancel_file_lock(request); }

Task<Result<clerk::FileLock>> FileSystem::test_file_lock(clerk::FileLock lock) {
  return core_.clerk.test_file_lock(lock);
}

Task<Status> FileSystem::drop_file_locks(InodeNumber inode, bool is_flock, std::uint64_t owner) {
  // Most closes concern files that nobody ever locked.
  if (!file_lock_counts_.contains(inode)) co_return Status();
  co_return co_await core_.clerk.drop_file_locks(raw(inode), is_flock, owner);
}

}  // namespace plumeria::fs
