#include "sim/reference.h"

#include <linux/falloc.h>
#include <sys/xattr.h>

#include <algorithm>

#include "base/number.h"
#include "format/xattrs.h"

namespace plumeria::sim {
namespace {

using fs::Attributes;
using fs::Covered;
using fs::InodeNumber;

constexpr std::uint32_t type_mask = 0170000, type_directory = 0040000, type_regular = 0100000,
                        type_symlink = 0120000;
constexpr std::uint32_t set_gid = 02000, set_uid = 04000, group_execute = 010;
constexpr std::uint32_t rename_no_replace = 1, rename_exchange = 2;

bool is_directory(const Attributes& attributes) {
  return (attributes.mode & type_mask) == type_directory;
}

void clear_set_ids(Attributes& attributes) {
  attributes.mode &= ~set_uid;
  if ((attributes.mode & group_execute) != 0) attributes.mode &= ~set_gid;
}

}  // namespace

ReferenceFileSystem::ReferenceFileSystem() {
  Node& root = nodes_[fs::root_inode];
  root.attributes = {.inode = fs::root_inode, .mode = type_directory | 0755, .links = 2};
  root.parent = fs::root_inode;
}

ReferenceFileSystem::Node* ReferenceFileSystem::find(InodeNumber inode) {
  const auto found = nodes_.find(inode);
  return found == nodes_.end() ? nullptr : &found->second;
}

Result<ReferenceFileSystem::Node*> ReferenceFileSystem::directory(InodeNumber inode) {
  Node* node = find(inode);
  if (node == nullptr) return fail(Errc::stale);
  if (!is_directory(node->attributes)) return fail(Errc::not_directory);
  return node;
}

ReferenceFileSystem::Node* ReferenceFileSystem::child(Node& parent, const std::string& name) {
  const auto found = parent.entries.find(name);
  return found == parent.entries.end() ? nullptr : find(found->second);
}

Result<ReferenceFileSystem::Node*> ReferenceFileSystem::make(InodeNumber parent,
                                                             const std::string& name,
                                                             std::uint32_t mode,
                                                             fs::Caller caller) {
  TRY(Node * in, directory(parent));
  if (name.size() > fs::name_max) return fail(Errc::name_too_long);
  if (in->entries.contains(name)) return fail(Errc::exist);
  if (in->attributes.links == 0) return fail(Errc::no_entry);
  const InodeNumber number{++last_inode_};
  Node& node = nodes_[number];
  Attributes& made = node.attributes;
  made.inode = number;
  made.mode = mode;
  if ((mode & type_mask) != type_symlink) made.mode &= ~caller.umask;
  made.links = 1;
  made.uid = caller.uid;
  made.gid = caller.gid;
  if ((in->attributes.mode & set_gid) != 0) {
    made.gid = in->attributes.gid;
    if (is_directory(made)) made.mode |= set_gid;
  }
  if (is_directory(made)) {
    made.links = 2;
    ++in->attributes.links;
    node.parent = parent;
  }
  in->entries[name] = number;
  return &node;
}

void ReferenceFileSystem::forget_if_unused(InodeNumber inode) {
  const Node* node = find(inode);
  if (node != nullptr && node->attributes.links == 0 && node->handles == 0) nodes_.erase(inode);
}

void ReferenceFileSystem::take_link(InodeNumber inode) {
  --nodes_.at(inode).attributes.links;
  forget_if_unused(inode);
}

Task<Result<fs::Operations::LookupReply>> ReferenceFileSystem::lookup(InodeNumber parent,
                                                                      std::string name) {
  auto in = directory(parent);
  if (!in) co_return fail(in.error());
  LookupReply found;
  if (Node* node = child(**in, name)) found.attributes = node->attributes;
  co_return found;
}

Task<Result<Covered<Attributes>>> ReferenceFileSystem::getattr(InodeNumber inode) {
  Node* node = find(inode);
  if (node == nullptr) co_return fail(Errc::stale);
  co_return reply(*node);
}

Task<Result<Covered<Attributes>>> ReferenceFileSystem::setattr(InodeNumber inode,
                                                               fs::Changes changes, fs::Caller,
                                                               fs::Access) {
  Node* node = find(inode);
  if (node == nullptr) co_return fail(Errc::stale);
  Attributes& attributes = node->attributes;
  if (changes.size) {
    if (is_directory(attributes)) co_return fail(Errc::is_directory);
    if (*changes.size > fs::file_size_max) co_return fail(Errc::file_too_big);
    node->data.resize(*changes.size);
    attributes.size = *changes.size;
  }
  if (changes.mode) attributes.mode = (attributes.mode & type_mask) | *changes.mode;
  if (changes.uid) attributes.uid = *changes.uid;
  if (changes.gid) attributes.gid = *changes.gid;
  if (changes.kill_suid) clear_set_ids(attributes);
  co_return reply(*node);
}

Task<Result<std::string>> ReferenceFileSystem::readlink(InodeNumber inode) {
  Node* node = find(inode);
  if (node == nullptr) co_return fail(Errc::stale);
  co_return node->target;
}

Task<Result<Covered<Attributes>>> ReferenceFileSystem::mknod(InodeNumber parent, std::string name,
                                                             std::uint32_t mode, std::uint32_t,
                                                             fs::Caller caller) {
  auto made = make(parent, name, mode, caller);
  if (!made) co_return fail(made.error());
  co_return reply(**made);
}

Task<Result<Covered<Attributes>>> ReferenceFileSystem::mkdir(InodeNumber parent, std::string name,
                                                             std::uint32_t mode,
                                                             fs::Caller caller) {
  auto made = make(parent, name, type_directory | mode, caller);
  if (!made) co_return fail(made.error());
  co_return reply(**made);
}

Task<Result<Covered<Attributes>>> ReferenceFileSystem::symlink(InodeNumber parent, std::string name,
                                                               std::string target,
                                                               fs::Caller caller) {
  auto made = make(parent, name, type_symlink | 0777, caller);
  if (!made) co_return fail(made.error());
  (*made)->attributes.size = target.size();
  (*made)->target = std::move(target);
  co_return reply(**made);
}

Task<Result<Covered<Attributes>>> ReferenceFileSystem::link(InodeNumber inode, InodeNumber parent,
                                                            std::string name) {
  auto in = directory(parent);
  if (!in) co_return fail(in.error());
  Node* node = find(inode);
  if (node == nullptr || node->attributes.links == 0) co_return fail(Errc::no_entry);
  if ((*in)->entries.contains(name)) co_return fail(Errc::exist);
  (*in)->entries[name] = inode;
  ++node->attributes.links;
  co_return reply(*node);
}

Task<Status> ReferenceFileSystem::unlink(InodeNumber parent, std::string name) {
  auto in = directory(parent);
  if (!in) co_return fail(in.error());
  Node* node = child(**in, name);
  if (node == nullptr) co_return fail(Errc::no_entry);
  if (is_directory(node->attributes)) co_return fail(Errc::is_directory);
  (*in)->entries.erase(name);
  take_link(node->attributes.inode);
  co_return Status{};
}

Task<Status> ReferenceFileSystem::rmdir(InodeNumber parent, std::string name) {
  auto in = directory(parent);
  if (!in) co_return fail(in.error());
  Node* node = child(**in, name);
  if (node == nullptr) co_return fail(Errc::no_entry);
  if (!is_directory(node->attributes)) co_return fail(Errc::not_directory);
  if (!node->entries.empty()) co_return fail(Errc::not_empty);
  (*in)->entries.erase(name);
  --(*in)->attributes.links;
  node->attributes.links = 0;
  forget_if_unused(node->attributes.inode);
  co_return Status{};
}

bool ReferenceFileSystem::is_below(InodeNumber inode, InodeNumber ancestor) {
  while (inode != ancestor) {
    if (inode == fs::root_inode) return false;
    inode = nodes_.at(inode).parent;
  }
  return true;
}

Status ReferenceFileSystem::may_replace(Node& moved, Node& replaced) {
  if (is_directory(moved.attributes) != is_directory(replaced.attributes)) {
    return fail(is_directory(replaced.attributes) ? Errc::is_directory : Errc::not_directory);
  }
  if (!replaced.entries.empty()) return fail(Errc::not_empty);
  return {};
}

Status ReferenceFileSystem::do_rename(InodeNumber parent, const std::string& name,
                                      InodeNumber new_parent, const std::string& new_name,
                                      std::uint32_t flags) {
  if ((flags & ~(rename_no_replace | rename_exchange)) != 0 ||
      flags == (rename_no_replace | rename_exchange)) {
    return fail(Errc::invalid);
  }
  TRY(Node * from, directory(parent));
  TRY(Node * to, directory(new_parent));
  Node* moved = child(*from, name);
  if (moved == nullptr) return fail(Errc::no_entry);
  Node* replaced = child(*to, new_name);
  if (replaced == moved) return (flags & rename_no_replace) != 0 ? fail(Errc::exist) : Status{};
  const bool exchange = (flags & rename_exchange) != 0;
  if (is_directory(moved->attributes) && is_below(new_parent, moved->attributes.inode)) {
    return fail(Errc::invalid);
  }
  if (exchange && replaced == nullptr) return fail(Errc::no_entry);
  if (exchange && is_directory(replaced->attributes) &&
      is_below(parent, replaced->attributes.inode)) {
    return fail(Errc::invalid);
  }
  if (replaced != nullptr && (flags & rename_no_replace) != 0) return fail(Errc::exist);
  if (replaced != nullptr && !exchange) {
    // A directory never moves onto one of its own ancestors: that one is not empty.
    TRY_STATUS(may_replace(*moved, *replaced));
  }
  const auto move = [](Node& node, Node& source, Node& target, InodeNumber target_number) {
    if (!is_directory(node.attributes)) return;
    --source.attributes.links;
    ++target.attributes.links;
    node.parent = target_number;
  };
  move(*moved, *from, *to, new_parent);
  to->entries[new_name] = moved->attributes.inode;
  if (exchange) {
    move(*replaced, *to, *from, parent);
    from->entries[name] = replaced->attributes.inode;
    return {};
  }
  from->entries.erase(name);
  if (replaced == nullptr) return {};
  if (is_directory(replaced->attributes)) {
    --to->attributes.links;
    replaced->attributes.links = 1;
  }
  take_link(replaced->attributes.inode);
  return {};
}

Task<Status> ReferenceFileSystem::rename(InodeNumber parent, std::string name,
                                         InodeNumber new_parent, std::string new_name,
                                         std::uint32_t flags) {
  co_return do_rename(parent, name, new_parent, new_name, flags);
}

Task<Result<fs::Operations::CreateReply>> ReferenceFileSystem::create(
    InodeNumber parent, std::string name, std::uint32_t mode, std::uint32_t, fs::Caller caller) {
  auto made = make(parent, name, type_regular | mode, caller);
  if (!made) co_return fail(made.error());
  CreateReply created{reply(**made), fs::HandleId{++last_handle_}};
  handles_[created.handle] = (*made)->attributes.inode;
  ++(*made)->handles;
  co_return created;
}

Task<Result<fs::HandleId>> ReferenceFileSystem::open(InodeNumber inode, std::uint32_t) {
  Node* node = find(inode);
  if (node == nullptr) co_return fail(Errc::stale);
  ++node->handles;
  const fs::HandleId handle{++last_handle_};
  handles_[handle] = inode;
  co_return handle;
}

Task<Status> ReferenceFileSystem::release(fs::HandleId handle) {
  const auto found = handles_.find(handle);
  if (found == handles_.end()) co_return fail(Errc::bad_handle);
  const InodeNumber inode = found->second;
  handles_.erase(found);
  --nodes_.at(inode).handles;
  forget_if_unused(inode);
  co_return Status{};
}

Task<Result<Bytes>> ReferenceFileSystem::read(InodeNumber inode, std::uint64_t offset,
                                              std::uint32_t size, fs::Access) {
  Node* node = find(inode);
  if (node == nullptr) co_return fail(Errc::stale);
  const Bytes& data = node->data;
  if (offset >= data.size()) co_return Bytes{};
  const std::uint64_t length = std::min<std::uint64_t>(size, data.size() - offset);
  const auto from = data.begin() + static_cast<std::ptrdiff_t>(offset);
  co_return Bytes(from, from + static_cast<std::ptrdiff_t>(length));
}

Task<Result<fs::WriteReply>> ReferenceFileSystem::write(InodeNumber inode, std::uint64_t offset,
                                                        SharedBytes data, bool append,
                                                        bool kill_suid, fs::Access) {
  Node* node = find(inode);
  if (node == nullptr) co_return fail(Errc::stale);
  if (append) offset = node->data.size();
  if (offset + data.size() > node->data.size()) node->data.resize(offset + data.size());
  std::copy(data.view().begin(), data.view().end(),
            node->data.begin() + static_cast<std::ptrdiff_t>(offset));
  node->attributes.size = node->data.size();
  if (kill_suid) clear_set_ids(node->attributes);
  const fs::WriteReply written{offset, data.size()};
  co_return written;
}

Task<Result<fs::WriteReply>> ReferenceFileSystem::write_mapped(InodeNumber inode,
                                                               std::uint64_t offset,
                                                               SharedBytes data, bool kill_suid,
                                                               fs::Access access) {
  const Node* node = find(inode);
  if (node == nullptr) co_return fail(Errc::stale);
  const std::uint64_t end = std::max<std::uint64_t>(node->data.size(), offset);
  data = data.slice(0, std::min<std::uint64_t>(data.size(), end - offset));
  auto written = co_await write(inode, offset, std::move(data), false, kill_suid, access);
  co_return written;
}

Task<Status> ReferenceFileSystem::fsync(InodeNumber, bool) { co_return Status{}; }
Task<Status> ReferenceFileSystem::sync_everything() { co_return Status{}; }

Task<Result<Covered<std::vector<fs::DirectoryEntry>>>> ReferenceFileSystem::readdir(
    InodeNumber inode, std::uint64_t cookie, std::size_t max, bool) {
  auto in = directory(inode);
  if (!in) co_return fail(in.error());
  Covered<std::vector<fs::DirectoryEntry>> listed;
  std::uint64_t at = 0;
  for (const auto& [name, number] : (*in)->entries) {
    if (++at <= cookie || listed.value.size() >= max) continue;
    fs::DirectoryEntry entry;
    entry.name = name;
    entry.inode = number;
    entry.type = nodes_.at(number).attributes.mode & type_mask;
    entry.cookie = at;
    listed.value.push_back(std::move(entry));
  }
  co_return listed;
}

Task<Result<fs::FileSystemStatistics>> ReferenceFileSystem::statfs() {
  co_return fs::FileSystemStatistics{};
}
Task<Status> ReferenceFileSystem::fallocate(InodeNumber inode, std::uint64_t offset,
                                            std::uint64_t length, std::uint32_t mode, fs::Access) {
  Node* node = find(inode);
  if (node == nullptr) co_return fail(Errc::stale);
  const std::uint64_t end = offset + length;
  const bool keep = (mode & FALLOC_FL_KEEP_SIZE) != 0;
  if (!keep && end > node->data.size()) node->data.resize(end);
  if ((mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)) != 0) {
    const std::uint64_t last = std::min<std::uint64_t>(end, node->data.size());
    for (std::uint64_t at = offset; at < last; ++at) node->data[at] = std::byte{0};
  }
  node->attributes.size = node->data.size();
  co_return Status();
}
Task<Result<std::uint64_t>> ReferenceFileSystem::seek(InodeNumber inode, std::uint64_t offset,
                                                      bool hole) {
  Node* node = find(inode);
  if (node == nullptr) co_return fail(Errc::stale);
  if (offset >= node->data.size()) co_return fail(Errc::no_device);
  co_return hole ? node->data.size() : offset;
}
Task<Result<Covered<std::optional<Bytes>>>> ReferenceFileSystem::getxattr(InodeNumber inode,
                                                                          std::string name) {
  Node* node = find(inode);
  if (node == nullptr) co_return fail(Errc::stale);
  Covered<std::optional<Bytes>> reply;
  const auto found = node->xattrs.find(name);
  if (found != node->xattrs.end()) reply.value = found->second;
  co_return reply;
}
Task<Result<std::vector<std::string>>> ReferenceFileSystem::listxattr(InodeNumber inode) {
  Node* node = find(inode);
  if (node == nullptr) co_return fail(Errc::stale);
  std::vector<std::string> names;
  for (const auto& [name, value] : node->xattrs) names.push_back(name);
  co_return names;
}
Task<Status> ReferenceFileSystem::setxattr(InodeNumber inode, std::string name, Bytes value,
                                           std::uint32_t flags, bool) {
  Node* node = find(inode);
  if (node == nullptr) co_return fail(Errc::stale);
  const bool exists = node->xattrs.contains(name);
  if ((flags & XATTR_CREATE) != 0 && exists) co_return fail(Errc::exist);
  if ((flags & XATTR_REPLACE) != 0 && !exists) co_return fail(Errc::no_data);
  format::Xattrs after = node->xattrs;
  after[name] = std::move(value);
  if (!format::fits(after)) co_return fail(Errc::no_space);
  node->xattrs = std::move(after);
  co_return Status();
}
Task<Status> ReferenceFileSystem::removexattr(InodeNumber inode, std::string name) {
  Node* node = find(inode);
  if (node == nullptr) co_return fail(Errc::stale);
  if (node->xattrs.erase(name) == 0) co_return fail(Errc::no_data);
  co_return Status();
}
Task<Status> ReferenceFileSystem::set_file_lock(clerk::FileLock, bool, std::uint64_t) {
  co_return fail(Errc::not_supported);
}
Task<Result<clerk::FileLock>> ReferenceFileSystem::test_file_lock(clerk::FileLock) {
  co_return fail(Errc::not_supported);
}
Task<Status> ReferenceFileSystem::drop_file_locks(InodeNumber, bool, std::uint64_t) {
  co_return fail(Errc::not_supported);
}

}  // namespace plumeria::sim
