// The file system as its users see it: POSIX operations on inode numbers, for `fuse` and for the
// simulator's workloads.
//
// Coverage    What a reply tells may be cached by the caller without time limit, because locks are
// held; the pins come with the reply (Covered), and
//             the caller hands the reply to the kernel before it drops them. When a lock goes,
//             mount/kernel_cache.h is told.
// Access      Permission bits are checked by the kernel (default_permissions), not here; what the
// kernel cannot know
//             (sticky target inode, setgid inheritance, clearing of suid on write) is done here.
// Access::under_revoke  The caller answers a request that blocks a revoke (docs/kernel.md): the
// operation takes no inode lock, because
//             the revoked one is still held and nobody else pins it. Only read, write and setattr,
//             between KernelCache::hold and KernelCache::release of this inode, while drop() runs.
// Errc::again From read, write and a setattr of the size, with Access::normal: the inode's lock was
//             being given up (Clerk::revoking) before the operation could pin it; nothing was done.
//             The caller keeps the request until KernelCache::release and calls again. Such an
//             operation never waits for a lock whose revoke has begun: the revoke may be waiting
//             for the request's page. (One that waits since before that is served before the lock
//             goes, as far as the mode that is held suffices.)
// Threads     The executor's. Errors: POSIX halves of Errc; lost and unavailable become io in
// `fuse`.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "base/task.h"
#include "base/time.h"
#include "clerk/clerk.h"

namespace plumeria::fs {

enum class InodeNumber : std::uint64_t {};
constexpr InodeNumber root_inode{1};
enum class HandleId : std::uint64_t {};

constexpr std::size_t name_max = 255;      // bytes
constexpr std::size_t symlink_max = 3500;  // bytes
constexpr std::uint64_t file_size_max = (1ull << 63) - 1;
constexpr std::size_t io_size_max = 1u << 20;  // longest read or write the kernel sends

struct Attributes {
  InodeNumber inode{};
  std::uint64_t generation = 0;
  std::uint32_t mode = 0;  // type and permission bits, as in st_mode
  std::uint32_t links = 0;
  std::uint32_t uid = 0, gid = 0;
  std::uint32_t rdev = 0;
  std::uint64_t size = 0;    // bytes
  std::uint64_t blocks = 0;  // of 512 bytes
  WallTime atime{}, mtime{}, ctime{};
};

struct Caller {
  std::uint32_t uid = 0, gid = 0;
  std::uint32_t umask = 0;
  std::vector<std::uint32_t> groups;  // besides gid; only where an operation says so
};

enum class Access { normal, under_revoke };

template <class T>
struct Covered {
  T value;
  std::vector<clerk::Pin> pins;
};

// What setattr changes; absent members stay.
struct Changes {
  std::optional<std::uint32_t> mode;  // permission bits only
  std::optional<std::uint32_t> uid, gid;
  std::optional<std::uint64_t> size;
  std::optional<WallTime> atime, mtime;
  bool atime_now = false, mtime_now = false;
  bool kill_suid = false;  // FATTR_KILL_SUIDGID: clear suid, and sgid if group-executable
};

struct DirectoryEntry {
  std::string name;
  InodeNumber inode{};
  std::uint32_t type = 0;    // S_IFMT bits
  std::uint64_t cookie = 0;  // give it back to readdir to go on after this entry; stable, 63 bits
  std::optional<Attributes> attributes;  // readdir_plus, if the inode's lock is pinned for it
};

struct Opened {
  HandleId handle{};
  InodeNumber inode{};
};

struct FileSystemStatistics {
  std::uint64_t block_size = 4096, blocks_total = 0, blocks_free = 0, inodes_total = 0,
                inodes_free = 0;
};

struct WriteReply {
  std::uint64_t offset =
      0;  // where it went: for O_APPEND possibly not where the kernel thought (docs/kernel.md)
  std::uint64_t written = 0;  // bytes
};

class Operations {
 public:
  virtual ~Operations() = default;

  // Errc::no_entry is covered too: the pins cover the directory, so that a negative entry can be
  // cached.
  struct LookupReply {
    std::optional<Attributes> attributes;  // nothing: no such name
    std::vector<clerk::Pin> pins;
  };
  // "." is any inode itself, whatever it is; ".." a directory's parent.
  virtual Task<Result<LookupReply>> lookup(InodeNumber parent, std::string name) = 0;
  // The kernel has dropped its last reference: the inode's lock may be idle, and a directory that
  // was removed here is taken apart only now.
  virtual void forget(InodeNumber inode) = 0;
  // While the pin lasts nobody frees the inode, even if it loses its last link. It is in nobody's
  // way. Requires: the inode is pinned, by the pins of a reply.
  virtual Task<Result<clerk::Pin>> keep(InodeNumber inode) = 0;

  virtual Task<Result<Covered<Attributes>>> getattr(InodeNumber inode) = 0;
  // The same for a request that arrived while the inode's lock is given up: without its lock, as
  // Access::under_revoke says; giving the lock up waits for the answer. (If it waited for the lock
  // instead, where the kernel lets it, the kernel would ignore the size that it is told, and a
  // read(2) that asked for it would end too early or too late.)
  virtual Task<Result<Covered<Attributes>>> getattr_under_revoke(InodeNumber inode) = 0;
  // The same for a request that may block a revoke, under a lock of that mode; Errc::again if the
  // lock is being given up.
  virtual Task<Result<Covered<Attributes>>> getattr_unless_revoked(InodeNumber inode,
                                                                   lock::Mode mode) = 0;
  virtual Task<Result<Covered<Attributes>>> setattr(InodeNumber inode, Changes changes,
                                                    Caller caller, Access access) = 0;
  virtual Task<Result<std::string>> readlink(InodeNumber inode) = 0;

  // mode: type and permission bits; umask is applied here. mknod makes regular files, fifos,
  // sockets and devices.
  virtual Task<Result<Covered<Attributes>>> mknod(InodeNumber parent, std::string name,
                                                  std::uint32_t mode, std::uint32_t rdev,
                                                  Caller caller) = 0;
  virtual Task<Result<Covered<Attributes>>> mkdir(InodeNumber parent, std::string name,
                                                  std::uint32_t mode, Caller caller) = 0;
  virtual Task<Result<Covered<Attributes>>> symlink(InodeNumber parent, std::string name,
                                                    std::string target, Caller caller) = 0;
  virtual Task<Result<Covered<Attributes>>> link(InodeNumber inode, InodeNumber parent,
                                                 std::string name) = 0;
  virtual Task<Status> unlink(InodeNumber parent, std::string name) = 0;
  virtual Task<Status> rmdir(InodeNumber parent, std::string name) = 0;
  // flags: RENAME_NOREPLACE, RENAME_EXCHANGE of <linux/fs.h>; others Errc::invalid.
  virtual Task<Status> rename(InodeNumber parent, std::string name, InodeNumber new_parent,
                              std::string new_name, std::uint32_t flags) = 0;

  // flags: open(2)'s; O_CREAT is the caller's business, O_TRUNC comes as a setattr. `writable`
  // opens hold the inode exclusively before they return (docs/kernel.md).
  struct CreateReply {
    Covered<Attributes> entry;
    HandleId handle{};
  };
  // Without O_EXCL a regular file that is there is opened, and cut if O_TRUNC says so, if its
  // permission bits let the caller (uid, gid, groups) do that; Errc::stale if it is no such file.
  virtual Task<Result<CreateReply>> create(InodeNumber parent, std::string name, std::uint32_t mode,
                                           std::uint32_t flags, Caller caller) = 0;
  virtual Task<Result<HandleId>> open(InodeNumber inode, std::uint32_t flags) = 0;
  virtual Task<Status> release(HandleId handle) = 0;

  // Fewer bytes than asked for mean the end of the file.
  virtual Task<Result<Bytes>> read(InodeNumber inode, std::uint64_t offset, std::uint32_t size,
                                   Access access) = 0;
  // `append`: at the end of the file as this mount knows it under the lock. `kill_suid` as in
  // Changes.
  virtual Task<Result<WriteReply>> write(InodeNumber inode, std::uint64_t offset, SharedBytes data,
                                         bool append, bool kill_suid, Access access) = 0;
  // The same for bytes of a shared mapping. Stores into a mapping make no file longer: what lies
  // beyond the end is dropped (the kernel may believe in a longer file, and sends whole pages).
  virtual Task<Result<WriteReply>> write_mapped(InodeNumber inode, std::uint64_t offset,
                                                SharedBytes data, bool kill_suid,
                                                Access access) = 0;
  // Space of a regular file. `mode` as fallocate(2): 0 or FALLOC_FL_KEEP_SIZE makes room,
  // PUNCH_HOLE (with KEEP_SIZE) makes a hole, ZERO_RANGE zeroes; others Errc::not_supported.
  virtual Task<Status> fallocate(InodeNumber inode, std::uint64_t offset, std::uint64_t length,
                                 std::uint32_t mode, Access access) = 0;
  // SEEK_HOLE or SEEK_DATA. Errc::no_device (ENXIO) as lseek(2).
  virtual Task<Result<std::uint64_t>> seek(InodeNumber inode, std::uint64_t offset, bool hole) = 0;
  virtual Task<Status> fsync(InodeNumber inode, bool data_only) = 0;
  virtual Task<Status> sync_everything() = 0;

  // From `cookie` on (0: the start), at most `max` entries, "." and ".." first. `plus` adds
  // attributes where they come without waiting for others; pins cover the directory and those
  // inodes.
  virtual Task<Result<Covered<std::vector<DirectoryEntry>>>> readdir(InodeNumber inode,
                                                                     std::uint64_t cookie,
                                                                     std::size_t max,
                                                                     bool plus) = 0;

  virtual Task<Result<FileSystemStatistics>> statfs() = 0;

  // Extended attributes; names carry their namespace: "user.", "trusted.", "security.", or they are
  // those of POSIX access control lists, whose permission bits follow the mode and the other way
  // round. Other names are not supported. All of an inode must fit into a block
  // (format/xattrs.h), else Errc::no_space. Nothing: there is none of that name.
  virtual Task<Result<Covered<std::optional<Bytes>>>> getxattr(InodeNumber inode,
                                                               std::string name) = 0;
  // The same for a request that may block a revoke, because a write(2) waits for it: as read().
  virtual Task<Result<std::optional<Bytes>>> getxattr_unless_revoked(InodeNumber inode,
                                                                     std::string name,
                                                                     Access access) = 0;
  virtual Task<Result<std::vector<std::string>>> listxattr(InodeNumber inode) = 0;
  // flags: XATTR_CREATE or XATTR_REPLACE of setxattr(2). `kill_sgid`: with an access list, clears
  // the set-group-id bit.
  virtual Task<Status> setxattr(InodeNumber inode, std::string name, Bytes value,
                                std::uint32_t flags, bool kill_sgid) = 0;
  virtual Task<Status> removexattr(InodeNumber inode, std::string name) = 0;

  // flock and fcntl; see clerk/clerk.h.
  virtual Task<Status> set_file_lock(clerk::FileLock lock, bool wait, std::uint64_t request) = 0;
  virtual void cancel_file_lock(std::uint64_t request) = 0;
  virtual Task<Result<clerk::FileLock>> test_file_lock(clerk::FileLock lock) = 0;
  virtual Task<Status> drop_file_locks(InodeNumber inode, bool is_flock, std::uint64_t owner) = 0;
};

}  // namespace plumeria::fs
