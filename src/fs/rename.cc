// rename: peek at both names, take every lock in order, look again, change all in one transaction.
#include <linux/fs.h>
#include <sys/stat.h>

#include <algorithm>

#include "base/check.h"
#include "base/rare.h"
#include "fs/data.h"
#include "fs/file_system.h"

namespace plumeria::fs {
namespace {

using format::InodeEditor;
using format::InodeView;

Status check_name(const std::string& name) {
  if (name.size() > name_max) return fail(Errc::name_too_long);
  if (name == "." || name == "..") return fail(Errc::busy);
  if (name.empty()) return fail(Errc::invalid);
  return {};
}

}  // namespace

struct FileSystem::RenamePeek {
  std::optional<FoundName> source, target;
  bool moves_directory = false;  // a directory changes its parent
  Pin rename_pin;
};

Task<Status> FileSystem::rename(InodeNumber parent, std::string name, InodeNumber new_parent,
                                std::string new_name, std::uint32_t flags) {
  if ((flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE)) != 0 ||
      flags == (RENAME_NOREPLACE | RENAME_EXCHANGE)) {
    co_return fail(Errc::invalid);
  }
  CO_TRY_STATUS(check_name(name));
  CO_TRY_STATUS(check_name(new_name));
  CO_TRY_STATUS(co_await take_space(format::block_size));
  RenameRequest request;
  request.parent = parent;
  request.new_parent = new_parent;
  request.name = std::move(name);
  request.new_name = std::move(new_name);
  request.flags = flags;
  CO_TRY(const Pin barrier, co_await core_.clerk.acquire(barrier_lock, Mode::shared));
  for (;;) {
    auto peek = co_await peek_rename(request);
    if (!peek) co_return fail(std::move(peek).error());
    auto done = co_await try_rename(request, *peek);
    if (!done) co_return fail(std::move(done).error());
    if (*done) co_return Status();
  }
}

// Finds out, without keeping their locks, which inodes the rename is about. The store-wide rename
// lock is kept if a directory moves to another parent: then no other directory does, so what
// is_below() saw stays true.
Task<Result<FileSystem::RenamePeek>> FileSystem::peek_rename(const RenameRequest& request) {
  const auto look = [](FileSystem& self, InodeNumber parent,
                       std::string name) -> Task<Result<std::optional<FoundName>>> {
    auto pin = co_await self.core_.clerk.acquire(inode_lock(parent), Mode::shared);
    if (!pin) co_return fail(std::move(pin).error());
    auto directory = co_await self.load_parent(parent);
    if (!directory) co_return fail(std::move(directory).error());
    if (!InodeView(directory->bytes()).is_directory()) co_return fail(Errc::not_directory);
    auto found = co_await find_name(self.core_, *directory, name);
    if (!found) co_return fail(std::move(found).error());
    co_return found->found;
  };
  RenamePeek peek;
  for (bool with_rename_lock : {false, true}) {
    auto source = co_await look(*this, request.parent, request.name);
    if (!source) co_return fail(std::move(source).error());
    auto target = co_await look(*this, request.new_parent, request.new_name);
    if (!target) co_return fail(std::move(target).error());
    if (!*source) co_return fail(Errc::no_entry);
    peek.source = *source;
    peek.target = *target;
    const auto is_directory = [](const std::optional<FoundName>& found) {
      return found && std::uint32_t{found->type} << 12 == S_IFDIR;
    };
    const bool exchange = (request.flags & RENAME_EXCHANGE) != 0;
    peek.moves_directory = request.parent != request.new_parent &&
                           (is_directory(peek.source) || (exchange && is_directory(peek.target)));
    if (!peek.moves_directory || with_rename_lock) break;
    auto pin = co_await core_.clerk.acquire(rename_lock, Mode::exclusive);
    if (!pin) co_return fail(std::move(pin).error());
    peek.rename_pin = std::move(*pin);
  }
  if (!peek.moves_directory) co_return peek;
  auto below = co_await is_below(request.new_parent, peek.source->inode);
  if (!below) co_return fail(std::move(below).error());
  if (*below) co_return fail(Errc::invalid);
  if ((request.flags & RENAME_EXCHANGE) != 0 && peek.target) {
    auto other_way = co_await is_below(request.parent, peek.target->inode);
    if (!other_way) co_return fail(std::move(other_way).error());
    if (*other_way) co_return fail(Errc::invalid);
  }
  co_return peek;
}

// Whether `directory` is `ancestor` or lies below it. Requires: the rename lock is pinned.
Task<Result<bool>> FileSystem::is_below(InodeNumber directory, InodeNumber ancestor) {
  InodeNumber at = directory;
  for (;;) {
    if (at == ancestor) co_return true;
    if (at == root_inode) co_return false;
    auto pin = co_await core_.clerk.acquire(inode_lock(at), Mode::shared);
    if (!pin) co_return fail(std::move(pin).error());
    auto block = co_await core_.load_inode(at);
    if (!block) co_return fail(std::move(block).error());
    const InodeNumber up{InodeView(block->bytes()).parent()};
    if (raw(up) == 0 || up == at) {
      co_return fail(Errc::corrupt, absl::StrCat("inode ", raw(at), " (directory without parent)"));
    }
    at = up;
  }
}

// False: something changed since the peek.
Task<Result<bool>> FileSystem::try_rename(const RenameRequest& request, const RenamePeek& peek) {
  const bool exchange = (request.flags & RENAME_EXCHANGE) != 0;
  if (exchange && !peek.target) co_return fail(Errc::no_entry);
  if ((request.flags & RENAME_NOREPLACE) != 0 && peek.target) co_return fail(Errc::exist);
  std::vector<InodeNumber> inodes{request.parent, request.new_parent, peek.source->inode};
  if (peek.target) inodes.push_back(peek.target->inode);
  std::sort(inodes.begin(), inodes.end());
  inodes.erase(std::unique(inodes.begin(), inodes.end()), inodes.end());
  std::vector<Pin> pins;
  for (InodeNumber inode : inodes) {
    auto pin = co_await core_.clerk.acquire(inode_lock(inode), Mode::exclusive);
    if (!pin) co_return fail(std::move(pin).error());
    pins.push_back(std::move(*pin));
  }
  auto from = co_await load_parent(request.parent);
  if (!from) co_return fail(std::move(from).error());
  auto to = co_await load_parent(request.new_parent);
  if (!to) co_return fail(std::move(to).error());
  if (InodeView(to->bytes()).links() == 0) co_return fail(Errc::no_entry);
  auto old_place = co_await find_name(core_, *from, request.name);
  if (!old_place) co_return fail(std::move(old_place).error());
  auto new_place = co_await find_name(core_, *to, request.new_name);
  if (!new_place) co_return fail(std::move(new_place).error());
  const auto same = [](const std::optional<FoundName>& a, const std::optional<FoundName>& b) {
    return a.has_value() == b.has_value() && (!a || (a->inode == b->inode && a->type == b->type));
  };
  if (!same(old_place->found, peek.source) || !same(new_place->found, peek.target)) {
    rarely<"fs: a rename finds other names than it saw">();
    co_return false;
  }
  const InodeNumber source_number = peek.source->inode;
  if (peek.target && peek.target->inode == source_number) co_return true;  // two links of one file
  auto source = co_await core_.load_inode(source_number);
  if (!source) co_return fail(std::move(source).error());
  const bool source_is_directory = InodeView(source->bytes()).is_directory();
  BlockRef target;
  bool target_is_directory = false;
  if (peek.target) {
    auto loaded = co_await core_.load_inode(peek.target->inode);
    if (!loaded) co_return fail(std::move(loaded).error());
    target = std::move(*loaded);
    const InodeView view(target.bytes());
    target_is_directory = view.is_directory();
    if (!exchange) {
      if (source_is_directory && !target_is_directory) co_return fail(Errc::not_directory);
      if (!source_is_directory && target_is_directory) co_return fail(Errc::is_directory);
      if (target_is_directory && view.directory_entries() > 0) co_return fail(Errc::not_empty);
      // Who replaces a file by a new one does not want to find neither after a crash.
      CO_TRY_STATUS(co_await commit_data(core_, source_number, true));
    }
  }
  auto reservation = co_await core_.log.reserve(operation_log_bytes, true);
  if (!reservation) co_return fail(std::move(reservation).error());
  std::optional<PinnedPiece> piece;
  if (!peek.target) {
    Needs needs;
    needs.directory_blocks = insert_blocks_max;
    auto pinned = co_await allocator_.pin(needs);
    if (!pinned) co_return fail(std::move(pinned).error());
    piece = std::move(*pinned);
  }
  CO_TRY_STATUS(co_await orphans_.make_room(3));
  const std::int64_t now = core_.now();
  const std::uint8_t source_type = old_place->found->type;
  LinkDrop drop;
  if (target && !exchange) drop = plan_link_drop(target, 1);
  Transaction transaction(core_.cache);
  if (exchange) {
    change_name(transaction, old_place->path, old_place->found->cookie, peek.target->inode,
                new_place->found->type);
    change_name(transaction, new_place->path, new_place->found->cookie, source_number, source_type);
  } else {
    remove_name(transaction, old_place->path, old_place->found->cookie);
    if (peek.target) {
      change_name(transaction, new_place->path, new_place->found->cookie, source_number,
                  source_type);
    } else {
      CO_TRY_STATUS(insert_name(core_, transaction, new_place->path, *piece, request.new_name,
                                source_number, source_type));
    }
  }
  // Links that ".." entries are.
  std::int64_t from_links = 0;
  std::int64_t to_links = 0;
  if (request.parent != request.new_parent) {
    if (source_is_directory) --from_links, ++to_links;
    if (exchange && target_is_directory) ++from_links, --to_links;
  }
  if (!exchange && target_is_directory) --to_links;
  for (auto [directory, change] : {std::pair{*from, from_links}, std::pair{*to, to_links}}) {
    MutableByteView bytes = transaction.edit(directory);
    const InodeView view(bytes);
    InodeEditor editor(bytes);
    editor.links(static_cast<std::uint32_t>(view.links() + change));
    editor.mtime(std::max(now, view.mtime()));
    editor.ctime(std::max(now, view.ctime()));
  }
  MutableByteView source_bytes = transaction.edit(*source);
  InodeEditor source_editor(source_bytes);
  source_editor.ctime(std::max(now, InodeView(source_bytes).ctime()));
  if (source_is_directory) source_editor.parent(raw(request.new_parent));
  if (target && exchange) {
    MutableByteView bytes = transaction.edit(target);
    InodeEditor editor(bytes);
    editor.ctime(std::max(now, InodeView(bytes).ctime()));
    if (target_is_directory) editor.parent(raw(request.parent));
  }
  if (target && !exchange) drop_link(transaction, drop, 1, now);
  auto position = transaction.commit(*reservation);
  if (!position) co_return fail(std::move(position).error());
  if (target && !exchange) after_link_drop(drop, *position);
  co_return true;
}

}  // namespace plumeria::fs
