// What the kernel of one mount has cached, and how it is made to forget: mount::KernelCache over a
// FUSE connection. docs/kernel.md explains the protocol; PageGate decides, this part does.
//
// Threads     The executor's; notifications that can block run on the Notifier's threads.
// Ownership   Borrows executor and device, which outlive it.
// Errors      None reach the callers: a kernel that cannot be told (the connection was aborted or
//             unmounted) caches nothing any more.
#pragma once

#include <absl/container/flat_hash_map.h>
#include <absl/container/flat_hash_set.h>
#include <absl/container/node_hash_map.h>

#include <atomic>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/async.h"
#include "fuse/kernel_sizes.h"
#include "fuse/notifier.h"
#include "fuse/page_gate.h"
#include "fuse/second_lookup.h"
#include "fuse/untaken_names.h"
#include "fuse/untaken_reads.h"
#include "mount/kernel_cache.h"

namespace plumeria::fuse {

struct CacheStatistics {
  std::uint64_t drops = 0;            // of pages
  std::uint64_t rounds = 0;           // invalidations that these took
  std::uint64_t blocked = 0;          // times that one waited for a request
  std::uint64_t answered = 0;         // requests answered under a lock that was being given up
  std::uint64_t own_ranges = 0;       // WRITEs that had to invalidate their own pages
  std::uint64_t epochs = 0;           // times that all names were made to be looked up again
  std::uint64_t unknown_retries = 0;  // invalidations repeated because a reply was on its way
  std::uint64_t unsure_reads = 0;     // answered although the kernel may believe in a larger size
  Duration longest_drop{};
};

class KernelCache final : public mount::KernelCache, private PagesOfSizes {
 public:
  // `drain` handles every request that waits in the device; it is called before a look at a thread.
  KernelCache(os::RealExecutor& executor, const Device& device, std::size_t threads_max,
              absl::AnyInvocable<void()> drain);

  void hold(fs::InodeNumber inode) override;
  Task<void> drop(fs::InodeNumber inode, mount::What what) override;
  void release(fs::InodeNumber inode) override;
  Task<bool> drop_everything(TimePoint deadline) override;

  // The kernel said what protocol it speaks.
  void set_has_epoch(bool has_epoch) { has_epoch_ = has_epoch; }
  // Whether names may be cached at all: only if they can all be made stale at once.
  bool may_cache_names() const { return has_epoch_; }

  // A data request has arrived (or comes back, because the lock went before it could be used). If
  // it is not to run at once, wait for its turn: `co_await turn(inode, request)`.
  PageGate::Verdict arrives(fs::InodeNumber inode, const DataRequest& request);
  Task<fs::Access> turn(std::uint64_t unique);
  // It ran normally, but found the lock being given up and did nothing; it arrives again.
  void withdraw(fs::InodeNumber inode, const DataRequest& request);
  // What a WRITE needs before its reply. Fast when nothing disturbed it.
  bool must_invalidate(fs::InodeNumber inode, const DataRequest& request, Range where_it_went);
  Task<void> invalidate_own(fs::InodeNumber inode, DataRequest request, Range where_it_went);
  // From a WRITE's end until its pages are invalidated, nobody may be told the size that it made:
  // he would look for its bytes in pages that do not have them yet.
  bool settling(fs::InodeNumber inode) const { return settling_.contains(inode); }
  Task<void> settled(fs::InodeNumber inode);
  // The file system has done it, with this access. (Its reply may still wait for an invalidation,
  // and that for other requests.)
  void executed(fs::InodeNumber inode, fs::Access access);
  void executing(fs::InodeNumber inode, fs::Access access);  // takes that back
  // A WRITE is done, with or without success; what reads its pages may go on.
  void written(fs::InodeNumber inode, const DataRequest& request);
  // What the kernel has of the range, if it may have any, is written and forgotten.
  Task<void> invalidate_before_append(fs::InodeNumber inode, Range range);
  // Whether there may be pages that a mapping of this mount has made dirty.
  bool may_have_dirty_pages(fs::InodeNumber inode) const;
  // Its reply goes out now.
  void replying(fs::InodeNumber inode, const DataRequest& request, fs::Access access);

  KernelSizes& sizes() { return sizes_; }
  void count_unsure_read() { ++statistics_.unsure_reads; }
  // Whether a handle is open here that may write to the file, or be mapped to.
  bool has_writer(fs::InodeNumber inode) const { return writable_.contains(inode); }
  // To make the kernel believe in a smaller size cuts pages off, and for that READs of them must be
  // answered: with a writer here under an exclusive lock only. Whether the lock that is given up
  // allows it; without a revoke, whether any lock does.
  bool may_cut_pages(fs::InodeNumber inode);

  // Lookup counts: each reply that names an inode adds one, FORGET takes them away.
  // Whether this is the first.
  bool looked_up(const fs::Attributes& attributes);
  // Other attributes than a lookup's were told.
  void attributes_sent(const fs::Attributes& attributes);
  // A directory whose inode is gone, as the caller has seen, because another mount removed it while
  // it was in use here (it is open, or somebody's working directory): as told last, without links.
  std::optional<fs::Attributes> removed_directory(fs::InodeNumber inode) const;
  std::uint64_t generation_told(fs::InodeNumber inode) const override;
  // Whether that was the last.
  bool forgotten(fs::InodeNumber inode, std::uint64_t count);
  // Handles, by the flags of open(2).
  void opened(fs::InodeNumber inode, std::uint32_t flags);
  void closed(fs::InodeNumber inode, std::uint32_t flags);

  // The kernel was told attributes that it may believe until they are invalidated.
  void attributes_told(fs::InodeNumber inode) { told_.insert(inode); }

  // A READ was answered: its thread may not have unlocked the page yet.
  void read_sent(fs::InodeNumber inode, Range range, std::uint32_t thread) {
    untaken_reads_.sent(thread, inode, range);
  }
  SecondLookup& second_lookup() { return second_lookup_; }
  // The kernel takes the attributes of a new inode without asking whether they were invalidated
  // since our reply. They may be told for ever to a thread that can be watched until it has.
  bool may_cache_creation(std::uint32_t thread) { return untaken_creations_.may_send(thread); }
  void creation_sent(fs::InodeNumber inode, std::uint32_t thread) {
    untaken_creations_.sent(thread, inode);
  }
  // A listing was sent to this thread, which may not have put it into the cache yet.
  void listing_sent(fs::InodeNumber directory, std::uint32_t thread) {
    untaken_listings_.sent(thread, directory);
  }
  // Any later request of the thread shows that it has.
  void thread_seen(std::uint32_t thread);

  // The connection is gone: whatever waits goes on.
  void stop();

  const CacheStatistics& statistics() const { return statistics_; }

#ifdef PLUMERIA_PLANTED_FAULTS
  void name_seen(fs::InodeNumber parent, const std::string& name) { names_[parent].insert(name); }
#endif

 private:
  // PagesOfSizes
  void drain() override { drain_(); }
  bool writing(fs::InodeNumber inode) override { return gates_[inode].writing(); }
  void disturb(fs::InodeNumber inode) override;
  void answer_blocked_reads(fs::InodeNumber inode) override;

  PageGate* gate(fs::InodeNumber inode);
  void forget_gate_if_idle(fs::InodeNumber inode);
  void answer(const std::vector<std::uint64_t>& uniques, fs::Access access);
  bool executing_any(fs::InodeNumber inode) const;
  std::string description(fs::InodeNumber inode);  // for a log line
  Task<void> wait_for_replies(fs::InodeNumber inode);
  void answer_under_revoke(fs::InodeNumber inode, const std::vector<std::uint64_t>& uniques);
  bool known(fs::InodeNumber inode) const { return lookups_.contains(inode); }
  // Names are dropped without a thread of their own, which only a directory allows.
  bool is_directory(fs::InodeNumber inode) const;

  Task<void> drop_names(fs::InodeNumber inode);
  Task<void> drop_pages(fs::InodeNumber inode, std::vector<Range> ranges);
  Task<void> wait_for_late_cuts(fs::InodeNumber inode);
  Task<void> drop_attributes(fs::InodeNumber inode);
  Task<void> forget_attributes_of(fs::InodeNumber inode);
  Task<void> invalidate_round(fs::InodeNumber inode, std::vector<Range> ranges);
  Task<void> wait_until_creation_is_taken(fs::InodeNumber inode);
  Task<void> forget_created(fs::InodeNumber inode);
  Task<void> drop_batch(std::vector<Bytes> messages);
  Task<void> drop_one(fs::InodeNumber inode);
  // Tells the kernel on this thread. Only for what cannot block: see docs/kernel.md.
  Task<void> tell_at_once(fs::InodeNumber inode, Bytes message);
  Task<void> back_off(std::uint32_t times);

  os::RealExecutor& executor_;
  const Device& device_;
  absl::AnyInvocable<void()> drain_;
  bool has_epoch_ = false;
  bool stopped_ = false;

  absl::node_hash_map<fs::InodeNumber, PageGate> gates_;  // never iterated
  struct Lookups {
    std::uint64_t count = 0, generation = 0;
    std::unique_ptr<fs::Attributes> directory;  // of one: as told last
  };
  absl::flat_hash_map<fs::InodeNumber, Lookups> lookups_;         // iterated only to collect
  absl::flat_hash_map<fs::InodeNumber, std::uint32_t> writable_;  // open handles that may write
  absl::flat_hash_map<fs::InodeNumber, std::uint32_t> mappable_;  // of those, which may be mapped
  std::map<std::uint64_t, Promise<fs::Access>> turns_;            // kept requests
  // Requests that run under a lock that is being given up: in the file system, and until the reply.
  struct Answering {
    std::uint32_t executing = 0, unreplied = 0;
  };
  absl::flat_hash_map<fs::InodeNumber, Answering> answering_;     // never iterated
  absl::flat_hash_set<fs::InodeNumber> told_;                     // see attributes_told()
  Event answered_;                                                // one of those made progress
  absl::flat_hash_map<fs::InodeNumber, std::uint32_t> settling_;  // see settling(); never iterated
  Event settled_;
  UntakenListings untaken_listings_;
  UntakenCreations untaken_creations_;
  UntakenReads untaken_reads_;
  SecondLookup second_lookup_;
  KernelSizes sizes_;
  CacheStatistics statistics_;
#ifdef PLUMERIA_PLANTED_FAULTS
  std::map<fs::InodeNumber, std::set<std::string>> names_;
#endif
  // Last, so that their threads end first. WRITEs that invalidate their own pages have threads of
  // their own, because an invalidation that holds a thread may wait for such a WRITE's reply.
  Notifier notifier_;
  Notifier own_notifier_;
  TaskScope tasks_;
};

}  // namespace plumeria::fuse
