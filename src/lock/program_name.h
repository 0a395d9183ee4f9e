// The locks of programs (`plumeria lock`): what people call them, and the lock that this is.
//
// A name of up to 4 KiB in a named table becomes the number of a lock by its hash; the lock server
// is told the name too, for those who ask it (lock::Named). Two names with one hash exclude each
// other without need, no more; with a billion names the chance is below 3 %.
#pragma once

#include <string>
#include <string_view>

#include "lock/name.h"

namespace plumeria::lock {

constexpr std::size_t program_name_max = 4096;  // bytes
constexpr std::size_t table_name_max = 255;

struct ProgramName {
  std::string table, name;
  friend auto operator<=>(const ProgramName&, const ProgramName&) = default;
};

// Neither part is empty or too long; no table has a zero byte.
bool is_valid(const ProgramName& name);
// Requires: is_valid(name).
LockName lock_of(const ProgramName& name);

}  // namespace plumeria::lock
