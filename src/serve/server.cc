#include "serve/server.h"

#include <absl/strings/str_cat.h>

#include <optional>
#include <utility>
#include <vector>

#include "base/async.h"
#include "base/bytes.h"
#include "base/log.h"
#include "base/number.h"
#include "diskd/server.h"
#include "lock/server_end.h"

namespace plumeria::serve {
namespace {

using lock::ServerEnd;

Result<ServerEnd> decode_end(const disk::Register& record) {
  if (record.version == 0) return ServerEnd::closed;  // A new store.
  return lock::decode_server_end(record.value);
}

std::string summary(const recovery::ReplayReport& report) {
  return absl::StrCat("replayed ", report.logs, " logs, ", report.records, " records, ",
                      report.blocks_written, " blocks written in ",
                      std::chrono::duration_cast<std::chrono::milliseconds>(report.took).count(),
                      " ms");
}

}  // namespace

struct Server::State : lockd::Recoverer {
  State(World w, disk::VirtualDisk& d, net::Transport& t, ServerOptions o)
      : world(w),
        disk(d),
        transport(t),
        options(o),
        lock_server(w, t, d, *this,
                    {.lease_duration = o.lease_duration, .in_process = o.in_process}),
        replaying(w.executor) {}

  Task<Status> start();
  Task<Status> stop();
  Task<Result<recovery::ReplayReport>> replay_at_start();
  Task<Status> mark(ServerEnd end);
  Task<Status> recover(lock::LeaseNumber dead, std::uint32_t slot) override;

  World world;
  disk::VirtualDisk& disk;
  net::Transport& transport;
  const ServerOptions options;
  lockd::LockServer lock_server;
  std::optional<diskd::DiskServer> disk_server;
  Mutex replaying;  // One replay after the other: each may fill the memory with a whole log.
  std::uint64_t end_version = 0;
  ServerStatus counters;  // `locks` and `disk` stay empty here.
};

Task<Status> Server::State::mark(ServerEnd end) {
  Bytes value = lock::encode_server_end(end);
  CO_TRY(end_version, co_await disk.write_register(lock::server_end_register, end_version,
                                                   std::move(value), lock_server.own_lease()));
  co_return Status{};
}

Task<Result<recovery::ReplayReport>> Server::State::replay_at_start() {
  recovery::ReplayOptions replay{.log_size = options.log_size, .lease = lock_server.own_lease()};
  replay.trim = lock_server.slots_of_the_dead();
  replay.all_logs = !counters.was_clean;
  std::vector<std::uint32_t> slots = replay.trim;
  if (replay.all_logs) slots = lock_server.slots_in_use();
  if (slots.empty()) co_return recovery::ReplayReport{};
  log_info(absl::StrCat(counters.was_clean ? "the last server stopped cleanly"
                                           : "the last server did not stop cleanly",
                        "; replaying ", slots.size(), " logs"));
  co_return co_await recovery::replay(world, disk, std::move(slots), std::move(replay));
}

Task<Status> Server::State::start() {
  CO_TRY_STATUS(co_await lock_server.prepare());
  CO_TRY(const disk::Register record, co_await disk.read_register(lock::server_end_register));
  CO_TRY(const ServerEnd last_end, decode_end(record));
  counters.was_clean = last_end == ServerEnd::closed;
  end_version = record.version;
  CO_TRY_STATUS(co_await mark(ServerEnd::open));

  std::vector<std::uint32_t> dead = lock_server.slots_of_the_dead();
  CO_TRY(counters.first, co_await replay_at_start());
  if (counters.first.logs > 0) log_info(summary(counters.first));
  if (!dead.empty()) CO_TRY_STATUS(co_await lock_server.mark_recovered(std::move(dead)));

  if (!options.in_process) {
    disk_server.emplace(world, transport, disk, options.incarnation, diskd::DiskServerOptions{});
  }
  lock_server.serve();
  co_return Status{};
}

Task<Status> Server::State::stop() {
  // The order is that of the promises: once the disk server is gone nothing new is acknowledged,
  // the flush covers all that was, and only then is the end a clean one.
  if (disk_server) co_await disk_server->stop();
  CO_TRY_STATUS(co_await disk.flush());
  CO_TRY_STATUS(co_await mark(ServerEnd::closed));
  co_return co_await lock_server.stop();
}

Task<Status> Server::State::recover(lock::LeaseNumber dead, std::uint32_t slot) {
  auto guard = co_await replaying.lock();
  recovery::ReplayOptions replay{.log_size = options.log_size, .lease = lock_server.own_lease()};
  replay.trim = {slot};
  std::vector<std::uint32_t> slots = {slot};
  auto report = co_await recovery::replay(world, disk, std::move(slots), std::move(replay));
  if (!report) {
    ++counters.replay_errors;
    counters.last_replay_error = report.error().message();
    log_error(absl::StrCat("log ", slot, " of lease ", raw(dead),
                           " cannot be replayed: ", counters.last_replay_error,
                           "; what this mount had locked stays locked until it can"));
    co_return fail(std::move(report).error());
  }
  ++counters.replays;
  counters.last = *report;
  log_info(absl::StrCat("lease ", raw(dead), ", slot ", slot, ": ", summary(*report)));
  co_return Status{};
}

Server::Server(World world, disk::VirtualDisk& disk, net::Transport& transport,
               ServerOptions options)
    : state_(std::make_unique<State>(world, disk, transport, options)) {}
Server::~Server() = default;

Task<Status> Server::start() { return state_->start(); }
Task<Status> Server::stop() { return state_->stop(); }

ServerStatus Server::status() const {
  ServerStatus status = state_->counters;
  status.locks = state_->lock_server.status();
  if (state_->disk_server) status.disk = state_->disk_server->status();
  return status;
}

lockd::LockServer& Server::locks() { return state_->lock_server; }

}  // namespace plumeria::serve
