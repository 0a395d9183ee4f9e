#include "fuse/encode.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>

#include "base/number.h"

namespace plumeria::fuse {

namespace {

constexpr std::int64_t nanoseconds = 1'000'000'000;

void encode_time(WallTime time, std::uint64_t& seconds, std::uint32_t& rest) {
  std::int64_t whole = raw(time) / nanoseconds;
  std::int64_t part = raw(time) % nanoseconds;
  if (part < 0) {
    part += nanoseconds;
    --whole;
  }
  seconds = static_cast<std::uint64_t>(whole);
  rest = static_cast<std::uint32_t>(part);
}

WallTime decode_time(std::uint64_t seconds, std::uint32_t rest) {
  return WallTime{static_cast<std::int64_t>(seconds) * nanoseconds + rest};
}

void append_padded(Bytes& to, const void* head, std::size_t head_size, std::string_view name,
                   std::size_t padded_size) {
  const std::size_t at = to.size();
  to.resize(at + padded_size);
  std::memcpy(to.data() + at, head, head_size);
  std::memcpy(to.data() + at + head_size, name.data(), name.size());
}

fuse_dirent encode_dirent(const fs::DirectoryEntry& entry) {
  fuse_dirent out{};
  out.ino = raw(entry.inode);
  out.off = entry.cookie;
  out.namelen = static_cast<std::uint32_t>(entry.name.size());
  out.type = (entry.type & S_IFMT) >> 12;
  return out;
}

}  // namespace

fuse_attr encode(const fs::Attributes& attributes) {
  fuse_attr out{};
  out.ino = raw(attributes.inode);
  out.size = attributes.size;
  out.blocks = attributes.blocks;
  encode_time(attributes.atime, out.atime, out.atimensec);
  encode_time(attributes.mtime, out.mtime, out.mtimensec);
  encode_time(attributes.ctime, out.ctime, out.ctimensec);
  out.mode = attributes.mode;
  out.nlink = attributes.links;
  out.uid = attributes.uid;
  out.gid = attributes.gid;
  out.rdev = attributes.rdev;
  out.blksize = page_size;
  return out;
}

fuse_entry_out encode_entry(const fs::Attributes& attributes, Validity validity) {
  fuse_entry_out out{};
  out.nodeid = raw(attributes.inode);
  // The kernel has made its root by itself, with generation 0.
  out.generation = attributes.inode == fs::root_inode ? 0 : attributes.generation;
  out.entry_valid = validity.name ? cache_for_ever : 0;
  out.attr_valid = validity.attributes ? cache_for_ever : 0;
  out.attr = encode(attributes);
  return out;
}

fuse_attr_out encode_attributes(const fs::Attributes& attributes, bool valid) {
  fuse_attr_out out{};
  out.attr_valid = valid ? cache_for_ever : 0;
  out.attr = encode(attributes);
  return out;
}

fuse_entry_out encode_absence(bool valid) {
  fuse_entry_out out{};
  out.entry_valid = valid ? cache_for_ever : 0;
  return out;
}

bool append_entry(Bytes& to, std::size_t limit, const fs::DirectoryEntry& entry) {
  const std::size_t size = FUSE_DIRENT_ALIGN(FUSE_NAME_OFFSET + entry.name.size());
  if (to.size() + size > limit) return false;
  const fuse_dirent head = encode_dirent(entry);
  append_padded(to, &head, FUSE_NAME_OFFSET, entry.name, size);
  return true;
}

bool append_entry_plus(Bytes& to, std::size_t limit, const fs::DirectoryEntry& entry,
                       const fuse_entry_out& out) {
  const std::size_t size = FUSE_DIRENT_ALIGN(FUSE_NAME_OFFSET_DIRENTPLUS + entry.name.size());
  if (to.size() + size > limit) return false;
  // The structure ends in its name, so that it cannot be built as a value.
  std::byte head[FUSE_NAME_OFFSET_DIRENTPLUS];
  const fuse_dirent tail = encode_dirent(entry);
  std::memcpy(head, &out, sizeof out);
  std::memcpy(head + sizeof out, &tail, FUSE_NAME_OFFSET);
  append_padded(to, head, sizeof head, entry.name, size);
  return true;
}

fs::Changes decode_changes(const fuse_setattr_in& in) {
  fs::Changes changes;
  if (in.valid & FATTR_MODE) changes.mode = in.mode & 07777;
  if (in.valid & FATTR_UID) changes.uid = in.uid;
  if (in.valid & FATTR_GID) changes.gid = in.gid;
  if (in.valid & FATTR_SIZE) changes.size = in.size;
  if (in.valid & FATTR_ATIME_NOW) {
    changes.atime_now = true;
  } else if (in.valid & FATTR_ATIME) {
    changes.atime = decode_time(in.atime, in.atimensec);
  }
  if (in.valid & FATTR_MTIME_NOW) {
    changes.mtime_now = true;
  } else if (in.valid & FATTR_MTIME) {
    changes.mtime = decode_time(in.mtime, in.mtimensec);
  }
  changes.kill_suid = (in.valid & FATTR_KILL_SUIDGID) != 0;
  return changes;
}

clerk::FileLock decode_lock(std::uint64_t inode, const fuse_lk_in& in) {
  clerk::FileLock lock;
  lock.inode = inode;
  lock.is_flock = (in.lk_flags & FUSE_LK_FLOCK) != 0;
  lock.owner = in.owner;
  lock.start = in.lk.start;
  lock.end = in.lk.end >= static_cast<std::uint64_t>(INT64_MAX) ? ~0ull : in.lk.end;
  lock.mode = in.lk.type == F_RDLCK   ? lock::Mode::shared
              : in.lk.type == F_WRLCK ? lock::Mode::exclusive
                                      : lock::Mode::none;
  lock.pid = in.lk.pid;
  return lock;
}

fuse_lk_out encode_lock(const clerk::FileLock& lock) {
  fuse_lk_out out{};
  out.lk.start = lock.start;
  out.lk.end = std::min(lock.end, static_cast<std::uint64_t>(INT64_MAX));
  out.lk.type = lock.mode == lock::Mode::shared      ? F_RDLCK
                : lock.mode == lock::Mode::exclusive ? F_WRLCK
                                                     : F_UNLCK;
  out.lk.pid = lock.pid;
  return out;
}

}  // namespace plumeria::fuse
