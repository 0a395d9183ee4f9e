// Where a mount gets its blocks and locks from: a store in this process (the embedded mount), or a
// server at an address.
#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "cli/runtime.h"
#include "cli/snapshot_place.h"
#include "disk/disk.h"
#include "net/transport.h"
#include "os/asio_transport.h"

namespace plumeria::cli {

class MountSource {
 public:
  virtual ~MountSource() = default;
  // Until blocks can be read and the lock server answers, or `patience` is over.
  virtual Task<Status> start(Duration patience) = 0;
  // It is not mounted any more, and stop() will follow.
  virtual void ending() = 0;
  // After the mount has stopped.
  virtual Task<Status> stop() = 0;

  virtual disk::VirtualDisk& disk() = 0;
  virtual net::Transport& transport() = 0;
  virtual net::PeerId lock_server() = 0;  // once started
  // Lets others look at the store's snapshots, over `transport`, until it is stopped.
  virtual void share_snapshots(net::Transport&) {}
  // Adds what it knows to a report.
  virtual void report_to(nlohmann::json& report) = 0;
};

// Opens the store (which may fail with Errc::in_use and the like), or prepares to connect.
// `transport` is the process's own; the embedded mount does not use it.
Result<std::unique_ptr<MountSource>> make_source(Runtime& runtime, os::AsioTransport& transport,
                                                 const Target& target);

// The same for a snapshot, as it was when it was made; what is changed is gone afterwards.
Result<std::unique_ptr<MountSource>> make_snapshot_source(Runtime& runtime,
                                                          os::AsioTransport& transport,
                                                          const SnapshotPlace& place,
                                                          std::string name);

}  // namespace plumeria::cli
