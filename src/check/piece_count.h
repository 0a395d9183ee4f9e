// Counts what is in use, and makes the allocation pieces say so.
//
// To be fed when all inodes are as they will be: each block of the inodes' region, the directory
// blocks in use, and all blocks of their region.
#pragma once

#include <absl/container/flat_hash_set.h>

#include <cstdint>
#include <map>
#include <string>

#include "base/bytes.h"
#include "check/inventory.h"
#include "format/block.h"
#include "format/piece.h"

namespace plumeria::check {

class PieceCount {
 public:
  void see_inode(format::BlockId id, ByteView block);
  void use_directory_block(std::uint64_t number);
  void see_directory_block(format::BlockId id, ByteView block);  // after those in use
  // That holds something, or is to be discarded.
  void see_segment(std::uint64_t segment);
  bool is_owned(std::uint64_t segment) const { return owned_segments_.contains(segment); }

  // What a piece must say, with the version of `before`, which is whole, or 0 without one.
  // Nothing if that is so already, or if nothing is known about it.
  struct Correction {
    std::uint64_t number = 0;
    Bytes block;
    std::string what;  // has changed
    bool is_new = false;
  };
  std::vector<Correction> corrections(const std::map<std::uint64_t, Bytes>& before,
                                      const std::map<std::uint64_t, std::uint64_t>& damaged) const;

 private:
  struct Count {
    Bytes block;  // its bitmaps and counts
    std::uint64_t floor = 0, next_segment = 0;
  };
  Count& count_of(std::uint64_t piece);
  void use(format::Unit unit, std::uint64_t number);

  std::map<std::uint64_t, Count> counts_;
  absl::flat_hash_set<std::uint64_t> owned_segments_, directory_blocks_;
};

}  // namespace plumeria::check
