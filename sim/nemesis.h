// Faults, drawn from the seed, that strike a cluster while a workload runs, and their end.
//
// Tells the workload what a mount may have lost: at its crash, and when it had to join again.
// Ownership: borrows cluster and workload. Threads: one; acts outside of all nodes.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "sim/cluster.h"
#include "sim/workload.h"

namespace plumeria::sim {

enum class Trouble {
  none,
  network,    // losses, duplicates, delays, broken connections
  partition,  // one way and both ways, short and longer than a lease
  pause,      // SIGSTOP of a mount, short and longer than a lease
  crash,      // kill -9 of a mount
  restart,    // kill -9 of the server
  power,      // power cut of the server's machine
  calm,       // what no mount may lose anything by: network, short pauses, restart, power
  all,
  held_answer,  // a renewal's answer is the last thing that gets through; only by its name
};
std::optional<Trouble> trouble_of(const std::string& name);
const char* trouble_name(Trouble trouble);
std::vector<Trouble> all_troubles();  // of which a seed draws one

class Nemesis {
 public:
  // `workload` may be null: nobody wants to know what was lost.
  Nemesis(Cluster& cluster, Workload* workload, Trouble trouble, RandomStream random,
          Duration lease);
  ~Nemesis();
  Nemesis(const Nemesis&) = delete;
  Nemesis& operator=(const Nemesis&) = delete;

  // Begins one fault; it ends by itself after a while.
  void strike();
  // Looks for mounts that lost their lease and joined again, and for the recovery of those that
  // died. To be called often.
  void watch();
  // Ends all faults at once, for good, and starts what is down.
  void heal();

 private:
  struct Watched {
    std::uint64_t life = 0, rejoins = 0;
    bool healthy = true;
    Duration healthy_at{};
  };

  // A life that has ended, and whose lease the lock server has not yet recovered.
  struct Dead {
    lock::LeaseNumber lease{};
    std::uint32_t who = 0;
  };

  Trouble draw();
  std::size_t any_mount() { return random_.below(cluster_.mounts()); }
  Duration short_time();
  Duration long_time();
  void shake_network();
  void partition(bool is_short);
  void partition_one_way_then_the_other(const std::string& mount, const std::string& server);
  void hold_answer_up();
  void pause(bool is_short);
  void crash();
  void restart();
  void power();
  void later(Duration delay, void (Nemesis::*end)());
  void restart_all();
  void heal_network();
  void calm_network();
  void mount_died(std::size_t mount);
  void watch_dead();

  Cluster& cluster_;
  Workload* workload_;
  const Trouble trouble_;
  RandomStream random_;
  const Duration lease_;
  const NetworkOptions calm_options_;
  bool healed_ = false;
  Duration held_up_until_{};
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);  // for hooks that outlive us
  std::vector<Watched> watched_;
  std::vector<Dead> dead_;
};

}  // namespace plumeria::sim
