// The virtual disk in a directory of the host (the "embedded store"; docs/format.md, "Host store").
//
// One process at a time: the file `lock` is locked with flock(2) and names its holder. Each segment
// is one sparse file. Reads of cached pages and all writes are done inline on the executor's thread
// (a hand-off to another CPU costs more than they do); what must wait for the device goes to the
// pool.
//
// Snapshots   What is about to be changed is copied away first, while there are any
//             (os/snapshot_files.h); without, they cost nothing.
//
// Invariants  Segment files only grow until they are unlinked as a whole, so that their length is
//             known without asking. A failed fdatasync may have dropped data that was acknowledged:
//             from then on every change and flush fails with Errc::io until the store is opened
//             again, as after a power cut. The same when the directory is gone from its place.
// Ownership   Borrows executor and pool, which outlive it; the pool must have finished (be
//             destroyed or idle) before the store goes.
// Threads     The executor's; open() and create() block and may be called before it runs.
// Errors      disk.h's; the message names the host's path.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "disk/admission.h"
#include "disk/disk.h"
#include "os/real_world.h"

namespace plumeria::os {

class HostStore final : public disk::VirtualDisk {
 public:
  struct Options {
    bool read_only = false;          // changes fail with Errc::read_only; several readers at once
    std::size_t open_files_max = 0;  // 0: a quarter of `ulimit -n`, at most 1024
  };

  // Makes a store in `path`, which must be missing or an empty directory, and opens it.
  // Errc::not_empty otherwise.
  static Result<std::unique_ptr<HostStore>> create(RealExecutor& executor, ThreadPool& pool,
                                                   std::string path, Options options);
  // Gets rid of a store that create() has made and that is of no use after all.
  static void remove(const std::string& path);
  // Errc::in_use names the holder; Errc::not_a_store: foreign or missing; Errc::version: made by a
  // newer program; Errc::corrupt: a file of the store itself is damaged. Opening for writing makes
  // a new incarnation durable.
  static Result<std::unique_ptr<HostStore>> open(RealExecutor& executor, ThreadPool& pool,
                                                 std::string path, Options options);
  ~HostStore() override;  // Without close(): the next open() tells that it was not clean.

  // Tells those who find the store held that this does not last: everything is being written back.
  void ending();

  // Called once, in the middle of the call that fails first, when nothing can be written any more.
  void on_broken(std::function<void(const Error&)> handler);

  // Whether the user before closed it with everything flushed. If not, all logs must be replayed.
  bool was_clean() const;
  // Grows with each opening for writing; never the same twice.
  std::uint64_t incarnation() const;
  // A random number that the store got when it was made.
  std::uint64_t identity() const;
  const std::string& path() const;
  // A file of its own that is damaged by half, which does no harm; or empty.
  const std::string& half_damaged() const;

  // Flushes, marks the store clean, gives up the lock. Nothing else may be called afterwards;
  // nothing may be under way.
  Task<Status> close();

  // Changes of leases that are not admitted, tried and refused.
  std::map<disk::LeaseNumber, disk::LateChanges> late_changes() const;

  Task<Result<Bytes>> read(disk::Address from, std::uint64_t length) override;
  Task<Status> write(disk::Address to, SharedBytes data, disk::LeaseNumber lease,
                     disk::Durability durability) override;
  Task<Status> discard(disk::Address from, std::uint64_t length, disk::LeaseNumber lease) override;
  Task<Status> flush() override;
  Task<Status> flush_segments(std::vector<disk::Segment> segments) override;
  Task<Status> preallocate(disk::Address from, std::uint64_t length,
                           disk::LeaseNumber lease) override;
  Task<Result<std::uint64_t>> allocated(disk::Segment segment) override;
  Task<Result<std::optional<disk::Extent>>> next_extent(disk::Segment segment,
                                                        std::uint64_t from) override;
  Task<Result<std::vector<disk::Segment>>> list_segments(disk::Segment first,
                                                         std::size_t limit) override;
  Task<Result<disk::Usage>> usage() override;
  Task<Result<disk::Register>> read_register(std::string_view name) override;
  Task<Result<std::uint64_t>> write_register(std::string_view name, std::uint64_t expected,
                                             Bytes value, disk::LeaseNumber lease) override;
  Task<Result<disk::SnapshotId>> create_snapshot(std::string name, WallTime created,
                                                 disk::LeaseNumber lease) override;
  Task<Status> delete_snapshot(disk::SnapshotId id, disk::LeaseNumber lease) override;
  Task<Result<std::vector<disk::Snapshot>>> list_snapshots() override;
  Task<Result<Bytes>> read_snapshot(disk::SnapshotId id, disk::Address from,
                                    std::uint64_t length) override;
  Task<Result<std::optional<disk::Extent>>> next_snapshot_extent(disk::SnapshotId id,
                                                                 disk::Segment segment,
                                                                 std::uint64_t from) override;
  Task<Result<std::vector<disk::Segment>>> list_snapshot_segments(disk::SnapshotId id,
                                                                  disk::Segment first,
                                                                  std::size_t limit) override;
  Task<Result<disk::Register>> read_snapshot_register(disk::SnapshotId id,
                                                      std::string name) override;
  Task<Status> admit(disk::LeaseNumber lease) override;
  Task<Status> fence(disk::LeaseNumber lease) override;

 private:
  struct State;
  Task<Result<std::uint64_t>> update_register(std::string name, std::uint64_t expected, Bytes value,
                                              disk::LeaseNumber lease);
  explicit HostStore(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace plumeria::os
