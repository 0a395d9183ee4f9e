// What a repair tells: one line for each thing that it has changed or that is lost.
#pragma once

#include <absl/functional/any_invocable.h>
#include <absl/strings/str_cat.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

namespace plumeria::check {

class Account {
 public:
  using Tell = absl::AnyInvocable<void(std::string_view)>;
  explicit Account(Tell tell) : tell_(std::move(tell)) {}

  // Put right; nothing of a user's is missing because of it.
  void repaired(const std::string& what) {
    ++repairs_;
    if (tell_) tell_(absl::StrCat("repaired: ", what));
  }
  // A user misses a file, a name, or bytes.
  void lost(const std::string& what) {
    ++losses_;
    if (tell_) tell_(absl::StrCat("lost: ", what));
  }
  std::uint64_t repairs() const { return repairs_; }
  std::uint64_t losses() const { return losses_; }

 private:
  Tell tell_;
  std::uint64_t repairs_ = 0, losses_ = 0;
};

}  // namespace plumeria::check
