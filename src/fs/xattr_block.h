// The extended attributes of one inode on their way between its block and an operation.
//
// An inode gets its block with its first attribute and keeps it, even empty, until it is freed: so
// only the first one needs an allocation piece.
//
// Threads: the executor's. Every function requires that the inode's lock is pinned, exclusively if
// it changes anything.
#pragma once

#include <optional>

#include "format/xattrs.h"
#include "fs/allocator.h"
#include "fs/core.h"

namespace plumeria::fs {

struct XattrBlock {
  BlockRef block;  // empty: the inode has none yet
  format::Xattrs xattrs;
};
// Errc::corrupt names a block that cannot be it.
Task<Result<XattrBlock>> load_xattrs(Core& core, BlockRef inode_block);

// What XattrBlock::xattrs have become, in a transaction. Requires: they fit; `piece`, pinned with
// room for a directory block, if there are some and the inode has no block. Errc::no_space if that
// has no block left.
Status save_xattrs(Core& core, Transaction& transaction, const BlockRef& inode_block,
                   const XattrBlock& xattrs, const PinnedPiece* piece);

}  // namespace plumeria::fs
