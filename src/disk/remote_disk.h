// The virtual disk that another process serves (diskd/server.h), over a network that may lose,
// double, delay and reorder messages (docs/protocol.md, "Disk sessions").
//
// Repeats     Requests carry numbers within a session, which the server opened for us; it executes
//             each at most once and refuses those of sessions that it does not know. So a late
//             duplicate of an old write never lands on a newer one. What is unanswered is sent
//             again after a while, and at once on a new connection.
// Restarts    Every reply carries the store's incarnation. Acknowledged writes of
//             Durability::retain, and discards and preallocations, are kept until a flush of the
//             same incarnation that was sent after their acknowledgement has succeeded. A server of
//             a new incarnation gets them again, in the order in which they were called, before it
//             gets anything else from us; then what was unanswered. Acknowledged writes of
//             Durability::logged are not sent again. So whoever writes or discards keeps the lock
//             until it has flushed, except for `logged`.
// Failure     If the server refuses one of those that it gets again, data that were acknowledged
//             are gone: every later flush fails with that error (until forget(lease)).
// Waiting     By default calls wait for the server for ever: a mount pauses while it is away.
//             Bytes in flight and bytes kept are bounded; beyond the bound callers wait, and a
//             flush is sent on our own.
// Threads     The executor's. Ownership: borrows the world and the transport, and its Channel::disk
//             handlers. stop() has returned, or the executor was stopped, before it is destroyed.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "base/world.h"
#include "disk/disk.h"
#include "net/transport.h"

namespace plumeria::disk {

class RemoteDisk final : public VirtualDisk {
 public:
  struct Options {
    std::size_t window = 64u << 20;         // bytes of requests under way
    std::size_t retained_soft = 32u << 20;  // bytes kept, from which on it flushes by itself
    std::size_t retained_max = 128u << 20;  // bytes kept, from which on writes wait
    Duration resend_min = 1s;               // doubles with each repetition …
    Duration resend_max = 16s;              // … up to this
    // Calls fail with Errc::unavailable after this time without an answer. 0: never.
    Duration give_up_after = 0s;
  };
  struct Counters {
    std::uint64_t requests = 0, resent = 0, sessions = 0, restarts = 0, replayed = 0;
    std::size_t retained_bytes = 0, window_bytes = 0, unanswered = 0;
    std::uint64_t incarnation = 0;  // 0 until the first session stands
    bool connected = false;
  };

  RemoteDisk(World world, net::Transport& transport, std::string address, Options options);
  ~RemoteDisk() override;

  // Waits until a session with the server stands: for a mount's start. Errc::unavailable after
  // `patience`, with why the last attempt failed.
  Task<Status> wait_until_connected(Duration patience);
  // Waits for all calls, its own flushes too; if none is made any more, it may be destroyed then.
  Task<void> stop();
  // The caller has given up this lease: what was written under it is not sent again any more, and
  // its loss makes no flush fail.
  void forget(LeaseNumber lease) override;
  Counters counters() const;

  Task<Result<Bytes>> read(Address from, std::uint64_t length) override;
  Task<Status> write(Address to, SharedBytes data, LeaseNumber lease,
                     Durability durability) override;
  Task<Status> discard(Address from, std::uint64_t length, LeaseNumber lease) override;
  Task<Status> flush() override;
  Task<Status> flush_segments(std::vector<Segment> segments) override;
  Task<Status> preallocate(Address from, std::uint64_t length, LeaseNumber lease) override;
  Task<Result<std::uint64_t>> allocated(Segment segment) override;
  Task<Result<std::optional<Extent>>> next_extent(Segment segment, std::uint64_t from) override;
  Task<Result<std::vector<Segment>>> list_segments(Segment first, std::size_t limit) override;
  Task<Result<Usage>> usage() override;
  Task<Result<Register>> read_register(std::string_view name) override;
  Task<Result<std::uint64_t>> write_register(std::string_view name, std::uint64_t expected,
                                             Bytes value, LeaseNumber lease) override;
  Task<Result<SnapshotId>> create_snapshot(std::string name, WallTime created,
                                           LeaseNumber lease) override;
  Task<Status> delete_snapshot(SnapshotId id, LeaseNumber lease) override;
  Task<Result<std::vector<Snapshot>>> list_snapshots() override;
  Task<Result<Bytes>> read_snapshot(SnapshotId id, Address from, std::uint64_t length) override;
  Task<Result<std::optional<Extent>>> next_snapshot_extent(SnapshotId id, Segment segment,
                                                           std::uint64_t from) override;
  Task<Result<std::vector<Segment>>> list_snapshot_segments(SnapshotId id, Segment first,
                                                            std::size_t limit) override;
  Task<Result<Register>> read_snapshot_register(SnapshotId id, std::string name) override;
  Task<Status> admit(LeaseNumber lease) override;
  Task<Status> fence(LeaseNumber lease) override;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace plumeria::disk
