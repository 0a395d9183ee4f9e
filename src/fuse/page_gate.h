// Decides, for one inode, what happens to GETATTR, READ, WRITE and truncating SETATTR requests
// while its lock is given up, and what the kernel must be told to forget. Does no I/O and reads no
// clock: events go in, decisions come out (docs/kernel.md, "Giving up pages").
//
// States      open ── hold() ──► held ── begin_drop() ──► dropping ── end_drop() ──► held
//                                  └────────────── release() ──► open
//
// Why requests are kept  A request that is parked on a lock may hold page locks in the kernel (a
// READ, or a WRITE of part of a page), and the invalidation waits for those. If it were answered
// only after the lock came back, the invalidation that gives the lock up would wait for ever. So it
// is kept here, where it can still be answered under the lock that is being given up.
//
// Order  The kernel has copied a write(2) into its page before it sends the WRITE. If that page
// goes meanwhile, and somebody wants it back, his READ is kept until the WRITE is done: a store
// into a page without its bytes would bring the whole page back over them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "fuse/wire.h"

namespace plumeria::fuse {

// Bytes of a file, [begin, end). `no_end`: to the end of whatever there is.
struct Range {
  static constexpr std::uint64_t no_end = ~0ull;
  std::uint64_t begin = 0;
  std::uint64_t end = no_end;

  bool empty() const { return begin >= end; }
  bool operator==(const Range&) const = default;
};

// The pages that `range` touches, and those that it covers wholly.
Range pages_touched(Range range);
Range pages_covered(Range range);

// A few disjoint ranges in order; beyond the limit of their number it remembers more than it was
// told, never less.
class RangeSet {
 public:
  static constexpr std::size_t limit = 32;

  void add(Range range);
  void remove(Range range);
  void clear() { ranges_.clear(); }
  bool empty() const { return ranges_.empty(); }
  bool overlaps(Range range) const;
  const std::vector<Range>& ranges() const { return ranges_; }

 private:
  std::vector<Range> ranges_;
};

enum class DataKind {
  attributes,  // GETATTR; touches no pages
  read,
  write,         // by write(2): its page is in the kernel's cache before we see the request
  direct_write,  // by write(2) past the kernel's cache: of O_DIRECT, and of handles that append
  writepage,     // of a dirty page of a mapping; holds nothing that anybody waits for but itself
  truncate,      // SETATTR of the size; the kernel sends no dirty pages until it is answered
};

struct DataRequest {
  std::uint64_t unique = 0;
  DataKind kind = DataKind::read;
  Range range;
  bool waits = false;   // GETATTR: it cannot be answered under the lock that is given up
  bool is_due = false;  // the gate's: it would have been answered but for a WRITE
};

class PageGate {
 public:
  enum class Verdict { run, keep, run_under_revoke };

  Verdict arrives(const DataRequest& request);
  // A WRITE has been done. Returns READs that waited for it: without a revoke they start over; else
  // they are answered under the lock that goes, if they would have been without the WRITE.
  std::vector<std::uint64_t> written(const DataRequest& request);
  // A request that ran did nothing, because the lock went before it could use it; it arrives again.
  void withdrawn(const DataRequest& request);

  void hold();
  // Returns what has been kept so far and is answered before the first invalidation: mapped dirty
  // pages, WRITEs (whose bytes are in the kernel's pages, where others of this mount may have read
  // them), and what tells the kernel a size. (It ignores a size that it asked for before an
  // invalidation and is told after it; see docs/kernel.md, "Sizes".) `reads`: READs too, now and
  // later; not under a shared lock that a writer has here, because their pages could be stored
  // into. `changes`: the lock that goes is held exclusively, so that what changes the file may be
  // answered under it as well.
  std::vector<std::uint64_t> begin_drop(bool reads, bool changes);
  // WRITEs that came since, whose pages others may have read until they were invalidated.
  std::vector<std::uint64_t> seen_writes();
  // Those have been answered. The ranges to invalidate: `everything`, or what they touched.
  std::vector<Range> begin_invalidation(bool everything);
  // The invalidation makes no progress: the kept requests to answer under the lock, first those
  // that hold up others. Empty if none of ours blocks it.
  std::vector<std::uint64_t> blocked();
  // The same, but READs only.
  std::vector<std::uint64_t> blocked_reads();
  // What is to be invalidated again, because requests were answered since the last call.
  std::vector<Range> next_round();
  void end_drop();
  // Everything that is still kept: it starts over.
  std::vector<std::uint64_t> release();

  // A request's reply is about to be sent. Every request that arrived is told here once.
  void replying(const DataRequest& request);
  // A WRITE is done and its reply not yet sent: the pages that must be invalidated before that. The
  // kernel keeps the last one locked if it was not cached and is written in part only;
  // `may_wait_for_reply` says so.
  struct OwnRange {
    Range range;
    bool may_wait_for_reply = false;
  };
  std::vector<OwnRange> invalidate_before_reply(const DataRequest& request, Range where_it_went);

  // The kernel may be about to cut pages off: what a WRITE puts into them may be lost.
  void disturb() { disturbed_ = true; }

  std::string description() const;  // for a log line

  bool holding() const { return holds_ > 0; }
  // A write(2) has put bytes into pages, and they are not ordered yet.
  bool writing() const { return !writes_.empty(); }
  bool dropping() const { return drops_ > 0; }
  // Whether READs may be answered under a lock that is given up now.
  bool may_read() const { return drops_ > 0 && may_read_; }
  // Whether the kernel may have pages of this file, or is sending any.
  bool may_have_pages() const { return !cached_.empty() || data_under_way_ > 0; }
  bool may_have_cached(Range range = Range()) const { return cached_.overlaps(range); }
  // Nothing is known of this inode that a new PageGate would not know.
  bool idle() const { return quiet() && cached_.empty() && !disturbed_; }
  // No request and no revoke is under way.
  bool quiet() const { return under_way_ == 0 && holds_ == 0 && drops_ == 0 && writes_.empty(); }

 private:
  std::vector<std::uint64_t> take(DataKind kind);
  bool is_after_a_write(const DataRequest& request) const;
  void leaves(const DataRequest& request);

  std::vector<DataRequest> kept_;
  std::vector<DataRequest> writes_;  // arrived and not yet done
  RangeSet cached_;                  // what READs and WRITEs may have left in the page cache
  RangeSet touched_;                 // by answers since the current drop began
  std::uint32_t holds_ = 0;
  std::uint32_t drops_ = 0;
  // Arrived and not yet replied, the kept ones included; and those but GETATTRs.
  std::uint32_t under_way_ = 0, data_under_way_ = 0;
  bool dropping_everything_ = false, may_read_ = false, may_change_ = false;
  bool disturbed_ = false;  // a page invalidation began or ended since the last WRITE's reply
};

}  // namespace plumeria::fuse
