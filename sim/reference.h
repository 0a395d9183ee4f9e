// What POSIX says, in memory: the file system against which others are compared.
//
// Every operation is complete when it is called; no caches, no locks, no time. Replies have no
// pins, so a Kernel above it caches nothing. Not modelled: times, device numbers, permission checks
// (as in fs::Operations), blocks and sizes of directories.
//
// Threads: one. Ownership: none of others.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "fs/operations.h"

namespace plumeria::sim {

class ReferenceFileSystem final : public fs::Operations {
 public:
  ReferenceFileSystem();

  Task<Result<LookupReply>> lookup(fs::InodeNumber parent, std::string name) override;
  void forget(fs::InodeNumber) override {}
  Task<Result<clerk::Pin>> keep(fs::InodeNumber) override { co_return clerk::Pin(); }
  Task<Result<fs::Covered<fs::Attributes>>> getattr(fs::InodeNumber inode) override;
  Task<Result<fs::Covered<fs::Attributes>>> getattr_under_revoke(fs::InodeNumber inode) override {
    return getattr(inode);  // There are no locks here.
  }
  Task<Result<fs::Covered<fs::Attributes>>> getattr_unless_revoked(fs::InodeNumber inode,
                                                                   lock::Mode) override {
    return getattr(inode);
  }
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
  // The reference knows no holes.
  Task<Result<std::uint64_t>> seek(fs::InodeNumber inode, std::uint64_t offset, bool hole) override;
  Task<Status> fsync(fs::InodeNumber inode, bool data_only) override;
  Task<Status> sync_everything() override;
  Task<Result<fs::Covered<std::vector<fs::DirectoryEntry>>>> readdir(fs::InodeNumber inode,
                                                                     std::uint64_t cookie,
                                                                     std::size_t max,
                                                                     bool plus) override;
  Task<Result<fs::FileSystemStatistics>> statfs() override;
  // Without access control lists.
  Task<Result<fs::Covered<std::optional<Bytes>>>> getxattr(fs::InodeNumber inode,
                                                           std::string name) override;
  Task<Result<std::optional<Bytes>>> getxattr_unless_revoked(fs::InodeNumber inode,
                                                             std::string name,
                                                             fs::Access) override {
    CO_TRY(auto reply, co_await getxattr(inode, std::move(name)));
    co_return std::move(reply.value);
  }
  Task<Result<std::vector<std::string>>> listxattr(fs::InodeNumber inode) override;
  Task<Status> setxattr(fs::InodeNumber inode, std::string name, Bytes value, std::uint32_t flags,
                        bool kill_sgid) override;
  Task<Status> removexattr(fs::InodeNumber inode, std::string name) override;
  Task<Status> set_file_lock(clerk::FileLock lock, bool wait, std::uint64_t request) override;
  void cancel_file_lock(std::uint64_t) override {}
  Task<Result<clerk::FileLock>> test_file_lock(clerk::FileLock lock) override;
  Task<Status> drop_file_locks(fs::InodeNumber inode, bool is_flock, std::uint64_t owner) override;

 private:
  struct Node {
    fs::Attributes attributes;
    std::map<std::string, fs::InodeNumber> entries;
    fs::InodeNumber parent{};  // of a directory
    Bytes data;
    std::string target;
    std::map<std::string, Bytes> xattrs;
    std::uint32_t handles = 0;
  };

  Node* find(fs::InodeNumber inode);
  Node* child(Node& directory, const std::string& name);
  Result<Node*> directory(fs::InodeNumber inode);
  Result<Node*> make(fs::InodeNumber parent, const std::string& name, std::uint32_t mode,
                     fs::Caller caller);
  void forget_if_unused(fs::InodeNumber inode);
  void take_link(fs::InodeNumber inode);
  bool is_below(fs::InodeNumber inode, fs::InodeNumber ancestor);
  Status do_rename(fs::InodeNumber parent, const std::string& name, fs::InodeNumber new_parent,
                   const std::string& new_name, std::uint32_t flags);
  Status may_replace(Node& moved, Node& replaced);
  static fs::Covered<fs::Attributes> reply(const Node& node) { return {node.attributes, {}}; }

  std::map<fs::InodeNumber, Node> nodes_;
  std::uint64_t last_inode_ = 1;
  std::map<fs::HandleId, fs::InodeNumber> handles_;
  std::uint64_t last_handle_ = 0;
};

}  // namespace plumeria::sim
