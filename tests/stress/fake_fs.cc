#include "tests/stress/fake_fs.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>

#include "base/fault.h"
#include "base/number.h"

namespace plumeria::fake {

using fs::Attributes;
using fs::Covered;
using fs::InodeNumber;

namespace {

// Some linux/fs.h values, whose header clashes with others.
constexpr std::uint32_t rename_noreplace = 1, rename_exchange = 2;

bool is_directory(const Node& node) { return S_ISDIR(node.attributes.mode); }

void set_size(Node& node, std::uint64_t size) {
  node.data.resize(size);
  node.attributes.size = size;
  node.attributes.blocks = (size + 511) / 512;
}

void kill_suid(Node& node) {
  node.attributes.mode &= ~std::uint32_t{S_ISUID};
  if ((node.attributes.mode & S_IXGRP) != 0) node.attributes.mode &= ~std::uint32_t{S_ISGID};
}

}  // namespace

Store::Store(World w, Duration latency_max)
    : world(w), locks(w, latency_max), file_locks_changed(w.executor) {
  Node& root = nodes[1];
  root.attributes.inode = fs::root_inode;
  root.attributes.mode = S_IFDIR | 0755;
  root.attributes.links = 2;
  root.attributes.atime = root.attributes.mtime = root.attributes.ctime = now();
}

Node& Store::make(std::uint32_t mode, fs::Caller caller, std::uint64_t parent) {
  const std::uint64_t inode = next_inode++;
  Node& node = nodes[inode];
  node.attributes.inode = InodeNumber{inode};
  node.attributes.mode = mode & ~(caller.umask & 0777);
  node.attributes.links = S_ISDIR(mode) ? 2 : 1;
  node.attributes.uid = caller.uid;
  node.attributes.gid = caller.gid;
  node.attributes.atime = node.attributes.mtime = node.attributes.ctime = now();
  node.parent = parent;
  return node;
}

Node* Store::find(std::uint64_t inode) {
  const auto found = nodes.find(inode);
  return found == nodes.end() ? nullptr : &found->second;
}

void Store::forget_if_gone(std::uint64_t inode) {
  const Node* node = find(inode);
  if (node != nullptr && node->attributes.links == 0 && node->handles == 0) nodes.erase(inode);
}

mount::What FakeFs::what_to_drop(std::uint64_t inode, Mode held, Mode keep) {
  mount::What what;
  const Node* node = store_.find(inode);
  const bool directory = node != nullptr && is_directory(*node);
  const bool writer = writers_.contains(inode);
  what.is_exclusive = held == Mode::exclusive;
  what.attributes = keep == Mode::none;
  what.names = directory && keep == Mode::none;
  // With a writer there are pages under exclusive only, and then they go with a downgrade too.
  if (!directory) {
    what.pages = writer && !planted(Fault::fuse_pages_under_shared_with_writer)
                     ? held == Mode::exclusive
                     : keep == Mode::none;
  }
  return what;
}

Task<FakeFs::Pins> FakeFs::pin_all(std::vector<std::uint64_t> inodes) {
  std::sort(inodes.begin(), inodes.end());
  inodes.erase(std::unique(inodes.begin(), inodes.end()), inodes.end());
  Pins pins;
  for (const std::uint64_t inode : inodes) {
    Pin pin = co_await locks_.acquire(inode, Mode::exclusive);
    pins.push_back(std::move(pin));
  }
  co_return pins;
}

Task<Result<FakeFs::Named>> FakeFs::pin_named(std::uint64_t parent, std::string name) {
  std::uint64_t expected = 0;
  for (;;) {
    std::vector<std::uint64_t> wanted{parent};
    if (expected != 0) wanted.push_back(expected);
    Named named;
    named.pins = co_await pin_all(std::move(wanted));
    named.directory = store_.find(parent);
    if (named.directory == nullptr) co_return fail(Errc::stale);
    if (!is_directory(*named.directory)) co_return fail(Errc::not_directory);
    const auto found = named.directory->names.find(name);
    const std::uint64_t now = found == named.directory->names.end() ? 0 : found->second;
    if (now == expected) {
      named.node = now == 0 ? nullptr : store_.find(now);
      co_return named;
    }
    expected = now;
  }
}

Task<Result<fs::Operations::LookupReply>> FakeFs::lookup(InodeNumber parent, std::string name) {
  std::uint64_t expected = 0;
  for (;;) {
    LookupReply reply;
    Pin before, after;
    if (expected != 0 && expected < raw(parent)) {
      before = co_await locks_.acquire(expected, Mode::shared);
    }
    Pin of_parent = co_await locks_.acquire(raw(parent), Mode::shared);
    if (expected > raw(parent)) after = co_await locks_.acquire(expected, Mode::shared);
    Node* directory = store_.find(raw(parent));
    if (directory == nullptr) co_return fail(Errc::stale);
    if (!is_directory(*directory)) co_return fail(Errc::not_directory);
    const auto found = directory->names.find(name);
    const std::uint64_t child = found == directory->names.end() ? 0 : found->second;
    if (child != expected && child != 0 && !planted(Fault::fuse_attributes_uncovered)) {
      expected = child;
      continue;
    }
    reply.pins.push_back(std::move(of_parent));
    if (child == 0) co_return reply;
    if (before) reply.pins.push_back(std::move(before));
    if (after) reply.pins.push_back(std::move(after));
    reply.attributes = store_.find(child)->attributes;
    co_return reply;
  }
}

// Here an inode without links is gone at once.
Task<Result<Pin>> FakeFs::keep(InodeNumber) { co_return Pin(); }

Task<Result<Covered<Attributes>>> FakeFs::getattr(InodeNumber inode) {
  return attributes_under(inode, Mode::shared);
}

Task<Result<Covered<Attributes>>> FakeFs::attributes_under(InodeNumber inode, Mode mode) {
  Covered<Attributes> reply;
  Pin pin = co_await locks_.acquire(raw(inode), mode);
  const Node* node = store_.find(raw(inode));
  if (node == nullptr) co_return fail(Errc::stale);
  reply.value = node->attributes;
  reply.pins.push_back(std::move(pin));
  co_return reply;
}

Task<Result<Covered<Attributes>>> FakeFs::getattr_under_revoke(InodeNumber inode) {
  const Node* node = store_.find(raw(inode));
  if (node == nullptr) co_return fail(Errc::stale);
  Covered<Attributes> reply;
  reply.value = node->attributes;
  co_return reply;
}

Task<Result<Covered<Attributes>>> FakeFs::getattr_unless_revoked(InodeNumber inode, Mode mode) {
  if (locks_.revoking(raw(inode))) co_return fail(Errc::again);
  co_return co_await attributes_under(inode, mode);
}

Task<Result<Covered<Attributes>>> FakeFs::setattr(InodeNumber inode, fs::Changes changes,
                                                  fs::Caller, fs::Access access) {
  Covered<Attributes> reply;
  if (access == fs::Access::normal) {
    if (changes.size && locks_.revoking(raw(inode)) &&
        !planted(Fault::fuse_parked_request_blocks_revoke)) {
      co_return fail(Errc::again);
    }
    Pin pin = co_await locks_.acquire(raw(inode), Mode::exclusive);
    reply.pins.push_back(std::move(pin));
  }
  Node* node = store_.find(raw(inode));
  if (node == nullptr) co_return fail(Errc::stale);
  Attributes& attributes = node->attributes;
  const WallTime now = store_.now();
  if (changes.mode) attributes.mode = (attributes.mode & S_IFMT) | *changes.mode;
  if (changes.uid) attributes.uid = *changes.uid;
  if (changes.gid) attributes.gid = *changes.gid;
  if (changes.kill_suid) kill_suid(*node);
  if (changes.size) {
    set_size(*node, *changes.size);
    attributes.mtime = now;
  }
  if (changes.atime) attributes.atime = *changes.atime;
  if (changes.mtime) attributes.mtime = *changes.mtime;
  if (changes.atime_now) attributes.atime = now;
  if (changes.mtime_now) attributes.mtime = now;
  attributes.ctime = now;
  reply.value = attributes;
  co_return reply;
}

Task<Result<std::string>> FakeFs::readlink(InodeNumber inode) {
  Pin pin = co_await locks_.acquire(raw(inode), Mode::shared);
  const Node* node = store_.find(raw(inode));
  if (node == nullptr) co_return fail(Errc::stale);
  if (!S_ISLNK(node->attributes.mode)) co_return fail(Errc::invalid);
  co_return node->target;
}

Task<Result<Covered<Attributes>>> FakeFs::make_named(std::uint64_t parent, std::string name,
                                                     std::uint32_t mode, fs::Caller caller,
                                                     std::uint32_t rdev, std::string target) {
  auto named = co_await pin_named(parent, name);
  if (!named) co_return fail(std::move(named).error());
  if (named->node != nullptr) co_return fail(Errc::exist);
  if (named->directory->attributes.links == 0) co_return fail(Errc::no_entry);
  Node& node = store_.make(mode, caller, parent);
  node.attributes.rdev = rdev;
  node.target = std::move(target);
  if (S_ISLNK(mode)) node.attributes.size = node.target.size();
  Node& directory = *store_.find(parent);
  const std::uint64_t inode = raw(node.attributes.inode);
  directory.names[name] = inode;
  directory.cookies[name] = directory.next_cookie++;
  if (S_ISDIR(mode)) ++directory.attributes.links;
  directory.attributes.mtime = directory.attributes.ctime = store_.now();
  Covered<Attributes> reply;
  reply.pins = std::move(named->pins);
  Pin of_child = co_await locks_.acquire(inode, Mode::exclusive);
  reply.pins.push_back(std::move(of_child));
  reply.value = store_.find(inode)->attributes;
  co_return reply;
}

Task<Result<Covered<Attributes>>> FakeFs::mknod(InodeNumber parent, std::string name,
                                                std::uint32_t mode, std::uint32_t rdev,
                                                fs::Caller caller) {
  auto made = co_await make_named(raw(parent), std::move(name), mode, caller, rdev, {});
  co_return made;
}

Task<Result<Covered<Attributes>>> FakeFs::mkdir(InodeNumber parent, std::string name,
                                                std::uint32_t mode, fs::Caller caller) {
  auto made =
      co_await make_named(raw(parent), std::move(name), S_IFDIR | (mode & 07777), caller, 0, {});
  co_return made;
}

Task<Result<Covered<Attributes>>> FakeFs::symlink(InodeNumber parent, std::string name,
                                                  std::string target, fs::Caller caller) {
  caller.umask = 0;
  auto made = co_await make_named(raw(parent), std::move(name), S_IFLNK | 0777, caller, 0,
                                  std::move(target));
  co_return made;
}

Task<Result<Covered<Attributes>>> FakeFs::link(InodeNumber inode, InodeNumber parent,
                                               std::string name) {
  std::vector<std::uint64_t> both{raw(inode), raw(parent)};
  Pins pins = co_await pin_all(std::move(both));
  Node* node = store_.find(raw(inode));
  Node* directory = store_.find(raw(parent));
  if (node == nullptr || directory == nullptr) co_return fail(Errc::stale);
  if (directory->names.contains(name)) co_return fail(Errc::exist);
  if (node->attributes.links == 0) co_return fail(Errc::no_entry);
  directory->names[name] = raw(inode);
  directory->cookies[name] = directory->next_cookie++;
  directory->attributes.mtime = directory->attributes.ctime = store_.now();
  ++node->attributes.links;
  node->attributes.ctime = store_.now();
  Covered<Attributes> reply;
  reply.value = node->attributes;
  reply.pins = std::move(pins);
  co_return reply;
}

Task<Status> FakeFs::remove(std::uint64_t parent, std::string name, bool directory) {
  auto named = co_await pin_named(parent, name);
  if (!named) co_return fail(std::move(named).error());
  Node* node = named->node;
  if (node == nullptr) co_return fail(Errc::no_entry);
  if (directory && !is_directory(*node)) co_return fail(Errc::not_directory);
  if (!directory && is_directory(*node)) co_return fail(Errc::is_directory);
  if (directory && !node->names.empty()) co_return fail(Errc::not_empty);
  named->directory->names.erase(name);
  named->directory->cookies.erase(name);
  named->directory->attributes.mtime = named->directory->attributes.ctime = store_.now();
  if (directory) {
    node->attributes.links = 0;
    --named->directory->attributes.links;
  } else {
    --node->attributes.links;
  }
  node->attributes.ctime = store_.now();
  store_.forget_if_gone(raw(node->attributes.inode));
  co_return Status();
}

Task<Status> FakeFs::unlink(InodeNumber parent, std::string name) {
  auto done = co_await remove(raw(parent), std::move(name), false);
  co_return done;
}

Task<Status> FakeFs::rmdir(InodeNumber parent, std::string name) {
  auto done = co_await remove(raw(parent), std::move(name), true);
  co_return done;
}

Task<Status> FakeFs::rename(InodeNumber parent, std::string name, InodeNumber new_parent,
                            std::string new_name, std::uint32_t flags) {
  std::uint64_t moved = 0, replaced = 0;
  for (;;) {
    std::vector<std::uint64_t> wanted{raw(parent), raw(new_parent)};
    if (moved != 0) wanted.push_back(moved);
    if (replaced != 0) wanted.push_back(replaced);
    Pins pins = co_await pin_all(std::move(wanted));
    Node* from = store_.find(raw(parent));
    Node* to = store_.find(raw(new_parent));
    if (from == nullptr || to == nullptr) co_return fail(Errc::stale);
    const auto source = from->names.find(name);
    if (source == from->names.end()) co_return fail(Errc::no_entry);
    const auto target = to->names.find(new_name);
    const std::uint64_t old = target == to->names.end() ? 0 : target->second;
    if (source->second != moved || old != replaced) {
      moved = source->second;
      replaced = old;
      continue;
    }
    if (moved == replaced) co_return Status();
    if (flags == rename_noreplace && old != 0) co_return fail(Errc::exist);
    if (flags > rename_exchange || (flags == rename_exchange && old == 0)) {
      co_return fail(flags > rename_exchange ? Errc::invalid : Errc::no_entry);
    }
    Node& node = *store_.find(moved);
    const WallTime now = store_.now();
    if (flags == rename_exchange) {
      std::swap(source->second, target->second);
    } else {
      if (old != 0) {
        Node& victim = *store_.find(old);
        if (is_directory(victim) != is_directory(node)) {
          co_return fail(is_directory(victim) ? Errc::is_directory : Errc::not_directory);
        }
        if (!victim.names.empty()) co_return fail(Errc::not_empty);
        if (is_directory(victim)) --to->attributes.links;
        victim.attributes.links -= is_directory(victim) ? 2 : 1;
        victim.attributes.ctime = now;
      }
      if (is_directory(node)) {
        --from->attributes.links;
        ++to->attributes.links;
        node.parent = raw(new_parent);
      }
      from->names.erase(name);
      from->cookies.erase(name);
      to->names[new_name] = moved;
      to->cookies[new_name] = to->next_cookie++;
      if (old != 0) store_.forget_if_gone(old);
    }
    node.attributes.ctime = now;
    for (Node* directory : {from, to}) {
      directory->attributes.mtime = directory->attributes.ctime = now;
    }
    co_return Status();
  }
}

Task<Result<fs::Operations::CreateReply>> FakeFs::create(InodeNumber parent, std::string name,
                                                         std::uint32_t mode, std::uint32_t flags,
                                                         fs::Caller caller) {
  auto made =
      co_await make_named(raw(parent), std::move(name), S_IFREG | (mode & 07777), caller, 0, {});
  if (!made) co_return fail(std::move(made).error());
  CreateReply reply;
  reply.entry = std::move(*made);
  const std::uint64_t inode = raw(reply.entry.value.inode);
  reply.handle = fs::HandleId{store_.next_handle++};
  const bool writable = (flags & O_ACCMODE) != O_RDONLY;
  Handle handle{inode, writable};
  handles_.emplace(raw(reply.handle), handle);
  if (writable) ++writers_[inode];
  ++store_.find(inode)->handles;
  co_return reply;
}

Task<Result<fs::HandleId>> FakeFs::open(InodeNumber inode, std::uint32_t flags) {
  const bool writable = (flags & O_ACCMODE) != O_RDONLY;
  // The first store into a mapping sends no message, so the lock must be had before.
  const Mode mode = writable && !planted(Fault::fuse_pages_under_shared_with_writer)
                        ? Mode::exclusive
                        : Mode::shared;
  Pin pin = co_await locks_.acquire(raw(inode), mode);
  Node* node = store_.find(raw(inode));
  if (node == nullptr) co_return fail(Errc::stale);
  const fs::HandleId id{store_.next_handle++};
  Handle handle{raw(inode), writable};
  handles_.emplace(raw(id), handle);
  if (writable) ++writers_[raw(inode)];
  ++node->handles;
  co_return id;
}

Task<Status> FakeFs::release(fs::HandleId id) {
  const auto found = handles_.find(raw(id));
  if (found == handles_.end()) co_return fail(Errc::bad_handle);
  const Handle handle = found->second;
  handles_.erase(found);
  if (handle.writable && --writers_[handle.inode] == 0) writers_.erase(handle.inode);
  --store_.find(handle.inode)->handles;
  store_.forget_if_gone(handle.inode);
  co_return Status();
}

Task<Result<Bytes>> FakeFs::read(InodeNumber inode, std::uint64_t offset, std::uint32_t size,
                                 fs::Access access) {
  Pin pin;
  if (access == fs::Access::normal) {
    if (locks_.revoking(raw(inode)) && !planted(Fault::fuse_parked_request_blocks_revoke)) {
      co_return fail(Errc::again);
    }
    const Mode mode =
        writers_.contains(raw(inode)) && !planted(Fault::fuse_pages_under_shared_with_writer)
            ? Mode::exclusive
            : Mode::shared;
    pin = co_await locks_.acquire(raw(inode), mode);
    // A writer may have come meanwhile.
    if (mode == Mode::shared && writers_.contains(raw(inode)) &&
        !planted(Fault::fuse_pages_under_shared_with_writer)) {
      pin.drop();
      co_return fail(Errc::again);
    }
  }
  const Node* node = store_.find(raw(inode));
  if (node == nullptr) co_return fail(Errc::stale);
  const std::uint64_t end = std::min<std::uint64_t>(node->data.size(), offset + size);
  if (offset >= end) co_return Bytes();
  Bytes bytes(node->data.begin() + static_cast<std::ptrdiff_t>(offset),
              node->data.begin() + static_cast<std::ptrdiff_t>(end));
  co_return bytes;
}

Task<Result<fs::WriteReply>> FakeFs::write(InodeNumber inode, std::uint64_t offset,
                                           SharedBytes data, bool append, bool kill,
                                           fs::Access access) {
  return write_as(append ? WriteKind::append : WriteKind::at_offset, inode, offset, std::move(data),
                  kill, access);
}

Task<Result<fs::WriteReply>> FakeFs::write_mapped(InodeNumber inode, std::uint64_t offset,
                                                  SharedBytes data, bool kill, fs::Access access) {
  return write_as(WriteKind::mapped, inode, offset, std::move(data), kill, access);
}

Task<Result<fs::WriteReply>> FakeFs::write_as(WriteKind kind, InodeNumber inode,
                                              std::uint64_t offset, SharedBytes data, bool kill,
                                              fs::Access access) {
  Pin pin;
  if (access == fs::Access::normal) {
    if (locks_.revoking(raw(inode)) && !planted(Fault::fuse_parked_request_blocks_revoke)) {
      co_return fail(Errc::again);
    }
    pin = co_await locks_.acquire(raw(inode), Mode::exclusive);
  }
  Node* node = store_.find(raw(inode));
  if (node == nullptr) co_return fail(Errc::stale);
  if (kind == WriteKind::append) offset = node->data.size();
  if (kind == WriteKind::mapped) {
    const std::uint64_t end = std::max<std::uint64_t>(node->data.size(), offset);
    data = data.slice(0, std::min<std::uint64_t>(data.size(), end - offset));
  }
  if (offset + data.size() > (1u << 30)) co_return fail(Errc::no_space);
  if (offset + data.size() > node->data.size()) set_size(*node, offset + data.size());
  const ByteView bytes = data.view();
  std::copy(bytes.begin(), bytes.end(), node->data.begin() + static_cast<std::ptrdiff_t>(offset));
  node->attributes.mtime = node->attributes.ctime = store_.now();
  if (kill) kill_suid(*node);
  fs::WriteReply reply;
  reply.offset = offset;
  reply.written = data.size();
  co_return reply;
}

Task<Status> FakeFs::fsync(InodeNumber, bool) { co_return Status(); }
Task<Status> FakeFs::sync_everything() { co_return Status(); }

Task<Result<Covered<std::vector<fs::DirectoryEntry>>>> FakeFs::readdir(InodeNumber inode,
                                                                       std::uint64_t cookie,
                                                                       std::size_t max, bool plus) {
  Covered<std::vector<fs::DirectoryEntry>> reply;
  Pin pin = co_await locks_.acquire(raw(inode), Mode::shared);
  const Node* node = store_.find(raw(inode));
  if (node == nullptr) co_return fail(Errc::stale);
  if (!is_directory(*node)) co_return fail(Errc::not_directory);
  reply.pins.push_back(std::move(pin));
  std::vector<fs::DirectoryEntry>& entries = reply.value;
  auto add = [&](std::string name, std::uint64_t child, std::uint64_t at) {
    if (at <= cookie) return;
    fs::DirectoryEntry entry;
    entry.name = std::move(name);
    entry.inode = InodeNumber{child};
    entry.cookie = at;
    const Node* of = store_.find(child);
    entry.type = of == nullptr ? S_IFDIR : of->attributes.mode & S_IFMT;
    if (plus && of != nullptr) {
      Pin of_child = locks_.try_local(child, Mode::shared);
      if (of_child) {
        entry.attributes = of->attributes;
        reply.pins.push_back(std::move(of_child));
      }
    }
    entries.push_back(std::move(entry));
  };
  add(".", raw(inode), 1);
  add("..", node->parent, 2);
  for (const auto& [name, child] : node->names) add(name, child, node->cookies.at(name));
  std::sort(entries.begin(), entries.end(),
            [](const auto& a, const auto& b) { return a.cookie < b.cookie; });
  if (entries.size() > max) entries.resize(max);
  co_return reply;
}

Task<Result<fs::FileSystemStatistics>> FakeFs::statfs() {
  fs::FileSystemStatistics statistics;
  statistics.blocks_total = 1u << 20;
  statistics.blocks_free = 1u << 19;
  co_return statistics;
}

// ---- file locks: a list of disjoint pieces

const clerk::FileLock* FakeFs::conflict(const clerk::FileLock& lock) const {
  for (const Store::FileLock& other : store_.file_locks) {
    if (other.lock.inode != lock.inode || other.lock.is_flock != lock.is_flock) continue;
    if (other.mount == this && other.lock.owner == lock.owner) continue;
    if (other.lock.start > lock.end || lock.start > other.lock.end) continue;
    if (!lock::compatible(other.lock.mode, lock.mode)) return &other.lock;
  }
  return nullptr;
}

void FakeFs::apply(const clerk::FileLock& lock) {
  std::vector<Store::FileLock> next;
  for (const Store::FileLock& old : store_.file_locks) {
    const bool same = old.mount == this && old.lock.inode == lock.inode &&
                      old.lock.is_flock == lock.is_flock && old.lock.owner == lock.owner &&
                      old.lock.start <= lock.end && lock.start <= old.lock.end;
    if (!same) {
      next.push_back(old);
      continue;
    }
    Store::FileLock part = old;
    if (old.lock.start < lock.start) {
      part.lock.end = lock.start - 1;
      next.push_back(part);
    }
    if (old.lock.end > lock.end) {
      part.lock = old.lock;
      part.lock.start = lock.end + 1;
      next.push_back(part);
    }
  }
  if (lock.mode != Mode::none) next.push_back({lock, this});
  store_.file_locks = std::move(next);
  store_.file_locks_changed.notify_all();
}

Task<Status> FakeFs::set_file_lock(clerk::FileLock lock, bool wait, std::uint64_t request) {
  while (lock.mode != Mode::none && conflict(lock) != nullptr) {
    if (!wait) co_return fail(Errc::again);
    co_await store_.file_locks_changed.next();
    if (cancelled_.erase(request) > 0) co_return fail(Errc::interrupted);
  }
  apply(lock);
  co_return Status();
}

void FakeFs::cancel_file_lock(std::uint64_t request) {
  cancelled_.insert(request);
  store_.file_locks_changed.notify_all();
}

Task<Result<clerk::FileLock>> FakeFs::test_file_lock(clerk::FileLock lock) {
  const clerk::FileLock* found = conflict(lock);
  clerk::FileLock reply = found == nullptr ? lock : *found;
  if (found == nullptr) reply.mode = Mode::none;
  co_return reply;
}

Task<Status> FakeFs::drop_file_locks(InodeNumber inode, bool is_flock, std::uint64_t owner) {
  clerk::FileLock all;
  all.inode = raw(inode);
  all.is_flock = is_flock;
  all.owner = owner;
  apply(all);
  co_return Status();
}

}  // namespace plumeria::fake
