// Making snapshots of a store that is in use (docs/protocol.md, "Snapshots"; the backup of
// Frangipani, section 8): everybody writes back while work goes on, then all changes stop for the
// moment in which what is left is written and the disk keeps its state.
//
// Threads: the executor's.
#pragma once

#include <functional>
#include <string>

#include "base/result.h"
#include "base/task.h"
#include "base/world.h"
#include "clerk/clerk.h"
#include "disk/disk.h"
#include "net/transport.h"

namespace plumeria::mount {

struct SnapshotMade {
  disk::SnapshotId id{};
  Duration prepared{};  // how long everybody wrote back while work went on
  Duration paused{};    // how long changes had to wait at most
};

// Under the clerk's lease, which is admitted. Errc::exist, invalid: the name. `write_back` makes
// durable what the clerk's own mount has, when nobody changes anything: its locks may never have
// gone since the last snapshot.
using WriteBack = std::function<Task<void>()>;
Task<Result<SnapshotMade>> make_snapshot(World world, clerk::Clerk& clerk, disk::VirtualDisk& disk,
                                         std::string name, WriteBack write_back);
// Errc::no_entry: there is none of that name.
Task<Status> remove_snapshot(clerk::Clerk& clerk, disk::VirtualDisk& disk, std::string name);
// The same error.
Task<Result<disk::Snapshot>> find_snapshot(disk::VirtualDisk& disk, std::string name);

// A lease for somebody who is no mount and only does one thing.
class Visit final : clerk::RevokeHandler {
 public:
  // `server` is a peer of `transport`, which has no other clerk.
  Visit(World world, net::Transport& transport, net::PeerId server, std::string label);

  Task<Status> begin(Duration give_up_after);
  Task<Status> end();
  clerk::Clerk& clerk() { return clerk_; }

 private:
  void revoke_begins(lock::LockName, lock::Mode) override {}
  Task<void> give_up(lock::LockName, lock::Mode) override { co_return; }
  void revoke_ended(lock::LockName, lock::Mode) override {}
  bool may_take(lock::LockName) override { return true; }
  Task<void> suspended(TimePoint) override { co_return; }
  void resumed() override {}
  void lost(std::string_view) override {}

  clerk::Clerk clerk_;
};

}  // namespace plumeria::mount
