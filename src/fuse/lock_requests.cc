#include "fuse/lock_requests.h"

#include "base/number.h"

namespace plumeria::fuse {

Task<void> LockRequests::test(Request request, fuse_lk_in in) {
  auto found = co_await operations_.test_file_lock(decode_lock(raw(request.inode), in));
  if (!found) {
    replies_.failed(request, found.error());
    co_return;
  }
  replies_.with(request, encode_lock(*found));
}

Task<void> LockRequests::set(Request request, fuse_lk_in in, bool wait) {
  const clerk::FileLock lock = decode_lock(raw(request.inode), in);
  // From the first fcntl lock on, closing a descriptor of this file drops its owner's locks.
  if (!lock.is_flock && lock.mode != lock::Mode::none) {
    owners_[request.inode].insert(lock.owner);
  }
  if (wait) waiting_.insert(request.unique);
  auto done = co_await operations_.set_file_lock(lock, wait, request.unique);
  if (wait) waiting_.erase(request.unique);
  replies_.status(request, done);
}

void LockRequests::interrupt(std::uint64_t unique) {
  if (waiting_.contains(unique)) operations_.cancel_file_lock(unique);
}

bool LockRequests::had_any(fs::InodeNumber inode, std::uint64_t owner) {
  const auto owners = owners_.find(inode);
  return owners != owners_.end() && owners->second.erase(owner) > 0;
}

Task<void> LockRequests::flush(Request request, fuse_flush_in in) {
  auto done = co_await operations_.drop_file_locks(request.inode, false, in.lock_owner);
  replies_.status(request, done);
}

Task<void> LockRequests::closed(fs::InodeNumber inode) {
  const auto found = owners_.find(inode);
  if (found == owners_.end()) co_return;
  const std::set<std::uint64_t> owners = std::move(found->second);
  owners_.erase(found);
  for (const std::uint64_t owner : owners) {
    (void)co_await operations_.drop_file_locks(inode, false, owner);
  }
}

}  // namespace plumeria::fuse
