// The contract of the virtual disk, kept over a real store, the disk server and real sockets: what
// a mount of `plumeria serve` has for its disk.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <string>

#include "disk/contract_test.h"
#include "disk/remote_disk.h"
#include "diskd/server.h"
#include "os/asio_transport.h"
#include "os/host_store.h"
#include "os/real_world.h"

namespace plumeria::cli {
namespace {

// A directory, its server and one client, connected over TCP on loopback. Both ends share one
// thread, as nothing in either waits for the other but through its socket.
class ServedHarness final : public disk::ContractHarness {
 public:
  // `cut_every`: the connection breaks again and again; zero: never.
  explicit ServedHarness(Duration cut_every) : cut_every_(cut_every) {
    std::string pattern = testing::TempDir() + "plumeria-served-XXXXXX";
    folder_ = ::mkdtemp(pattern.data());
    store_ = *os::HostStore::create(executor_, pool_, folder_ + "/store", {});
    server_.emplace(World{executor_, random_, executor_}, server_transport_, *store_,
                    store_->incarnation(), diskd::DiskServerOptions{});
    server_transport_.on_connection(net::Channel::lock, [this](net::PeerId peer, bool connected) {
      if (connected) client_ = peer;
    });
    const std::string address = *server_transport_.listen("127.0.0.1:0");
    remote_.emplace(World{executor_, random_, executor_}, client_transport_, address,
                    disk::RemoteDisk::Options{});
    if (cut_every_ > Duration{}) cut();
  }
  ~ServedHarness() override {
    executor_.run_until_done(remote_->stop());
    executor_.run_until_done(server_->stop());
    remote_.reset();
    server_.reset();
    std::filesystem::remove_all(folder_);
  }

  disk::VirtualDisk& disk() override { return *remote_; }
  disk::VirtualDisk& owner() override { return *store_; }
  Executor& executor() override { return executor_; }
  void run(Task<void> task) override { executor_.run_until_done(std::move(task)); }

 private:
  void cut() {
    executor_.at(executor_.now() + cut_every_, [this] {
      server_transport_.disconnect(client_, "cut by the test");
      cut();
    });
  }

  const Duration cut_every_;
  std::string folder_;
  os::RealExecutor executor_;
  os::RealRandom random_;
  std::unique_ptr<os::HostStore> store_;
  os::ThreadPool pool_{executor_, 3};
  os::AsioTransport server_transport_{executor_, random_, {}};
  os::AsioTransport client_transport_{executor_, random_, {.retry_min = 1ms, .retry_max = 2ms}};
  net::PeerId client_{};
  std::optional<diskd::DiskServer> server_;
  std::optional<disk::RemoteDisk> remote_;
};

}  // namespace
}  // namespace plumeria::cli

namespace plumeria::disk {
INSTANTIATE_TEST_SUITE_P(
    Served, DiskContract,
    testing::Values(
        ContractCase{"served", [] { return std::make_unique<cli::ServedHarness>(0ms); }},
        // Longer than the longest transfer takes under a sanitizer: a shorter one never gets
        // through.
        ContractCase{"interrupted", [] { return std::make_unique<cli::ServedHarness>(300ms); }}),
    contract_case_name);
}  // namespace plumeria::disk
