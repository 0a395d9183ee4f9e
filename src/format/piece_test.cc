#include "format/piece.h"

#include <gtest/gtest.h>

namespace plumeria::format {
namespace {

TEST(Piece, NumberZeroIsNeverHandedOut) {
  Bytes block(block_size);
  format_piece(block, 0, 1);
  EXPECT_EQ(PieceView(block).find_free(Unit::inode, 0), 1u);
  EXPECT_EQ(PieceView(block).find_free(Unit::small_block, 0), 1u);
}

TEST(Piece, AnUnwrittenBlockIsAllFree) {
  const Bytes block(block_size);
  EXPECT_EQ(PieceView(block, 3).find_free(Unit::inode, 0), 3u * 8192);
}

TEST(Piece, HandsOutEveryNumberOnce) {
  Bytes block(block_size);
  format_piece(block, 2, 1);
  const std::uint64_t count = units_per_piece(Unit::directory_block);
  std::uint64_t from = 0;
  for (std::uint64_t i = 0; i < count; ++i) {
    const auto number = PieceView(block).find_free(Unit::directory_block, from);
    ASSERT_EQ(number, 2 * count + i);
    PieceEditor(block).set_used(Unit::directory_block, *number, true);
    from = *number;
  }
  EXPECT_FALSE(PieceView(block).find_free(Unit::directory_block, 0).has_value());
  EXPECT_EQ(PieceView(block).used(Unit::directory_block), count);
  EXPECT_TRUE(check_piece(block, 2).has_value());
  PieceEditor(block).set_used(Unit::directory_block, 2 * count + 77, false);
  EXPECT_EQ(PieceView(block).find_free(Unit::directory_block, 0), 2 * count + 77);
}

TEST(Piece, SegmentNumbersNameTheirPieceAndNeverComeBack) {
  Bytes block(block_size);
  format_piece(block, 9, 1);
  const std::uint64_t first = PieceEditor(block).take_segment();
  const std::uint64_t second = PieceEditor(block).take_segment();
  EXPECT_NE(first, second);
  EXPECT_TRUE(is_data_segment(first));
  EXPECT_EQ(piece_of_segment(second), 9u);
}

TEST(Piece, TheFloorOnlyRises) {
  Bytes block(block_size);
  format_piece(block, 0, 1);
  PieceEditor(block).raise_floor(5);
  PieceEditor(block).raise_floor(3);
  EXPECT_EQ(PieceView(block).version_floor(), 5u);
}

TEST(Piece, ABitmapThatDoesNotMatchItsCountIsDamage) {
  Bytes block(block_size);
  format_piece(block, 0, 1);
  block[bitmap_at(Unit::inode) + 4] = std::byte{1};
  EXPECT_FALSE(check_piece(block, 0).has_value());
}

}  // namespace
}  // namespace plumeria::format
