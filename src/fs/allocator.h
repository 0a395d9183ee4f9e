// Hands out inodes, directory blocks, small blocks and data segments from the allocation pieces
// that this mount owns.
//
// A piece is owned by holding its lock exclusively; local operations share it, because changes of
// its block are transactions that do not wait. A freed small block is not handed out again before
// the record that freed it is durable: file data go to their place ahead of records, and must not
// overwrite what the old owner gets back after a crash.
//
// Damage      A piece whose block is damaged, or is empty while something of it was written, is
//             named in the log and nothing is taken from it; other pieces serve.
#pragma once

#include <absl/container/flat_hash_map.h>
#include <absl/container/flat_hash_set.h>

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "format/piece.h"
#include "fs/core.h"

namespace plumeria::fs {

using format::Unit;

struct Needs {
  std::uint32_t inodes = 0, directory_blocks = 0, small_blocks = 0;
};

// A piece that stays owned while this lives.
struct PinnedPiece {
  Pin pin;
  BlockRef block;
  std::uint64_t number = 0;
  // Numbers start above it (docs/format.md, "Versions").
  std::uint64_t next_version() const { return view().version_floor() + 1; }
  format::PieceView view() const { return {block.bytes(), number}; }
};

class Allocator {
 public:
  explicit Allocator(Core& core) : core_(core) {}

  // A piece with room for `needs`. Waits for no inode lock, so it may be called with any of them
  // held.
  Task<Result<PinnedPiece>> pin(Needs needs);
  // A certain piece, to free in it; waits for its owner if that is another mount. Errc::corrupt if
  // it says that nothing of it is in use.
  Task<Result<PinnedPiece>> pin_number(std::uint64_t piece);
  // Several, sorted and without duplicates.
  Task<Result<std::vector<PinnedPiece>>> pin_numbers(std::vector<std::uint64_t> pieces);
  // Only if it is owned and in memory already.
  std::optional<PinnedPiece> try_pin(std::uint64_t piece);

  // A free inode of the piece whose lock this mount holds, pinned exclusively; nothing if more
  // locks must be fetched first: drop all pins, refill(), try again.
  struct NewInode {
    InodeNumber number{};
    Pin pin;
  };
  std::optional<NewInode> pick_inode(const PinnedPiece& piece);
  Task<void> refill();

  // In a transaction. take() gives nothing when the piece is full.
  std::optional<std::uint64_t> take(Transaction& transaction, const PinnedPiece& piece, Unit unit);
  void use(Transaction& transaction, const PinnedPiece& piece, Unit unit, std::uint64_t number);
  void free(Transaction& transaction, const PinnedPiece& piece, Unit unit, std::uint64_t number,
            std::uint64_t version);
  std::uint64_t take_segment(Transaction& transaction, const PinnedPiece& piece);

  // Small blocks chosen now and taken into use by a later transaction, while the piece stays
  // pinned. Empty: not enough.
  std::vector<std::uint64_t> reserve_small(const PinnedPiece& piece, std::size_t count);
  void unreserve_small(const std::vector<std::uint64_t>& numbers);
  void small_blocks_freed(const std::vector<std::uint64_t>& numbers, LogPosition record);

  // The piece's lock is gone.
  void given_up(std::uint64_t piece);

 private:
  Task<Result<PinnedPiece>> load(std::uint64_t number, Pin pin);
  Task<Result<bool>> was_touched(std::uint64_t piece);
  bool has_room(const PinnedPiece& piece, const Needs& needs) const;
  bool has_room(const PinnedPiece& piece, const Needs& needs, Unit unit) const;  // for this alone
  std::uint64_t& search_from(Unit unit) { return search_from_[static_cast<std::size_t>(unit)]; }
  bool small_block_usable(std::uint64_t number);
  MutableByteView edit(Transaction& transaction, const PinnedPiece& piece);

  Core& core_;
  std::optional<std::uint64_t> current_;
  // No piece below has room for this unit, as far as is known. What is freed lowers it: else files
  // that come and go would take new blocks for ever.
  std::array<std::uint64_t, format::unit_kinds> search_from_{};
  std::uint64_t inode_hint_ = 0;                 // where pick_inode() looks first
  absl::flat_hash_set<std::uint64_t> unusable_;  // pieces that are damaged
  absl::flat_hash_set<std::uint64_t> reserved_small_;
  absl::flat_hash_map<std::uint64_t, LogPosition> freed_small_;
};

}  // namespace plumeria::fs
