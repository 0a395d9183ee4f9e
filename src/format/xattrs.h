// The block of an inode's extended attributes (docs/format.md, "Extended attributes"): one block of
// the directories' region, under the inode's lock, which the inode names.
//
//  32  u32 used     bytes of the entries
//  40  the entries, ascending by name: u8 length of the name (at least 1), u8 0, u16 length of the
//      value, the name with its namespace ("user.x"), the value
#pragma once

#include <map>
#include <string>

#include "base/bytes.h"
#include "base/result.h"
#include "format/block.h"

namespace plumeria::format {

using Xattrs = std::map<std::string, Bytes>;  // by name

constexpr std::size_t xattrs_at = 40;
constexpr std::size_t xattrs_max = block_size - xattrs_at;  // bytes of all entries of one inode

// Whether they fit into a block.
bool fits(const Xattrs& xattrs);
// Replaces the entries of a block that format_block() made. Requires: they fit.
void encode_xattrs(MutableByteView block, const Xattrs& xattrs);
// Errc::corrupt, naming the block, if it is not what its place asks for.
Result<Xattrs> decode_xattrs(ByteView block, BlockId id, std::uint64_t inode);

}  // namespace plumeria::format
