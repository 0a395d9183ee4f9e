#include "mount/mount.h"

#include <algorithm>

#include "base/check.h"
#include "base/fault.h"
#include "base/log.h"
#include "base/rare.h"
#include "cache/block_cache.h"
#include "format/superblock.h"
#include "fs/file_system.h"
#include "mount/counting_disk.h"
#include "mount/front.h"

namespace plumeria::mount {

using lock::LockClass;
using lock::LockName;
using lock::Mode;

namespace {

// Everything that belongs to one lease.
struct Session {
  // The clerk outlives the pins of the others, and the others its calls of the handler.
  ~Session() {
    if (clerk) clerk->abandon_calls();
  }

  std::unique_ptr<clerk::Clerk> clerk;
  std::unique_ptr<wal::Log> log;
  std::unique_ptr<cache::BlockCache> cache;
  std::unique_ptr<fs::FileSystem> file_system;
};

// How long the kernel is given to drop what it caches when a lease was lost already.
constexpr Duration drop_after_loss = 2s;

}  // namespace

struct Mount::State : clerk::RevokeHandler {
  State(World w, disk::VirtualDisk& d, net::Transport& t, net::PeerId server, KernelCache& k,
        MountOptions o)
      : world(w),
        disk(d),
        transport(t),
        lock_server(server),
        kernel(k),
        options(std::move(o)),
        front(w.executor) {
    disk.on_fenced([this](lock::LeaseNumber lease) { fenced(lease); });
  }

  World world;
  CountingDisk disk;
  net::Transport& transport;
  net::PeerId lock_server;
  KernelCache& kernel;
  MountOptions options;
  format::Superblock superblock;
  Front front;
  std::unique_ptr<Session> session;
  std::uint64_t rejoins = 0, losses = 0;
  bool serving = false;    // calls go to the session's file system
  bool rejoining = false;  // until the kernel has forgotten what it had from the lost lease
  bool stopping = false;
  std::uint64_t snapshot_calls = 0;  // that use the session
  Event snapshot_call_ended{world.executor};
  std::shared_ptr<bool> alive = std::make_shared<bool>(true);
  TaskScope tasks;

  Task<Status> read_superblock();
  Task<Result<std::unique_ptr<Session>>> new_session(Duration give_up_after);
  void fenced(lock::LeaseNumber lease);
  Task<void> rejoin();
  Task<void> forget_rest(bool forgot_all);
  Task<void> until_no_snapshot_calls();

  bool knows_file_system() const { return session != nullptr && session->file_system != nullptr; }
  What what_to_drop(fs::InodeNumber inode, Mode keep) const;

  void revoke_begins(LockName name, Mode keep) override;
  Task<void> give_up(LockName name, Mode keep) override;
  void revoke_ended(LockName name, Mode keep) override;
  bool may_take(LockName name) override;
  Task<void> suspended(TimePoint deadline) override;
  void resumed() override;
  void lost(std::string_view reason) override;
};

Task<Status> Mount::State::read_superblock() {
  const disk::Address at{disk::Segment{format::superblock_segment}, 0};
  auto block = co_await disk.read(at, format::block_size);
  if (!block) co_return fail(std::move(block).error());
  auto decoded = format::decode_superblock(*block);
  if (!decoded) co_return fail(std::move(decoded).error());
  superblock = std::move(*decoded);
  co_return Status();
}

Task<Result<std::unique_ptr<Session>>> Mount::State::new_session(Duration give_up_after) {
  auto fresh = std::make_unique<Session>();
  clerk::ClerkOptions clerk_options;
  clerk_options.label = options.label;
  clerk_options.observer = options.grant_observer;
  fresh->clerk =
      std::make_unique<clerk::Clerk>(world, transport, lock_server, std::move(clerk_options));
  fresh->clerk->set_handler(this);
  auto member = co_await fresh->clerk->join(give_up_after);
  if (!member) co_return fail(std::move(member).error());
  const lock::LeaseNumber lease = member->lease;
  fresh->log = std::make_unique<wal::Log>(world, disk, member->slot, superblock.log_size, lease,
                                          options.trim_log_above);
  CO_TRY_STATUS(co_await fresh->log->start());
  const std::uint64_t blocks = options.cache_size * 3 / 4 / (format::block_size + 256);
  fresh->cache =
      std::make_unique<cache::BlockCache>(world, disk, *fresh->log, *fresh->clerk, blocks);
  fs::FileSystemOptions fs_options;
  fs_options.dirty_data_max = std::max<std::uint64_t>(options.cache_size / 4, 4u << 20);
  fs_options.write_back_interval = options.write_back_interval;
  fs_options.generation_told = [this](fs::InodeNumber inode) {
    return kernel.generation_told(inode);
  };
  fresh->file_system = std::make_unique<fs::FileSystem>(world, disk, *fresh->log, *fresh->cache,
                                                        *fresh->clerk, superblock, fs_options);
  co_return fresh;
}

What Mount::State::what_to_drop(fs::InodeNumber inode, Mode keep) const {
  What what;
  if (!knows_file_system()) return what;
  what.is_exclusive =
      session->clerk->held({lock::LockClass::inode, raw(inode)}) == lock::Mode::exclusive;
  const cache::BlockRef block = session->cache->find(format::inode_block(raw(inode)));
  const bool directory = block && format::InodeView(block.bytes()).is_directory();
  if (keep == Mode::none) {
    what.attributes = true;
    what.names = !block || directory;
    // Under a shared lock a file that may be written here has no pages: they went when the lock
    // became shared, and reading takes it exclusively. Asking the kernel to forget pages all the
    // same would wait for a WRITE, which must not be answered before the lock is exclusive.
    const bool has_pages = what.is_exclusive || !session->file_system->has_writer(inode);
    what.pages = (!block || !directory) && has_pages;
  } else {
    // Under a shared lock pages may stay only if nobody here can store into them.
    what.pages = session->file_system->has_writer(inode);
  }
  return what;
}

void Mount::State::revoke_begins(LockName name, Mode) {
  if (name.lock_class == LockClass::inode) kernel.hold(fs::InodeNumber{name.number});
  if (knows_file_system()) session->file_system->locks_changed();
}

Task<void> Mount::State::give_up(LockName name, Mode keep) {
  if (name.lock_class == LockClass::inode) {
    const fs::InodeNumber inode{name.number};
    const What what = what_to_drop(inode, keep);
    if ((what.attributes || what.names || what.pages) &&
        !planted(Fault::kernel_invalidation_left_out)) {
      co_await kernel.drop(inode, what);
    }
  }
  if (knows_file_system()) co_await session->file_system->give_up(name, keep);
}

void Mount::State::revoke_ended(LockName name, Mode) {
  if (name.lock_class == LockClass::inode) kernel.release(fs::InodeNumber{name.number});
  if (knows_file_system()) session->file_system->locks_changed();
}

bool Mount::State::may_take(LockName name) {
  return !knows_file_system() || session->file_system->may_reclaim(fs::InodeNumber{name.number});
}

Task<void> Mount::State::suspended(TimePoint deadline) {
  log_warning(
      absl::StrCat(options.label, ": the lease cannot be renewed; waiting for the lock server"));
  (void)co_await kernel.drop_everything(deadline);
}

void Mount::State::resumed() { log_info(absl::StrCat(options.label, ": the lease is renewed")); }

void Mount::State::lost(std::string_view reason) {
  log_error(absl::StrCat(options.label, ": the lease is lost (", std::string(reason),
                         "); what was not yet durable is lost"));
  if (!knows_file_system()) return;
  ++losses;
  front.serve_from(nullptr);
  front.refuse_mapped();
  session->file_system->lose();
  // A session that was lost before it served is seen to by whoever made it.
  if (stopping || !std::exchange(serving, false)) return;
  rejoining = true;
  tasks.spawn(rejoin());
}

// The disk knows first that a lease is over if the lock server's message is lost or late.
void Mount::State::fenced(lock::LeaseNumber lease) {
  std::weak_ptr<bool> guard = alive;
  world.executor.post([this, guard, lease] {
    if (guard.expired() || !knows_file_system()) return;
    if (session->clerk->membership().lease != lease) return;
    if (session->clerk->usable()) rarely<"mount: the disk's fence is noticed first">();
    session->clerk->declare_lost("the disk refuses it");
  });
}

// Takes what must survive out of the session of the lost lease, and goes on under a new one.
Task<void> Mount::State::rejoin() {
  (void)co_await kernel.drop_everything(world.clock.now() + drop_after_loss);
  co_await front.drained();
  co_await until_no_snapshot_calls();
  const std::vector<fs::Handle> handles = session->file_system->handles();
  const std::vector<fs::InodeNumber> lost_files = session->file_system->lost_inodes();
  for (fs::InodeNumber inode : lost_files) {
    log_error(absl::StrCat(options.label, ": inode ", raw(inode), " lost changes"));
  }
  co_await session->file_system->wait_for_tasks();
  co_await session->clerk->settled();
  // What the last calls answered has gone into the kernel's cache since.
  const bool forgot_all = co_await kernel.drop_everything(world.clock.now() + drop_after_loss);
  const lock::LeaseNumber lost_lease = session->clerk->membership().lease;
  co_await session->log->settled();
  session.reset();
  disk.forget(lost_lease);
  while (!stopping) {
    auto fresh = co_await new_session(options.join_timeout);
    if (fresh) {
      session = std::move(*fresh);
      Status started = co_await session->file_system->start();
      if (started && session->clerk->status().lost) started = fail(Errc::lost, "the new lease");
      if (started) break;
      log_error(absl::StrCat(options.label, ": ", started.error().message()));
      session->file_system->lose();
      co_await session->file_system->wait_for_tasks();
      co_await session->clerk->settled();
      co_await session->log->settled();
      session.reset();
    } else {
      log_error(absl::StrCat(options.label, ": cannot join again: ", fresh.error().message()));
    }
    co_await sleep_for(world, 1s);
  }
  if (session == nullptr) co_return;
  session->file_system->adopt(handles, lost_files);
  for (fs::InodeNumber inode : front.take_refused()) session->file_system->note_lost(inode);
  ++rejoins;
  log_warning(absl::StrCat(options.label, ": joined again with a new lease; ",
                           session->file_system->lost_files(), " open files lost changes"));
  serving = true;
  front.serve_from(session->file_system.get());
  co_await forget_rest(forgot_all);
}

// A page that waits for a request which only the new session can answer may still be there, and
// behind it others that are dirty.
Task<void> Mount::State::forget_rest(bool forgot_all) {
  const std::uint64_t loss = losses;
  while (!forgot_all && loss == losses && !stopping) {
    rarely<"mount: the kernel forgets late after a lost lease">();
    forgot_all = co_await kernel.drop_everything(world.clock.now() + drop_after_loss);
  }
  if (loss != losses || stopping) co_return;
  front.accept_mapped();
  rejoining = false;
}

Mount::Mount(World world, disk::VirtualDisk& disk, net::Transport& transport,
             net::PeerId lock_server, KernelCache& kernel, MountOptions options)
    : state_(std::make_unique<State>(world, disk, transport, lock_server, kernel,
                                     std::move(options))) {}
Mount::~Mount() = default;

Task<Status> Mount::start() {
  CO_TRY_STATUS(co_await state_->read_superblock());
  auto session = co_await state_->new_session(state_->options.join_timeout);
  if (!session) co_return fail(std::move(session).error());
  state_->session = std::move(*session);
  CO_TRY_STATUS(co_await state_->session->file_system->start());
  if (state_->session->clerk->status().lost) {
    co_return fail(Errc::lost, "the lease ended before the mount was up");
  }
  state_->serving = true;
  state_->front.serve_from(state_->session->file_system.get());
  co_return Status();
}

Task<Status> Mount::stop() {
  State& state = *state_;
  state.stopping = true;
  state.front.end();
  co_await state.front.drained();
  co_await state.until_no_snapshot_calls();
  // The attempt to join that is under way uses the session, and ends.
  while (state.rejoining && !state.serving && state.tasks.running() > 0) {
    co_await sleep_for(state.world, 1ms);
  }
  if (state.session == nullptr) co_return fail(Errc::lost, "the mount had no lease at its end");
  Session& session = *state.session;
  Status status = co_await session.file_system->stop();
  if (status) status = co_await session.log->finish();
  Status left = co_await session.clerk->leave();
  co_return status ? left : status;
}

Task<void> Mount::State::until_no_snapshot_calls() {
  while (snapshot_calls > 0) co_await snapshot_call_ended.next();
}

Task<Result<SnapshotMade>> Mount::create_snapshot(std::string name) {
  State& state = *state_;
  if (!state.serving || state.stopping) co_return fail(Errc::lost, "the lease of this mount");
  ++state.snapshot_calls;
  fs::FileSystem* const file_system = state.session->file_system.get();
  WriteBack write_back = [file_system] {
    return file_system->give_up(fs::barrier_lock, Mode::shared);
  };
  auto made = co_await make_snapshot(state.world, *state.session->clerk, state.disk,
                                     std::move(name), std::move(write_back));
  --state.snapshot_calls;
  state.snapshot_call_ended.notify_all();
  co_return made;
}

Task<Status> Mount::delete_snapshot(std::string name) {
  State& state = *state_;
  if (!state.serving || state.stopping) co_return fail(Errc::lost, "the lease of this mount");
  ++state.snapshot_calls;
  const Status removed =
      co_await remove_snapshot(*state.session->clerk, state.disk, std::move(name));
  --state.snapshot_calls;
  state.snapshot_call_ended.notify_all();
  co_return removed;
}

fs::Operations& Mount::operations() { return state_->front; }

Mode Mount::may_use(LockName name) const {
  if (state_->session == nullptr || !state_->session->clerk->lasts()) return Mode::none;
  return state_->session->clerk->held(name);
}

MountStatus Mount::status() const {
  MountStatus status;
  status.label = state_->options.label;
  status.store_label = state_->superblock.label;
  status.cache_size = state_->options.cache_size;
  status.rejoins = state_->rejoins;
  status.rejoining = state_->rejoining;
  status.fenced_writes = state_->disk.fenced();
  if (!state_->knows_file_system()) return status;
  const Session& session = *state_->session;
  status.clerk = session.clerk->status();
  status.log = session.log->status();
  const cache::BlockCacheStatus blocks = session.cache->status();
  status.dirty_blocks = blocks.dirty;
  status.dirty_data = session.file_system->dirty_bytes();
  status.cache_used = blocks.blocks * format::block_size + status.dirty_data;
  status.open_files = session.file_system->open_files();
  status.lost_files = session.file_system->lost_files();
  return status;
}

}  // namespace plumeria::mount
