// flock and fcntl locks of all clients (docs/protocol.md, "File locks").
//
// A pure state machine. An owner is a lease and the owner number within its client; fcntl and flock
// locks do not see each other. Calls are numbered per client and done once only.
//
// Invariant   Locks of different owners on one file and of one kind do not conflict where they
//             overlap. Nobody waits who could be granted.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <tuple>
#include <vector>

#include "lock/file_locks.h"
#include "lock/lease.h"
#include "lock/messages.h"

namespace plumeria::lockd {

using lock::CallNumber;
using lock::FileLock;
using lock::LeaseNumber;

class FileLockTable {
 public:
  struct Answer {
    LeaseNumber lease{};
    lock::FileLockAnswer answer;
  };
  using Answers = std::vector<Answer>;

  // A message of a live lease. Repetitions are answered again, or not at all while they wait.
  void call(LeaseNumber from, const lock::FileLockCall& call, Answers& out);
  // One lock of a rebuild's report.
  void reported(LeaseNumber from, const FileLock& lock);
  // Its waiting calls go; its locks stay.
  void dying(LeaseNumber lease);
  // Its locks go.
  void gone(LeaseNumber lease, Answers& out);

  std::uint64_t locks() const;
  std::uint64_t waiting() const { return waiting_.size(); }
  void check_invariants() const;

 private:
  struct Owner {
    LeaseNumber lease{};
    std::uint64_t number = 0;
    friend auto operator<=>(const Owner&, const Owner&) = default;
  };
  struct File {
    std::uint64_t inode = 0;
    bool is_flock = false;
    friend auto operator<=>(const File&, const File&) = default;
  };
  using Owners = std::map<Owner, std::vector<FileLock>>;  // disjoint ranges, by start
  struct Waiting {
    LeaseNumber lease{};
    CallNumber call{};
    FileLock lock;
  };
  struct Client {
    CallNumber done_below{};
    std::map<CallNumber, lock::FileLockAnswer> answered;  // those that the client may ask again
    std::set<CallNumber> waiting;
  };

  static File file_of(const FileLock& lock) { return {lock.inode, lock.is_flock}; }
  const FileLock* conflicting(LeaseNumber from, const FileLock& lock) const;
  std::vector<Owner> blockers(LeaseNumber from, const FileLock& lock) const;
  bool would_deadlock(LeaseNumber from, const FileLock& lock) const;
  void change(LeaseNumber from, const FileLock& lock);
  void set(LeaseNumber from, const lock::FileLockCall& call, Answers& out);
  void drop(LeaseNumber from, const FileLock& lock);
  void cancel(LeaseNumber from, CallNumber call, Answers& out);
  void finish(LeaseNumber from, const lock::FileLockAnswer& answer, Answers& out);
  void wake(File file, Answers& out);

  std::map<File, Owners> files_;
  std::vector<Waiting> waiting_;  // in order of arrival
  std::map<LeaseNumber, Client> clients_;
};

}  // namespace plumeria::lockd
