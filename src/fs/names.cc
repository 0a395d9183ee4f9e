// Operations on names: lookup, creation, links, removal, readdir.
#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>

#include "base/check.h"
#include "base/log.h"
#include "base/rare.h"
#include "fs/data.h"
#include "fs/file_system.h"

namespace plumeria::fs {
namespace {

using format::InodeEditor;
using format::InodeView;

constexpr std::uint32_t links_max = (1u << 31) - 1;

Status check_name(const std::string& name) {
  if (name.size() > name_max) return fail(Errc::name_too_long);
  if (name.empty() || name == "." || name == ".." || name.find('/') != std::string::npos ||
      name.find('\0') != std::string::npos) {
    return fail(Errc::invalid);
  }
  return {};
}

std::uint8_t entry_type(std::uint32_t mode) {
  return static_cast<std::uint8_t>((mode & S_IFMT) >> 12);
}

Status check_parent(ByteView block) {
  const InodeView view(block);
  if (!view.is_directory()) return fail(Errc::not_directory);
  if (view.links() == 0)
    return fail(Errc::no_entry);  // removed, but still somebody's working directory
  return {};
}

void touch_directory(InodeEditor editor, const InodeView& view, std::int64_t now) {
  editor.mtime(std::max(now, view.mtime()));
  editor.ctime(std::max(now, view.ctime()));
}

}  // namespace

Task<Result<Operations::LookupReply>> FileSystem::lookup(InodeNumber parent, std::string name) {
  if (name.size() > name_max) co_return fail(Errc::name_too_long);
  if (name == "." || name == "..") co_return co_await lookup_by_number(parent, name == "..");
  for (;;) {
    auto child = co_await pin_child(parent, name, Mode::shared);
    if (!child) co_return fail(std::move(child).error());
    LookupReply reply;
    reply.pins.push_back(std::move(child->directory_pin));
    if (child->child) {
      const FileState* file = core_.find_file(child->name.found->inode);
      reply.attributes = attributes_of(child->child.bytes(), file);
      // Uncovered if it lost data here: getattr() says so, and is to be asked each time.
      if (file == nullptr || !file->lost) reply.pins.push_back(std::move(child->child_pin));
    }
    co_return reply;
  }
}

// For file handles (name_to_handle_at(2)): the kernel knows a number, and no name.
Task<Result<Operations::LookupReply>> FileSystem::lookup_by_number(InodeNumber inode, bool parent) {
  constexpr std::uint64_t inodes_max = format::piece_limit * format::units_per_piece(Unit::inode);
  if (raw(inode) >= inodes_max) co_return fail(Errc::stale);  // A handle that we did not make.
  if (parent) {
    CO_TRY(const Pin pin, co_await core_.clerk.acquire(inode_lock(inode), Mode::shared));
    CO_TRY(const BlockRef block, co_await load_named(inode));
    const InodeView view(block.bytes());
    if (!view.is_directory()) co_return fail(Errc::not_directory);
    if (inode != root_inode) inode = InodeNumber{view.parent()};
  }
  CO_TRY(Covered<Attributes> found, co_await getattr(inode));
  LookupReply reply;
  reply.attributes = found.value;
  reply.pins = std::move(found.pins);
  co_return reply;
}

// Pins the directory and, if the name exists, its inode, both in `mode`.
Task<Result<FileSystem::PinnedChild>> FileSystem::pin_child(InodeNumber parent,
                                                            const std::string& name, Mode mode) {
  std::optional<InodeNumber>
      expected;  // pinned before the directory because it comes first in the order
  for (;;) {
    PinnedChild result;
    if (expected) {
      auto pin = co_await core_.clerk.acquire(inode_lock(*expected), mode);
      if (!pin) co_return fail(std::move(pin).error());
      result.child_pin = std::move(*pin);
    }
    auto pin = co_await core_.clerk.acquire(inode_lock(parent), mode);
    if (!pin) co_return fail(std::move(pin).error());
    result.directory_pin = std::move(*pin);
    auto directory = co_await load_parent(parent);
    if (!directory) co_return fail(std::move(directory).error());
    result.directory = std::move(*directory);
    CO_TRY_STATUS(check_parent(result.directory.bytes()));
    auto found = co_await find_name(core_, result.directory, name);
    if (!found) co_return fail(std::move(found).error());
    result.name = std::move(*found);
    if (!result.name.found) {
      result.child_pin.drop();
      co_return result;
    }
    const InodeNumber inode = result.name.found->inode;
    if (expected != inode) {
      if (inode == parent) {
        co_return fail(Errc::corrupt, absl::StrCat("directory ", raw(parent), " (names itself)"));
      }
      result.child_pin.drop();
      if (auto at_once = core_.clerk.try_local(inode_lock(inode), mode)) {
        result.child_pin = std::move(*at_once);
      } else if (raw(inode) > raw(parent)) {
        auto child_pin = co_await core_.clerk.acquire(inode_lock(inode), mode);
        if (!child_pin) co_return fail(std::move(child_pin).error());
        result.child_pin = std::move(*child_pin);
      } else {
        rarely<"fs: a child is locked before its directory">();
        expected = inode;
        continue;
      }
    }
    auto child = co_await core_.load_inode(inode);
    if (!child) {
      if (child.error().code != Errc::stale) co_return fail(std::move(child).error());
      co_return fail(Errc::corrupt, absl::StrCat("directory ", raw(parent),
                                                 " (names the free inode ", raw(inode), ")"));
    }
    result.child = std::move(*child);
    co_return result;
  }
}

Task<Result<BlockRef>> FileSystem::load_named(InodeNumber inode) {
  auto block = co_await core_.load_inode(inode);
  const std::uint64_t meant = options_.generation_told ? options_.generation_told(inode) : 0;
  if (block && meant != 0 && meant != InodeView(block->bytes()).generation()) {
    rarely<"fs: an inode number means another file than before">();
    block = fail(Errc::stale, absl::StrCat("inode ", raw(inode)));
  }
  const FileState* file = core_.find_file(inode);
  if (!block && block.error().code == Errc::stale && file != nullptr && file->handles > 0 &&
      !file->lost) {
    co_await report_stale(inode, meant);
  }
  co_return block;
}

// Nobody frees an inode that is open.
Task<void> FileSystem::report_stale(InodeNumber inode, std::uint64_t meant) {
  auto block = co_await core_.cache.get(format::inode_block(raw(inode)), inode_lock(inode));
  const FileState* file = core_.find_file(inode);
  if (!block || file == nullptr) co_return;
  const InodeView view(block->bytes());
  log_error(absl::StrCat(
      "inode ", raw(inode), " is open here ", file->handles, " times, but gone: generation ",
      file->generation, ", the kernel's ", meant, ", on the disk ", view.generation(), ", version ",
      format::version_of(block->bytes()), ", mode ", view.mode(), ", links ", view.links(),
      ", lock ", static_cast<int>(core_.clerk.held(inode_lock(inode))), ", open lock ",
      static_cast<int>(core_.clerk.held(open_lock(inode))), file->open_pin ? " pinned" : ""));
}

Task<Result<BlockRef>> FileSystem::load_parent(InodeNumber inode) {
  auto block = co_await load_named(inode);
  if (!block && block.error().code == Errc::stale) {
    co_return fail(Errc::no_entry, absl::StrCat("directory ", raw(inode), " was removed"));
  }
  co_return block;
}

void FileSystem::forget(InodeNumber inode) {
  if (core_.removed_directories.erase(inode) > 0) {
    orphans_.look_at(Orphan{OrphanKind::inode, raw(inode)});
  }
}

Task<Result<Pin>> FileSystem::keep(InodeNumber inode) {
  core_.sole.erase(inode);  // Now the open lock is asked for before it is freed.
  return core_.clerk.acquire(open_lock(inode), Mode::shared);
}

Attributes FileSystem::format_new(Transaction& transaction, const BlockRef& block,
                                  std::uint64_t version, InodeNumber number,
                                  const InodeView& parent, const NewInode& kind) {
  MutableByteView bytes = transaction.edit(block);
  format::format_block(bytes, format::BlockType::inode, raw(number), version);
  const bool directory = S_ISDIR(kind.mode);
  const bool inherits_group = (parent.mode() & S_ISGID) != 0;
  std::uint32_t mode = kind.mode;
  if (inherits_group && directory) mode |= S_ISGID;
  const std::int64_t now = core_.now();
  InodeEditor editor(bytes);
  editor.generation(version);
  editor.mode(mode);
  editor.links(directory ? 2 : 1);
  editor.uid(kind.caller.uid);
  editor.gid(inherits_group ? parent.gid() : kind.caller.gid);
  editor.rdev(kind.rdev);
  editor.atime(now);
  editor.mtime(now);
  editor.ctime(now);
  editor.btime(now);
  if (directory) editor.parent(parent.number());
  if (S_ISLNK(kind.mode)) {
    std::memcpy(editor.inline_area().data(), kind.target.data(), kind.target.size());
    editor.inline_length(static_cast<std::uint32_t>(kind.target.size()));
    editor.size(kind.target.size());
  }
  return attributes_of(bytes, nullptr);
}

Task<Result<Covered<Attributes>>> FileSystem::make(InodeNumber parent, std::string name,
                                                   NewInode kind) {
  CO_TRY_STATUS(check_name(name));
  CO_TRY_STATUS(co_await take_space(2 * format::block_size));
  for (;;) {
    auto reservation = co_await begin_change();
    if (!reservation) co_return fail(std::move(reservation).error());
    auto directory_pin = co_await core_.clerk.acquire(inode_lock(parent), Mode::exclusive);
    if (!directory_pin) co_return fail(std::move(directory_pin).error());
    auto directory = co_await load_parent(parent);
    if (!directory) co_return fail(std::move(directory).error());
    CO_TRY_STATUS(check_parent(directory->bytes()));
    auto place = co_await find_name(core_, *directory, name);
    if (!place) co_return fail(std::move(place).error());
    if (place->found) co_return fail(Errc::exist);
    const InodeView parent_view(directory->bytes());
    if (S_ISDIR(kind.mode) && parent_view.links() >= links_max)
      co_return fail(Errc::too_many_links);
    CO_TRY(Inheritance inherited, co_await inheritance(*directory, kind));
    // A directory inherits a long list twice.
    if (!format::fits(inherited.xattrs)) co_return fail(Errc::no_space);
    Needs needs;
    needs.inodes = 1;
    needs.directory_blocks = insert_blocks_max + (inherited.xattrs.empty() ? 0 : 1);
    auto piece = co_await allocator_.pin(needs);
    if (!piece) co_return fail(std::move(piece).error());
    auto fresh = allocator_.pick_inode(*piece);
    if (!fresh) {
      piece->pin.drop();
      directory_pin->drop();
      co_await allocator_.refill();
      continue;
    }
    const BlockRef block =
        core_.cache.create(format::inode_block(raw(fresh->number)), inode_lock(fresh->number));
    Transaction transaction(core_.cache);
    Covered<Attributes> reply;
    const std::uint64_t version = piece->next_version();
    NewInode as_inherited = kind;
    as_inherited.mode = inherited.mode;
    reply.value = format_new(transaction, block, version, fresh->number, parent_view, as_inherited);
    allocator_.use(transaction, *piece, Unit::inode, raw(fresh->number));
    CO_TRY_STATUS(insert_name(core_, transaction, place->path, *piece, name, fresh->number,
                              entry_type(kind.mode)));
    const XattrBlock xattrs{{}, std::move(inherited.xattrs)};
    CO_TRY_STATUS(save_xattrs(core_, transaction, block, xattrs, &*piece));
    InodeEditor editor(transaction.edit(*directory));
    touch_directory(editor, parent_view, core_.now());
    if (S_ISDIR(kind.mode)) editor.links(parent_view.links() + 1);
    auto position = transaction.commit(*reservation);
    if (!position) co_return fail(std::move(position).error());
    core_.sole.insert(fresh->number);
    core_.clean_tails.insert(fresh->number);
    lost_unsaid_.erase(fresh->number);
    reply.pins.push_back(std::move(*directory_pin));
    reply.pins.push_back(std::move(fresh->pin));
    co_return reply;
  }
}

Task<Result<Covered<Attributes>>> FileSystem::mknod(InodeNumber parent, std::string name,
                                                    std::uint32_t mode, std::uint32_t rdev,
                                                    Caller caller) {
  if ((mode & S_IFMT) == 0) mode |= S_IFREG;
  const std::uint32_t type = mode & S_IFMT;
  if (type != S_IFREG && type != S_IFIFO && type != S_IFSOCK && type != S_IFCHR &&
      type != S_IFBLK) {
    co_return fail(Errc::invalid);
  }
  NewInode kind;
  kind.mode = mode;
  kind.rdev = rdev;
  kind.caller = caller;
  co_return co_await make(parent, std::move(name), std::move(kind));
}

Task<Result<Covered<Attributes>>> FileSystem::mkdir(InodeNumber parent, std::string name,
                                                    std::uint32_t mode, Caller caller) {
  NewInode kind;
  kind.mode = (mode & 07777) | S_IFDIR;
  kind.caller = caller;
  co_return co_await make(parent, std::move(name), std::move(kind));
}

Task<Result<Covered<Attributes>>> FileSystem::symlink(InodeNumber parent, std::string name,
                                                      std::string target, Caller caller) {
  if (target.empty()) co_return fail(Errc::no_entry);
  if (target.size() > symlink_max) co_return fail(Errc::name_too_long);
  NewInode kind;
  kind.mode = S_IFLNK | 0777;
  kind.target = std::move(target);
  kind.caller = caller;
  co_return co_await make(parent, std::move(name), std::move(kind));
}

Task<Result<Operations::CreateReply>> FileSystem::create(InodeNumber parent, std::string name,
                                                         std::uint32_t mode, std::uint32_t flags,
                                                         Caller caller) {
  for (;;) {
    NewInode kind;
    kind.mode = (mode & 07777) | S_IFREG;
    kind.caller = caller;
    auto made = co_await make(parent, name, std::move(kind));
    if (made) {
      CreateReply reply;
      reply.handle = add_handle(made->value.inode, made->value.generation, flags);
      reply.entry = std::move(*made);
      co_return reply;
    }
    if (made.error().code != Errc::exist || (flags & O_EXCL) != 0) {
      co_return fail(std::move(made).error());
    }
    // Another mount was faster: open what is there.
    Pin barrier;
    if ((flags & O_TRUNC) != 0) {
      CO_TRY(barrier, co_await core_.clerk.acquire(barrier_lock, Mode::shared));
    }
    auto existing = co_await pin_child(parent, name, Mode::exclusive);
    if (!existing) co_return fail(std::move(existing).error());
    if (!existing->child) continue;
    const InodeNumber inode = existing->name.found->inode;
    const InodeView view(existing->child.bytes());
    if (view.is_directory()) co_return fail(Errc::is_directory);
    if (!view.is_regular()) co_return fail(Errc::stale, absl::StrCat("inode ", raw(inode)));
    const bool reads = (flags & O_ACCMODE) != O_WRONLY;
    const bool writes = (flags & O_ACCMODE) != O_RDONLY || (flags & O_TRUNC) != 0;
    CO_TRY(const bool may, co_await may_open(existing->child, caller, reads, writes));
    if (!may) co_return fail(Errc::access);
    CO_TRY_STATUS(check_lost(inode));
    if ((flags & O_TRUNC) != 0) {
      CO_TRY_STATUS(co_await truncate_data(core_, inode, 0, true));
    }
    CreateReply reply;
    reply.handle = add_handle(inode, view.generation(), flags);
    reply.entry.value = attributes_of(existing->child.bytes(), core_.find_file(inode));
    reply.entry.pins.push_back(std::move(existing->directory_pin));
    reply.entry.pins.push_back(std::move(existing->child_pin));
    co_return reply;
  }
}

Task<Result<Covered<Attributes>>> FileSystem::link(InodeNumber inode, InodeNumber parent,
                                                   std::string name) {
  CO_TRY_STATUS(check_name(name));
  CO_TRY_STATUS(co_await take_space(format::block_size));
  auto reservation = co_await begin_change();
  if (!reservation) co_return fail(std::move(reservation).error());
  if (inode == parent) co_return fail(Errc::not_permitted);
  Covered<Attributes> reply;
  for (InodeNumber number : {std::min(inode, parent), std::max(inode, parent)}) {
    auto pin = co_await core_.clerk.acquire(inode_lock(number), Mode::exclusive);
    if (!pin) co_return fail(std::move(pin).error());
    reply.pins.push_back(std::move(*pin));
  }
  auto directory = co_await load_parent(parent);
  if (!directory) co_return fail(std::move(directory).error());
  CO_TRY_STATUS(check_parent(directory->bytes()));
  auto target = co_await load_named(inode);
  if (!target) co_return fail(std::move(target).error());
  const InodeView view(target->bytes());
  if (view.is_directory()) co_return fail(Errc::not_permitted);
  if (view.links() == 0) co_return fail(Errc::no_entry);
  if (view.links() >= links_max) co_return fail(Errc::too_many_links);
  auto place = co_await find_name(core_, *directory, name);
  if (!place) co_return fail(std::move(place).error());
  if (place->found) co_return fail(Errc::exist);
  Needs needs;
  needs.directory_blocks = insert_blocks_max;
  auto piece = co_await allocator_.pin(needs);
  if (!piece) co_return fail(std::move(piece).error());
  const std::int64_t now = core_.now();
  Transaction transaction(core_.cache);
  CO_TRY_STATUS(
      insert_name(core_, transaction, place->path, *piece, name, inode, entry_type(view.mode())));
  touch_directory(InodeEditor(transaction.edit(*directory)), InodeView(directory->bytes()), now);
  InodeEditor editor(transaction.edit(*target));
  editor.links(view.links() + 1);
  editor.ctime(std::max(now, view.ctime()));
  auto position = transaction.commit(*reservation);
  if (!position) co_return fail(std::move(position).error());
  reply.value = attributes_of(target->bytes(), core_.find_file(inode));
  co_return reply;
}

FileSystem::LinkDrop FileSystem::plan_link_drop(const BlockRef& child, std::uint32_t links) {
  LinkDrop drop;
  drop.child = child;
  const InodeView view(child.bytes());
  const InodeNumber inode{view.number()};
  drop.last = view.is_directory() || view.links() <= links;
  if (!drop.last || view.is_directory() || view.xattr_block() != 0) return drop;
  const FileState* file = core_.find_file(inode);
  if ((file != nullptr && file->handles > 0) || !core_.sole.contains(inode)) return drop;
  std::vector<std::uint64_t> pieces = pieces_to_free(child.bytes());
  for (std::uint64_t piece : pieces) {
    if (piece != pieces.front()) return drop;
  }
  drop.piece = allocator_.try_pin(pieces.front());
  return drop;
}

void FileSystem::drop_link(Transaction& transaction, LinkDrop& drop, std::uint32_t links,
                           std::int64_t now) {
  if (drop.piece) {
    std::vector<PinnedPiece> pieces;
    pieces.push_back(std::move(*drop.piece));
    drop.freed = free_inode_in(core_, transaction, drop.child, BlockRef(), pieces);
    drop.piece = std::move(pieces.front());
    return;
  }
  MutableByteView bytes = transaction.edit(drop.child);
  const InodeView view(bytes);
  InodeEditor editor(bytes);
  editor.links(drop.last ? 0 : view.links() - links);
  editor.ctime(std::max(now, view.ctime()));
  if (drop.last) orphans_.add(transaction, Orphan{OrphanKind::inode, view.number()});
}

void FileSystem::after_link_drop(LinkDrop& drop, LogPosition position) {
  const InodeNumber inode{format::owner_of(drop.child.bytes())};
  if (drop.piece) {
    after_free(core_, inode, drop.freed, position);
    return;
  }
  if (!drop.last) return;
  FileState* file = core_.find_file(inode);
  const bool may_be_in_use = options_.generation_told && options_.generation_told(inode) != 0;
  if (InodeView(drop.child.bytes()).is_directory() && may_be_in_use) {
    // Taken apart when the kernel lets go of it: somebody may be in it.
    core_.removed_directories.insert(inode);
  } else if (file != nullptr && file->handles > 0) {
    file->reclaim_on_close = true;
  } else {
    orphans_.look_at(Orphan{OrphanKind::inode, raw(inode)});
  }
}

Task<Status> FileSystem::remove(InodeNumber parent, std::string name, bool directory) {
  if (name == ".") co_return fail(Errc::invalid);
  if (name == "..") co_return fail(Errc::not_empty);
  auto reservation = co_await begin_change();
  if (!reservation) co_return fail(std::move(reservation).error());
  auto child = co_await pin_child(parent, name, Mode::exclusive);
  if (!child) co_return fail(std::move(child).error());
  if (!child->child) co_return fail(Errc::no_entry);
  const InodeView view(child->child.bytes());
  if (directory && !view.is_directory()) co_return fail(Errc::not_directory);
  if (!directory && view.is_directory()) co_return fail(Errc::is_directory);
  if (directory && view.directory_entries() > 0) co_return fail(Errc::not_empty);
  CO_TRY_STATUS(co_await orphans_.make_room(3));
  LinkDrop drop = plan_link_drop(child->child, 1);
  const std::int64_t now = core_.now();
  Transaction transaction(core_.cache);
  remove_name(transaction, child->name.path, child->name.found->cookie);
  MutableByteView bytes = transaction.edit(child->directory);
  touch_directory(InodeEditor(bytes), InodeView(bytes), now);
  if (directory) InodeEditor(bytes).links(InodeView(bytes).links() - 1);
  drop_link(transaction, drop, 1, now);
  auto position = transaction.commit(*reservation);
  if (!position) co_return fail(std::move(position).error());
  after_link_drop(drop, *position);
  co_return Status();
}

Task<Status> FileSystem::unlink(InodeNumber parent, std::string name) {
  return remove(parent, std::move(name), false);
}
Task<Status> FileSystem::rmdir(InodeNumber parent, std::string name) {
  return remove(parent, std::move(name), true);
}

Task<Result<Covered<std::vector<DirectoryEntry>>>> FileSystem::readdir(InodeNumber inode,
                                                                       std::uint64_t cookie,
                                                                       std::size_t max, bool plus) {
  auto pin = co_await core_.clerk.acquire(inode_lock(inode), Mode::shared);
  if (!pin) co_return fail(std::move(pin).error());
  auto directory = co_await load_named(inode);
  Covered<std::vector<DirectoryEntry>> reply;
  // Somebody's working directory that was removed elsewhere is empty, as one removed here.
  if (!directory && directory.error().code == Errc::stale) co_return reply;
  if (!directory) co_return fail(std::move(directory).error());
  const InodeView view(directory->bytes());
  if (!view.is_directory()) co_return fail(Errc::not_directory);
  reply.pins.push_back(std::move(*pin));
  if (view.links() == 0) co_return reply;
  const auto add = [&reply](std::string name, InodeNumber number, std::uint32_t type,
                            std::uint64_t at) {
    DirectoryEntry entry;
    entry.name = std::move(name);
    entry.inode = number;
    entry.type = type;
    entry.cookie = at;
    reply.value.push_back(std::move(entry));
  };
  if (cookie < format::cookie_dot && reply.value.size() < max) {
    add(".", inode, S_IFDIR, format::cookie_dot);
  }
  if (cookie < format::cookie_dotdot && reply.value.size() < max) {
    add("..", InodeNumber{view.parent()}, S_IFDIR, format::cookie_dotdot);
  }
  auto names = co_await list_names(core_, *directory, std::max(cookie, format::cookie_dotdot),
                                   max - reply.value.size());
  if (!names) co_return fail(std::move(names).error());
  for (ListedName& name : *names) {
    add(std::move(name.name), name.found.inode, std::uint32_t{name.found.type} << 12,
        name.found.cookie);
  }
  if (plus) co_await add_attributes(reply.value, reply.pins);
  co_return reply;
}

// Attributes of those whose lock comes without taking it from anybody: all asked for in one
// message.
Task<void> FileSystem::add_attributes(std::vector<DirectoryEntry>& entries,
                                      std::vector<Pin>& pins) {
  std::vector<LockName> missing;
  for (const DirectoryEntry& entry : entries) {
    if (entry.cookie <= format::cookie_dotdot) continue;
    const LockName name = inode_lock(entry.inode);
    if (core_.clerk.held(name) == Mode::none) missing.push_back(name);
  }
  if (!missing.empty()) co_await core_.clerk.prefetch(std::move(missing), Mode::shared);
  std::vector<std::size_t> indices;
  std::vector<Task<Result<BlockRef>>> loads;
  for (std::size_t i = 0; i < entries.size(); ++i) {
    if (entries[i].cookie <= format::cookie_dotdot || !check_lost(entries[i].inode)) continue;
    auto pin = core_.clerk.try_local(inode_lock(entries[i].inode), Mode::shared);
    if (!pin) continue;
    pins.push_back(std::move(*pin));
    indices.push_back(i);
    loads.push_back(core_.load_inode(entries[i].inode));
  }
  auto blocks = co_await gather(core_.world.executor, std::move(loads));
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    if (!blocks[i]) continue;  // The lookup that follows will tell.
    DirectoryEntry& entry = entries[indices[i]];
    entry.attributes = attributes_of(blocks[i]->bytes(), core_.find_file(entry.inode));
  }
}

}  // namespace plumeria::fs
