#include "check/directory_contents.h"

#include <absl/strings/str_cat.h>

#include <set>
#include <utility>

#include "check/directory_walk.h"
#include "format/directory.h"

namespace plumeria::check {
namespace {

class Collector final : public DirectoryVisitor {
 public:
  explicit Collector(std::uint64_t directory) : directory_(directory) {}

  bool use_block(std::uint64_t block) override {
    if (!used_.insert(block).second) {
      fault(absl::StrCat(to_string(format::directory_block(block)), " is used twice by directory ",
                         directory_));
      return false;
    }
    contents.blocks.push_back(block);
    return true;
  }
  void fault(std::string what) override { contents.faults.push_back(std::move(what)); }
  void list(ListPlace place, ByteView area) override {
    DirectoryContents::List list{.block = place.block};
    listed_.insert(place.block);
    for (const format::EntryView& entry : format::sorted_entries(area)) {
      if (!list.entries.empty() && list.entries.back().cookie == entry.cookie) {
        fault(absl::StrCat(to_string(place, directory_), " has cookie ", entry.cookie, " twice"));
      }
      list.entries.push_back({entry.cookie, entry.inode, entry.type, std::string(entry.name)});
      if (entry.cookie >= place.low && entry.cookie < place.high) continue;
      fault(absl::StrCat(to_string(place, directory_), " has cookie ", entry.cookie,
                         " outside of its part of the index"));
    }
    contents.lists.push_back(std::move(list));
  }
  bool has_listed(std::uint64_t block) const { return listed_.contains(block); }

  DirectoryContents contents;

 private:
  const std::uint64_t directory_;
  std::set<std::uint64_t> used_, listed_;
};

}  // namespace

Task<Result<DirectoryContents>> read_directory(StoreReader& reader, const Inventory& inventory,
                                               Node directory) {
  Collector collector(directory.number);
  DirectoryWalk walk(reader, collector);
  const DirectoryPlace place{directory.number, directory.directory_root,
                             directory.directory_levels};
  CO_TRY_STATUS(co_await walk.walk(place));
  if (directory.index_is_lost) {
    collector.fault(absl::StrCat("directory ", directory.number, " has lost its inode"));
  }
  if (collector.contents.faults.empty()) co_return std::move(collector.contents);
  for (const std::uint64_t number : inventory.leaves_of(directory.number)) {
    if (collector.has_listed(number)) continue;
    const format::BlockId id = format::directory_block(number);
    std::vector<format::BlockId> ids{id};
    CO_TRY(const std::vector<Bytes> blocks, co_await reader.blocks(std::move(ids)));
    const ByteView block = blocks.front();
    if (!format::verify(block, id) || !format::check_directory_block(block, id, directory.number)) {
      continue;
    }
    const ListPlace leaf{number, 0, ~std::uint64_t{0}};
    collector.list(leaf, format::leaf_area(block));
  }
  co_return std::move(collector.contents);
}

}  // namespace plumeria::check
