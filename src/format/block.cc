#include "format/block.h"

#include <algorithm>

#include "base/check.h"
#include "base/checksum.h"

namespace plumeria::format {
namespace {

constexpr std::size_t checksum_at = 16;

std::uint64_t block_checksum(ByteView block, BlockId id) {
  // The checksum field counts as zero: hash what is before and after it, chained.
  const std::uint64_t seed =
      checksum(as_bytes(std::string_view(reinterpret_cast<const char*>(&id), sizeof id)));
  const std::uint64_t head = checksum(block.first(checksum_at), seed);
  return checksum(block.subspan(checksum_at + 8), head);
}

}  // namespace

const char* type_name(BlockType type) {
  switch (type) {
    case BlockType::none:
      return "empty block";
    case BlockType::superblock:
      return "superblock";
    case BlockType::piece:
      return "allocation piece";
    case BlockType::inode:
      return "inode";
    case BlockType::directory_leaf:
      return "directory leaf";
    case BlockType::directory_inner:
      return "directory index";
    case BlockType::orphan_list:
      return "orphan list";
    case BlockType::log_header:
      return "log header";
    case BlockType::xattrs:
      return "block of extended attributes";
  }
  return "block of unknown type";
}

std::string to_string(BlockId id) {
  switch (id.segment) {
    case superblock_segment:
      return "superblock";
    case piece_segment:
      return absl::StrCat("piece ", id.number);
    case inode_segment:
      return absl::StrCat("inode ", id.number);
    case directory_segment:
      return absl::StrCat("directory block ", id.number);
    default:
      break;
  }
  if (id.segment >= log_segment_base && id.segment < orphan_segment_base) {
    return absl::StrCat("log of slot ", id.segment - log_segment_base, ", block ", id.number);
  }
  if (id.segment >= orphan_segment_base && id.segment < orphan_segment_base + slot_limit) {
    return absl::StrCat("orphan list of slot ", id.segment - orphan_segment_base, ", block ",
                        id.number);
  }
  return absl::StrCat("block ", id.number, " of segment ", absl::Hex(id.segment));
}

void format_block(MutableByteView block, BlockType type, std::uint64_t owner,
                  std::uint64_t version) {
  CHECK(block.size() == block_size);
  std::fill(block.begin(), block.end(), std::byte{0});
  store(block.data(), block_magic);
  store(block.data() + 4, type);
  store(block.data() + 8, version);
  store(block.data() + 24, owner);
}

void seal(MutableByteView block, BlockId id) {
  CHECK(block.size() == block_size);
  store(block.data() + checksum_at, block_checksum(block, id));
}

Status verify(ByteView block, BlockId id) {
  CHECK(block.size() == block_size);
  if (load<std::uint32_t>(block.data()) != block_magic) {
    if (all_zero(block)) return {};
    return fail(Errc::corrupt, absl::StrCat(to_string(id), " (bad magic)"));
  }
  if (load<std::uint64_t>(block.data() + checksum_at) != block_checksum(block, id)) {
    return fail(Errc::corrupt, absl::StrCat(to_string(id), " (bad checksum)"));
  }
  return {};
}

}  // namespace plumeria::format
