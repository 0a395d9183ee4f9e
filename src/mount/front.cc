#include "mount/front.h"

#include <absl/strings/str_cat.h>

#include <utility>

#include "base/number.h"
#include "base/rare.h"

namespace plumeria::mount {

using fs::Access;
using fs::Attributes;
using fs::Caller;
using fs::Covered;
using fs::FileSystem;
using fs::InodeNumber;

void Front::serve_from(FileSystem* file_system) {
  file_system_ = file_system;
  changed_.notify_all();
}

void Front::end() {
  ended_ = true;
  changed_.notify_all();
}

Task<void> Front::drained() {
  while (running_ > 0) co_await changed_.next();
}

// Errc::lost comes from the clerk before anything was changed, so the call can be made again under
// the next lease. Requests that answer a revoke belong to the lock of this lease and are not
// repeated.
template <class R, class Call>
Task<R> Front::run(Call call, Access access) {
  for (;;) {
    // Whoever gives up a lock of the lost lease is waited for before the next one begins.
    if (file_system_ == nullptr && access == Access::under_revoke) co_return fail(Errc::lost);
    while (file_system_ == nullptr && !ended_) co_await changed_.next();
    if (ended_) co_return fail(Errc::shut_down);
    FileSystem* const before = file_system_;
    ++running_;
    R result = co_await call(*before);
    --running_;
    if (running_ == 0) changed_.notify_all();
    if (result || result.error().code != Errc::lost || access == Access::under_revoke) {
      co_return result;
    }
    while (file_system_ == before && !ended_) co_await changed_.next();
  }
}

Task<Result<Front::LookupReply>> Front::lookup(InodeNumber parent, std::string name) {
  return run<Result<LookupReply>>([=](FileSystem& f) { return f.lookup(parent, name); });
}
void Front::forget(InodeNumber inode) {
  if (file_system_ != nullptr) file_system_->forget(inode);
}
Task<Result<Covered<Attributes>>> Front::getattr(InodeNumber inode) {
  return run<Result<Covered<Attributes>>>([=](FileSystem& f) { return f.getattr(inode); });
}
Task<Result<clerk::Pin>> Front::keep(InodeNumber inode) {
  return run<Result<clerk::Pin>>([=](FileSystem& f) { return f.keep(inode); });
}
Task<Result<Covered<Attributes>>> Front::getattr_under_revoke(InodeNumber inode) {
  return run<Result<Covered<Attributes>>>(
      [=](FileSystem& f) { return f.getattr_under_revoke(inode); }, Access::under_revoke);
}
Task<Result<Covered<Attributes>>> Front::getattr_unless_revoked(InodeNumber inode,
                                                                lock::Mode mode) {
  return run<Result<Covered<Attributes>>>(
      [=](FileSystem& f) { return f.getattr_unless_revoked(inode, mode); });
}
Task<Result<Covered<Attributes>>> Front::setattr(InodeNumber inode, fs::Changes changes,
                                                 Caller caller, Access access) {
  return run<Result<Covered<Attributes>>>(
      [=](FileSystem& f) { return f.setattr(inode, changes, caller, access); }, access);
}
Task<Result<std::string>> Front::readlink(InodeNumber inode) {
  return run<Result<std::string>>([=](FileSystem& f) { return f.readlink(inode); });
}
Task<Result<Covered<Attributes>>> Front::mknod(InodeNumber parent, std::string name,
                                               std::uint32_t mode, std::uint32_t rdev,
                                               Caller caller) {
  return run<Result<Covered<Attributes>>>(
      [=](FileSystem& f) { return f.mknod(parent, name, mode, rdev, caller); });
}
Task<Result<Covered<Attributes>>> Front::mkdir(InodeNumber parent, std::string name,
                                               std::uint32_t mode, Caller caller) {
  return run<Result<Covered<Attributes>>>(
      [=](FileSystem& f) { return f.mkdir(parent, name, mode, caller); });
}
Task<Result<Covered<Attributes>>> Front::symlink(InodeNumber parent, std::string name,
                                                 std::string target, Caller caller) {
  return run<Result<Covered<Attributes>>>(
      [=](FileSystem& f) { return f.symlink(parent, name, target, caller); });
}
Task<Result<Covered<Attributes>>> Front::link(InodeNumber inode, InodeNumber parent,
                                              std::string name) {
  return run<Result<Covered<Attributes>>>(
      [=](FileSystem& f) { return f.link(inode, parent, name); });
}
Task<Status> Front::unlink(InodeNumber parent, std::string name) {
  return run<Status>([=](FileSystem& f) { return f.unlink(parent, name); });
}
Task<Status> Front::rmdir(InodeNumber parent, std::string name) {
  return run<Status>([=](FileSystem& f) { return f.rmdir(parent, name); });
}
Task<Status> Front::rename(InodeNumber parent, std::string name, InodeNumber new_parent,
                           std::string new_name, std::uint32_t flags) {
  return run<Status>(
      [=](FileSystem& f) { return f.rename(parent, name, new_parent, new_name, flags); });
}
Task<Result<Front::CreateReply>> Front::create(InodeNumber parent, std::string name,
                                               std::uint32_t mode, std::uint32_t flags,
                                               Caller caller) {
  return run<Result<CreateReply>>(
      [=](FileSystem& f) { return f.create(parent, name, mode, flags, caller); });
}
Task<Result<fs::HandleId>> Front::open(InodeNumber inode, std::uint32_t flags) {
  return run<Result<fs::HandleId>>([=](FileSystem& f) { return f.open(inode, flags); });
}
Task<Status> Front::release(fs::HandleId handle) {
  return run<Status>([=](FileSystem& f) { return f.release(handle); });
}
Task<Result<Bytes>> Front::read(InodeNumber inode, std::uint64_t offset, std::uint32_t size,
                                Access access) {
  return run<Result<Bytes>>([=](FileSystem& f) { return f.read(inode, offset, size, access); },
                            access);
}
std::vector<InodeNumber> Front::take_refused() {
  const std::set<InodeNumber> refused = std::exchange(refused_, {});
  return {refused.begin(), refused.end()};
}

Result<fs::WriteReply> Front::refuse(InodeNumber inode) {
  rarely<"mount: a mapped page of a lost lease is refused">();
  refused_.insert(inode);
  if (file_system_ != nullptr) file_system_->note_lost(inode);
  return fail(Errc::io, absl::StrCat("inode ", raw(inode),
                                     ": a page that was changed under a lease that is lost"));
}

// Never repeated under the next lease: what the page holds may be older than what others wrote.
Task<Result<fs::WriteReply>> Front::write_mapped(InodeNumber inode, std::uint64_t offset,
                                                 SharedBytes data, bool kill_suid, Access access) {
  if (ended_) co_return fail(Errc::shut_down);
  if (refusing_mapped_ || file_system_ == nullptr) co_return refuse(inode);
  FileSystem* const before = file_system_;
  ++running_;
  auto written = co_await before->write_mapped(inode, offset, std::move(data), kill_suid, access);
  --running_;
  if (running_ == 0) changed_.notify_all();
  if (!written && written.error().code == Errc::lost) co_return refuse(inode);
  co_return written;
}
Task<Result<fs::WriteReply>> Front::write(InodeNumber inode, std::uint64_t offset, SharedBytes data,
                                          bool append, bool kill_suid, Access access) {
  return run<Result<fs::WriteReply>>(
      [=](FileSystem& f) { return f.write(inode, offset, data, append, kill_suid, access); },
      access);
}
Task<Status> Front::fallocate(InodeNumber inode, std::uint64_t offset, std::uint64_t length,
                              std::uint32_t mode, Access access) {
  return run<Status>(
      [=](FileSystem& f) { return f.fallocate(inode, offset, length, mode, access); }, access);
}
Task<Result<std::uint64_t>> Front::seek(InodeNumber inode, std::uint64_t offset, bool hole) {
  return run<Result<std::uint64_t>>([=](FileSystem& f) { return f.seek(inode, offset, hole); });
}
Task<Status> Front::fsync(InodeNumber inode, bool data_only) {
  return run<Status>([=](FileSystem& f) { return f.fsync(inode, data_only); });
}
Task<Status> Front::sync_everything() {
  return run<Status>([](FileSystem& f) { return f.sync_everything(); });
}
Task<Result<Covered<std::vector<fs::DirectoryEntry>>>> Front::readdir(InodeNumber inode,
                                                                      std::uint64_t cookie,
                                                                      std::size_t max, bool plus) {
  return run<Result<Covered<std::vector<fs::DirectoryEntry>>>>(
      [=](FileSystem& f) { return f.readdir(inode, cookie, max, plus); });
}
Task<Result<fs::FileSystemStatistics>> Front::statfs() {
  return run<Result<fs::FileSystemStatistics>>([](FileSystem& f) { return f.statfs(); });
}
Task<Result<Covered<std::optional<Bytes>>>> Front::getxattr(InodeNumber inode, std::string name) {
  return run<Result<Covered<std::optional<Bytes>>>>(
      [=](FileSystem& f) { return f.getxattr(inode, name); });
}
Task<Result<std::optional<Bytes>>> Front::getxattr_unless_revoked(InodeNumber inode,
                                                                  std::string name, Access access) {
  return run<Result<std::optional<Bytes>>>(
      [=](FileSystem& f) { return f.getxattr_unless_revoked(inode, name, access); }, access);
}
Task<Result<std::vector<std::string>>> Front::listxattr(InodeNumber inode) {
  return run<Result<std::vector<std::string>>>([=](FileSystem& f) { return f.listxattr(inode); });
}
Task<Status> Front::setxattr(InodeNumber inode, std::string name, Bytes value, std::uint32_t flags,
                             bool kill_sgid) {
  return run<Status>(
      [=](FileSystem& f) { return f.setxattr(inode, name, value, flags, kill_sgid); });
}
Task<Status> Front::removexattr(InodeNumber inode, std::string name) {
  return run<Status>([=](FileSystem& f) { return f.removexattr(inode, name); });
}
Task<Status> Front::set_file_lock(clerk::FileLock lock, bool wait, std::uint64_t request) {
  return run<Status>([=](FileSystem& f) { return f.set_file_lock(lock, wait, request); });
}
void Front::cancel_file_lock(std::uint64_t request) {
  if (file_system_ != nullptr) file_system_->cancel_file_lock(request);
}
Task<Result<clerk::FileLock>> Front::test_file_lock(clerk::FileLock lock) {
  return run<Result<clerk::FileLock>>([=](FileSystem& f) { return f.test_file_lock(lock); });
}
Task<Status> Front::drop_file_locks(InodeNumber inode, bool is_flock, std::uint64_t owner) {
  return run<Status>([=](FileSystem& f) { return f.drop_file_locks(inode, is_flock, owner); });
}

}  // namespace plumeria::mount
