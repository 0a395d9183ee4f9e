#include "sim/workload.h"

#include <absl/strings/str_cat.h>

#include <algorithm>

namespace plumeria::sim {

// --- Recorder ------------------------------------------------------------------------------------

void Recorder::trace(const std::string& key, std::uint32_t mount, const char* how, Action action,
                     std::uint64_t argument) {
  if (!simulation_.tracing()) return;
  simulation_.trace(
      absl::StrCat("application on mount", mount / 1000),
      absl::StrCat(how, " ", action_name(action), " ", absl::Hex(argument), " of ", key));
}

Recorder::Ticket Recorder::called(const std::string& key, std::uint32_t mount, Action action,
                                  std::uint64_t argument) {
  ++size_;
  if (action == Action::put) argument = size_;
  trace(key, mount, "calls", action, argument);
  auto& calls = calls_[key];
  calls.push_back(Call{Operation{mount, action, argument, simulation_.now(), std::nullopt}});
  return {key, calls.size() - 1};
}

void Recorder::returned(const Ticket& ticket) {
  Operation& operation = at(ticket);
  trace(ticket.first, operation.mount, "is told", operation.action, operation.argument);
  operation.returned = simulation_.now();
}

void Recorder::returned(const Ticket& ticket, Action action, std::uint64_t argument,
                        Duration when) {
  Operation& operation = at(ticket);
  trace(ticket.first, operation.mount, "is told", action, argument);
  operation.action = action;
  operation.argument = argument;
  operation.returned = when;
}

void Recorder::withdraw(const Ticket& ticket) {
  calls_.at(ticket.first)[ticket.second].withdrawn = true;
}

void Recorder::seen(const std::string& key, std::uint32_t mount, Action action,
                    std::uint64_t argument, Duration begin) {
  ++size_;
  trace(key, mount, "sees", action, argument);
  calls_[key].push_back(Call{Operation{mount, action, argument, begin, simulation_.now()}});
}

void Recorder::crashed(std::uint32_t mount, Duration from, Duration until) {
  crashes_.push_back(Operation{mount, Action::crash, 0, from, until});
}

void Recorder::died(std::uint32_t mount, Duration from) {
  crashes_.push_back(Operation{mount, Action::death, 0, from, std::nullopt});
}

void Recorder::recovered(std::uint32_t mount) {
  for (Operation& crash : crashes_) {
    if (crash.action == Action::death && crash.mount == mount) crash.returned = simulation_.now();
  }
}

void Recorder::synced(const std::string& prefix, std::uint32_t mount, Duration begin) {
  syncs_.push_back(Sync{prefix, Operation{mount, Action::sync, 0, begin, simulation_.now()}});
}

std::string Recorder::check() const {
  for (const auto& [key, calls] : calls_) {
    std::vector<Operation> operations;
    std::vector<std::uint32_t> writers;
    for (const Call& call : calls) {
      if (call.withdrawn) continue;
      operations.push_back(call.operation);
      writers.push_back(call.operation.mount);
    }
    const auto wrote = [&writers](std::uint32_t mount) {
      return std::find(writers.begin(), writers.end(), mount) != writers.end();
    };
    for (const Operation& crash : crashes_) {
      if (wrote(crash.mount)) operations.push_back(crash);
    }
    for (const Sync& sync : syncs_) {
      if (key.starts_with(sync.prefix) && wrote(sync.operation.mount)) {
        operations.push_back(sync.operation);
      }
    }
    const CheckResult result = check_key(std::move(operations));
    if (result.gave_up) return absl::StrCat("too tangled to be judged: ", key);
    if (!result.linearizable) {
      return absl::StrCat("no order explains what was seen of ", key, ": ", result.explanation);
    }
  }
  return "";
}

// --- Workload ------------------------------------------------------------------------------------

void Workload::lost(std::size_t mount, Duration from, Duration until) {
  lost_something_ = true;
  losers_.insert(identity(mount));
  recorder_.crashed(identity(mount), from, until);
}

std::uint32_t Workload::died(std::size_t mount, Duration from) {
  lost_something_ = true;
  losers_.insert(identity(mount));
  recorder_.died(identity(mount), from);
  return identity(mount);
}

bool Workload::is_quiet() const {
  return std::all_of(clients_.begin(), clients_.end(), [this](const auto& client) {
    return client->ended || client->life != cluster_.life(client->mount) ||
           !cluster_.is_up(client->mount);
  });
}

std::string Workload::who_waits() const {
  std::string text;
  for (const auto& client : clients_) {
    if (client->ended || client->life != cluster_.life(client->mount)) continue;
    absl::StrAppend(&text, " mount", client->mount, cluster_.is_up(client->mount) ? "" : " (down)",
                    ": ", client->doing, ";");
  }
  return text;
}

namespace {

Task<void> run_client(Task<void> body, bool* ended) {
  co_await body;
  *ended = true;
}

}  // namespace

void Workload::spawn_client(std::size_t mount, Task<void> (*body)(Workload*, Client*)) {
  clients_.push_back(std::make_unique<Client>());
  Client* client = clients_.back().get();
  client->mount = mount;
  client->life = cluster_.life(mount);
  cluster_.spawn(mount, run_client(body(this, client), &client->ended));
}

Task<void> Workload::pause_between_calls(const Client& client) {
  World world = cluster_.node(client.mount).world();
  co_await sleep_for(world, random_.between(Duration{0}, Duration(4ms)));
  // The kernel of a process that was stopped goes on serving what it has cached; applications that
  // were stopped with it are not to see that (docs/protocol.md, "Suspension").
  while (cluster_.simulation().now() < cluster_.resumed_at(client.mount) + 100ms &&
         cluster_.resumed_at(client.mount) > Duration{0}) {
    co_await sleep_for(world, 20ms);
  }
}

void Workload::violate(std::string what) {
  cluster_.simulation().trace("workload", absl::StrCat("violation: ", what));
  if (violation_.empty()) {
    violation_ = absl::StrCat("at ", cluster_.simulation().now() / 1us, " us: ", what);
  }
}

}  // namespace plumeria::sim
