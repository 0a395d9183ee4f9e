#include "sim/disk.h"

#include <absl/strings/str_cat.h>

#include <algorithm>

#include "base/fault.h"
#include "base/number.h"
#include "format/layout.h"
#include "format/log_chunk.h"

namespace plumeria::sim {
namespace {

// The end of a range that may reach to the end of its segment.
std::uint64_t end_of(std::uint64_t offset, std::uint64_t length) {
  return length > ~0ull - offset ? ~0ull : offset + length;
}

// Fisher and Yates.
template <class T>
void shuffle(std::vector<T>& items, RandomStream& random) {
  for (std::size_t i = items.size(); i > 1; --i) {
    std::swap(items[i - 1], items[random.below(i)]);
  }
}

constexpr std::uint64_t million = 1'000'000;

Place place_of(Address at) {
  const auto segment = static_cast<std::uint64_t>(at.segment);
  if (format::is_data_segment(segment) || segment == format::small_segment) return Place::file_data;
  const bool in_log = segment >= format::log_segment_base && segment < format::orphan_segment_base;
  if (!in_log) return Place::metadata;
  return at.offset < format::log_ring_start ? Place::log_header : Place::log_ring;
}

}  // namespace

// --- The handle of one process -------------------------------------------------------------------

class SimDisk::Handle final : public disk::VirtualDisk {
 public:
  Handle(SimDisk& disk, Node& node) : disk_(disk), node_(node), life_(node.life()) {}

  Task<Result<Bytes>> read(Address from, std::uint64_t length) override {
    CHECK(length > 0 && length <= disk::transfer_max);
    Reply<Result<Bytes>> reply = make_reply<Result<Bytes>>();
    SimDisk* disk = &disk_;
    std::deque<Step> steps;
    steps.push_back([disk, from, length, reply](std::uint64_t) {
      if (auto error = disk->error_by_plan_or_chance(DiskOperation::read)) {
        return reply(fail(*std::move(error)));
      }
      Bytes bytes(length);
      read_from(disk->current_, from, bytes);
      reply(std::move(bytes));
    });
    disk_.begin(node_, DiskOperation::read, std::move(steps));
    co_return co_await reply.promise.future();
  }

  Task<Status> write(Address to, SharedBytes data, LeaseNumber lease, disk::Durability) override {
    CHECK(!data.empty() && data.size() <= disk::transfer_max);
    Reply<Status> reply = make_reply<Status>();
    const std::uint64_t length = data.size();
    std::deque<Step> steps;
    SimDisk* disk = &disk_;
    steps.push_back([disk, lease, to, length, reply](std::uint64_t operation) {
      if (auto error = disk->admission(operation, lease, to, length, true)) {
        reply(fail(*std::move(error)));
        disk->forget(operation);
      }
    });
    // What is longer than a block becomes visible in two steps.
    std::uint64_t half = length;
    if (length > block_size) half = disk->random_.between(1, length / block_size) * block_size;
    steps.push_back([disk, lease, to, data, half](std::uint64_t) {
      disk->apply_change(lease, to, [disk, to, data, half] {
        disk->apply_pending(Pending{to, half, data.slice(0, half)});
      });
    });
    if (half < length) {
      steps.push_back([disk, lease, to, data, half](std::uint64_t) {
        disk->check_fence(lease);
        const Address rest{to.segment, to.offset + half};
        disk->apply_pending(
            Pending{rest, data.size() - half, data.slice(half, data.size() - half)});
      });
    }
    steps.push_back([disk, reply](std::uint64_t) {
      if (auto error = disk->error_by_plan_or_chance(DiskOperation::write)) {
        return reply(fail(*std::move(error)));
      }
      reply(Status{});
    });
    disk_.begin(node_, DiskOperation::write, std::move(steps));
    co_return co_await reply.promise.future();
  }

  Task<Status> discard(Address from, std::uint64_t length, LeaseNumber lease) override {
    CHECK(length > 0);
    Reply<Status> reply = make_reply<Status>();
    std::deque<Step> steps;
    SimDisk* disk = &disk_;
    steps.push_back([disk, lease, from, length, reply](std::uint64_t operation) {
      if (auto error = disk->admission(operation, lease, from, length, false)) {
        reply(fail(*std::move(error)));
        disk->forget(operation);
      }
    });
    steps.push_back([disk, lease, from, length](std::uint64_t) {
      disk->apply_change(lease, from, [disk, from, length] {
        disk->apply_pending(Pending{from, length, {}});
      });
    });
    steps.push_back([reply](std::uint64_t) { reply(Status{}); });
    disk_.begin(node_, DiskOperation::discard, std::move(steps));
    co_return co_await reply.promise.future();
  }

  Task<Status> flush() override { return flush_of({}); }
  Task<Status> flush_segments(std::vector<Segment> segments) override {
    CHECK(!segments.empty() && segments.size() <= disk::flushed_singly_max);
    return flush_of(std::move(segments));
  }
  Task<Status> flush_of(std::vector<Segment> segments) {  // none: all
    Reply<Status> reply = make_reply<Status>();
    std::deque<Step> steps;
    SimDisk* disk = &disk_;
    const auto last = std::make_shared<std::uint64_t>(0);
    steps.push_back([disk, last](std::uint64_t) { *last = disk->last_pending_; });
    steps.push_back([disk, last, reply, segments = std::move(segments)](std::uint64_t) {
      if (auto error = disk->error_by_plan_or_chance(DiskOperation::flush)) {
        return reply(fail(*std::move(error)));
      }
      disk->make_durable(*last, segments);
      ++disk->flushes_;
      reply(Status{});
    });
    disk_.begin(node_, DiskOperation::flush, std::move(steps));
    co_return co_await reply.promise.future();
  }

  Task<Status> preallocate(Address from, std::uint64_t length, LeaseNumber lease) override {
    CHECK(length > 0);
    Reply<Status> reply = make_reply<Status>();
    std::deque<Step> steps;
    SimDisk* disk = &disk_;
    steps.push_back([disk, lease, from, length, reply](std::uint64_t operation) {
      if (auto error = disk->admission(operation, lease, from, length, true)) {
        reply(fail(*std::move(error)));
        disk->forget(operation);
      }
    });
    steps.push_back([disk, from, length, reply](std::uint64_t) {
      const std::uint64_t last_block = (end_of(from.offset, length) - 1) / block_size;
      for (std::uint64_t block = from.offset / block_size; block <= last_block; ++block) {
        if (!disk->has_block(from.segment, block)) ++disk->used_blocks_;
        disk->preallocated_[from.segment].insert(block);
      }
      reply(Status{});
    });
    disk_.begin(node_, DiskOperation::preallocate, std::move(steps));
    co_return co_await reply.promise.future();
  }

  Task<Result<std::uint64_t>> allocated(Segment segment) override {
    Reply<Result<std::uint64_t>> reply = make_reply<Result<std::uint64_t>>();
    std::deque<Step> steps;
    SimDisk* disk = &disk_;
    steps.push_back([disk, segment, reply](std::uint64_t) {
      const auto blocks = disk->current_.find(segment);
      reply(blocks == disk->current_.end() ? 0 : blocks->second.size() * block_size);
    });
    disk_.begin(node_, DiskOperation::read, std::move(steps));
    co_return co_await reply.promise.future();
  }

  Task<Result<std::optional<disk::Extent>>> next_extent(Segment segment,
                                                        std::uint64_t from) override {
    using Answer = Result<std::optional<disk::Extent>>;
    Reply<Answer> reply = make_reply<Answer>();
    std::deque<Step> steps;
    SimDisk* disk = &disk_;
    steps.push_back([disk, segment, from, reply](std::uint64_t) {
      reply(extent_in(disk->current_, segment, from));
    });
    disk_.begin(node_, DiskOperation::read, std::move(steps));
    co_return co_await reply.promise.future();
  }

  Task<Result<std::vector<Segment>>> list_segments(Segment first, std::size_t limit) override {
    using Answer = Result<std::vector<Segment>>;
    Reply<Answer> reply = make_reply<Answer>();
    std::deque<Step> steps;
    SimDisk* disk = &disk_;
    steps.push_back([disk, first, limit, reply](std::uint64_t) {
      reply(segments_in(disk->current_, first, limit));
    });
    disk_.begin(node_, DiskOperation::read, std::move(steps));
    co_return co_await reply.promise.future();
  }

  Task<Result<disk::Usage>> usage() override {
    Reply<Result<disk::Usage>> reply = make_reply<Result<disk::Usage>>();
    std::deque<Step> steps;
    SimDisk* disk = &disk_;
    steps.push_back([disk, reply](std::uint64_t) {
      const std::uint64_t used = (disk->used_blocks_ + disk->reserved_blocks_) * block_size;
      const std::uint64_t total = disk->options_.capacity;
      reply(disk::Usage{total, total > used ? total - used : 0});
    });
    disk_.begin(node_, DiskOperation::read, std::move(steps));
    co_return co_await reply.promise.future();
  }

  Task<Result<disk::Register>> read_register(std::string_view name) override {
    Reply<Result<disk::Register>> reply = make_reply<Result<disk::Register>>();
    std::deque<Step> steps;
    SimDisk* disk = &disk_;
    steps.push_back([disk, key = std::string(name), reply](std::uint64_t) {
      const auto found = disk->registers_.find(key);
      reply(found == disk->registers_.end() ? disk::Register{} : found->second);
    });
    disk_.begin(node_, DiskOperation::read, std::move(steps));
    co_return co_await reply.promise.future();
  }

  Task<Result<std::uint64_t>> write_register(std::string_view name, std::uint64_t expected,
                                             Bytes value, LeaseNumber lease) override {
    CHECK(value.size() <= disk::register_size_max);
    Reply<Result<std::uint64_t>> reply = make_reply<Result<std::uint64_t>>();
    std::deque<Step> steps;
    SimDisk* disk = &disk_;
    steps.push_back([disk, lease, reply](std::uint64_t operation) {
      if (auto error = disk->admission(operation, lease, Address{}, 0, false)) {
        reply(fail(*std::move(error)));
        disk->forget(operation);
      }
    });
    const std::string key(name);
    const SharedBytes kept(std::move(value));
    steps.push_back([disk, lease, key, expected, kept, reply](std::uint64_t operation) {
      const auto found = disk->registers_.find(key);
      const std::uint64_t version = found == disk->registers_.end() ? 0 : found->second.version;
      if (version != expected) {
        reply(fail(Errc::mismatch,
                   absl::StrCat("register ", key, " has version ", version, ", not ", expected)));
        disk->forget(operation);
        return;
      }
      disk->apply_change(lease, std::nullopt, [disk, key, expected, kept] {
        disk->registers_[key] = disk::Register{expected + 1, to_bytes(kept.view())};
      });
    });
    steps.push_back([reply, expected](std::uint64_t) { reply(expected + 1); });
    disk_.begin(node_, DiskOperation::register_update, std::move(steps));
    co_return co_await reply.promise.future();
  }

  Task<Result<disk::SnapshotId>> create_snapshot(std::string name, WallTime created,
                                                 LeaseNumber lease) override {
    CO_TRY_STATUS(disk::check_snapshot_name(name));
    Reply<Result<disk::SnapshotId>> reply = make_reply<Result<disk::SnapshotId>>();
    std::deque<Step> steps;
    SimDisk* disk = &disk_;
    steps.push_back([disk, lease, reply](std::uint64_t operation) {
      if (auto error = disk->admission(operation, lease, Address{}, 0, false)) {
        reply(fail(*std::move(error)));
        disk->forget(operation);
      }
    });
    const auto id = std::make_shared<disk::SnapshotId>();
    steps.push_back([disk, lease, name, created, id, reply](std::uint64_t operation) {
      for (const auto& [other, snapshot] : disk->snapshots_) {
        if (snapshot.about.name != name) continue;
        reply(fail(Errc::exist, absl::StrCat("snapshot ", name)));
        disk->forget(operation);
        return;
      }
      *id = disk::SnapshotId{++disk->last_snapshot_};
      disk->apply_change(lease, std::nullopt, [disk, name, created, id] {
        disk->make_durable(disk->last_pending_, {});
        disk->snapshots_[*id] =
            KeptSnapshot{{*id, name, created, 0}, disk->current_, disk->registers_};
      });
    });
    steps.push_back([id, reply](std::uint64_t) { reply(*id); });
    disk_.begin(node_, DiskOperation::register_update, std::move(steps));
    co_return co_await reply.promise.future();
  }

  Task<Status> delete_snapshot(disk::SnapshotId id, LeaseNumber lease) override {
    Reply<Status> reply = make_reply<Status>();
    std::deque<Step> steps;
    SimDisk* disk = &disk_;
    steps.push_back([disk, lease, reply](std::uint64_t operation) {
      if (auto error = disk->admission(operation, lease, Address{}, 0, false)) {
        reply(fail(*std::move(error)));
        disk->forget(operation);
      }
    });
    steps.push_back([disk, lease, id, reply](std::uint64_t operation) {
      if (!disk->snapshots_.contains(id)) {
        reply(fail(Errc::stale, absl::StrCat("snapshot ", raw(id))));
        disk->forget(operation);
        return;
      }
      disk->apply_change(lease, std::nullopt, [disk, id] { disk->snapshots_.erase(id); });
    });
    steps.push_back([reply](std::uint64_t) { reply(Status{}); });
    disk_.begin(node_, DiskOperation::register_update, std::move(steps));
    co_return co_await reply.promise.future();
  }

  Task<Result<std::vector<disk::Snapshot>>> list_snapshots() override {
    using Answer = Result<std::vector<disk::Snapshot>>;
    Reply<Answer> reply = make_reply<Answer>();
    std::deque<Step> steps;
    SimDisk* disk = &disk_;
    steps.push_back([disk, reply](std::uint64_t) {
      std::vector<disk::Snapshot> all;
      for (const auto& [id, snapshot] : disk->snapshots_) all.push_back(snapshot.about);
      reply(std::move(all));
    });
    disk_.begin(node_, DiskOperation::read, std::move(steps));
    co_return co_await reply.promise.future();
  }

  Task<Result<Bytes>> read_snapshot(disk::SnapshotId id, Address from,
                                    std::uint64_t length) override {
    CHECK(length > 0 && length <= disk::transfer_max);
    const auto look = [from, length](const KeptSnapshot& snapshot) {
      Bytes bytes(length);
      read_from(snapshot.image, from, bytes);
      return bytes;
    };
    return look_at<Bytes>(id, look);
  }
  Task<Result<std::optional<disk::Extent>>> next_snapshot_extent(disk::SnapshotId id,
                                                                 Segment segment,
                                                                 std::uint64_t from) override {
    const auto look = [segment, from](const KeptSnapshot& snapshot) {
      return extent_in(snapshot.image, segment, from);
    };
    return look_at<std::optional<disk::Extent>>(id, look);
  }
  Task<Result<std::vector<Segment>>> list_snapshot_segments(disk::SnapshotId id, Segment first,
                                                            std::size_t limit) override {
    const auto look = [first, limit](const KeptSnapshot& snapshot) {
      return segments_in(snapshot.image, first, limit);
    };
    return look_at<std::vector<Segment>>(id, look);
  }
  Task<Result<disk::Register>> read_snapshot_register(disk::SnapshotId id,
                                                      std::string name) override {
    const auto look = [name](const KeptSnapshot& snapshot) {
      const auto found = snapshot.registers.find(name);
      return found == snapshot.registers.end() ? disk::Register{} : found->second;
    };
    return look_at<disk::Register>(id, look);
  }

  Task<Status> admit(LeaseNumber lease) override {
    Reply<Status> reply = make_reply<Status>();
    std::deque<Step> steps;
    SimDisk* disk = &disk_;
    steps.push_back([disk, lease, reply](std::uint64_t) {
      if (disk->fenced_.contains(lease)) {
        return reply(fail(Errc::fenced, absl::StrCat("lease ", raw(lease))));
      }
      disk->admitted_.insert(lease);
      reply(Status{});
    });
    disk_.begin(node_, DiskOperation::register_update, std::move(steps));
    co_return co_await reply.promise.future();
  }

  Task<Status> fence(LeaseNumber lease) override {
    Reply<Status> reply = make_reply<Status>();
    std::deque<Step> steps;
    SimDisk* disk = &disk_;
    steps.push_back([disk, lease, reply](std::uint64_t) {
      const auto over = [disk, lease, reply] {
        disk->fence_has_returned_.insert(lease);
        reply(Status{});
      };
      if (planted(Fault::no_fence)) return over();
      disk->admitted_.erase(lease);
      disk->fenced_.insert(lease);
      // Returns once the writes that were admitted before have finished.
      if (!disk->admitted_in_flight_.contains(lease)) return over();
      disk->waiting_fences_[lease].push_back(over);
    });
    disk_.begin(node_, DiskOperation::register_update, std::move(steps));
    co_return co_await reply.promise.future();
  }

 private:
  // Hands the result of an operation to the coroutine that waits for it on the node.
  template <class T>
  struct Reply {
    Node* node;
    std::uint64_t life;
    Promise<T> promise;

    void operator()(T result) const {
      node->deliver(life, [to = promise, result = std::move(result)]() mutable {
        to.set(std::move(result));
      });
    }
  };
  template <class T>
  Reply<T> make_reply() {
    return Reply<T>{&node_, life_, Promise<T>(node_.world().executor)};
  }

  template <class T, class Look>
  Task<Result<T>> look_at(disk::SnapshotId id, Look look) {
    Reply<Result<T>> reply = make_reply<Result<T>>();
    std::deque<Step> steps;
    SimDisk* disk = &disk_;
    steps.push_back([disk, id, look, reply](std::uint64_t) {
      if (auto error = disk->error_by_plan_or_chance(DiskOperation::read)) {
        return reply(fail(*std::move(error)));
      }
      const auto found = disk->snapshots_.find(id);
      if (found == disk->snapshots_.end()) {
        return reply(fail(Errc::stale, absl::StrCat("snapshot ", raw(id))));
      }
      reply(look(found->second));
    });
    disk_.begin(node_, DiskOperation::read, std::move(steps));
    co_return co_await reply.promise.future();
  }

  SimDisk& disk_;
  Node& node_;
  const std::uint64_t life_;
};

// --- The medium ----------------------------------------------------------------------------------

SimDisk::SimDisk(Simulation& simulation, DiskOptions options, std::string name)
    : simulation_(simulation),
      options_(options),
      name_(std::move(name)),
      random_(simulation.stream(name_)) {}
SimDisk::~SimDisk() = default;

std::unique_ptr<disk::VirtualDisk> SimDisk::open(Node& node, Attachment attachment) {
  const auto add = [&node](std::vector<Node*>& nodes) {
    if (std::find(nodes.begin(), nodes.end(), &node) != nodes.end()) return false;
    nodes.push_back(&node);
    return true;
  };
  if (attachment == Attachment::machine) add(machine_nodes_);
  if (add(known_nodes_)) node.on_crash([this, &node] { node_crashed(node); });
  return std::make_unique<Handle>(*this, node);
}

std::uint64_t SimDisk::begin(Node& node, DiskOperation kind, std::deque<Step> steps) {
  const std::uint64_t operation = ++last_operation_;
  if (!power_is_on_ || !node.alive()) return operation;  // It never completes.
  InFlight& started = in_flight_[operation];
  started.node = &node;
  started.kind = kind;
  started.steps = std::move(steps);
  schedule_step(operation);
  return operation;
}

void SimDisk::schedule_step(std::uint64_t operation) {
  const Duration delay = latency(in_flight_.at(operation).kind);
  simulation_.after(delay, [this, operation] {
    if (!in_flight_.contains(operation)) return;
    run_step(operation);
    if (in_flight_.contains(operation)) schedule_step(operation);
  });
}

// Runs the next step; the operation is over after its last one.
void SimDisk::run_step(std::uint64_t operation) {
  InFlight& running = in_flight_.at(operation);
  simulation_.mix(operation);
  Step step = std::move(running.steps.front());
  running.steps.pop_front();
  step(operation);
  const auto found = in_flight_.find(operation);
  if (found != in_flight_.end() && found->second.steps.empty()) forget(operation);
}

void SimDisk::forget(std::uint64_t operation) {
  const auto found = in_flight_.find(operation);
  if (found == in_flight_.end()) return;
  const LeaseNumber lease = found->second.lease;
  reserved_blocks_ -= found->second.reserved;
  in_flight_.erase(found);
  if (lease == LeaseNumber::none || --admitted_in_flight_[lease] > 0) return;
  admitted_in_flight_.erase(lease);
  const auto waiting = waiting_fences_.find(lease);
  if (waiting == waiting_fences_.end()) return;
  std::vector<Callback> fences = std::move(waiting->second);
  waiting_fences_.erase(waiting);
  for (Callback& fence : fences) fence();
}

// Its process or the power is gone: some of the steps that are left still happen.
void SimDisk::abandon(std::uint64_t operation) {
  std::uint64_t steps = random_.below(in_flight_.at(operation).steps.size() + 1);
  for (; steps > 0 && in_flight_.contains(operation); --steps) run_step(operation);
  forget(operation);
}

void SimDisk::node_crashed(const Node& node) {
  std::vector<std::uint64_t> abandoned;
  for (const auto& [operation, state] : in_flight_) {
    if (state.node == &node) abandoned.push_back(operation);
  }
  shuffle(abandoned, random_);
  for (const std::uint64_t operation : abandoned) {
    if (in_flight_.contains(operation)) abandon(operation);
  }
}

Duration SimDisk::latency(DiskOperation kind) {
  Duration longest = options_.write_time_max, shortest{0};
  if (kind == DiskOperation::read) longest = options_.read_time_max;
  if (kind == DiskOperation::flush) {
    longest = options_.flush_time_max;
    shortest = options_.flush_time_min;
  }
  const Duration time = random_.between(shortest, longest);
  return random_.chance(1, 100) ? time * 30 : time;  // Now and then one lags far behind.
}

std::optional<Error> SimDisk::admission(std::uint64_t operation, LeaseNumber lease, Address at,
                                        std::uint64_t length, bool takes_space) {
  LeaseCount& count = counts_[lease];
  ++count.tried;
  if (!admitted_.contains(lease)) {
    ++count.refused;
    simulation_.trace(name_, absl::StrCat("refuses lease ", raw(lease)));
    return Error{Errc::fenced, absl::StrCat(name_, " ", disk::to_string(at), ": lease ", raw(lease),
                                            " is not admitted")};
  }
  InFlight& state = in_flight_.at(operation);
  if (takes_space) {
    const std::uint64_t missing = blocks_missing(at, length);
    const std::uint64_t blocks = options_.capacity / block_size;
    if (missing > 0 && used_blocks_ + reserved_blocks_ + missing > blocks) {
      return Error{Errc::no_space, absl::StrCat(name_, " is full")};
    }
    state.reserved = missing;
    reserved_blocks_ += missing;
  }
  state.lease = lease;
  ++admitted_in_flight_[lease];
  simulation_.mix(raw(at.segment) ^ (at.offset << 8) ^ length);
  return std::nullopt;
}

std::optional<Error> SimDisk::error_by_plan_or_chance(DiskOperation kind) {
  const auto planned = planned_errors_.find(kind);
  if (planned != planned_errors_.end() && planned->second.second > 0) {
    --planned->second.second;
    return Error{planned->second.first, absl::StrCat(name_, ": planned error")};
  }
  std::uint32_t rate = 0;
  if (kind == DiskOperation::read) rate = options_.read_errors;
  if (kind == DiskOperation::write) rate = options_.write_errors;
  if (kind == DiskOperation::flush) rate = options_.flush_errors;
  if (rate == 0 || !random_.chance(rate, million)) return std::nullopt;
  return Error{Errc::io, absl::StrCat(name_, ": error by chance")};
}

void SimDisk::fail_next(DiskOperation kind, Errc code, std::uint32_t times) {
  CHECK(kind == DiskOperation::read || kind == DiskOperation::write ||
        kind == DiskOperation::flush);
  planned_errors_[kind] = {code, times};
}

void SimDisk::set_error_rates(std::uint32_t reads, std::uint32_t writes, std::uint32_t flushes) {
  options_.read_errors = reads;
  options_.write_errors = writes;
  options_.flush_errors = flushes;
}

// --- Power ---------------------------------------------------------------------------------------

void SimDisk::cut_power_after(std::uint64_t changes, Place place) {
  planned_cut_ = PlannedCut{changes, place};
}

bool SimDisk::is_cut_here(std::optional<Address> at) {
  if (!power_is_on_ || !planned_cut_) return false;
  const bool counts =
      planned_cut_->place == Place::anywhere || (at && place_of(*at) == planned_cut_->place);
  return counts && planned_cut_->changes-- == 0;
}

// Stands outside of admission: whoever lets such a change through is found here.
void SimDisk::check_fence(LeaseNumber lease) {
  if (!fence_has_returned_.contains(lease)) return;
  simulation_.violate(absl::StrCat(name_, ": a change of lease ", raw(lease),
                                   " is made after its fence has returned"));
}

void SimDisk::apply_change(LeaseNumber lease, std::optional<Address> at,
                           const std::function<void()>& apply) {
  check_fence(lease);
  const bool cut = is_cut_here(at);
  if (!cut || random_.chance(1, 2)) apply();
  ++changes_;
  if (on_change_ && at) on_change_(place_of(*at));
  if (!cut) return;
  planned_cut_.reset();
  power_cut();
}

void SimDisk::power_cut() {
  CHECK(power_is_on_);
  simulation_.trace(name_, "power cut");
  power_is_on_ = false;
  ++power_cuts_;
  for (Node* node : machine_nodes_) {
    if (node->alive()) node->crash();
  }
  for (Node* node : known_nodes_) node_crashed(*node);  // What others have in flight here.
  settle_all_pending();
  current_ = durable_;
  recount_blocks();
  waiting_fences_.clear();
}

void SimDisk::power_on() {
  CHECK(!power_is_on_);
  CHECK(in_flight_.empty());
  simulation_.trace(name_, "power on");
  power_is_on_ = true;
}

void SimDisk::settle_all_pending() {
  std::vector<std::uint64_t> order;
  for (const auto& [number, change] : pending_) order.push_back(number);
  shuffle(order, random_);
  // One cut favours keeping or dropping, so that long runs of either happen too.
  const std::uint64_t keep_percent = random_.below(101);
  for (const std::uint64_t number : order) {
    const Pending& change = pending_.at(number);
    if (random_.chance(1, 4)) {
      settle_torn(change);
    } else if (random_.chance(keep_percent, 100)) {
      if (change.data.empty()) {
        clear_in(durable_, change.at, change.length);
      } else {
        write_to(durable_, change.at, change.data.view());
      }
    }
  }
  pending_.clear();
}

// Each sector of a write, each block of a discard by itself.
void SimDisk::settle_torn(const Pending& change) {
  const std::uint64_t end = end_of(change.at.offset, change.length);
  if (change.data.empty()) {
    std::vector<std::uint64_t> touched;
    const auto blocks = durable_.find(change.at.segment);
    if (blocks == durable_.end()) return;
    for (auto block = blocks->second.lower_bound(change.at.offset / block_size);
         block != blocks->second.end() && block->first * block_size < end; ++block) {
      touched.push_back(block->first);
    }
    for (const std::uint64_t block : touched) {
      if (random_.chance(1, 2)) continue;
      const std::uint64_t from = std::max(change.at.offset, block * block_size);
      const std::uint64_t to = std::min(end, block * block_size + block_size);
      clear_in(durable_, Address{change.at.segment, from}, to - from);
    }
    return;
  }
  for (std::uint64_t from = change.at.offset; from < end;) {
    const std::uint64_t to = std::min(end, (from / disk::sector + 1) * disk::sector);
    if (random_.chance(1, 2)) {
      write_to(durable_, Address{change.at.segment, from},
               change.data.view().subspan(from - change.at.offset, to - from));
    }
    from = to;
  }
}

void SimDisk::make_durable(std::uint64_t last, const std::vector<Segment>& segments) {
  const auto is_meant = [&](Segment segment) {
    return segments.empty() ||
           std::find(segments.begin(), segments.end(), segment) != segments.end();
  };
  for (auto at = pending_.begin(); at != pending_.end() && at->first <= last;) {
    const Pending& change = at->second;
    if (!is_meant(change.at.segment)) {
      ++at;
      continue;
    }
    if (change.data.empty()) {
      clear_in(durable_, change.at, change.length);
    } else {
      write_to(durable_, change.at, change.data.view());
    }
    at = pending_.erase(at);
  }
}

void SimDisk::apply_pending(Pending change) {
  if (change.data.empty()) {
    discard_current(change.at, change.length);
  } else {
    write_current(change.at, change.data.view());
  }
  pending_.emplace(++last_pending_, std::move(change));
}

// --- Images --------------------------------------------------------------------------------------

std::byte* SimDisk::own(Block& block) {
  if (!block) {
    block = std::make_shared<Block::element_type>();
  } else if (block.use_count() > 1) {
    block = std::make_shared<Block::element_type>(*block);
  }
  return block->data();
}

void SimDisk::write_to(Image& image, Address at, ByteView data) {
  Blocks& blocks = image[at.segment];
  std::uint64_t offset = at.offset;
  while (!data.empty()) {
    const std::uint64_t inside = offset % block_size;
    const std::size_t part = std::min<std::uint64_t>(data.size(), block_size - inside);
    Block& block = blocks.try_emplace(offset / block_size).first->second;
    std::copy_n(data.begin(), part, own(block) + inside);
    data = data.subspan(part);
    offset += part;
  }
}

void SimDisk::clear_in(Image& image, Address at, std::uint64_t length) {
  const auto blocks = image.find(at.segment);
  if (blocks == image.end()) return;
  const std::uint64_t end = end_of(at.offset, length);
  for (auto block = blocks->second.lower_bound(at.offset / block_size);
       block != blocks->second.end() && block->first * block_size < end;) {
    const std::uint64_t start = block->first * block_size;
    const std::uint64_t from = std::max(at.offset, start) - start;
    const std::uint64_t to = std::min(end - start, block_size);
    if (from == 0 && to == block_size) {
      block = blocks->second.erase(block);
    } else {
      std::byte* bytes = own(block->second);
      std::fill(bytes + from, bytes + to, std::byte{0});
      ++block;
    }
  }
  if (blocks->second.empty()) image.erase(blocks);
}

void SimDisk::read_from(const Image& image, Address at, MutableByteView into) {
  std::fill(into.begin(), into.end(), std::byte{0});
  const auto blocks = image.find(at.segment);
  if (blocks == image.end()) return;
  const std::uint64_t end = at.offset + into.size();
  for (auto block = blocks->second.lower_bound(at.offset / block_size);
       block != blocks->second.end() && block->first * block_size < end; ++block) {
    const std::uint64_t start = block->first * block_size;
    const std::uint64_t from = std::max(at.offset, start);
    const std::uint64_t to = std::min(end, start + block_size);
    std::copy_n(block->second->data() + (from - start), to - from,
                into.begin() + static_cast<std::ptrdiff_t>(from - at.offset));
  }
}

std::optional<disk::Extent> SimDisk::extent_in(const Image& image, Segment segment,
                                               std::uint64_t from) {
  const auto blocks = image.find(segment);
  if (blocks == image.end()) return std::nullopt;
  auto block = blocks->second.lower_bound(from / block_size);
  if (block == blocks->second.end()) return std::nullopt;
  const std::uint64_t start = std::max(from, block->first * block_size);
  std::uint64_t next = block->first;
  for (; block != blocks->second.end() && block->first == next; ++block) ++next;
  return disk::Extent{start, next * block_size - start};
}

std::vector<Segment> SimDisk::segments_in(const Image& image, Segment first, std::size_t limit) {
  std::vector<Segment> found;
  for (auto at = image.lower_bound(first); at != image.end() && found.size() < limit; ++at) {
    found.push_back(at->first);
  }
  return found;
}

bool SimDisk::has_block(Segment segment, std::uint64_t block) const {
  const auto blocks = current_.find(segment);
  if (blocks != current_.end() && blocks->second.contains(block)) return true;
  const auto preallocated = preallocated_.find(segment);
  return preallocated != preallocated_.end() && preallocated->second.contains(block);
}

std::uint64_t SimDisk::blocks_missing(Address at, std::uint64_t length) const {
  if (length == 0) return 0;
  std::uint64_t missing = 0;
  const std::uint64_t last = (end_of(at.offset, length) - 1) / block_size;
  for (std::uint64_t block = at.offset / block_size; block <= last; ++block) {
    if (!has_block(at.segment, block)) ++missing;
  }
  return missing;
}

void SimDisk::write_current(Address at, ByteView data) {
  used_blocks_ += blocks_missing(at, data.size());
  write_to(current_, at, data);
}

void SimDisk::discard_current(Address at, std::uint64_t length) {
  clear_in(current_, at, length);
  // Only whole blocks lose their room.
  const auto preallocated = preallocated_.find(at.segment);
  if (preallocated != preallocated_.end()) {
    const std::uint64_t end = end_of(at.offset, length);
    auto& blocks = preallocated->second;
    const std::uint64_t first = at.offset / block_size + (at.offset % block_size != 0 ? 1 : 0);
    blocks.erase(blocks.lower_bound(first), blocks.lower_bound(end / block_size));
    if (blocks.empty()) preallocated_.erase(preallocated);
  }
  recount_blocks();
}

void SimDisk::recount_blocks() {
  used_blocks_ = 0;
  for (const auto& [segment, blocks] : current_) used_blocks_ += blocks.size();
  for (const auto& [segment, blocks] : preallocated_) {
    const auto written = current_.find(segment);
    for (const std::uint64_t block : blocks) {
      if (written == current_.end() || !written->second.contains(block)) ++used_blocks_;
    }
  }
}

// --- For tests and checkers ----------------------------------------------------------------------

Bytes SimDisk::peek(Address from, std::uint64_t length) const {
  Bytes bytes(length);
  read_from(current_, from, bytes);
  return bytes;
}
Bytes SimDisk::peek_durable(Address from, std::uint64_t length) const {
  Bytes bytes(length);
  read_from(durable_, from, bytes);
  return bytes;
}
void SimDisk::poke(Address to, ByteView data) {
  write_to(current_, to, data);
  write_to(durable_, to, data);
  recount_blocks();
}

void SimDisk::become_copy_of(const SimDisk& other) {
  CHECK(in_flight_.empty() && other.in_flight_.empty());
  current_ = durable_ = other.current_;
  pending_.clear();
  preallocated_ = other.preallocated_;
  registers_ = other.registers_;
  snapshots_ = other.snapshots_;
  last_snapshot_ = other.last_snapshot_;
  admitted_ = other.admitted_;
  fenced_ = other.fenced_;
  recount_blocks();
}

void SimDisk::become_copy_after_power_cut(const SimDisk& other, Unflushed unflushed) {
  CHECK(in_flight_.empty());
  durable_ = other.durable_;
  pending_ = other.pending_;
  preallocated_ = other.preallocated_;
  registers_ = other.registers_;
  admitted_ = other.admitted_;
  fenced_ = other.fenced_;
  snapshots_ = other.snapshots_;
  last_snapshot_ = other.last_snapshot_;
  if (unflushed == Unflushed::kept) durable_ = other.current_;
  if (unflushed != Unflushed::by_chance) pending_.clear();
  settle_all_pending();
  current_ = durable_;
  recount_blocks();
}

std::optional<disk::Register> SimDisk::peek_register(std::string_view name) const {
  const auto found = registers_.find(name);
  if (found == registers_.end()) return std::nullopt;
  return found->second;
}

std::vector<Segment> SimDisk::segments() const {
  std::vector<Segment> found;
  for (const auto& [segment, blocks] : current_) found.push_back(segment);
  return found;
}

std::vector<std::uint64_t> SimDisk::blocks(Segment segment) const {
  std::vector<std::uint64_t> numbers;
  const auto found = current_.find(segment);
  if (found == current_.end()) return numbers;
  for (const auto& [number, block] : found->second) numbers.push_back(number);
  return numbers;
}

std::uint64_t SimDisk::used_bytes() const { return used_blocks_ * block_size; }

LeaseCount SimDisk::count(LeaseNumber lease) const {
  const auto found = counts_.find(lease);
  return found == counts_.end() ? LeaseCount{} : found->second;
}

}  // namespace plumeria::sim
