#include "sim/history.h"

#include <absl/strings/str_cat.h>

#include <algorithm>

#include "base/bytes.h"
#include "base/checksum.h"

namespace plumeria::sim {
namespace {

constexpr std::size_t chain_max = 64;

// A value that only `mount` knows for now.
void push(KeyState& state, std::uint32_t mount, std::uint64_t value) {
  if (!state.chain.empty() && state.owner != mount) {
    state.base = state.value;
    state.chain.clear();
  }
  state.owner = mount;
  state.value = value;
  state.chain.push_back(value);
  // The oldest that a crash could bring back are forgotten only in absurdly long chains.
  if (state.chain.size() > chain_max) state.chain.erase(state.chain.begin());
}

// Another mount looks: it was given what it sees, durably.
void look(KeyState& state, std::uint32_t mount) {
  if (state.chain.empty() || state.owner == mount) return;
  state.base = state.value;
  state.chain.clear();
}

KeyState changed(KeyState state, std::uint32_t mount, std::uint64_t value) {
  push(state, mount, value);
  return state;
}

std::vector<KeyState> crash(const KeyState& state, std::uint32_t mount) {
  if (state.chain.empty() || state.owner != mount) return {state};
  std::vector<std::uint64_t> values = state.chain;
  values.push_back(state.base);
  std::sort(values.begin(), values.end());
  values.erase(std::unique(values.begin(), values.end()), values.end());
  std::vector<KeyState> states;
  for (const std::uint64_t value : values) {
    KeyState firm;
    firm.value = firm.base = value;
    firm.dead = state.dead;
    states.push_back(firm);
  }
  return states;
}

std::vector<KeyState> see(KeyState state, const Operation& operation, bool right) {
  if (!right) return {};
  look(state, operation.mount);
  return {std::move(state)};
}

// What was unseen until now turns out to be `seen`.
KeyState bound(KeyState state, std::uint64_t seen) {
  const std::uint64_t name = state.value;
  for (std::uint64_t& value : state.chain) {
    if (value == name) value = seen;
  }
  if (state.base == name) state.base = seen;
  state.value = seen;
  return state;
}

struct KeyModel {
  using State = KeyState;
  using Operation = sim::Operation;
  static std::vector<KeyState> apply(const KeyState& state, const Operation& operation) {
    return sim::apply(state, operation);
  }
  // A look by another mount makes values firm.
  static bool only_looks(const Operation&) { return false; }
  static void remember(Writer& key, const KeyState& state) {
    key.put(state.value);
    key.put(state.base);
    key.put(state.owner);
    key.put(static_cast<std::uint64_t>(state.chain.size()));
    for (const std::uint64_t value : state.chain) key.put(value);
    for (const std::uint32_t mount : state.dead) key.put(mount);
  }
  static std::string describe(const Operation& operation) {
    return absl::StrCat("mount ", operation.mount, " ", action_name(operation.action), " ",
                        absl::Hex(operation.argument), " ",
                        time_span(operation.called, operation.returned));
  }
};

}  // namespace

const char* action_name(Action action) {
  switch (action) {
    case Action::write:
      return "write";
    case Action::read:
      return "read";
    case Action::extend:
      return "extend to";
    case Action::append:
      return "append";
    case Action::create:
      return "create";
    case Action::remove:
      return "remove";
    case Action::put:
      return "put";
    case Action::present:
      return "found";
    case Action::absent:
      return "did not find";
    case Action::sync:
      return "sync";
    case Action::crash:
      return "crash";
    case Action::death:
      return "death";
  }
  return "?";
}

std::string time_span(Duration called, std::optional<Duration> returned) {
  return absl::StrCat("[", called / 1us, " .. ",
                      returned ? absl::StrCat(*returned / 1us) : "unknown", " us]");
}

std::uint64_t appended(std::uint64_t list, std::uint64_t record) {
  const std::uint64_t pair[2] = {list, record};
  return checksum(std::as_bytes(std::span(pair))) >> 1;  // Never a name of something unseen.
}

std::vector<KeyState> apply(const KeyState& state, const Operation& operation) {
  const std::uint64_t value = state.value, argument = operation.argument;
  const bool is_unseen = (value & KeyState::unseen) != 0;
  if (std::binary_search(state.dead.begin(), state.dead.end(), operation.mount)) return {};
  switch (operation.action) {
    case Action::write:
      return {changed(state, operation.mount, argument)};
    case Action::extend:
      return {changed(state, operation.mount, std::max(value, argument))};
    case Action::append:
      return {changed(state, operation.mount, appended(value, argument))};
    case Action::put:
      return {changed(state, operation.mount, KeyState::unseen | argument)};
    case Action::create:
      if (value != 0) return {};
      return {changed(state, operation.mount, argument)};
    case Action::remove:
      if (value == 0) return {};
      return {changed(state, operation.mount, 0)};
    case Action::read:
      if (is_unseen && argument != 0) return see(bound(state, argument), operation, true);
      return see(state, operation, value == argument);
    case Action::present:
      return see(state, operation, value != 0);
    case Action::absent:
      return see(state, operation, value == 0);
    case Action::sync: {
      KeyState firm = state;
      if (!firm.chain.empty() && firm.owner == operation.mount) {
        firm.base = firm.value;
        firm.chain.clear();
      }
      return {std::move(firm)};
    }
    case Action::crash:
      return crash(state, operation.mount);
    case Action::death: {
      KeyState last = state;
      last.dead.insert(std::lower_bound(last.dead.begin(), last.dead.end(), operation.mount),
                       operation.mount);
      return crash(last, operation.mount);
    }
  }
  return {};
}

CheckResult check_key(std::vector<Operation> operations, std::uint64_t steps_max) {
  return OrderSearch<KeyModel>(KeyModel{}, std::move(operations), steps_max).run();
}

}  // namespace plumeria::sim
