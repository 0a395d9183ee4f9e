// Checks the entries of one directory and the blocks of its index.
#pragma once

#include <cstdint>
#include <string>

#include "base/bytes.h"
#include "base/task.h"
#include "check/census.h"
#include "check/findings.h"
#include "check/store_reader.h"

namespace plumeria::check {

class DirectoryWalk {
 public:
  DirectoryWalk(StoreReader& reader, Census& census, Findings& findings, std::uint64_t hash_seed)
      : reader_(reader), census_(census), findings_(findings), hash_seed_(hash_seed) {}

  // Tells the census every entry and block. Errors: those of the disk.
  Task<Status> walk(InodeInfo directory);

 private:
  // A part of the index: the block and the cookies that may stand below it, [low, high).
  struct Part {
    std::uint64_t block = 0;
    std::uint32_t level = 0;  // 1: a leaf
    std::uint64_t low = 0, high = 0;
  };
  Task<Status> walk_part(Part part, Bytes block);
  Status check_block(const Part& part, ByteView block) const;
  void check_list(std::string where, ByteView area, std::uint64_t low, std::uint64_t high);
  void check_entry(const std::string& where, const format::EntryView& entry);

  StoreReader& reader_;
  Census& census_;
  Findings& findings_;
  const std::uint64_t hash_seed_;
  std::uint64_t directory_ = 0;
  std::uint64_t entries_ = 0;
};

}  // namespace plumeria::check
