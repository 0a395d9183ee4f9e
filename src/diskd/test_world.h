// What the tests of disk server and remote disk run in: virtual time, a network that loses, doubles
// and reorders messages by a seed, and a disk in memory that forgets unflushed changes when its
// power is cut. Deterministic; one thread.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/async.h"
#include "base/check.h"
#include "base/number.h"
#include "base/world.h"
#include "disk/admission.h"
#include "disk/disk.h"
#include "net/transport.h"

namespace plumeria::diskd {

class VirtualTime final : public Executor, public Clock, public Random {
 public:
  explicit VirtualTime(std::uint64_t seed) : state_(seed * 2 + 1) {}
  World world() { return World{*this, *this, *this}; }

  void post(Callback callback) override { at(now_, std::move(callback)); }
  void resume(std::coroutine_handle<> coroutine) override {
    post([coroutine] { coroutine.resume(); });
  }
  TimerId at(TimePoint when, Callback callback) override {
    const TimerId id{++last_};
    queue_.emplace(std::pair(std::max(when, now_), id), std::move(callback));
    times_.emplace(id, std::max(when, now_));
    return id;
  }
  void cancel(TimerId timer) override {
    const auto found = times_.find(timer);
    if (found == times_.end()) return;
    queue_.erase(std::pair(found->second, timer));
    times_.erase(found);
  }
  TimePoint now() const override { return now_; }
  WallTime wall() const override { return WallTime{now_.time_since_epoch().count()}; }
  std::uint64_t next() override {
    state_ += 0x9e3779b97f4a7c15;
    std::uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  }

  bool step() {
    if (queue_.empty()) return false;
    auto node = queue_.extract(queue_.begin());
    now_ = node.key().first;
    times_.erase(node.key().second);
    node.mapped()();
    return true;
  }
  // Fails the test's program when the task does not end within an hour of virtual time.
  void run(Task<void> task) {
    bool done = false;
    struct Run {
      static Task<void> one(Task<void> inner, bool* finished) {
        co_await inner;
        *finished = true;
      }
    };
    TaskScope scope;
    const TimePoint limit = now_ + 1h;
    scope.spawn(Run::one(std::move(task), &done));
    while (!done) CHECK(step() && now_ < limit);
  }
  void run_for(Duration duration) {
    const TimePoint until = now_ + duration;
    while (!queue_.empty() && queue_.begin()->first.first <= until) step();
    now_ = until;
  }

 private:
  TimePoint now_{};
  std::uint64_t last_ = 0;
  std::uint64_t state_;
  std::map<std::pair<TimePoint, TimerId>, Callback> queue_;
  std::map<TimerId, TimePoint> times_;
};

struct Losses {
  std::uint64_t lost_percent = 0;
  std::uint64_t doubled_percent = 0;
  Duration delay_max = 50us;       // each message takes a time of its own, so they overtake
  std::uint64_t late_percent = 0;  // copies that come up to `late_max` later
  Duration late_max = 30s;
};

// Clients of one server. The server's end can be taken away (server down) and put back.
class LossyNetwork {
 public:
  LossyNetwork(VirtualTime& time, Losses losses) : time_(time), losses_(losses) {}

  class End final : public net::Transport {
   public:
    End(LossyNetwork& network, net::PeerId self) : network_(network), self_(self) {}
    net::PeerId connect(std::string_view) override {
      network_.time_.post([this] { network_.report(*this, server_id, network_.server_up_); });
      return server_id;
    }
    void send(net::PeerId to, net::Channel, Bytes head, SharedBytes payload) override {
      head.insert(head.end(), payload.view().begin(), payload.view().end());
      CHECK(head.size() <= net::message_size_max);
      network_.carry(self_, to, std::make_shared<const Bytes>(std::move(head)));
    }
    void on_message(net::Channel, MessageHandler handler) override {
      message_ = std::move(handler);
    }
    void on_connection(net::Channel, ConnectionHandler handler) override {
      connection_ = std::move(handler);
    }
    std::size_t queued(net::PeerId) const override { return 0; }
    void disconnect(net::PeerId peer, std::string_view reason) override {
      network_.disconnected_.emplace_back(reason);
      network_.reconnect(self_ == server_id ? peer : self_);
    }
    std::string last_error(net::PeerId) const override { return "down"; }

   private:
    friend class LossyNetwork;
    LossyNetwork& network_;
    const net::PeerId self_;
    MessageHandler message_;
    ConnectionHandler connection_;
  };

  static constexpr net::PeerId server_id{1};
  End& server() { return server_; }
  End& add_client() {
    const net::PeerId id{clients_.size() + 2};
    clients_.push_back(std::make_unique<End>(*this, id));
    return *clients_.back();
  }
  void set_losses(Losses losses) { losses_ = losses; }
  // Clients see their connections break or come. Messages that are under way arrive nevertheless:
  // also those sent to or by a server of a life before.
  void set_server_up(bool up) {
    server_up_ = up;
    for (auto& client : clients_) {
      time_.post([this, &client = *client, up] { report(client, server_id, up); });
    }
  }
  const std::vector<std::string>& disconnected() const { return disconnected_; }

 private:
  void report(End& end, net::PeerId peer, bool connected) {
    if (end.connection_) end.connection_(peer, connected);
  }
  void reconnect(net::PeerId client) {
    time_.post([this, client] {
      End& end = *clients_.at(raw(client) - 2);
      report(server_, client, false);
      report(end, server_id, false);
      report(end, server_id, server_up_);
    });
  }
  void carry(net::PeerId from, net::PeerId to, std::shared_ptr<const Bytes> message) {
    if (time_.below(100) >= losses_.lost_percent) deliver(from, to, message, losses_.delay_max);
    if (time_.below(100) < losses_.doubled_percent) deliver(from, to, message, losses_.delay_max);
    if (time_.below(100) < losses_.late_percent) deliver(from, to, message, losses_.late_max);
  }
  void deliver(net::PeerId from, net::PeerId to, std::shared_ptr<const Bytes> message,
               Duration delay_max) {
    const Duration delay(time_.below(static_cast<std::uint64_t>(delay_max.count()) + 1));
    time_.at(time_.now() + delay, [this, from, to, message] {
      End& end = to == server_id ? server_ : *clients_.at(raw(to) - 2);
      if (to == server_id && !server_up_) return;
      if (end.message_) end.message_(from, *message);
    });
  }

  VirtualTime& time_;
  Losses losses_;
  bool server_up_ = true;
  End server_{*this, server_id};
  std::vector<std::unique_ptr<End>> clients_;
  std::vector<std::string> disconnected_;
};

// In memory, byte by byte in blocks; counts what is applied. Operations take random time.
class MemoryDisk final : public disk::VirtualDisk {
 public:
  explicit MemoryDisk(VirtualTime& time) : time_(time) {}

  // All that was not flushed is gone. Requires: no operation is under way.
  void cut_power() { current_ = durable_; }
  std::uint64_t writes_applied() const { return writes_; }
  void fail_next_flush(Error error) { flush_error_ = std::move(error); }

  Task<Result<Bytes>> read(disk::Address from, std::uint64_t length) override {
    co_await pause();
    co_return extract(current_, from, length);
  }
  Task<Status> write(disk::Address to, SharedBytes data, disk::LeaseNumber lease,
                     disk::Durability) override {
    CO_TRY_STATUS(admission_.check(lease));
    const Guard guard(*this, lease);
    co_await pause();
    ++writes_;
    apply(to, data.view());
    co_return Status();
  }
  Task<Status> discard(disk::Address from, std::uint64_t length, disk::LeaseNumber lease) override {
    CO_TRY_STATUS(admission_.check(lease));
    const Guard guard(*this, lease);
    co_await pause();
    auto& segment = current_[from.segment];
    const std::uint64_t end =
        length > ~std::uint64_t{0} - from.offset ? ~std::uint64_t{0} : from.offset + length;
    for (auto it = segment.lower_bound(from.offset / block); it != segment.end(); ++it) {
      for (std::uint64_t i = 0; i < block; ++i) {
        const std::uint64_t at = it->first * block + i;
        if (at >= from.offset && at < end) it->second[i] = std::byte{0};
      }
      if (it->first * block >= end) break;
    }
    std::erase_if(segment, [](const auto& entry) { return all_zero(entry.second); });
    if (segment.empty()) current_.erase(from.segment);
    co_return Status();
  }
  Task<Status> flush() override {
    const Image covered = current_;
    co_await pause();
    if (flush_error_) {
      const Error error = *std::exchange(flush_error_, std::nullopt);
      co_return fail(error);
    }
    durable_ = covered;
    co_return Status();
  }
  Task<Status> flush_segments(std::vector<disk::Segment> segments) override {
    const Image covered = current_;
    co_await pause();
    for (const disk::Segment segment : segments) {
      const auto found = covered.find(segment);
      if (found == covered.end()) {
        durable_.erase(segment);
      } else {
        durable_[segment] = found->second;
      }
    }
    co_return Status();
  }
  Task<Status> preallocate(disk::Address, std::uint64_t, disk::LeaseNumber lease) override {
    CO_TRY_STATUS(admission_.check(lease));
    co_return Status();
  }
  Task<Result<std::uint64_t>> allocated(disk::Segment segment) override {
    co_await pause();
    const auto found = current_.find(segment);
    co_return found == current_.end() ? 0 : found->second.size() * block;
  }
  Task<Result<std::optional<disk::Extent>>> next_extent(disk::Segment segment,
                                                        std::uint64_t from) override {
    co_await pause();
    co_return extent_of(current_, segment, from);
  }
  Task<Result<std::vector<disk::Segment>>> list_segments(disk::Segment first,
                                                         std::size_t limit) override {
    co_await pause();
    co_return segments_of(current_, first, limit);
  }
  Task<Result<disk::Usage>> usage() override {
    co_await pause();
    co_return disk::Usage{1u << 30, 1u << 29};
  }
  Task<Result<disk::Register>> read_register(std::string_view name) override {
    return read_register_named(std::string(name));
  }
  Task<Result<std::uint64_t>> write_register(std::string_view name, std::uint64_t expected,
                                             Bytes value, disk::LeaseNumber lease) override {
    return write_register_named(std::string(name), expected, std::move(value), lease);
  }
  Task<Result<disk::SnapshotId>> create_snapshot(std::string name, WallTime created,
                                                 disk::LeaseNumber lease) override {
    CO_TRY_STATUS(disk::check_snapshot_name(name));
    CO_TRY_STATUS(admission_.check(lease));
    const Guard guard(*this, lease);
    co_await pause();
    for (const auto& [id, other] : snapshots_) {
      if (other.about.name == name) co_return fail(Errc::exist, name);
    }
    const disk::SnapshotId id{++last_snapshot_};
    snapshots_[id] = Kept{{id, name, created, 0}, current_, registers_};
    durable_ = current_;
    co_return id;
  }
  Task<Status> delete_snapshot(disk::SnapshotId id, disk::LeaseNumber lease) override {
    CO_TRY_STATUS(admission_.check(lease));
    const Guard guard(*this, lease);
    co_await pause();
    if (snapshots_.erase(id) == 0) co_return fail(Errc::stale);
    co_return Status();
  }
  Task<Result<std::vector<disk::Snapshot>>> list_snapshots() override {
    co_await pause();
    std::vector<disk::Snapshot> all;
    for (const auto& [id, snapshot] : snapshots_) all.push_back(snapshot.about);
    co_return all;
  }
  Task<Result<Bytes>> read_snapshot(disk::SnapshotId id, disk::Address from,
                                    std::uint64_t length) override {
    co_await pause();
    if (!snapshots_.contains(id)) co_return fail(Errc::stale);
    co_return extract(snapshots_[id].image, from, length);
  }
  Task<Result<std::optional<disk::Extent>>> next_snapshot_extent(disk::SnapshotId id,
                                                                 disk::Segment segment,
                                                                 std::uint64_t from) override {
    co_await pause();
    if (!snapshots_.contains(id)) co_return fail(Errc::stale);
    co_return extent_of(snapshots_[id].image, segment, from);
  }
  Task<Result<std::vector<disk::Segment>>> list_snapshot_segments(disk::SnapshotId id,
                                                                  disk::Segment first,
                                                                  std::size_t limit) override {
    co_await pause();
    if (!snapshots_.contains(id)) co_return fail(Errc::stale);
    co_return segments_of(snapshots_[id].image, first, limit);
  }
  Task<Result<disk::Register>> read_snapshot_register(disk::SnapshotId id,
                                                      std::string name) override {
    co_await pause();
    if (!snapshots_.contains(id)) co_return fail(Errc::stale);
    co_return snapshots_[id].registers[name];
  }
  Task<Status> admit(disk::LeaseNumber lease) override {
    co_await pause();
    co_return admission_.admit(lease);
  }
  Task<Status> fence(disk::LeaseNumber lease) override {
    admission_.fence(lease);
    while (under_way_.contains(lease)) co_await pause();
    co_return Status();
  }

  Bytes peek(disk::Address from, std::uint64_t length) const {
    return extract(current_, from, length);
  }
  Bytes peek_durable(disk::Address from, std::uint64_t length) const {
    return extract(durable_, from, length);
  }
  std::uint64_t peek_version(const std::string& name) { return registers_[name].version; }

 private:
  static constexpr std::uint64_t block = 4096;
  using Image = std::map<disk::Segment, std::map<std::uint64_t, Bytes>>;
  struct Guard {
    Guard(MemoryDisk& d, disk::LeaseNumber l) : disk(d), lease(l) { disk.under_way_.insert(l); }
    ~Guard() {
      const auto found = disk.under_way_.find(lease);
      if (found != disk.under_way_.end()) disk.under_way_.erase(found);
    }
    MemoryDisk& disk;
    disk::LeaseNumber lease;
  };

  Task<void> pause() { return sleep_until(time_, time_.now() + Duration(time_.below(100'000))); }
  void apply(disk::Address to, ByteView data) {
    for (std::size_t done = 0; done < data.size();) {
      const std::uint64_t at = to.offset + done;
      Bytes& bytes = current_[to.segment][at / block];
      bytes.resize(block);
      const std::size_t part = std::min<std::size_t>(data.size() - done, block - at % block);
      std::copy_n(data.begin() + static_cast<std::ptrdiff_t>(done), part,
                  bytes.begin() + static_cast<std::ptrdiff_t>(at % block));
      done += part;
    }
  }
  static std::optional<disk::Extent> extent_of(const Image& image, disk::Segment segment,
                                               std::uint64_t from) {
    const auto found = image.find(segment);
    if (found == image.end()) return std::nullopt;
    const auto first = found->second.lower_bound(from / block);
    if (first == found->second.end()) return std::nullopt;
    const std::uint64_t begin = std::max(from, first->first * block);
    return disk::Extent{begin, (first->first + 1) * block - begin};
  }
  static std::vector<disk::Segment> segments_of(const Image& image, disk::Segment first,
                                                std::size_t limit) {
    std::vector<disk::Segment> segments;
    for (auto it = image.lower_bound(first); it != image.end() && segments.size() < limit; ++it) {
      segments.push_back(it->first);
    }
    return segments;
  }
  static Bytes extract(const Image& image, disk::Address from, std::uint64_t length) {
    Bytes result(length);
    const auto segment = image.find(from.segment);
    if (segment == image.end()) return result;
    for (std::uint64_t done = 0; done < length;) {
      const std::uint64_t at = from.offset + done;
      const std::uint64_t part = std::min(length - done, block - at % block);
      const auto found = segment->second.find(at / block);
      if (found != segment->second.end()) {
        std::copy_n(found->second.begin() + static_cast<std::ptrdiff_t>(at % block), part,
                    result.begin() + static_cast<std::ptrdiff_t>(done));
      }
      done += part;
    }
    return result;
  }
  Task<Result<disk::Register>> read_register_named(std::string name) {
    co_await pause();
    co_return registers_[name];
  }
  Task<Result<std::uint64_t>> write_register_named(std::string name, std::uint64_t expected,
                                                   Bytes value, disk::LeaseNumber lease) {
    CO_TRY_STATUS(admission_.check(lease));
    co_await pause();
    disk::Register& current = registers_[name];
    if (current.version != expected) co_return fail(Errc::mismatch, name);
    current.value = std::move(value);
    co_return ++current.version;
  }

  VirtualTime& time_;
  Image current_, durable_;
  disk::Admission admission_;
  std::map<std::string, disk::Register> registers_;
  struct Kept {
    disk::Snapshot about;
    Image image;
    std::map<std::string, disk::Register> registers;
  };
  std::map<disk::SnapshotId, Kept> snapshots_;
  std::uint64_t last_snapshot_ = 0;
  std::multiset<disk::LeaseNumber> under_way_;
  std::uint64_t writes_ = 0;
  std::optional<Error> flush_error_;
};

}  // namespace plumeria::diskd
