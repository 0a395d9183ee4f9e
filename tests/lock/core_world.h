// One lock table and several clerk cores over a network that the test holds in its hand: messages
// wait until they are delivered, and may be dropped, doubled and delivered in any order.
//
// Does for the cores what the shells do, without leases: those are in service_test.cc. Every step
// is written to `log` if there is one, and every step checks that no two clerks believe in
// conflicting holds or pins.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "clerk/clerk_core.h"
#include "lock/messages.h"
#include "lockd/lock_table.h"

namespace plumeria::lock_test {

using clerk::ClerkCore;
using clerk::WaiterId;
using lock::LeaseNumber;
using lock::LockName;
using lock::Mode;

using ClientNumber = std::uint64_t;  // also its lease

// Of class inode for numbers below 100, of class open above.
LockName name_of(std::uint64_t number);

struct Flight {
  bool to_server = false;
  ClientNumber client = 0;
  std::uint64_t epoch = 0;
  lock::Item item;
};

class CoreWorld {
 public:
  CoreWorld(int clients, clerk::ClerkCoreOptions options);

  // Local calls. acquire() and try_acquire() return a number for `waiting` and `outcome`.
  WaiterId acquire(ClientNumber client, std::uint64_t lock, Mode mode);
  WaiterId try_acquire(ClientNumber client, std::uint64_t lock, Mode mode);
  WaiterId acquire_unless_revoked(ClientNumber client, std::uint64_t lock, Mode mode);
  void drop(ClientNumber client, std::uint64_t lock, Mode mode);
  void give_back(ClientNumber client, std::uint64_t lock);
  void finish_give_up(ClientNumber client, std::uint64_t lock);
  void refuse_tries(ClientNumber client, bool refuse) { client_of(client).refuses = refuse; }

  // The network.
  std::size_t in_flight() const { return flights_.size(); }
  const Flight& flight(std::size_t index) const { return flights_[index]; }
  void deliver(std::size_t index, bool keep_a_copy = false);
  void lose(std::size_t index);
  void deliver_all();

  // Time and faults of the server.
  void advance(Duration by);
  Duration until_next_tick() const;
  void restart_server();             // an empty table in a new epoch
  void report(ClientNumber client);  // what it holds, as it is now
  void start_granting();
  void dying(ClientNumber client);
  void gone(ClientNumber client);
  void kill(ClientNumber client);  // the clerk stops in the middle of whatever it does

  bool is_waiting(ClientNumber client, WaiterId waiter) const;
  bool was_granted(ClientNumber client, WaiterId waiter) const;
  std::size_t waiting() const;
  std::vector<std::pair<ClientNumber, std::uint64_t>> giving_up() const;
  // Pins that clerks have given: client, lock number, mode.
  struct Held {
    ClientNumber client;
    std::uint64_t lock;
    Mode mode;
  };
  std::vector<Held> pins() const;
  void check() const;

  std::string* log = nullptr;

 private:
  struct Client {
    std::unique_ptr<ClerkCore> core;
    std::uint64_t epoch = 1;
    bool dead = false, refuses = false, rejoined = true;
    std::map<WaiterId, std::pair<std::uint64_t, Mode>> waiting;
    std::set<WaiterId> granted;
    std::map<std::uint64_t, std::pair<std::uint32_t, bool>> pinned;  // shared pins, exclusive
    std::set<std::uint64_t> giving_up;
  };
  Client& client_of(ClientNumber number) { return clients_.at(number); }
  void note(const std::string& line);
  void carry_out(ClientNumber number, clerk::Effects effects);
  void carry_out_one(ClientNumber number, const clerk::Effect& effect, clerk::Effects& more);
  void carry_out(const lockd::Decisions& decisions);
  void at_server(const Flight& flight);
  void at_client(const Flight& flight);
  void send(bool to_server, ClientNumber client, std::uint64_t epoch, lock::Item item);

  TimePoint now_{};
  std::uint64_t epoch_ = 1;
  std::unique_ptr<lockd::LockTable> table_;
  std::map<ClientNumber, Client> clients_;
  std::deque<Flight> flights_;
  std::set<ClientNumber> dead_at_server_;
};

}  // namespace plumeria::lock_test
