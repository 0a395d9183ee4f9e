#include "check/repair.h"

#include <absl/strings/str_cat.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "base/number.h"
#include "check/block_writer.h"
#include "check/directory_repair.h"
#include "check/flipped_bit.h"
#include "check/inventory.h"
#include "check/repair_parts.h"
#include "check/sole_owner.h"
#include "check/space_repair.h"
#include "check/store_reader.h"
#include "format/inode.h"
#include "format/superblock.h"

namespace plumeria::check {
namespace {

using format::BlockId;
using format::BlockType;
using format::InodeEditor;
using format::InodeView;
using format::Unit;

constexpr const char* lost_and_found_name = "lost+found";
constexpr std::uint32_t directory_type = 0040000;

std::string name_of(const Node& node) {
  return absl::StrCat(node.is_directory() ? "directory " : "inode ", node.number);
}

// What follows the logs: everything from the inodes on.
class TreeRepair {
 public:
  explicit TreeRepair(RepairParts& parts) : parts_(parts), directories_(parts), space_(parts) {}

  Task<Status> run() {
    CO_TRY_STATUS(co_await parts_.inventory.scan());
    CO_TRY_STATUS(co_await parts_.inventory.write_back(parts_.writer));
    CO_TRY_STATUS(co_await make_sure_of_root());
    CO_TRY_STATUS(co_await directories_.plan());
    CO_TRY_STATUS(co_await directories_.repair_all());
    CO_TRY_STATUS(co_await fill_lost_and_found());
    CO_TRY_STATUS(co_await repair_inodes());
    CO_TRY_STATUS(co_await free_inodes());
    CO_TRY_STATUS(co_await space_.repair_orphan_lists());
    CO_TRY_STATUS(co_await space_.repair_pieces(directories_.blocks()));
    co_return co_await space_.discard_segments();
  }
  std::uint64_t found() const { return found_; }

 private:
  Task<Status> make_sure_of_root();
  Task<Status> fill_lost_and_found();
  Task<Result<std::uint64_t>> lost_and_found();
  void tell_of_inode(const Node& node, std::uint32_t links, std::uint64_t parent);
  Task<Status> repair_inodes();
  Task<Status> free_inodes();
  Bytes new_directory(std::uint64_t number, std::uint64_t version, std::uint32_t permissions);

  RepairParts& parts_;
  DirectoryRepair directories_;
  SpaceRepair space_;
  std::uint64_t found_ = 0;
};

// ---- The root ----

Bytes TreeRepair::new_directory(std::uint64_t number, std::uint64_t version,
                                std::uint32_t permissions) {
  Bytes block(format::block_size);
  format::format_block(block, BlockType::inode, number, version);
  InodeEditor inode(block);
  inode.generation(version);
  inode.mode(directory_type | permissions);
  inode.links(2);
  inode.parent(root_inode);
  const std::int64_t now = raw(parts_.world.clock.wall());
  inode.atime(now);
  inode.mtime(now);
  inode.ctime(now);
  inode.btime(now);
  return block;
}

Task<Status> TreeRepair::make_sure_of_root() {
  Node* root = parts_.inventory.find(root_inode);
  if (root != nullptr && root->is_directory()) co_return Status{};
  parts_.account.lost("the root directory's owner, mode and times: it has a new inode");
  if (root == nullptr) {
    Node node;
    node.number = root_inode;
    parts_.inventory.add_node(node);
    root = parts_.inventory.find(root_inode);
  }
  *root = Node{};
  root->number = root->parent = root_inode;
  root->mode = directory_type | 0755;
  root->links = 2;
  root->is_new = root->index_is_lost = true;
  CO_TRY(const std::uint64_t version,
         co_await parts_.next_version(Unit::inode, format::inode_block(root_inode)));
  Bytes block = new_directory(root_inode, version, 0755);
  CO_TRY_STATUS(co_await parts_.writer.replace(format::inode_block(root_inode), std::move(block)));
  co_return co_await parts_.writer.settle();
}

// ---- lost+found ----

// The directory's inode. A new one is made, with its entry in the root, if there is none.
Task<Result<std::uint64_t>> TreeRepair::lost_and_found() {
  std::string name = lost_and_found_name;
  const auto& taken = directories_.root_names();
  for (int i = 2; taken.contains(name); ++i) {
    if (taken.at(name) != 0) co_return taken.at(name);
    name = absl::StrCat(lost_and_found_name, i);
  }
  Node node;
  CO_TRY(node.number, parts_.inventory.take(Unit::inode));
  CO_TRY(const std::uint64_t version,
         co_await parts_.next_version(Unit::inode, format::inode_block(node.number)));
  CO_TRY_STATUS(co_await parts_.inventory.write_marks(parts_.writer));
  // For the administrator alone: the directories above may have hidden what comes in. Without links
  // until an entry leads to it, so that it is free again if we do not get there.
  Bytes block = new_directory(node.number, version, 0700);
  InodeEditor(block).links(0);
  CO_TRY_STATUS(co_await parts_.writer.replace(format::inode_block(node.number), std::move(block)));
  CO_TRY_STATUS(co_await parts_.writer.settle());
  node.mode = directory_type | 0700;
  node.is_new = true;
  node.parent = node.place = root_inode;
  node.references = 1;
  parts_.inventory.add_node(node);
  parts_.account.repaired(absl::StrCat("/", name, " is new, directory ", node.number));
  std::vector<Entry> entry{{0, node.number, directory_type >> 12, name}};
  CO_TRY_STATUS(co_await directories_.add_entries(root_inode, std::move(entry)));
  co_return node.number;
}

Task<Status> TreeRepair::fill_lost_and_found() {
  std::vector<Entry> entries;
  for (Node& node : parts_.inventory.nodes()) {
    if (node.references > 0 || node.number == root_inode || node.is_orphan) continue;
    if (!node.is_directory() && node.links == 0) {
      node.is_orphan = true;
      continue;
    }
    const auto type = static_cast<std::uint8_t>(node.mode >> 12);
    entries.push_back({0, node.number, type, absl::StrCat("#", node.number)});
  }
  if (entries.empty()) co_return Status{};
  CO_TRY(const std::uint64_t place, co_await lost_and_found());
  for (const Entry& entry : entries) {
    Node& node = *parts_.inventory.find(entry.inode);
    parts_.account.repaired(absl::StrCat(name_of(node), ", to which no entry leads, is in ",
                                         lost_and_found_name, " as ", entry.name));
    node.references = 1;
    node.place = place;
    node.is_found = true;
  }
  found_ = entries.size();
  co_return co_await directories_.add_entries(place, std::move(entries));
}

// ---- Inodes ----

void TreeRepair::tell_of_inode(const Node& node, std::uint32_t links, std::uint64_t parent) {
  const std::string name = name_of(node);
  if (node.links != links) {
    parts_.account.repaired(absl::StrCat(name, " had ", node.links, " links, counted are ", links));
  }
  if (!node.is_directory()) return;
  if (node.parent != parent && !node.is_found) {
    parts_.account.repaired(
        absl::StrCat(name, " had parent ", node.parent, ", it stands in ", parent));
  }
  if (node.directory_entries != node.entries + node.entries_gone) {
    parts_.account.repaired(
        absl::StrCat(name, " counted ", node.directory_entries, " entries, it has ", node.entries));
  }
}

Task<Status> TreeRepair::repair_inodes() {
  for (const Node& node : parts_.inventory.nodes()) {
    const bool is_directory = node.is_directory();
    std::uint32_t links = is_directory ? 2 + node.subdirectories : node.references;
    std::uint64_t parent = node.number == root_inode ? root_inode : node.place;
    if (node.is_orphan) {
      if (!parts_.inventory.orphan_inodes().contains(node.number)) continue;  // It becomes free.
      links = 0;
      parent = node.parent;
    }
    const bool moves = is_directory && node.parent != parent;
    const bool miscounts = is_directory && node.directory_entries != node.entries;
    if (node.links == links && !moves && !miscounts) continue;
    if (!node.is_new) tell_of_inode(node, links, parent);
    parts_.show_progress("inodes written", parts_.writer.written());
    CO_TRY(Bytes block, co_await parts_.read(format::inode_block(node.number)));
    InodeEditor inode(block);
    inode.links(links);
    if (is_directory) {
      inode.parent(parent);
      inode.directory_entries(node.entries);
    }
    CO_TRY_STATUS(
        co_await parts_.writer.change(format::inode_block(node.number), std::move(block)));
  }
  co_return co_await parts_.writer.settle();
}

Task<Status> TreeRepair::free_inodes() {
  for (const auto& [number, claim] : parts_.inventory.damaged_inodes()) {
    if (number == root_inode) continue;  // It has got a new block.
    const std::uint64_t version =
        std::max(claim, parts_.inventory.floor_of(Unit::inode, number)) + 1;
    Bytes block(format::block_size);
    format::format_block(block, BlockType::inode, number, version);
    CO_TRY_STATUS(co_await parts_.writer.replace(format::inode_block(number), std::move(block)));
  }
  for (const Node& node : parts_.inventory.nodes()) {
    if (!node.is_orphan || parts_.inventory.orphan_inodes().contains(node.number)) continue;
    parts_.account.repaired(
        absl::StrCat(name_of(node), " was deleted and stood in no orphan list: it is free now"));
    CO_TRY(Bytes block, co_await parts_.read(format::inode_block(node.number)));
    const std::uint64_t generation = InodeView(block).generation();
    format::format_block(block, BlockType::inode, node.number, format::version_of(block));
    InodeEditor(block).generation(generation);
    CO_TRY_STATUS(
        co_await parts_.writer.change(format::inode_block(node.number), std::move(block)));
  }
  co_return co_await parts_.writer.settle();
}

// ---- All of it ----

Task<Result<format::Superblock>> read_superblock(disk::VirtualDisk& disk) {
  const BlockId id = format::superblock_id;
  const disk::Address from{disk::Segment{id.segment}, id.offset()};
  CO_TRY(const Bytes block, co_await disk.read(from, format::block_size));
  auto superblock = format::decode_superblock(block);
  if (!superblock && superblock.error().code == Errc::corrupt) {
    if (const auto right = without_flipped_bit(block, id)) {
      superblock = format::decode_superblock(*right);
    }
  }
  co_return superblock;
}

Task<Status> repair_with(World world, disk::VirtualDisk& disk, Observer* observer, Account& account,
                         SoleOwner& owner, RepairReport& report) {
  CO_TRY(const format::Superblock superblock, co_await read_superblock(disk));
  CO_TRY_STATUS(co_await owner.claim());
  CO_TRY_STATUS(co_await owner.put_flipped_bit_right(format::superblock_id));
  if (observer != nullptr) observer->progress("logs", 0);
  CO_TRY_STATUS(co_await owner.take_over_logs(superblock.log_size));
  StoreReader reader(world, disk, {});
  BlockWriter writer(disk, owner.log(), owner.lease(), observer);
  Inventory inventory(reader, account, observer);
  RepairParts parts{world, reader, writer, inventory, account, observer, superblock.hash_seed};
  TreeRepair tree(parts);
  CO_TRY_STATUS(co_await tree.run());
  report.replayed_blocks = owner.replayed_blocks();
  report.found = tree.found();
  co_return co_await owner.leave();
}

}  // namespace

Task<Result<RepairReport>> repair(World world, disk::VirtualDisk& disk, RepairOptions options) {
  Account account(std::move(options.tell));
  SoleOwner owner(world, disk, account);
  RepairReport report;
  const Status status = co_await repair_with(world, disk, options.observer, account, owner, report);
  co_await owner.settled();
  if (!status) co_return fail(status.error());
  report.repairs = account.repairs();
  report.losses = account.losses();
  co_return report;
}

}  // namespace plumeria::check
