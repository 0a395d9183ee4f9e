#include "fs/file_system.h"

#include <algorithm>

#include "base/check.h"
#include "base/fault.h"
#include "base/log.h"
#include "base/rare.h"
#include "fs/data.h"

namespace plumeria::fs {
namespace {

// How many files' data go to the disk side by side in the background: their flushes are shared.
constexpr std::size_t commits_in_flight = 32;
// Before the barrier of a snapshot is taken: all at once, and again until little is left.
constexpr std::size_t commits_before_barrier = 512;
constexpr int preparations_max = 8;
constexpr Duration preparation_is_short = 20ms;
// From then on, this long, only so much may be dirty as is written within the pause.
constexpr Duration careful_for = 2s;
constexpr std::uint64_t dirty_data_careful = 8u << 20;

}  // namespace

FileSystem::FileSystem(World world, disk::VirtualDisk& disk, wal::Log& log,
                       cache::BlockCache& cache, clerk::Clerk& clerk, format::Superblock superblock,
                       FileSystemOptions options)
    : options_(options),
      core_{world,
            disk,
            log,
            cache,
            clerk,
            std::move(superblock),
            clerk.membership().lease,
            clerk.membership().slot},
      allocator_(core_),
      orphans_(core_),
      clean_(world.executor),
      wake_(world.executor),
      wake_trimmer_(world.executor),
      lost_event_(world.executor),
      locks_changed_(world.executor),
      under_revoke_changed_(world.executor) {
  core_.allocator = &allocator_;
  core_.orphans = &orphans_;
}

FileSystem::~FileSystem() = default;

Task<Status> FileSystem::start() {
  CO_TRY_STATUS(co_await orphans_.start());
  core_.log.on_pressure([this] { wake_trimmer_.notify_all(); });
  core_.cache.on_pressure([this] { wake_trimmer_.notify_all(); });
  tasks_.spawn(orphans_.run());
  tasks_.spawn(background());
  tasks_.spawn(trimmer());
  tasks_.spawn(fetch(preparation_lock));
  co_return Status();
}

Task<Status> FileSystem::stop() {
  Status status = co_await commit_everything();
  stopping_ = true;
  orphans_.stop();
  wake_.notify_all();
  wake_trimmer_.notify_all();
  co_await wait_for_tasks();
  while (status) {
    status = co_await commit_everything();
    if (status) status = co_await core_.cache.checkpoint();
    if (!status || core_.log.trimmed() == core_.log.end()) break;
    // A lock is being given up meanwhile: what that writes is not all in place yet.
    rarely<"fs: a lock is given up while the mount ends">();
    co_await sleep_for(core_.world, 1ms);
  }
  co_return status;
}

void FileSystem::lose() {
  is_lost_ = true;
  stopping_ = true;
  orphans_.stop();
  clean_.notify_all();
  wake_.notify_all();
  wake_trimmer_.notify_all();
  lost_event_.notify_all();
  locks_changed();
}

// The tasks end by themselves at the next thing they wait for.
Task<void> FileSystem::wait_for_tasks() {
  while (tasks_.running() > 0) co_await sleep_for(core_.world, 1ms);
}

bool FileSystem::has_writer(InodeNumber inode) const {
  const auto entry = core_.files.find(inode);
  return entry != core_.files.end() && entry->second->writers > 0;
}

bool FileSystem::may_reclaim(InodeNumber inode) {
  FileState* file = core_.find_file(inode);
  if (file == nullptr || file->handles == 0) return true;
  file->reclaim_on_close = true;
  return false;
}

// Writes changes out after the write-back interval, or at once when too much is dirty.
Task<void> FileSystem::background() {
  while (!stopping_) {
    // What is dirty now, not what becomes dirty meanwhile: else this would go on for ever.
    const TimePoint begun = core_.world.clock.now();
    while (!stopping_ && co_await commit_oldest(begun)) clean_.notify_all();
    if (stopping_) break;
    // What was changed without data becomes durable within the interval as well.
    if (core_.log.end() > core_.log.durable()) {
      const Status synced = co_await core_.log.sync_all();
      if (!synced) break;
    }
    if (stopping_) break;
    const TimePoint next = core_.world.clock.now() + options_.write_back_interval / 2;
    const TimerId timer = core_.world.executor.at(next, [this] { wake_.notify_all(); });
    do {
      co_await wake_.next();
    } while (!stopping_ && core_.world.clock.now() < next &&
             core_.dirty_bytes <= dirty_data_max() / 2);
    core_.world.executor.cancel(timer);
  }
}

// Commits some of the files that are due: dirty for the write-back interval, or, when too much is
// dirty, the oldest that became dirty before `begun`. False if none is.
Task<bool> FileSystem::commit_oldest(TimePoint begun) {
  const auto is_due = [&](const Core::DirtySince& entry) {
    if (core_.dirty_bytes > dirty_data_max() / 2) return entry.since < begun;
    return entry.since <= begun - options_.write_back_interval;
  };
  std::vector<Task<Status>> commits;
  auto& order = core_.dirty_order;
  while (!order.empty() && is_due(order.front()) && commits.size() < commits_in_flight) {
    const Core::DirtySince entry = order.front();
    order.pop_front();
    const FileState* file = core_.find_file(entry.inode);
    if (file == nullptr || !file->is_dirty() || file->dirty_since != entry.since) continue;
    commits.push_back(commit_one(entry.inode));
  }
  if (commits.empty()) co_return false;
  co_await gather(core_.world.executor, std::move(commits));
  co_return true;
}

// Only if the lock comes at once: whoever takes it away sees to the data as well, and whoever has
// it pinned leaves it to the next time.
Task<Status> FileSystem::commit_one(InodeNumber inode) {
  if (auto pin = core_.clerk.try_local(inode_lock(inode), Mode::exclusive)) {
    (void)co_await commit_or_lose(inode);
  }
  FileState* file = core_.find_file(inode);
  if (file != nullptr && file->is_dirty() && !is_lost_) core_.becomes_dirty(*file);
  core_.forget_if_idle(inode);
  co_return Status();
}

// A file whose data cannot be written (a full or broken disk) says so at its next fsync; memory is
// not kept for it for ever. An error means that the lease is over.
Task<Status> FileSystem::commit_or_lose(InodeNumber inode) {
  const Status status = co_await commit_data(core_, inode, true);
  if (status) co_return status;
  const Errc code = status.error().code;
  if (is_lost_ || code == Errc::fenced || code == Errc::lost || code == Errc::shut_down) {
    co_return status;
  }
  log_error(absl::StrCat("data of inode ", raw(inode),
                         " could not be written and are lost: ", status.error().message()));
  if (FileState* file = core_.find_file(inode)) {
    file->dirty.clear();
    core_.account(*file);
    core_.clean_tails.erase(inode);  // Some may have been written.
    file->size.reset();
    file->mtime.reset();
    file->ctime.reset();
    file->left_inline = false;
    file->data_written = false;
    file->space_changed = false;
    file->cut_tail = false;
    file->early_bytes = 0;
    file->lost = file->handles > 0;
  }
  co_return Status();
}

// What every operation on names does first: waits until there is room in the cache and in the log,
// and until no snapshot is being made. The last of these is the barrier, so that nobody who has it
// waits for room.
Task<Result<FileSystem::Change>> FileSystem::begin_change() {
  while (!is_lost_ && core_.cache.pressure() >= 1.0) {
    wake_trimmer_.notify_all();
    co_await clean_.next();
  }
  CO_TRY(wal::Reservation room, co_await core_.log.reserve(operation_log_bytes));
  Change change{std::move(room), {}};
  if (auto pin = core_.clerk.try_local(barrier_lock, Mode::shared)) {
    change.barrier = std::move(*pin);
    co_return change;
  }
  CO_TRY(change.barrier, co_await core_.clerk.acquire(barrier_lock, Mode::shared));
  co_return change;
}

// Under a revoke nobody waits for the barrier: whoever takes it may wait for one who waits for that
// revoke. What such requests bring (pages that mappings have changed, and what blocks them) may
// therefore be in a snapshot or not, as it may be found after a crash or not. The others are sent
// back when the revoke of their inode begins, since it may wait for them.
Task<Result<Pin>> FileSystem::hold_barrier(InodeNumber inode, Access access) {
  if (access == Access::under_revoke) co_return Pin();
  for (;;) {
    if (auto pin = core_.clerk.try_local(barrier_lock, Mode::shared)) co_return std::move(*pin);
    if (is_lost_) co_return fail(Errc::lost);
    if (core_.clerk.revoking(inode_lock(inode))) {
      rarely<"fs: a request is sent back while a snapshot is made">();
      co_return fail(Errc::again);
    }
    if (!std::exchange(fetching_barrier_, true)) tasks_.spawn(fetch(barrier_lock));
    co_await locks_changed_.next();
  }
}

// Locks are kept until somebody else wants them.
Task<void> FileSystem::fetch(LockName name) {
  const auto pin = co_await core_.clerk.acquire(name, Mode::shared);
  if (name != barrier_lock) co_return;
  fetching_barrier_ = false;
  if (pin) locks_changed();  // Else the lease is lost, which is told to all.
}

std::uint64_t FileSystem::dirty_data_max() const {
  if (core_.world.clock.now() >= careful_until_) return options_.dirty_data_max;
  return std::min(options_.dirty_data_max, dirty_data_careful);
}

// All that is dirty now is in the log or on the disk, and durable, when this returns.
Task<Status> FileSystem::commit_all_dirty() {
  std::vector<InodeNumber> dirty;
  for (const auto& [inode, file] : core_.files) {
    if (file->is_dirty()) dirty.push_back(inode);
  }
  for (auto next = dirty.begin(); next != dirty.end();) {
    std::vector<Task<Status>> commits;
    for (; next != dirty.end() && commits.size() < commits_before_barrier; ++next) {
      commits.push_back(commit_dirty(*next));
    }
    const auto results = co_await gather(core_.world.executor, std::move(commits));
    clean_.notify_all();
    for (const Status& result : results) {
      if (!result) co_return result;
    }
  }
  co_return co_await core_.log.sync_all();
}

Task<Status> FileSystem::commit_dirty(InodeNumber inode) {
  for (;;) {
    const FileState* file = core_.find_file(inode);
    if (file == nullptr || !file->is_dirty()) co_return Status();
    auto pin = co_await core_.clerk.acquire_unless_revoked(inode_lock(inode), Mode::exclusive);
    if (pin) {
      CO_TRY_STATUS(co_await commit_or_lose(inode));
      core_.forget_if_idle(inode);
      co_return Status();
    }
    if (pin.error().code != Errc::again) co_return fail(std::move(pin).error());
    // It is committed as its lock goes.
    if (core_.clerk.revoking(inode_lock(inode))) co_await locks_changed_.next();
  }
}

// Work goes on, so something is always left; the barrier waits for that alone.
Task<Status> FileSystem::prepare_for_snapshot() {
  careful_until_ = core_.world.clock.now() + careful_for;
  for (int round = 0; round < preparations_max; ++round) {
    const TimePoint begun = core_.world.clock.now();
    CO_TRY_STATUS(co_await commit_all_dirty());
    if (core_.world.clock.now() - begun < preparation_is_short) break;
  }
  careful_until_ = core_.world.clock.now() + careful_for;
  co_return Status();
}

// Keeps the log and the cache from filling up: writes blocks to their places and trims.
Task<void> FileSystem::trimmer() {
  while (!stopping_) {
    if (core_.log.is_scarce() || core_.cache.pressure() > 0.5) {
      const Status status = co_await core_.cache.checkpoint();
      if (!status) {
        log_error(absl::StrCat("cannot write metadata back: ", status.error().message()));
        co_await sleep_for(core_.world, 1s);
      } else if (co_await core_.log.sync_all(); core_.log.is_scarce()) {
        // What remains belongs to operations that are under way.
        co_await sleep_for(core_.world, 10ms);
      }
      clean_.notify_all();
      continue;
    }
    co_await wake_trimmer_.next();
  }
}

// Until nothing is dirty under the inode's lock and no operation runs under it without a pin.
Task<Status> FileSystem::write_back_inode(InodeNumber inode, Mode keep) {
  for (;;) {
    while (under_revoke_.contains(inode)) co_await under_revoke_changed_.next();
    writing_back_.insert(inode);
    Status committed = co_await commit_or_lose(inode);
    writing_back_.erase(inode);
    under_revoke_changed_.notify_all();
    if (!committed) co_return committed;
    clean_.notify_all();
    core_.sole.erase(inode);
    // From here on the inode may lose its last link elsewhere: what is open here is protected by
    // the open lock.
    FileState* file = core_.find_file(inode);
    if (keep == Mode::none && file != nullptr && file->handles > 0 && !file->open_pin) {
      auto pin = co_await core_.clerk.acquire(open_lock(inode), Mode::shared);
      FileState* now = core_.find_file(inode);
      rarely<"fs: an open file's inode is given up">();
      if (pin && now != nullptr && now->handles > 0) now->open_pin = std::move(*pin);
    }
    core_.forget_if_idle(inode);
    if (!planted(Fault::release_before_flush)) {
      CO_TRY_STATUS(co_await core_.cache.write_back(inode_lock(inode)));
    }
    file = core_.find_file(inode);
    const bool dirty = file != nullptr && file->is_dirty();
    if (under_revoke_.contains(inode) || dirty) continue;
    if (keep == Mode::none) core_.clean_tails.erase(inode);
    co_return Status();
  }
}

Task<void> FileSystem::give_up(LockName name, Mode keep) {
  for (;;) {
    Status status;
    if (name.lock_class == LockClass::inode) {
      status = co_await write_back_inode(InodeNumber{name.number}, keep);
    } else if (name == preparation_lock) {
      status = co_await prepare_for_snapshot();
    } else if (name == barrier_lock) {
      status = co_await commit_all_dirty();
    } else {
      status = co_await core_.cache.write_back(name);
    }
    if (status) break;
    if (is_lost_) co_return;
    log_error(absl::StrCat("cannot write back ", lock::to_string(name),
                           " to give it up: ", status.error().message()));
    co_await sleep_for(core_.world, 1s);
    if (is_lost_) co_return;
  }
  if (name.lock_class == LockClass::piece) allocator_.given_up(name.number);
  // For the next snapshot: it comes back when this one is made.
  if (name == preparation_lock && !stopping_) tasks_.spawn(fetch(preparation_lock));
  if (name == barrier_lock) careful_until_ = TimePoint{};
  if (keep == Mode::none) core_.cache.drop(name);
}

std::vector<Handle> FileSystem::handles() const {
  std::vector<Handle> all;
  for (const auto& [id, handle] : handles_) all.push_back(handle);
  return all;
}

// Files and directories with data or changes that are not durable, and files whose locks protected
// somebody.
std::vector<InodeNumber> FileSystem::lost_inodes() const {
  std::vector<InodeNumber> lost;
  for (const auto& [inode, file] : core_.files) {
    if (file->is_dirty() || file->lost || file->last > core_.log.durable()) lost.push_back(inode);
  }
  for (const auto& [inode, count] : file_lock_counts_) lost.push_back(inode);
  for (const LockName& lock : core_.cache.locks_not_durable()) {
    if (lock.lock_class == LockClass::inode) lost.push_back(InodeNumber{lock.number});
  }
  lost.insert(lost.end(), lost_unsaid_.begin(), lost_unsaid_.end());
  std::sort(lost.begin(), lost.end());
  lost.erase(std::unique(lost.begin(), lost.end()), lost.end());
  return lost;
}

void FileSystem::adopt(const std::vector<Handle>& handles, const std::vector<InodeNumber>& lost) {
  for (const Handle& handle : handles) {
    FileState& file = core_.file(handle.inode);
    ++file.handles;
    if (handle.writable) ++file.writers;
    file.generation = handle.generation;
    handles_.emplace(handle.id, handle);
    next_handle_ = std::max(next_handle_, raw(handle.id) + 1);
  }
  for (InodeNumber inode : lost) note_lost(inode);
  tasks_.spawn(protect_handles(handles));
}

void FileSystem::note_lost(InodeNumber inode) {
  FileState* file = core_.find_file(inode);
  if (file != nullptr && file->handles > 0) {
    file->lost = true;
  } else {
    lost_unsaid_.insert(inode);
  }
}

// No inode lock protects these handles yet, so their open locks do.
Task<void> FileSystem::protect_handles(std::vector<Handle> handles) {
  for (const Handle& handle : handles) {
    if (stopping_) co_return;
    auto pin = co_await core_.clerk.acquire(open_lock(handle.inode), Mode::shared);
    FileState* file = core_.find_file(handle.inode);
    if (pin && file != nullptr && file->handles > 0) file->open_pin = std::move(*pin);
  }
}

std::size_t FileSystem::lost_files() const {
  std::size_t count = 0;
  for (const auto& [inode, file] : core_.files) count += file->lost ? 1 : 0;
  return count;
}

}  // namespace plumeria::fs
