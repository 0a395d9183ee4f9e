// The bytes of one file that were written and are not on the disk yet: disjoint runs, in order. A
// plain container; it does no I/O.
#pragma once

#include <cstdint>
#include <map>

#include "base/bytes.h"

namespace plumeria::cache {

class DirtyData {
 public:
  // Newer bytes replace older ones. Requires: data is not empty, offset + size does not overflow.
  void insert(std::uint64_t offset, SharedBytes data);
  // The same, but only where nothing newer is.
  void insert_below(std::uint64_t offset, SharedBytes data);
  // Forgets everything in [from, to).
  void erase(std::uint64_t from, std::uint64_t to);
  void truncate(std::uint64_t size) { erase(size, ~std::uint64_t{0}); }
  void clear() {
    runs_.clear();
    bytes_ = 0;
  }

  // Copies what is here of [offset, offset + to.size()) over `to`.
  void overlay(std::uint64_t offset, MutableByteView to) const;
  // The runs that overlap [from, to), whole.
  DirtyData overlapping(std::uint64_t from, std::uint64_t to) const;
  // Whether all of [from, to) is here.
  bool covers(std::uint64_t from, std::uint64_t to) const;

  bool empty() const { return runs_.empty(); }
  std::uint64_t bytes() const { return bytes_; }
  const std::map<std::uint64_t, SharedBytes>& runs() const { return runs_; }

 private:
  std::map<std::uint64_t, SharedBytes> runs_;  // by offset
  std::uint64_t bytes_ = 0;
};

}  // namespace plumeria::cache
