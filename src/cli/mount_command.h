// What the commands `mount` and `snapshot mount` share.
#pragma once

#include "cli/command.h"

namespace plumeria::cli {

// Adds `mount TARGET NAME DIR` to the commands about snapshots.
void add_mount_of_snapshot(CLI::App& snapshots, Exit& exit);

}  // namespace plumeria::cli
