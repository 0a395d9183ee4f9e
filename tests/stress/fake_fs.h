// A file system in memory, mounted several times: fs::Operations without disk, log and network,
// with the locking that the kernel protocol relies on. What it says is always the truth of the
// moment, so whatever an application sees stale is the fault of the kernel's cache or of the
// protocol.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "fs/operations.h"
#include "tests/stress/fake_locks.h"

namespace plumeria::fake {

struct Node {
  fs::Attributes attributes;
  Bytes data;
  std::string target;                          // of a symbolic link
  std::map<std::string, std::uint64_t> names;  // of a directory
  std::map<std::string, std::uint64_t> cookies;
  std::uint64_t next_cookie = 3;
  std::uint64_t parent = 1;
  std::uint32_t handles = 0;  // on all mounts
};

// What the mounts share.
struct Store {
  Store(World w, Duration latency_max);
  Node& make(std::uint32_t mode, fs::Caller caller, std::uint64_t parent);
  Node* find(std::uint64_t inode);
  void forget_if_gone(std::uint64_t inode);
  WallTime now() const { return world.clock.wall(); }

  World world;
  LockServer locks;
  std::map<std::uint64_t, Node> nodes;
  std::uint64_t next_inode = 2;
  std::uint64_t next_handle = 1;

  struct FileLock {
    clerk::FileLock lock;
    const void* mount;
  };
  std::vector<FileLock> file_locks;
  Event file_locks_changed;
};

class FakeFs final : public fs::Operations, private Giver {
 public:
  FakeFs(Store& store, mount::KernelCache& kernel)
      : store_(store), locks_(store.world, store.locks, kernel, *this) {}

  const MountLocks& locks() const { return locks_; }

  Task<Result<LookupReply>> lookup(fs::InodeNumber parent, std::string name) override;
  void forget(fs::InodeNumber) override {}
  Task<Result<clerk::Pin>> keep(fs::InodeNumber inode) override;
  Task<Result<fs::Covered<fs::Attributes>>> getattr(fs::InodeNumber inode) override;
  Task<Result<fs::Covered<fs::Attributes>>> getattr_under_revoke(fs::InodeNumber inode) override;
  Task<Result<fs::Covered<fs::Attributes>>> getattr_unless_revoked(fs::InodeNumber inode,
                                                                   lock::Mode mode) override;
  Task<Result<fs::Covered<fs::Attributes>>> setattr(fs::InodeNumber inode, fs::Changes changes,
                                                    fs::Caller caller, fs::Access access) override;
  Task<Result<std::string>> readlink(fs::InodeNumber inode) override;
  Task<Result<fs::Covered<fs::Attributes>>> mknod(fs::InodeNumber parent, std::string name,
                                                  std::uint32_t mode, std::uint32_t rdev,
                                                  fs::Caller caller) override;
  Task<Result<fs::Covered<fs::Attributes>>> mkdir(fs::InodeNumber parent, std::string name,
                                                  std::uint32_t mode, fs::Caller caller) override;
  Task<Result<fs::Covered<fs::Attributes>>> symlink(fs::InodeNumber parent, std::string name,
                                                    std::string target, fs::Caller caller) override;
  Task<Result<fs::Covered<fs::Attributes>>> link(fs::InodeNumber inode, fs::InodeNumber parent,
                                                 std::string name) override;
  Task<Status> unlink(fs::InodeNumber parent, std::string name) override;
  Task<Status> rmdir(fs::InodeNumber parent, std::string name) override;
  Task<Status> rename(fs::InodeNumber parent, std::string name, fs::InodeNumber new_parent,
                      std::string new_name, std::uint32_t flags) override;
  Task<Result<CreateReply>> create(fs::InodeNumber parent, std::string name, std::uint32_t mode,
                                   std::uint32_t flags, fs::Caller caller) override;
  Task<Result<fs::HandleId>> open(fs::InodeNumber inode, std::uint32_t flags) override;
  Task<Status> release(fs::HandleId handle) override;
  Task<Result<Bytes>> read(fs::InodeNumber inode, std::uint64_t offset, std::uint32_t size,
                           fs::Access access) override;
  Task<Result<fs::WriteReply>> write(fs::InodeNumber inode, std::uint64_t offset, SharedBytes data,
                                     bool append, bool kill_suid, fs::Access access) override;
  Task<Result<fs::WriteReply>> write_mapped(fs::InodeNumber inode, std::uint64_t offset,
                                            SharedBytes data, bool kill_suid,
                                            fs::Access access) override;
  Task<Status> fallocate(fs::InodeNumber, std::uint64_t, std::uint64_t, std::uint32_t,
                         fs::Access) override {
    co_return fail(Errc::not_supported);
  }
  Task<Result<std::uint64_t>> seek(fs::InodeNumber, std::uint64_t, bool) override {
    co_return fail(Errc::not_supported);
  }
  Task<Status> fsync(fs::InodeNumber inode, bool data_only) override;
  Task<Status> sync_everything() override;
  Task<Result<fs::Covered<std::vector<fs::DirectoryEntry>>>> readdir(fs::InodeNumber inode,
                                                                     std::uint64_t cookie,
                                                                     std::size_t max,
                                                                     bool plus) override;
  Task<Result<fs::FileSystemStatistics>> statfs() override;
  Task<Result<fs::Covered<std::optional<Bytes>>>> getxattr(fs::InodeNumber, std::string) override {
    co_return fs::Covered<std::optional<Bytes>>{};
  }
  Task<Result<std::optional<Bytes>>> getxattr_unless_revoked(fs::InodeNumber, std::string,
                                                             fs::Access) override {
    co_return std::nullopt;
  }
  Task<Result<std::vector<std::string>>> listxattr(fs::InodeNumber) override {
    co_return std::vector<std::string>();
  }
  Task<Status> setxattr(fs::InodeNumber, std::string, Bytes, std::uint32_t, bool) override {
    co_return fail(Errc::not_supported);
  }
  Task<Status> removexattr(fs::InodeNumber, std::string) override { co_return fail(Errc::no_data); }
  Task<Status> set_file_lock(clerk::FileLock lock, bool wait, std::uint64_t request) override;
  void cancel_file_lock(std::uint64_t request) override;
  Task<Result<clerk::FileLock>> test_file_lock(clerk::FileLock lock) override;
  Task<Status> drop_file_locks(fs::InodeNumber inode, bool is_flock, std::uint64_t owner) override;

 private:
  Task<Result<fs::Covered<fs::Attributes>>> attributes_under(fs::InodeNumber inode,
                                                             lock::Mode mode);
  using Pins = std::vector<Pin>;
  mount::What what_to_drop(std::uint64_t inode, Mode held, Mode keep) override;

  enum class WriteKind { at_offset, append, mapped };
  Task<Result<fs::WriteReply>> write_as(WriteKind kind, fs::InodeNumber inode, std::uint64_t offset,
                                        SharedBytes data, bool kill_suid, fs::Access access);
  Task<Pins> pin_all(std::vector<std::uint64_t> inodes);
  // Pins the directory and what `name` is there, exclusively.
  struct Named {
    Pins pins;
    Node* directory = nullptr;
    Node* node = nullptr;
  };
  Task<Result<Named>> pin_named(std::uint64_t parent, std::string name);
  Task<Result<fs::Covered<fs::Attributes>>> make_named(std::uint64_t parent, std::string name,
                                                       std::uint32_t mode, fs::Caller caller,
                                                       std::uint32_t rdev, std::string target);
  Task<Status> remove(std::uint64_t parent, std::string name, bool directory);
  const clerk::FileLock* conflict(const clerk::FileLock& lock) const;
  void apply(const clerk::FileLock& lock);

  struct Handle {
    std::uint64_t inode;
    bool writable;
  };
  Store& store_;
  MountLocks locks_;
  std::map<std::uint64_t, Handle> handles_;
  std::map<std::uint64_t, std::uint32_t> writers_;
  std::set<std::uint64_t> cancelled_;
};

}  // namespace plumeria::fake
