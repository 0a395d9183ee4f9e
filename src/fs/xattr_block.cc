#include "fs/xattr_block.h"

#include "base/check.h"
#include "format/directory.h"

namespace plumeria::fs {

Task<Result<XattrBlock>> load_xattrs(Core& core, BlockRef inode_block) {
  const format::InodeView inode(inode_block.bytes());
  XattrBlock result;
  if (inode.xattr_block() == 0) co_return result;
  const format::BlockId id = format::directory_block(inode.xattr_block());
  CO_TRY(result.block, co_await core.cache.get(id, inode_lock(InodeNumber{inode.number()})));
  CO_TRY(result.xattrs, format::decode_xattrs(result.block.bytes(), id, inode.number()));
  co_return result;
}

Status save_xattrs(Core& core, Transaction& transaction, const BlockRef& inode_block,
                   const XattrBlock& xattrs, const PinnedPiece* piece) {
  CHECK(format::fits(xattrs.xattrs));
  if (xattrs.block) {
    format::encode_xattrs(transaction.edit(xattrs.block), xattrs.xattrs);
    return {};
  }
  if (xattrs.xattrs.empty()) return {};
  CHECK(piece != nullptr);
  const std::uint64_t inode = format::InodeView(inode_block.bytes()).number();
  const auto number = core.allocator->take(transaction, *piece, Unit::directory_block);
  if (!number) return fail(Errc::no_space, "no block left for extended attributes");
  const BlockRef fresh =
      core.cache.create(format::directory_block(*number), inode_lock(InodeNumber{inode}));
  MutableByteView bytes = transaction.edit(fresh);
  format::format_block(bytes, format::BlockType::xattrs, inode, piece->next_version());
  format::encode_xattrs(bytes, xattrs.xattrs);
  format::InodeEditor(transaction.edit(inode_block)).xattr_block(*number);
  return {};
}

}  // namespace plumeria::fs
