#include "fs/directory.h"

#include <algorithm>

#include "base/check.h"

namespace plumeria::fs {
namespace {

using format::Child;

constexpr std::uint64_t hash_mask = ~(format::cookie_collisions - 1);

Task<Result<BlockRef>> load_block(Core& core, std::uint64_t number, std::uint64_t directory) {
  const format::BlockId id = format::directory_block(number);
  auto block = co_await core.cache.get(id, inode_lock(InodeNumber{directory}));
  if (!block) co_return fail(std::move(block).error());
  Status status = format::check_directory_block(block->bytes(), id, directory);
  if (!status) co_return fail(std::move(status).error());
  co_return std::move(*block);
}

MutableByteView edit_area(Transaction& transaction, const DirectoryPath& path) {
  if (path.blocks.empty()) {
    return format::InodeEditor(transaction.edit(path.inode)).inline_area();
  }
  return format::leaf_area(transaction.edit(path.blocks.back()));
}

void count_entries(Transaction& transaction, const DirectoryPath& path, std::int64_t change) {
  MutableByteView inode = transaction.edit(path.inode);
  const std::uint64_t entries = format::InodeView(inode).directory_entries();
  format::InodeEditor(inode).directory_entries(entries + static_cast<std::uint64_t>(change));
}

// Grows the index of one directory inside a transaction.
class Inserter {
 public:
  Inserter(Core& core, Transaction& transaction, DirectoryPath& path, const PinnedPiece& piece)
      : core_(core), transaction_(transaction), path_(path), piece_(piece) {}

  Status insert(const std::string& name, InodeNumber inode, std::uint8_t type) {
    const std::uint64_t base = format::cookie_base(name, core_.superblock.hash_seed);
    const auto cookie = format::free_cookie(path_.area(), base);
    if (!cookie) return fail(Errc::no_space, "too many names of one hash in a directory");
    const format::EntryView entry{*cookie, raw(inode), type, name};
    if (!format::insert_entry(edit_area(transaction_, path_), entry)) {
      if (path_.blocks.empty()) TRY_STATUS(leave_inline());
      if (!format::insert_entry(edit_area(transaction_, path_), entry)) {
        TRY_STATUS(split_leaf(*cookie));
        CHECK(format::insert_entry(edit_area(transaction_, path_), entry));
      }
    }
    count_entries(transaction_, path_, 1);
    return {};
  }

 private:
  std::uint64_t directory() const { return format::owner_of(path_.inode.bytes()); }

  Result<BlockRef> new_block() {
    const auto number = core_.allocator->take(transaction_, piece_, Unit::directory_block);
    if (!number) return fail(Errc::no_space, "no directory block left");
    return core_.cache.create(format::directory_block(*number),
                              inode_lock(InodeNumber{directory()}));
  }

  // Moves the entries out of the inode into a leaf, which becomes the root.
  Status leave_inline() {
    TRY(BlockRef leaf, new_block());
    MutableByteView to = transaction_.edit(leaf);
    format::format_leaf(to, directory(), piece_.next_version(), 0);
    MutableByteView inode = transaction_.edit(path_.inode);
    MutableByteView area = format::InodeEditor(inode).inline_area();
    for (const format::EntryView& entry : format::sorted_entries(area)) {
      CHECK(format::insert_entry(format::leaf_area(to), entry));
    }
    std::fill(area.begin(), area.end(), std::byte{0});
    format::InodeEditor editor(inode);
    editor.directory_root(leaf->id().number);
    editor.directory_levels(1);
    path_.blocks = {leaf};
    return {};
  }

  // Moves the upper half of the leaf into a new one; the path then leads to the half for `cookie`.
  Status split_leaf(std::uint64_t cookie) {
    TRY(BlockRef right, new_block());
    const BlockRef left = path_.blocks.back();
    const Bytes old = to_bytes(left.bytes());
    const auto entries = format::sorted_entries(format::leaf_area(ByteView(old)));
    const std::size_t middle = split_point(entries);
    const std::uint64_t low = entries[middle].cookie & hash_mask;
    MutableByteView left_area = format::leaf_area(transaction_.edit(left));
    std::fill(left_area.begin(), left_area.end(), std::byte{0});
    MutableByteView right_block = transaction_.edit(right);
    format::format_leaf(right_block, directory(), piece_.next_version(), low);
    for (std::size_t i = 0; i < entries.size(); ++i) {
      MutableByteView area = i < middle ? left_area : format::leaf_area(right_block);
      CHECK(format::insert_entry(area, entries[i]));
    }
    const Child child{low, right->id().number};
    TRY_STATUS(insert_child(path_.blocks.size() - 1, child));
    path_.blocks.back() = cookie >= low ? right : left;
    return {};
  }

  // The first entry of the upper half: near the middle by bytes, and not of the same hash as the
  // one before.
  static std::size_t split_point(const std::vector<format::EntryView>& entries) {
    const auto size_of = [](const format::EntryView& entry) { return 24 + entry.name.size(); };
    std::size_t total = 0;
    for (const auto& entry : entries) total += size_of(entry);
    std::size_t best = 0;
    std::size_t best_distance = total;
    std::size_t before = 0;
    for (std::size_t i = 1; i < entries.size(); ++i) {
      before += size_of(entries[i - 1]);
      if ((entries[i].cookie & hash_mask) == (entries[i - 1].cookie & hash_mask)) continue;
      const std::size_t distance = before > total / 2 ? before - total / 2 : total / 2 - before;
      if (distance < best_distance) {
        best = i;
        best_distance = distance;
      }
    }
    CHECK(best > 0);
    return best;
  }

  // Puts `child` right after the child that the path takes at depth - 1.
  Status insert_child(std::size_t depth, Child child) {
    if (depth == 0) return grow_root(child);
    const BlockRef parent = path_.blocks[depth - 1];
    const std::size_t index = path_.indices[depth - 1] + 1;
    if (format::inner_size(parent.bytes()) < format::inner_fanout) {
      format::inner_insert(transaction_.edit(parent), index, child);
      return {};
    }
    TRY(BlockRef right, new_block());
    MutableByteView from = transaction_.edit(parent);
    MutableByteView to = transaction_.edit(right);
    const std::size_t middle = format::inner_size(from) / 2;
    const std::uint64_t low = format::inner_child(from, middle).low;
    format::format_inner(to, directory(), piece_.next_version(), low, format::inner_level(from));
    format::inner_split(from, to, middle);
    if (index <= middle) {
      format::inner_insert(from, index, child);
    } else {
      format::inner_insert(to, index - middle, child);
    }
    return insert_child(depth - 1, Child{low, right->id().number});
  }

  Status grow_root(Child right) {
    MutableByteView inode = transaction_.edit(path_.inode);
    const format::InodeView view(inode);
    const std::uint32_t levels = view.directory_levels();
    if (levels >= format::directory_levels_max) return fail(Errc::no_space, "directory too large");
    TRY(BlockRef root, new_block());
    MutableByteView block = transaction_.edit(root);
    format::format_inner(block, directory(), piece_.next_version(), 0, levels);
    format::inner_insert(block, 0, Child{0, view.directory_root()});
    format::inner_insert(block, 1, right);
    format::InodeEditor editor(inode);
    editor.directory_root(root->id().number);
    editor.directory_levels(levels + 1);
    return {};
  }

  Core& core_;
  Transaction& transaction_;
  DirectoryPath& path_;
  const PinnedPiece& piece_;
};

}  // namespace

ByteView DirectoryPath::area() const {
  if (blocks.empty()) return format::InodeView(inode.bytes()).inline_area();
  return format::leaf_area(blocks.back().bytes());
}

Task<Result<DirectoryPath>> directory_path(Core& core, BlockRef inode, std::uint64_t cookie) {
  DirectoryPath path;
  path.inode = std::move(inode);
  const format::InodeView view(path.inode.bytes());
  std::uint64_t number = view.directory_root();
  for (std::uint32_t level = view.directory_levels(); level > 0; --level) {
    auto block = co_await load_block(core, number, view.number());
    if (!block) co_return fail(std::move(block).error());
    const bool inner = format::type_of(block->bytes()) == format::BlockType::directory_inner;
    if (inner != (level > 1) || (inner && format::inner_level(block->bytes()) != level - 1)) {
      co_return fail(Errc::corrupt,
                     absl::StrCat(format::to_string((*block)->id()),
                                  " (wrong level in the index of directory ", view.number(), ")"));
    }
    if (inner) {
      const std::size_t index = format::inner_find(block->bytes(), cookie);
      number = format::inner_child(block->bytes(), index).block;
      path.indices.push_back(index);
    }
    path.blocks.push_back(std::move(*block));
  }
  co_return path;
}

Task<Result<NamePath>> find_name(Core& core, BlockRef inode, const std::string& name) {
  const std::uint64_t base = format::cookie_base(name, core.superblock.hash_seed);
  auto path = co_await directory_path(core, std::move(inode), base);
  if (!path) co_return fail(std::move(path).error());
  NamePath result;
  if (const auto entry = format::find_entry(path->area(), base, name)) {
    result.found = FoundName{InodeNumber{entry->inode}, entry->type, entry->cookie};
  }
  result.path = std::move(*path);
  co_return result;
}

Status insert_name(Core& core, Transaction& transaction, DirectoryPath& path,
                   const PinnedPiece& piece, const std::string& name, InodeNumber inode,
                   std::uint8_t type) {
  return Inserter(core, transaction, path, piece).insert(name, inode, type);
}

void remove_name(Transaction& transaction, const DirectoryPath& path, std::uint64_t cookie) {
  format::remove_entry(edit_area(transaction, path), cookie);
  count_entries(transaction, path, -1);
}

void change_name(Transaction& transaction, const DirectoryPath& path, std::uint64_t cookie,
                 InodeNumber inode, std::uint8_t type) {
  format::change_entry(edit_area(transaction, path), cookie, raw(inode), type);
}

Task<Result<std::vector<ListedName>>> list_names(Core& core, BlockRef inode, std::uint64_t after,
                                                 std::size_t max) {
  std::vector<ListedName> names;
  std::uint64_t from = after;
  for (;;) {
    auto path = co_await directory_path(core, inode, from);
    if (!path) co_return fail(std::move(path).error());
    for (const format::EntryView& entry : format::sorted_entries(path->area())) {
      if (entry.cookie <= after) continue;
      if (names.size() == max) co_return names;
      const FoundName found{InodeNumber{entry.inode}, entry.type, entry.cookie};
      names.push_back({std::string(entry.name), found});
    }
    // The next leaf begins where the deepest inner block on the path has a further child.
    bool more = false;
    for (std::size_t depth = path->indices.size(); depth-- > 0 && !more;) {
      const ByteView block = path->blocks[depth].bytes();
      if (path->indices[depth] + 1 < format::inner_size(block)) {
        from = format::inner_child(block, path->indices[depth] + 1).low;
        more = true;
      }
    }
    if (!more) co_return names;
  }
}

Task<Result<DirectoryPath>> rightmost_path(Core& core, BlockRef inode) {
  return directory_path(core, std::move(inode), ~std::uint64_t{0});
}

std::vector<std::uint64_t> pieces_of_path(const DirectoryPath& path) {
  std::vector<std::uint64_t> pieces;
  for (const BlockRef& block : path.blocks) {
    pieces.push_back(format::piece_of(Unit::directory_block, block->id().number));
  }
  return pieces;
}

std::vector<BlockRef> free_rightmost(Core& core, Transaction& transaction,
                                     const DirectoryPath& path,
                                     const std::vector<PinnedPiece>& pieces) {
  std::vector<BlockRef> freed;
  for (std::size_t depth = path.blocks.size(); depth-- > 0;) {
    const BlockRef& block = path.blocks[depth];
    const std::uint64_t number = block->id().number;
    const std::uint64_t piece = format::piece_of(Unit::directory_block, number);
    const auto owner = std::find_if(pieces.begin(), pieces.end(),
                                    [piece](const PinnedPiece& p) { return p.number == piece; });
    CHECK(owner != pieces.end());
    core.allocator->free(transaction, *owner, Unit::directory_block, number, block->version() + 1);
    freed.push_back(block);
    if (depth == 0) {
      format::InodeEditor editor(transaction.edit(path.inode));
      editor.directory_root(0);
      editor.directory_levels(0);
      return freed;
    }
    const BlockRef& parent = path.blocks[depth - 1];
    if (format::inner_size(parent.bytes()) > 1) {
      format::inner_remove(transaction.edit(parent), path.indices[depth - 1]);
      return freed;
    }
  }
  return freed;
}

}  // namespace plumeria::fs
