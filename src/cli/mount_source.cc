#include "cli/mount_source.h"

#include <absl/strings/str_cat.h>

#include <utility>

#include "cli/report.h"
#include "cli/store.h"
#include "disk/remote_disk.h"
#include "net/loopback.h"
#include "serve/server.h"

namespace plumeria::cli {
namespace {

class EmbeddedSource final : public MountSource {
 public:
  EmbeddedSource(Runtime& runtime, OpenStore store)
      : store_(std::move(store)),
        loopback_(runtime.executor),
        server_(runtime.world(), *store_.disk, loopback_.server(), options(store_)) {}

  Task<Status> start(Duration) override {
    CO_TRY_STATUS(co_await server_.start());
    lock_server_ = loopback_.client().connect("this process");
    co_return Status{};
  }
  // The store is closed cleanly only if everything before went well: else the next start replays.
  Task<Status> stop() override {
    CO_TRY_STATUS(co_await server_.stop());
    co_return co_await store_.disk->close();
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
  static serve::ServerOptions options(const OpenStore& store) {
    serve::ServerOptions options;
    options.log_size = store.superblock.log_size;
    options.lease_duration = std::chrono::milliseconds(store.superblock.lease_milliseconds);
    options.in_process = true;
    return options;
  }

  OpenStore store_;
  net::Loopback loopback_;
  serve::Server server_;
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

}  // namespace

Result<std::unique_ptr<MountSource>> make_source(Runtime& runtime, os::AsioTransport& transport,
                                                 const Target& target) {
  if (target.is_address) {
    return std::make_unique<RemoteSource>(runtime, transport, target.text);
  }
  TRY(OpenStore store, open_store(runtime, target.text, /*read_only=*/false));
  return std::make_unique<EmbeddedSource>(runtime, std::move(store));
}

}  // namespace plumeria::cli
