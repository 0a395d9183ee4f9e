#include "check/repair.h"

#include <absl/container/flat_hash_set.h>
#include <absl/strings/escaping.h>
#include <absl/strings/str_cat.h>

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/number.h"
#include "check/block_writer.h"
#include "check/directory_contents.h"
#include "check/directory_tree.h"
#include "check/entry_checker.h"
#include "check/flipped_bit.h"
#include "check/inventory.h"
#include "check/piece_count.h"
#include "check/sole_owner.h"
#include "check/store_reader.h"
#include "check/tree_plan.h"
#include "format/inode.h"
#include "format/superblock.h"

namespace plumeria::check {
namespace {

using format::BlockId;
using format::BlockType;
using format::InodeEditor;
using format::InodeView;
using format::OrphanKind;
using format::Unit;

constexpr const char* lost_and_found_name = "lost+found";
constexpr std::uint32_t directory_type = 0040000;
constexpr std::uint64_t orphan_gap_max = 4096;  // blocks of a list that are filled up

std::string escaped(const std::string& name) {
  return absl::StrCat("\"", absl::CEscape(name), "\"");
}
std::string name_of(const Node& node) {
  return absl::StrCat(node.is_directory() ? "directory " : "inode ", node.number);
}

class Repairer {
 public:
  Repairer(World world, disk::VirtualDisk& disk, RepairOptions options)
      : world_(world),
        disk_(disk),
        observer_(options.observer),
        account_(std::move(options.tell)),
        owner_(world, disk, account_),
        reader_(world, disk, {}),
        inventory_(reader_, account_, observer_) {}

  Task<Result<RepairReport>> run() {
    const Status status = co_await repair();
    co_await owner_.settled();
    if (!status) co_return fail(status.error());
    RepairReport report;
    report.repairs = account_.repairs();
    report.losses = account_.losses();
    report.replayed_blocks = owner_.replayed_blocks();
    report.found = found_;
    co_return report;
  }

 private:
  Task<Status> repair() {
    CO_TRY_STATUS(co_await read_superblock());
    CO_TRY_STATUS(co_await owner_.claim());
    CO_TRY_STATUS(co_await owner_.put_flipped_bit_right(format::superblock_id));
    show_progress("logs", 0);
    CO_TRY_STATUS(co_await owner_.take_over_logs(superblock_.log_size));
    writer_.emplace(disk_, owner_.log(), owner_.lease(), observer_);
    CO_TRY_STATUS(co_await inventory_.scan());
    CO_TRY_STATUS(co_await inventory_.write_back(*writer_));
    CO_TRY_STATUS(co_await make_sure_of_root());
    CO_TRY_STATUS(co_await plan_directories());
    CO_TRY_STATUS(co_await repair_directories());
    CO_TRY_STATUS(co_await fill_lost_and_found());
    CO_TRY_STATUS(co_await repair_inodes());
    CO_TRY_STATUS(co_await free_inodes());
    CO_TRY_STATUS(co_await repair_orphan_lists());
    CO_TRY_STATUS(co_await repair_pieces());
    CO_TRY_STATUS(co_await discard_segments());
    co_return co_await owner_.leave();
  }

  Task<Status> read_superblock();
  Task<Status> make_sure_of_root();
  Task<Status> plan_directories();
  Task<Status> repair_directories();
  Task<Status> repair_directory(Node& node);
  void tell_of_index(const Node& node, const DirectoryContents& contents);
  std::optional<std::string> why_dropped(const Node& directory, const Entry& entry,
                                         const Node* child) const;
  Task<Status> edit_lists(Node& node, std::vector<DirectoryContents::List> before,
                          std::map<std::uint64_t, std::set<std::uint64_t>> dropped,
                          std::map<std::uint64_t, Entry> retyped);
  Task<Status> make_anew(Node& node, std::vector<Entry> entries);
  Task<Status> fill_lost_and_found();
  Task<Result<std::uint64_t>> lost_and_found();
  Task<Status> add_entries(std::uint64_t directory, std::vector<Entry> entries);
  void tell_of_inode(const Node& node, std::uint32_t links, std::uint64_t parent);
  Task<Status> repair_inodes();
  Task<Status> free_inodes();
  Task<Status> repair_orphan_lists();
  Task<Status> repair_orphan_list(std::uint32_t slot);
  Task<Status> repair_pieces();
  Task<Status> discard_segments();

  Task<Result<Bytes>> read(BlockId id) {
    std::vector<BlockId> ids{id};
    CO_TRY(std::vector<Bytes> blocks, co_await reader_.blocks(std::move(ids)));
    co_return std::move(blocks.front());
  }
  // Above what was ever there, as far as anybody can tell.
  Task<Result<std::uint64_t>> next_version(Unit unit, BlockId id) {
    CO_TRY(const Bytes block, co_await read(id));
    co_return std::max(claimed_version(block), inventory_.floor_of(unit, id.number)) + 1;
  }
  Bytes new_directory(std::uint64_t number, std::uint64_t version, std::uint32_t permissions);
  void show_progress(std::string_view phase, std::uint64_t done) {
    if (observer_ != nullptr) observer_->progress(phase, done);
  }
  Status go_on() const {
    if (observer_ != nullptr && observer_->wants_end()) return fail(Errc::interrupted);
    return {};
  }

  World world_;
  disk::VirtualDisk& disk_;
  Observer* const observer_;
  Account account_;
  format::Superblock superblock_;
  SoleOwner owner_;
  StoreReader reader_;  // of what is in place; so it must be settled before it is read again
  std::optional<BlockWriter> writer_;
  Inventory inventory_;
  absl::flat_hash_set<std::uint64_t> directory_blocks_;  // in use
  // Names in the root like lost+found, and which directories they name; 0: something else.
  std::map<std::string, std::uint64_t> root_names_;
  std::uint64_t found_ = 0;
  PieceCount count_;
  std::vector<std::uint64_t> segments_;  // that hold data
};

// ---- What everything else hangs on ----

Task<Status> Repairer::read_superblock() {
  CO_TRY(const Bytes block, co_await read(format::superblock_id));
  auto superblock = format::decode_superblock(block);
  if (!superblock && superblock.error().code == Errc::corrupt) {
    if (const auto right = without_flipped_bit(block, format::superblock_id)) {
      superblock = format::decode_superblock(*right);
    }
  }
  if (!superblock) co_return fail(std::move(superblock).error());
  superblock_ = *std::move(superblock);
  co_return Status{};
}

Bytes Repairer::new_directory(std::uint64_t number, std::uint64_t version,
                              std::uint32_t permissions) {
  Bytes block(format::block_size);
  format::format_block(block, BlockType::inode, number, version);
  InodeEditor inode(block);
  inode.generation(version);
  inode.mode(directory_type | permissions);
  inode.links(2);
  inode.parent(root_inode);
  const std::int64_t now = raw(world_.clock.wall());
  inode.atime(now);
  inode.mtime(now);
  inode.ctime(now);
  inode.btime(now);
  return block;
}

Task<Status> Repairer::make_sure_of_root() {
  Node* root = inventory_.find(root_inode);
  if (root != nullptr && root->is_directory()) co_return Status{};
  account_.lost("the root directory's owner, mode and times: it has a new inode");
  if (root == nullptr) {
    Node node;
    node.number = root_inode;
    inventory_.add_node(node);
    root = inventory_.find(root_inode);
  }
  *root = Node{};
  root->number = root->parent = root_inode;
  root->mode = directory_type | 0755;
  root->links = 2;
  root->is_new = root->index_is_lost = true;
  CO_TRY(const std::uint64_t version,
         co_await next_version(Unit::inode, format::inode_block(root_inode)));
  Bytes block = new_directory(root_inode, version, 0755);
  CO_TRY_STATUS(co_await writer_->replace(format::inode_block(root_inode), std::move(block)));
  co_return co_await writer_->settle();
}

// ---- Directories ----

Task<Status> Repairer::plan_directories() {
  std::vector<DirectoryEdge> edges;
  std::uint64_t done = 0;
  for (const Node& node : inventory_.nodes()) {
    if (!node.is_directory()) continue;
    CO_TRY_STATUS(go_on());
    show_progress("directories read", ++done);
    CO_TRY(const DirectoryContents contents, co_await read_directory(reader_, inventory_, node));
    for (const std::uint64_t block : contents.blocks) inventory_.use_directory_block(block);
    for (const auto& list : contents.lists) {
      for (const Entry& entry : list.entries) {
        const Node* child = inventory_.find(entry.inode);
        if (child != nullptr && child->is_directory()) edges.push_back({node.number, entry.inode});
      }
    }
  }
  plan_tree(inventory_.nodes(), edges);
  co_return Status{};
}

std::optional<std::string> Repairer::why_dropped(const Node& directory, const Entry& entry,
                                                 const Node* child) const {
  if (directory.is_orphan) return "the directory is deleted";
  if (!is_possible_name(entry.name)) return "no name can be like that";
  if (child == nullptr) {
    return absl::StrCat("inode ", entry.inode,
                        inventory_.is_lost(entry.inode) ? " is lost" : " is free");
  }
  if (!child->is_directory()) return std::nullopt;
  if (entry.inode == root_inode) return "it leads to the root directory";
  if (child->place == in_lost_and_found) {
    return absl::StrCat("directory ", entry.inode, " is one of those that contain it");
  }
  if (child->place != directory.number) {
    return absl::StrCat("directory ", entry.inode, " stands in directory ", child->place);
  }
  if (child->references > 0) return absl::StrCat("directory ", entry.inode, " has another name");
  return std::nullopt;
}

Task<Status> Repairer::repair_directories() {
  std::uint64_t done = 0;
  for (Node& node : inventory_.nodes()) {
    if (!node.is_directory()) continue;
    CO_TRY_STATUS(go_on());
    show_progress("directories", ++done);
    CO_TRY_STATUS(co_await repair_directory(node));
  }
  co_return co_await writer_->settle();
}

void Repairer::tell_of_index(const Node& node, const DirectoryContents& contents) {
  for (const std::string& fault : contents.faults) {
    account_.repaired(absl::StrCat(fault, "; directory ", node.number, " is made anew"));
  }
  if (contents.faults.empty()) return;
  std::uint64_t found = 0;
  for (const auto& list : contents.lists) found += list.entries.size();
  if (node.index_is_lost) {
    account_.lost(absl::StrCat("names of directory ", node.number, "; found are ", found));
  } else if (found < node.directory_entries) {
    account_.lost(
        absl::StrCat(node.directory_entries - found, " names of directory ", node.number));
  }
}

Task<Status> Repairer::repair_directory(Node& node) {
  if (node.is_orphan && !inventory_.orphan_inodes().contains(node.number)) co_return Status{};
  CO_TRY(DirectoryContents contents, co_await read_directory(reader_, inventory_, node));
  tell_of_index(node, contents);
  std::vector<Entry> kept;
  std::map<std::uint64_t, std::set<std::uint64_t>> dropped;  // cookies, by block
  std::map<std::uint64_t, Entry> retyped;                    // by cookie
  for (const auto& list : contents.lists) {
    for (const Entry& entry : list.entries) {
      Node* child = inventory_.find(entry.inode);
      if (const auto why = why_dropped(node, entry, child)) {
        account_.lost(
            absl::StrCat("directory ", node.number, ", entry ", escaped(entry.name), ": ", *why));
        dropped[list.block].insert(entry.cookie);
        continue;
      }
      kept.push_back(entry);
      if (entry.type != child->mode >> 12) {
        account_.repaired(absl::StrCat("directory ", node.number, ", entry ", escaped(entry.name),
                                       ": had type ", entry.type, ", inode ", entry.inode, " has ",
                                       child->mode >> 12));
        kept.back().type = static_cast<std::uint8_t>(child->mode >> 12);
        retyped.emplace(entry.cookie, kept.back());
      }
      // Counted at once, so that a second name of a directory is seen.
      if (child->is_directory()) ++child->references;
    }
  }
  SortedEntries sorted = sort_entries(kept, superblock_.hash_seed);
  for (const Entry& entry : sorted.dropped) {
    account_.lost(absl::StrCat("directory ", node.number, ", entry ", escaped(entry.name),
                               ": there is another one of this name"));
    Node* child = inventory_.find(entry.inode);
    if (child->is_directory()) --child->references;
  }
  for (const Entry& entry : sorted.entries) {
    Node* child = inventory_.find(entry.inode);
    if (child->is_directory()) {
      ++node.subdirectories;
    } else {
      ++child->references;
    }
    if (node.number == root_inode && entry.name.starts_with(lost_and_found_name)) {
      root_names_.emplace(entry.name, child->is_directory() ? entry.inode : 0);
    }
  }
  node.entries = sorted.entries.size();
  if (!contents.faults.empty() || sorted.has_changed) {
    if (sorted.has_changed && contents.faults.empty()) {
      account_.repaired(absl::StrCat("directory ", node.number, ": made anew from its entries"));
    }
    co_return co_await make_anew(node, std::move(sorted.entries));
  }
  directory_blocks_.insert(contents.blocks.begin(), contents.blocks.end());
  if (dropped.empty() && retyped.empty()) co_return Status{};
  co_return co_await edit_lists(node, std::move(contents.lists), std::move(dropped),
                                std::move(retyped));
}

Task<Status> Repairer::edit_lists(Node& node, std::vector<DirectoryContents::List> before,
                                  std::map<std::uint64_t, std::set<std::uint64_t>> dropped,
                                  std::map<std::uint64_t, Entry> retyped) {
  for (const DirectoryContents::List& list : before) {
    const std::set<std::uint64_t>& gone = dropped[list.block];
    const bool is_touched = !gone.empty() || std::any_of(list.entries.begin(), list.entries.end(),
                                                         [&](const Entry& entry) {
                                                           return retyped.contains(entry.cookie);
                                                         });
    if (!is_touched) continue;
    const BlockId id =
        list.block == 0 ? format::inode_block(node.number) : format::directory_block(list.block);
    CO_TRY(Bytes block, co_await read(id));
    MutableByteView area = list.block == 0 ? InodeEditor(block).inline_area()
                                           : format::leaf_area(MutableByteView(block));
    for (const Entry& entry : list.entries) {
      if (gone.contains(entry.cookie)) {
        format::remove_entry(area, entry.cookie);
      } else if (const auto change = retyped.find(entry.cookie); change != retyped.end()) {
        format::change_entry(area, entry.cookie, entry.inode, change->second.type);
      }
    }
    CO_TRY_STATUS(co_await writer_->change(id, std::move(block)));
  }
  co_return Status{};
}

// The new blocks are in place before the inode leads to them; the old ones are free when the
// allocation pieces say so.
Task<Status> Repairer::make_anew(Node& node, std::vector<Entry> entries) {
  const DirectoryTree tree(std::move(entries));
  std::vector<DirectoryTree::Place> places(tree.blocks());
  for (DirectoryTree::Place& place : places) {
    CO_TRY(place.number, inventory_.take(Unit::directory_block));
    CO_TRY(place.version,
           co_await next_version(Unit::directory_block, format::directory_block(place.number)));
    directory_blocks_.insert(place.number);
  }
  CO_TRY_STATUS(co_await inventory_.write_marks(*writer_));
  auto blocks = tree.encode(node.number, places);
  for (auto& [id, block] : blocks) CO_TRY_STATUS(co_await writer_->replace(id, std::move(block)));
  node.directory_levels = tree.levels();
  node.directory_root = places.empty() ? 0 : places.back().number;
  node.directory_entries = node.entries;
  CO_TRY(Bytes block, co_await read(format::inode_block(node.number)));
  InodeEditor inode(block);
  inode.directory_levels(node.directory_levels);
  inode.directory_root(node.directory_root);
  inode.directory_entries(node.entries);
  MutableByteView area = inode.inline_area();
  std::fill(area.begin(), area.end(), std::byte{0});
  if (tree.levels() == 0) {
    const Bytes list = tree.inline_area();
    std::copy(list.begin(), list.end(), area.begin());
  }
  co_return co_await writer_->change(format::inode_block(node.number), std::move(block));
}

// ---- lost+found ----

// The directory's inode. A new one is made, with its entry in the root, if there is none.
Task<Result<std::uint64_t>> Repairer::lost_and_found() {
  std::string name = lost_and_found_name;
  for (int i = 2; root_names_.contains(name); ++i) {
    if (root_names_[name] != 0) co_return root_names_[name];
    name = absl::StrCat(lost_and_found_name, i);
  }
  Node node;
  CO_TRY(node.number, inventory_.take(Unit::inode));
  CO_TRY(const std::uint64_t version,
         co_await next_version(Unit::inode, format::inode_block(node.number)));
  CO_TRY_STATUS(co_await inventory_.write_marks(*writer_));
  // For the administrator alone: the directories above may have hidden what comes in. Without links
  // until an entry leads to it, so that it is free again if we do not get there.
  Bytes block = new_directory(node.number, version, 0700);
  InodeEditor(block).links(0);
  CO_TRY_STATUS(co_await writer_->replace(format::inode_block(node.number), std::move(block)));
  CO_TRY_STATUS(co_await writer_->settle());
  node.mode = directory_type | 0700;
  node.is_new = true;
  node.parent = node.place = root_inode;
  node.references = 1;
  inventory_.add_node(node);
  account_.repaired(absl::StrCat("/", name, " is new, directory ", node.number));
  std::vector<Entry> entry{{0, node.number, directory_type >> 12, name}};
  CO_TRY_STATUS(co_await add_entries(root_inode, std::move(entry)));
  co_return node.number;
}

Task<Status> Repairer::add_entries(std::uint64_t directory, std::vector<Entry> entries) {
  CO_TRY_STATUS(co_await writer_->settle());
  Node& node = *inventory_.find(directory);
  CO_TRY(const DirectoryContents contents, co_await read_directory(reader_, inventory_, node));
  std::vector<Entry> all;
  std::set<std::string> names;
  for (const auto& list : contents.lists) {
    for (const Entry& entry : list.entries) {
      names.insert(entry.name);
      all.push_back(entry);
    }
  }
  for (Entry& entry : entries) {
    std::string name = entry.name;
    for (int i = 2; !names.insert(name).second; ++i) name = absl::StrCat(entry.name, ".", i);
    entry.name = std::move(name);
    if (entry.type == directory_type >> 12) ++node.subdirectories;
    all.push_back(std::move(entry));
  }
  SortedEntries sorted = sort_entries(std::move(all), superblock_.hash_seed);
  if (!sorted.dropped.empty()) {  // Nine names of one hash: it takes a seed that somebody chose.
    co_return fail(Errc::no_space, "too many names of one hash in a directory");
  }
  for (const std::uint64_t block : contents.blocks) directory_blocks_.erase(block);
  node.entries = sorted.entries.size();
  CO_TRY_STATUS(co_await make_anew(node, std::move(sorted.entries)));
  co_return co_await writer_->settle();
}

Task<Status> Repairer::fill_lost_and_found() {
  std::vector<Entry> entries;
  for (Node& node : inventory_.nodes()) {
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
    Node& node = *inventory_.find(entry.inode);
    account_.repaired(absl::StrCat(name_of(node), ", to which no entry leads, is in ",
                                   lost_and_found_name, " as ", entry.name));
    node.references = 1;
    node.place = place;
  }
  found_ = entries.size();
  co_return co_await add_entries(place, std::move(entries));
}

// ---- Inodes ----

void Repairer::tell_of_inode(const Node& node, std::uint32_t links, std::uint64_t parent) {
  const std::string name = name_of(node);
  if (node.links != links) {
    account_.repaired(absl::StrCat(name, " had ", node.links, " links, counted are ", links));
  }
  if (!node.is_directory()) return;
  if (node.parent != parent) {
    account_.repaired(absl::StrCat(name, " had parent ", node.parent, ", it stands in ", parent));
  }
  if (node.directory_entries != node.entries) {
    account_.repaired(
        absl::StrCat(name, " counted ", node.directory_entries, " entries, it has ", node.entries));
  }
}

Task<Status> Repairer::repair_inodes() {
  for (const Node& node : inventory_.nodes()) {
    if (node.is_orphan) continue;
    const bool is_directory = node.is_directory();
    const std::uint32_t links = is_directory ? 2 + node.subdirectories : node.references;
    const std::uint64_t parent = node.number == root_inode ? root_inode : node.place;
    const bool moves = is_directory && node.parent != parent;
    const bool miscounts = is_directory && node.directory_entries != node.entries;
    if (node.links == links && !moves && !miscounts) continue;
    if (!node.is_new) tell_of_inode(node, links, parent);
    show_progress("inodes written", writer_->written());
    CO_TRY(Bytes block, co_await read(format::inode_block(node.number)));
    InodeEditor inode(block);
    inode.links(links);
    if (is_directory) {
      inode.parent(parent);
      inode.directory_entries(node.entries);
    }
    CO_TRY_STATUS(co_await writer_->change(format::inode_block(node.number), std::move(block)));
  }
  co_return co_await writer_->settle();
}

Task<Status> Repairer::free_inodes() {
  for (const auto& [number, claim] : inventory_.damaged_inodes()) {
    if (number == root_inode) continue;  // It has got a new block.
    const std::uint64_t version = std::max(claim, inventory_.floor_of(Unit::inode, number)) + 1;
    Bytes block(format::block_size);
    format::format_block(block, BlockType::inode, number, version);
    CO_TRY_STATUS(co_await writer_->replace(format::inode_block(number), std::move(block)));
  }
  for (const Node& node : inventory_.nodes()) {
    if (!node.is_orphan || inventory_.orphan_inodes().contains(node.number)) continue;
    account_.repaired(
        absl::StrCat(name_of(node), " was deleted and stood in no orphan list: it is free now"));
    CO_TRY(Bytes block, co_await read(format::inode_block(node.number)));
    const std::uint64_t generation = InodeView(block).generation();
    format::format_block(block, BlockType::inode, node.number, format::version_of(block));
    InodeEditor(block).generation(generation);
    CO_TRY_STATUS(co_await writer_->change(format::inode_block(node.number), std::move(block)));
  }
  co_return co_await writer_->settle();
}

// ---- Space ----

Task<Status> Repairer::repair_orphan_lists() {
  const std::uint64_t base = format::orphan_segment_base;
  CO_TRY(const auto segments, co_await reader_.segments(base, base + format::slot_limit));
  for (const std::uint64_t segment : segments) {
    CO_TRY_STATUS(co_await repair_orphan_list(static_cast<std::uint32_t>(segment - base)));
  }
  co_return co_await writer_->settle();
}

Task<Status> Repairer::repair_orphan_list(std::uint32_t slot) {
  std::map<std::uint64_t, Bytes> blocks;
  auto keep = [&blocks](BlockId id, ByteView block) { blocks.emplace(id.number, to_bytes(block)); };
  CO_TRY_STATUS(co_await reader_.each_block(format::orphan_segment(slot), std::move(keep)));
  if (blocks.empty()) co_return Status{};
  // A list ends at its first block of zeros, so a gap would hide what is behind it.
  const std::uint64_t last = blocks.rbegin()->first;
  if (last < blocks.size() + orphan_gap_max) {
    for (std::uint64_t number = 0; number < last; ++number) blocks.try_emplace(number);
  }
  std::set<std::pair<OrphanKind, std::uint64_t>> seen;
  for (auto& [number, block] : blocks) {
    const BlockId id = format::orphan_block(slot, number);
    Status status = block.empty() ? fail(Errc::corrupt, absl::StrCat(to_string(id), " (empty)"))
                                  : format::verify(block, id);
    if (status) status = format::check_orphan_list(block, id, slot);
    if (!status) {
      account_.repaired(absl::StrCat(status.error().what, ": emptied; what stood there is free"));
      const std::uint64_t claim = block.empty() ? 0 : claimed_version(block);
      Bytes fresh(format::block_size);
      format::format_block(fresh, BlockType::orphan_list, slot, claim + 1);
      CO_TRY_STATUS(co_await writer_->replace(id, std::move(fresh)));
      continue;
    }
    bool has_changed = false;
    for (std::size_t i = 0; i < format::orphans_per_block; ++i) {
      const format::Orphan orphan = format::orphan_at(block, i);
      if (orphan.kind == OrphanKind::none) continue;
      const bool is_known = orphan.kind <= OrphanKind::pending_segment;
      const bool is_wrong = !is_known || (orphan.kind != OrphanKind::inode &&
                                          inventory_.is_owned_segment(orphan.number));
      if (!is_wrong && seen.emplace(orphan.kind, orphan.number).second) continue;
      account_.repaired(absl::StrCat(to_string(id), ": an entry that cannot be is gone"));
      format::set_orphan(block, i, {});
      has_changed = true;
    }
    if (has_changed) CO_TRY_STATUS(co_await writer_->change(id, std::move(block)));
  }
  co_return Status{};
}

Task<Status> Repairer::repair_pieces() {
  auto inode = [this](BlockId id, ByteView block) {
    show_progress("inodes counted", id.number);
    if (format::verify(block, id)) count_.see_inode(id, block);
  };
  CO_TRY_STATUS(co_await reader_.each_block(format::inode_segment, std::move(inode)));
  for (const std::uint64_t block : directory_blocks_) count_.use_directory_block(block);
  auto other = [this](BlockId id, ByteView block) { count_.see_directory_block(id, block); };
  CO_TRY_STATUS(co_await reader_.each_block(format::directory_segment, std::move(other)));
  CO_TRY(segments_, co_await reader_.segments(format::data_segment_bit, ~std::uint64_t{0}));
  for (const std::uint64_t segment : segments_) count_.see_segment(segment);
  for (const std::uint64_t segment : inventory_.orphan_segments()) {
    if (format::is_data_segment(segment)) count_.see_segment(segment);
  }
  auto corrections = count_.corrections(inventory_.pieces(), inventory_.damaged_pieces());
  for (PieceCount::Correction& correction : corrections) {
    const BlockId id = format::piece_block(correction.number);
    if (!inventory_.damaged_pieces().contains(correction.number)) {
      account_.repaired(absl::StrCat(to_string(id), ": ", correction.what));
    }
    if (correction.is_new) {
      CO_TRY_STATUS(co_await writer_->replace(id, std::move(correction.block)));
    } else {
      CO_TRY_STATUS(co_await writer_->change(id, std::move(correction.block)));
    }
  }
  co_return co_await writer_->settle();
}

Task<Status> Repairer::discard_segments() {
  for (const std::uint64_t segment : segments_) {
    if (count_.is_owned(segment) || inventory_.orphan_segments().contains(segment)) continue;
    account_.repaired(absl::StrCat("data segment ", absl::Hex(segment),
                                   " holds data that no file has: discarded"));
    CO_TRY_STATUS(co_await writer_->discard(segment));
  }
  co_return co_await writer_->settle();
}

}  // namespace

Task<Result<RepairReport>> repair(World world, disk::VirtualDisk& disk, RepairOptions options) {
  Repairer repairer(world, disk, std::move(options));
  co_return co_await repairer.run();
}

}  // namespace plumeria::check
