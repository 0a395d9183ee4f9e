// Passes everything on to a disk, counts the changes that it refused because their lease was over,
// and tells of them.
#pragma once

#include <functional>
#include <utility>

#include "disk/disk.h"

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
    return counted(below_.write(to, std::move(data), lease, durability), lease);
  }
  Task<Status> discard(disk::Address from, std::uint64_t length, disk::LeaseNumber lease) override {
    return counted(below_.discard(from, length, lease), lease);
  }
  Task<Status> flush() override { return below_.flush(); }
  Task<Status> preallocate(disk::Address from, std::uint64_t length,
                           disk::LeaseNumber lease) override {
    return counted(below_.preallocate(from, length, lease), lease);
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
};

}  // namespace plumeria::mount
