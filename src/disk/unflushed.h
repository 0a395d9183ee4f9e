// The segments in which a handle's callers have changes that no flush has covered yet.
//
// Pure bookkeeping: a change is noted when it has been acknowledged; a flush asks for the segments
// when it begins and tells when it has succeeded. A flush that is under way covers nothing yet, so
// one that begins meanwhile names the same segments again.
#pragma once

#include <absl/container/btree_map.h>

#include <cstdint>
#include <vector>

#include "disk/disk.h"

namespace plumeria::disk {

class Unflushed {
 public:
  // Up to which change a flush covers.
  using Mark = std::uint64_t;

  void changed(Segment segment) { segments_[segment] = ++last_; }
  Mark begin() const { return last_; }
  std::vector<Segment> segments() const {  // ascending
    std::vector<Segment> all;
    all.reserve(segments_.size());
    for (const auto& [segment, change] : segments_) all.push_back(segment);
    return all;
  }
  // A flush of all segments() of the time of `mark` has succeeded.
  void covered(Mark mark) {
    absl::erase_if(segments_, [mark](const auto& entry) { return entry.second <= mark; });
  }

 private:
  absl::btree_map<Segment, Mark> segments_;  // → its last change
  Mark last_ = 0;
};

}  // namespace plumeria::disk
