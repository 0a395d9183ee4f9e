#include "service_world.h"

#include <absl/strings/str_cat.h>

#include <algorithm>

#include "base/async.h"
#include "base/number.h"
#include "lock/view.h"

namespace plumeria::lock_test {

ServiceWorld::ServiceWorld(ServiceOptions options)
    : options_(options),
      simulation_(options.seed),
      network_(simulation_, options.network),
      disk_(simulation_, {}),
      server_node_(simulation_.add_node("server")),
      random_(simulation_.stream("workload")) {
  for (int i = 0; i < options_.clients; ++i) {
    machines_.push_back(std::make_unique<Machine>(*this, i));
  }
}

ServiceWorld::~ServiceWorld() {
  for (auto& machine : machines_) {
    if (machine->clerk_) machine->crash();
  }
  if (server_) crash_server();
}

// ---- The server ----

// As `serve` does it: take over, replay what has surely no living owner, serve.
Task<void> ServiceWorld::bring_up(ServiceWorld* self, bool* up) {
  Task<Status> preparing = self->server_->prepare();
  Status status = co_await preparing;
  if (!status) self->simulation_.fail(status.error().message());
  std::vector<std::uint32_t> dead = self->server_->slots_of_the_dead();
  auto view = lock::decode_view(self->disk_.peek_register(lock::view_register)->value);
  for (const lock::LeaseRecord& record : view->leases) {
    if (std::find(dead.begin(), dead.end(), record.slot) == dead.end()) continue;
    if (!self->disk_.is_fenced(record.lease)) self->simulation_.fail("replayed before the fence");
    self->frozen_.erase(record.lease);
    self->recovered_.insert(record.lease);
  }
  Task<Status> marking = self->server_->mark_recovered(dead);
  status = co_await marking;
  if (!status) self->simulation_.fail(status.error().message());
  self->server_->serve();
  *up = true;
}

void ServiceWorld::start_server() {
  if (!server_node_.alive()) server_node_.start();
  server_transport_ = std::make_unique<sim::SimTransport>(network_, server_node_);
  server_disk_ = disk_.open(server_node_, sim::Attachment::outside);
  lockd::LockServerOptions options;
  options.lease_duration = options_.lease;
  options.in_process = options_.in_process;
  server_ = std::make_unique<lockd::LockServer>(server_node_.world(), *server_transport_,
                                                *server_disk_, *this, options);
  bool up = false;
  simulation_.run(server_node_, bring_up(this, &up));
}

void ServiceWorld::crash_server() {
  server_node_.crash();
  server_.reset();
  server_transport_.reset();
  server_disk_.reset();
}

Task<Status> ServiceWorld::recover(LeaseNumber dead, std::uint32_t slot) {
  if (!disk_.is_fenced(dead)) simulation_.fail("a log is replayed before its lease is fenced");
  const auto found = disk_.peek_register(lock::view_register);
  auto view = lock::decode_view(found->value);
  const lock::LeaseRecord* record = view->find(dead);
  if (record == nullptr || record->state != lock::LeaseState::recovering || record->slot != slot) {
    simulation_.fail("a log is replayed that the view does not give to anybody");
  }
  Task<void> replaying = sleep_for(server_node_.world(), random_.between(1ms, 300ms));
  co_await replaying;
  if (recovery_fails_ || random_.chance(recovery_failures_, 100)) {
    co_return fail(Errc::io, "the log cannot be read");
  }
  frozen_.erase(dead);
  recovered_.insert(dead);
  ++recoveries_;
  co_return Status{};
}

// ---- The clients ----

void ServiceWorld::crash_client(int index) { client(index).crash(); }
void ServiceWorld::start_client(int index) { client(index).start(); }

void ServiceWorld::start_workers() { working_ = true; }

std::uint64_t ServiceWorld::operations(int index) const {
  return machines_.at(static_cast<std::size_t>(index))->operations_;
}

void ServiceWorld::demand_progress(std::uint64_t more, Duration within) {
  std::vector<std::uint64_t> goals;
  for (int i = 0; i < clients(); ++i) goals.push_back(operations(i) + more);
  auto done = [&] {
    for (int i = 0; i < clients(); ++i) {
      if (operations(i) < goals[static_cast<std::size_t>(i)]) return false;
    }
    return true;
  };
  if (!simulation_.run_until(done, within)) {
    for (int i = 0; i < clients(); ++i) {
      const auto status = client(i).clerk().status();
      std::fprintf(stderr, "client %d: joined %d lost %d suspended %d, %llu of %llu\n", i,
                   client(i).joined(), status.lost, status.suspended,
                   static_cast<unsigned long long>(operations(i)),
                   static_cast<unsigned long long>(goals[static_cast<std::size_t>(i)]));
    }
    simulation_.fail("not everybody makes progress although the faults have ended");
  }
}

// No other client that may believe in it has a conflicting pin, and no dead one's lock is touched
// before its log was replayed.
void ServiceWorld::check_pin(const Machine& machine, LockName name, Mode mode) {
  if (!machine.clerk_->usable()) return;
  for (const auto& other : machines_) {
    if (other.get() == &machine || !other->clerk_ || !other->joined_) continue;
    if (other->node_.paused() || !other->clerk_->usable()) continue;
    auto pins = other->pins_.find(name);
    if (pins == other->pins_.end()) continue;
    for (Mode held : pins->second) {
      if (lock::compatible(held, mode)) continue;
      simulation_.fail(absl::StrCat("clients ", machine.index_, " and ", other->index_,
                                    " both hold ", to_string(name)));
    }
  }
  for (const auto& [lease, locks] : frozen_) {
    auto found = locks.find(name);
    if (found == locks.end() || lock::compatible(found->second, mode)) continue;
    if (lease == machine.clerk_->membership().lease) continue;
    simulation_.fail(absl::StrCat("client ", machine.index_, " holds ", to_string(name),
                                  " of lease ", raw(lease), " before its log was replayed"));
  }
}

Machine::Machine(ServiceWorld& world, int index)
    : world_(world),
      index_(index),
      node_(world.simulation_.add_node(absl::StrCat("client", index))) {}

Machine::~Machine() = default;

void Machine::start() {
  if (!node_.alive()) node_.start();
  transport_ = std::make_unique<sim::SimTransport>(world_.network_, node_);
  const net::PeerId server = transport_->connect("server");
  clerk::ClerkOptions options;
  options.label = node_.name();
  clerk_ = std::make_unique<clerk::Clerk>(node_.world(), *transport_, server, options);
  clerk_->set_handler(this);
  scope_ = std::make_unique<TaskScope>();
  node_.deliver(node_.life(), [this] {
    scope_->spawn(join(this));
    for (int i = 0; i < world_.options_.workers; ++i) scope_->spawn(work(this));
  });
}

void Machine::crash() {
  // Unless its log has been replayed already, and it does not know that it is over.
  if (joined_ && !world_.recovered_.contains(clerk_->membership().lease)) {
    auto& frozen = world_.frozen_[clerk_->membership().lease];
    for (std::uint64_t i = 0; i < world_.options_.locks; ++i) {
      for (auto lock_class : {lock::LockClass::inode, lock::LockClass::open}) {
        const LockName name{lock_class, i};
        if (clerk_->held(name) != Mode::none) frozen[name] = clerk_->held(name);
      }
    }
  }
  node_.crash();
  pins_.clear();  // The frames that go now drop theirs.
  scope_.reset();
  clerk_.reset();
  transport_.reset();
  leaving_.clear();
  giving_up_.clear();
  joined_ = lost_ = false;
}

Task<void> Machine::join(Machine* self) {
  while (!self->joined_) {
    Task<Result<clerk::Membership>> joining = self->clerk_->join(3s);
    Result<clerk::Membership> membership = co_await joining;
    self->joined_ = membership.has_value();
  }
}

Task<void> Machine::work(Machine* self) {
  sim::RandomStream& random = self->world_.random_;
  for (;;) {
    Task<void> pause = sleep_for(self->node_.world(), random.between(10us, 30ms));
    co_await pause;
    if (!self->world_.working_ || !self->joined_ || self->lost_) continue;
    const std::uint64_t locks = self->world_.options_.locks;
    LockName first{lock::LockClass::inode, random.below(locks)};
    LockName second{lock::LockClass::inode, random.below(locks)};
    if (second < first) std::swap(first, second);
    const Mode mode = random.chance(1, 2) ? Mode::shared : Mode::exclusive;
    Task<void> operation = operate(self, first, second, mode);
    co_await operation;
  }
}

// Takes one or two locks in order, holds them a while, drops them.
Task<void> Machine::operate(Machine* self, LockName first, LockName second, Mode mode) {
  sim::RandomStream& random = self->world_.random_;
  std::vector<clerk::Pin> pins;
  std::vector<LockName> names{first};
  if (second != first && random.chance(1, 3)) names.push_back(second);
  bool refused = false;
  for (LockName name : names) {
    const bool is_try = random.chance(1, 10);
    Task<Result<clerk::Pin>> taking =
        is_try ? self->clerk_->try_acquire(name, mode) : self->clerk_->acquire(name, mode);
    Result<clerk::Pin> pin = co_await taking;
    if (!pin && pin.error().code == Errc::lost) co_return;
    if (!pin && (pin.error().code != Errc::again || !is_try)) {
      self->world_.simulation_.fail(pin.error().message());
    }
    refused = !pin.has_value();
    if (refused) break;
    auto leaving = self->giving_up_.find(name);
    if (leaving != self->giving_up_.end() && !lock::covers(leaving->second, mode)) {
      self->world_.simulation_.fail("a pin was given while the lock is given up");
    }
    self->pins_[name].insert(mode);
    pins.push_back(std::move(*pin));
    self->world_.check_pin(*self, name, mode);
  }
  Task<void> holding = sleep_for(self->node_.world(), random.between(1us, 5ms));
  if (!pins.empty()) co_await holding;
  for (clerk::Pin& pin : pins) {
    self->world_.check_pin(*self, pin.name(), mode);
    auto& held = self->pins_[pin.name()];
    held.erase(held.find(mode));
    pin.drop();
  }
  if (!refused) ++self->operations_;
}

void Machine::revoke_begins(LockName name, Mode keep) {
  if (!leaving_.emplace(name, keep).second) world_.simulation_.fail("a revoke began twice");
}

Task<void> Machine::give_up(LockName name, Mode keep) {
  for (Mode mode : pins_[name]) {
    if (!lock::covers(keep, mode)) world_.simulation_.fail("given up while pinned");
  }
  giving_up_[name] = keep;
  Task<void> writing = sleep_for(node_.world(), world_.random_.between(1us, 3ms));
  co_await writing;
  for (Mode mode : pins_[name]) {
    if (!lock::covers(keep, mode)) world_.simulation_.fail("pinned while it is given up");
  }
  giving_up_.erase(name);
  if (clerk_->held(name) <= keep && !lost_) world_.simulation_.fail("gone before it was given up");
}

void Machine::revoke_ended(LockName name, Mode keep) {
  auto at = leaving_.find(name);
  if (at == leaving_.end() || at->second != keep) {
    world_.simulation_.fail("a revoke ended that had not begun");
  }
  leaving_.erase(at);
}

Task<void> Machine::suspended(TimePoint deadline) {
  ++suspensions_;
  // A machine that was stopped may come too late, nobody else.
  (void)deadline;
  co_return;
}

void Machine::lost(std::string_view) { lost_ = true; }

}  // namespace plumeria::lock_test
