#include "format/xattrs.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "format/contents.h"
#include "format/directory.h"

namespace plumeria::format {
namespace {

using testing::HasSubstr;

constexpr std::uint64_t inode = 7;
const BlockId place = directory_block(3);

Bytes block_with(const Xattrs& xattrs) {
  Bytes block(block_size);
  format_block(block, BlockType::xattrs, inode, 1);
  encode_xattrs(block, xattrs);
  return block;
}

Bytes bytes_of(std::string_view text) { return to_bytes(std::as_bytes(std::span(text))); }

TEST(XattrsTest, ReadsBackWhatWasWritten) {
  const Xattrs xattrs{{"user.empty", {}},
                      {"user.a", bytes_of("value")},
                      {"user." + std::string(250, 'n'), Bytes(3000, std::byte{9})}};
  const Bytes block = block_with(xattrs);
  const auto read = decode_xattrs(block, place, inode);
  ASSERT_TRUE(read) << read.error().message();
  EXPECT_EQ(*read, xattrs);
  EXPECT_TRUE(check_contents(block, place));
}

TEST(XattrsTest, ShorterOnesLeaveNothingOfLongerOnes) {
  Bytes block = block_with({{"user.a", Bytes(2000, std::byte{1})}});
  encode_xattrs(block, {{"user.b", bytes_of("x")}});
  EXPECT_EQ(block, block_with({{"user.b", bytes_of("x")}}));
}

TEST(XattrsTest, FillsTheBlockToItsLastByte) {
  const std::string name = "user.a";
  const std::size_t most = xattrs_max - 4 - name.size();
  EXPECT_TRUE(fits({{name, Bytes(most)}}));
  EXPECT_FALSE(fits({{name, Bytes(most + 1)}}));
  EXPECT_TRUE(decode_xattrs(block_with({{name, Bytes(most)}}), place, inode));
}

TEST(XattrsTest, RefusesWhatItCannotBe) {
  const Bytes good = block_with({{"user.a", bytes_of("1")}, {"user.b", bytes_of("2")}});
  const auto refused = [&good](std::size_t at, std::uint8_t value) {
    Bytes block = good;
    block[at] = std::byte{value};
    const auto read = decode_xattrs(block, place, inode);
    return read ? std::string() : read.error().message();
  };
  EXPECT_THAT(refused(4, 3), HasSubstr("directory block 3"));       // another type
  EXPECT_THAT(refused(24, 8), HasSubstr("of inode 7"));             // another owner
  EXPECT_THAT(refused(34, 1), HasSubstr("longer than the block"));  // used
  EXPECT_THAT(refused(xattrs_at, 0), HasSubstr("impossible"));      // no name
  EXPECT_THAT(refused(xattrs_at + 3, 200), HasSubstr("impossible"));
  EXPECT_THAT(refused(xattrs_at + 9, 'c'), HasSubstr("out of order"));
  EXPECT_THAT(refused(32, 13), HasSubstr("cut off"));
}

}  // namespace
}  // namespace plumeria::format
