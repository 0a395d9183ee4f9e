#include "format/piece.h"

#include <algorithm>
#include <bit>

#include "base/check.h"

namespace plumeria::format {

bool PieceView::is_used(Unit unit, std::uint64_t number_in_store) const {
  CHECK(piece_of(unit, number_in_store) == number());
  const std::uint64_t bit = number_in_store % units_per_piece(unit);
  return (load<std::uint8_t>(block_.data() + bitmap_at(unit) + bit / 8) >> (bit % 8) & 1) != 0;
}

std::optional<std::uint64_t> PieceView::find_free(Unit unit, std::uint64_t from) const {
  const std::uint64_t count = units_per_piece(unit);
  const std::uint64_t first = number() * count;
  std::uint64_t bit = from > first ? from - first : 0;
  if (first == 0) bit = std::max<std::uint64_t>(bit, 1);
  while (bit < count) {
    const auto word = load<std::uint64_t>(block_.data() + bitmap_at(unit) + bit / 64 * 8);
    const std::uint64_t free = ~word >> (bit % 64) << (bit % 64);
    if (free != 0) return first + bit / 64 * 64 + std::countr_zero(free);
    bit = (bit / 64 + 1) * 64;
  }
  return std::nullopt;
}

void PieceEditor::set_used(Unit unit, std::uint64_t number_in_store, bool used) {
  CHECK(PieceView(block_).is_used(unit, number_in_store) != used);
  const std::uint64_t bit = number_in_store % units_per_piece(unit);
  std::byte* byte = block_.data() + bitmap_at(unit) + bit / 8;
  *byte ^= std::byte{1} << (bit % 8);
  std::byte* counter = block_.data() + 48 + 4 * static_cast<std::size_t>(unit);
  store(counter, load<std::uint32_t>(counter) + (used ? 1u : ~0u));
}

void PieceEditor::raise_floor(std::uint64_t version) {
  if (version > PieceView(block_).version_floor()) store(block_.data() + 32, version);
}

void PieceEditor::raise_next_segment(std::uint64_t next) {
  if (next > PieceView(block_).next_segment()) store(block_.data() + 40, next);
}

std::uint64_t PieceEditor::take_segment() {
  const PieceView view(block_);
  const std::uint64_t number = view.next_segment();
  CHECK(number < segments_per_piece);
  store(block_.data() + 40, number + 1);
  return make_data_segment(view.number(), number);
}

void format_piece(MutableByteView block, std::uint64_t number, std::uint64_t version) {
  format_block(block, BlockType::piece, number, version);
}

Status check_piece(ByteView block, std::uint64_t number) {
  const BlockId id = piece_block(number);
  if (type_of(block) != BlockType::piece) {
    return fail(Errc::corrupt,
                absl::StrCat(to_string(id), " (is a ", type_name(type_of(block)), ")"));
  }
  if (owner_of(block) != number) {
    return fail(Errc::corrupt, absl::StrCat(to_string(id), " (carries another number)"));
  }
  for (Unit unit : {Unit::inode, Unit::directory_block, Unit::small_block}) {
    std::uint32_t set = 0;
    for (std::size_t at = 0; at < units_per_piece(unit) / 8; at += 8) {
      set += std::popcount(load<std::uint64_t>(block.data() + bitmap_at(unit) + at));
    }
    if (set != PieceView(block).used(unit)) {
      return fail(Errc::corrupt, absl::StrCat(to_string(id), " (bitmap and count differ)"));
    }
  }
  return {};
}

Orphan orphan_at(ByteView block, std::size_t index) {
  CHECK(index < orphans_per_block);
  const std::byte* at = block.data() + 48 + 16 * index;
  return {load<OrphanKind>(at), load<std::uint64_t>(at + 8)};
}

void set_orphan(MutableByteView block, std::size_t index, Orphan orphan) {
  CHECK(index < orphans_per_block);
  std::byte* at = block.data() + 48 + 16 * index;
  store(at, orphan.kind);
  store(at + 8, orphan.number);
}

Status check_orphan_list(ByteView block, BlockId id, std::uint32_t slot) {
  if (type_of(block) != BlockType::orphan_list || owner_of(block) != slot) {
    return fail(Errc::corrupt, absl::StrCat(to_string(id), " (is a ", type_name(type_of(block)),
                                            " of ", owner_of(block), ")"));
  }
  return {};
}

}  // namespace plumeria::format
