#include "check/directory_repair.h"

#include <absl/strings/escaping.h>
#include <absl/strings/str_cat.h>

#include <algorithm>
#include <utility>

#include "check/entry_checker.h"
#include "check/tree_plan.h"
#include "format/inode.h"

namespace plumeria::check {
namespace {

using format::BlockId;
using format::InodeEditor;
using format::Unit;

constexpr std::uint8_t directory_entry_type = 4;  // S_IFDIR >> 12

std::string name_of(const Node& directory, const Entry& entry) {
  return absl::StrCat("directory ", directory.number, ", entry \"", absl::CEscape(entry.name),
                      "\"");
}

}  // namespace

Task<Status> DirectoryRepair::plan() {
  std::vector<DirectoryEdge> edges;
  std::uint64_t done = 0;
  for (const Node& node : parts_.inventory.nodes()) {
    if (!node.is_directory()) continue;
    CO_TRY_STATUS(parts_.go_on());
    parts_.show_progress("directories read", ++done);
    CO_TRY(const DirectoryContents contents,
           co_await read_directory(parts_.reader, parts_.inventory, node));
    for (const std::uint64_t block : contents.blocks) parts_.inventory.use_directory_block(block);
    for (const auto& list : contents.lists) {
      for (const Entry& entry : list.entries) {
        const Node* child = parts_.inventory.find(entry.inode);
        if (child != nullptr && child->is_directory()) edges.push_back({node.number, entry.inode});
      }
    }
  }
  plan_tree(parts_.inventory.nodes(), edges);
  co_return Status{};
}

std::optional<std::string> DirectoryRepair::why_dropped(const Node& directory, const Entry& entry,
                                                        const Node* child) const {
  if (directory.is_orphan) return "the directory is deleted";
  if (!is_possible_name(entry.name)) return "no name can be like that";
  if (child == nullptr) {
    return absl::StrCat("inode ", entry.inode,
                        parts_.inventory.is_lost(entry.inode) ? " is lost" : " is free");
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

Task<Status> DirectoryRepair::repair_all() {
  std::uint64_t done = 0;
  for (Node& node : parts_.inventory.nodes()) {
    if (!node.is_directory()) continue;
    CO_TRY_STATUS(parts_.go_on());
    parts_.show_progress("directories", ++done);
    CO_TRY_STATUS(co_await repair(node));
  }
  co_return co_await parts_.writer.settle();
}

void DirectoryRepair::tell_of_index(const Node& node, const DirectoryContents& contents) {
  for (const std::string& fault : contents.faults) {
    parts_.account.repaired(absl::StrCat(fault, "; directory ", node.number, " is made anew"));
  }
  if (contents.faults.empty()) return;
  std::uint64_t found = 0;
  for (const auto& list : contents.lists) found += list.entries.size();
  if (node.index_is_lost) {
    parts_.account.lost(absl::StrCat("names of directory ", node.number, "; found are ", found));
  } else if (found < node.directory_entries) {
    parts_.account.lost(
        absl::StrCat(node.directory_entries - found, " names of directory ", node.number));
  }
}

DirectoryRepair::Verdict DirectoryRepair::judge(Node& node, const DirectoryContents& contents) {
  Verdict verdict;
  for (const auto& list : contents.lists) {
    for (const Entry& entry : list.entries) {
      Node* child = parts_.inventory.find(entry.inode);
      if (const auto why = why_dropped(node, entry, child)) {
        parts_.account.lost(absl::StrCat(name_of(node, entry), ": ", *why));
        ++node.entries_gone;
        verdict.dropped[list.block].insert(entry.cookie);
        continue;
      }
      verdict.kept.push_back(entry);
      const auto type = static_cast<std::uint8_t>(child->mode >> 12);
      if (entry.type != type) {
        parts_.account.repaired(absl::StrCat(name_of(node, entry), ": had type ", entry.type,
                                             ", inode ", entry.inode, " has ", type));
        verdict.kept.back().type = type;
        verdict.retyped.emplace(entry.cookie, verdict.kept.back());
      }
      // Counted at once, so that a second name of a directory is seen.
      if (child->is_directory()) ++child->references;
    }
  }
  return verdict;
}

void DirectoryRepair::drop_unsorted(Node& node, const SortedEntries& sorted) {
  for (const Entry& entry : sorted.dropped) {
    parts_.account.lost(absl::StrCat(name_of(node, entry), ": there is another one of this name"));
    ++node.entries_gone;
    Node* child = parts_.inventory.find(entry.inode);
    if (child->is_directory()) --child->references;
  }
}

void DirectoryRepair::count(Node& node, const std::vector<Entry>& entries) {
  node.entries = entries.size();
  for (const Entry& entry : entries) {
    Node* child = parts_.inventory.find(entry.inode);
    if (child->is_directory()) {
      ++node.subdirectories;
    } else {
      ++child->references;
    }
    if (node.number == root_inode) {
      root_names_.emplace(entry.name, child->is_directory() ? entry.inode : 0);
    }
  }
}

Task<Status> DirectoryRepair::repair(Node& node) {
  // What is to be freed anyway is not looked at.
  if (node.is_orphan && !parts_.inventory.orphan_inodes().contains(node.number)) co_return Status{};
  CO_TRY(DirectoryContents contents,
         co_await read_directory(parts_.reader, parts_.inventory, node));
  tell_of_index(node, contents);
  Verdict verdict = judge(node, contents);
  SortedEntries sorted = sort_entries(verdict.kept, parts_.hash_seed);
  drop_unsorted(node, sorted);
  count(node, sorted.entries);
  if (sorted.has_changed && contents.faults.empty()) {
    parts_.account.repaired(absl::StrCat("directory ", node.number, " is made anew"));
  }
  if (sorted.has_changed || !contents.faults.empty()) {
    co_return co_await make_anew(node, std::move(sorted.entries));
  }
  blocks_.insert(contents.blocks.begin(), contents.blocks.end());
  co_return co_await edit_lists(node, std::move(contents), std::move(verdict));
}

// Requires: a whole index, in which no cookie is there twice.
Task<Status> DirectoryRepair::edit_lists(Node& node, DirectoryContents before, Verdict verdict) {
  for (const DirectoryContents::List& list : before.lists) {
    const std::set<std::uint64_t>& gone = verdict.dropped[list.block];
    const auto is_retyped = [&verdict](const Entry& entry) {
      return verdict.retyped.contains(entry.cookie);
    };
    if (gone.empty() && std::none_of(list.entries.begin(), list.entries.end(), is_retyped)) {
      continue;
    }
    const BlockId id =
        list.block == 0 ? format::inode_block(node.number) : format::directory_block(list.block);
    CO_TRY(Bytes block, co_await parts_.read(id));
    MutableByteView area = list.block == 0 ? InodeEditor(block).inline_area()
                                           : format::leaf_area(MutableByteView(block));
    for (const Entry& entry : list.entries) {
      if (gone.contains(entry.cookie)) {
        format::remove_entry(area, entry.cookie);
      } else if (is_retyped(entry)) {
        format::change_entry(area, entry.cookie, entry.inode,
                             verdict.retyped.at(entry.cookie).type);
      }
    }
    CO_TRY_STATUS(co_await parts_.writer.change(id, std::move(block)));
  }
  co_return Status{};
}

// The new blocks are in place before the inode leads to them; the old ones are free when the
// allocation pieces say so.
Task<Status> DirectoryRepair::make_anew(Node& node, std::vector<Entry> entries) {
  const DirectoryTree tree(std::move(entries));
  std::vector<DirectoryTree::Place> places(tree.blocks());
  for (DirectoryTree::Place& place : places) {
    CO_TRY(place.number, parts_.inventory.take(Unit::directory_block));
    CO_TRY(place.version, co_await parts_.next_version(Unit::directory_block,
                                                       format::directory_block(place.number)));
    blocks_.insert(place.number);
  }
  CO_TRY_STATUS(co_await parts_.inventory.write_marks(parts_.writer));
  auto blocks = tree.encode(node.number, places);
  for (auto& [id, block] : blocks)
    CO_TRY_STATUS(co_await parts_.writer.replace(id, std::move(block)));
  node.directory_levels = tree.levels();
  node.directory_root = places.empty() ? 0 : places.back().number;
  node.directory_entries = node.entries;
  node.index_is_lost = false;
  CO_TRY(Bytes block, co_await parts_.read(format::inode_block(node.number)));
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
  co_return co_await parts_.writer.change(format::inode_block(node.number), std::move(block));
}

Task<Status> DirectoryRepair::add_entries(std::uint64_t directory, std::vector<Entry> entries) {
  Node& node = *parts_.inventory.find(directory);
  CO_TRY(const DirectoryContents contents,
         co_await read_directory(parts_.reader, parts_.inventory, node));
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
    if (entry.type == directory_entry_type) ++node.subdirectories;
    all.push_back(std::move(entry));
  }
  SortedEntries sorted = sort_entries(std::move(all), parts_.hash_seed);
  if (!sorted.dropped.empty()) {  // Nine names of one hash: it takes a seed that somebody chose.
    co_return fail(Errc::no_space, "too many names of one hash in a directory");
  }
  for (const std::uint64_t block : contents.blocks) blocks_.erase(block);
  node.entries = sorted.entries.size();
  CO_TRY_STATUS(co_await make_anew(node, std::move(sorted.entries)));
  co_return co_await parts_.writer.settle();
}

}  // namespace plumeria::check
