#include "fuse/untaken_names.h"

#include <algorithm>
#include <iterator>

#include "base/async.h"

namespace plumeria::fuse {

namespace {

constexpr Duration look_interval = 50us;

}  // namespace

bool UntakenCreations::may_send(std::uint32_t thread) {
  if (creations_.size() >= limit) {
    std::erase_if(creations_,
                  [this](const auto& entry) { return look_(entry.first) == Taken::yes; });
  }
  return thread != 0 && creations_.size() < limit;
}

bool UntakenCreations::any(fs::InodeNumber inode) const {
  return std::any_of(creations_.begin(), creations_.end(),
                     [inode](const auto& entry) { return entry.second == inode; });
}

Task<bool> UntakenCreations::wait(fs::InodeNumber inode, TimePoint longest, Duration interval) {
  for (std::map<std::uint32_t, ReplyLooks> looks;;) {  // this call's own: others may look, too
    for (auto at = creations_.begin(); at != creations_.end();) {
      const auto [thread, made] = *at;
      const bool taken = made == inode && looks[thread].is_taken(look_(thread));
      at = taken ? creations_.erase(at) : std::next(at);
    }
    if (!any(inode)) co_return true;
    if (executor_.now() > longest) co_return false;
    co_await sleep_until(executor_, executor_.now() + interval);
  }
}

Task<void> UntakenListings::wait(fs::InodeNumber directory) {
  const auto is_of_it = [directory](const auto& entry) { return entry.second == directory; };
  const TimePoint longest = executor_.now() + patience;
  for (;;) {
    std::erase_if(listings_,
                  [&](const auto& entry) { return is_of_it(entry) && has_left_(entry.first); });
    if (std::none_of(listings_.begin(), listings_.end(), is_of_it)) co_return;
    if (executor_.now() > longest) break;
    co_await sleep_until(executor_, executor_.now() + look_interval);
  }
  std::erase_if(listings_, is_of_it);
}

}  // namespace plumeria::fuse
