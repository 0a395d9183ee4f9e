// Makes a directory anew from its entries: pure functions from entries to blocks.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "format/block.h"
#include "format/directory.h"

namespace plumeria::check {

struct Entry {
  std::uint64_t cookie = 0;
  std::uint64_t inode = 0;
  std::uint8_t type = 0;  // S_IFMT >> 12
  std::string name;
};

struct SortedEntries {
  std::vector<Entry> entries;  // by cookie
  bool has_changed = false;    // beyond their order
  std::vector<Entry> dropped;  // a name that is there twice, or has no cookie left
};
// Gives each entry a cookie of its own that fits its name; keeps those that do. Of two entries of
// one name the first stays.
SortedEntries sort_entries(std::vector<Entry> entries, std::uint64_t hash_seed);

// The blocks of a directory with these entries.
class DirectoryTree {
 public:
  // Requires: sorted, as by sort_entries().
  explicit DirectoryTree(std::vector<Entry> entries);

  // 0: all fit into the inode, and no block is needed.
  std::uint32_t levels() const { return static_cast<std::uint32_t>(sizes_.size()); }
  std::size_t blocks() const;
  Bytes inline_area() const;  // Requires: levels() == 0.

  struct Place {
    std::uint64_t number = 0;
    std::uint64_t version = 0;
  };
  // The blocks at these places, not sealed; the last one is the root. Requires: blocks() places.
  std::vector<std::pair<format::BlockId, Bytes>> encode(std::uint64_t directory,
                                                        const std::vector<Place>& places) const;

 private:
  void fill_leaves();

  std::vector<Entry> entries_;
  std::vector<std::size_t> leaf_begins_;  // the first entry of each leaf
  std::vector<std::size_t> sizes_;        // blocks of each level, leaves first
};

}  // namespace plumeria::check
