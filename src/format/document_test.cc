// The worked examples of docs/format.md are what the code writes, byte for byte.
#include "format/document.h"  // generated: the text of docs/format.md

#include <absl/strings/str_cat.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <string_view>

#include "format/inode.h"
#include "format/log_chunk.h"
#include "format/log_record.h"

namespace plumeria::format {
namespace {

// The fenced block that follows `<!-- example: NAME -->`.
std::string example(std::string_view name) {
  const std::string_view text = format_document;
  const std::string mark = absl::StrCat("<!-- example: ", std::string(name), " -->\n```\n");
  const std::size_t from = text.find(mark);
  if (from == text.npos) return "no such example in docs/format.md";
  const std::string_view rest = text.substr(from + mark.size());
  return std::string(rest.substr(0, rest.find("```")));
}

// Lines of 16 bytes; lines of zeros are left out.
std::string dump(ByteView bytes) {
  std::string text;
  for (std::size_t at = 0; at < bytes.size(); at += 16) {
    const ByteView line = bytes.subspan(at, std::min<std::size_t>(16, bytes.size() - at));
    if (all_zero(line)) continue;
    absl::StrAppend(&text, absl::Hex(at, absl::kZeroPad4), " ");
    for (const std::byte byte : line) {
      absl::StrAppend(&text, " ", absl::Hex(std::to_integer<int>(byte), absl::kZeroPad2));
    }
    text += '\n';
  }
  return text;
}

TEST(FormatDocument, LogHeader) {
  LogHeader header{.generation = 1, .state = LogState::in_use, .slot = 3, .lease = 7};
  header.predecessor = first_predecessor(3, 7);
  header.log_size = 64u << 20;
  EXPECT_EQ(example("log header"), dump(encode_log_header(header)));
}

TEST(FormatDocument, Chunk) {
  Bytes before(block_size);
  format_block(before, BlockType::inode, 17, 5);
  InodeEditor inode(before);
  inode.generation(1);
  inode.mode(0100644);
  inode.links(1);
  Bytes after = before;
  set_version(after, 6);
  InodeEditor(after).links(2);

  ChunkBuilder builder;
  RecordBuilder record;
  record.add_image(inode_block(17), before);
  builder.add(record.take());
  record.add_delta(inode_block(17), before, after);
  builder.add(record.take());
  ChunkHeader header{.lease = 7, .slot = 3, .first = 1};
  header.predecessor = first_predecessor(3, 7);
  EXPECT_EQ(example("chunk"), dump(std::move(builder).finish(header)));
}

}  // namespace
}  // namespace plumeria::format
