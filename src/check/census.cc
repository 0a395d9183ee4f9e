#include "check/census.h"

#include <absl/strings/escaping.h>
#include <absl/strings/str_cat.h>

#include <algorithm>
#include <string>

namespace plumeria::check {
namespace {

using format::BlockId;
using format::OrphanKind;
using format::Unit;

constexpr std::uint64_t root_inode = 1;

std::string name_of(Unit unit, std::uint64_t number) {
  switch (unit) {
    case Unit::inode:
      return absl::StrCat("inode ", number);
    case Unit::directory_block:
      return absl::StrCat("directory block ", number);
    case Unit::small_block:
      return absl::StrCat("small block ", number);
  }
  return "";
}

std::string segment_name(std::uint64_t segment) {
  return absl::StrCat("data segment ", absl::Hex(segment));
}

}  // namespace

// ---- What is on the disk ----

void Census::add_piece(BlockId id, ByteView block) {
  Status status = format::verify(block, id);
  if (status) status = format::check_piece(block, id.number);
  if (!status) {
    damaged_pieces_.insert(id.number);
    findings_.problem(status.error().message());
    return;
  }
  ++findings_.report().pieces;
  pieces_.emplace(id.number, to_bytes(block));
}

std::uint64_t Census::floor_of(Unit unit, std::uint64_t number) const {
  const auto piece = pieces_.find(format::piece_of(unit, number));
  return piece == pieces_.end() ? 0 : format::PieceView(piece->second).version_floor();
}

bool Census::is_marked(Unit unit, std::uint64_t number) const {
  const auto piece = pieces_.find(format::piece_of(unit, number));
  return piece != pieces_.end() && format::PieceView(piece->second).is_used(unit, number);
}

void Census::add_inode(BlockId id, ByteView block) {
  Status status = format::verify(block, id);
  if (status) status = format::check_inode(block, id.number);
  if (!status) {
    damaged_inodes_.insert(id.number);
    findings_.problem(status.error().message());
    return;
  }
  const format::InodeView inode(block);
  if (inode.is_free()) {
    const std::uint64_t floor = floor_of(Unit::inode, id.number);
    if (format::version_of(block) > floor &&
        !damaged_pieces_.contains(format::piece_of(Unit::inode, id.number))) {
      findings_.problem(absl::StrCat("inode ", id.number, " is free with version ",
                                     format::version_of(block),
                                     ", but its piece lets versions begin again above ", floor));
    }
    return;
  }
  InodeInfo info;
  info.number = id.number;
  info.parent = inode.parent();
  info.mode = inode.mode();
  info.links = inode.links();
  info.xattr_block = inode.xattr_block();
  if (inode.is_directory()) {
    info.directory_root = inode.directory_root();
    info.directory_levels = inode.directory_levels();
    info.directory_entries = inode.directory_entries();
  }
  inodes_.push_back(info);
  Report& report = findings_.report();
  ++report.inodes;
  ++(inode.is_directory() ? report.directories
     : inode.is_regular() ? report.files
     : inode.is_symlink() ? report.symlinks
                          : report.others);
  if (inode.is_regular()) note_data(inode);
}

void Census::note_data(const format::InodeView& inode) {
  if (inode.inline_length() > 0 && (inode.has_small_blocks() || inode.data_segment() != 0)) {
    findings_.problem(
        absl::StrCat("inode ", inode.number(), " has its data inline and in blocks at once"));
  }
  if (inode.inline_length() > inode.size()) {
    findings_.problem(absl::StrCat("inode ", inode.number(), " has ", inode.inline_length(),
                                   " inline bytes, but its size is ", inode.size()));
  }
  for (std::size_t page = 0; page < format::small_count; ++page) {
    if (inode.small(page) == 0) continue;
    small_blocks_.emplace_back(inode.small(page), inode.number());
    if (page * format::block_size >= inode.size()) {
      findings_.problem(absl::StrCat("inode ", inode.number(), " has small block ",
                                     inode.small(page), " beyond its end"));
    }
  }
  if (inode.data_segment() != 0) segments_.emplace_back(inode.data_segment(), inode.number());
}

// A free block may hold anything that a crash left there, as long as its version does not tell that
// versions would fall.
void Census::add_directory_block(BlockId id, ByteView block) {
  if (is_marked(Unit::directory_block, id.number) || !format::verify(block, id)) return;
  if (damaged_pieces_.contains(format::piece_of(Unit::directory_block, id.number))) return;
  const std::uint64_t floor = floor_of(Unit::directory_block, id.number);
  if (format::version_of(block) > floor) {
    findings_.problem(absl::StrCat("directory block ", id.number, " is free with version ",
                                   format::version_of(block),
                                   ", but its piece lets versions begin again above ", floor));
  }
}

void Census::add_orphan_list(BlockId id, ByteView block, std::uint32_t slot) {
  Status status = format::verify(block, id);
  if (status) status = format::check_orphan_list(block, id, slot);
  if (!status) {
    findings_.problem(status.error().message());
    return;
  }
  for (std::size_t i = 0; i < format::orphans_per_block; ++i) {
    const format::Orphan orphan = format::orphan_at(block, i);
    switch (orphan.kind) {
      case OrphanKind::none:
        continue;
      case OrphanKind::inode:
        orphan_inodes_.insert(orphan.number);
        break;
      case OrphanKind::segment:
      case OrphanKind::pending_segment:
        orphan_segments_.insert(orphan.number);
        break;
      default:
        findings_.problem(absl::StrCat(to_string(id), " has an entry of unknown kind"));
        continue;
    }
    ++findings_.report().orphans;
  }
}

// ---- What directories say ----

InodeInfo* Census::find(std::uint64_t number) {
  const auto at = std::lower_bound(
      inodes_.begin(), inodes_.end(), number,
      [](const InodeInfo& inode, std::uint64_t wanted) { return inode.number < wanted; });
  return at != inodes_.end() && at->number == number ? &*at : nullptr;
}

bool Census::use_directory_block(std::uint64_t number, std::uint64_t directory) {
  const auto [entry, is_new] = owner_of_directory_block_.emplace(number, directory);
  if (!is_new) {
    findings_.problem(absl::StrCat("directory block ", number, " is used by directory ",
                                   entry->second, " and again by directory ", directory));
    return false;
  }
  directory_blocks_.emplace_back(number, directory);
  ++findings_.report().directory_blocks;
  return true;
}

void Census::use_entry(std::uint64_t directory, const format::EntryView& entry) {
  ++findings_.report().entries;
  const auto where = [&] {
    const std::string name(entry.name);
    return absl::StrCat("directory ", directory, ", entry \"", absl::CEscape(name), "\"");
  };
  InodeInfo* inode = find(entry.inode);
  if (inode == nullptr && damaged_inodes_.contains(entry.inode)) return;
  if (inode == nullptr) {
    findings_.problem(absl::StrCat(where(), " names inode ", entry.inode, ", which is free"));
    return;
  }
  ++inode->references;
  if (entry.type != inode->mode >> 12) {
    findings_.problem(absl::StrCat(where(), " gives inode ", entry.inode, " type ", entry.type,
                                   ", the inode has ", inode->mode >> 12));
  }
  if (!inode->is_directory()) return;
  edges_.emplace_back(directory, entry.inode);
  if (InodeInfo* parent = find(directory)) ++parent->subdirectories;
  if (inode->parent != directory) {
    findings_.problem(absl::StrCat(where(), " names directory ", entry.inode,
                                   ", whose parent is inode ", inode->parent));
  }
}

void Census::count_entries(std::uint64_t directory, std::uint64_t entries) {
  const InodeInfo* inode = find(directory);
  if (inode != nullptr && inode->directory_entries != entries) {
    findings_.problem(absl::StrCat("directory ", directory, " has ", entries,
                                   " entries, its inode counts ", inode->directory_entries));
  }
}

void Census::see_segment(std::uint64_t segment) { segments_seen_.push_back(segment); }

// ---- Conclusions ----

void Census::check_double_use(Unit unit, const std::vector<Use>& uses) {
  for (std::size_t i = 1; i < uses.size(); ++i) {
    if (uses[i].first != uses[i - 1].first) continue;
    findings_.problem(absl::StrCat(name_of(unit, uses[i].first), " is used by inode ",
                                   uses[i - 1].second, " and by inode ", uses[i].second));
  }
}

// `uses` are ascending.
void Census::check_marks(Unit unit, const std::vector<Use>& uses) {
  for (const auto& [number, inode] : uses) {
    const std::uint64_t piece = format::piece_of(unit, number);
    if (is_marked(unit, number) || damaged_pieces_.contains(piece)) continue;
    findings_.problem(absl::StrCat(name_of(unit, number), " is in use by inode ", inode,
                                   ", but free in piece ", piece));
  }
  const std::uint64_t count = format::units_per_piece(unit);
  for (const auto& [piece, block] : pieces_) {
    const format::PieceView view(block);
    auto use = std::lower_bound(uses.begin(), uses.end(), Use{piece * count, 0});
    for (std::uint64_t number = piece * count; number < (piece + 1) * count; ++number) {
      while (use != uses.end() && use->first < number) ++use;
      const bool used = use != uses.end() && use->first == number;
      if (used || !view.is_used(unit, number)) continue;
      if (unit == Unit::inode && damaged_inodes_.contains(number)) continue;
      findings_.problem(absl::StrCat(name_of(unit, number), " is marked as used in piece ", piece,
                                     ", but nobody uses it"));
    }
  }
}

void Census::check_segments() {
  std::sort(segments_.begin(), segments_.end());
  findings_.report().data_segments = segments_.size();
  absl::flat_hash_set<std::uint64_t> owned;
  for (std::size_t i = 0; i < segments_.size(); ++i) {
    const auto [segment, inode] = segments_[i];
    owned.insert(segment);
    if (i > 0 && segments_[i - 1].first == segment) {
      findings_.problem(absl::StrCat(segment_name(segment), " is used by inode ",
                                     segments_[i - 1].second, " and by inode ", inode));
    }
    const auto piece = pieces_.find(format::piece_of_segment(segment));
    const std::uint64_t running = segment % format::segments_per_piece;
    const std::uint64_t handed_out =
        piece == pieces_.end() ? 0 : format::PieceView(piece->second).next_segment();
    if (running >= handed_out && !damaged_pieces_.contains(format::piece_of_segment(segment))) {
      findings_.problem(absl::StrCat(segment_name(segment), " of inode ", inode,
                                     " will be handed out once more by piece ",
                                     format::piece_of_segment(segment)));
    }
    if (orphan_segments_.contains(segment)) {
      findings_.problem(absl::StrCat(segment_name(segment), " of inode ", inode,
                                     " stands in an orphan list and will be discarded"));
    }
  }
  for (const std::uint64_t segment : segments_seen_) {
    if (owned.contains(segment) || orphan_segments_.contains(segment)) continue;
    findings_.leak(absl::StrCat(segment_name(segment), " holds data, but no file has it"));
  }
}

void Census::follow_directories() {
  InodeInfo* root = find(root_inode);
  if (root == nullptr && damaged_inodes_.contains(root_inode)) return;
  if (root == nullptr || !root->is_directory()) {
    findings_.problem("inode 1 is not the root directory that it must be");
    return;
  }
  std::sort(edges_.begin(), edges_.end());
  std::vector<std::uint64_t> to_visit{root_inode};
  root->reached = true;
  while (!to_visit.empty()) {
    const std::uint64_t directory = to_visit.back();
    to_visit.pop_back();
    auto edge = std::lower_bound(edges_.begin(), edges_.end(), std::pair(directory, root_inode));
    for (; edge != edges_.end() && edge->first == directory; ++edge) {
      InodeInfo* child = find(edge->second);
      if (child == nullptr || child->reached) continue;
      child->reached = true;
      to_visit.push_back(child->number);
    }
  }
}

void Census::check_links(const InodeInfo& inode) {
  const std::string name =
      absl::StrCat(inode.is_directory() ? "directory " : "inode ", inode.number);
  if (inode.links == 0) {
    if (inode.references > 0) {
      findings_.problem(absl::StrCat(name, " has no links, but ", inode.references, " entries"));
    } else if (!orphan_inodes_.contains(inode.number)) {
      findings_.problem(absl::StrCat(name, " has no links and stands in no orphan list"));
    }
    return;
  }
  const bool is_root = inode.number == root_inode;
  if (inode.references == 0 && !is_root) {
    findings_.problem(absl::StrCat(name, " has ", inode.links, " links, but no entry names it"));
    return;
  }
  const std::uint32_t links = inode.is_directory() ? 2 + inode.subdirectories : inode.references;
  if (inode.links != links) {
    findings_.problem(absl::StrCat(name, " has ", inode.links, " links, counted are ", links));
  }
  if (!inode.is_directory()) return;
  if (inode.references + (is_root ? 1 : 0) > 1) {
    findings_.problem(absl::StrCat(name, " has more than one entry"));
  } else if (!inode.reached) {
    findings_.problem(absl::StrCat(name, " cannot be reached from the root"));
  }
}

void Census::conclude() {
  std::vector<Use> inode_uses;
  for (const InodeInfo& inode : inodes_) inode_uses.emplace_back(inode.number, inode.number);
  check_marks(Unit::inode, inode_uses);
  std::sort(directory_blocks_.begin(), directory_blocks_.end());
  check_marks(Unit::directory_block, directory_blocks_);
  std::sort(small_blocks_.begin(), small_blocks_.end());
  findings_.report().small_blocks = small_blocks_.size();
  check_double_use(Unit::small_block, small_blocks_);
  check_marks(Unit::small_block, small_blocks_);
  check_segments();
  follow_directories();
  for (const InodeInfo& inode : inodes_) check_links(inode);
}

}  // namespace plumeria::check
