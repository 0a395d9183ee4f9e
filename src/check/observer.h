// Who looks on while a store is checked or repaired: shows how far it is, and may end a repair.
#pragma once

#include <cstdint>
#include <string_view>

namespace plumeria::check {

class Observer {
 public:
  virtual ~Observer() = default;
  // Called often. `done`: how many of what the phase is named after.
  virtual void progress(std::string_view phase, std::uint64_t done) = 0;
  // Asked before each write of a repair.
  virtual bool wants_end() = 0;
};

}  // namespace plumeria::check
