// A lock server and clerks on simulated machines, with operations that take locks, faults, and
// checkers that stand outside: what everybody believes is compared at each pin.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "clerk/clerk.h"
#include "lockd/server.h"
#include "sim/disk.h"
#include "sim/network.h"
#include "sim/world.h"

namespace plumeria::lock_test {

using lock::LeaseNumber;
using lock::LockName;
using lock::Mode;

struct ServiceOptions {
  std::uint64_t seed = 1;
  int clients = 3;
  int workers = 3;  // operations of each client that run side by side
  std::uint64_t locks = 5;
  Duration lease = 2s;
  bool in_process = false;
  sim::NetworkOptions network;
};

// One machine with a clerk.
class Machine;

class ServiceWorld final : public lockd::Recoverer {
 public:
  explicit ServiceWorld(ServiceOptions options);
  ~ServiceWorld() override;

  // The server.
  void start_server();
  void crash_server();
  void set_lease(Duration lease) { options_.lease = lease; }  // of the next server
  bool server_is_up() const { return server_ != nullptr; }
  lockd::LockServer& server() { return *server_; }
  sim::Node& server_node() { return server_node_; }
  Task<Status> recover(LeaseNumber dead, std::uint32_t slot) override;
  void set_recovery_fails(bool fails) { recovery_fails_ = fails; }
  // As a percentage of attempts.
  void set_recovery_failures(std::uint64_t percent) { recovery_failures_ = percent; }

  // Clients, from 0 on.
  int clients() const { return options_.clients; }
  Machine& client(int index) { return *machines_.at(static_cast<std::size_t>(index)); }
  void crash_client(int index);
  void start_client(int index);  // joins in the background
  void start_workers();
  void stop_workers() { working_ = false; }
  std::uint64_t operations(int index) const;
  // Runs until every client has done `more` operations from now on; fails the run otherwise.
  void demand_progress(std::uint64_t more, Duration within);

  sim::Simulation& simulation() { return simulation_; }
  sim::SimNetwork& network() { return network_; }
  sim::SimDisk& disk() { return disk_; }
  std::uint64_t recoveries() const { return recoveries_; }

 private:
  friend class Machine;
  static Task<void> bring_up(ServiceWorld* self, bool* up);
  void check_pin(const Machine& machine, LockName name, Mode mode);

  ServiceOptions options_;
  sim::Simulation simulation_;
  sim::SimNetwork network_;
  sim::SimDisk disk_;
  sim::Node& server_node_;
  sim::RandomStream random_;
  std::unique_ptr<sim::SimTransport> server_transport_;
  std::unique_ptr<disk::VirtualDisk> server_disk_;
  std::unique_ptr<lockd::LockServer> server_;
  std::vector<std::unique_ptr<Machine>> machines_;
  bool working_ = false, recovery_fails_ = false;
  std::uint64_t recovery_failures_ = 0, recoveries_ = 0;
  std::uint64_t instances_ = 0;
  // Locks of clients that have died, until their lease is recovered.
  std::map<LeaseNumber, std::map<LockName, Mode>> frozen_;
  std::set<LeaseNumber> recovered_;
};

class Machine final : public clerk::RevokeHandler {
 public:
  Machine(ServiceWorld& world, int index);
  ~Machine() override;

  void start();
  void crash();
  bool joined() const { return joined_; }
  clerk::Clerk& clerk() { return *clerk_; }
  sim::Node& node() { return node_; }
  std::uint64_t operations() const { return operations_; }
  int suspensions() const { return suspensions_; }
  int resumptions() const { return resumptions_; }
  bool is_lost() const { return lost_; }

  void revoke_begins(LockName name, Mode keep) override;
  Task<void> give_up(LockName name, Mode keep) override;
  void revoke_ended(LockName name, Mode keep) override;
  bool may_take(LockName) override { return world_.random_.chance(1, 2); }
  Task<void> suspended(TimePoint deadline) override;
  void resumed() override { ++resumptions_; }
  void lost(std::string_view reason) override;

 private:
  friend class ServiceWorld;
  static Task<void> join(Machine* self);
  static Task<void> work(Machine* self);
  static Task<void> operate(Machine* self, LockName first, LockName second, Mode mode);

  ServiceWorld& world_;
  const int index_;
  sim::Node& node_;
  std::unique_ptr<sim::SimTransport> transport_;
  std::unique_ptr<clerk::Clerk> clerk_;
  std::unique_ptr<TaskScope> scope_;
  std::map<LockName, std::multiset<Mode>> pins_;
  std::map<LockName, Mode> leaving_;    // revokes under way and what they keep
  std::map<LockName, Mode> giving_up_;  // of these, those that write back
  bool joined_ = false, lost_ = false;
  std::uint64_t operations_ = 0;
  int suspensions_ = 0, resumptions_ = 0;
};

}  // namespace plumeria::lock_test
