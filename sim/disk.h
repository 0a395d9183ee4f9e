// The simulated virtual disk: what disk/disk.h promises, and nothing more than that.
//
// Operations take time and end in any order. Large writes become visible in two steps. What was
// acknowledged is visible; what no flush covers is kept apart, and at a power cut each unflushed
// write or discard is kept, dropped or torn at 512 bytes, in any order, as the seed decides.
// Registers, snapshots, leases admitted and fenced are durable once acknowledged.
//
// One SimDisk is the medium; open() gives a process its handle. When a node crashes, what it had in
// flight is done, half done or not done, at once, and its handles' operations never complete. A
// power cut crashes all nodes that have a handle of Attachment::machine (they are in the machine
// that lost its power); operations begun before power_on() never complete.
//
// Ownership  The SimDisk outlives its handles and the simulation's last event.
// Threads    One, like all of sim.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "disk/disk.h"
#include "sim/world.h"

namespace plumeria::sim {

using disk::Address;
using disk::Segment;
using lock::LeaseNumber;

struct DiskOptions {
  std::uint64_t capacity = 1ull << 40;  // bytes
  Duration read_time_max = 100us;
  Duration write_time_max = 100us;
  Duration flush_time_min = 50us;
  Duration flush_time_max = 2ms;
  // Errors that come by chance, in a million operations of that kind.
  std::uint32_t read_errors = 0, write_errors = 0, flush_errors = 0;
};

// How much of one lease's changes the disk has seen.
struct LeaseCount {
  std::uint64_t tried = 0;
  std::uint64_t refused = 0;
};

enum class Attachment {
  machine,  // the handle's node is in the disk's machine: a power cut crashes it
  outside,  // it is not (a test that looks on)
};

// What a power cut does to changes that no flush covers.
enum class Unflushed { by_chance, kept, dropped };

// What lies where (format/layout.h), as far as it matters when power is cut.
enum class Place { anywhere, log_header, log_ring, metadata, file_data };

enum class DiskOperation { read, write, discard, flush, preallocate, register_update };

class SimDisk {
 public:
  SimDisk(Simulation& simulation, DiskOptions options, std::string name = "disk");
  ~SimDisk();
  SimDisk(const SimDisk&) = delete;
  SimDisk& operator=(const SimDisk&) = delete;

  // A handle for the present life of `node`; to be destroyed with the node's other objects.
  std::unique_ptr<disk::VirtualDisk> open(Node& node, Attachment attachment = Attachment::machine);

  // Power. A cut decides about everything unflushed at once.
  void power_cut();
  void power_on();
  bool power_is_on() const { return power_is_on_; }
  // Cuts the power at change number `changes` + 1 from now (a write, a discard or a register
  // update, a snapshot made or deleted) of those in `place`; 0 is: at the next one.
  void cut_power_after(std::uint64_t changes, Place place = Place::anywhere);
  void never_cut_power() { planned_cut_.reset(); }
  bool power_was_cut() const { return power_cuts_ > 0; }
  std::uint64_t power_cuts() const { return power_cuts_; }

  // Called after each write and discard, when it is applied, in the middle of whatever goes on.
  void on_change(std::function<void(Place)> callback) { on_change_ = std::move(callback); }

  // The next `times` operations of this kind fail with `code` and have happened in part at most.
  void fail_next(DiskOperation kind, Errc code, std::uint32_t times = 1);
  // The rates of errors by chance; to be zeroed to let a run heal.
  void set_error_rates(std::uint32_t reads, std::uint32_t writes, std::uint32_t flushes);
  void set_capacity(std::uint64_t bytes) { options_.capacity = bytes; }

  // For tests and checkers: outside of time, without effect on the trace.
  Bytes peek(Address from, std::uint64_t length) const;          // what a read would bring
  Bytes peek_durable(Address from, std::uint64_t length) const;  // what every power cut leaves
  void poke(Address to, ByteView data);                          // damage; durable at once
  // Holds what `other` holds, durably: blocks, registers, leases. Requires: nothing is under way.
  void become_copy_of(const SimDisk& other);
  // The same, as a power cut at this moment would leave it (our own seed decides); the other one
  // may be in the middle of anything.
  void become_copy_after_power_cut(const SimDisk& other,
                                   Unflushed unflushed = Unflushed::by_chance);
  std::optional<disk::Register> peek_register(std::string_view name) const;
  bool is_admitted(LeaseNumber lease) const { return admitted_.contains(lease); }
  bool is_fenced(LeaseNumber lease) const { return fenced_.contains(lease); }
  std::vector<Segment> segments() const;
  std::vector<std::uint64_t> blocks(Segment segment) const;  // that were ever written, ascending
  std::uint64_t used_bytes() const;
  std::size_t snapshots() const { return snapshots_.size(); }

  // Counters.
  LeaseCount count(LeaseNumber lease) const;
  const std::map<LeaseNumber, LeaseCount>& counts() const { return counts_; }
  std::uint64_t changes() const { return changes_; }  // applied so far
  std::uint64_t flushes() const { return flushes_; }
  std::uint64_t unflushed() const { return pending_.size(); }

 private:
  static constexpr std::uint64_t block_size = 4096;
  // Copies of an image share a block until one of them changes it.
  using Block = std::shared_ptr<std::array<std::byte, block_size>>;
  using Blocks = std::map<std::uint64_t, Block>;  // by block number; absent: zeros
  using Image = std::map<Segment, Blocks>;

  struct KeptSnapshot {
    disk::Snapshot about;
    Image image;
    std::map<std::string, disk::Register, std::less<>> registers;
  };

  // One change of the medium that no flush covers yet.
  struct Pending {
    Address at;
    std::uint64_t length = 0;
    SharedBytes data;  // empty: a discard
  };
  // An operation is a row of steps that run one after the other, some time apart. It ends early by
  // finish(). A crash of its node runs some of the steps that are left and forgets the rest.
  using Step = absl::AnyInvocable<void(std::uint64_t operation)>;
  struct InFlight {
    Node* node = nullptr;
    DiskOperation kind{};
    LeaseNumber lease{};         // set once admitted
    std::uint64_t reserved = 0;  // blocks
    std::deque<Step> steps;
  };
  class Handle;

  std::uint64_t begin(Node& node, DiskOperation kind, std::deque<Step> steps);
  void schedule_step(std::uint64_t operation);
  void run_step(std::uint64_t operation);
  void forget(std::uint64_t operation);
  void abandon(std::uint64_t operation);
  void node_crashed(const Node& node);
  Duration latency(DiskOperation kind);

  // Steps of changes: the first returns why the change is refused, if it is.
  std::optional<Error> admission(std::uint64_t operation, LeaseNumber lease, Address at,
                                 std::uint64_t length, bool takes_space);
  std::optional<Error> error_by_plan_or_chance(DiskOperation kind);
  // Applies a change, or cuts the power at it: then it may or may not have been applied.
  void apply_change(LeaseNumber lease, std::optional<Address> at,
                    const std::function<void()>& apply);
  bool is_cut_here(std::optional<Address> at);
  void check_fence(LeaseNumber lease);
  void apply_pending(Pending change);
  void make_durable(std::uint64_t last, const std::vector<Segment>& segments);  // none: all
  void settle_all_pending();
  void settle_torn(const Pending& change);
  void recount_blocks();

  void write_current(Address at, ByteView data);
  void discard_current(Address at, std::uint64_t length);
  static std::byte* own(Block& block);
  static void write_to(Image& image, Address at, ByteView data);
  static void clear_in(Image& image, Address at, std::uint64_t length);
  static void read_from(const Image& image, Address at, MutableByteView into);
  static std::optional<disk::Extent> extent_in(const Image& image, Segment segment,
                                               std::uint64_t from);
  static std::vector<Segment> segments_in(const Image& image, Segment first, std::size_t limit);
  bool has_block(Segment segment, std::uint64_t block) const;
  std::uint64_t blocks_missing(Address at, std::uint64_t length) const;

  Simulation& simulation_;
  DiskOptions options_;
  const std::string name_;
  RandomStream random_;
  Image current_;                             // with all pending changes
  Image durable_;                             // without them
  std::map<std::uint64_t, Pending> pending_;  // by number of the change
  std::uint64_t last_pending_ = 0;
  std::map<Segment, std::set<std::uint64_t>> preallocated_;  // blocks, also those written since
  std::uint64_t used_blocks_ = 0;                            // current or preallocated
  std::uint64_t reserved_blocks_ = 0;                        // by writes in flight
  std::map<std::string, disk::Register, std::less<>> registers_;
  std::map<disk::SnapshotId, KeptSnapshot> snapshots_;
  std::uint64_t last_snapshot_ = 0;
  std::set<LeaseNumber> admitted_, fenced_;
  std::set<LeaseNumber> fence_has_returned_;  // for check_fence() alone
  std::map<std::uint64_t, InFlight> in_flight_;
  std::uint64_t last_operation_ = 0;
  std::map<LeaseNumber, std::uint64_t> admitted_in_flight_;
  std::map<LeaseNumber, std::vector<Callback>> waiting_fences_;
  std::map<DiskOperation, std::pair<Errc, std::uint32_t>> planned_errors_;
  std::map<LeaseNumber, LeaseCount> counts_;
  std::vector<Node*> machine_nodes_, known_nodes_;  // in the order of their first open()
  struct PlannedCut {
    std::uint64_t changes = 0;  // that still come before it
    Place place{};
  };
  std::optional<PlannedCut> planned_cut_;
  std::function<void(Place)> on_change_;
  bool power_is_on_ = true;
  std::uint64_t power_cuts_ = 0;
  std::uint64_t changes_ = 0, flushes_ = 0;
};

}  // namespace plumeria::sim
