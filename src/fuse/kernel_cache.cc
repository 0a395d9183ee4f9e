#include "fuse/kernel_cache.h"

#include <absl/strings/str_cat.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>

#include "base/fault.h"
#include "base/log.h"
#include "base/number.h"
#include "fuse/watch.h"

namespace plumeria::fuse {

namespace {

constexpr Duration reply_patience = 500us;
constexpr std::uint32_t rounds_before_backing_off = 2;
constexpr Duration unknown_inode_patience = 1s;
constexpr Duration creation_patience = 1s;
constexpr std::size_t own_threads_max = 8;
constexpr std::uint32_t late_cuts_max = 8;
constexpr std::size_t batch_size = 256;

Bytes forget_range(fs::InodeNumber inode, Range range) {
  const bool to_end = range.end > static_cast<std::uint64_t>(INT64_MAX);
  return forget_inode(raw(inode), static_cast<std::int64_t>(range.begin),
                      to_end ? 0 : static_cast<std::int64_t>(range.end - range.begin));
}

}  // namespace

KernelCache::KernelCache(os::RealExecutor& executor, const Device& device, std::size_t threads_max,
                         absl::AnyInvocable<void()> drain)
    : executor_(executor),
      device_(device),
      drain_(std::move(drain)),
      answered_(executor),
      settled_(executor),
      untaken_listings_(executor),
      untaken_creations_(executor),
      second_lookup_(executor),
      sizes_(executor, device, *this),
      notifier_(executor, device, threads_max),
      own_notifier_(executor, device, own_threads_max) {}

void KernelCache::disturb(fs::InodeNumber inode) {
  if (known(inode) || gate(inode) != nullptr) gates_[inode].disturb();
}

void KernelCache::answer_blocked_reads(fs::InodeNumber inode) {
  if (executing_any(inode)) return;  // What we answer already may be what blocks.
  drain_();
  answer_under_revoke(inode, gates_[inode].blocked_reads());
}

PageGate* KernelCache::gate(fs::InodeNumber inode) {
  const auto found = gates_.find(inode);
  return found == gates_.end() ? nullptr : &found->second;
}

void KernelCache::forget_gate_if_idle(fs::InodeNumber inode) {
  const auto found = gates_.find(inode);
  if (found != gates_.end() && found->second.idle()) gates_.erase(found);
}

void KernelCache::hold(fs::InodeNumber inode) { gates_[inode].hold(); }

void KernelCache::release(fs::InodeNumber inode) {
  answer(gates_[inode].release(), fs::Access::normal);
  forget_gate_if_idle(inode);
}

void KernelCache::answer(const std::vector<std::uint64_t>& uniques, fs::Access access) {
  for (const std::uint64_t unique : uniques) {
    const auto found = turns_.find(unique);
    if (found == turns_.end()) {
      CHECK(stopped_);  // which has answered it
      continue;
    }
    found->second.set(access);
    turns_.erase(found);
  }
}

void KernelCache::answer_under_revoke(fs::InodeNumber inode,
                                      const std::vector<std::uint64_t>& uniques) {
  if (uniques.empty()) return;
  statistics_.answered += uniques.size();
  Answering& answering = answering_[inode];
  answering.executing += static_cast<std::uint32_t>(uniques.size());
  answering.unreplied += static_cast<std::uint32_t>(uniques.size());
  answer(uniques, fs::Access::under_revoke);
}

std::string KernelCache::description(fs::InodeNumber inode) {
  const auto answering = answering_.find(inode);
  const Answering counts = answering == answering_.end() ? Answering() : answering->second;
  return absl::StrCat("inode ", raw(inode), ": ", gates_[inode].description(), "; in work ",
                      counts.executing, ", not replied ", counts.unreplied,
                      sizes_.setting(inode) ? ", size being set" : "",
                      settling(inode) ? ", a write's pages being invalidated" : "");
}

bool KernelCache::executing_any(fs::InodeNumber inode) const {
  const auto found = answering_.find(inode);
  return found != answering_.end() && found->second.executing > 0;
}

// What was answered under the lock must be in the kernel's cache, or not, before that is called
// clean. A WRITE may wait with its reply until a page is free that a kept READ has locked.
Task<void> KernelCache::wait_for_replies(fs::InodeNumber inode) {
  PageGate& pages = gates_[inode];
  TimePoint patience = executor_.now() + reply_patience;
  TimePoint long_patience = executor_.now() + 1s;
  while (answering_.contains(inode) && !stopped_) {
    if (executor_.now() > long_patience) {
      long_patience += 60s;
      log_warning(absl::StrCat("requests are not replied to of ", description(inode)));
    }
    const TimerId timer = executor_.at(patience, [this] { answered_.notify_all(); });
    co_await answered_.next();
    executor_.cancel(timer);
    if (executor_.now() < patience) continue;
    patience = executor_.now() + reply_patience;
    drain_();
    if (!executing_any(inode)) answer_under_revoke(inode, pages.blocked());
  }
}

Task<void> KernelCache::drop(fs::InodeNumber inode, mount::What what) {
  if (stopped_ || planted(Fault::kernel_invalidation_left_out)) co_return;
  if (untaken_creations_.any(inode)) co_await wait_until_creation_is_taken(inode);
  if (what.names && is_directory(inode)) co_await drop_names(inode);
  PageGate& gate = gates_[inode];  // It stays where it is, and is not idle until end_drop().
  drain_();
  // Under a shared lock there are no pages while this mount has a writer: none to give up, and none
  // to be given to READs, which could be stored into.
  const bool writer = has_writer(inode);
  const bool may_have_pages = what.pages && (what.is_exclusive || !writer);
  answer_under_revoke(inode, gate.begin_drop(may_have_pages, what.is_exclusive));
  co_await wait_for_replies(inode);
  co_await sizes_.wait_until_set(inode);
  co_await sizes_.wait_until_cut(inode);
  co_await wait_for_replies(inode);
  // Without a READ or WRITE since the last time, and without one who may write, there are no pages.
  const bool pages = may_have_pages && (gate.may_have_pages() || writer);
  std::vector<Range> ranges = gate.begin_invalidation(pages);
  if (!ranges.empty()) {
    co_await drop_pages(inode, std::move(ranges));
  } else if (what.attributes && told_.contains(inode)) {
    co_await drop_attributes(inode);
  }
  co_await wait_for_late_cuts(inode);
  gate.end_drop();
}

// What was answered while pages were given up may have set a size. A READ that holds a page up
// which is to be cut off then is answered under the lock that set the size, or each waits for the
// other: that READ for a size that is set under the next lock.
Task<void> KernelCache::wait_for_late_cuts(fs::InodeNumber inode) {
  for (std::uint32_t times = 0; times < late_cuts_max && sizes_.setting(inode); ++times) {
    co_await sizes_.wait_until_cut(inode);
    co_await wait_for_replies(inode);
    std::vector<Range> ranges = gates_[inode].next_round();
    if (!ranges.empty()) co_await drop_pages(inode, std::move(ranges));
  }
}

// INC_EPOCH and the invalidation of a directory wait for nobody, not even for a LOOKUP that we have
// not answered; expiring single names does (docs/kernel.md, "Names").
Task<void> KernelCache::drop_names(fs::InodeNumber inode) {
  co_await untaken_listings_.wait(inode);
#ifdef PLUMERIA_PLANTED_FAULTS
  if (planted(Fault::fuse_expire_entry_instead_of_epoch)) {
    std::vector<Bytes> messages;
    for (const std::string& name : names_[inode]) {
      messages.push_back(forget_entry(raw(inode), name, true));
    }
    messages.push_back(forget_inode(raw(inode), 0, 0));
    co_await drop_batch(std::move(messages));
    co_return;
  }
#endif
  if (has_epoch_) {
    ++statistics_.epochs;
    device_.notify(new_epoch());
  }
  told_.erase(inode);
  co_await tell_at_once(inode, forget_inode(raw(inode), 0, 0));
}

Task<void> KernelCache::drop_attributes(fs::InodeNumber inode) {
  told_.erase(inode);
  co_await forget_attributes_of(inode);
}

Task<void> KernelCache::forget_attributes_of(fs::InodeNumber inode) {
  // An inode that is being evicted with dirty pages makes even this wait, until we have taken them.
  const bool may_be_dirty = gates_[inode].may_have_pages() || has_writer(inode);
  if (!may_be_dirty) {
    co_await tell_at_once(inode, forget_attributes(raw(inode)));
    co_return;
  }
  for (std::uint32_t times = 0;; ++times) {
    auto watch = std::make_shared<Watch>(executor_);
    std::vector<Bytes> messages;
    messages.push_back(forget_attributes(raw(inode)));
    const auto job = Watch::start(notifier_, watch, std::move(messages));
    co_await Watch::wait_until_done(watch);
    if (!Notifier::any_unknown(*job) || !known(inode) || stopped_) co_return;
    co_await back_off(times);
  }
}

Task<void> KernelCache::tell_at_once(fs::InodeNumber inode, Bytes message) {
  const TimePoint patience = executor_.now() + unknown_inode_patience;
  for (std::uint32_t times = 0;; ++times) {
    // The kernel does not know the inode, but will as soon as it has taken our reply that names it.
    if (device_.notify(message) != ENOENT || !known(inode) || stopped_) co_return;
    if (executor_.now() > patience) {
      log_warning(absl::StrCat("the kernel does not know inode ", raw(inode),
                               " although it has not forgotten it"));
      co_return;
    }
    co_await back_off(times);
  }
}

Task<void> KernelCache::back_off(std::uint32_t times) {
  ++statistics_.unknown_retries;
  return sleep_until(executor_, executor_.now() + Duration(50us) * (1u << std::min(times, 5u)));
}

Task<void> KernelCache::drop_pages(fs::InodeNumber inode, std::vector<Range> ranges) {
  const TimePoint began = executor_.now();
  PageGate& pages = gates_[inode];  // It stays where it is, and is not idle until end_drop().
  ++statistics_.drops;
  told_.erase(inode);
  for (std::uint32_t round = 0; !ranges.empty() && !stopped_; ++round) {
    ++statistics_.rounds;
    co_await invalidate_round(inode, std::move(ranges));
    if (round == 0) {
      drain_();
      answer_under_revoke(inode, pages.seen_writes());
    }
    co_await wait_for_replies(inode);
    // Who was answered comes back at once for the page that it just lost. With its new READ here,
    // that page is no longer ours to drop.
    if (round >= rounds_before_backing_off) {
      const std::uint32_t doublings = std::min(round - rounds_before_backing_off, 6u);
      co_await sleep_until(executor_, executor_.now() + Duration(50us) * (1u << doublings));
    }
    drain_();
    ranges = pages.next_round();
  }
  const Duration took = executor_.now() - began;
  statistics_.longest_drop = std::max(statistics_.longest_drop, took);
  if (took > 1s) {
    log_warning(absl::StrCat("giving up the pages of inode ", raw(inode), " took ",
                             std::chrono::duration_cast<std::chrono::milliseconds>(took).count(),
                             " ms"));
  }
}

Task<void> KernelCache::invalidate_round(fs::InodeNumber inode, std::vector<Range> ranges) {
  PageGate& pages = gates_[inode];
  for (std::uint32_t times = 0;; ++times) {
    auto watch = std::make_shared<Watch>(executor_);
    std::vector<Bytes> messages;
    for (const Range& range : ranges) messages.push_back(forget_range(inode, range));
    const auto job = Watch::start(notifier_, watch, std::move(messages));
    TimePoint patience = executor_.now() + 1s;
    while (!watch->done) {
      co_await Watch::wait(&executor_, watch);
      if (watch->done) break;
      drain_();
      if (executor_.now() > patience) {
        patience += 60s;
        log_warning(absl::StrCat("the kernel does not let go of pages of ", description(inode)));
      }
      if (executing_any(inode)) continue;  // What we answer already may be what blocks.
      if (!Notifier::sleeps_without_progress(*job)) continue;
      ++statistics_.blocked;
      answer_under_revoke(inode, pages.blocked());
    }
    if (!Notifier::any_unknown(*job) || !known(inode) || stopped_) co_return;
    co_await back_off(times);
  }
}

PageGate::Verdict KernelCache::arrives(fs::InodeNumber inode, const DataRequest& request) {
  if (stopped_) return PageGate::Verdict::run;
  const PageGate::Verdict verdict = gates_[inode].arrives(request);
  if (verdict == PageGate::Verdict::keep) {
    turns_.emplace(request.unique, Promise<fs::Access>(executor_));
  } else if (verdict == PageGate::Verdict::run_under_revoke) {
    ++statistics_.answered;
    ++answering_[inode].executing;
    ++answering_[inode].unreplied;
  }
  return verdict;
}

Task<fs::Access> KernelCache::turn(std::uint64_t unique) {
  const auto found = turns_.find(unique);
  CHECK(found != turns_.end());
  auto future = found->second.future();
  const fs::Access access = co_await future;
  co_return access;
}

void KernelCache::withdraw(fs::InodeNumber inode, const DataRequest& request) {
  if (!stopped_) gates_[inode].withdrawn(request);
}

bool KernelCache::must_invalidate(fs::InodeNumber inode, const DataRequest& request,
                                  Range where_it_went) {
  PageGate* pages = gate(inode);
  return pages != nullptr && !stopped_ &&
         !pages->invalidate_before_reply(request, where_it_went).empty();
}

Task<void> KernelCache::invalidate_own(fs::InodeNumber inode, DataRequest request,
                                       Range where_it_went) {
  ++statistics_.own_ranges;
  ++settling_[inode];
  std::vector<Bytes> whole;
  std::vector<Range> parts;
  for (const auto& own : gates_[inode].invalidate_before_reply(request, where_it_went)) {
    if (own.may_wait_for_reply) {
      parts.push_back(own.range);
    } else {
      whole.push_back(forget_range(inode, own.range));
    }
  }
  if (!whole.empty()) co_await drop_batch(std::move(whole));
  for (const Range part : parts) {
    auto watch = std::make_shared<Watch>(executor_);
    std::vector<Bytes> messages;
    messages.push_back(forget_range(inode, part));
    const auto job = Watch::start(own_notifier_, watch, std::move(messages));
    while (!watch->done) {
      co_await Watch::wait(&executor_, watch);
      if (watch->done) break;
      drain_();
      // Then the WRITE itself keeps the page locked, which therefore is not up to date; or a READ
      // does, which comes after the WRITE unless it is answered already.
      if (!Notifier::sleeps_without_progress(*job)) continue;
      if (!untaken_reads_.any(inode, part)) break;
    }
  }
  const auto settling = settling_.find(inode);
  if (--settling->second == 0) settling_.erase(settling);
  settled_.notify_all();
}

Task<void> KernelCache::settled(fs::InodeNumber inode) {
  while (settling(inode)) co_await settled_.next();
}

void KernelCache::replying(fs::InodeNumber inode, const DataRequest& request, fs::Access access) {
  if (stopped_) return;
  gates_[inode].replying(request);
  if (access != fs::Access::under_revoke) return;
  const auto found = answering_.find(inode);
  CHECK(found != answering_.end() && found->second.unreplied > 0);
  if (--found->second.unreplied == 0) answering_.erase(found);
  answered_.notify_all();
}

void KernelCache::executed(fs::InodeNumber inode, fs::Access access) {
  if (access != fs::Access::under_revoke || stopped_) return;
  CHECK(answering_[inode].executing > 0);
  --answering_[inode].executing;
}

void KernelCache::written(fs::InodeNumber inode, const DataRequest& request) {
  PageGate* pages = gate(inode);
  if (pages == nullptr) return;
  const std::vector<std::uint64_t> reads = pages->written(request);
  if (pages->holding()) {
    answer_under_revoke(inode, reads);
  } else {
    answer(reads, fs::Access::normal);
  }
}

void KernelCache::executing(fs::InodeNumber inode, fs::Access access) {
  if (access != fs::Access::under_revoke || stopped_) return;
  ++answering_[inode].executing;
}

bool KernelCache::may_have_dirty_pages(fs::InodeNumber inode) const {
  const auto found = gates_.find(inode);
  return mappable_.contains(inode) && found != gates_.end() && found->second.may_have_cached();
}

Task<void> KernelCache::invalidate_before_append(fs::InodeNumber inode, Range range) {
  const Range pages = pages_touched(range);
  if (stopped_ || !gates_[inode].may_have_cached(pages) ||
      planted(Fault::fuse_append_not_invalidated)) {
    co_return;
  }
  std::vector<Bytes> messages;
  messages.push_back(forget_range(inode, pages));
  co_await drop_batch(std::move(messages));
}

bool KernelCache::may_cut_pages(fs::InodeNumber inode) {
  if (!has_writer(inode)) return true;
  const PageGate* pages = gate(inode);
  return pages != nullptr && pages->may_read();
}

bool KernelCache::looked_up(const fs::Attributes& attributes) {
  Lookups& lookups = lookups_[attributes.inode];
  lookups.generation = attributes.generation;
  lookups.directory =
      S_ISDIR(attributes.mode) ? std::make_unique<fs::Attributes>(attributes) : nullptr;
  return ++lookups.count == 1;
}

void KernelCache::attributes_sent(const fs::Attributes& attributes) {
  const auto found = lookups_.find(attributes.inode);
  if (found == lookups_.end() || found->second.directory == nullptr) return;
  *found->second.directory = attributes;
}

std::optional<fs::Attributes> KernelCache::removed_directory(fs::InodeNumber inode) const {
  const auto found = lookups_.find(inode);
  if (found == lookups_.end() || found->second.directory == nullptr) return {};
  fs::Attributes attributes = *found->second.directory;
  attributes.links = 0;
  return attributes;
}

bool KernelCache::is_directory(fs::InodeNumber inode) const {
  const auto found = lookups_.find(inode);
  return inode == fs::root_inode || (found != lookups_.end() && found->second.directory != nullptr);
}

std::uint64_t KernelCache::generation_told(fs::InodeNumber inode) const {
  const auto found = lookups_.find(inode);
  return found == lookups_.end() ? 0 : found->second.generation;
}

bool KernelCache::forgotten(fs::InodeNumber inode, std::uint64_t count) {
  const auto found = lookups_.find(inode);
  if (found == lookups_.end()) return false;
  if (found->second.count > count) {
    found->second.count -= count;
    return false;
  }
  lookups_.erase(found);
  told_.erase(inode);
  sizes_.forgotten(inode);
  const auto pages = gates_.find(inode);
  if (pages != gates_.end() && pages->second.quiet()) gates_.erase(pages);
  return true;
}

void KernelCache::opened(fs::InodeNumber inode, std::uint32_t flags) {
  if ((flags & O_ACCMODE) == O_RDONLY) return;
  ++writable_[inode];
  if ((flags & O_ACCMODE) == O_RDWR) ++mappable_[inode];
}

void KernelCache::closed(fs::InodeNumber inode, std::uint32_t flags) {
  if ((flags & O_ACCMODE) == O_RDONLY) return;
  const auto writable = writable_.find(inode);
  if (writable != writable_.end() && --writable->second == 0) writable_.erase(writable);
  if ((flags & O_ACCMODE) != O_RDWR) return;
  const auto mappable = mappable_.find(inode);
  if (mappable != mappable_.end() && --mappable->second == 0) mappable_.erase(mappable);
}

void KernelCache::thread_seen(std::uint32_t thread) {
  untaken_listings_.heard_from(thread);
  untaken_creations_.heard_from(thread);
  untaken_reads_.heard_from(thread);
}

Task<void> KernelCache::wait_until_creation_is_taken(fs::InodeNumber inode) {
  const bool taken = co_await untaken_creations_.wait(inode, executor_.now() + creation_patience);
  if (!taken) tasks_.spawn(forget_created(inode));
}

// For a thread that does not get a processor for as long as that.
Task<void> KernelCache::forget_created(fs::InodeNumber inode) {
  log_warning(absl::StrCat("the thread that made inode ", raw(inode), " does not take our reply"));
  (void)co_await untaken_creations_.wait(inode, TimePoint::max(), 1ms);
  co_await tell_at_once(inode, forget_attributes(raw(inode)));
}

Task<void> KernelCache::drop_batch(std::vector<Bytes> messages) {
  auto watch = std::make_shared<Watch>(executor_);
  Watch::start(own_notifier_, watch, std::move(messages));
  co_await Watch::wait_until_done(watch);
}

Task<void> KernelCache::drop_one(fs::InodeNumber inode) {
  hold(inode);
  mount::What everything;
  everything.attributes = everything.pages = true;
  everything.is_exclusive = true;  // or there are no pages, or nobody who changes them
  told_.insert(inode);
  co_await drop(inode, everything);
  release(inode);
}

Task<bool> KernelCache::drop_everything(TimePoint deadline) {
  second_lookup_.let_go_of_all();
  if (stopped_) co_return true;
  if (has_epoch_) device_.notify(new_epoch());
  std::vector<fs::InodeNumber> all;
  all.reserve(lookups_.size() + 1);
  all.push_back(fs::root_inode);
  for (const auto& [inode, lookups] : lookups_) all.push_back(inode);
  std::sort(all.begin(), all.end());
  std::vector<Bytes> plain;
  auto waiting = std::make_shared<Watch>(executor_);
  auto left = std::make_shared<std::size_t>(1);
  struct Run {
    static Task<void> one(Task<void> task, std::shared_ptr<std::size_t> count,
                          std::shared_ptr<Watch> watch) {
      co_await task;
      if (--*count > 0) co_return;
      watch->done = true;
      watch->changed.notify_all();
    }
  };
  auto run = [&](Task<void> task) {
    ++*left;
    tasks_.spawn(Run::one(std::move(task), left, waiting));
  };
  for (const fs::InodeNumber inode : all) {
    const PageGate* pages = gate(inode);
    // Its own revoke does it. One that has begun and waits for a pin may wait for longer than the
    // lease lasts.
    if (pages != nullptr && pages->dropping()) continue;
    if (pages != nullptr || has_writer(inode) || untaken_creations_.any(inode)) {
      run(drop_one(inode));
      continue;
    }
    plain.push_back(forget_inode(raw(inode), 0, 0));
    if (plain.size() == batch_size) run(drop_batch(std::exchange(plain, {})));
  }
  if (!plain.empty()) run(drop_batch(std::move(plain)));
  if (--*left == 0) co_return true;
  const TimerId timer = executor_.at(deadline, [waiting] {
    waiting->done = true;
    waiting->changed.notify_all();
  });
  co_await Watch::wait_until_done(waiting);
  executor_.cancel(timer);
  co_return *left == 0;
}

void KernelCache::stop() {
  stopped_ = true;
  sizes_.stop();
  untaken_listings_.stop();
  untaken_creations_.stop();
  second_lookup_.let_go_of_all();
  answered_.notify_all();
  for (auto& [unique, promise] : std::exchange(turns_, {})) promise.set(fs::Access::normal);
}

}  // namespace plumeria::fuse
