#include "fuse/page_gate.h"

#include <absl/strings/str_cat.h>

#include <algorithm>

#include "base/check.h"
#include "base/fault.h"

namespace plumeria::fuse {

namespace {

constexpr std::uint64_t page_mask = page_size - 1;

std::uint64_t round_up(std::uint64_t offset) {
  return offset > Range::no_end - page_mask ? Range::no_end : (offset + page_mask) & ~page_mask;
}

}  // namespace

Range pages_touched(Range range) {
  if (range.empty()) return {0, 0};
  return {range.begin & ~page_mask, round_up(range.end)};
}

Range pages_covered(Range range) {
  if (range.empty()) return {0, 0};
  return {round_up(range.begin), range.end == Range::no_end ? range.end : range.end & ~page_mask};
}

void RangeSet::add(Range range) {
  if (range.empty()) return;
  auto first = std::find_if(ranges_.begin(), ranges_.end(),
                            [&](const Range& r) { return r.end >= range.begin; });
  auto last = first;
  for (; last != ranges_.end() && last->begin <= range.end; ++last) {
    range.begin = std::min(range.begin, last->begin);
    range.end = std::max(range.end, last->end);
  }
  first = ranges_.erase(first, last);
  ranges_.insert(first, range);
  if (ranges_.size() > limit) {
    const Range all{ranges_.front().begin, ranges_.back().end};
    ranges_.assign(1, all);
  }
}

void RangeSet::remove(Range range) {
  if (range.empty()) return;
  std::vector<Range> left;
  for (const Range& r : ranges_) {
    const Range before{r.begin, std::min(r.end, range.begin)};
    const Range after{std::max(r.begin, range.end), r.end};
    if (!before.empty()) left.push_back(before);
    if (!after.empty()) left.push_back(after);
  }
  ranges_ = std::move(left);
}

bool RangeSet::overlaps(Range range) const {
  if (range.empty()) return false;
  return std::any_of(ranges_.begin(), ranges_.end(),
                     [&](const Range& r) { return r.begin < range.end && range.begin < r.end; });
}

PageGate::Verdict PageGate::arrives(const DataRequest& request) {
  ++under_way_;
  if (request.kind != DataKind::attributes) ++data_under_way_;
  const auto is_it = [&](const DataRequest& r) { return r.unique == request.unique; };
  if (request.kind == DataKind::write && std::none_of(writes_.begin(), writes_.end(), is_it)) {
    writes_.push_back(request);
  }
  if (request.kind == DataKind::read && is_after_a_write(request)) {
    kept_.push_back(request);
    return Verdict::keep;
  }
  if (holds_ == 0 || planted(Fault::fuse_parked_request_blocks_revoke)) return Verdict::run;
  const bool at_once = request.kind == DataKind::writepage ||
                       (request.kind == DataKind::attributes && !request.waits);
  if (drops_ > 0 && at_once) return Verdict::run_under_revoke;
  kept_.push_back(request);
  return Verdict::keep;
}

void PageGate::leaves(const DataRequest& request) {
  CHECK(under_way_ > 0);
  --under_way_;
  if (request.kind == DataKind::attributes) return;
  CHECK(data_under_way_ > 0);
  --data_under_way_;
}

// The kernel numbers requests in the order in which it makes them.
bool PageGate::is_after_a_write(const DataRequest& request) const {
  // Either rule hides nearly always that the other one is missing.
  if (planted(Fault::fuse_read_overtakes_write) ||
      planted(Fault::fuse_write_range_not_invalidated)) {
    return false;
  }
  const Range pages = pages_touched(request.range);
  return std::any_of(writes_.begin(), writes_.end(), [&](const DataRequest& write) {
    const Range its = pages_touched(write.range);
    return write.unique < request.unique && its.begin < pages.end && pages.begin < its.end;
  });
}

std::vector<std::uint64_t> PageGate::written(const DataRequest& request) {
  std::erase_if(writes_, [&](const DataRequest& r) { return r.unique == request.unique; });
  std::vector<std::uint64_t> free;
  std::erase_if(kept_, [&](const DataRequest& kept) {
    if (is_after_a_write(kept) || (holds_ > 0 && !kept.is_due)) return false;
    free.push_back(kept.unique);
    if (holds_ == 0) leaves(kept);  // It arrives again.
    return true;
  });
  return free;
}

void PageGate::withdrawn(const DataRequest& request) { leaves(request); }

void PageGate::hold() { ++holds_; }

std::vector<std::uint64_t> PageGate::begin_drop(bool reads, bool changes) {
  CHECK(holds_ > 0);
  ++drops_;
  may_read_ = reads;
  may_change_ = changes;
  std::vector<std::uint64_t> first;
  for (const DataKind kind : {DataKind::attributes, DataKind::read, DataKind::writepage}) {
    if (kind == DataKind::read && !reads) continue;
    const std::vector<std::uint64_t> some = take(kind);
    first.insert(first.end(), some.begin(), some.end());
  }
  const std::vector<std::uint64_t> writes = seen_writes();
  first.insert(first.end(), writes.begin(), writes.end());
  return first;
}

std::vector<std::uint64_t> PageGate::seen_writes() {
  if (!may_change_) return {};
  return take(DataKind::write);
}

std::vector<Range> PageGate::begin_invalidation(bool everything) {
  CHECK(drops_ > 0);
  dropping_everything_ = everything;
  if (!everything) {
    std::vector<Range> touched = next_round();
    if (!touched.empty()) disturbed_ = true;
    return touched;
  }
  disturbed_ = true;
  touched_.clear();
  return {Range()};
}

std::vector<std::uint64_t> PageGate::blocked() {
  CHECK(drops_ > 0);
  std::vector<std::uint64_t> answers = blocked_reads();
  if (answers.empty() && may_change_) answers = take(DataKind::truncate);
  if (answers.empty() && may_change_) answers = take(DataKind::write);
  return answers;
}

std::vector<std::uint64_t> PageGate::blocked_reads() {
  if (!may_read_) return {};
  return take(DataKind::read);
}

std::vector<Range> PageGate::next_round() {
  if (planted(Fault::fuse_no_repeat)) return {};
  // A page that a kept READ wants is locked and empty: it is not stale, and to wait for it would
  // mean to answer that READ for nothing.
  for (const DataRequest& request : kept_) {
    if (request.kind == DataKind::read) touched_.remove(pages_touched(request.range));
  }
  // The same of a page that a kept WRITE fills in part would be wrong: its neighbours may be stale.
  std::vector<Range> again = touched_.ranges();
  touched_.clear();
  return again;
}

void PageGate::end_drop() {
  CHECK(drops_ > 0);
  for (DataRequest& request : kept_) request.is_due = false;
  --drops_;
  if (dropping_everything_) {
    disturbed_ = true;
    cached_ = touched_;
  }
  dropping_everything_ = false;
  touched_.clear();
}

std::vector<std::uint64_t> PageGate::release() {
  CHECK(holds_ > 0);
  std::vector<std::uint64_t> all;
  if (--holds_ > 0) return all;
  for (const DataRequest& request : kept_) {
    all.push_back(request.unique);
    leaves(request);  // It arrives again.
  }
  kept_.clear();
  touched_.clear();
  return all;
}

void PageGate::replying(const DataRequest& request) {
  leaves(request);
  switch (request.kind) {
    case DataKind::attributes:
      return;
    case DataKind::read:
      cached_.add(pages_touched(request.range));
      break;
    case DataKind::write:
      cached_.add(pages_covered(request.range));
      disturbed_ = drops_ > 0;
      break;
    case DataKind::writepage:
      cached_.add(pages_touched(request.range));
      break;
    case DataKind::direct_write:
    case DataKind::truncate:
      break;
  }
  // A page that a WRITE fills in part, the kernel has up to date only if a READ filled it; and that
  // READ is remembered, or the page goes with the round that runs.
  const bool in_part = request.kind == DataKind::write && dropping_everything_;
  if (drops_ > 0) {
    touched_.add(in_part ? pages_covered(request.range) : pages_touched(request.range));
  }
}

std::vector<PageGate::OwnRange> PageGate::invalidate_before_reply(const DataRequest& request,
                                                                  Range where_it_went) {
  std::vector<OwnRange> result;
  if (request.kind == DataKind::direct_write) {
    // The kernel drops these pages itself, but only when the writer runs again after our reply;
    // until then others may find the old bytes in them, or zeros beyond the old end.
    const Range pages = pages_touched(where_it_went);
    if (!planted(Fault::fuse_append_not_invalidated) && cached_.overlaps(pages)) {
      result.push_back({pages, false});
    }
    return result;
  }
  const bool relocated = where_it_went.begin != request.range.begin;
  if (relocated && planted(Fault::fuse_append_not_invalidated)) return result;
  const bool own = disturbed_ && !planted(Fault::fuse_write_range_not_invalidated);
  if (relocated) {
    // The kernel has put the bytes where it thought the end was; and its copy of the page of the
    // true end shows zeros beyond it.
    result.push_back({pages_covered(request.range), false});
    result.push_back({pages_touched(where_it_went), true});
  } else if (own) {
    const Range covered = pages_covered(request.range);
    if (cached_.overlaps(covered)) result.push_back({covered, false});
  }
  if (relocated || own) {
    // Pages written in part. Those that no READ or WRITE can have filled are not up to date; the
    // kernel holds such a page locked until our reply and fetches it afterwards.
    const Range touched = pages_touched(request.range);
    const Range covered = pages_covered(request.range);
    const Range head{touched.begin, std::min(touched.end, touched.begin + page_size)};
    const Range tail{std::max(touched.begin, touched.end - page_size), touched.end};
    const bool whole_head = !covered.empty() && covered.begin == touched.begin;
    const bool whole_tail = !covered.empty() && covered.end == touched.end;
    if (!whole_head && cached_.overlaps(head)) result.push_back({head, true});
    if (!whole_tail && tail != head && cached_.overlaps(tail)) result.push_back({tail, true});
  }
  std::erase_if(result, [](const OwnRange& r) { return r.range.empty(); });
  return result;
}

std::string PageGate::description() const {
  std::size_t reads = 0, writes = 0, truncates = 0;
  for (const DataRequest& request : kept_) {
    reads += request.kind == DataKind::read;
    writes += request.kind == DataKind::write || request.kind == DataKind::direct_write;
    truncates += request.kind == DataKind::truncate;
  }
  return absl::StrCat("kept ", reads, " reads, ", writes, " writes, ", truncates,
                      " truncates; under way ", under_way_, ", drops ", drops_,
                      may_change_ ? " of an exclusive lock" : " of a shared lock");
}

std::vector<std::uint64_t> PageGate::take(DataKind kind) {
  std::vector<std::uint64_t> taken;
  std::erase_if(kept_, [&](DataRequest& request) {
    if (request.kind != kind || request.waits) return false;
    request.is_due = kind == DataKind::read && is_after_a_write(request);
    if (request.is_due) return false;
    taken.push_back(request.unique);
    return true;
  });
  return taken;
}

}  // namespace plumeria::fuse
