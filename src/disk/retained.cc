#include "disk/retained.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "base/check.h"

namespace plumeria::disk {

void Retained::acknowledged(std::uint64_t order, wire::Request request, SharedBytes payload,
                            std::uint64_t incarnation) {
  erase(order);
  bytes_ += cost(payload);
  by_acknowledgement_.emplace(++last_acknowledgement_, order);
  Change change{std::move(request), std::move(payload), incarnation, last_acknowledgement_};
  changes_.emplace(order, std::move(change));
}

void Retained::covered(std::uint64_t acknowledgement, std::uint64_t incarnation,
                       const std::vector<Segment>& segments) {
  const auto is_covered = [&](const Change& change) {
    const Segment segment = change.request.address.segment;
    return change.incarnation == incarnation &&
           (segments.empty() ||
            std::find(segments.begin(), segments.end(), segment) != segments.end());
  };
  auto it = by_acknowledgement_.begin();
  while (it != by_acknowledgement_.end() && it->first <= acknowledgement) {
    const std::uint64_t order = it->second;
    ++it;
    if (is_covered(changes_.at(order))) erase(order);
  }
}

std::vector<std::uint64_t> Retained::unknown_to(std::uint64_t incarnation) const {
  std::vector<std::uint64_t> orders;
  for (const auto& [order, change] : changes_) {
    if (change.incarnation != incarnation) orders.push_back(order);
  }
  return orders;
}

const Retained::Change* Retained::find(std::uint64_t order) const {
  const auto found = changes_.find(order);
  return found == changes_.end() ? nullptr : &found->second;
}

void Retained::erase(std::uint64_t order) {
  const auto found = changes_.find(order);
  if (found == changes_.end()) return;
  bytes_ -= cost(found->second.payload);
  by_acknowledgement_.erase(found->second.acknowledgement);
  changes_.erase(found);
}

void Retained::erase_all_of(LeaseNumber lease) {
  std::vector<std::uint64_t> orders;
  for (const auto& [order, change] : changes_) {
    if (change.request.lease == lease) orders.push_back(order);
  }
  for (const std::uint64_t order : orders) erase(order);
}

bool overlap(const wire::Request& a, std::size_t a_payload, const wire::Request& b,
             std::size_t b_payload) {
  if (a.address.segment != b.address.segment) return false;
  const auto end_of = [](const wire::Request& request, std::size_t payload) {
    const std::uint64_t length = payload > 0 ? payload : request.length;
    const std::uint64_t room = std::numeric_limits<std::uint64_t>::max() - request.address.offset;
    return request.address.offset + std::min(length, room);
  };
  return a.address.offset < end_of(b, b_payload) && b.address.offset < end_of(a, a_payload);
}

}  // namespace plumeria::disk
