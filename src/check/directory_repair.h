// The step of a repair that deals with directories: takes entries away that lead nowhere, makes
// damaged indexes anew, and counts for each inode what names it.
//
// Requires: everything is settled when a function is called; it is settled again afterwards.
#pragma once

#include <absl/container/flat_hash_set.h>

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "check/directory_contents.h"
#include "check/directory_tree.h"
#include "check/repair_parts.h"

namespace plumeria::check {

class DirectoryRepair {
 public:
  explicit DirectoryRepair(RepairParts& parts) : parts_(parts) {}

  // Reads all of them, and decides where each hangs: `place` of the inventory's nodes.
  Task<Status> plan();
  // Afterwards `references`, `subdirectories` and `entries` of the nodes are right.
  Task<Status> repair_all();
  // A name that is taken gets a number behind it.
  Task<Status> add_entries(std::uint64_t directory, std::vector<Entry> entries);

  // Of all indexes, as they are now.
  const absl::flat_hash_set<std::uint64_t>& blocks() const { return blocks_; }
  // The names in the root, and which directories they name; 0: something else.
  const std::map<std::string, std::uint64_t>& root_names() const { return root_names_; }

 private:
  // What becomes of the entries of one directory.
  struct Verdict {
    std::vector<Entry> kept;
    std::map<std::uint64_t, std::set<std::uint64_t>> dropped;  // cookies, by block
    std::map<std::uint64_t, Entry> retyped;                    // by cookie
  };

  Task<Status> repair(Node& node);
  Verdict judge(Node& node, const DirectoryContents& contents);
  std::optional<std::string> why_dropped(const Node& directory, const Entry& entry,
                                         const Node* child) const;
  void drop_unsorted(Node& node, const SortedEntries& sorted);
  void count(Node& node, const std::vector<Entry>& entries);
  void tell_of_index(const Node& node, const DirectoryContents& contents);
  Task<Status> edit_lists(Node& node, DirectoryContents before, Verdict verdict);
  Task<Status> make_anew(Node& node, std::vector<Entry> entries);

  RepairParts& parts_;
  absl::flat_hash_set<std::uint64_t> blocks_;
  std::map<std::string, std::uint64_t> root_names_;
};

}  // namespace plumeria::check
