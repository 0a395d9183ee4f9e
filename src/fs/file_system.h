// The file system of one mount: POSIX over cached blocks under locks (DESIGN of each operation: the
// .cc files, one group of operations each).
//
// Every operation reserves log space, pins its locks in the order of LockName, looks, changes
// blocks in one transaction, and drops the pins. A lock that is found to be needed out of order is
// tried; if it cannot be had at once, everything is dropped, taken in order, and looked at again.
//
// Threads: the executor's. Ownership: borrows what is in Core; outlives its operations.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "fs/allocator.h"
#include "fs/core.h"
#include "fs/directory.h"
#include "fs/operations.h"
#include "fs/orphans.h"
#include "fs/xattr_block.h"

namespace plumeria::fs {

struct FileSystemOptions {
  std::uint64_t dirty_data_max = 64ull << 20;  // bytes; writers wait beyond it
  Duration write_back_interval = 1s;
  // What a request means by this number: the number may have been given to another file since the
  // caller learned it. 0: whatever has it now.
  std::function<std::uint64_t(InodeNumber)> generation_told;
};

// An open file or directory, as it survives the loss of a lease.
struct Handle {
  HandleId id{};
  InodeNumber inode{};
  std::uint64_t generation = 0;
  bool writable = false;
};

class FileSystem : public Operations {
 public:
  FileSystem(World world, disk::VirtualDisk& disk, wal::Log& log, cache::BlockCache& cache,
             clerk::Clerk& clerk, format::Superblock superblock, FileSystemOptions options);
  ~FileSystem() override;

  Task<Status> start();
  // Commits everything and ends the background tasks. No operation may be running.
  Task<Status> stop();

  Task<Result<LookupReply>> lookup(InodeNumber parent, std::string name) override;
  void forget(InodeNumber inode) override;
  Task<Result<clerk::Pin>> keep(InodeNumber inode) override;
  Task<Result<Covered<Attributes>>> getattr(InodeNumber inode) override;
  Task<Result<Covered<Attributes>>> getattr_under_revoke(InodeNumber inode) override;
  Task<Result<Covered<Attributes>>> getattr_unless_revoked(InodeNumber inode, Mode mode) override;
  Task<Result<Covered<Attributes>>> setattr(InodeNumber inode, Changes changes, Caller caller,
                                            Access access) override;
  Task<Result<std::string>> readlink(InodeNumber inode) override;
  Task<Result<Covered<Attributes>>> mknod(InodeNumber parent, std::string name, std::uint32_t mode,
                                          std::uint32_t rdev, Caller caller) override;
  Task<Result<Covered<Attributes>>> mkdir(InodeNumber parent, std::string name, std::uint32_t mode,
                                          Caller caller) override;
  Task<Result<Covered<Attributes>>> symlink(InodeNumber parent, std::string name,
                                            std::string target, Caller caller) override;
  Task<Result<Covered<Attributes>>> link(InodeNumber inode, InodeNumber parent,
                                         std::string name) override;
  Task<Status> unlink(InodeNumber parent, std::string name) override;
  Task<Status> rmdir(InodeNumber parent, std::string name) override;
  Task<Status> rename(InodeNumber parent, std::string name, InodeNumber new_parent,
                      std::string new_name, std::uint32_t flags) override;
  Task<Result<CreateReply>> create(InodeNumber parent, std::string name, std::uint32_t mode,
                                   std::uint32_t flags, Caller caller) override;
  Task<Result<HandleId>> open(InodeNumber inode, std::uint32_t flags) override;
  Task<Status> release(HandleId handle) override;
  Task<Result<Bytes>> read(InodeNumber inode, std::uint64_t offset, std::uint32_t size,
                           Access access) override;
  Task<Result<WriteReply>> write(InodeNumber inode, std::uint64_t offset, SharedBytes data,
                                 bool append, bool kill_suid, Access access) override;
  Task<Result<WriteReply>> write_mapped(InodeNumber inode, std::uint64_t offset, SharedBytes data,
                                        bool kill_suid, Access access) override;
  Task<Status> fallocate(InodeNumber inode, std::uint64_t offset, std::uint64_t length,
                         std::uint32_t mode, bool kill_suid, Access access) override;
  Task<Result<std::uint64_t>> seek(InodeNumber inode, std::uint64_t offset, bool hole,
                                   Access access) override;
  Task<Status> fsync(InodeNumber inode, bool data_only) override;
  Task<Status> sync_everything() override;
  Task<Result<Covered<std::vector<DirectoryEntry>>>> readdir(InodeNumber inode,
                                                             std::uint64_t cookie, std::size_t max,
                                                             bool plus) override;
  Task<Result<FileSystemStatistics>> statfs() override;
  Task<Result<Covered<std::optional<Bytes>>>> getxattr(InodeNumber inode,
                                                       std::string name) override;
  Task<Result<std::optional<Bytes>>> getxattr_unless_revoked(InodeNumber inode, std::string name,
                                                             Access access) override;
  Task<Result<std::vector<std::string>>> listxattr(InodeNumber inode) override;
  Task<Status> setxattr(InodeNumber inode, std::string name, Bytes value, std::uint32_t flags,
                        bool kill_sgid) override;
  Task<Status> removexattr(InodeNumber inode, std::string name) override;
  Task<Status> set_file_lock(clerk::FileLock lock, bool wait, std::uint64_t request) override;
  void cancel_file_lock(std::uint64_t request) override;
  Task<Result<clerk::FileLock>> test_file_lock(clerk::FileLock lock) override;
  Task<Status> drop_file_locks(InodeNumber inode, bool is_flock, std::uint64_t owner) override;

  // For the mount, when a lock goes (clerk.h, step 4), after the kernel has forgotten what it must:
  // writes back what `name` covers, forgets it if `keep` is none. Does not return before it is
  // done; if it cannot be, not before the lease is lost.
  Task<void> give_up(LockName name, Mode keep);
  // A revoke has begun or ended.
  void locks_changed() { locks_changed_.notify_all(); }
  bool has_writer(InodeNumber inode) const;
  bool may_reclaim(
      InodeNumber inode);  // nobody has it open here; else the duty to reclaim it is taken

  // For a new lease after a lost one.
  std::vector<Handle> handles() const;
  std::vector<InodeNumber> lost_inodes() const;
  void adopt(const std::vector<Handle>& handles, const std::vector<InodeNumber>& lost);
  // Changes of this file were lost: Errc::io until its last handle is closed, if there is one, else
  // at the next fsync.
  void note_lost(InodeNumber inode);
  // Everything that waits on this file system's account ends with Errc::lost.
  void lose();
  // After lose() or in stop(), when no operation is running: waits for the background tasks to end.
  Task<void> wait_for_tasks();

  std::uint64_t dirty_bytes() const { return core_.dirty_bytes; }
  std::size_t open_files() const { return handles_.size(); }
  std::size_t lost_files() const;

 private:
  enum class WriteKind { at_offset, append, mapped };
  Task<Result<WriteReply>> write_as(WriteKind kind, InodeNumber inode, std::uint64_t offset,
                                    SharedBytes data, bool kill_suid, Access access);
  struct NewInode {
    std::uint32_t mode = 0;
    std::uint32_t rdev = 0;
    std::string target;  // of a symlink
    Caller caller;
  };
  Task<Result<Covered<Attributes>>> make(InodeNumber parent, std::string name, NewInode kind);
  Attributes format_new(Transaction& transaction, const BlockRef& block, std::uint64_t version,
                        InodeNumber number, const format::InodeView& parent, const NewInode& kind);
  // What a new inode gets from the directory's default list, or the umask.
  struct Inheritance {
    std::uint32_t mode = 0;
    format::Xattrs xattrs;
  };
  Task<Result<std::optional<Bytes>>> find_xattr(InodeNumber inode, std::string name);
  // Of a file that somebody without special rights has written to.
  Task<Status> kill_privileges(InodeNumber inode, BlockRef block);
  Task<Result<Inheritance>> inheritance(BlockRef parent, NewInode kind);
  // In one transaction. The edit may change attributes and mode, or fail, and then nothing changes.
  using XattrEdit = std::function<Status(format::Xattrs&, std::uint32_t& mode)>;
  Task<Status> change_xattrs(InodeNumber inode, XattrEdit edit);
  // The extended attributes as they are to be after a setattr.
  Task<Result<XattrBlock>> follow_attributes(BlockRef block, Changes changes);
  // By the permission bits or the access list, as Linux looks at them.
  Task<Result<bool>> may_open(BlockRef inode, Caller caller, bool read, bool write);
  struct PinnedChild {
    Pin directory_pin, child_pin;
    NamePath name;
    BlockRef directory, child;
  };
  Task<Result<LookupReply>> lookup_by_number(InodeNumber inode, bool parent);
  Task<Result<PinnedChild>> pin_child(InodeNumber parent, const std::string& name, Mode mode);
  Task<Status> remove(InodeNumber parent, std::string name, bool directory);
  // What taking one link away does, decided before and finished after the transaction.
  struct LinkDrop {
    BlockRef child;
    bool last = false;                 // no link is left
    std::optional<PinnedPiece> piece;  // the inode can be freed at once
    FreedInode freed;
  };
  LinkDrop plan_link_drop(const BlockRef& child, std::uint32_t links);
  void drop_link(Transaction& transaction, LinkDrop& drop, std::uint32_t links, std::int64_t now);
  void after_link_drop(LinkDrop& drop, LogPosition position);
  struct RenameRequest {
    InodeNumber parent, new_parent;
    std::string name, new_name;
    std::uint32_t flags = 0;
  };
  struct RenamePeek;
  Task<Result<RenamePeek>> peek_rename(const RenameRequest& request);
  Task<Result<bool>> try_rename(const RenameRequest& request, const RenamePeek& peek);
  Task<Result<bool>> is_below(InodeNumber directory, InodeNumber ancestor);
  HandleId add_handle(InodeNumber inode, std::uint64_t generation, std::uint32_t flags);
  Task<Result<Covered<Attributes>>> attributes(InodeNumber inode);  // with its lock held
  Task<Status> set_attributes(InodeNumber inode, const Changes& changes);
  Task<Status> take_space(std::uint64_t bytes);
  Task<void> add_attributes(std::vector<DirectoryEntry>& entries, std::vector<Pin>& pins);
  Task<Status> commit_everything();
  Task<Status> commit_or_lose(InodeNumber inode);
  Task<Status> write_back_inode(InodeNumber inode, Mode keep);
  // Room in the log, under the barrier of snapshots.
  struct Change : wal::Reservation {
    Pin barrier;
  };
  Task<Result<Change>> begin_change();
  // The barrier for an operation that a revoke may have to wait for, like hold_data().
  Task<Result<Pin>> hold_barrier(InodeNumber inode, Access access);
  Task<void> fetch(LockName name);
  Task<Status> commit_all_dirty();
  Task<Status> commit_dirty(InodeNumber inode);
  Task<Status> prepare_for_snapshot();
  std::uint64_t dirty_data_max() const;
  Task<void> background();
  Task<bool> commit_oldest(TimePoint begun);
  Task<void> trimmer();
  Task<Status> commit_one(InodeNumber inode);
  // The inode that a request names; Errc::stale if that is gone. Requires: its lock is held.
  Task<Result<BlockRef>> load_named(InodeNumber inode);
  // For the log: an inode that is open here is gone.
  Task<void> report_stale(InodeNumber inode, std::uint64_t meant);
  // As load_named(), for a directory in which something is looked for or made: Errc::no_entry.
  Task<Result<BlockRef>> load_parent(InodeNumber inode);
  Task<void> protect_handles(std::vector<Handle> handles);
  Status check_lost(InodeNumber inode) const;
  // While it lives, the lock of the inode is not given up: an operation runs under it without a
  // pin.
  class UnderRevoke {
   public:
    UnderRevoke(FileSystem& file_system, InodeNumber inode, Mode mode)
        : fs_(&file_system), inode_(inode), mode_(mode) {
      Unpinned& running = fs_->under_revoke_[inode_];
      ++(mode_ == Mode::exclusive ? running.exclusive : running.shared);
    }
    UnderRevoke(UnderRevoke&& other) noexcept
        : fs_(std::exchange(other.fs_, nullptr)), inode_(other.inode_), mode_(other.mode_) {}
    UnderRevoke& operator=(UnderRevoke&&) = delete;
    ~UnderRevoke() {
      if (fs_ == nullptr) return;
      const auto running = fs_->under_revoke_.find(inode_);
      --(mode_ == Mode::exclusive ? running->second.exclusive : running->second.shared);
      if (running->second.shared + running->second.exclusive == 0)
        fs_->under_revoke_.erase(running);
      fs_->under_revoke_changed_.notify_all();
    }

   private:
    FileSystem* fs_;
    InodeNumber inode_;
    Mode mode_;
  };
  // What an operation on a file's data has while it runs: a pin, or the lock that is given up.
  struct DataHold {
    Pin pin;
    std::optional<UnderRevoke> under_revoke;
  };
  Task<Result<DataHold>> hold_data(InodeNumber inode, Mode mode, Access access);
  bool may_run_unpinned(InodeNumber inode, Mode mode) const;

  FileSystemOptions options_;
  Core core_;
  Allocator allocator_;
  Orphans orphans_;
  std::map<HandleId, Handle> handles_;
  std::uint64_t next_handle_ = 1;
  std::map<InodeNumber, std::uint64_t>
      file_lock_counts_;     // inodes on which this mount holds flock or fcntl locks
  std::uint64_t space_ = 0;  // bytes that may still be written before the disk is asked again
  std::uint64_t segment_max_ = disk::segment_limit;
  TimePoint space_asked_{};
  Event clean_;  // dirty data were written back
  Event wake_;   // work for the background task
  Event wake_trimmer_;
  Event lost_event_;
  Event locks_changed_;
  struct Unpinned {
    std::uint32_t shared = 0, exclusive = 0;
  };
  std::map<InodeNumber, Unpinned> under_revoke_;   // operations that run without a pin
  absl::flat_hash_set<InodeNumber> writing_back_;  // while their locks are given up
  Event under_revoke_changed_;                     // one of these two
  absl::flat_hash_set<InodeNumber> lost_unsaid_;   // lost changes of inodes without handles
  bool fetching_barrier_ = false;
  TimePoint careful_until_{};  // a snapshot is about to be made
  bool stopping_ = false, is_lost_ = false;
  TaskScope tasks_;
};

}  // namespace plumeria::fs
