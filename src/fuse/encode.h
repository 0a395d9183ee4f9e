// Values of `fs` in the structures of the kernel's protocol.
#pragma once

#include <string_view>

#include "base/bytes.h"
#include "fs/operations.h"
#include "fuse/wire.h"

namespace plumeria::fuse {

fuse_attr encode(const fs::Attributes& attributes);

// How long the kernel may believe a reply: for ever what a lock covers, else not at all.
struct Validity {
  bool name = false;
  bool attributes = false;
};
fuse_entry_out encode_entry(const fs::Attributes& attributes, Validity validity);
fuse_attr_out encode_attributes(const fs::Attributes& attributes, bool valid);
// The name does not exist.
fuse_entry_out encode_absence(bool valid);

// Appends an entry of a listing; false, and nothing done, if it makes `to` longer than `limit`.
bool append_entry(Bytes& to, std::size_t limit, const fs::DirectoryEntry& entry);
bool append_entry_plus(Bytes& to, std::size_t limit, const fs::DirectoryEntry& entry,
                       const fuse_entry_out& out);

// What the kernel asks for in SETATTR.
fs::Changes decode_changes(const fuse_setattr_in& in);

// File locks: the kernel's last byte of "to the end" is the largest signed number.
clerk::FileLock decode_lock(std::uint64_t inode, const fuse_lk_in& in);
fuse_lk_out encode_lock(const clerk::FileLock& lock);

}  // namespace plumeria::fuse
