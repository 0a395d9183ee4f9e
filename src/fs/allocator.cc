#include "fs/allocator.h"

#include <absl/strings/str_cat.h>

#include <algorithm>
#include <iterator>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "format/layout.h"

namespace plumeria::fs {
namespace {

constexpr std::uint64_t prefetch_batch = 256;
// Operations that may be between pin() and the transaction that takes directory blocks.
constexpr std::uint32_t operations_side_by_side = 32;

constexpr Unit all_units[] = {Unit::inode, Unit::directory_block, Unit::small_block};
static_assert(std::size(all_units) == format::unit_kinds);

std::uint64_t wanted_of(const Needs& needs, Unit unit) {
  switch (unit) {
    case Unit::inode:
      return needs.inodes;
    case Unit::directory_block:
      return needs.directory_blocks * operations_side_by_side;
    case Unit::small_block:
      return needs.small_blocks;
  }
  CHECK(false);
}

}  // namespace

bool Allocator::has_room(const PinnedPiece& piece, const Needs& needs, Unit unit) const {
  const std::uint64_t wanted = wanted_of(needs, unit);
  if (wanted == 0) return true;
  const bool small = unit == Unit::small_block;
  const std::uint64_t busy = small ? reserved_small_.size() + freed_small_.size() : 0;
  // One number may be the one that is never handed out.
  return piece.view().used(unit) + busy + wanted + 1 <= format::units_per_piece(unit);
}

bool Allocator::has_room(const PinnedPiece& piece, const Needs& needs) const {
  for (const Unit unit : all_units) {
    if (!has_room(piece, needs, unit)) return false;
  }
  return piece.view().next_segment() + 1 < format::segments_per_piece;
}

Task<Result<PinnedPiece>> Allocator::load(std::uint64_t number, Pin pin) {
  PinnedPiece piece;
  piece.number = number;
  piece.pin = std::move(pin);
  auto block = co_await core_.cache.get(format::piece_block(number), piece_lock(number));
  if (!block) co_return fail(std::move(block).error());
  piece.block = std::move(*block);
  co_return piece;
}

Task<Result<PinnedPiece>> Allocator::pin_number(std::uint64_t number) {
  auto pin = co_await core_.clerk.acquire(piece_lock(number), Mode::exclusive);
  if (!pin) co_return fail(std::move(pin).error());
  auto piece = co_await load(number, std::move(*pin));
  if (piece && piece->block->never_written()) {
    co_return fail(Errc::corrupt, absl::StrCat(format::to_string(format::piece_block(number)),
                                               " (never written, but in use)"));
  }
  co_return piece;
}

// Whether anything of the piece was ever written. Blocks of zeros are what an unused piece has, but
// also what a disk may make of a used one.
Task<Result<bool>> Allocator::was_touched(std::uint64_t piece) {
  const std::pair<Unit, std::uint64_t> regions[] = {
      {Unit::inode, format::inode_segment},
      {Unit::directory_block, format::directory_segment},
      {Unit::small_block, format::small_segment}};
  for (const auto& [unit, segment] : regions) {
    const std::uint64_t bytes = format::units_per_piece(unit) * format::block_size;
    auto extent = co_await core_.disk.next_extent(disk::Segment{segment}, piece * bytes);
    if (!extent) co_return fail(std::move(extent).error());
    if (*extent && (*extent)->offset < (piece + 1) * bytes) co_return true;
  }
  const disk::Segment first{format::data_segment_bit | piece * format::segments_per_piece};
  auto segments = co_await core_.disk.list_segments(first, 1);
  if (!segments) co_return fail(std::move(segments).error());
  co_return !segments->empty() && raw(segments->front()) < raw(first) + format::segments_per_piece;
}

Task<Result<std::vector<PinnedPiece>>> Allocator::pin_numbers(std::vector<std::uint64_t> pieces) {
  std::sort(pieces.begin(), pieces.end());
  pieces.erase(std::unique(pieces.begin(), pieces.end()), pieces.end());
  std::vector<PinnedPiece> pinned;
  for (std::uint64_t number : pieces) {
    auto piece = co_await pin_number(number);
    if (!piece) co_return fail(std::move(piece).error());
    pinned.push_back(std::move(*piece));
  }
  co_return pinned;
}

std::optional<PinnedPiece> Allocator::try_pin(std::uint64_t number) {
  auto pin = core_.clerk.try_local(piece_lock(number), Mode::exclusive);
  if (!pin) return std::nullopt;
  BlockRef block = core_.cache.find(format::piece_block(number));
  if (!block) return std::nullopt;
  return PinnedPiece{std::move(*pin), std::move(block), number};
}

Task<Result<PinnedPiece>> Allocator::pin(Needs needs) {
  if (current_) {
    auto pin = co_await core_.clerk.acquire(piece_lock(*current_), Mode::exclusive);
    if (!pin) co_return fail(std::move(pin).error());
    auto piece = co_await load(*current_, std::move(*pin));
    if (!piece && piece.error().code != Errc::corrupt) co_return fail(std::move(piece).error());
    if (piece && has_room(*piece, needs)) co_return std::move(*piece);
  }
  std::uint64_t number = 0;
  for (const Unit unit : all_units) {
    if (wanted_of(needs, unit) > 0) number = std::max(number, search_from(unit));
  }
  // Not the piece `number`: it lacks room for some units, or cannot be had (nullptr).
  const auto pass = [&](const PinnedPiece* piece) {
    for (const Unit unit : all_units) {
      if (wanted_of(needs, unit) == 0 || search_from(unit) != number) continue;
      if (piece == nullptr || !has_room(*piece, needs, unit)) ++search_from(unit);
    }
  };
  for (std::uint64_t tried = 0; tried < format::piece_limit; ++tried, ++number) {
    number %= format::piece_limit;
    if (unusable_.contains(number)) {
      pass(nullptr);
      continue;
    }
    auto pin = co_await core_.clerk.try_acquire(piece_lock(number), Mode::exclusive);
    if (!pin) {
      if (pin.error().code != Errc::again) co_return fail(std::move(pin).error());
      pass(nullptr);
      continue;
    }
    auto piece = co_await load(number, std::move(*pin));
    if (!piece && piece.error().code != Errc::corrupt) co_return fail(std::move(piece).error());
    std::string damage = piece ? "" : piece.error().message();
    if (piece && piece->block->never_written()) {
      CO_TRY(const bool touched, co_await was_touched(number));
      if (touched) {
        damage = absl::StrCat(format::to_string(format::piece_block(number)),
                              " (never written, but something of it was)");
      }
    }
    if (!damage.empty()) {
      log_error(absl::StrCat(damage, "; nothing is taken from it"));
      unusable_.insert(number);
      pass(nullptr);
      continue;
    }
    if (!has_room(*piece, needs)) {
      pass(&*piece);
      continue;
    }
    current_ = number;
    inode_hint_ = number * format::units_per_piece(Unit::inode);
    co_return std::move(*piece);
  }
  co_return fail(Errc::no_space, "no allocation piece has room");
}

std::optional<Allocator::NewInode> Allocator::pick_inode(const PinnedPiece& piece) {
  const std::uint64_t count = format::units_per_piece(Unit::inode);
  const std::uint64_t first = piece.number * count;
  if (inode_hint_ < first || inode_hint_ >= first + count) inode_hint_ = first;
  const format::PieceView view = piece.view();
  std::uint64_t from = inode_hint_;
  for (int pass = 0; pass < 2; ++pass, from = first) {
    for (int tries = 0; tries < 64; ++tries) {
      const auto number = view.find_free(Unit::inode, from);
      if (!number || (pass == 1 && *number >= inode_hint_)) break;
      const InodeNumber inode{*number};
      auto pin = core_.clerk.try_local(inode_lock(inode), Mode::exclusive);
      if (pin) {
        inode_hint_ = *number + 1;
        return NewInode{inode, std::move(*pin)};
      }
      from = *number + 1;
    }
  }
  return std::nullopt;
}

// Fetches the locks of the next free inodes, with one message for all.
Task<void> Allocator::refill() {
  auto piece = co_await pin({.inodes = 1});
  if (!piece) co_return;
  const std::uint64_t count = format::units_per_piece(Unit::inode);
  const std::uint64_t first = piece->number * count;
  const format::PieceView view = piece->view();
  std::vector<LockName> names;
  std::uint64_t from = std::max(inode_hint_, first);
  for (int pass = 0; pass < 2 && names.empty(); ++pass, from = first) {
    while (names.size() < prefetch_batch) {
      const auto number = view.find_free(Unit::inode, from);
      if (!number) break;
      from = *number + 1;
      const LockName name = inode_lock(InodeNumber{*number});
      if (core_.clerk.held(name) != Mode::exclusive) names.push_back(name);
    }
    if (names.empty()) inode_hint_ = first;
  }
  if (names.empty()) co_return;
  const LockName wanted = names.front();
  const std::size_t granted = co_await core_.clerk.prefetch(std::move(names), Mode::exclusive);
  if (granted > 0) co_return;
  // Other mounts keep all of these since they freed them. Wait for one, holding nothing.
  piece->pin.drop();
  auto pin = co_await core_.clerk.acquire(wanted, Mode::exclusive);
}

MutableByteView Allocator::edit(Transaction& transaction, const PinnedPiece& piece) {
  MutableByteView block = transaction.edit(piece.block);
  if (format::type_of(block) == format::BlockType::none) {
    format::format_piece(block, piece.number, 1);
  }
  return block;
}

bool Allocator::small_block_usable(std::uint64_t number) {
  if (reserved_small_.contains(number)) return false;
  const auto freed = freed_small_.find(number);
  if (freed == freed_small_.end()) return true;
  if (freed->second > core_.log.durable()) return false;
  freed_small_.erase(freed);
  return true;
}

std::optional<std::uint64_t> Allocator::take(Transaction& transaction, const PinnedPiece& piece,
                                             Unit unit) {
  CHECK(unit == Unit::directory_block);
  MutableByteView block = edit(transaction, piece);
  const auto number = format::PieceView(block).find_free(unit, 0);
  if (number) format::PieceEditor(block).set_used(unit, *number, true);
  return number;
}

void Allocator::use(Transaction& transaction, const PinnedPiece& piece, Unit unit,
                    std::uint64_t number) {
  format::PieceEditor(edit(transaction, piece)).set_used(unit, number, true);
}

void Allocator::free(Transaction& transaction, const PinnedPiece& piece, Unit unit,
                     std::uint64_t number, std::uint64_t version) {
  format::PieceEditor editor(edit(transaction, piece));
  editor.set_used(unit, number, false);
  editor.raise_floor(version);
  search_from(unit) = std::min(search_from(unit), piece.number);
}

std::uint64_t Allocator::take_segment(Transaction& transaction, const PinnedPiece& piece) {
  return format::PieceEditor(edit(transaction, piece)).take_segment();
}

std::vector<std::uint64_t> Allocator::reserve_small(const PinnedPiece& piece, std::size_t count) {
  const format::PieceView view = piece.view();
  std::vector<std::uint64_t> numbers;
  std::uint64_t from = 0;
  while (numbers.size() < count) {
    const auto number = view.find_free(Unit::small_block, from);
    if (!number) return {};
    from = *number + 1;
    if (small_block_usable(*number)) numbers.push_back(*number);
  }
  reserved_small_.insert(numbers.begin(), numbers.end());
  return numbers;
}

void Allocator::unreserve_small(const std::vector<std::uint64_t>& numbers) {
  for (std::uint64_t number : numbers) reserved_small_.erase(number);
}

void Allocator::small_blocks_freed(const std::vector<std::uint64_t>& numbers, LogPosition record) {
  for (std::uint64_t number : numbers) freed_small_[number] = record;
  if (freed_small_.size() > 4096) {
    const LogPosition durable = core_.log.durable();
    absl::erase_if(freed_small_, [durable](const auto& freed) { return freed.second <= durable; });
  }
}

void Allocator::given_up(std::uint64_t piece) {
  // What was freed in it is durable by now, and its next owner knows nothing of our waiting list.
  absl::erase_if(freed_small_, [piece](const auto& freed) {
    return format::piece_of(Unit::small_block, freed.first) == piece;
  });
}

}  // namespace plumeria::fs
