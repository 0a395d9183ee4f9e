#include "format/inode.h"

#include "format/directory.h"
#include "format/piece.h"

namespace plumeria::format {
namespace {

tl::unexpected<Error> damaged(std::uint64_t number, const char* what) {
  return fail(Errc::corrupt, absl::StrCat("inode ", number, " (", what, ")"));
}

}  // namespace

Status check_inode(ByteView block, std::uint64_t number) {
  if (type_of(block) != BlockType::inode) {
    return damaged(number, absl::StrCat("is a ", type_name(type_of(block))).c_str());
  }
  const InodeView inode(block);
  if (inode.number() != number) return damaged(number, "carries another number");
  if (inode.is_free()) return {};
  if (inode.inline_length() > inline_max) return damaged(number, "inline length too large");
  if (inode.size() > (1ull << 63) - 1) return damaged(number, "size too large");
  if (inode.is_symlink() && inode.size() != inode.inline_length()) {
    return damaged(number, "symlink without its target");
  }
  const std::uint64_t segment = inode.data_segment();
  if (segment != 0 && !is_data_segment(segment)) return damaged(number, "impossible data segment");
  if (inode.is_directory()) {
    if ((inode.directory_levels() == 0) != (inode.directory_root() == 0) ||
        inode.directory_levels() > directory_levels_max) {
      return damaged(number, "impossible directory index");
    }
    if (inode.directory_levels() == 0) {
      Status entries = check_entries(inode.inline_area());
      if (!entries) return damaged(number, entries.error().what.c_str());
    }
  }
  return {};
}

}  // namespace plumeria::format
