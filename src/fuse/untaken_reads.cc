#include "fuse/untaken_reads.h"

namespace plumeria::fuse {

void UntakenReads::sent(std::uint32_t thread, fs::InodeNumber inode, Range range) {
  if (thread == 0) return;  // of a thread that another process space hides, or of the kernel
  if (reads_.size() >= limit) {
    for (auto at = reads_.begin(); at != reads_.end();) {
      const bool taken = at->second.looks.is_taken(look_(at->first));
      at = taken ? reads_.erase(at) : std::next(at);
    }
  }
  reads_[thread] = Read{inode, pages_touched(range), {}};
}

bool UntakenReads::any(fs::InodeNumber inode, Range range) {
  const Range pages = pages_touched(range);
  bool found = false;
  for (auto at = reads_.begin(); at != reads_.end();) {
    auto& [thread, read] = *at;
    const bool overlaps =
        read.inode == inode && read.pages.begin < pages.end && pages.begin < read.pages.end;
    if (overlaps && read.looks.is_taken(look_(thread))) {
      at = reads_.erase(at);
      continue;
    }
    found |= overlaps;
    ++at;
  }
  return found;
}

}  // namespace plumeria::fuse
