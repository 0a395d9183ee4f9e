#include "check/piece_count.h"

#include <absl/strings/str_cat.h>

#include <algorithm>
#include <bit>

#include "format/inode.h"

namespace plumeria::check {
namespace {

using format::BlockId;
using format::PieceView;
using format::Unit;

constexpr std::pair<Unit, const char*> units[] = {{Unit::inode, "inodes"},
                                                  {Unit::directory_block, "directory blocks"},
                                                  {Unit::small_block, "small blocks"}};

// How many bits are set in `a` and not in `b`.
std::uint64_t bits_without(ByteView a, ByteView b, Unit unit) {
  std::uint64_t set = 0;
  for (std::size_t at = 0; at < format::units_per_piece(unit) / 8; at += 8) {
    const std::size_t word = format::bitmap_at(unit) + at;
    set +=
        std::popcount(load<std::uint64_t>(a.data() + word) & ~load<std::uint64_t>(b.data() + word));
  }
  return set;
}

std::string difference(ByteView before, ByteView after) {
  std::string text;
  for (const auto& [unit, name] : units) {
    const std::uint64_t used = bits_without(after, before, unit);
    const std::uint64_t freed = bits_without(before, after, unit);
    if (used > 0) absl::StrAppend(&text, ", ", used, " ", name, " are in use");
    if (freed > 0) absl::StrAppend(&text, ", ", freed, " ", name, " are free");
  }
  const PieceView old(before), now(after);
  if (now.version_floor() != old.version_floor()) {
    absl::StrAppend(&text, ", versions begin above ", now.version_floor());
  }
  if (now.next_segment() != old.next_segment()) {
    absl::StrAppend(&text, ", data segments go on at ", now.next_segment());
  }
  return text.empty() ? text : text.substr(2);
}

}  // namespace

PieceCount::Count& PieceCount::count_of(std::uint64_t piece) {
  Count& count = counts_[piece];
  if (count.block.empty()) {
    count.block.resize(format::block_size);
    format::format_piece(count.block, piece, 0);
  }
  return count;
}

void PieceCount::use(Unit unit, std::uint64_t number) {
  Bytes& block = count_of(format::piece_of(unit, number)).block;
  if (!PieceView(block).is_used(unit, number)) {
    format::PieceEditor(block).set_used(unit, number, true);
  }
}

void PieceCount::use_directory_block(std::uint64_t number) {
  if (directory_blocks_.insert(number).second) use(Unit::directory_block, number);
}

void PieceCount::see_inode(BlockId id, ByteView block) {
  const format::InodeView inode(block);
  if (inode.is_free()) {
    Count& count = count_of(format::piece_of(Unit::inode, id.number));
    count.floor = std::max(count.floor, format::version_of(block));
    return;
  }
  use(Unit::inode, id.number);
  if (inode.xattr_block() != 0) use_directory_block(inode.xattr_block());
  if (!inode.is_regular()) return;
  for (std::size_t page = 0; page < format::small_count; ++page) {
    if (inode.small(page) != 0) use(Unit::small_block, inode.small(page));
  }
  if (inode.data_segment() != 0) {
    owned_segments_.insert(inode.data_segment());
    see_segment(inode.data_segment());
  }
}

void PieceCount::see_directory_block(BlockId id, ByteView block) {
  if (directory_blocks_.contains(id.number) || !format::verify(block, id)) return;
  Count& count = count_of(format::piece_of(Unit::directory_block, id.number));
  count.floor = std::max(count.floor, format::version_of(block));
}

void PieceCount::see_segment(std::uint64_t segment) {
  Count& count = count_of(format::piece_of_segment(segment));
  count.next_segment = std::max(count.next_segment, segment % format::segments_per_piece + 1);
}

std::vector<PieceCount::Correction> PieceCount::corrections(
    const std::map<std::uint64_t, Bytes>& before,
    const std::map<std::uint64_t, std::uint64_t>& damaged) const {
  std::map<std::uint64_t, Count> all = counts_;
  PieceCount empty;
  for (const auto& [number, block] : before) all.emplace(number, empty.count_of(number));
  for (const auto& [number, version] : damaged) all.emplace(number, empty.count_of(number));
  std::vector<Correction> corrections;
  for (const auto& [number, count] : all) {
    Correction correction{.number = number, .block = count.block};
    format::PieceEditor editor(correction.block);
    editor.raise_floor(count.floor);
    editor.raise_next_segment(count.next_segment);
    const auto old = before.find(number);
    if (old != before.end()) {
      editor.raise_floor(PieceView(old->second).version_floor());
      editor.raise_next_segment(PieceView(old->second).next_segment());
      format::set_version(correction.block, format::version_of(old->second));
      correction.what = difference(old->second, correction.block);
      if (correction.what.empty()) continue;
    } else {
      const auto claim = damaged.find(number);
      format::set_version(correction.block, claim == damaged.end() ? 1 : claim->second + 1);
      correction.what = difference(empty.count_of(number).block, correction.block);
      correction.is_new = true;
    }
    corrections.push_back(std::move(correction));
  }
  return corrections;
}

}  // namespace plumeria::check
