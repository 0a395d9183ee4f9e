// Names in one directory: the inline list or the B+ tree of docs/format.md, "Directory".
//
// Every function requires that the directory's lock is pinned: exclusively to change, shared to
// look.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "format/directory.h"
#include "fs/allocator.h"
#include "fs/core.h"

namespace plumeria::fs {

// The blocks from the index's root to the leaf for one cookie; only the inode for an inline
// directory. Stale once names were inserted.
struct DirectoryPath {
  BlockRef inode;
  std::vector<BlockRef> blocks;      // root first, leaf last
  std::vector<std::size_t> indices;  // which child was taken, one for each inner block

  ByteView area() const;  // the entry list for the cookie
};

struct FoundName {
  InodeNumber inode{};
  std::uint8_t type = 0;  // S_IFMT >> 12
  std::uint64_t cookie = 0;
};

Task<Result<DirectoryPath>> directory_path(Core& core, BlockRef inode, std::uint64_t cookie);

// The path to where `name` is or would be.
struct NamePath {
  DirectoryPath path;
  std::optional<FoundName> found;
};
Task<Result<NamePath>> find_name(Core& core, BlockRef inode, const std::string& name);

// In a transaction. Splits blocks as needed, from `piece`; Errc::no_space undoes nothing: abandon
// the transaction.
Status insert_name(Core& core, Transaction& transaction, DirectoryPath& path,
                   const PinnedPiece& piece, const std::string& name, InodeNumber inode,
                   std::uint8_t type);
void remove_name(Transaction& transaction, const DirectoryPath& path, std::uint64_t cookie);
void change_name(Transaction& transaction, const DirectoryPath& path, std::uint64_t cookie,
                 InodeNumber inode, std::uint8_t type);
// Directory blocks that one insert_name may take.
constexpr std::uint32_t insert_blocks_max = format::directory_levels_max + 1;

// Entries with cookies above `after`, in order, at most `max`; "." and ".." are not among them.
struct ListedName {
  std::string name;
  FoundName found;
};
Task<Result<std::vector<ListedName>>> list_names(Core& core, BlockRef inode, std::uint64_t after,
                                                 std::size_t max);

// Taking an empty directory apart: the path to its rightmost leaf.
Task<Result<DirectoryPath>> rightmost_path(Core& core, BlockRef inode);
// In a transaction: frees the last block of the path, and those above it that become empty; all
// must be in one of `pieces`. Returns them, for BlockCache::forget() after the commit.
std::vector<BlockRef> free_rightmost(Core& core, Transaction& transaction,
                                     const DirectoryPath& path,
                                     const std::vector<PinnedPiece>& pieces);
// The pieces that free_rightmost() may need.
std::vector<std::uint64_t> pieces_of_path(const DirectoryPath& path);

}  // namespace plumeria::fs
