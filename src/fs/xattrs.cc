// Operations on extended attributes, and what access control lists have to do with permission bits.
#include <sys/stat.h>
#include <sys/xattr.h>

#include <algorithm>

#include "fs/acl.h"
#include "fs/file_system.h"
#include "fs/xattr_block.h"

namespace plumeria::fs {
namespace {

using format::InodeEditor;
using format::InodeView;
using format::Xattrs;

// As Linux's own file systems: namespaces that they do not know are not supported.
Status check_xattr_name(const std::string& name) {
  if (name.size() > name_max) return fail(Errc::range);
  if (name == access_acl_name || name == default_acl_name) return {};
  for (const std::string_view space : {"user.", "trusted.", "security."}) {
    if (!name.starts_with(space)) continue;
    if (name.size() == space.size() || name.find('\0') != std::string::npos) {
      return fail(Errc::invalid);
    }
    return {};
  }
  return fail(Errc::not_supported);
}

// What is left of a list that is set as the access list, if the permission bits do not say it all.
struct AccessList {
  std::uint32_t permissions = 0;
  std::optional<Bytes> value;
};
Result<AccessList> as_access_list(ByteView value) {
  TRY(const Acl acl, decode_acl(value));
  AccessList list;
  list.permissions = mode_of(acl);
  if (!is_minimal(acl)) list.value = to_bytes(value);
  return list;
}

}  // namespace

Task<Result<Covered<std::optional<Bytes>>>> FileSystem::getxattr(InodeNumber inode,
                                                                 std::string name) {
  CO_TRY_STATUS(check_xattr_name(name));
  CO_TRY_STATUS(check_lost(inode));
  CO_TRY(Pin pin, co_await core_.clerk.acquire(inode_lock(inode), Mode::shared));
  Covered<std::optional<Bytes>> reply;
  CO_TRY(reply.value, co_await find_xattr(inode, std::move(name)));
  reply.pins.push_back(std::move(pin));
  co_return reply;
}

Task<Result<std::optional<Bytes>>> FileSystem::getxattr_unless_revoked(InodeNumber inode,
                                                                       std::string name,
                                                                       Access access) {
  CO_TRY_STATUS(check_xattr_name(name));
  CO_TRY_STATUS(check_lost(inode));
  auto hold = co_await hold_data(inode, Mode::shared, access);
  if (!hold) co_return fail(std::move(hold).error());
  co_return co_await find_xattr(inode, std::move(name));
}

// Requires: the inode's lock is held.
Task<Result<std::optional<Bytes>>> FileSystem::find_xattr(InodeNumber inode, std::string name) {
  CO_TRY(const BlockRef block, co_await load_named(inode));
  CO_TRY(XattrBlock all, co_await load_xattrs(core_, block));
  std::optional<Bytes> value;
  const auto found = all.xattrs.find(name);
  if (found != all.xattrs.end()) value = std::move(found->second);
  co_return value;
}

Task<Result<std::vector<std::string>>> FileSystem::listxattr(InodeNumber inode) {
  CO_TRY_STATUS(check_lost(inode));
  CO_TRY(const Pin pin, co_await core_.clerk.acquire(inode_lock(inode), Mode::shared));
  CO_TRY(const BlockRef block, co_await load_named(inode));
  CO_TRY(const XattrBlock all, co_await load_xattrs(core_, block));
  std::vector<std::string> names;
  for (const auto& [name, value] : all.xattrs) names.push_back(name);
  co_return names;
}

Task<Status> FileSystem::change_xattrs(InodeNumber inode, XattrEdit edit) {
  CO_TRY_STATUS(check_lost(inode));
  CO_TRY(Change reservation, co_await begin_change());
  CO_TRY(const Pin pin, co_await core_.clerk.acquire(inode_lock(inode), Mode::exclusive));
  CO_TRY(const BlockRef block, co_await load_named(inode));
  CO_TRY(XattrBlock all, co_await load_xattrs(core_, block));
  std::uint32_t mode = InodeView(block.bytes()).mode();
  CO_TRY_STATUS(edit(all.xattrs, mode));
  if (!format::fits(all.xattrs)) co_return fail(Errc::no_space);
  std::optional<PinnedPiece> piece;
  if (!all.block && !all.xattrs.empty()) {
    CO_TRY_STATUS(co_await take_space(format::block_size));
    Needs needs;
    needs.directory_blocks = 1;
    CO_TRY(piece, co_await allocator_.pin(needs));
  }
  Transaction transaction(core_.cache);
  CO_TRY_STATUS(save_xattrs(core_, transaction, block, all, piece ? &*piece : nullptr));
  MutableByteView bytes = transaction.edit(block);
  InodeEditor editor(bytes);
  editor.mode(mode);
  editor.ctime(std::max(core_.now(), InodeView(bytes).ctime()));
  CO_TRY(const LogPosition position, transaction.commit(reservation));
  if (FileState* file = core_.find_file(inode)) file->last = position;
  co_return Status();
}

Task<Status> FileSystem::setxattr(InodeNumber inode, std::string name, Bytes value,
                                  std::uint32_t flags, bool kill_sgid) {
  CO_TRY_STATUS(check_xattr_name(name));
  if ((flags & ~std::uint32_t{XATTR_CREATE | XATTR_REPLACE}) != 0) co_return fail(Errc::invalid);
  if (value.size() > format::xattrs_max) co_return fail(Errc::no_space);
  XattrEdit edit = [=](Xattrs& xattrs, std::uint32_t& mode) -> Status {
    const bool exists = xattrs.contains(name);
    if ((flags & XATTR_CREATE) != 0 && exists) return fail(Errc::exist);
    if ((flags & XATTR_REPLACE) != 0 && !exists) return fail(Errc::no_data);
    if (name == default_acl_name) {
      if (!S_ISDIR(mode)) return fail(Errc::access);
      TRY(const Acl acl, decode_acl(value));
    } else if (name == access_acl_name) {
      if (S_ISLNK(mode)) return fail(Errc::not_supported);
      TRY(AccessList list, as_access_list(value));
      mode = (mode & ~std::uint32_t{0777}) | list.permissions;
      if (kill_sgid) mode &= ~std::uint32_t{S_ISGID};
      if (!list.value) {
        xattrs.erase(name);
        return {};
      }
    }
    xattrs[name] = value;
    return {};
  };
  co_return co_await change_xattrs(inode, std::move(edit));
}

Task<Status> FileSystem::removexattr(InodeNumber inode, std::string name) {
  CO_TRY_STATUS(check_xattr_name(name));
  XattrEdit edit = [=](Xattrs& xattrs, std::uint32_t&) -> Status {
    if (xattrs.erase(name) == 0) return fail(Errc::no_data);
    return {};
  };
  co_return co_await change_xattrs(inode, std::move(edit));
}

// Requires: the inode is held exclusively.
Task<Result<XattrBlock>> FileSystem::follow_attributes(BlockRef block, Changes changes) {
  CO_TRY(XattrBlock all, co_await load_xattrs(core_, block));
  if (changes.mode) {
    const auto list = all.xattrs.find(std::string(access_acl_name));
    if (list != all.xattrs.end()) {
      CO_TRY(Acl acl, decode_acl(list->second));
      change_mode(acl, *changes.mode);
      list->second = encode_acl(acl);
    }
  }
  if (changes.kill_suid) all.xattrs.erase(capability_name);
  co_return all;
}

Task<Result<FileSystem::Inheritance>> FileSystem::inheritance(BlockRef parent, NewInode kind) {
  Inheritance result;
  result.mode = kind.mode;
  if (S_ISLNK(kind.mode)) co_return result;
  CO_TRY(const XattrBlock all, co_await load_xattrs(core_, parent));
  const auto list = all.xattrs.find(std::string(default_acl_name));
  if (list == all.xattrs.end()) {
    result.mode &= ~(kind.caller.umask & 0777);
    co_return result;
  }
  CO_TRY(Acl acl, decode_acl(list->second));
  result.mode = inherit(acl, kind.mode);
  if (!is_minimal(acl)) result.xattrs.emplace(access_acl_name, encode_acl(acl));
  if (S_ISDIR(kind.mode)) result.xattrs.emplace(*list);
  co_return result;
}

Task<Result<bool>> FileSystem::may_open(BlockRef inode, Caller caller, bool read, bool write) {
  if (caller.uid == 0) co_return true;
  const std::uint32_t wanted = (read ? 4u : 0u) | (write ? 2u : 0u);
  const InodeView view(inode.bytes());
  CO_TRY(const XattrBlock all, co_await load_xattrs(core_, inode));
  const auto list = all.xattrs.find(std::string(access_acl_name));
  if (list != all.xattrs.end()) {
    CO_TRY(const Acl acl, decode_acl(list->second));
    co_return grants(acl, view.uid(), view.gid(), caller, wanted);
  }
  const auto& groups = caller.groups;
  std::uint32_t granted = view.mode();
  if (caller.uid == view.uid()) {
    granted >>= 6;
  } else if (caller.gid == view.gid() ||
             std::find(groups.begin(), groups.end(), view.gid()) != groups.end()) {
    granted >>= 3;
  }
  co_return (granted & wanted) == wanted;
}

}  // namespace plumeria::fs
