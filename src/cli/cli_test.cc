// The parts of the program that need neither a kernel nor a second process.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include "cli/admin.h"
#include "cli/report.h"
#include "cli/runtime.h"
#include "lock/view.h"

namespace plumeria::cli {
namespace {

using testing::HasSubstr;

class CliTest : public testing::Test {
 protected:
  CliTest() {
    std::string pattern = testing::TempDir() + "plumeria-cli-XXXXXX";
    folder = ::mkdtemp(pattern.data());
  }
  ~CliTest() override { std::filesystem::remove_all(folder); }

  std::string folder;
};

TEST_F(CliTest, AnExistingDirectoryIsAStoreAndTheRestAnAddress) {
  const auto store = resolve(folder);
  ASSERT_TRUE(store);
  EXPECT_FALSE(store->is_address);
  EXPECT_EQ(store->text, std::filesystem::canonical(folder));

  for (const char* address :
       {"127.0.0.1:7411", "host:1", "localhost", "[::1]:7411", "unix:/run/x.sock"}) {
    const auto target = resolve(address);
    ASSERT_TRUE(target) << address;
    EXPECT_TRUE(target->is_address);
    EXPECT_EQ(target->text, address);
  }
  const auto unknown = resolve("host.invalid");
  ASSERT_FALSE(unknown);
  EXPECT_THAT(unknown.error().message(),
              HasSubstr("cannot find host host.invalid, and there is no directory"));
  for (const std::string& wrong : {folder + "/missing", std::string("./missing")}) {
    const auto target = resolve(wrong);
    ASSERT_FALSE(target);
    EXPECT_THAT(target.error().message(), HasSubstr("mkfs makes a store"));
  }
}

TEST_F(CliTest, AFileIsNoDirectory) {
  std::ofstream(folder + "/file") << "x";
  const auto path = directory_path(folder + "/file");
  ASSERT_FALSE(path);
  EXPECT_EQ(path.error().code, Errc::not_directory);
}

TEST_F(CliTest, EveryReportCanBeReadByPeople) {
  serve::ServerStatus server;
  server.last_replay_error = "log 3: damaged";
  server.locks.leases.push_back({.state = "live", .label = "host:/mnt"});
  server.locks.leases.push_back({.state = "live", .label = "host:7 sh", .slot = lock::no_slot});
  nlohmann::json whole{{"what", "a test"}, {"pid", 1}, {"connection", "host:1, connected"}};
  whole["mount"] = report(mount::MountStatus{});
  whole["server"] = report(server);
  whole["disk"] = report(disk::RemoteDisk::Counters{});
  const std::string text = to_text(whole);
  for (const char* word :
       {"a test", "host:1", "live", "host:/mnt", "program      host:7 sh: lease 0 live, 0 locks",
        "log 3: damaged", "epoch"}) {
    EXPECT_THAT(text, HasSubstr(word));
  }
}

// A daemon with an admin server, on a thread of its own.
class Daemon {
 public:
  explicit Daemon(const std::string& address) : transport(executor, random, {}) {
    const auto listening = transport.listen(address);
    if (!listening) throw std::runtime_error(listening.error().message());
    thread = std::thread([this] { executor.run(); });
  }
  ~Daemon() {
    executor.stop();
    thread.join();
  }

  os::RealExecutor executor;
  os::RealRandom random;
  os::AsioTransport transport;
  AdminServer admin{transport, [] { return nlohmann::json{{"what", "daemon"}}; }};
  TaskScope tasks;
  std::thread thread;
};

TEST_F(CliTest, ADaemonAnswersOnItsSocket) {
  const std::string address = "unix:" + folder + "/admin.sock";
  Daemon daemon(address);
  const auto status = ask(address, "status", 10s);
  ASSERT_TRUE(status) << status.error().message();
  EXPECT_EQ((*status)["what"], "daemon");
}

TEST_F(CliTest, WhoAsksForTheEndIsToldHowItWas) {
  const std::string address = "unix:" + folder + "/admin.sock";
  Daemon daemon(address);
  const auto end = ask(address, "end", 10s, [&](const nlohmann::json& answer) {
    if (!answer.contains("waiting")) return false;
    daemon.executor.post_from_any_thread([&] {
      const World world{daemon.executor, daemon.random, daemon.executor};
      daemon.tasks.spawn(daemon.admin.ended(world, fail(Errc::io, "block 7 was not written")));
    });
    return true;
  });
  ASSERT_TRUE(end) << end.error().message();
  EXPECT_THAT((*end)["error"].get<std::string>(), HasSubstr("block 7"));
}

TEST_F(CliTest, NonsenseEndsTheConnection) {
  const std::string address = "unix:" + folder + "/admin.sock";
  Daemon daemon(address);
  const auto answer = ask(address, "dance", 10s);
  ASSERT_FALSE(answer);
  EXPECT_EQ(answer.error().code, Errc::unavailable);
}

TEST_F(CliTest, NobodyAtASocketIsFoundAtOnce) {
  const auto answer = ask("unix:" + folder + "/nobody.sock", "status", 3600s);
  ASSERT_FALSE(answer);
  EXPECT_EQ(answer.error().code, Errc::unavailable);
}

}  // namespace
}  // namespace plumeria::cli
