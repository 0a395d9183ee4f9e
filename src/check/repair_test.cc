#include "check/repair.h"

#include <absl/strings/str_cat.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <set>

#include "base/number.h"
#include "check/directory_tree.h"
#include "check/flipped_bit.h"
#include "check/test_store.h"
#include "check/tree_plan.h"
#include "format/log_chunk.h"
#include "format/log_record.h"
#include "format/xattrs.h"
#include "lock/server_end.h"
#include "lock/view.h"
#include "wal/log.h"

namespace plumeria::check {
namespace {

using namespace test_store;
using format::block_size;
using format::BlockId;
using format::InodeEditor;
using format::InodeView;
using format::Unit;
using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::UnorderedElementsAre;

class RepairTest : public ::testing::Test, public TestStore {
 protected:
  using Names = std::map<std::string, std::uint64_t>;

  Result<RepairReport> try_repair(Observer* observer = nullptr) {
    RepairOptions options;
    options.tell = [this](std::string_view line) { lines.emplace_back(line); };
    options.observer = observer;
    return wait_for(repair(world, disk, std::move(options)));
  }
  // Afterwards nothing may be wrong, and there must be nothing more to repair.
  void repair_all() {
    const auto report = try_repair();
    ASSERT_TRUE(report) << report.error().message();
    const Report checked = check();
    EXPECT_THAT(checked.problems, IsEmpty());
    EXPECT_THAT(checked.leaks, IsEmpty());
    const std::vector<std::string> first = std::exchange(lines, {});
    EXPECT_TRUE(try_repair());
    EXPECT_THAT(lines, IsEmpty()) << "there was more to repair";
    lines = first;
  }

  void fill_with_noise(BlockId id) {
    Bytes noise(block_size);
    for (std::byte& byte : noise) byte = static_cast<std::byte>(random.next());
    wal::TestDisk::put(disk.visible(), {disk::Segment{id.segment}, id.offset()}, noise);
  }
  void clear(BlockId id) {
    wal::TestDisk::put(disk.visible(), {disk::Segment{id.segment}, id.offset()}, Bytes(block_size));
  }
  void flip(BlockId id, std::uint64_t bit) {
    std::byte& byte = disk.visible()[disk::Segment{id.segment}][id.offset() + bit / 8];
    byte ^= static_cast<std::byte>(1 << bit % 8);
  }

  Names names_in(std::uint64_t number) {
    const Bytes block = peek(format::inode_block(number));
    const InodeView inode(block);
    Names found;
    if (inode.directory_levels() == 0) {
      add_names(inode.inline_area(), found);
    } else {
      add_names_below(inode.directory_root(), inode.directory_levels(), found);
    }
    return found;
  }
  Names lost_and_found() { return names_in(names_in(root).at("lost+found")); }
  bool is_free(std::uint64_t inode) {
    return InodeView(peek(format::inode_block(inode))).is_free();
  }
  std::uint32_t links_of(std::uint64_t inode) {
    return InodeView(peek(format::inode_block(inode))).links();
  }
  const Names whole_root{{"file", file},       {"again", file},       {"directory", directory},
                         {"symlink", symlink}, {"small", small_file}, {"large", large_file}};

  std::vector<std::string> lines;

 private:
  static void add_names(ByteView area, Names& found) {
    for (const format::EntryView& entry : format::sorted_entries(area)) {
      found.emplace(entry.name, entry.inode);
    }
  }
  void add_names_below(std::uint64_t number, std::uint32_t level, Names& found) {
    const Bytes block = peek(format::directory_block(number));
    if (level == 1) return add_names(format::leaf_area(ByteView(block)), found);
    for (std::uint32_t i = 0; i < format::inner_size(block); ++i) {
      add_names_below(format::inner_child(block, i).block, level - 1, found);
    }
  }
};

TEST_F(RepairTest, AWholeStoreIsLeftAsItIs) {
  std::map<BlockId, Bytes> before;
  for (const auto& [at, bytes] : disk.visible()) {
    for (std::uint64_t i = 0; i < bytes.size() / block_size; ++i) {
      const BlockId id{static_cast<std::uint64_t>(at), i};
      before.emplace(id, peek(id));
    }
  }
  repair_all();
  EXPECT_THAT(lines, IsEmpty());
  for (const auto& [id, block] : before) EXPECT_EQ(peek(id), block) << to_string(id);
}

TEST_F(RepairTest, WhatIsNoStoreIsLeftAlone) {
  disk.visible().clear();
  EXPECT_EQ(try_repair().error().code, Errc::not_a_store);
  EXPECT_EQ(disk.writes, 0u);
}

TEST_F(RepairTest, ADamagedSuperblockCannotBeRepaired) {
  fill_with_noise(format::superblock_id);
  const auto report = try_repair();
  ASSERT_FALSE(report);
  EXPECT_EQ(report.error().code, Errc::corrupt);
  EXPECT_EQ(disk.writes, 0u);
}

TEST_F(RepairTest, OneFlippedBitOfAnyBlockIsPutRight) {
  const BlockId blocks[] = {format::superblock_id,
                            format::piece_block(0),
                            format::inode_block(root),
                            format::inode_block(file),
                            inner,
                            left_leaf,
                            orphan_list};
  for (const BlockId id : blocks) {
    for (const std::uint64_t bit : {0u, 70u, 130u, 200u, 8191u, 8u * 4096u - 1u}) {
      const Bytes whole = peek(id);
      lines.clear();
      flip(id, bit);
      repair_all();
      EXPECT_THAT(lines,
                  ElementsAre(absl::StrCat("repaired: ", to_string(id), ": one bit was wrong")));
      EXPECT_EQ(peek(id), whole);
    }
  }
}

TEST_F(RepairTest, TwoFlippedBitsAreNotTakenForOne) {
  Bytes block = peek(format::inode_block(file));
  block[100] ^= std::byte{1};
  block[3000] ^= std::byte{4};
  EXPECT_FALSE(without_flipped_bit(block, format::inode_block(file)));
}

// Whatever the check can name, the repair can put right.
TEST_F(RepairTest, PutsRightWhatTheCheckNames) {
  const wal::TestDisk::Contents whole = disk.visible();
  for (const Mistake& one : mistakes()) {
    SCOPED_TRACE(one.problem);
    disk.visible() = whole;
    lines.clear();
    one.make();
    repair_all();
    EXPECT_THAT(lines, Not(IsEmpty()));
  }
}

TEST_F(RepairTest, ADamagedInodeIsFreedAndItsNamesGo) {
  fill_with_noise(format::inode_block(file));
  repair_all();
  EXPECT_THAT(lines, Contains(HasSubstr("lost: inode 2 (bad")));
  EXPECT_THAT(lines, Contains("lost: directory 1, entry \"again\": inode 2 is lost"));
  EXPECT_THAT(lines, Contains("lost: directory 1, entry \"file\": inode 2 is lost"));
  EXPECT_TRUE(is_free(file));
  Names left = whole_root;
  left.erase("file");
  left.erase("again");
  EXPECT_EQ(names_in(root), left);
}

TEST_F(RepairTest, AnInodeOfZerosIsLostToo) {
  clear(format::inode_block(small_file));
  repair_all();
  EXPECT_THAT(lines, Contains("lost: inode 6 (nothing is written there)"));
  EXPECT_FALSE(names_in(root).contains("small"));
}

TEST_F(RepairTest, TheDataOfALostInodeIsDiscarded) {
  fill_with_noise(format::inode_block(large_file));
  repair_all();
  EXPECT_THAT(lines, Contains(HasSubstr("holds data that no file has: discarded")));
  EXPECT_FALSE(disk.visible().contains(disk::Segment{segment}));
}

TEST_F(RepairTest, VersionsDoNotFallWhereAnInodeWasLost) {
  edit(format::inode_block(file), [](auto block) { format::set_version(block, 77); });
  Bytes block = peek(format::inode_block(file));
  std::fill(block.begin() + 2048, block.end(), std::byte{9});
  wal::TestDisk::put(disk.visible(), {disk::Segment{format::inode_segment}, file * block_size},
                     block);
  repair_all();
  EXPECT_GT(format::version_of(peek(format::inode_block(file))), 77u);
  EXPECT_GT(format::PieceView(peek(format::piece_block(0))).version_floor(), 77u);
}

TEST_F(RepairTest, WhatStoodInALostDirectoryComesIntoLostAndFound) {
  fill_with_noise(format::inode_block(directory));
  repair_all();
  EXPECT_THAT(lines, Contains("lost: directory 1, entry \"directory\": inode 3 is lost"));
  EXPECT_THAT(lost_and_found(), UnorderedElementsAre(testing::Pair("#5", linked)));
  EXPECT_EQ(links_of(linked), 1u);
}

TEST_F(RepairTest, LostAndFoundIsUsedAgain) {
  fill_with_noise(format::inode_block(directory));
  repair_all();
  edit_inode(root, [](InodeEditor& inode) {
    format::remove_entry(inode.inline_area(), format::cookie_base("small", hash_seed));
    inode.directory_entries(5);
  });
  repair_all();
  EXPECT_THAT(lost_and_found(),
              UnorderedElementsAre(testing::Pair("#5", linked), testing::Pair("#6", small_file)));
}

TEST_F(RepairTest, AFileCalledLostAndFoundIsNoDirectory) {
  edit_inode(root, [](InodeEditor& inode) {
    const std::string name = "lost+found";
    format::insert_entry(inode.inline_area(),
                         {format::cookie_base(name, hash_seed), small_file, 8, name});
    inode.directory_entries(7);
  });
  edit_inode(small_file, [](InodeEditor& inode) { inode.links(2); });
  fill_with_noise(format::inode_block(directory));
  repair_all();
  EXPECT_EQ(names_in(root).at("lost+found"), small_file);
  EXPECT_THAT(names_in(names_in(root).at("lost+found2")),
              UnorderedElementsAre(testing::Pair("#5", linked)));
}

TEST_F(RepairTest, AnIndexIsMadeAnewFromItsLeaves) {
  const Names before = names_in(directory);
  ASSERT_EQ(before.size(), names);
  const wal::TestDisk::Contents whole = disk.visible();
  for (const bool zeros : {false, true}) {
    disk.visible() = whole;
    if (zeros) {
      clear(inner);
    } else {
      fill_with_noise(inner);
    }
    lines.clear();
    repair_all();
    EXPECT_THAT(lines, Contains(AllOf(HasSubstr("repaired: directory block 1 "),
                                      HasSubstr("directory 3 is made anew"))));
    EXPECT_THAT(lines, Not(Contains(HasSubstr("lost:"))));
    EXPECT_EQ(names_in(directory), before);
  }
}

TEST_F(RepairTest, OfADamagedLeafOnlyTheOthersNamesAreLeft) {
  fill_with_noise(left_leaf);
  repair_all();
  EXPECT_THAT(lines, Contains(HasSubstr("repaired: directory block 2 (bad")));
  EXPECT_THAT(lines, Contains("lost: 10 names of directory 3"));
  EXPECT_EQ(names_in(directory).size(), names / 2);
  EXPECT_EQ(links_of(linked), names / 2);
}

TEST_F(RepairTest, WithoutTheRootsInodeEverythingComesIntoLostAndFound) {
  fill_with_noise(format::inode_block(root));
  repair_all();
  EXPECT_THAT(names_in(root), ElementsAre(testing::Key("lost+found")));
  EXPECT_THAT(lost_and_found(),
              UnorderedElementsAre(testing::Pair("#2", file), testing::Pair("#3", directory),
                                   testing::Pair("#4", symlink), testing::Pair("#6", small_file),
                                   testing::Pair("#7", large_file)));
  EXPECT_EQ(names_in(directory).size(), names);
}

TEST_F(RepairTest, OfARootWithAnIndexOnlyTheInodeIsLost) {
  const BlockId leaf = format::directory_block(4);
  const Bytes before = peek(format::inode_block(root));
  edit(leaf, [&](MutableByteView block) {
    format::format_leaf(block, root, 1, 0);
    for (const auto& entry : format::sorted_entries(InodeView(before).inline_area())) {
      format::insert_entry(format::leaf_area(block), entry);
    }
  });
  edit_piece([](auto& piece) { piece.set_used(Unit::directory_block, 4, true); });
  edit_inode(root, [&](InodeEditor& inode) {
    inode.directory_root(leaf.number);
    inode.directory_levels(1);
    const MutableByteView area = inode.inline_area();
    std::fill(area.begin(), area.end(), std::byte{0});
  });
  ASSERT_THAT(problems(), IsEmpty());
  fill_with_noise(format::inode_block(root));
  fill_with_noise(format::inode_block(directory));
  repair_all();
  EXPECT_THAT(lines, Contains("lost: names of directory 1; found are 6"));
  Names names_left = names_in(root);
  names_left.erase("lost+found");
  Names wanted = whole_root;
  wanted.erase("directory");
  EXPECT_EQ(names_left, wanted);
  EXPECT_THAT(lost_and_found(), UnorderedElementsAre(testing::Pair("#5", linked)));
}

TEST_F(RepairTest, WhatStandsInADeletedDirectoryComesIntoLostAndFound) {
  edit_inode(orphan, [](InodeEditor& inode) {
    inode.mode(directory_mode);
    inode.directory_entries(1);
    const std::string name = "small";
    format::insert_entry(inode.inline_area(),
                         {format::cookie_base(name, hash_seed), small_file, 8, name});
  });
  edit_inode(root, [](InodeEditor& inode) {
    format::remove_entry(inode.inline_area(), format::cookie_base("small", hash_seed));
    inode.directory_entries(5);
  });
  repair_all();
  EXPECT_THAT(lost_and_found(), UnorderedElementsAre(testing::Pair("#6", small_file)));
  EXPECT_EQ(links_of(orphan), 0u);
}

TEST_F(RepairTest, InodeZeroIsNotUsed) {
  edit(format::inode_block(0), [](MutableByteView block) {
    format::format_block(block, format::BlockType::inode, 0, 1);
    InodeEditor(block).mode(file_mode);
    InodeEditor(block).links(1);
  });
  repair_all();
  EXPECT_EQ(names_in(root), whole_root);
}

TEST_F(RepairTest, APieceIsMadeAnewFromWhatIsInUse) {
  const Bytes before = peek(format::piece_block(0));
  for (const bool zeros : {false, true}) {
    if (zeros) {
      clear(format::piece_block(0));
    } else {
      fill_with_noise(format::piece_block(0));
    }
    lines.clear();
    repair_all();
    EXPECT_THAT(lines, ElementsAre(HasSubstr("repaired: piece 0")));
    const Bytes after = peek(format::piece_block(0));
    EXPECT_TRUE(std::equal(before.begin() + 40, before.end(), after.begin() + 40));
  }
}

TEST_F(RepairTest, WhatStoodInADamagedOrphanListIsFree) {
  fill_with_noise(orphan_list);
  repair_all();
  EXPECT_THAT(lines, Contains(HasSubstr("orphan list of slot 0, block 0 (bad")));
  EXPECT_TRUE(is_free(orphan));
}

TEST_F(RepairTest, AnEntryThatStandsTwiceInAnOrphanListGoes) {
  edit(orphan_list, [](MutableByteView block) {
    format::set_orphan(block, 9, {format::OrphanKind::inode, orphan});
  });
  repair_all();
  EXPECT_THAT(lines, ElementsAre(HasSubstr("an entry that cannot be is gone")));
  EXPECT_EQ(format::orphan_at(peek(orphan_list), 7).number, orphan);
}

TEST_F(RepairTest, OfTwoEntriesWithOneCookieTheGoodOneStays) {
  edit_inode(root, [](InodeEditor& inode) {
    const std::uint64_t cookie = format::cookie_base("file", hash_seed);
    format::insert_entry(inode.inline_area(), {cookie, 100, 8, "ghost"});
    inode.directory_entries(7);
  });
  repair_all();
  EXPECT_THAT(lines, Contains("lost: directory 1, entry \"ghost\": inode 100 is free"));
  EXPECT_EQ(names_in(root), whole_root);
}

TEST_F(RepairTest, ACircleOfDirectoriesComesIntoLostAndFound) {
  make_circle();
  repair_all();
  EXPECT_THAT(lost_and_found(), UnorderedElementsAre(testing::Pair("#3", directory)));
  EXPECT_EQ(names_in(directory).size(), names);
}

TEST_F(RepairTest, OfTwoUsersOfASmallBlockTheOneThatWasChangedLastKeepsIt) {
  const wal::TestDisk::Contents whole = disk.visible();
  for (const std::uint64_t winner : {linked, small_file}) {
    const std::uint64_t loser = linked + small_file - winner;
    disk.visible() = whole;
    edit_inode(linked, [](InodeEditor& inode) {
      inode.size(4096);
      inode.small(0, 10);
    });
    edit_inode(winner, [](InodeEditor& inode) { inode.ctime(5); });
    lines.clear();
    repair_all();
    EXPECT_THAT(
        lines, ElementsAre(absl::StrCat("lost: inode ", loser, ": small block 10 belongs to inode ",
                                        winner, "; what it had there reads as zeros now")));
    EXPECT_EQ(InodeView(peek(format::inode_block(loser))).small(0), 0u);
    EXPECT_EQ(InodeView(peek(format::inode_block(winner))).small(0), 10u);
  }
}

// Block 5 has an attribute of inode 2.
class XattrRepairTest : public RepairTest {
 protected:
  static constexpr BlockId xattrs = format::directory_block(5);

  XattrRepairTest() {
    edit(xattrs, [](MutableByteView block) {
      format::format_block(block, format::BlockType::xattrs, file, 1);
      format::encode_xattrs(block, {{"user.x", Bytes(10)}});
    });
    edit_inode(file, [](InodeEditor& inode) { inode.xattr_block(xattrs.number); });
    edit_piece([](auto& piece) { piece.set_used(Unit::directory_block, xattrs.number, true); });
  }
};

TEST_F(XattrRepairTest, StayWhereTheyAre) {
  repair_all();
  EXPECT_THAT(lines, IsEmpty());
}

TEST_F(XattrRepairTest, ThatAreDamagedGoWithTheGroupsPermissions) {
  fill_with_noise(xattrs);
  repair_all();
  EXPECT_THAT(lines,
              Contains(HasSubstr("lost: extended attributes of inode 2, directory block 5")));
  const Bytes block = peek(format::inode_block(file));
  EXPECT_EQ(InodeView(block).xattr_block(), 0u);
  EXPECT_EQ(InodeView(block).mode(), 0100604u);
}

TEST_F(XattrRepairTest, OfAnotherInodeAreNotShared) {
  edit_inode(linked, [](InodeEditor& inode) { inode.xattr_block(xattrs.number); });
  repair_all();
  EXPECT_EQ(InodeView(peek(format::inode_block(linked))).xattr_block(), 0u);
  EXPECT_EQ(InodeView(peek(format::inode_block(file))).xattr_block(), xattrs.number);
}

TEST_F(XattrRepairTest, ThatCannotBeGo) {
  edit_inode(file, [](InodeEditor& inode) { inode.xattr_block(1ull << 60); });
  EXPECT_THAT(problems(), Contains(HasSubstr("of extended attributes, which cannot be")));
  repair_all();
}

// ---- Logs and leases ----

class LoggedRepairTest : public RepairTest {
 protected:
  static constexpr std::uint32_t slot = 5;
  static constexpr lock::LeaseNumber lease{9};

  // The log of a mount that has died, with one record: inode 2 has 7 links.
  void leave_log() {
    Bytes before = peek(format::inode_block(file)), after = before;
    InodeEditor(after).links(7);
    format::set_version(after, 2);
    wal::Log log(world, disk, slot, wal::log_size_min, lease);
    ASSERT_TRUE(wait_for(log.start()));
    format::RecordBuilder record;
    record.add_delta(format::inode_block(file), before, after);
    auto room = wait_for(log.reserve(record.size()));
    ASSERT_TRUE(log.append(record.view(), *room));
    ASSERT_TRUE(wait_for(log.sync_all()));
    lock::View view;
    view.next_lease = lock::LeaseNumber{20};
    lock::LeaseRecord owner;
    owner.lease = lease;
    owner.slot = slot;
    owner.label = "host:/mnt";
    view.leases.push_back(owner);
    ASSERT_TRUE(
        wait_for(disk.write_register(lock::view_register, 0, lock::encode_view(view), lease)));
  }
  lock::View view() {
    const auto content = wait_for(disk.read_register(lock::view_register));
    return *lock::decode_view(content->value);
  }
};

TEST_F(LoggedRepairTest, LogsAreReplayedFirst) {
  leave_log();
  repair_all();
  EXPECT_THAT(lines,
              ElementsAre("lost: lease 9 of mount host:/mnt is ended, with what that mount has not "
                          "written yet",
                          "repaired: inode 2 had 7 links, counted are 2"));
  EXPECT_THAT(view().leases, IsEmpty());
  EXPECT_GT(view().next_lease, lock::LeaseNumber{20});
  const auto end = wait_for(disk.read_register(lock::server_end_register));
  EXPECT_EQ(*lock::decode_server_end(end->value), lock::ServerEnd::closed);
}

TEST_F(LoggedRepairTest, ADeltaOfABlockWithAFlippedBitIsApplied) {
  leave_log();
  flip(format::inode_block(file), 999);
  repair_all();
  EXPECT_THAT(lines, Contains("repaired: inode 2: one bit was wrong"));
  EXPECT_THAT(lines, Contains("repaired: inode 2 had 7 links, counted are 2"));
}

TEST_F(LoggedRepairTest, TheFirstHeaderOfALogFollowsFromItsFirstChunk) {
  leave_log();
  fill_with_noise(format::log_header_block(slot, 1));
  repair_all();
  EXPECT_THAT(lines, Contains("repaired: log of slot 5, block 1: written again, as its first chunk "
                              "tells it"));
  EXPECT_THAT(lines, Contains("repaired: inode 2 had 7 links, counted are 2"));
}

TEST_F(LoggedRepairTest, ADamagedLogIsGivenUp) {
  leave_log();
  fill_with_noise(format::log_header_block(slot, 0));
  fill_with_noise(format::log_header_block(slot, 1));
  repair_all();
  EXPECT_THAT(lines, Contains(AllOf(HasSubstr("lost: log of slot 5"), HasSubstr("given up"))));
  EXPECT_EQ(links_of(file), 2u) << "nothing of it was applied";
}

TEST_F(LoggedRepairTest, OfALogThatIsDamagedInTheMiddleTheBeginningCounts) {
  leave_log();
  // A header that knows of more than there is.
  const BlockId id = format::log_header_block(slot, 1);
  auto header = format::decode_log_header(peek(id), id);
  ASSERT_TRUE(header);
  header->durable = header->start + 100'000;
  const disk::Address to{disk::Segment{id.segment}, id.offset()};
  wal::TestDisk::put(disk.visible(), to, format::encode_log_header(*header));
  repair_all();
  EXPECT_THAT(lines, Contains(AllOf(HasSubstr("lost: log of slot 5"), HasSubstr("given up"))));
  EXPECT_THAT(lines, Contains("repaired: inode 2 had 7 links, counted are 2"));
}

TEST_F(LoggedRepairTest, ADamagedLogOfNobodyIsEmptied) {
  fill_with_noise(format::log_header_block(2, 0));
  repair_all();
  EXPECT_THAT(lines, ElementsAre(AllOf(HasSubstr("repaired: log of slot 2"), HasSubstr("empt"))));
}

// ---- Interruptions ----

class ImpatientObserver final : public Observer {
 public:
  explicit ImpatientObserver(std::uint64_t patience) : patience_(patience) {}
  void progress(std::string_view phase, std::uint64_t) override { phases.emplace(phase); }
  bool wants_end() override { return asked_++ >= patience_; }
  std::set<std::string, std::less<>> phases;

 private:
  const std::uint64_t patience_;
  std::uint64_t asked_ = 0;
};

TEST_F(RepairTest, CanBeEndedAtAnyWriteAndBegunAgain) {
  fill_with_noise(format::inode_block(directory));
  fill_with_noise(format::inode_block(small_file));
  fill_with_noise(orphan_list);
  const wal::TestDisk::Contents damaged = disk.visible();
  bool ended = true;
  std::uint64_t patience = 0;
  for (; ended; ++patience) {
    disk.visible() = damaged;
    ImpatientObserver observer(patience);
    const auto report = try_repair(&observer);
    ended = !report;
    if (ended) {
      EXPECT_EQ(report.error().code, Errc::interrupted);
    } else {
      EXPECT_TRUE(observer.phases.contains("inodes"));
    }
    EXPECT_TRUE(try_repair());
    EXPECT_THAT(check().problems, IsEmpty());
    EXPECT_THAT(lost_and_found(), UnorderedElementsAre(testing::Pair("#5", linked)));
  }
  EXPECT_GT(patience, 8u);
}

// ---- Pure parts ----

TEST(SortEntries, GiveEachNameACookieOfItsOwn) {
  const std::uint64_t base = format::cookie_base("a", 1);
  const SortedEntries sorted = sort_entries({{base, 10, 8, "a"},
                                             {5, 11, 8, "b"},
                                             {base, 12, 8, "a"},
                                             {format::cookie_base("c", 1) + 3, 13, 8, "c"}},
                                            1);
  EXPECT_TRUE(sorted.has_changed);
  ASSERT_EQ(sorted.entries.size(), 3u);
  ASSERT_EQ(sorted.dropped.size(), 1u);
  EXPECT_EQ(sorted.dropped[0].inode, 12u);
  for (std::size_t i = 0; i < 3; ++i) {
    const Entry& entry = sorted.entries[i];
    const std::uint64_t lowest = format::cookie_base(entry.name, 1);
    EXPECT_EQ(entry.cookie, entry.name == "c" ? lowest + 3 : lowest);
    if (i > 0) {
      EXPECT_GT(entry.cookie, sorted.entries[i - 1].cookie);
    }
  }
}

TEST_F(RepairTest, ATreeOfManyNamesIsWhole) {
  // As many as make two levels above the leaves.
  constexpr std::uint64_t count = 4000;
  std::vector<Entry> entries;
  for (std::uint64_t i = 0; i < count; ++i) {
    entries.push_back({0, linked, file_mode >> 12, absl::StrCat(std::string(200, 'n'), i)});
  }
  const DirectoryTree tree(sort_entries(std::move(entries), hash_seed).entries);
  ASSERT_EQ(tree.levels(), 3u);
  std::vector<DirectoryTree::Place> places;
  edit_piece([&](format::PieceEditor& piece) {
    for (std::uint64_t i = 0; i < 3; ++i) piece.set_used(Unit::directory_block, 1 + i, false);
    for (std::uint64_t i = 0; i < tree.blocks(); ++i) {
      places.push_back({10 + i, 2});
      piece.set_used(Unit::directory_block, 10 + i, true);
    }
    piece.raise_floor(1);
  });
  for (auto& [id, block] : tree.encode(directory, places)) put(id, block);
  edit_inode(directory, [&](InodeEditor& inode) {
    inode.directory_root(places.back().number);
    inode.directory_levels(3);
    inode.directory_entries(count);
  });
  edit_inode(linked, [](InodeEditor& inode) { inode.links(count); });
  EXPECT_THAT(problems(), IsEmpty());
  EXPECT_EQ(names_in(directory).size(), count);
}

struct TreeCase {
  std::string name;
  std::map<std::uint64_t, std::uint64_t> parents;  // what each directory says
  std::vector<DirectoryEdge> edges;
  std::map<std::uint64_t, std::uint64_t> places;
};

TEST(PlanTree, HangsEveryDirectorySomewhere) {
  const TreeCase cases[] = {
      {"a chain", {{1, 1}, {2, 1}, {3, 2}}, {{1, 2}, {2, 3}}, {{2, 1}, {3, 2}}},
      {"nothing names it", {{1, 1}, {2, 9}}, {}, {{2, in_lost_and_found}}},
      {"the rest of a lost branch",
       {{1, 1}, {2, 9}, {3, 2}},
       {{2, 3}},
       {{2, in_lost_and_found}, {3, 2}}},
      {"its own word decides",
       {{1, 1}, {2, 1}, {3, 1}, {4, 3}},
       {{1, 2}, {1, 3}, {2, 4}, {3, 4}},
       {{2, 1}, {3, 1}, {4, 3}}},
      {"else the first one",
       {{1, 1}, {2, 1}, {3, 1}, {4, 9}},
       {{1, 2}, {1, 3}, {2, 4}, {3, 4}},
       {{2, 1}, {3, 1}, {4, 2}}},
      {"a circle",
       {{1, 1}, {2, 4}, {3, 2}, {4, 3}},
       {{2, 3}, {3, 4}, {4, 2}},
       {{2, in_lost_and_found}, {3, 2}, {4, 3}}},
      {"in itself", {{1, 1}, {2, 2}}, {{2, 2}}, {{2, in_lost_and_found}}},
      {"the root stays", {{1, 1}, {2, 1}}, {{1, 2}, {2, 1}}, {{2, 1}}},
  };
  for (const TreeCase& one : cases) {
    std::vector<Node> nodes;
    for (const auto& [number, parent] : one.parents) {
      Node node;
      node.number = number;
      node.parent = parent;
      node.mode = directory_mode;
      node.links = 2;
      nodes.push_back(node);
    }
    plan_tree(nodes, one.edges);
    for (const Node& node : nodes) {
      if (node.number == root_inode) continue;
      EXPECT_EQ(node.place, one.places.at(node.number)) << one.name << ": " << node.number;
      EXPECT_FALSE(node.is_orphan);
    }
  }
}

}  // namespace
}  // namespace plumeria::check
