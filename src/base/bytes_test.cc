#include "base/bytes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace plumeria {
namespace {

TEST(BytesTest, WriterPutsLittleEndianAndReaderBringsItBack) {
  Writer writer;
  writer.put(std::uint8_t{1});
  writer.put(std::uint32_t{0x04030201});
  writer.put(std::int64_t{-2});
  writer.put_text("name");
  EXPECT_EQ(writer.view()[1], std::byte{0x01});
  EXPECT_EQ(writer.view()[4], std::byte{0x04});

  Reader reader(writer.view());
  EXPECT_EQ(reader.get<std::uint8_t>(), 1);
  EXPECT_EQ(reader.get<std::uint32_t>(), 0x04030201u);
  EXPECT_EQ(reader.get<std::int64_t>(), -2);
  EXPECT_EQ(reader.get_text(), "name");
  EXPECT_TRUE(reader.finished());
}

TEST(BytesTest, ReaderStopsAtTheEndAndStaysStopped) {
  const Bytes bytes(6);
  Reader reader(bytes);
  EXPECT_EQ(reader.get<std::uint64_t>(), 0u);
  EXPECT_FALSE(reader.ok());
  EXPECT_EQ(reader.get<std::uint8_t>(), 0) << "a later read that would fit fails too";
  EXPECT_EQ(reader.left(), 0u);
  EXPECT_FALSE(reader.finished());
}

TEST(BytesTest, ReaderRefusesABlobLongerThanTheRest) {
  Writer writer;
  writer.put(std::uint32_t{0xffffffff});
  writer.put(std::uint32_t{0});
  Reader reader(writer.view());
  EXPECT_TRUE(reader.get_blob().empty());
  EXPECT_FALSE(reader.ok());
}

TEST(BytesTest, FinishedOnlyWhenNothingIsOver) {
  const Bytes bytes(5);
  Reader reader(bytes);
  (void)reader.get<std::uint32_t>();
  EXPECT_TRUE(reader.ok());
  EXPECT_FALSE(reader.finished());
}

TEST(BytesTest, PatchChangesWhatWasPut) {
  Writer writer;
  writer.put(std::uint32_t{0});
  writer.put(std::uint8_t{7});
  writer.patch(0, std::uint32_t{9});
  Reader reader(writer.view());
  EXPECT_EQ(reader.get<std::uint32_t>(), 9u);
  EXPECT_EQ(reader.get<std::uint8_t>(), 7u);
}

TEST(BytesTest, SlicesOutliveTheFirstOwner) {
  SharedBytes part;
  {
    const SharedBytes whole = SharedBytes::copy_of(as_bytes("virtual disk"));
    part = whole.slice(8, 4).slice(1, 2);
  }
  EXPECT_EQ(as_text(part.view()), "is");
}

TEST(BytesTest, AllZeroLooksAtEveryByte) {
  EXPECT_TRUE(all_zero({}));
  for (std::size_t size : {1u, 2u, 4096u}) {
    Bytes bytes(size);
    EXPECT_TRUE(all_zero(bytes));
    for (std::size_t at : {std::size_t{0}, size / 2, size - 1}) {
      bytes[at] = std::byte{1};
      EXPECT_FALSE(all_zero(bytes)) << at << " of " << size;
      bytes[at] = std::byte{0};
    }
  }
}

}  // namespace
}  // namespace plumeria
