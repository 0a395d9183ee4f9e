#include "check/directory_walk.h"

#include <absl/strings/escaping.h>
#include <absl/strings/str_cat.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "format/directory.h"
#include "format/inode.h"

namespace plumeria::check {
namespace {

constexpr std::uint64_t cookie_end = ~std::uint64_t{0};
constexpr std::size_t blocks_at_once = 64;

}  // namespace

Task<Status> DirectoryWalk::walk(InodeInfo directory) {
  directory_ = directory.number;
  entries_ = 0;
  if (directory.directory_levels == 0) {
    std::vector<format::BlockId> ids{format::inode_block(directory_)};
    CO_TRY(const std::vector<Bytes> blocks, co_await reader_.blocks(std::move(ids)));
    check_list(absl::StrCat("directory ", directory_),
               format::InodeView(blocks.front()).inline_area(), 0, cookie_end);
  } else if (census_.use_directory_block(directory.directory_root, directory_)) {
    std::vector<format::BlockId> ids{format::directory_block(directory.directory_root)};
    CO_TRY(std::vector<Bytes> blocks, co_await reader_.blocks(std::move(ids)));
    const Part root{directory.directory_root, directory.directory_levels, 0, cookie_end};
    CO_TRY_STATUS(co_await walk_part(root, std::move(blocks.front())));
  }
  census_.count_entries(directory_, entries_);
  co_return Status{};
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
    findings_.problem(status.error().message());
    co_return Status{};
  }
  const std::string where = to_string(format::directory_block(part.block));
  if (part.level == 1) {
    check_list(where, format::leaf_area(ByteView(block)), part.low, part.high);
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
      findings_.problem(absl::StrCat(where, " has child ", i, " out of order"));
    }
    if (census_.use_directory_block(child.block, directory_)) parts.push_back(below);
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

void DirectoryWalk::check_list(std::string where, ByteView area, std::uint64_t low,
                               std::uint64_t high) {
  const std::vector<format::EntryView> entries = format::sorted_entries(area);
  for (std::size_t i = 0; i < entries.size(); ++i) {
    const format::EntryView& entry = entries[i];
    check_entry(where, entry);
    if (entry.cookie < low || entry.cookie >= high) {
      findings_.problem(
          absl::StrCat(where, " has cookie ", entry.cookie, " outside of its part of the index"));
    }
    if (i > 0 && entries[i - 1].cookie == entry.cookie) {
      findings_.problem(absl::StrCat(where, " has cookie ", entry.cookie, " twice"));
    }
    for (std::size_t j = i; j-- > 0;) {
      if (entries[j].cookie / format::cookie_collisions !=
          entry.cookie / format::cookie_collisions) {
        break;
      }
      if (entries[j].name == entry.name) {
        findings_.problem(absl::StrCat(where, " has the name \"",
                                       absl::CEscape(std::string(entry.name)), "\" twice"));
      }
    }
    census_.use_entry(directory_, entry);
  }
  entries_ += entries.size();
}

void DirectoryWalk::check_entry(const std::string& where, const format::EntryView& entry) {
  const std::string name(entry.name);
  if (name == "." || name == ".." || name.find('/') != name.npos || name.find('\0') != name.npos) {
    findings_.problem(
        absl::StrCat(where, " has the impossible name \"", absl::CEscape(name), "\""));
  }
  const std::uint64_t base = format::cookie_base(entry.name, hash_seed_);
  if (entry.cookie < base || entry.cookie >= base + format::cookie_collisions) {
    findings_.problem(
        absl::StrCat(where, " has a wrong cookie for the name \"", absl::CEscape(name), "\""));
  }
}

}  // namespace plumeria::check
