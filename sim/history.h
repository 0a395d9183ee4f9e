// Checks that what applications saw is explained by one order of their operations.
//
// A history is a list of operations on one key (a cell of a file, a file's size, a list of appended
// records, a name in a directory), each with the time when it was called, when it returned, what it
// wanted and what it answered. It is linearizable if the operations can be put into one order that
// respects real time (whoever returned before another was called comes first) and in which each
// answer is right. Herlihy & Wing, TOPLAS 1990.
//
// Loss       A mount that dies or loses its lease may take with it what it had not made durable and
//            nobody else had seen. So a key's state has, besides its value, the chain of values
//            that only one mount knows, and the value below them; `crash` may fall back to any of
//            these. `sync`, and any other mount that looks, make the value firm.
// Unknown    An operation whose answer never came has no end: it happened at any time, or not at
//            all.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/time.h"
#include "sim/order_search.h"

namespace plumeria::sim {

enum class Action : std::uint8_t {
  write,    // value := argument
  read,     // argument is what was seen
  extend,   // value := max(value, argument)
  append,   // value := appended(value, argument)
  create,   // 0 -> argument
  remove,   // something -> 0
  put,      // value := something, nobody knows what; argument names it (a number of its own)
  present,  // value was not 0
  absent,   // value was 0
  sync,     // what the mount wrote is durable
  crash,    // the mount's values that are not firm may be lost
  death,    // the same, and no operation of this mount can come later
};
const char* action_name(Action action);

// How a list of appended records is one value.
std::uint64_t appended(std::uint64_t list, std::uint64_t record);

struct Operation {
  std::uint32_t mount = 0;
  Action action{};
  std::uint64_t argument = 0;
  Duration called{};
  std::optional<Duration> returned;  // nothing: unknown
};

// The state of one key, as far as an order of operations determines it.
struct KeyState {
  // Values with this bit are names of something that nobody has seen yet; others lack it.
  static constexpr std::uint64_t unseen = 1ull << 63;
  std::uint64_t value = 0;
  std::uint64_t base = 0;            // what is firm
  std::uint32_t owner = 0;           // whose values these are; meaningful if chain is not empty
  std::vector<std::uint64_t> chain;  // values since `base`, the present one last
  std::vector<std::uint32_t> dead;   // mounts, in ascending order
};

// "[called .. returned us]".
std::string time_span(Duration called, std::optional<Duration> returned);

// The states that `operation` can lead to; empty: it cannot come now with this answer.
std::vector<KeyState> apply(const KeyState& state, const Operation& operation);

// Requires: at most about a thousand operations, and few of them overlapping at any time.
CheckResult check_key(std::vector<Operation> operations, std::uint64_t steps_max = 2'000'000);

}  // namespace plumeria::sim
