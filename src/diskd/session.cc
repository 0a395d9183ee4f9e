#include "diskd/session.h"

#include <utility>

#include "base/check.h"

namespace plumeria::diskd {

Session::Arrival Session::arrive(std::uint64_t number, std::uint64_t answered_below,
                                 std::uint64_t bytes) {
  if (answered_below > answered_below_) {
    answered_below_ = answered_below;
    answers_.erase(answers_.begin(), answers_.lower_bound(answered_below));
  }
  if (number < answered_below_ || under_way_.contains(number)) return Arrival::ignore;
  if (answers_.contains(number)) return Arrival::repeat;
  if (under_way_.size() + answers_.size() >= requests_max_ || bytes > bytes_max_ - bytes_) {
    return Arrival::too_many;
  }
  under_way_.emplace(number, bytes);
  bytes_ += bytes;
  return Arrival::execute;
}

void Session::end(std::uint64_t number) {
  const auto found = under_way_.find(number);
  CHECK(found != under_way_.end());
  bytes_ -= found->second;
  under_way_.erase(found);
}

void Session::answered(std::uint64_t number, Bytes answer) {
  end(number);
  if (number >= answered_below_) answers_.emplace(number, std::move(answer));
}

void Session::forget(std::uint64_t number) { end(number); }

const Bytes& Session::answer(std::uint64_t number) const {
  const auto found = answers_.find(number);
  CHECK(found != answers_.end());
  return found->second;
}

}  // namespace plumeria::diskd
