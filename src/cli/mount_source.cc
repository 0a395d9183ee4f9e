#include "cli/mount_source.h"

#include <absl/strings/str_cat.h>

#include <optional>
#include <utility>

#include "cli/report.h"
#include "cli/store.h"
#include "disk/remote_disk.h"
#include "disk/snapshot_view.h"
#include "diskd/server.h"
#include "mount/snapshot.h"
#include "net/loopback.h"
#include "serve/server.h"

namespace plumeria::cli {
namespace {

serve::ServerOptions options_of_embedded(const format::Superblock& superblock) {
  serve::ServerOptions options;
  options.log_size = superblock.log_size;
  options.lease_duration = std::chrono::milliseconds(superblock.lease_milliseconds);
  options.in_process = true;
  return options;
}

class EmbeddedSource final : public MountSource {
 public:
  EmbeddedSource(Runtime& runtime, OpenStore store)
      : world_(runtime.world()),
        store_(std::move(store)),
        loopback_(runtime.executor),
        server_(runtime.world(), *store_.disk, loopback_.server(),
                options_of_embedded(store_.superblock)) {}

  Task<Status> start(Duration) override {
    CO_TRY_STATUS(co_await server_.start());
    lock_server_ = loopback_.client().connect("this process");
    co_return Status{};
  }
  // The store is closed cleanly only if everything before went well: else the next start replays.
  Task<Status> stop() override {
    if (snapshots_) co_await snapshots_->stop();
    CO_TRY_STATUS(co_await server_.stop());
    co_return co_await store_.disk->close();
  }

  void share_snapshots(net::Transport& transport) override {
    diskd::DiskServerOptions options;
    options.snapshots_only = true;
    snapshots_.emplace(world_, transport, *store_.disk, store_.disk->incarnation(), options);
  }
  void ending() override { store_.disk->ending(); }
  disk::VirtualDisk& disk() override { return *store_.disk; }
  net::Transport& transport() override { return loopback_.client(); }
  net::PeerId lock_server() override { return lock_server_; }
  void report_to(nlohmann::json& to) override {
    to["store"] = report(*store_.disk, store_.superblock);
    to["server"] = report(server_.status());
  }

 private:
  const World world_;
  OpenStore store_;
  net::Loopback loopback_;
  serve::Server server_;
  std::optional<diskd::DiskServer> snapshots_;
  net::PeerId lock_server_{};
};

class RemoteSource final : public MountSource {
 public:
  RemoteSource(Runtime& runtime, os::AsioTransport& transport, std::string address)
      : transport_(transport),
        address_(std::move(address)),
        disk_(runtime.world(), transport, address_, {}) {}

  Task<Status> start(Duration patience) override {
    CO_TRY_STATUS(co_await disk_.wait_until_connected(patience));
    lock_server_ = transport_.connect(address_);
    co_return Status{};
  }
  void ending() override {}
  Task<Status> stop() override { co_return Status{}; }

  disk::VirtualDisk& disk() override { return disk_; }
  net::Transport& transport() override { return transport_; }
  net::PeerId lock_server() override { return lock_server_; }
  void report_to(nlohmann::json& to) override {
    const disk::RemoteDisk::Counters counters = disk_.counters();
    to["disk"] = report(counters);
    to["connection"] =
        absl::StrCat(address_, counters.connected ? ", connected" : ", not connected",
                     counters.connected ? "" : ": ", transport_.last_error(lock_server_));
  }

 private:
  os::AsioTransport& transport_;
  const std::string address_;
  disk::RemoteDisk disk_;
  net::PeerId lock_server_{};
};

// A snapshot is started like a store after a power cut, in a view that keeps its own changes.
class SnapshotSource final : public MountSource {
 public:
  SnapshotSource(Runtime& runtime, std::unique_ptr<disk::VirtualDisk> below,
                 disk::RemoteDisk* remote, std::string name)
      : world_(runtime.world()),
        below_(std::move(below)),
        remote_(remote),
        name_(std::move(name)),
        loopback_(runtime.executor) {}

  Task<Status> start(Duration patience) override {
    if (remote_ != nullptr) CO_TRY_STATUS(co_await remote_->wait_until_connected(patience));
    CO_TRY(snapshot_, co_await mount::find_snapshot(*below_, name_));
    view_.emplace(*below_, snapshot_.id);
    CO_TRY(const format::Superblock superblock, co_await read_superblock(*view_));
    server_.emplace(world_, *view_, loopback_.server(), options_of_embedded(superblock));
    CO_TRY_STATUS(co_await server_->start());
    lock_server_ = loopback_.client().connect("this process");
    co_return Status{};
  }
  Task<Status> stop() override { co_return co_await server_->stop(); }
  void ending() override {}

  disk::VirtualDisk& disk() override { return *view_; }
  net::Transport& transport() override { return loopback_.client(); }
  net::PeerId lock_server() override { return lock_server_; }
  void report_to(nlohmann::json& to) override {
    to["snapshot"] = {{"id", static_cast<std::uint64_t>(snapshot_.id)}, {"name", name_}};
    if (remote_ != nullptr) to["disk"] = report(remote_->counters());
  }

 private:
  const World world_;
  const std::unique_ptr<disk::VirtualDisk> below_;
  disk::RemoteDisk* const remote_;  // `below_`, if it is one
  const std::string name_;
  disk::Snapshot snapshot_;
  std::optional<disk::SnapshotView> view_;
  net::Loopback loopback_;
  std::optional<serve::Server> server_;
  net::PeerId lock_server_{};
};

}  // namespace

Result<std::unique_ptr<MountSource>> make_snapshot_source(Runtime& runtime,
                                                          os::AsioTransport& transport,
                                                          const SnapshotPlace& place,
                                                          std::string name) {
  if (place.kind == SnapshotPlace::Kind::unused_store) {
    TRY(OpenStore store, open_store(runtime, place.text, /*read_only=*/true));
    return std::make_unique<SnapshotSource>(runtime, std::move(store.disk), nullptr,
                                            std::move(name));
  }
  disk::RemoteDisk::Options options;
  auto remote =
      std::make_unique<disk::RemoteDisk>(runtime.world(), transport, place.address, options);
  disk::RemoteDisk* const known = remote.get();
  return std::make_unique<SnapshotSource>(runtime, std::move(remote), known, std::move(name));
}

Result<std::unique_ptr<MountSource>> make_source(Runtime& runtime, os::AsioTransport& transport,
                                                 const Target& target) {
  if (target.is_address) {
    return std::make_unique<RemoteSource>(runtime, transport, target.text);
  }
  TRY(OpenStore store, open_store(runtime, target.text, /*read_only=*/false));
  return std::make_unique<EmbeddedSource>(runtime, std::move(store));
}

}  // namespace plumeria::cli
