#include "sim/nemesis.h"

#include <absl/strings/str_cat.h>

#include <algorithm>

#include "base/number.h"
#include "base/rare.h"

namespace plumeria::sim {

const char* trouble_name(Trouble trouble) {
  switch (trouble) {
    case Trouble::none:
      return "none";
    case Trouble::network:
      return "network";
    case Trouble::partition:
      return "partition";
    case Trouble::pause:
      return "pause";
    case Trouble::crash:
      return "crash";
    case Trouble::restart:
      return "restart";
    case Trouble::power:
      return "power";
    case Trouble::calm:
      return "calm";
    case Trouble::all:
      return "all";
    case Trouble::held_answer:
      return "held_answer";
  }
  return "?";
}

std::vector<Trouble> all_troubles() {
  return {Trouble::none,    Trouble::network, Trouble::partition, Trouble::pause, Trouble::crash,
          Trouble::restart, Trouble::power,   Trouble::calm,      Trouble::all};
}

std::optional<Trouble> trouble_of(const std::string& name) {
  std::vector<Trouble> named = all_troubles();
  named.push_back(Trouble::held_answer);
  for (const Trouble trouble : named) {
    if (name == trouble_name(trouble)) return trouble;
  }
  return std::nullopt;
}

namespace {

// A server that is down may keep a mount waiting, and no more than that.
bool costs_no_lease(Trouble trouble) {
  return trouble == Trouble::none || trouble == Trouble::restart || trouble == Trouble::power ||
         trouble == Trouble::calm;
}

}  // namespace

Nemesis::Nemesis(Cluster& cluster, Workload* workload, Trouble trouble, RandomStream random,
                 Duration lease)
    : cluster_(cluster),
      workload_(workload),
      trouble_(trouble),
      random_(random),
      lease_(lease),
      calm_options_(cluster.network().options()),
      watched_(cluster.mounts()) {
  for (std::size_t i = 0; i < cluster.mounts(); ++i) {
    watched_[i].life = cluster.life(i);
    watched_[i].healthy_at = cluster.simulation().now();
  }
  for (std::size_t i = 0; i < cluster.mounts(); ++i) {
    cluster.node(i).on_crash([this, i, alive = alive_] {
      if (*alive) mount_died(i);
    });
  }
  if (&cluster.server_node() == &cluster.node(0)) return;
  cluster.server_node().on_crash([this, alive = alive_] {
    if (*alive) later(random_.chance(1, 2) ? short_time() : long_time(), &Nemesis::restart_all);
  });
}
Nemesis::~Nemesis() { *alive_ = false; }

Duration Nemesis::short_time() { return random_.between(Duration(1ms), lease_ / 4); }
Duration Nemesis::long_time() { return random_.between(lease_ / 4, lease_ * 3); }

Trouble Nemesis::draw() {
  if (trouble_ == Trouble::calm) {
    constexpr Trouble some[] = {Trouble::network, Trouble::pause, Trouble::partition,
                                Trouble::restart, Trouble::power};
    return some[random_.below(std::size(some))];
  }
  if (trouble_ == Trouble::all) {
    constexpr Trouble some[] = {Trouble::network, Trouble::partition, Trouble::pause,
                                Trouble::crash,   Trouble::restart,   Trouble::power};
    return some[random_.below(std::size(some))];
  }
  return trouble_;
}

void Nemesis::strike() {
  if (healed_) return;
  const bool is_short = trouble_ == Trouble::calm || random_.chance(1, 2);
  switch (draw()) {
    case Trouble::network:
      return shake_network();
    case Trouble::partition:
      return partition(is_short);
    case Trouble::pause:
      return pause(is_short);
    case Trouble::crash:
      return crash();
    case Trouble::restart:
      return restart();
    case Trouble::power:
      return power();
    case Trouble::held_answer:
      return hold_answer_up();
    case Trouble::none:
    case Trouble::calm:
    case Trouble::all:
      return;
  }
}

void Nemesis::later(Duration delay, void (Nemesis::*end)()) {
  cluster_.simulation().after(delay, [this, end] {
    if (!healed_) (this->*end)();
  });
}

void Nemesis::shake_network() {
  rarely<"world: bad network">();
  NetworkOptions bad = calm_options_;
  if (random_.chance(1, 2)) bad.lost = static_cast<std::uint32_t>(random_.below(100'000));
  if (random_.chance(1, 2)) bad.doubled = static_cast<std::uint32_t>(random_.below(100'000));
  if (random_.chance(1, 2)) bad.reordered = static_cast<std::uint32_t>(random_.below(300'000));
  if (random_.chance(1, 3)) bad.delayed_long = static_cast<std::uint32_t>(random_.below(20'000));
  if (random_.chance(1, 3)) {
    bad.connection_broken = static_cast<std::uint32_t>(random_.below(20'000));
  }
  bad.long_delay_max = trouble_ == Trouble::calm ? lease_ / 8 : lease_ * 2;
  cluster_.network().set_options(bad);
  later(short_time(), &Nemesis::calm_network);
}

void Nemesis::calm_network() { cluster_.network().set_options(calm_options_); }

void Nemesis::partition(bool is_short) {
  const std::string& mount = cluster_.node(any_mount()).name();
  const std::string& server = cluster_.server_node().name();
  if (mount == server) return;
  if (!is_short && random_.chance(1, 3)) return partition_one_way_then_the_other(mount, server);
  const std::uint64_t ways = random_.below(3);
  if (ways != 0) cluster_.network().cut(mount, server);
  if (ways != 1) cluster_.network().cut(server, mount);
  if (is_short) {
    rarely<"world: short partition">();
  } else {
    rarely<"world: partition">();
  }
  later(is_short ? short_time() : long_time(), &Nemesis::heal_network);
}

// Answers are held up for a while; when they come through, nothing gets to the server any more. Who
// counts a lease from the answer believes in it for too long.
void Nemesis::partition_one_way_then_the_other(const std::string& mount,
                                               const std::string& server) {
  rarely<"world: partition one way, then the other">();
  cluster_.network().cut(server, mount);
  const Duration first = random_.between(lease_ / 4, lease_ * 3 / 4);
  cluster_.simulation().after(first, [this, mount, server] {
    if (healed_) return;
    cluster_.network().heal();
    cluster_.network().cut(mount, server);
  });
  later(first + random_.between(lease_, lease_ * 2), &Nemesis::heal_network);
}

// The answer to a renewal is held up, and nothing gets to the server any more; then the answer
// comes through, the last thing to do so. Who counts a lease from the answer believes in it for too
// long.
void Nemesis::hold_answer_up() {
  const std::string& mount = cluster_.node(any_mount()).name();
  const std::string& server = cluster_.server_node().name();
  if (mount == server || cluster_.simulation().now() < held_up_until_) return;
  SimNetwork& network = cluster_.network();
  const Duration renewed = random_.between(lease_ / 8, lease_ / 4);
  const Duration held = renewed + random_.between(lease_ / 8, lease_ / 4);
  const Duration until = held + random_.between(lease_, lease_ * 2);
  held_up_until_ = cluster_.simulation().now() + until;
  network.cut(server, mount);
  const auto then = [this](Duration when, auto what) {
    cluster_.simulation().after(when, [this, what] {
      if (!healed_) what();
    });
  };
  then(renewed, [&network, mount, server] { network.cut(mount, server); });
  then(held, [&network, mount, server] {
    network.heal();
    network.cut(mount, server);
  });
  then(held + lease_ / 20, [&network, mount, server] { network.cut(server, mount); });
  later(until, &Nemesis::heal_network);
}

void Nemesis::heal_network() { cluster_.network().heal(); }

void Nemesis::pause(bool is_short) {
  const std::size_t mount = any_mount();
  if (!cluster_.is_up(mount) || cluster_.node(mount).paused()) return;
  cluster_.pause_mount(mount);
  if (is_short) {
    rarely<"world: short pause">();
  } else {
    rarely<"world: pause">();
  }
  const std::uint64_t life = cluster_.life(mount);
  const Duration time = is_short ? short_time() : long_time();
  cluster_.simulation().after(time, [this, mount, life] {
    Node& node = cluster_.node(mount);
    if (node.alive() && node.life() == life && node.paused()) cluster_.resume_mount(mount);
  });
}

void Nemesis::mount_died(std::size_t mount) {
  if (healed_) return;
  // If its lease may have been over by then, the loss began earlier.
  const Watched& watched = watched_[mount];
  const Duration from = watched.healthy ? cluster_.simulation().now() : watched.healthy_at;
  if (workload_ != nullptr) {
    dead_.push_back(Dead{cluster_.lease_of(mount), workload_->died(mount, from)});
  }
  later(random_.chance(1, 2) ? short_time() : long_time(), &Nemesis::restart_all);
}

void Nemesis::crash() {
  const std::size_t mount = any_mount();
  if (!cluster_.node(mount).alive()) return;
  if (cluster_.is_up(mount)) {
    rarely<"world: crash of a mount">();
  } else {
    rarely<"world: crash of a mount that starts">();
  }
  cluster_.crash_mount(mount);
}

void Nemesis::restart() {
  if (!cluster_.server_node().alive()) return;
  rarely<"world: crash of the server">();
  cluster_.crash_server();
  // Not all come back to the new one at the same time.
  if (random_.chance(1, 2)) partition(true);
}

void Nemesis::power() {
  if (!cluster_.disk().power_is_on()) return;
  if (cluster_.disk().unflushed() > 0) {
    rarely<"world: power cut with unflushed writes">();
  } else {
    rarely<"world: power cut">();
  }
  if (random_.chance(1, 2)) {
    cluster_.power_cut();
  } else {
    // In the middle of what is being written.
    constexpr Place places[] = {Place::anywhere, Place::log_header, Place::log_ring,
                                Place::metadata, Place::file_data};
    const Place place = places[random_.below(std::size(places))];
    const std::uint64_t changes = place == Place::log_header ? 0 : random_.below(30);
    cluster_.disk().cut_power_after(changes, place);
  }
}

void Nemesis::restart_all() {
  cluster_.restart_what_is_down();
  // What cannot start yet (the server is not up) is started again.
  if (!cluster_.all_up()) later(lease_, &Nemesis::restart_all);
}

void Nemesis::watch_dead() {
  if (dead_.empty() || !cluster_.server_is_up()) return;
  const std::vector<lockd::LeaseStatus> known = cluster_.server().status().locks.leases;
  std::erase_if(dead_, [&](const Dead& dead) {
    const bool is_known = std::any_of(known.begin(), known.end(),
                                      [&](const auto& lease) { return lease.lease == dead.lease; });
    if (!is_known) workload_->recovered(dead.who);
    return !is_known;
  });
}

void Nemesis::watch() {
  watch_dead();
  const Duration now = cluster_.simulation().now();
  for (std::size_t i = 0; i < cluster_.mounts(); ++i) {
    Watched& watched = watched_[i];
    if (!cluster_.is_up(i)) continue;
    if (watched.life != cluster_.life(i)) watched = Watched{cluster_.life(i), 0, true, now};
    const mount::MountStatus status = cluster_.mount(i).status();
    if (status.rejoins != watched.rejoins && !status.rejoining) {
      rarely<"world: lease lost and joined again">();
      watched.rejoins = status.rejoins;
      if (costs_no_lease(trouble_)) {
        cluster_.simulation().violate(
            absl::StrCat("mount", i, " has lost its lease, though nobody kept it from renewing"));
      }
      if (workload_ != nullptr) workload_->lost(i, watched.healthy_at, now);
    }
    const clerk::ClerkStatus& clerk = status.clerk;
    const bool healthy = clerk.membership.lease != LeaseNumber::none && !clerk.suspended &&
                         !clerk.lost && clerk.lease_left > Duration{0} && !status.rejoining;
    if (clerk.suspended) rarely<"world: suspended">();
    watched.healthy = healthy && !cluster_.node(i).paused();
    if (watched.healthy) watched.healthy_at = now;
  }
}

void Nemesis::heal() {
  healed_ = true;
  calm_network();
  cluster_.disk().never_cut_power();
  cluster_.network().heal();
  for (std::size_t i = 0; i < cluster_.mounts(); ++i) {
    if (cluster_.node(i).alive() && cluster_.node(i).paused()) cluster_.resume_mount(i);
  }
  cluster_.disk().set_error_rates(0, 0, 0);
  cluster_.restart_what_is_down();
}

}  // namespace plumeria::sim
