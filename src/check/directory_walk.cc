#include "check/directory_walk.h"

#include <absl/strings/str_cat.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "format/directory.h"
#include "format/inode.h"
#include "format/piece.h"

namespace plumeria::check {
namespace {

constexpr std::uint64_t cookie_end = ~std::uint64_t{0};
constexpr std::size_t blocks_at_once = 64;

}  // namespace

std::string to_string(ListPlace list, std::uint64_t directory) {
  if (list.block == 0) return absl::StrCat("directory ", directory);
  return to_string(format::directory_block(list.block));
}

Task<Status> DirectoryWalk::walk(DirectoryPlace directory) {
  directory_ = directory.number;
  if (directory.levels == 0) {
    std::vector<format::BlockId> ids{format::inode_block(directory_)};
    CO_TRY(const std::vector<Bytes> blocks, co_await reader_.blocks(std::move(ids)));
    const ListPlace in_inode{0, 0, cookie_end};
    visitor_.list(in_inode, format::InodeView(blocks.front()).inline_area());
  } else if (use(directory.root)) {
    std::vector<format::BlockId> ids{format::directory_block(directory.root)};
    CO_TRY(std::vector<Bytes> blocks, co_await reader_.blocks(std::move(ids)));
    const Part root{directory.root, directory.levels, 0, cookie_end};
    CO_TRY_STATUS(co_await walk_part(root, std::move(blocks.front())));
  }
  co_return Status{};
}

bool DirectoryWalk::use(std::uint64_t block) {
  if (block != 0 && format::piece_of(format::Unit::directory_block, block) < format::piece_limit) {
    return visitor_.use_block(block);
  }
  visitor_.fault(absl::StrCat("directory ", directory_, " has block ", block, ", which cannot be"));
  return false;
}

// What must be right before the block's content can be looked at.
Status DirectoryWalk::check_block(const Part& part, ByteView block) const {
  const format::BlockId id = format::directory_block(part.block);
  if (all_zero(block)) {
    return fail(Errc::corrupt,
                absl::StrCat(to_string(id), " of directory ", directory_, " (never written)"));
  }
  TRY_STATUS(format::verify(block, id));
  TRY_STATUS(format::check_directory_block(block, id, directory_));
  const bool is_inner = format::type_of(block) == format::BlockType::directory_inner;
  if (is_inner != (part.level > 1) || (is_inner && format::inner_level(block) != part.level - 1)) {
    return fail(
        Errc::corrupt,
        absl::StrCat(to_string(id), " (wrong level in the index of directory ", directory_, ")"));
  }
  if (format::low_cookie(block) != part.low) {
    return fail(Errc::corrupt,
                absl::StrCat(to_string(id), " (begins at cookie ", format::low_cookie(block),
                             ", the index says ", part.low, ")"));
  }
  return {};
}

Task<Status> DirectoryWalk::walk_part(Part part, Bytes block) {
  const Status status = check_block(part, block);
  if (!status) {
    visitor_.fault(status.error().message());
    co_return Status{};
  }
  if (part.level == 1) {
    const ListPlace leaf{part.block, part.low, part.high};
    visitor_.list(leaf, format::leaf_area(ByteView(block)));
    co_return Status{};
  }
  std::vector<Part> parts;
  const std::uint32_t size = format::inner_size(block);
  for (std::uint32_t i = 0; i < size; ++i) {
    const format::Child child = format::inner_child(block, i);
    Part below{child.block, part.level - 1, child.low, part.high};
    if (i + 1 < size) below.high = format::inner_child(block, i + 1).low;
    const bool in_order = i == 0 ? child.low == part.low : child.low > part.low;
    if (!in_order || below.low >= below.high) {
      visitor_.fault(absl::StrCat(to_string(format::directory_block(part.block)), " has child ", i,
                                  " out of order"));
    }
    if (use(child.block)) parts.push_back(below);
  }
  for (std::size_t from = 0; from < parts.size(); from += blocks_at_once) {
    const std::size_t to = std::min(parts.size(), from + blocks_at_once);
    std::vector<format::BlockId> ids;
    for (std::size_t i = from; i < to; ++i) ids.push_back(format::directory_block(parts[i].block));
    CO_TRY(std::vector<Bytes> blocks, co_await reader_.blocks(std::move(ids)));
    for (std::size_t i = from; i < to; ++i) {
      CO_TRY_STATUS(co_await walk_part(parts[i], std::move(blocks[i - from])));
    }
  }
  co_return Status{};
}

}  // namespace plumeria::check
