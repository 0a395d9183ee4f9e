// Where the snapshots of a store are to be had, whatever a user names: the store, a mount of it, or
// the address of its server.
#pragma once

#include <string>

#include "base/result.h"

namespace plumeria::cli {

struct SnapshotPlace {
  enum class Kind {
    mount_of_store,  // the daemon of a mount that holds the store makes them
    server,
    unused_store,  // a directory that nobody holds
  };
  Kind kind{};
  std::string text;     // the store's path, or the server's address
  std::string address;  // where the snapshots can be looked at; of an unused store none
};

// Errc::invalid for a mounted snapshot, or a directory within a mount.
Result<SnapshotPlace> find_snapshot_place(const std::string& text);

}  // namespace plumeria::cli
