#include "mount/snapshot.h"

#include <absl/strings/str_cat.h>

#include <utility>
#include <vector>

#include "base/number.h"
#include "fs/core.h"

namespace plumeria::mount {

using lock::Mode;

namespace {

clerk::ClerkOptions options_of(std::string label) {
  clerk::ClerkOptions options;
  options.label = std::move(label);
  return options;
}

}  // namespace

Task<Result<SnapshotMade>> make_snapshot(World world, clerk::Clerk& clerk, disk::VirtualDisk& disk,
                                         std::string name, WriteBack write_back) {
  // What would fail for certain stops nobody.
  CO_TRY_STATUS(disk::check_snapshot_name(name));
  const auto same_name = co_await find_snapshot(disk, name);
  if (same_name) co_return fail(Errc::exist, absl::StrCat("snapshot ", name));
  if (same_name.error().code != Errc::no_entry) co_return fail(same_name.error());

  SnapshotMade made;
  const TimePoint begun = world.clock.now();
  CO_TRY(const clerk::Pin preparation,
         co_await clerk.acquire(fs::preparation_lock, Mode::exclusive));
  const TimePoint prepared = world.clock.now();
  made.prepared = prepared - begun;
  CO_TRY(clerk::Pin barrier, co_await clerk.acquire(fs::barrier_lock, Mode::exclusive));
  if (write_back) co_await write_back();
  const WallTime now{raw(world.clock.wall()) + clerk.membership().wall_offset};
  CO_TRY(made.id, co_await disk.create_snapshot(std::move(name), now, clerk.membership().lease));
  barrier.drop();
  clerk.give_back(fs::barrier_lock);
  made.paused = world.clock.now() - prepared;
  co_return made;
}

Task<Result<disk::Snapshot>> find_snapshot(disk::VirtualDisk& disk, std::string name) {
  CO_TRY(const std::vector<disk::Snapshot> all, co_await disk.list_snapshots());
  for (const disk::Snapshot& snapshot : all) {
    if (snapshot.name == name) co_return snapshot;
  }
  co_return fail(Errc::no_entry, absl::StrCat("snapshot ", name));
}

Task<Status> remove_snapshot(clerk::Clerk& clerk, disk::VirtualDisk& disk, std::string name) {
  CO_TRY(const disk::Snapshot snapshot, co_await find_snapshot(disk, std::move(name)));
  co_return co_await disk.delete_snapshot(snapshot.id, clerk.membership().lease);
}

Visit::Visit(World world, net::Transport& transport, net::PeerId server, std::string label)
    : clerk_(world, transport, server, options_of(std::move(label))) {
  clerk_.set_handler(this);
}

Task<Status> Visit::begin(Duration give_up_after) {
  CO_TRY_STATUS(co_await clerk_.join(give_up_after));
  co_return Status();
}

Task<Status> Visit::end() { return clerk_.leave(); }

}  // namespace plumeria::mount
