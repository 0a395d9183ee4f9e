#include "format/contents.h"

#include "format/directory.h"
#include "format/inode.h"
#include "format/piece.h"
#include "format/xattrs.h"

namespace plumeria::format {

Status check_contents(ByteView block, BlockId id) {
  if (type_of(block) == BlockType::none) return {};
  switch (id.segment) {
    case inode_segment:
      return check_inode(block, id.number);
    case piece_segment:
      return check_piece(block, id.number);
    case directory_segment:
      if (type_of(block) == BlockType::xattrs) {
        Result<Xattrs> xattrs = decode_xattrs(block, id, owner_of(block));
        if (!xattrs) return fail(std::move(xattrs).error());
        return {};
      }
      return check_directory_block(block, id, owner_of(block));
    default:
      break;
  }
  if (id.segment >= orphan_segment_base && id.segment < orphan_segment_base + slot_limit) {
    const auto slot = static_cast<std::uint32_t>(id.segment - orphan_segment_base);
    return check_orphan_list(block, id, slot);
  }
  return {};
}

}  // namespace plumeria::format
