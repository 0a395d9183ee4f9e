// Goes through all blocks of one directory and hands out its entry lists.
#pragma once

#include <cstdint>
#include <string>

#include "base/bytes.h"
#include "base/task.h"
#include "check/store_reader.h"
#include "format/block.h"

namespace plumeria::check {

// Where a directory's entries lie, as its inode says.
struct DirectoryPlace {
  std::uint64_t number = 0;  // its inode
  std::uint64_t root = 0;
  std::uint32_t levels = 0;  // 0: the entries are in the inode
};

// An entry list, and the cookies that may stand in it: [low, high).
struct ListPlace {
  std::uint64_t block = 0;  // 0: in the inode
  std::uint64_t low = 0, high = 0;
};
std::string to_string(ListPlace list, std::uint64_t directory);

class DirectoryVisitor {
 public:
  virtual ~DirectoryVisitor() = default;
  // The index uses this block. False: it is not to be looked at.
  virtual bool use_block(std::uint64_t block) = 0;
  virtual void fault(std::string what) = 0;
  // Entries are only known to be readable.
  virtual void list(ListPlace place, ByteView area) = 0;
};

class DirectoryWalk {
 public:
  DirectoryWalk(StoreReader& reader, DirectoryVisitor& visitor)
      : reader_(reader), visitor_(visitor) {}

  // Requires: the inode is whole. What is below a damaged block is left out. Errors: the disk's.
  Task<Status> walk(DirectoryPlace directory);

 private:
  // A part of the index: the block and the cookies that may stand below it, [low, high).
  struct Part {
    std::uint64_t block = 0;
    std::uint32_t level = 0;  // 1: a leaf
    std::uint64_t low = 0, high = 0;
  };
  Task<Status> walk_part(Part part, Bytes block);
  bool use(std::uint64_t block);
  Status check_block(const Part& part, ByteView block) const;

  StoreReader& reader_;
  DirectoryVisitor& visitor_;
  std::uint64_t directory_ = 0;
};

}  // namespace plumeria::check
