#include "core_world.h"

#include <absl/strings/str_cat.h>

#include <cstdio>
#include <cstdlib>

#include "base/check.h"
#include "base/fault.h"

namespace plumeria::lock_test {

using clerk::Effect;
using lockd::Decision;

LockName name_of(std::uint64_t number) {
  return {number < 100 ? lock::LockClass::inode : lock::LockClass::open, number};
}

CoreWorld::CoreWorld(int clients, clerk::ClerkCoreOptions options) {
  table_ = std::make_unique<lockd::LockTable>(lockd::LockTableOptions{});
  lockd::Decisions none;
  table_->start_granting(now_, none);
  for (int i = 1; i <= clients; ++i) {
    Client& client = clients_[static_cast<ClientNumber>(i)];
    client.core = std::make_unique<ClerkCore>(options);
    clerk::Effects effects;
    client.core->set_usable(now_, true, effects);
  }
}

void CoreWorld::note(const std::string& line) {
  if (log != nullptr) absl::StrAppend(log, line, "\n");
}

void CoreWorld::send(bool to_server, ClientNumber client, std::uint64_t epoch, lock::Item item) {
  note(to_server ? absl::StrCat("-> clerk ", client, ": ", lock::to_string(item))
                 : absl::StrCat("-> server to ", client, ": ", lock::to_string(item)));
  flights_.push_back({to_server, client, epoch, std::move(item)});
}

WaiterId CoreWorld::acquire(ClientNumber number, std::uint64_t lock, Mode mode) {
  Client& client = client_of(number);
  clerk::Effects effects;
  const WaiterId id = client.core->acquire(now_, name_of(lock), mode, effects);
  client.waiting[id] = {lock, mode};
  carry_out(number, std::move(effects));
  return id;
}

WaiterId CoreWorld::try_acquire(ClientNumber number, std::uint64_t lock, Mode mode) {
  Client& client = client_of(number);
  clerk::Effects effects;
  const WaiterId id = client.core->try_acquire(now_, name_of(lock), mode, effects);
  client.waiting[id] = {lock, mode};
  carry_out(number, std::move(effects));
  return id;
}

WaiterId CoreWorld::acquire_unless_revoked(ClientNumber number, std::uint64_t lock, Mode mode) {
  Client& client = client_of(number);
  clerk::Effects effects;
  const WaiterId id = client.core->acquire_unless_revoked(now_, name_of(lock), mode, effects);
  client.waiting[id] = {lock, mode};
  carry_out(number, std::move(effects));
  return id;
}

void CoreWorld::drop(ClientNumber number, std::uint64_t lock, Mode mode) {
  Client& client = client_of(number);
  auto& [shared, exclusive] = client.pinned[lock];
  if (mode == Mode::exclusive) {
    CHECK(exclusive);
    exclusive = false;
  } else {
    CHECK(shared > 0);
    --shared;
  }
  clerk::Effects effects;
  client.core->unpin(now_, name_of(lock), mode, effects);
  carry_out(number, std::move(effects));
}

void CoreWorld::give_back(ClientNumber number, std::uint64_t lock) {
  clerk::Effects effects;
  client_of(number).core->give_back(now_, name_of(lock), effects);
  carry_out(number, std::move(effects));
}

void CoreWorld::finish_give_up(ClientNumber number, std::uint64_t lock) {
  Client& client = client_of(number);
  CHECK(client.giving_up.erase(lock) == 1);
  clerk::Effects effects;
  client.core->given_up(now_, name_of(lock), effects);
  carry_out(number, std::move(effects));
}

void CoreWorld::carry_out(ClientNumber number, clerk::Effects effects) {
  while (!effects.empty()) {
    clerk::Effects more;
    for (const Effect& effect : effects) carry_out_one(number, effect, more);
    effects = std::move(more);
  }
}

void CoreWorld::carry_out_one(ClientNumber number, const Effect& effect, clerk::Effects& more) {
  Client& client = client_of(number);
  const std::uint64_t lock = effect.name.number;
  auto say = [&](const std::string& text) { note(absl::StrCat("   clerk ", number, " ", text)); };
  const std::string what = absl::StrCat(to_string(effect.name), " ", mode_name(effect.mode));
  switch (effect.kind) {
    case Effect::Kind::send_request:
      send(true, number, client.epoch,
           lock::Request{effect.name, effect.sequence, effect.mode, effect.is_try});
      break;
    case Effect::Kind::send_release:
      send(true, number, client.epoch, lock::Release{effect.name, effect.sequence, effect.mode});
      break;
    case Effect::Kind::send_keep:
      send(true, number, client.epoch, lock::Keep{effect.name, effect.sequence, effect.round});
      break;
    case Effect::Kind::ask_may_take:
      say(absl::StrCat("may take ", to_string(effect.name), client.refuses ? ": no" : ": yes"));
      client.core->may_take(now_, effect.name, effect.sequence, effect.round, !client.refuses,
                            more);
      break;
    case Effect::Kind::revoke_begins:
      say(absl::StrCat("revoke begins ", to_string(effect.name), " keep ", mode_name(effect.mode)));
      break;
    case Effect::Kind::give_up: {
      say(absl::StrCat("gives up ", to_string(effect.name), " keep ", mode_name(effect.mode)));
      client.giving_up.insert(lock);
      const auto [shared, exclusive] = client.pinned[lock];
      CHECK(!exclusive && (shared == 0 || effect.mode == Mode::shared));
      break;
    }
    case Effect::Kind::revoke_ended:
      say(absl::StrCat("revoke ended ", to_string(effect.name), " keep ", mode_name(effect.mode)));
      break;
    case Effect::Kind::granted: {
      const auto [wanted, mode] = client.waiting.at(effect.waiter);
      client.waiting.erase(effect.waiter);
      client.granted.insert(effect.waiter);
      auto& [shared, exclusive] = client.pinned[wanted];
      CHECK(!exclusive && (mode == Mode::shared || shared == 0));
      if (mode == Mode::exclusive) {
        exclusive = true;
      } else {
        ++shared;
      }
      say(absl::StrCat("pins ", what));
      break;
    }
    case Effect::Kind::refused:
      client.waiting.erase(effect.waiter);
      say(absl::StrCat("is refused ", what));
      break;
    case Effect::Kind::lost:
      client.waiting.erase(effect.waiter);
      break;
    case Effect::Kind::prefetched:
      break;
  }
}

void CoreWorld::carry_out(const lockd::Decisions& decisions) {
  for (const Decision& decision : decisions) {
    const auto client = static_cast<ClientNumber>(decision.lease);
    switch (decision.kind) {
      case Decision::Kind::grant:
        send(false, client, epoch_,
             lock::Grant{decision.name, decision.sequence, decision.mode, decision.fence});
        break;
      case Decision::Kind::refused:
        send(false, client, epoch_, lock::Refused{decision.name, decision.sequence});
        break;
      case Decision::Kind::revoke:
        send(false, client, epoch_,
             lock::Revoke{decision.name, decision.sequence, decision.mode, decision.is_try,
                          decision.round});
        break;
      case Decision::Kind::expire:
        note(absl::StrCat("   server: end the lease of ", client, ", it holds back ",
                          to_string(decision.name)));
        break;
    }
  }
}

void CoreWorld::deliver(std::size_t index, bool keep_a_copy) {
  const Flight flight = flights_[index];
  if (!keep_a_copy) lose(index);
  if (flight.to_server) {
    at_server(flight);
  } else {
    at_client(flight);
  }
}

void CoreWorld::lose(std::size_t index) {
  flights_.erase(flights_.begin() + static_cast<std::ptrdiff_t>(index));
}

void CoreWorld::deliver_all() {
  while (!flights_.empty()) deliver(0);
}

void CoreWorld::at_server(const Flight& flight) {
  if (flight.epoch != epoch_ || dead_at_server_.contains(flight.client)) return;
  const LeaseNumber lease{flight.client};
  lockd::Decisions out;
  if (const auto* request = std::get_if<lock::Request>(&flight.item)) {
    table_->request(now_, lease, *request, out);
  } else if (const auto* release = std::get_if<lock::Release>(&flight.item)) {
    table_->release(now_, lease, *release, out);
  } else if (const auto* keep = std::get_if<lock::Keep>(&flight.item)) {
    table_->keep(now_, lease, *keep, out);
  }
  carry_out(out);
}

void CoreWorld::at_client(const Flight& flight) {
  Client& client = client_of(flight.client);
  if (client.dead || flight.epoch != client.epoch) return;
  clerk::Effects out;
  if (const auto* grant = std::get_if<lock::Grant>(&flight.item)) {
    client.core->grant(now_, *grant, out);
  } else if (const auto* refused = std::get_if<lock::Refused>(&flight.item)) {
    client.core->refused(now_, *refused, out);
  } else if (const auto* revoke = std::get_if<lock::Revoke>(&flight.item)) {
    client.core->revoke(now_, *revoke, out);
  }
  carry_out(flight.client, std::move(out));
}

Duration CoreWorld::until_next_tick() const {
  TimePoint next = table_->next_tick();
  for (const auto& [number, client] : clients_) {
    if (!client.dead) next = std::min(next, client.core->next_tick());
  }
  return next == TimePoint::max() ? Duration::max() : std::max(Duration::zero(), next - now_);
}

void CoreWorld::advance(Duration by) {
  now_ += by;
  lockd::Decisions decisions;
  table_->tick(now_, decisions);
  carry_out(decisions);
  for (auto& [number, client] : clients_) {
    if (client.dead) continue;
    clerk::Effects effects;
    client.core->tick(now_, effects);
    carry_out(number, std::move(effects));
  }
}

void CoreWorld::restart_server() {
  ++epoch_;
  table_ = std::make_unique<lockd::LockTable>(lockd::LockTableOptions{});
  if (planted(Fault::gainer_grants_early)) start_granting();
}

void CoreWorld::report(ClientNumber number) {
  Client& client = client_of(number);
  client.epoch = epoch_;
  lock::Report page;
  page.last = true;
  page.holds = client.core->rejoin();
  note(absl::StrCat("-> clerk ", number, ": ", lock::to_string(lock::Item(page))));
  for (const lock::Hold& hold : page.holds) table_->reported(LeaseNumber{number}, hold);
  clerk::Effects effects;
  client.core->ask_again(now_, effects);
  carry_out(number, std::move(effects));
}

void CoreWorld::start_granting() {
  lockd::Decisions decisions;
  table_->start_granting(now_, decisions);
  carry_out(decisions);
}

void CoreWorld::kill(ClientNumber client) { client_of(client).dead = true; }

void CoreWorld::dying(ClientNumber client) {
  dead_at_server_.insert(client);
  lockd::Decisions decisions;
  table_->dying(now_, LeaseNumber{client}, decisions);
  carry_out(decisions);
}

void CoreWorld::gone(ClientNumber client) {
  client_of(client).core = std::make_unique<ClerkCore>(clerk::ClerkCoreOptions{});
  client_of(client).pinned.clear();
  client_of(client).waiting.clear();
  client_of(client).giving_up.clear();
  lockd::Decisions decisions;
  table_->gone(now_, LeaseNumber{client}, decisions);
  carry_out(decisions);
}

bool CoreWorld::is_waiting(ClientNumber client, WaiterId waiter) const {
  return clients_.at(client).waiting.contains(waiter);
}

bool CoreWorld::was_granted(ClientNumber client, WaiterId waiter) const {
  return clients_.at(client).granted.contains(waiter);
}

std::size_t CoreWorld::waiting() const {
  std::size_t count = 0;
  for (const auto& [number, client] : clients_) count += client.waiting.size();
  return count;
}

std::vector<std::pair<ClientNumber, std::uint64_t>> CoreWorld::giving_up() const {
  std::vector<std::pair<ClientNumber, std::uint64_t>> all;
  for (const auto& [number, client] : clients_) {
    if (client.dead) continue;
    for (std::uint64_t lock : client.giving_up) all.emplace_back(number, lock);
  }
  return all;
}

std::vector<CoreWorld::Held> CoreWorld::pins() const {
  std::vector<Held> all;
  for (const auto& [number, client] : clients_) {
    if (client.dead) continue;
    for (const auto& [lock, pins] : client.pinned) {
      for (std::uint32_t i = 0; i < pins.first; ++i) all.push_back({number, lock, Mode::shared});
      if (pins.second) all.push_back({number, lock, Mode::exclusive});
    }
  }
  return all;
}

void CoreWorld::check() const {
  table_->check_invariants();
  std::map<std::uint64_t, std::map<ClientNumber, Mode>> beliefs;
  for (const auto& [number, client] : clients_) {
    client.core->check_invariants();
    for (const lock::Hold& hold : client.core->holds()) {
      beliefs[hold.name.number][number] = hold.mode;
    }
    for (const auto& [lock, pins] : client.pinned) {
      const Mode held = client.core->held(name_of(lock));
      if (pins.second) CHECK(held == Mode::exclusive);
      if (pins.first > 0) CHECK(held != Mode::none);
      CHECK(pins.first == client.core->shared_pins(name_of(lock)));
      CHECK(pins.second == client.core->exclusive_pin(name_of(lock)));
    }
  }
  for (const auto& [lock, holders] : beliefs) {
    for (auto a = holders.begin(); a != holders.end(); ++a) {
      for (auto b = std::next(a); b != holders.end(); ++b) {
        if (lock::compatible(a->second, b->second)) continue;
        std::fprintf(stderr, "clerks %d and %d both hold lock %d\n", static_cast<int>(a->first),
                     static_cast<int>(b->first), static_cast<int>(lock));
        std::abort();
      }
    }
  }
}

}  // namespace plumeria::lock_test
