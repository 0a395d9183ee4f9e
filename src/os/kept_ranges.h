// Which bytes of one segment a snapshot keeps, and where in its data file each of them lies.
//
// Pure. Invariant: ranges do not overlap; those that follow one another in both places are one.
#pragma once

#include <absl/container/btree_map.h>

#include <cstdint>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

namespace plumeria::os {

constexpr std::uint64_t no_end = std::numeric_limits<std::uint64_t>::max();

struct Range {
  std::uint64_t from = 0, end = 0;  // bytes
  friend bool operator==(const Range&, const Range&) = default;
};

class KeptRanges {
 public:
  static constexpr std::uint64_t zeros = no_end;  // kept, but nowhere: they were zeros

  struct Found {
    bool is_kept = false;
    std::uint64_t end = no_end;  // of the run of bytes that are kept together, or are not
    std::uint64_t place = 0;     // of the byte asked for; or `zeros`
  };
  Found find(std::uint64_t offset) const;
  // What of [from, end) is not kept.
  std::vector<Range> gaps(std::uint64_t from, std::uint64_t end) const;
  // Requires: nothing of it is kept yet.
  void insert(Range range, std::uint64_t place);
  // What is kept with bytes, for a walk: range and place.
  std::vector<std::pair<Range, std::uint64_t>> with_bytes() const;
  bool has_bytes() const;
  std::size_t size() const { return ranges_.size(); }

 private:
  struct Kept {
    std::uint64_t end = 0, place = 0;
  };
  absl::btree_map<std::uint64_t, Kept> ranges_;  // by their first byte
};

}  // namespace plumeria::os
