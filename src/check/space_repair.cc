#include "check/space_repair.h"

#include <absl/strings/str_cat.h>

#include <map>
#include <utility>

namespace plumeria::check {
namespace {

using format::BlockId;
using format::OrphanKind;

constexpr std::uint64_t orphan_gap_max = 4096;  // blocks of a list that are filled up

}  // namespace

Task<Status> SpaceRepair::repair_orphan_lists() {
  const std::uint64_t base = format::orphan_segment_base;
  CO_TRY(const auto segments, co_await parts_.reader.segments(base, base + format::slot_limit));
  for (const std::uint64_t segment : segments) {
    CO_TRY_STATUS(co_await repair_orphan_list(static_cast<std::uint32_t>(segment - base)));
  }
  co_return co_await parts_.writer.settle();
}

Task<Status> SpaceRepair::repair_orphan_list(std::uint32_t slot) {
  std::map<std::uint64_t, Bytes> blocks;
  auto keep = [&blocks](BlockId id, ByteView block) { blocks.emplace(id.number, to_bytes(block)); };
  CO_TRY_STATUS(co_await parts_.reader.each_block(format::orphan_segment(slot), std::move(keep)));
  if (blocks.empty()) co_return Status{};
  // A list ends at its first block of zeros, so a gap would hide what is behind it.
  const std::uint64_t last = blocks.rbegin()->first;
  if (last < blocks.size() + orphan_gap_max) {
    for (std::uint64_t number = 0; number < last; ++number) blocks.try_emplace(number);
  }
  seen_.clear();
  for (auto& [number, block] : blocks) {
    const BlockId id = format::orphan_block(slot, number);
    Status status = block.empty() ? fail(Errc::corrupt, absl::StrCat(to_string(id), " (empty)"))
                                  : format::verify(block, id);
    if (status) status = format::check_orphan_list(block, id, slot);
    if (!status) {
      parts_.account.repaired(
          absl::StrCat(status.error().what, ": emptied; what stood there is free"));
      const std::uint64_t claim = block.empty() ? 0 : claimed_version(block);
      Bytes fresh(format::block_size);
      format::format_block(fresh, format::BlockType::orphan_list, slot, claim + 1);
      CO_TRY_STATUS(co_await parts_.writer.replace(id, std::move(fresh)));
    } else if (take_wrong_entries_away(id, block)) {
      CO_TRY_STATUS(co_await parts_.writer.change(id, std::move(block)));
    }
  }
  co_return Status{};
}

// Whether there was any.
bool SpaceRepair::take_wrong_entries_away(BlockId id, MutableByteView block) {
  bool has_changed = false;
  for (std::size_t i = 0; i < format::orphans_per_block; ++i) {
    const format::Orphan orphan = format::orphan_at(block, i);
    if (orphan.kind == OrphanKind::none) continue;
    const bool is_known = orphan.kind <= OrphanKind::pending_segment;
    const bool is_owned = is_known && orphan.kind != OrphanKind::inode &&
                          parts_.inventory.is_owned_segment(orphan.number);
    const bool is_new = seen_.emplace(orphan.kind, orphan.number).second;
    if (is_known && !is_owned && is_new) continue;
    parts_.account.repaired(absl::StrCat(to_string(id), ": an entry that cannot be is gone"));
    format::set_orphan(block, i, {});
    has_changed = true;
  }
  return has_changed;
}

Task<Status> SpaceRepair::repair_pieces(
    const absl::flat_hash_set<std::uint64_t>& directory_blocks) {
  auto inode = [this](BlockId id, ByteView block) {
    parts_.show_progress("inodes counted", id.number);
    if (format::verify(block, id)) count_.see_inode(id, block);
  };
  CO_TRY_STATUS(co_await parts_.reader.each_block(format::inode_segment, std::move(inode)));
  for (const std::uint64_t block : directory_blocks) count_.use_directory_block(block);
  auto other = [this](BlockId id, ByteView block) { count_.see_directory_block(id, block); };
  CO_TRY_STATUS(co_await parts_.reader.each_block(format::directory_segment, std::move(other)));
  CO_TRY(segments_, co_await parts_.reader.segments(format::data_segment_bit, ~std::uint64_t{0}));
  for (const std::uint64_t segment : segments_) count_.see_segment(segment);
  for (const std::uint64_t segment : parts_.inventory.orphan_segments()) {
    if (format::is_data_segment(segment)) count_.see_segment(segment);
  }
  auto corrections =
      count_.corrections(parts_.inventory.pieces(), parts_.inventory.damaged_pieces());
  for (PieceCount::Correction& correction : corrections) {
    const BlockId id = format::piece_block(correction.number);
    if (!parts_.inventory.damaged_pieces().contains(correction.number)) {
      parts_.account.repaired(absl::StrCat(to_string(id), ": ", correction.what));
    }
    if (correction.is_new) {
      CO_TRY_STATUS(co_await parts_.writer.replace(id, std::move(correction.block)));
    } else {
      CO_TRY_STATUS(co_await parts_.writer.change(id, std::move(correction.block)));
    }
  }
  co_return co_await parts_.writer.settle();
}

Task<Status> SpaceRepair::discard_segments() {
  for (const std::uint64_t segment : segments_) {
    if (count_.is_owned(segment) || parts_.inventory.orphan_segments().contains(segment)) continue;
    parts_.account.repaired(absl::StrCat("data segment ", absl::Hex(segment),
                                         " holds data that no file has: discarded"));
    CO_TRY_STATUS(co_await parts_.writer.discard(segment));
  }
  co_return co_await parts_.writer.settle();
}

}  // namespace plumeria::check
