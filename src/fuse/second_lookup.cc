#include "fuse/second_lookup.h"

#include <utility>

namespace plumeria::fuse {

namespace {

constexpr std::size_t failed_max = 1024;  // beyond it those of long ago are forgotten

}  // namespace

void SecondLookup::found_stale(std::uint32_t thread) {
  const TimePoint now = executor_.now();
  if (failed_.size() >= failed_max) {
    std::erase_if(failed_,
                  [&](const auto& entry) { return now - entry.second > second_try_within; });
  }
  failed_.insert_or_assign(thread, now);
}

SecondLookup::~SecondLookup() { let_go_of_all(); }

void SecondLookup::let_go_of_all() {
  for (const auto& [thread, kept] : kept_) executor_.cancel(kept.timer);
  kept_.clear();
  failed_.clear();
}

void SecondLookup::looked_up(std::uint32_t thread, clerk::Pin pin) {
  if (!kept_.empty()) drop(thread);
  if (!pin) return;
  Kept kept{std::move(pin),
            executor_.at(executor_.now() + patience, [this, thread] { answered(thread); })};
  kept_.emplace(thread, std::move(kept));
}

bool SecondLookup::wants(std::uint32_t thread) const {
  if (failed_.empty()) return false;
  const auto failed = failed_.find(thread);
  return failed != failed_.end() && executor_.now() - failed->second <= second_try_within;
}

void SecondLookup::drop(std::uint32_t thread) {
  const auto found = kept_.find(thread);
  if (found == kept_.end()) return;
  executor_.cancel(found->second.timer);
  kept_.erase(found);
}

}  // namespace plumeria::fuse
