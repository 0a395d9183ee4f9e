// Allocation pieces and orphan lists (docs/format.md, "Allocation").
//
// Piece p, under the lock piece:<p>, hands out inodes [p·8192, …), directory blocks [p·4096, …) and
// small blocks [p·16384, …), and the numbers of data segments. Pieces exist without limit; one that
// was never written is all free. Number 0 of each kind is never handed out.
//
//  32  u64 version_floor       highest version of any block that was freed here; a new use starts
//  above it, so versions never fall 40  u64 next_segment        running number of the next data
//  segment; never reused 48  u32 used_inodes   52 u32 used_directory_blocks   56 u32
//  used_small_blocks   60 u32 0 64  bitmap of inodes (1024 bytes), of directory blocks (512), of
//  small blocks (2048); a set bit is in use
//
// An orphan list, under the lock slot:<s>, is block k of segment orphan_segment(s): header, 48 {u64
// kind, u64 number} × 253; kind 0 is a free place. What it names is to be looked at: an inode that
// may have no links left, or a data segment that may have no owner. Entries are hints, never proof.
#pragma once

#include <cstdint>
#include <optional>

#include "base/bytes.h"
#include "format/block.h"

namespace plumeria::format {

enum class Unit : std::uint8_t { inode, directory_block, small_block };
constexpr std::size_t unit_kinds = 3;

constexpr std::uint64_t units_per_piece(Unit unit) {
  switch (unit) {
    case Unit::inode:
      return 8192;
    case Unit::directory_block:
      return 4096;
    case Unit::small_block:
      return 16384;
  }
  return 0;
}
constexpr std::size_t bitmap_at(Unit unit) {
  switch (unit) {
    case Unit::inode:
      return 64;
    case Unit::directory_block:
      return 64 + 1024;
    case Unit::small_block:
      return 64 + 1024 + 512;
  }
  return 0;
}
static_assert(bitmap_at(Unit::small_block) + units_per_piece(Unit::small_block) / 8 <= block_size);

constexpr std::uint64_t piece_of(Unit unit, std::uint64_t number) {
  return number / units_per_piece(unit);
}
constexpr std::uint64_t piece_of_segment(std::uint64_t segment) {
  return (segment & ~data_segment_bit) >> 39;
}
constexpr std::uint64_t make_data_segment(std::uint64_t piece, std::uint64_t number) {
  return data_segment_bit | piece << 39 | number;
}
constexpr std::uint64_t segments_per_piece = 1ull << 39;
constexpr std::uint64_t piece_limit = 1ull << 24;
constexpr BlockId piece_block(std::uint64_t number) { return {piece_segment, number}; }
constexpr BlockId small_block(std::uint64_t number) { return {small_segment, number}; }
constexpr BlockId orphan_block(std::uint32_t slot, std::uint64_t index) {
  return {orphan_segment(slot), index};
}

class PieceView {
 public:
  explicit PieceView(ByteView block) : block_(block), number_(owner_of(block)) {}
  // For a block that may never have been written and so does not know its number.
  PieceView(ByteView block, std::uint64_t number) : block_(block), number_(number) {}
  std::uint64_t number() const { return number_; }
  std::uint64_t version_floor() const { return load<std::uint64_t>(block_.data() + 32); }
  std::uint64_t next_segment() const { return load<std::uint64_t>(block_.data() + 40); }
  std::uint32_t used(Unit unit) const {
    return load<std::uint32_t>(block_.data() + 48 + 4 * static_cast<std::size_t>(unit));
  }
  bool is_used(Unit unit, std::uint64_t number_in_store) const;
  // The first free number of this piece at or after `from` (numbers of the store), never 0.
  std::optional<std::uint64_t> find_free(Unit unit, std::uint64_t from) const;

 private:
  ByteView block_;
  std::uint64_t number_;
};

class PieceEditor {
 public:
  explicit PieceEditor(MutableByteView block) : block_(block) {}
  // Requires: it was the other way before.
  void set_used(Unit unit, std::uint64_t number_in_store, bool used);
  void raise_floor(std::uint64_t version);
  void raise_next_segment(std::uint64_t next);
  std::uint64_t
  take_segment();  // The full segment number. Requires: next_segment() < segments_per_piece.

 private:
  MutableByteView block_;
};

void format_piece(MutableByteView block, std::uint64_t number, std::uint64_t version);
Status check_piece(ByteView block, std::uint64_t number);

constexpr std::size_t orphans_per_block = (block_size - 48) / 16;
enum class OrphanKind : std::uint64_t {
  none = 0,
  inode = 1,            // free it if it has no links and nobody has it open
  segment = 2,          // its file has let it go: discard it
  pending_segment = 3,  // given to a file whose inode does not name it yet: while the slot's owner
                        // lives it is in use
};
struct Orphan {
  OrphanKind kind = OrphanKind::none;
  std::uint64_t number = 0;
  friend bool operator==(const Orphan&, const Orphan&) = default;
};
Orphan orphan_at(ByteView block, std::size_t index);
void set_orphan(MutableByteView block, std::size_t index, Orphan orphan);
Status check_orphan_list(ByteView block, BlockId id, std::uint32_t slot);

}  // namespace plumeria::format
