// Where a file has space: holes made, filled and found (fallocate(2), lseek(2)).
//
// Every function requires what fs/data.h says of its own; seek_data() is content with a shared
// lock.
#pragma once

#include <cstdint>
#include <optional>

#include "fs/core.h"

namespace plumeria::fs {

// Zeroes [offset, end) of the file and gives back what space whole pages of it have. What is behind
// the file's end has its space given back, too.
Task<Status> punch_data(Core& core, InodeNumber inode, std::uint64_t offset, std::uint64_t end,
                        bool for_revoke);

// Makes room for [offset, end), so that writes there need no further space, and the file that long
// unless `keep_size`. Files that need no data segment get no space behind their end. Errc::no_space
// leaves the size as it was.
Task<Status> reserve_data(Core& core, InodeNumber inode, std::uint64_t offset, std::uint64_t end,
                          bool keep_size, bool for_revoke);

// The first byte at or after `offset` that may hold data, or is in a hole; the end of the file is
// one. Errc::no_device (ENXIO) behind the end, or if no data follow.
Task<Result<std::uint64_t>> seek_data(Core& core, InodeNumber inode, std::uint64_t offset,
                                      bool hole);

}  // namespace plumeria::fs
