// A model of the kernel above one mount, with the part of the daemon that talks to it: what an
// application's system calls become when the kernel caches as much as the replies allow.
//
// Caches without time limit: names (present and absent), attributes, directory listings, data
// pages. What is cached is served without asking the mount, so an invalidation that the mount
// leaves out, or gives too early, shows as a stale answer. Pages behave as in Linux with FUSE and
// write-through: a page that a READ fills is in the cache the moment the reply is there; a WRITE
// changes cached pages before the mount has ordered it; a shared mapping changes a cached page
// without any message, and the dirty page is written when the kernel likes, at msync or fsync, or
// at the latest when the mount wants the pages dropped. Changes of one directory, and writes of one
// file, come one after the other (the inode's i_rwsem).
//
// As mount::KernelCache it keeps back READs, WRITEs and truncations between hold() and release(),
// writes dirty pages under the lock still held, and answers kept requests under it, as chance has
// it; docs/kernel.md has the protocol that this stands for.
//
// Coverage   A reply is cached if its pins cover it (a pin of that inode's lock).
// Ownership  Borrows the operations, which are set before the first call and outlive the last one.
// Threads    The node's executor. One Kernel a life of a mount: when its process dies, so does it.
// Errors     What an application would see; Errc::io for a mount that lost its lease.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/async.h"
#include "fs/operations.h"
#include "mount/kernel_cache.h"
#include "sim/world.h"

namespace plumeria::sim {

using fs::Attributes;
using fs::InodeNumber;

enum class Descriptor : std::uint32_t {};

// Flags of open(), named as in open(2); independent of the host's numbers except where they are
// handed on to fs::Operations.
struct OpenFlags {
  bool writable = false;
  bool create = false, exclusive = false, truncate = false, append = false;
};

struct ListedName {
  std::string name;
  std::uint32_t type = 0;  // S_IFMT bits
  friend bool operator==(const ListedName&, const ListedName&) = default;
};

struct KernelOptions {
  Duration request_time_max = 20us;  // of a request to the daemon, or of its answer
  // The kernel writes dirty pages of mappings back by itself after at most this time.
  Duration write_back_max = 500ms;
  std::uint32_t read_ahead_pages = 4;
};

struct KernelCount {
  std::uint64_t calls = 0, requests = 0;
  std::uint64_t served_names = 0, served_attributes = 0, served_pages = 0, served_listings = 0;
  std::uint64_t drops = 0, kept = 0, answered_under_revoke = 0, dirty_pages_at_drop = 0;
  std::uint64_t repeated = 0;  // that the mount had not done (Errc::again)
};

class Kernel final : public mount::KernelCache {
 public:
  // `tasks` is destroyed before the mount is.
  Kernel(Node& node, KernelOptions options, std::uint64_t seed, TaskScope& tasks);
  ~Kernel() override;
  Kernel(const Kernel&) = delete;
  Kernel& operator=(const Kernel&) = delete;

  void set_operations(fs::Operations* operations) { operations_ = operations; }
  const KernelCount& count() const { return count_; }

  // System calls. Paths are relative to the root of the mount, without a leading slash; "" is it.
  Task<Result<Descriptor>> open(std::string path, OpenFlags flags, std::uint32_t mode);
  Task<Status> close(Descriptor descriptor);
  Task<Result<Bytes>> pread(Descriptor descriptor, std::uint64_t offset, std::uint32_t size);
  // The number of bytes written; with `append` the offset does not matter.
  Task<Result<std::uint64_t>> pwrite(Descriptor descriptor, std::uint64_t offset, Bytes data);
  Task<Status> ftruncate(Descriptor descriptor, std::uint64_t size);
  // `mode` as fallocate(2).
  Task<Status> fallocate(Descriptor descriptor, std::uint64_t offset, std::uint64_t length,
                         std::uint32_t mode);
  Task<Status> fsync(Descriptor descriptor);
  Task<Result<Attributes>> fstat(Descriptor descriptor);

  // Shared mappings: loads and stores of bytes within one page; Errc::range beyond the file's last
  // page (SIGBUS).
  Task<Result<Bytes>> load(Descriptor descriptor, std::uint64_t offset, std::uint32_t size);
  Task<Status> store(Descriptor descriptor, std::uint64_t offset, Bytes data);
  Task<Status> msync(Descriptor descriptor);

  Task<Result<Attributes>> stat(std::string path);
  Task<Status> truncate(std::string path, std::uint64_t size);
  Task<Status> chmod(std::string path, std::uint32_t mode);
  // Nothing: there is no attribute of that name.
  Task<Result<std::optional<Bytes>>> getxattr(std::string path, std::string name);
  Task<Result<std::vector<std::string>>> listxattr(std::string path);
  Task<Status> setxattr(std::string path, std::string name, Bytes value, std::uint32_t flags);
  Task<Status> removexattr(std::string path, std::string name);
  Task<Status> mkdir(std::string path, std::uint32_t mode);
  Task<Status> rmdir(std::string path);
  Task<Status> unlink(std::string path);
  Task<Status> rename(std::string from, std::string to, std::uint32_t flags);
  Task<Status> link(std::string from, std::string to);
  Task<Status> symlink(std::string target, std::string path);
  Task<Result<std::string>> readlink(std::string path);
  Task<Result<std::vector<ListedName>>> list(std::string path);  // without "." and ".."
  Task<Status> fsync_directory(std::string path);
  Task<Status> sync();

  Task<Status> flock(Descriptor descriptor, lock::Mode mode, bool wait);

  // Memory pressure: clean pages, attributes and names go, as chance has it.
  void shrink();
  InodeNumber inode_of(Descriptor descriptor) const;
  // For checkers: "attributes", "pages", … that would be served without asking the mount; empty if
  // there is nothing.
  std::string what_is_cached(InodeNumber inode) const;

  // mount::KernelCache.
  void hold(InodeNumber inode) override;
  Task<void> drop(InodeNumber inode, mount::What what) override;
  void release(InodeNumber inode) override;
  Task<bool> drop_everything(TimePoint deadline) override;

 private:
  static constexpr std::uint64_t page_size = 4096;

  struct Page {
    std::array<std::byte, page_size> bytes{};
    bool dirty = false;
  };
  enum class RequestKind { read, write, write_page, truncate };
  // A request that is kept back between hold() and release().
  struct Kept {
    Kept(Executor& executor, RequestKind k) : kind(k), changed(executor) {}
    RequestKind kind;
    bool under_revoke = false;  // run now, with Access::under_revoke
    bool over = false;          // released, or answered
    Event changed;
  };
  struct Entry {
    std::optional<InodeNumber> inode;  // nothing: known to be absent
    std::uint32_t type = 0;
  };
  struct Inode {
    Inode(World world, InodeNumber n)
        : number(n), changing(world.executor), answered(world.executor) {}
    InodeNumber number;
    std::optional<Attributes> attributes;
    std::uint64_t size = 0;  // i_size; right only while size_valid
    bool size_valid = false;
    std::map<std::uint64_t, Page> pages;
    std::map<std::string, Entry> entries;  // of a directory
    std::optional<std::vector<ListedName>> listing;
    std::uint64_t names_dropped = 0, pages_dropped = 0;  // counts
    std::uint64_t changes = 0;                           // made here, of a directory
    Mutex changing;                                      // i_rwsem, held by those who change
    std::uint32_t holds = 0, drops = 0;
    std::vector<std::shared_ptr<Kept>> kept;
    std::uint64_t writes_sent = 0;
    std::set<std::uint64_t> writing;  // pages with a WRITE of a dirty page under way
    bool truncating = false;          // no dirty page is sent meanwhile
    std::uint32_t reading = 0;  // READs that the mount has not answered: their pages are locked
    Event answered;             // one of the last three changed
  };
  struct File {
    InodeNumber inode{};
    fs::HandleId handle{};
    OpenFlags flags;
    bool has_file_lock = false;
  };
  struct Resolved {  // where a path leads, all but its last name walked
    InodeNumber parent{};
    std::string name;  // empty: the root itself
  };
  struct Found {
    std::optional<InodeNumber> inode;
    std::uint32_t type = 0;
  };

  Inode& inode_at(InodeNumber number);
  static bool covered(const std::vector<clerk::Pin>& pins, InodeNumber inode);
  Task<void> request_time();
  Task<void> repeat_later();
  void trace(const char* what, InodeNumber inode, std::uint64_t number = 0);
  void take_attributes(const Attributes& attributes, bool is_covered);
  void forget_attributes(InodeNumber inode);
  void directory_changed(InodeNumber directory);
  void truncate_pages(Inode& inode, std::uint64_t size);

  Task<Result<Found>> look_up(InodeNumber parent, std::string name);
  Task<Result<Resolved>> resolve(std::string path);
  Task<Result<Found>> find(std::string path);
  Task<Result<InodeNumber>> must_find(std::string path);
  Task<Result<Attributes>> attributes_of(InodeNumber inode);
  Task<Status> refresh_size(InodeNumber inode);
  void entry_made(InodeNumber parent, const std::string& name, const fs::Covered<Attributes>& made);

  Task<Result<Descriptor>> create(InodeNumber parent, std::string name, OpenFlags flags,
                                  std::uint32_t mode);
  Task<Result<Descriptor>> open_found(InodeNumber inode, OpenFlags flags);
  Descriptor add_file(File file);
  Task<Result<Bytes>> read_in_page(InodeNumber inode, std::uint64_t offset, std::uint32_t size);
  Task<Result<Bytes>> fill_page(InodeNumber inode, std::uint64_t offset, std::uint32_t size);
  Task<Status> write_through(InodeNumber inode, std::uint64_t offset, Bytes data, bool append);
  static void copy_into_pages(Inode& inode, std::uint64_t offset, ByteView data);
  static void erase_pages(Inode& inode, std::uint64_t offset, std::uint64_t size);
  Task<Status> set_size(InodeNumber inode, std::uint64_t size);
  Task<Status> change_space(InodeNumber number, std::uint64_t offset, std::uint64_t length,
                            std::uint32_t mode);
  Task<Status> write_back(InodeNumber inode);
  Task<Status> write_back_page(InodeNumber inode, std::uint64_t page);
  Task<void> write_back_later(InodeNumber inode, Duration delay);

  // The turn of a READ, WRITE or truncation: at once, after release(), or under the revoke.
  Task<fs::Access> turn(InodeNumber inode, RequestKind kind, std::shared_ptr<Kept>* kept);
  void turn_over(const std::shared_ptr<Kept>& kept);
  Task<void> answer_kept(InodeNumber inode, RequestKind kind);
  Task<void> drop_pages(InodeNumber inode);
  Task<void> forget_pages(InodeNumber inode, std::shared_ptr<std::uint64_t> left);

  Result<File> file_of(Descriptor descriptor) const;
  fs::Caller caller() const { return fs::Caller{1000, 1000, 022}; }

  Node& node_;
  World world_;
  const KernelOptions options_;
  RandomStream random_;
  fs::Operations* operations_ = nullptr;
  std::map<InodeNumber, std::unique_ptr<Inode>> inodes_;
  std::map<Descriptor, File> files_;
  std::uint32_t last_descriptor_ = 2;
  std::uint64_t last_lock_request_ = 0;
  Mutex renaming_;  // s_vfs_rename_mutex
  KernelCount count_;
  TaskScope& tasks_;
};

}  // namespace plumeria::sim
