// The disk as one mount sees it: passes everything on, counts the changes that were refused because
// their lease was over, and tells of them; knows what of the mount's changes no flush has covered.
#pragma once

#include <functional>
#include <utility>
#include <vector>

#include "disk/disk.h"
#include "disk/unflushed.h"

namespace plumeria::mount {

class CountingDisk : public disk::VirtualDisk {
 public:
  explicit CountingDisk(disk::VirtualDisk& below) : below_(below) {}
  std::uint64_t fenced() const { return fenced_; }
  // Called at each refusal, within the call that is refused.
  void on_fenced(std::function<void(disk::LeaseNumber)> callback) {
    on_fenced_ = std::move(callback);
  }

  Task<Result<Bytes>> read(disk::Address from, std::uint64_t length) override {
    return below_.read(from, length);
  }
  Task<Status> write(disk::Address to, SharedBytes data, disk::LeaseNumber lease,
                     disk::Durability durability) override {
    Task<Status> writing = below_.write(to, std::move(data), lease, durability);
    if (durability == disk::Durability::logged) return counted(std::move(writing), lease);
    return noted(std::move(writing), to.segment, lease);
  }
  Task<Status> discard(disk::Address from, std::uint64_t length, disk::LeaseNumber lease) override {
    return noted(below_.discard(from, length, lease), from.segment, lease);
  }
  Task<Status> flush() override { return below_.flush(); }
  Task<Status> flush_segments(std::vector<disk::Segment> segments) override {
    return below_.flush_segments(std::move(segments));
  }
  Task<Status> flush_retained() override {
    const disk::Unflushed::Mark mark = unflushed_.begin();
    std::vector<disk::Segment> segments = unflushed_.segments();
    if (segments.empty()) co_return Status();
    const bool singly = segments.size() <= disk::flushed_singly_max;
    Task<Status> flushing = singly ? below_.flush_segments(std::move(segments)) : below_.flush();
    CO_TRY_STATUS(co_await std::move(flushing));
    unflushed_.covered(mark);
    co_return Status();
  }
  Task<Status> preallocate(disk::Address from, std::uint64_t length,
                           disk::LeaseNumber lease) override {
    return noted(below_.preallocate(from, length, lease), from.segment, lease);
  }
  Task<Result<std::uint64_t>> allocated(disk::Segment segment) override {
    return below_.allocated(segment);
  }
  Task<Result<std::optional<disk::Extent>>> next_extent(disk::Segment segment,
                                                        std::uint64_t from) override {
    return below_.next_extent(segment, from);
  }
  Task<Result<std::vector<disk::Segment>>> list_segments(disk::Segment first,
                                                         std::size_t limit) override {
    return below_.list_segments(first, limit);
  }
  Task<Result<disk::Usage>> usage() override { return below_.usage(); }
  Task<Result<disk::Register>> read_register(std::string_view name) override {
    return below_.read_register(name);
  }
  Task<Result<std::uint64_t>> write_register(std::string_view name, std::uint64_t expected,
                                             Bytes value, disk::LeaseNumber lease) override {
    return below_.write_register(name, expected, std::move(value), lease);
  }
  Task<Result<disk::SnapshotId>> create_snapshot(std::string name, WallTime created,
                                                 disk::LeaseNumber lease) override {
    return below_.create_snapshot(std::move(name), created, lease);
  }
  Task<Status> delete_snapshot(disk::SnapshotId id, disk::LeaseNumber lease) override {
    return counted(below_.delete_snapshot(id, lease), lease);
  }
  Task<Result<std::vector<disk::Snapshot>>> list_snapshots() override {
    return below_.list_snapshots();
  }
  Task<Status> admit(disk::LeaseNumber lease) override { return below_.admit(lease); }
  Task<Status> fence(disk::LeaseNumber lease) override { return below_.fence(lease); }
  void forget(disk::LeaseNumber lease) override { below_.forget(lease); }

 private:
  // Noted even if it fails: it may have happened in part.
  Task<Status> noted(Task<Status> change, disk::Segment segment, disk::LeaseNumber lease) {
    Status status = co_await counted(std::move(change), lease);
    unflushed_.changed(segment);
    co_return status;
  }
  Task<Status> counted(Task<Status> change, disk::LeaseNumber lease) {
    Status status = co_await change;
    if (!status && status.error().code == Errc::fenced) {
      ++fenced_;
      if (on_fenced_) on_fenced_(lease);
    }
    co_return status;
  }

  disk::VirtualDisk& below_;
  std::function<void(disk::LeaseNumber)> on_fenced_;
  std::uint64_t fenced_ = 0;
  disk::Unflushed unflushed_;
};

}  // namespace plumeria::mount
