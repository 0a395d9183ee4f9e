#include "disk/disk.h"

#include <absl/strings/ascii.h>

#include <algorithm>

namespace plumeria::disk {

namespace {

Error no_snapshots() { return Error{Errc::not_supported, "snapshots of this disk"}; }

}  // namespace

Task<Result<SnapshotId>> VirtualDisk::create_snapshot(std::string, WallTime, LeaseNumber) {
  co_return fail(no_snapshots());
}
Task<Status> VirtualDisk::delete_snapshot(SnapshotId, LeaseNumber) {
  co_return fail(no_snapshots());
}
Task<Result<std::vector<Snapshot>>> VirtualDisk::list_snapshots() {
  co_return fail(no_snapshots());
}
Task<Result<Bytes>> VirtualDisk::read_snapshot(SnapshotId, Address, std::uint64_t) {
  co_return fail(no_snapshots());
}
Task<Result<std::optional<Extent>>> VirtualDisk::next_snapshot_extent(SnapshotId, Segment,
                                                                      std::uint64_t) {
  co_return fail(no_snapshots());
}
Task<Result<std::vector<Segment>>> VirtualDisk::list_snapshot_segments(SnapshotId, Segment,
                                                                       std::size_t) {
  co_return fail(no_snapshots());
}
Task<Result<Register>> VirtualDisk::read_snapshot_register(SnapshotId, std::string) {
  co_return fail(no_snapshots());
}

Status check_snapshot_name(std::string_view name) {
  const auto is_allowed = [](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) ||
           std::string_view("-_.:+@=").find(c) != std::string_view::npos;
  };
  const bool is_good = !name.empty() && name.size() <= snapshot_name_max && name[0] != '.' &&
                       name[0] != '-' && std::all_of(name.begin(), name.end(), is_allowed);
  if (is_good) return {};
  return fail(Errc::invalid,
              absl::StrCat("snapshot name \"", std::string(name), "\" (1 to ", snapshot_name_max,
                           " letters, digits and -_.:+@=, not beginning with . or -)"));
}

}  // namespace plumeria::disk
