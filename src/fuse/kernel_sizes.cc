#include "fuse/kernel_sizes.h"

#include <errno.h>

#include <algorithm>

#include "base/fault.h"
#include "base/number.h"
#include "fuse/thread_state.h"
#include "fuse/watch.h"

namespace plumeria::fuse {

namespace {

constexpr Duration look_interval = 100us;
constexpr Duration size_patience = 200ms, setter_patience = 2ms, changer_patience = 20ms;
constexpr std::uint32_t size_attempts = 4;
constexpr std::size_t size_threads_max = 64;

}  // namespace

KernelSizes::KernelSizes(os::RealExecutor& executor, const Device& device, PagesOfSizes& pages)
    : executor_(executor),
      device_(device),
      pages_(pages),
      size_notifier_(executor, device, size_threads_max),
      ask_notifier_(executor, device, size_threads_max) {}

void KernelSizes::inode_told(fs::InodeNumber inode, std::uint64_t size, bool is_new) {
  const auto [found, is_unknown] = sizes_.try_emplace(inode, size);
  if (is_unknown) return;
  if (is_new) {
    found->second = SizeBelief(size);
  } else {
    found->second.told(size);
  }
}

void KernelSizes::size_told(fs::InodeNumber inode, std::uint64_t size) {
  const auto found = sizes_.find(inode);
  if (found != sizes_.end()) found->second.told(size);
}

void KernelSizes::size_set_by(fs::InodeNumber inode, std::uint32_t thread, std::uint64_t size) {
  const auto found = sizes_.find(inode);
  if (found != sizes_.end()) found->second.will_be(thread, size);
}

void KernelSizes::written_by(fs::InodeNumber inode, std::uint32_t thread, std::uint64_t end) {
  const auto found = sizes_.find(inode);
  if (found == sizes_.end() || !found->second.may_be_less_than(end)) return;
  found->second.will_be_at_least(thread, end);
}

void KernelSizes::cuts_pages(fs::InodeNumber inode, std::uint32_t thread) {
  const auto found = sizes_.find(inode);
  if (found != sizes_.end()) found->second.will_be_at_least(thread, 0);
}

void KernelSizes::heard_from(fs::InodeNumber inode, std::uint32_t thread) {
  const auto found = sizes_.find(inode);
  if (found != sizes_.end()) found->second.heard_from(thread);
}

void KernelSizes::changes_file(fs::InodeNumber inode) {
  const auto found = sizes_.find(inode);
  if (found != sizes_.end()) found->second.heard_from(found->second.waits_for());
}

bool KernelSizes::may_believe_in_more(fs::InodeNumber inode, std::uint64_t size) const {
  const auto found = sizes_.find(inode);
  return found != sizes_.end() && found->second.may_be_more_than(size) && !stopped_ &&
         !planted(Fault::fuse_size_told_once);
}

bool KernelSizes::may_believe_in_less(fs::InodeNumber inode, std::uint64_t size) const {
  const auto found = sizes_.find(inode);
  return found != sizes_.end() && found->second.may_be_less_than(size) && !stopped_ &&
         !planted(Fault::fuse_size_told_once);
}

bool KernelSizes::given_up(fs::InodeNumber inode) const {
  return std::any_of(given_up_.begin(), given_up_.end(),
                     [inode](const auto& setting) { return setting->attributes.inode == inode; });
}

bool KernelSizes::is_held_up(fs::InodeNumber inode) const {
  return std::any_of(given_up_.begin(), given_up_.end(), [inode](const auto& setting) {
    return setting->attributes.inode == inode && Notifier::sleeps_without_progress(*setting->job);
  });
}

Task<void> KernelSizes::wait_for_changer(fs::InodeNumber inode) {
  const TimePoint patience = executor_.now() + changer_patience;
  while (!stopped_ && executor_.now() < patience && given_up(inode)) {
    co_await sleep_until(executor_, executor_.now() + look_interval);
  }
}

Task<bool> KernelSizes::make_sure_of_size(fs::Attributes attributes, bool may_ask) {
  const fs::InodeNumber inode = attributes.inode;
  co_await wait_for_setter(inode);
  for (std::uint32_t times = 0; times < size_attempts && !stopped_; ++times) {
    if (may_believe_in_more(inode, attributes.size)) {
      if (!co_await set_size(attributes, may_ask)) co_return false;
    } else if (may_believe_in_less(inode, attributes.size)) {
      co_await make_longer(inode, attributes.size);
    } else {
      break;
    }
  }
  co_return stopped_ || is_sure_of_size(inode, attributes.size);
}

// The kernel does it before it looks at the page of the end, which may be locked by a request that
// waits for us.
Task<void> KernelSizes::make_longer(fs::InodeNumber inode, std::uint64_t size) {
  auto watch = std::make_shared<Watch>(executor_);
  std::vector<Bytes> messages;
  messages.push_back(fuse::make_longer(raw(inode), size));
  const auto job = Watch::start(ask_notifier_, watch, std::move(messages));
  while (!watch->done) {
    co_await Watch::wait(&executor_, watch);
    if (!watch->done && Notifier::sleeps_without_progress(*job)) break;
  }
  const auto found = sizes_.find(inode);
  if (found != sizes_.end()) found->second.is_at_least(size);
}

// No message makes a file shorter; so a thread of ours truncates it, and only we know that nothing
// happens to the file. The kernel sets the size first and then cuts pages off, for which it may
// have to wait. Meanwhile nobody may write: a write(2) that has put its bytes into a page which is
// then cut off would send zeros. truncate(2) sees to that, but waits for whoever writes already,
// who may wait for us. The other way is a GETATTR, whose reply is believed if nothing changes
// meanwhile.
Task<bool> KernelSizes::set_size(fs::Attributes attributes, bool may_ask) {
  const fs::InodeNumber inode = attributes.inode;
  if (settings_.contains(inode)) {
    co_await wait_while_setting(inode);
    co_return true;
  }
  if (!may_ask && given_up(inode)) co_return false;
  // Whoever changes the file writes to it: to cut pages off now could lose what he writes next.
  if (may_ask && pages_.writing(inode)) co_return true;
  pages_.disturb(inode);
  auto setting = std::make_shared<Setting>();
  setting->attributes = attributes;
  setting->asks = may_ask;
  settings_.emplace(inode, setting);
  auto watch = std::make_shared<Watch>(executor_);
  const auto work = [this, setting] {
    const fs::Attributes& wanted = setting->attributes;
    const std::uint64_t number = raw(wanted.inode);
    if (!setting->asks) {
      int error = 0;
      setting->believed = device_.truncate(number, wanted.generation, wanted.size, error);
      // What does not let it be truncated (EROFS, ETXTBSY) lets nobody write to it either.
      setting->asks = error != 0 && error != EAGAIN;
    }
    if (setting->asks) setting->believed = device_.make_ask(number, wanted.generation);
  };
  Notifier& notifier = may_ask ? ask_notifier_ : size_notifier_;
  setting->job = notifier.start(work, [this, inode, watch, setting] {
    const auto entry = settings_.find(inode);
    if (entry != settings_.end() && entry->second == setting) settings_.erase(entry);
    given_up_.erase(setting);
    pages_.disturb(inode);
    watch->done = true;
    watch->changed.notify_all();
  });
  while (!watch->done) {
    co_await Watch::wait(&executor_, watch);
    if (watch->done) break;
    pages_.drain();
    if (!Notifier::sleeps_without_progress(*setting->job)) continue;
    if (setting->answered) break;
    if (setting->asks) continue;
    settings_.erase(inode);
    given_up_.insert(setting);
    co_return false;
  }
  if (watch->done && setting->believed != attributes.size) {
    co_return setting->answered || may_ask;
  }
  const auto found = sizes_.find(inode);
  if (found != sizes_.end()) found->second.is(attributes.size);
  co_return true;
}

Task<void> KernelSizes::wait_while_setting(fs::InodeNumber inode) {
  const TimePoint patience = executor_.now() + size_patience;
  const auto first = settings_.find(inode);
  if (first == settings_.end()) co_return;
  const std::shared_ptr<Setting> setting = first->second;
  for (;;) {
    const auto found = settings_.find(inode);
    if (found == settings_.end() || found->second != setting || stopped_) co_return;
    if (executor_.now() > patience) co_return;
    if (setting->answered && Notifier::sleeps_without_progress(*setting->job)) co_return;
    co_await sleep_until(executor_, executor_.now() + look_interval);
    pages_.drain();
  }
}

std::shared_ptr<KernelSizes::Setting> KernelSizes::setting_of(fs::InodeNumber inode,
                                                              std::uint32_t thread) const {
  const auto found = settings_.find(inode);
  const bool is_its =
      thread != 0 && found != settings_.end() && Notifier::thread(*found->second->job) == thread;
  return is_its ? found->second : nullptr;
}

bool KernelSizes::is_ours(std::uint32_t thread) const {
  if (thread == 0) return false;  // of another process space, or ours has not begun
  const auto is_its = [thread](const std::shared_ptr<Setting>& setting) {
    return Notifier::thread(*setting->job) == thread;
  };
  return std::any_of(settings_.begin(), settings_.end(),
                     [&](const auto& entry) { return is_its(entry.second); }) ||
         std::any_of(given_up_.begin(), given_up_.end(), is_its);
}

std::optional<fs::Attributes> KernelSizes::attributes_for(fs::InodeNumber inode,
                                                          std::uint32_t thread) {
  const std::shared_ptr<Setting> setting = setting_of(inode, thread);
  if (setting == nullptr) return {};
  if (setting->asks) {
    setting->answered = true;
  } else {
    // It asks for permissions. To take any size now, even a larger one, it would wait for the page
    // of the end, which may be locked; so it is to ignore what it is told. This waits for nobody:
    // the thread has the inode open.
    device_.notify(forget_attributes(raw(inode)));
  }
  return setting->attributes;
}

std::optional<fs::Attributes> KernelSizes::size_for(fs::InodeNumber inode, std::uint32_t thread) {
  const std::shared_ptr<Setting> setting = setting_of(inode, thread);
  if (setting == nullptr) return {};
  setting->answered = true;
  return setting->attributes;
}

Task<void> KernelSizes::wait_until_cut(fs::InodeNumber inode) {
  const TimePoint patience = executor_.now() + size_patience;
  while (!stopped_ && settings_.contains(inode) && executor_.now() < patience) {
    pages_.answer_blocked_reads(inode);
    co_await sleep_until(executor_, executor_.now() + Duration(50us));
  }
}

Task<void> KernelSizes::wait_for_setter(fs::InodeNumber inode) {
  return wait_until_taken(inode, setter_patience, false);
}

// An invalidation would make the kernel ignore a size that it was told and has not taken. And pages
// that are cut off too late are those of whoever reads them under the next lock.
Task<void> KernelSizes::wait_until_set(fs::InodeNumber inode) {
  return wait_until_taken(inode, size_patience, true);
}

Task<void> KernelSizes::wait_until_taken(fs::InodeNumber inode, Duration longest, bool lock_goes) {
  const TimePoint patience = executor_.now() + longest;
  ReplyLooks looks;
  while (!stopped_) {
    const auto found = sizes_.find(inode);
    const std::uint32_t thread = found == sizes_.end() ? 0 : found->second.waits_for();
    if (thread == 0) co_return;
    const Taken taken = has_taken_reply(thread);
    const bool cuts = taken == Taken::cuts;  // The size is set, and pages are still to go.
    const bool done = looks.is_taken(taken) && !(cuts && lock_goes);
    const bool late = executor_.now() > patience;
    if (done || (late && lock_goes)) {
      found->second.heard_from(thread);
      co_return;
    }
    if (late) co_return;
    if (cuts) pages_.answer_blocked_reads(inode);
    co_await sleep_until(executor_, executor_.now() + Duration(50us));
  }
}

}  // namespace plumeria::fuse
