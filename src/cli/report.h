// What a daemon tells about itself: as JSON for programs, from it as text for people.
//
// The members of the JSON are documented in plumeria-status(1); bytes and milliseconds where the
// name ends in nothing else.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "disk/remote_disk.h"
#include "format/superblock.h"
#include "mount/mount.h"
#include "os/host_store.h"
#include "serve/server.h"

namespace plumeria::cli {

nlohmann::json report(const mount::MountStatus& status);
nlohmann::json report(const serve::ServerStatus& status);
nlohmann::json report(const disk::RemoteDisk::Counters& counters);
nlohmann::json report(const os::HostStore& store, const format::Superblock& superblock);

std::string to_text(const nlohmann::json& report);

}  // namespace plumeria::cli
