#include "cli/snapshot_place.h"

#include <absl/strings/str_cat.h>

#include "cli/admin.h"
#include "cli/runtime.h"

namespace plumeria::cli {

namespace {

constexpr Duration patience = 5s;

using Kind = SnapshotPlace::Kind;

SnapshotPlace server_at(const std::string& address) {
  return SnapshotPlace{Kind::server, address, address};
}

// A mount names what it mounts.
Result<SnapshotPlace> of_mount(const std::string& directory) {
  auto status = ask(admin_address_of_mount(directory), "status", patience);
  if (!status) return fail(std::move(status).error());
  const std::string source = status->value("source", "");
  if (status->contains("snapshot") || source.empty()) {
    return fail(Errc::invalid, absl::StrCat(directory, " is a snapshot itself"));
  }
  if (!status->contains("store")) return server_at(source);
  return SnapshotPlace{Kind::mount_of_store, source, admin_address(source)};
}

}  // namespace

Result<SnapshotPlace> find_snapshot_place(const std::string& text) {
  TRY(const Target target, resolve(text));
  if (target.is_address) return server_at(target.text);
  if (is_mounted(target.text)) return of_mount(target.text);
  const std::string address = admin_address(target.text);
  const auto status = ask(address, "status", patience);
  if (status && status->contains("mount")) {
    return SnapshotPlace{Kind::mount_of_store, target.text, address};
  }
  if (status) return SnapshotPlace{Kind::server, target.text, address};
  if (status.error().code != Errc::unavailable) return fail(status.error());
  const std::string above = mount_point_above(target.text);
  if (!above.empty()) {
    return fail(Errc::invalid,
                absl::StrCat(target.text, " is a part of what is mounted at ", above));
  }
  return SnapshotPlace{Kind::unused_store, target.text, ""};
}

}  // namespace plumeria::cli
