#include "fuse/untaken_reads.h"

#include <utility>

namespace plumeria::fuse {

bool UntakenReads::is_taken(std::uint32_t thread, Read& read) {
  const Taken taken = look_(thread);
  if (taken == Taken::soon) return std::exchange(read.ran, true);
  return taken != Taken::no;
}

void UntakenReads::sent(std::uint32_t thread, fs::InodeNumber inode, Range range) {
  if (thread == 0) return;  // of a thread that another process space hides, or of the kernel
  if (reads_.size() >= limit) {
    for (auto at = reads_.begin(); at != reads_.end();) {
      at = is_taken(at->first, at->second) ? reads_.erase(at) : std::next(at);
    }
  }
  reads_[thread] = Read{inode, pages_touched(range), false};
}

bool UntakenReads::any(fs::InodeNumber inode, Range range) {
  const Range pages = pages_touched(range);
  bool found = false;
  for (auto at = reads_.begin(); at != reads_.end();) {
    auto& [thread, read] = *at;
    const bool overlaps =
        read.inode == inode && read.pages.begin < pages.end && pages.begin < read.pages.end;
    if (overlaps && is_taken(thread, read)) {
      at = reads_.erase(at);
      continue;
    }
    found |= overlaps;
    ++at;
  }
  return found;
}

}  // namespace plumeria::fuse
