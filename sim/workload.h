// What applications do in a simulated run, and what must be true of what they saw.
//
// A workload runs clients on each mount's kernel. A client is a coroutine that dies with its
// mount's process; the calls that it had under way then have an unknown outcome. Verdicts come from
// the recorded calls alone, not from the code under test.
//
// Ownership: borrows the cluster. Threads: one.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "sim/cluster.h"
#include "sim/history.h"

namespace plumeria::sim {

// The calls on many keys, by key.
class Recorder {
 public:
  using Ticket = std::pair<std::string, std::size_t>;

  explicit Recorder(Simulation& simulation) : simulation_(simulation) {}

  // A call begins; its outcome is unknown until returned() or withdraw().
  Ticket called(const std::string& key, std::uint32_t mount, Action action,
                std::uint64_t argument = 0);
  void returned(const Ticket& ticket);
  void returned(const Ticket& ticket, Action action, std::uint64_t argument) {
    returned(ticket, action, argument, simulation_.now());
  }
  void returned(const Ticket& ticket, Action action, std::uint64_t argument, Duration when);
  void withdraw(const Ticket& ticket);  // It surely changed nothing and says nothing.
  // What was seen, by a call that began at `begin` and returns now.
  void seen(const std::string& key, std::uint32_t mount, Action action, std::uint64_t argument,
            Duration begin);
  // What `mount` had not made durable may be lost, between the two times.
  void crashed(std::uint32_t mount, Duration from, Duration until);
  // It died; what it had not made durable may be lost from then on, until recovered() is called.
  void died(std::uint32_t mount, Duration from);
  void recovered(std::uint32_t mount);
  // All keys that begin with `prefix`: `mount` made its changes durable.
  void synced(const std::string& prefix, std::uint32_t mount, Duration begin);

  // The first key whose calls no order explains; empty if there is none.
  std::string check() const;
  std::size_t size() const { return size_; }

 private:
  struct Call {
    Operation operation;
    bool withdrawn = false;
  };
  void trace(const std::string& key, std::uint32_t mount, const char* how, Action action,
             std::uint64_t argument);
  Operation& at(const Ticket& ticket) { return calls_.at(ticket.first)[ticket.second].operation; }

  Simulation& simulation_;
  std::map<std::string, std::vector<Call>> calls_;
  std::vector<Operation> crashes_;
  struct Sync {
    std::string prefix;
    Operation operation;
  };
  std::vector<Sync> syncs_;
  std::size_t size_ = 0;
};

class Workload {
 public:
  Workload(Cluster& cluster, RandomStream random)
      : cluster_(cluster), random_(random), recorder_(cluster.simulation()) {}
  virtual ~Workload() = default;

  virtual std::string name() const = 0;
  // Makes what the clients need, through mount 0, durably.
  virtual void prepare() = 0;
  // Starts clients on a mount that came up.
  virtual void start_clients(std::size_t mount) = 0;
  // Looks at everything through each mount once all is quiet, and judges. Empty: all is well.
  virtual std::string verify() = 0;

  // A mount lost its lease with what only it knew, and goes on.
  void lost(std::size_t mount, Duration from, Duration until);
  // The present life of a mount has ended; who it was, for recovered().
  std::uint32_t died(std::size_t mount, Duration from);
  // What is left of it is on the disk now, and nothing else of it can happen any more.
  void recovered(std::uint32_t who) { recorder_.recovered(who); }
  void stop() { stopping_ = true; }
  // Whether the clients of all mounts have ended.
  bool is_quiet() const;
  // What the clients that have not ended are waiting for.
  std::string who_waits() const;
  std::uint64_t calls() const { return calls_; }
  // The first thing seen that can never be right; empty if there is none.
  const std::string& violation() const { return violation_; }

 protected:
  struct Client {
    std::size_t mount = 0;
    std::uint64_t life = 0;
    bool ended = false;
    std::string doing;  // its latest call, for messages
  };
  // Who one life of a mount is in the history.
  std::uint32_t identity(std::size_t mount) const {
    return static_cast<std::uint32_t>(mount * 1000 + cluster_.life(mount));
  }
  void spawn_client(std::size_t mount, Task<void> (*body)(Workload*, Client*));
  bool goes_on(const Client& client) const {
    return !stopping_ && cluster_.life(client.mount) != 0;
  }
  // Between two calls; a client of a mount that was stopped lets its daemon go first.
  Task<void> pause_between_calls(const Client& client);
  void violate(std::string what);

  Cluster& cluster_;
  RandomStream random_;
  Recorder recorder_;
  std::uint64_t calls_ = 0;
  bool stopping_ = false;
  bool lost_something_ = false;     // a mount may have
  std::set<std::uint32_t> losers_;  // identities of those that may have
  std::vector<std::unique_ptr<Client>> clients_;
  std::string violation_;
};

// Files whose cells are registers: written, read, truncated and mapped on all mounts; one list of
// appended records.
std::unique_ptr<Workload> make_file_workload(Cluster& cluster, RandomStream random);
// Names that are created, removed, renamed, looked up and listed on all mounts.
std::unique_ptr<Workload> make_name_workload(Cluster& cluster, RandomStream random);

}  // namespace plumeria::sim
