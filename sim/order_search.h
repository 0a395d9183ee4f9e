// The search for one order of operations that explains what was seen: Wing & Gong's, with the
// memory of Lowe.
//
// Model   State        of what the operations are about; a value-initialized one is the start
//         Operation    has `called`, a Duration, and `returned`, an optional one: nothing if it may
//                      have happened at any time since, or not at all
//         apply()      the states to which an operation can lead with this answer; empty: it cannot
//                      come now
//         only_looks() the operation changes nothing: as soon as it can come it may come
//         remember()   writes what tells states apart
//         describe()   an operation, for people
#pragma once

#include <absl/container/flat_hash_set.h>
#include <absl/strings/str_cat.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "base/time.h"

namespace plumeria::sim {

struct CheckResult {
  bool linearizable = true;
  bool gave_up = false;     // the search was too long: nothing is proven
  std::string explanation;  // the longest order found and what could not follow
};

// A depth-first walk over the orders that real time allows.
template <class Model>
class OrderSearch {
 public:
  using State = typename Model::State;
  using Operation = typename Model::Operation;

  OrderSearch(Model model, std::vector<Operation> operations, std::uint64_t steps_max)
      : model_(std::move(model)), operations_(std::move(operations)), steps_left_(steps_max) {
    std::stable_sort(operations_.begin(), operations_.end(),
                     [](const Operation& a, const Operation& b) { return a.called < b.called; });
    done_.assign(operations_.size(), false);
  }

  CheckResult run() {
    CheckResult result;
    result.linearizable = walk(State{});
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
  std::vector<std::size_t> candidates(const State& state) const {
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
    for (const std::size_t i : found) {
      const Operation& operation = operations_[i];
      if (model_.only_looks(operation) && !model_.apply(state, operation).empty()) return {i};
    }
    // First those that returned, in the order in which they did: mostly that is the right one.
    std::stable_sort(found.begin(), found.end(), [&](std::size_t a, std::size_t b) {
      return operations_[a].returned.value_or(Duration::max()) <
             operations_[b].returned.value_or(Duration::max());
    });
    return found;
  }

  bool seen_before(const State& state) {
    Writer key;
    key.put(static_cast<std::uint64_t>(first_open_));
    for (std::size_t i = first_open_; i < last_done_; ++i) {
      key.put(static_cast<std::uint8_t>(done_[i]));
    }
    model_.remember(key, state);
    return !seen_.insert(std::string(as_text(key.view()))).second;
  }

  void mark(std::size_t operation, bool done) {
    done_[operation] = done;
    if (done) {
      while (first_open_ < done_.size() && done_[first_open_]) ++first_open_;
      last_done_ = std::max(last_done_, operation + 1);
      ++done_count_;
    } else {
      first_open_ = std::min(first_open_, operation);
      while (last_done_ > 0 && !done_[last_done_ - 1]) --last_done_;
      --done_count_;
    }
  }

  struct Frame {
    State state;
    std::vector<std::size_t> candidates;
    std::size_t next_candidate = 0;
    std::size_t chosen = 0;
    std::vector<State> results;  // of the chosen one, to try from the back
    bool has_chosen = false;
  };

  bool walk(State start) {
    std::vector<Frame> stack;
    std::vector<std::size_t> first = candidates(start);
    stack.push_back(Frame{std::move(start), std::move(first)});
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
        top.results = model_.apply(top.state, operations_[top.chosen]);
        if (top.results.empty()) continue;
        mark(top.chosen, true);
        top.has_chosen = true;
      }
      if (steps_left_ == 0) return false;
      --steps_left_;
      State next = std::move(top.results.back());
      top.results.pop_back();
      if (seen_before(next)) continue;
      note_progress(stack);
      std::vector<std::size_t> following = candidates(next);
      stack.push_back(Frame{std::move(next), std::move(following)});
    }
    return false;
  }

  void note_progress(const std::vector<Frame>& stack) {
    if (done_count_ <= best_) return;
    best_ = done_count_;
    best_last_.clear();
    const std::size_t from = stack.size() > listed_max ? stack.size() - listed_max : 0;
    for (std::size_t i = from; i < stack.size(); ++i) best_last_.push_back(stack[i].chosen);
    best_done_ = done_;
  }

  std::string explanation() const {
    std::string text = absl::StrCat("of ", operations_.size(), " operations ", best_,
                                    " could be ordered; the last of these were\n");
    for (const std::size_t i : best_last_) {
      absl::StrAppend(&text, "    ", model_.describe(operations_[i]), "\n");
    }
    absl::StrAppend(&text, "  and none of these could follow\n");
    std::size_t listed = 0;
    for (std::size_t i = 0; i < operations_.size() && listed < listed_max; ++i) {
      if (!best_done_.empty() && best_done_[i]) continue;
      absl::StrAppend(&text, "    ", model_.describe(operations_[i]), "\n");
      ++listed;
    }
    return text;
  }

  static constexpr std::size_t listed_max = 12;

  const Model model_;
  std::vector<Operation> operations_;
  std::uint64_t steps_left_;
  std::vector<bool> done_, best_done_;
  std::size_t first_open_ = 0, last_done_ = 0, done_count_ = 0, best_ = 0;
  std::vector<std::size_t> best_last_;     // the last ones of the longest order
  absl::flat_hash_set<std::string> seen_;  // never iterated
};

}  // namespace plumeria::sim
