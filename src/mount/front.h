// The operations of a mount, whatever session it is in: calls go to the file system of the current
// lease, wait while the mount joins again, and are repeated if the lease was lost before they did
// anything.
#pragma once

#include <set>
#include <vector>

#include "base/async.h"
#include "fs/file_system.h"
#include "fs/operations.h"

namespace plumeria::mount {

class Front : public fs::Operations {
 public:
  explicit Front(Executor& executor) : changed_(executor) {}

  // The file system that serves from now on; null: none, calls wait. Ended: they fail with
  // Errc::shut_down.
  void serve_from(fs::FileSystem* file_system);
  void end();
  // Waits until no call is in the file system that served last.
  Task<void> drained();

  // Pages that mappings made dirty belong to the lease under which they were stored into. From
  // refuse_mapped() on, when a lease is lost, write_mapped() fails with Errc::io and the file has
  // lost changes, until accept_mapped(): when the kernel has forgotten every page of that time.
  void refuse_mapped() { refusing_mapped_ = true; }
  void accept_mapped() { refusing_mapped_ = false; }
  // The files that were refused since this was last asked.
  std::vector<fs::InodeNumber> take_refused();

  Task<Result<LookupReply>> lookup(fs::InodeNumber parent, std::string name) override;
  void forget(fs::InodeNumber inode) override;
  Task<Result<fs::Covered<fs::Attributes>>> getattr(fs::InodeNumber inode) override;
  Task<Result<clerk::Pin>> keep(fs::InodeNumber inode) override;
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
  Task<Status> fallocate(fs::InodeNumber inode, std::uint64_t offset, std::uint64_t length,
                         std::uint32_t mode, fs::Access access) override;
  Task<Result<std::uint64_t>> seek(fs::InodeNumber inode, std::uint64_t offset, bool hole) override;
  Task<Status> fsync(fs::InodeNumber inode, bool data_only) override;
  Task<Status> sync_everything() override;
  Task<Result<fs::Covered<std::vector<fs::DirectoryEntry>>>> readdir(fs::InodeNumber inode,
                                                                     std::uint64_t cookie,
                                                                     std::size_t max,
                                                                     bool plus) override;
  Task<Result<fs::FileSystemStatistics>> statfs() override;
  Task<Result<fs::Covered<std::optional<Bytes>>>> getxattr(fs::InodeNumber inode,
                                                           std::string name) override;
  Task<Result<std::optional<Bytes>>> getxattr_unless_revoked(fs::InodeNumber inode,
                                                             std::string name,
                                                             fs::Access access) override;
  Task<Result<std::vector<std::string>>> listxattr(fs::InodeNumber inode) override;
  Task<Status> setxattr(fs::InodeNumber inode, std::string name, Bytes value, std::uint32_t flags,
                        bool kill_sgid) override;
  Task<Status> removexattr(fs::InodeNumber inode, std::string name) override;
  Task<Status> set_file_lock(clerk::FileLock lock, bool wait, std::uint64_t request) override;
  void cancel_file_lock(std::uint64_t request) override;
  Task<Result<clerk::FileLock>> test_file_lock(clerk::FileLock lock) override;
  Task<Status> drop_file_locks(fs::InodeNumber inode, bool is_flock, std::uint64_t owner) override;

 private:
  template <class R, class Call>
  Task<R> run(Call call, fs::Access access = fs::Access::normal);
  Result<fs::WriteReply> refuse(fs::InodeNumber inode);

  fs::FileSystem* file_system_ = nullptr;
  std::uint64_t running_ = 0;
  bool ended_ = false;
  bool refusing_mapped_ = false;
  std::set<fs::InodeNumber> refused_;
  Event changed_;
};

}  // namespace plumeria::mount
