// plumeria-fake-mounts DIR... [--latency-us N] [--fault NAME]: mounts one file system in memory at
// each of the folders, for tests of the kernel protocol. Says "ready" when it is mounted, ends when
// all are unmounted or at SIGTERM.
#include <signal.h>
#include <sys/resource.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "base/fault.h"
#include "fuse/session.h"
#include "tests/stress/fake_fs.h"

namespace plumeria {
namespace {

#ifdef PLUMERIA_PLANTED_FAULTS
Fault fault_named(const std::string& name) {
  const std::pair<const char*, Fault> all[] = {
      {"pages_under_shared_with_writer", Fault::fuse_pages_under_shared_with_writer},
      {"parked_request_blocks_revoke", Fault::fuse_parked_request_blocks_revoke},
      {"no_repeat", Fault::fuse_no_repeat},
      {"expire_entry_instead_of_epoch", Fault::fuse_expire_entry_instead_of_epoch},
      {"attributes_uncovered", Fault::fuse_attributes_uncovered},
      {"append_not_invalidated", Fault::fuse_append_not_invalidated},
      {"write_range_not_invalidated", Fault::fuse_write_range_not_invalidated},
      {"size_told_once", Fault::fuse_size_told_once},
      {"read_overtakes_write", Fault::fuse_read_overtakes_write},
      {"kernel_invalidation_left_out", Fault::kernel_invalidation_left_out},
  };
  for (const auto& [known, fault] : all) {
    if (name == known) return fault;
  }
  std::fprintf(stderr, "unknown fault %s\n", name.c_str());
  std::exit(2);
}
#endif

struct FakeMount {
  std::unique_ptr<fuse::Session> session;
  std::unique_ptr<fake::FakeFs> operations;
};

void print(const fuse::Session& session) {
  const fuse::SessionStatistics s = session.statistics();
  std::printf(
      "connection %u: requests %lu, drops %lu in %lu rounds, blocked %lu, answered %lu, own ranges "
      "%lu, epochs %lu, unknown %lu, unsure reads %lu, longest drop %ld us\n",
      session.connection(), s.requests, s.cache.drops, s.cache.rounds, s.cache.blocked,
      s.cache.answered, s.cache.own_ranges, s.cache.epochs, s.cache.unknown_retries,
      s.cache.unsure_reads,
      static_cast<long>(
          std::chrono::duration_cast<std::chrono::microseconds>(s.cache.longest_drop).count()));
}

int run(int argc, char** argv) {
  std::vector<std::string> folders;
  long latency = 0;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument == "--latency-us" && i + 1 < argc) {
      latency = std::atol(argv[++i]);
    } else if (argument == "--fault" && i + 1 < argc) {
      ++i;
#ifdef PLUMERIA_PLANTED_FAULTS
      plant(fault_named(argv[i]));
#else
      std::fprintf(stderr, "this build has no planted faults\n");
      return 2;
#endif
    } else {
      folders.push_back(argument);
    }
  }
  if (folders.empty()) {
    std::fprintf(stderr, "usage: plumeria-fake-mounts DIR... [--latency-us N] [--fault NAME]\n");
    return 2;
  }
  sigset_t ending;
  sigemptyset(&ending);
  sigaddset(&ending, SIGTERM);
  sigaddset(&ending, SIGINT);
  sigaddset(&ending, SIGUSR1);  // print what waits
  pthread_sigmask(SIG_BLOCK, &ending, nullptr);

  (void)::setpriority(PRIO_PROCESS, 0, -10);  // as the product's daemon (cli/launch.h)
  os::RealExecutor executor;
  os::RealRandom random;
  World world{executor, random, executor};
  fake::Store store(world, std::chrono::microseconds(latency));
  std::vector<FakeMount> mounts(folders.size());
  std::size_t left = mounts.size();
  for (std::size_t i = 0; i < mounts.size(); ++i) {
    fuse::SessionOptions options;
    options.mount_point.source = "fake";
    options.mount_point.directory = folders[i];
    auto session = fuse::Session::open(executor, options);
    if (!session) {
      std::fprintf(stderr, "%s\n", session.error().message().c_str());
      return 1;
    }
    mounts[i].session = std::move(*session);
    mounts[i].operations = std::make_unique<fake::FakeFs>(store, mounts[i].session->kernel_cache());
    mounts[i].session->start(*mounts[i].operations, [&left, &executor] {
      if (--left == 0) executor.stop();
    });
  }
  std::thread([ending, &executor, &mounts, &store] {
    int signal = 0;
    while (sigwait(&ending, &signal) == 0 && signal == SIGUSR1) {
      executor.post_from_any_thread([&mounts, &store] {
        for (const FakeMount& mount : mounts) {
          print(*mount.session);
          mount.operations->locks().print(stdout);
        }
        store.locks.print(stdout);
        std::fflush(stdout);
      });
    }
    executor.stop();
  }).detach();
  std::printf("ready");
  for (const FakeMount& mount : mounts) std::printf(" %u", mount.session->connection());
  std::printf("\n");
  std::fflush(stdout);
  executor.run();
  for (const FakeMount& mount : mounts) print(*mount.session);
  std::printf("revokes %lu\n", store.locks.revokes);
  std::fflush(stdout);
  for (FakeMount& mount : mounts) {
    if (left > 0) (void)mount.session->abort();
    mount.session.reset();
  }
  return 0;
}

}  // namespace
}  // namespace plumeria

int main(int argc, char** argv) { return plumeria::run(argc, argv); }
