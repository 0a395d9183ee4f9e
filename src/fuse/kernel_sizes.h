// What sizes of regular files the kernel of one mount believes in, and how it is made to believe in
// others. docs/kernel.md, "Sizes", has the reasons.
//
// Threads     The executor's; what can block runs on threads of its own.
// Ownership   Borrows executor, device and pages, which outlive it.
// Errors      None: a kernel that cannot be told caches nothing any more.
#pragma once

#include <absl/container/flat_hash_map.h>

#include <atomic>
#include <map>
#include <memory>
#include <optional>
#include <set>

#include "base/task.h"
#include "fs/operations.h"
#include "fuse/notifier.h"
#include "fuse/size_belief.h"

namespace plumeria::fuse {

// What sizes need of the pages that they cut off.
class PagesOfSizes {
 public:
  // Handles every request that waits in the device.
  virtual void drain() = 0;
  // Whether a WRITE is under way that is not ordered yet.
  virtual bool writing(fs::InodeNumber inode) = 0;
  // Pages may be cut off now: what is being written must invalidate its own.
  virtual void disturb(fs::InodeNumber inode) = 0;
  // While a lock goes: READs are answered that may have locked what is to be cut off.
  virtual void answer_blocked_reads(fs::InodeNumber inode) = 0;

 protected:
  ~PagesOfSizes() = default;
};

class KernelSizes {
 public:
  KernelSizes(os::RealExecutor& executor, const Device& device, PagesOfSizes& pages);

  // What the kernel is told by a reply it may ignore, but not if it is the first that names an
  // inode. `is_new`: there was none before.
  void inode_told(fs::InodeNumber inode, std::uint64_t size, bool is_new);
  void size_told(fs::InodeNumber inode, std::uint64_t size);
  // A reply after which `thread` sets the size, or makes it at least `end`.
  void size_set_by(fs::InodeNumber inode, std::uint32_t thread, std::uint64_t size);
  void written_by(fs::InodeNumber inode, std::uint32_t thread, std::uint64_t end);
  // A request of the thread for this inode: it has taken all replies of before. If it changes the
  // file, so have those who did that before: the kernel lets one at a time.
  void heard_from(fs::InodeNumber inode, std::uint32_t thread);
  // When the thread takes our reply the kernel drops pages, whatever its size: nobody else may have
  // brought newer ones by then, so the lock waits for it as for one that sets the size.
  void cuts_pages(fs::InodeNumber inode, std::uint32_t thread);
  void changes_file(fs::InodeNumber inode);
  // Before a reply from which somebody may learn the size: whether the kernel believes in another.
  bool may_believe_in_more(fs::InodeNumber inode, std::uint64_t size) const;
  bool may_believe_in_less(fs::InodeNumber inode, std::uint64_t size) const;
  bool is_sure_of_size(fs::InodeNumber inode, std::uint64_t size) const {
    return !may_believe_in_more(inode, size) && !may_believe_in_less(inode, size);
  }
  // Makes it believe in these attributes' size, if it can be made to at all; the lock must not go
  // meanwhile. Pages beyond it may still be cut off when this is done: whoever waits has them
  // locked. False: it could not be made sure, because somebody changes the file, and may wait for
  // this lock, or for pages that are locked by the request which this is for; or a thread of ours
  // has still to see that it is not wanted any more. `may_ask`: it is that request which keeps the
  // others out; nobody can be writing.
  Task<bool> make_sure_of_size(fs::Attributes attributes, bool may_ask);
  // After that: until he is done, or it cannot be seen for a while.
  Task<void> wait_for_changer(fs::InodeNumber inode);
  // A size that gets smaller is set, or pages are cut off, or some thread waits for these.
  bool setting(fs::InodeNumber inode) const { return settings_.contains(inode); }
  Task<void> wait_while_setting(fs::InodeNumber inode);
  // Some thread of ours sets the size, or is still to see that it need not; and that sleeps,
  // because somebody changes the file. To be asked again and again.
  bool is_in_the_way(fs::InodeNumber inode) const { return setting(inode) || given_up(inode); }
  bool is_held_up(fs::InodeNumber inode) const;
  // Whether a request comes from a thread of ours that sets a size, and what its GETATTR and its
  // SETATTR are answered. Nothing: an error, or the attributes of the root, which it asks for on
  // its way.
  bool is_ours(std::uint32_t thread) const;
  std::optional<fs::Attributes> attributes_for(fs::InodeNumber inode, std::uint32_t thread);
  std::optional<fs::Attributes> size_for(fs::InodeNumber inode, std::uint32_t thread);

  // While a lock goes: nobody is about to set the size, or to cut pages off, on account of our
  // replies.
  Task<void> wait_until_set(fs::InodeNumber inode);
  Task<void> wait_until_cut(fs::InodeNumber inode);

  void forgotten(fs::InodeNumber inode) { sizes_.erase(inode); }
  // The connection is gone: whatever waits goes on.
  void stop() { stopped_ = true; }

 private:
  struct Setting {
    fs::Attributes attributes;
    Notifier::JobPointer job;
    std::optional<std::uint64_t> believed;  // the job's until it is done
    std::atomic<bool> asks = false;         // by make_ask(), else by truncate()
    bool answered = false;
  };

  // The thread that is about to set the size has, unless it does not run for long.
  Task<void> wait_for_setter(fs::InodeNumber inode);
  // What both of these do; `lock_goes`: then what blocks it is answered, and it is done when late.
  Task<void> wait_until_taken(fs::InodeNumber inode, Duration longest, bool lock_goes);
  Task<void> make_longer(fs::InodeNumber inode, std::uint64_t size);
  Task<bool> set_size(fs::Attributes attributes, bool may_ask);
  bool given_up(fs::InodeNumber inode) const;
  std::shared_ptr<Setting> setting_of(fs::InodeNumber inode, std::uint32_t thread) const;

  os::RealExecutor& executor_;
  const Device& device_;
  PagesOfSizes& pages_;
  bool stopped_ = false;
  absl::flat_hash_map<fs::InodeNumber, SizeBelief> sizes_;  // never iterated
  std::map<fs::InodeNumber, std::shared_ptr<Setting>> settings_;
  std::set<std::shared_ptr<Setting>> given_up_;  // their threads do not get what they ask for
  // Last, so that their threads end first. Those that are given up must not be in the way of those
  // that others wait for.
  Notifier size_notifier_;
  Notifier ask_notifier_;
};

}  // namespace plumeria::fuse
