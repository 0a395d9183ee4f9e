// All entries of one directory that can still be read.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/task.h"
#include "check/directory_tree.h"
#include "check/inventory.h"
#include "check/store_reader.h"

namespace plumeria::check {

struct DirectoryContents {
  struct List {
    std::uint64_t block = 0;  // 0: in the inode
    std::vector<Entry> entries;
  };
  std::vector<List> lists;
  std::vector<std::uint64_t> blocks;  // of the index, in use
  // What is wrong with the index. Then it must be made anew, and `lists` also has the leaves that
  // it does not lead to any more.
  std::vector<std::string> faults;
};

// Requires: the directory's inode is whole. Errors: the disk's.
Task<Result<DirectoryContents>> read_directory(StoreReader& reader, const Inventory& inventory,
                                               Node directory);

}  // namespace plumeria::check
