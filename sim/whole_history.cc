#include "sim/whole_history.h"

#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>

#include <algorithm>

#include "base/bytes.h"
#include "sim/history.h"

namespace plumeria::sim {
namespace {

constexpr std::uint64_t steps_max = 1'000'000;

struct FileModel {
  struct State {
    std::vector<std::uint64_t> cells;  // empty at the start: zeros
    std::uint64_t size = 0;
  };
  using Operation = FileOperation;
  std::uint64_t count = 0;

  std::uint64_t cell(const State& state, std::uint64_t at) const {
    return state.cells.empty() ? 0 : state.cells[at];
  }
  std::vector<State> apply(const State& state, const Operation& operation) const {
    if (only_looks(operation))
      return seen(state, operation) ? std::vector{state} : std::vector<State>{};
    State next = state;
    if (next.cells.empty()) next.cells.resize(count);
    switch (operation.kind) {
      case Operation::Kind::write:
        std::fill_n(next.cells.begin() + static_cast<std::ptrdiff_t>(operation.first),
                    operation.count, operation.number);
        next.size = std::max(next.size, operation.size);
        return {std::move(next)};
      case Operation::Kind::store:
        next.cells[operation.first] = operation.number;
        return {std::move(next)};
      case Operation::Kind::truncate:
        std::fill(next.cells.begin() + static_cast<std::ptrdiff_t>(operation.first),
                  next.cells.end(), 0);
        next.size = operation.size;
        return {std::move(next)};
      case Operation::Kind::read:
      case Operation::Kind::look:
        break;
    }
    return {};
  }
  bool seen(const State& state, const Operation& operation) const {
    if (operation.kind == Operation::Kind::look) return state.size == operation.size;
    for (std::size_t i = 0; i < operation.values.size(); ++i) {
      if (cell(state, operation.first + i) != operation.values[i]) return false;
    }
    return true;
  }
  static bool only_looks(const Operation& operation) {
    return operation.kind == Operation::Kind::read || operation.kind == Operation::Kind::look;
  }
  static void remember(Writer& key, const State& state) {
    key.put(state.size);
    for (const std::uint64_t value : state.cells) key.put(value);
  }
  static std::string describe(const Operation& operation) {
    static constexpr const char* names[] = {"write", "store", "truncate", "read", "look"};
    return absl::StrCat(
        "mount ", operation.mount, " ", names[static_cast<std::size_t>(operation.kind)],
        " from cell ", operation.first, " count ", operation.count, " number ",
        absl::Hex(operation.number), " size ", operation.size, " values ",
        absl::StrJoin(
            operation.values, " ",
            [](std::string* to, std::uint64_t value) { absl::StrAppend(to, absl::Hex(value)); }),
        " ", time_span(operation.called, operation.returned));
  }
};

struct NameModel {
  struct State {
    std::vector<std::uint64_t> identities;  // by name; empty at the start: nothing
  };
  using Operation = NameOperation;
  std::uint64_t count = 0;

  std::vector<State> apply(const State& state, const Operation& operation) const {
    if (only_looks(operation))
      return seen(state, operation) ? std::vector{state} : std::vector<State>{};
    State next = state;
    if (next.identities.empty()) next.identities.resize(count);
    std::uint64_t& has = next.identities[operation.name];
    switch (operation.kind) {
      case Operation::Kind::create:
        if (has != 0) return {};
        has = operation.identity;
        return {std::move(next)};
      case Operation::Kind::remove:
        if (has == 0) return {};
        has = 0;
        return {std::move(next)};
      case Operation::Kind::move:
        if (has == 0) return {};
        next.identities[operation.to] = has;
        has = 0;
        return {std::move(next)};
      case Operation::Kind::read:
      case Operation::Kind::found:
        break;
    }
    return {};
  }
  static bool seen(const State& state, const Operation& operation) {
    const std::uint64_t has = state.identities.empty() ? 0 : state.identities[operation.name];
    return operation.kind == Operation::Kind::found ? has != 0 : has == operation.identity;
  }
  static bool only_looks(const Operation& operation) {
    return operation.kind == Operation::Kind::read || operation.kind == Operation::Kind::found;
  }
  static void remember(Writer& key, const State& state) {
    for (const std::uint64_t identity : state.identities) key.put(identity);
  }
  static std::string describe(const Operation& operation) {
    static constexpr const char* names[] = {"create", "remove", "move", "read", "found"};
    return absl::StrCat("mount ", operation.mount, " ",
                        names[static_cast<std::size_t>(operation.kind)], " name ", operation.name,
                        " to ", operation.to, " identity ", absl::Hex(operation.identity), " ",
                        time_span(operation.called, operation.returned));
  }
};

}  // namespace

CheckResult check_file(std::uint64_t cells, std::vector<FileOperation> operations) {
  return OrderSearch<FileModel>(FileModel{cells}, std::move(operations), steps_max).run();
}

CheckResult check_names(std::uint64_t names, std::vector<NameOperation> operations) {
  return OrderSearch<NameModel>(NameModel{names}, std::move(operations), steps_max).run();
}

}  // namespace plumeria::sim
