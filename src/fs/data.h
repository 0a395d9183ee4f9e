// File data: reads, deferred writes, their commit, truncation (docs/format.md, "File data";
// ARCHITECTURE.md, "File data are deferred").
//
// Every function requires that the inode's lock is pinned, or is being given up with nobody else
// pinning it: exclusively, except for read_data(), which needs it shared (and exclusively while the
// file is dirty here, which implies it).
#pragma once

#include <cstdint>

#include "fs/core.h"

namespace plumeria::fs {

// The file's size as this mount knows it.
std::uint64_t size_of(ByteView inode_block, const FileState* file);

Task<Result<Bytes>> read_data(Core& core, InodeNumber inode, std::uint64_t offset,
                              std::uint64_t length);

// Takes the bytes into memory; the caller has made sure that they will find room.
Task<Status> write_data(Core& core, InodeNumber inode, std::uint64_t offset, SharedBytes data);

// Sets the size. What is cut off never shows again.
Task<Status> truncate_data(Core& core, InodeNumber inode, std::uint64_t size, bool for_revoke);

// Writes out what is dirty, then logs size, times and places as one record. Afterwards the file is
// clean, but the record is durable only after a sync of the log, which the caller asks for if it
// needs it.
Task<Status> commit_data(Core& core, InodeNumber inode, bool for_revoke);

}  // namespace plumeria::fs
