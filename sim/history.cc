#include "sim/history.h"

#include <absl/container/flat_hash_set.h>
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

std::string describe(const Operation& operation) {
  return absl::StrCat("mount ", operation.mount, " ", action_name(operation.action), " ",
                      absl::Hex(operation.argument), " [", operation.called / 1us, " .. ",
                      operation.returned ? absl::StrCat(*operation.returned / 1us) : "unknown",
                      " us]");
}

// The search: a depth-first walk over the orders that real time allows.
class Search {
 public:
  Search(std::vector<Operation> operations, std::uint64_t steps_max)
      : operations_(std::move(operations)), steps_left_(steps_max) {
    std::stable_sort(operations_.begin(), operations_.end(),
                     [](const Operation& a, const Operation& b) { return a.called < b.called; });
    done_.assign(operations_.size(), false);
  }

  CheckResult run() {
    CheckResult result;
    result.linearizable = walk(KeyState{});
    result.gave_up = !result.linearizable && steps_left_ == 0;
    if (!result.linearizable) result.explanation = explanation();
    return result;
  }

 private:
  // All operations that returned are in the order; the unknown ones may be left out.
  bool finished() const {
    for (std::size_t i = first_open_; i < operations_.size(); ++i) {
      if (!done_[i] && operations_[i].returned) return false;
    }
    return true;
  }

  // The operations that may come next: called before every other open one has returned.
  std::vector<std::size_t> candidates() const {
    Duration earliest_return = Duration::max();
    std::vector<std::size_t> found;
    for (std::size_t i = first_open_; i < operations_.size(); ++i) {
      if (done_[i]) continue;
      if (operations_[i].called > earliest_return) break;
      found.push_back(i);
      if (operations_[i].returned) {
        earliest_return = std::min(earliest_return, *operations_[i].returned);
      }
    }
    std::erase_if(found, [&](std::size_t i) { return operations_[i].called > earliest_return; });
    // First those that returned, in the order in which they did: mostly that is the right one.
    std::stable_sort(found.begin(), found.end(), [&](std::size_t a, std::size_t b) {
      return operations_[a].returned.value_or(Duration::max()) <
             operations_[b].returned.value_or(Duration::max());
    });
    return found;
  }

  bool seen_before(const KeyState& state) {
    Writer key;
    key.put(static_cast<std::uint64_t>(first_open_));
    for (std::size_t i = first_open_; i < last_done_; ++i) {
      key.put(static_cast<std::uint8_t>(done_[i]));
    }
    key.put(state.value);
    key.put(state.base);
    key.put(state.owner);
    for (const std::uint64_t value : state.chain) key.put(value);
    return !seen_.insert(std::string(as_text(key.view()))).second;
  }

  void mark(std::size_t operation, bool done) {
    done_[operation] = done;
    first_open_ = 0;
    while (first_open_ < done_.size() && done_[first_open_]) ++first_open_;
    last_done_ = done_.size();
    while (last_done_ > first_open_ && !done_[last_done_ - 1]) --last_done_;
    done_count_ = done ? done_count_ + 1 : done_count_ - 1;
  }

  struct Frame {
    KeyState state;
    std::vector<std::size_t> candidates;
    std::size_t next_candidate = 0;
    std::size_t chosen = 0;
    std::vector<KeyState> results;  // of the chosen one, to try from the back
    bool has_chosen = false;
  };

  bool walk(KeyState start) {
    std::vector<Frame> stack;
    stack.push_back(Frame{std::move(start), candidates()});
    while (!stack.empty()) {
      if (finished()) return true;
      Frame& top = stack.back();
      if (top.has_chosen && top.results.empty()) {
        mark(top.chosen, false);
        top.has_chosen = false;
      }
      if (!top.has_chosen) {
        if (top.next_candidate == top.candidates.size()) {
          stack.pop_back();
          continue;
        }
        top.chosen = top.candidates[top.next_candidate++];
        top.results = apply(top.state, operations_[top.chosen]);
        if (top.results.empty()) continue;
        mark(top.chosen, true);
        top.has_chosen = true;
      }
      if (steps_left_ == 0) return false;
      --steps_left_;
      KeyState next = std::move(top.results.back());
      top.results.pop_back();
      if (seen_before(next)) continue;
      note_progress(stack);
      stack.push_back(Frame{std::move(next), candidates()});
    }
    return false;
  }

  void note_progress(const std::vector<Frame>& stack) {
    if (done_count_ <= best_) return;
    best_ = done_count_;
    best_order_.clear();
    for (const Frame& frame : stack) best_order_.push_back(frame.chosen);
    best_done_ = done_;
  }

  std::string explanation() const {
    std::string text = absl::StrCat("of ", operations_.size(), " operations ", best_,
                                    " could be ordered; the last of these were\n");
    const std::size_t from = best_order_.size() > 12 ? best_order_.size() - 12 : 0;
    for (std::size_t i = from; i < best_order_.size(); ++i) {
      absl::StrAppend(&text, "    ", describe(operations_[best_order_[i]]), "\n");
    }
    absl::StrAppend(&text, "  and none of these could follow\n");
    std::size_t listed = 0;
    for (std::size_t i = 0; i < operations_.size() && listed < 12; ++i) {
      if (!best_done_.empty() && best_done_[i]) continue;
      absl::StrAppend(&text, "    ", describe(operations_[i]), "\n");
      ++listed;
    }
    return text;
  }

  std::vector<Operation> operations_;
  std::uint64_t steps_left_;
  std::vector<bool> done_, best_done_;
  std::size_t first_open_ = 0, last_done_ = 0, done_count_ = 0, best_ = 0;
  std::vector<std::size_t> best_order_;
  absl::flat_hash_set<std::string> seen_;  // never iterated
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
  }
  return "?";
}

std::uint64_t appended(std::uint64_t list, std::uint64_t record) {
  const std::uint64_t pair[2] = {list, record};
  return checksum(std::as_bytes(std::span(pair))) >> 1;  // Never a name of something unseen.
}

std::vector<KeyState> apply(const KeyState& state, const Operation& operation) {
  const std::uint64_t value = state.value, argument = operation.argument;
  const bool is_unseen = (value & KeyState::unseen) != 0;
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
  }
  return {};
}

CheckResult check_key(std::vector<Operation> operations, std::uint64_t steps_max) {
  return Search(std::move(operations), steps_max).run();
}

}  // namespace plumeria::sim
