#include "check/inventory.h"

#include <absl/strings/str_cat.h>

#include <algorithm>

#include "base/check.h"
#include "check/flipped_bit.h"
#include "format/directory.h"
#include "format/xattrs.h"

namespace plumeria::check {
namespace {

using format::BlockId;
using format::InodeView;
using format::OrphanKind;
using format::Unit;

constexpr std::uint64_t version_max = 1ull << 56;  // no store lives so long
constexpr std::uint64_t attempts_max = 10'000;     // to find one wrong bit: some minutes

std::string segment_name(std::uint64_t segment) {
  return absl::StrCat("data segment ", absl::Hex(segment));
}

// Also of a type that there is, and of a number that is used.
Status check_inode(ByteView block, std::uint64_t number) {
  TRY_STATUS(format::check_inode(block, number));
  const std::uint32_t mode = InodeView(block).mode();
  if (mode != 0 && number == 0) return fail(Errc::corrupt, "inode 0 (in use)");
  switch (mode & ~07777u) {
    case 0010000:  // FIFO
    case 0020000:  // character device
    case 0040000:  // directory
    case 0060000:  // block device
    case 0100000:  // regular file
    case 0120000:  // symbolic link
    case 0140000:  // socket
      return {};
    default:
      if (mode == 0) return {};
      return fail(Errc::corrupt, absl::StrCat("inode ", number, " (impossible type)"));
  }
}

}  // namespace

std::uint64_t claimed_version(ByteView block) {
  if (load<std::uint32_t>(block.data()) != format::block_magic) return 0;
  const std::uint64_t version = format::version_of(block);
  return version < version_max ? version : 0;
}

void Inventory::show_progress(std::string_view phase, std::uint64_t done) {
  if (observer_ != nullptr) observer_->progress(phase, done);
}

Result<ByteView> Inventory::whole(BlockId id, ByteView block) {
  const Status status = format::verify(block, id);
  if (status) return block;
  if (attempts_ == attempts_max) return fail(status.error());
  ++attempts_;
  std::optional<Bytes> right = without_flipped_bit(block, id);
  if (!right) return fail(status.error());
  account_.repaired(absl::StrCat(to_string(id), ": one bit was wrong"));
  return put_right_.emplace(id, *std::move(right)).first->second;
}

// ---- Reading ----

Task<Status> Inventory::scan() {
  auto piece = [this](BlockId id, ByteView block) { see_piece(id, block); };
  CO_TRY_STATUS(co_await reader_.each_block(format::piece_segment, std::move(piece)));
  auto inode = [this](BlockId id, ByteView block) { see_inode(id, block); };
  CO_TRY_STATUS(co_await reader_.each_block(format::inode_segment, std::move(inode)));
  find_empty_inodes();
  auto other = [this](BlockId id, ByteView block) { see_directory_block(id, block); };
  CO_TRY_STATUS(co_await reader_.each_block(format::directory_segment, std::move(other)));
  std::sort(leaves_.begin(), leaves_.end());
  co_return co_await scan_orphans();
}

void Inventory::see_piece(BlockId id, ByteView block) {
  show_progress("allocation pieces", id.number);
  untouched_piece_ = std::max(untouched_piece_, id.number + 1);
  const Result<ByteView> good = whole(id, block);
  const Status status = good ? format::check_piece(*good, id.number) : fail(good.error());
  if (status) {
    pieces_.emplace(id.number, to_bytes(*good));
    return;
  }
  damaged_pieces_.emplace(id.number, claimed_version(block));
  account_.repaired(absl::StrCat(status.error().what, ": made anew from what is in use"));
}

bool Inventory::is_marked(Unit unit, std::uint64_t number) const {
  const auto piece = pieces_.find(format::piece_of(unit, number));
  return piece != pieces_.end() && format::PieceView(piece->second).is_used(unit, number);
}

std::uint64_t Inventory::floor_of(Unit unit, std::uint64_t number) const {
  const auto piece = pieces_.find(format::piece_of(unit, number));
  return piece == pieces_.end() ? 0 : format::PieceView(piece->second).version_floor();
}

void Inventory::see_inode(BlockId id, ByteView block) {
  show_progress("inodes", id.number);
  const std::uint64_t piece = format::piece_of(Unit::inode, id.number);
  untouched_piece_ = std::max(untouched_piece_, piece + 1);
  const Result<ByteView> good = whole(id, block);
  const Status status = good ? check_inode(*good, id.number) : fail(good.error());
  if (!status) {
    damaged_inodes_.emplace(id.number, claimed_version(block));
    if (pieces_.contains(piece) && !is_marked(Unit::inode, id.number)) {
      account_.repaired(absl::StrCat(status.error().what, ": it was free"));
      return;
    }
    lost_.insert(id.number);
    account_.lost(status.error().what);
    return;
  }
  const InodeView inode(*good);
  if (inode.is_free()) {
    free_inodes_.insert(id.number);
    return;
  }
  Node node;
  node.number = id.number;
  node.mode = inode.mode();
  node.links = inode.links();
  node.parent = inode.parent();
  if (inode.is_directory()) {
    node.directory_root = inode.directory_root();
    node.directory_levels = inode.directory_levels();
    node.directory_entries = inode.directory_entries();
  }
  nodes_.push_back(node);
  if (inode.xattr_block() != 0) xattr_blocks_.emplace_back(id.number, inode.xattr_block());
  if (inode.is_regular()) look_at_data(inode);
}

// Of two users of one place the one stays that was changed last: when the end of a log is lost, the
// other may be a file that has let the place go.
void Inventory::take_place(Places& places, std::uint64_t place, User user) {
  const auto [entry, is_new] = places.emplace(place, user);
  if (is_new) return;
  User loser = user;
  if (user.ctime > entry->second.ctime) std::swap(loser, entry->second);
  const bool is_segment = loser.page == no_page;
  account_.lost(absl::StrCat("inode ", loser.inode, ": ",
                             is_segment ? segment_name(place) : absl::StrCat("small block ", place),
                             " belongs to inode ", entry->second.inode,
                             "; what it had there reads as zeros now"));
  InodeChange& change = changes_[loser.inode];
  if (is_segment) {
    change.segment_goes = true;
  } else {
    change.pages |= 1u << loser.page;
  }
}

// What the inode says about its data, and what of it belongs to another one.
void Inventory::look_at_data(const InodeView& inode) {
  InodeChange change;
  const std::string name = absl::StrCat("inode ", inode.number());
  const bool is_inline = inode.inline_length() > 0;
  if (is_inline && (inode.has_small_blocks() || inode.data_segment() != 0)) {
    account_.repaired(absl::StrCat(name, " had its data inline and in blocks: the former stay"));
    change.pages = ~std::uint32_t{0};
    change.segment_goes = true;
  }
  if (inode.inline_length() > inode.size()) {
    account_.repaired(absl::StrCat(name, " had ", inode.inline_length(),
                                   " inline bytes, but its size is ", inode.size()));
    change.inline_is_cut = true;
  }
  for (std::uint32_t page = 0; page < format::small_count; ++page) {
    const std::uint64_t number = inode.small(page);
    if (number == 0 || (change.pages >> page & 1) != 0) continue;
    if (page * format::block_size >= inode.size()) {
      account_.repaired(absl::StrCat(name, " had small block ", number, " beyond its end"));
      change.pages |= 1u << page;
    } else if (format::piece_of(Unit::small_block, number) >= format::piece_limit) {
      account_.lost(
          absl::StrCat(name, ": small block ", number, " cannot be; its page reads as zeros now"));
      change.pages |= 1u << page;
    } else {
      take_place(small_blocks_, number, {inode.number(), inode.ctime(), page});
    }
  }
  if (inode.data_segment() != 0 && !change.segment_goes) {
    take_place(segments_, inode.data_segment(), {inode.number(), inode.ctime(), no_page});
  }
  if (change.pages == 0 && !change.segment_goes && !change.inline_is_cut) return;
  InodeChange& all = changes_[inode.number()];
  all.pages |= change.pages;
  all.segment_goes |= change.segment_goes;
  all.inline_is_cut |= change.inline_is_cut;
}

// In use, says the piece, but nothing is written there.
void Inventory::find_empty_inodes() {
  for (const auto& [piece, block] : pieces_) {
    const format::PieceView view(block);
    const std::uint64_t count = format::units_per_piece(Unit::inode);
    for (std::uint64_t number = piece * count; number < (piece + 1) * count; ++number) {
      if (!view.is_used(Unit::inode, number) || lost_.contains(number) ||
          free_inodes_.contains(number) || find(number) != nullptr) {
        continue;
      }
      lost_.insert(number);
      account_.lost(absl::StrCat("inode ", number, " (nothing is written there)"));
    }
  }
}

void Inventory::see_directory_block(BlockId id, ByteView block) {
  show_progress("directory blocks", id.number);
  const std::uint64_t piece = format::piece_of(Unit::directory_block, id.number);
  untouched_piece_ = std::max(untouched_piece_, piece + 1);
  // What is free, or of a piece that does not tell, may be of an earlier life of the directory.
  if (!is_marked(Unit::directory_block, id.number) && pieces_.contains(piece)) return;
  const Result<ByteView> good = whole(id, block);
  if (!good || !is_marked(Unit::directory_block, id.number)) return;
  if (format::type_of(*good) == format::BlockType::directory_leaf) {
    leaves_.emplace_back(format::owner_of(*good), id.number);
  }
}

std::vector<std::uint64_t> Inventory::leaves_of(std::uint64_t directory) const {
  std::vector<std::uint64_t> blocks;
  auto leaf =
      std::lower_bound(leaves_.begin(), leaves_.end(), std::pair(directory, std::uint64_t{0}));
  for (; leaf != leaves_.end() && leaf->first == directory; ++leaf) blocks.push_back(leaf->second);
  return blocks;
}

Task<Status> Inventory::scan_orphans() {
  const std::uint64_t base = format::orphan_segment_base;
  CO_TRY(const auto segments, co_await reader_.segments(base, base + format::slot_limit));
  for (const std::uint64_t segment : segments) {
    const auto slot = static_cast<std::uint32_t>(segment - base);
    auto visit = [this, slot](BlockId id, ByteView block) { see_orphan_list(id, block, slot); };
    CO_TRY_STATUS(co_await reader_.each_block(segment, std::move(visit)));
  }
  co_return Status{};
}

void Inventory::see_orphan_list(BlockId id, ByteView block, std::uint32_t slot) {
  const Result<ByteView> good = whole(id, block);
  if (!good || !format::check_orphan_list(*good, id, slot)) return;
  for (std::size_t i = 0; i < format::orphans_per_block; ++i) {
    const format::Orphan orphan = format::orphan_at(*good, i);
    if (orphan.kind == OrphanKind::inode) orphan_inodes_.insert(orphan.number);
    if (orphan.kind == OrphanKind::segment || orphan.kind == OrphanKind::pending_segment) {
      if (!segments_.contains(orphan.number)) orphan_segments_.insert(orphan.number);
    }
  }
}

// Requires: what was put right is in place.
Task<Status> Inventory::look_at_xattrs() {
  for (const auto& [inode, number] : xattr_blocks_) {
    const BlockId id = format::directory_block(number);
    Status status = fail(Errc::corrupt, absl::StrCat(to_string(id), " (cannot be)"));
    if (format::piece_of(Unit::directory_block, number) < format::piece_limit) {
      std::vector<BlockId> ids{id};
      CO_TRY(const std::vector<Bytes> blocks, co_await reader_.blocks(std::move(ids)));
      status = format::verify(blocks.front(), id);
      if (status) {
        const auto xattrs = format::decode_xattrs(blocks.front(), id, inode);
        if (!xattrs) status = fail(xattrs.error());
      }
    }
    if (status) {
      use_directory_block(number);
      continue;
    }
    account_.lost(
        absl::StrCat("extended attributes of inode ", inode, ", ", status.error().what,
                     "; its group has no permissions now, lest an access list is missed"));
    changes_[inode].xattrs_go = true;
  }
  xattr_blocks_.clear();
  co_return Status{};
}

// ---- Writing ----

Task<Status> Inventory::write_back(BlockWriter& writer) {
  for (auto& [id, block] : put_right_) {
    CO_TRY_STATUS(co_await writer.replace(id, std::move(block)));
  }
  put_right_.clear();
  CO_TRY_STATUS(co_await writer.settle());
  CO_TRY_STATUS(co_await look_at_xattrs());
  for (const auto& [number, change] : changes_) {
    std::vector<BlockId> ids{format::inode_block(number)};
    CO_TRY(std::vector<Bytes> blocks, co_await reader_.blocks(std::move(ids)));
    Bytes block = std::move(blocks.front());
    const InodeView inode(block);
    format::InodeEditor editor(block);
    for (std::size_t page = 0; page < format::small_count; ++page) {
      if ((change.pages >> page & 1) != 0) editor.small(page, 0);
    }
    if (change.segment_goes) editor.data_segment(0);
    if (change.xattrs_go) {
      editor.xattr_block(0);
      // With an access list these bits are its mask; without one they are the group's.
      editor.mode(inode.mode() & ~0070u);
      find(number)->mode = inode.mode();
    }
    if (change.inline_is_cut) editor.inline_length(static_cast<std::uint32_t>(inode.size()));
    CO_TRY_STATUS(co_await writer.change(format::inode_block(number), std::move(block)));
  }
  changes_.clear();
  co_return co_await writer.settle();
}

// ---- Nodes and room ----

Node* Inventory::find(std::uint64_t number) {
  const auto at =
      std::lower_bound(nodes_.begin(), nodes_.end(), number,
                       [](const Node& node, std::uint64_t wanted) { return node.number < wanted; });
  return at != nodes_.end() && at->number == number ? &*at : nullptr;
}

void Inventory::add_node(Node node) {
  CHECK(find(node.number) == nullptr);
  const auto at = std::lower_bound(
      nodes_.begin(), nodes_.end(), node.number,
      [](const Node& other, std::uint64_t wanted) { return other.number < wanted; });
  nodes_.insert(at, node);
}

Result<std::uint64_t> Inventory::take(Unit unit) {
  const std::uint64_t count = format::units_per_piece(unit);
  std::uint64_t& next = next_[unit];
  for (next = std::max<std::uint64_t>(next, 1); next < format::piece_limit * count; ++next) {
    const std::uint64_t number = format::piece_of(unit, next);
    if (!pieces_.contains(number) && number < untouched_piece_) {
      next = (number + 1) * count - 1;  // It does not tell what is free in it.
      continue;
    }
    const bool used = unit == Unit::inode ? find(next) != nullptr || lost_.contains(next) ||
                                                damaged_inodes_.contains(next)
                                          : used_directory_blocks_.contains(next);
    if (used || is_marked(unit, next)) continue;
    const auto [piece, is_new] = pieces_.try_emplace(number);
    if (is_new) {
      piece->second.resize(format::block_size);
      format::format_piece(piece->second, number, 1);
    }
    marked_pieces_.emplace(number, is_new);
    format::PieceEditor(piece->second).set_used(unit, next, true);
    return next++;
  }
  return fail(Errc::no_space, "no allocation piece has room");
}

Task<Status> Inventory::write_marks(BlockWriter& writer) {
  CO_TRY_STATUS(co_await writer.settle());
  for (const auto& [number, is_new] : marked_pieces_) {
    Bytes& piece = pieces_[number];
    Bytes block = piece;
    if (is_new) {
      CO_TRY_STATUS(co_await writer.replace(format::piece_block(number), std::move(block)));
    } else {
      CO_TRY_STATUS(co_await writer.change(format::piece_block(number), std::move(block)));
      format::set_version(piece, format::version_of(piece) + 1);
    }
  }
  marked_pieces_.clear();
  co_return co_await writer.settle();
}

}  // namespace plumeria::check
