// Opening and making stores, for the commands.
#pragma once

#include <memory>
#include <string>

#include "cli/runtime.h"
#include "format/superblock.h"
#include "os/host_store.h"

namespace plumeria::cli {

struct OpenStore {
  std::unique_ptr<os::HostStore> disk;
  format::Superblock superblock;
};

// Errors name the path, and for a store in use its holder.
Result<OpenStore> open_store(Runtime& runtime, const std::string& path, bool read_only);

// The superblock of any disk.
Task<Result<format::Superblock>> read_superblock(disk::VirtualDisk& disk);

}  // namespace plumeria::cli
