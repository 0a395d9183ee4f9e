// For unit tests: a store with one of everything, written block by block onto a disk in memory.
#pragma once

#include <absl/strings/str_cat.h>
#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "check/check.h"
#include "format/directory.h"
#include "format/inode.h"
#include "format/piece.h"
#include "format/superblock.h"
#include "wal/log.h"
#include "wal/test_disk.h"

namespace plumeria::check::test_store {

inline constexpr std::uint64_t hash_seed = 42;
inline constexpr std::uint32_t directory_mode = 0040755, file_mode = 0100644,
                               symlink_mode = 0120777;

inline constexpr std::uint64_t root = 1, file = 2, directory = 3, symlink = 4, linked = 5,
                               small_file = 6, large_file = 7, orphan = 8;
inline constexpr std::uint64_t names = 20;  // entries of `directory`, all of them links to `linked`
inline constexpr format::BlockId inner = format::directory_block(1),
                                 left_leaf = format::directory_block(2),
                                 right_leaf = format::directory_block(3);
inline constexpr format::BlockId orphan_list = format::orphan_block(0, 0);
inline const std::uint64_t segment = format::make_data_segment(0, 0);

// A store with one of everything, written block by block.
class TestStore : public wal::TestWorld {
 public:
  using Edit = std::function<void(MutableByteView)>;

  TestStore() {
    put(format::superblock_id,
        format::encode_superblock(
            {.log_size = wal::log_size_min, .lease_milliseconds = 10000, .hash_seed = hash_seed}));
    make_inodes();
    make_directory();
    edit(orphan_list, [](MutableByteView block) {
      format::format_block(block, format::BlockType::orphan_list, 0, 1);
      format::set_orphan(block, 7, {format::OrphanKind::inode, orphan});
    });
    edit(format::piece_block(0), [](MutableByteView block) {
      format::format_piece(block, 0, 1);
      format::PieceEditor piece(block);
      for (std::uint64_t inode = root; inode <= orphan; ++inode) {
        piece.set_used(format::Unit::inode, inode, true);
      }
      for (std::uint64_t i = 1; i <= 3; ++i) piece.set_used(format::Unit::directory_block, i, true);
      piece.set_used(format::Unit::small_block, 10, true);
      piece.take_segment();
    });
    wal::TestDisk::put(disk.visible(), {disk::Segment{segment}, 0},
                       Bytes(format::block_size, std::byte{1}));
  }

  // Changes a block and seals it.
  void edit(format::BlockId id, const Edit& change) {
    Bytes block = peek(id);
    change(block);
    put(id, std::move(block));
  }
  void edit_inode(std::uint64_t number, const std::function<void(format::InodeEditor&)>& change) {
    edit(format::inode_block(number), [&](MutableByteView block) {
      format::InodeEditor editor(block);
      change(editor);
    });
  }
  void edit_piece(const std::function<void(format::PieceEditor&)>& change) {
    edit(format::piece_block(0), [&](MutableByteView block) {
      format::PieceEditor editor(block);
      change(editor);
    });
  }
  Bytes peek(format::BlockId id) {
    return disk.peek({disk::Segment{id.segment}, id.offset()}, format::block_size);
  }
  void put(format::BlockId id, Bytes block) {
    format::seal(block, id);
    wal::TestDisk::put(disk.visible(), {disk::Segment{id.segment}, id.offset()}, block);
  }

  Report check() {
    auto report = wait_for(run(world, disk, {}));
    EXPECT_TRUE(report) << report.error().message();
    return report ? *report : Report{};
  }
  std::vector<std::string> problems() { return check().problems; }

  // What is wrong although every checksum is right, and what the check calls it.
  struct Mistake {
    std::function<void()> make;
    std::string problem;
  };
  std::vector<Mistake> mistakes() {
    return {
        {[&] { edit_inode(file, [](auto& inode) { inode.links(3); }); },
         "inode 2 has 3 links, counted are 2"},
        {[&] { edit_inode(directory, [](auto& inode) { inode.links(3); }); },
         "directory 3 has 3 links, counted are 2"},
        {[&] { edit_inode(directory, [](auto& inode) { inode.parent(7); }); },
         "directory 1, entry \"directory\" names directory 3, whose parent is inode 7"},
        {[&] { edit_inode(directory, [](auto& inode) { inode.directory_entries(4); }); },
         "directory 3 has 20 entries, its inode counts 4"},
        {[&] { edit_inode(file, [](auto& inode) { inode.mode(0); }); },
         "directory 1, entry \"file\" names inode 2, which is free"},
        {[&] { edit_inode(file, [](auto& inode) { inode.mode(0020644); }); },
         "directory 1, entry \"file\" gives inode 2 type 8, the inode has 2"},
        {[&] { edit_inode(file, [](auto& inode) { inode.size(50); }); },
         "inode 2 has 100 inline bytes, but its size is 50"},
        {[&] { edit_inode(file, [](auto& inode) { inode.small(0, 10); }); },
         "inode 2 has its data inline and in blocks at once"},
        {[&] { edit_inode(linked, [](auto& inode) { inode.small(0, 10); }); },
         "small block 10 is used by inode 5 and by inode 6"},
        {[&] { edit_inode(small_file, [](auto& inode) { inode.small(1, 11); }); },
         "inode 6 has small block 11 beyond its end"},
        {[&] { edit_inode(linked, [](auto& inode) { inode.data_segment(segment); }); },
         absl::StrCat("data segment ", absl::Hex(segment), " is used by inode 5 and by inode 7")},
        {[&] { edit_inode(large_file, [](auto& inode) { inode.data_segment(segment + 1); }); },
         absl::StrCat("data segment ", absl::Hex(segment + 1),
                      " of inode 7 will be handed out once more by piece 0")},
        {[&] { edit_inode(orphan, [](auto& inode) { inode.links(1); }); },
         "inode 8 has 1 links, but no entry names it"},
        {[&] { edit(orphan_list, [](auto block) { format::set_orphan(block, 7, {}); }); },
         "inode 8 has no links and stands in no orphan list"},
        {[&] {
           edit(orphan_list, [](auto block) {
             format::set_orphan(block, 0, {format::OrphanKind::segment, segment});
           });
         },
         absl::StrCat("data segment ", absl::Hex(segment),
                      " of inode 7 stands in an orphan list and will be discarded")},
        {[&] { edit_piece([](auto& piece) { piece.set_used(format::Unit::inode, file, false); }); },
         "inode 2 is in use by inode 2, but free in piece 0"},
        {[&] { edit_piece([](auto& piece) { piece.set_used(format::Unit::inode, 100, true); }); },
         "inode 100 is marked as used in piece 0, but nobody uses it"},
        {[&] {
           edit_piece([](auto& piece) { piece.set_used(format::Unit::directory_block, 2, false); });
         },
         "directory block 2 is in use by inode 3, but free in piece 0"},
        {[&] {
           edit_piece([](auto& piece) { piece.set_used(format::Unit::small_block, 99, true); });
         },
         "small block 99 is marked as used in piece 0, but nobody uses it"},
        {[&] {
           edit(format::inode_block(100),
                [](auto block) { format::format_block(block, format::BlockType::inode, 100, 9); });
         },
         "inode 100 is free with version 9, but its piece lets versions begin again above 0"},
        {[&] {
           edit(format::directory_block(9),
                [](auto block) { format::format_leaf(block, directory, 4, 0); });
         },
         "directory block 9 is free with version 4, but its piece lets versions begin again above "
         "0"},
        {[&] {
           edit(left_leaf, [](auto block) {
             const auto entry = format::sorted_entries(format::leaf_area(ByteView(block)))[3];
             const std::string name(entry.name);
             format::remove_entry(format::leaf_area(block), entry.cookie);
             format::insert_entry(format::leaf_area(block), {88, linked, 8, name});
           });
         },
         "directory block 2 has a wrong cookie for the name"},
        {[&] {
           edit(inner, [](auto block) {
             const auto child = format::inner_child(block, 1);
             format::inner_remove(block, 1);
             format::inner_insert(block, 1, {child.low + 8, child.block});
           });
         },
         "directory block 3 (begins at cookie"},
        {[&] {
           edit(inner, [](auto block) {
             format::inner_insert(block, 2, {~0ull << 3, left_leaf.number});
           });
         },
         "directory block 2 is used by directory 3 and again by directory 3"},
        {[&] { put(right_leaf, Bytes(format::block_size)); }, "directory block 3"},
        {[&] { edit(left_leaf, [](auto block) { store(block.data() + 24, file); }); },
         "directory block 2 (belongs to directory 2, expected 3)"},
        {[&] {
           edit_inode(directory, [](auto& inode) { inode.directory_root(left_leaf.number); });
         },
         "directory block 2 (wrong level in the index of directory 3)"},
    };
  }

  void make_circle() {
    // 3 leaves the root and becomes its own child.
    edit_inode(root, [](format::InodeEditor& inode) {
      format::remove_entry(inode.inline_area(), format::cookie_base("directory", hash_seed));
      inode.directory_entries(5);
      inode.links(2);
    });
    edit_inode(directory, [](format::InodeEditor& inode) {
      inode.parent(directory);
      inode.links(3);
      inode.directory_entries(names + 1);
    });
    const std::uint64_t base = format::cookie_base("itself", hash_seed);
    const bool left = base < format::low_cookie(peek(right_leaf));
    edit(left ? left_leaf : right_leaf, [base](MutableByteView block) {
      format::insert_entry(format::leaf_area(block), {base, directory, 4, "itself"});
    });
  }

  wal::TestDisk disk{executor, 1};

 private:
  void make_inode(
      std::uint64_t number, std::uint32_t mode, std::uint32_t links,
      const std::function<void(format::InodeEditor&)>& change = [](format::InodeEditor&) {}) {
    edit(format::inode_block(number), [&](MutableByteView block) {
      format::format_block(block, format::BlockType::inode, number, 1);
      format::InodeEditor editor(block);
      editor.mode(mode);
      editor.links(links);
      change(editor);
    });
  }

  static void add(MutableByteView area, const std::string& name, std::uint64_t inode,
                  std::uint32_t mode) {
    const std::uint64_t base = format::cookie_base(name, hash_seed);
    const auto cookie = format::free_cookie(area, base);
    CHECK(cookie && format::insert_entry(
                        area, {*cookie, inode, static_cast<std::uint8_t>(mode >> 12), name}));
  }

  void make_inodes() {
    make_inode(root, directory_mode, 3, [](format::InodeEditor& inode) {
      inode.parent(root);
      add(inode.inline_area(), "file", file, file_mode);
      add(inode.inline_area(), "again", file, file_mode);
      add(inode.inline_area(), "directory", directory, directory_mode);
      add(inode.inline_area(), "symlink", symlink, symlink_mode);
      add(inode.inline_area(), "small", small_file, file_mode);
      add(inode.inline_area(), "large", large_file, file_mode);
      inode.directory_entries(6);
    });
    make_inode(file, file_mode, 2, [](format::InodeEditor& inode) {
      inode.size(100);
      inode.inline_length(100);
    });
    make_inode(symlink, symlink_mode, 1, [](format::InodeEditor& inode) {
      inode.size(4);
      inode.inline_length(4);
    });
    make_inode(linked, file_mode, names);
    make_inode(small_file, file_mode, 1, [](format::InodeEditor& inode) {
      inode.size(4096);
      inode.small(0, 10);
    });
    make_inode(large_file, file_mode, 1, [](format::InodeEditor& inode) {
      inode.size(1 << 20);
      inode.data_segment(segment);
    });
    make_inode(orphan, file_mode, 0);
  }

  // An inner block over two leaves.
  void make_directory() {
    make_inode(directory, directory_mode, 2, [](format::InodeEditor& inode) {
      inode.parent(root);
      inode.directory_root(inner.number);
      inode.directory_levels(2);
      inode.directory_entries(names);
    });
    std::map<std::uint64_t, std::string> sorted;
    for (std::uint64_t i = 0; i < names; ++i) {
      const std::string name = absl::StrCat("name ", i);
      sorted.emplace(format::cookie_base(name, hash_seed), name);
    }
    const std::uint64_t middle = std::next(sorted.begin(), names / 2)->first;
    edit(left_leaf, [](MutableByteView b) { format::format_leaf(b, directory, 1, 0); });
    edit(right_leaf, [&](MutableByteView b) { format::format_leaf(b, directory, 1, middle); });
    edit(inner, [&](MutableByteView block) {
      format::format_inner(block, directory, 1, 0, 1);
      format::inner_insert(block, 0, {0, left_leaf.number});
      format::inner_insert(block, 1, {middle, right_leaf.number});
    });
    for (const auto& [base, name] : sorted) {
      edit(base < middle ? left_leaf : right_leaf, [&name = name](MutableByteView block) {
        add(format::leaf_area(block), name, linked, file_mode);
      });
    }
  }
};

}  // namespace plumeria::check::test_store
