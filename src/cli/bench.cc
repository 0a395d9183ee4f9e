// plumeria bench DIR
#include <absl/strings/str_format.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <ctime>
#include <functional>
#include <memory>
#include <optional>

#include "cli/bench_report.h"
#include "cli/command.h"
#include "cli/runtime.h"
#include "os/bench/directory_bench.h"

namespace plumeria::cli {
namespace {

constexpr std::uint64_t quick_files = 400, quick_size = 16u << 20;
constexpr std::uint64_t threads_max = 1024, files_max = 100'000'000;
constexpr std::uint64_t size_min = 1u << 20, size_max = 1ull << 44;

struct Arguments {
  std::string directory;
  std::optional<std::uint64_t> files, size;
  std::uint64_t threads = 1;
  bool json = false, quick = false;
};

// Shows on the terminal how far it is, and ends it at the first signal; a second one then has its
// ordinary effect. Signals are blocked from its construction on, so that they are only asked for.
class Watch {
 public:
  Watch() : on_terminal_(::isatty(STDERR_FILENO) != 0) {
    sigemptyset(&signals_);
    for (const int signal : {SIGINT, SIGTERM, SIGHUP}) sigaddset(&signals_, signal);
    pthread_sigmask(SIG_BLOCK, &signals_, nullptr);
  }
  ~Watch() { clear(); }
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;

  bool operator()(const os::BenchProgress& progress) {
    if (on_terminal_) {
      const std::uint64_t all = std::max<std::uint64_t>(1, progress.all);
      const std::string line = absl::StrFormat("%s: %s, %d %%", progress.group, progress.name,
                                               progress.done * 100 / all);
      std::fprintf(stderr, "\r\033[K%s", line.c_str());
    }
    const timespec now{};
    if (ended_ || ::sigtimedwait(&signals_, nullptr, &now) < 0) return !ended_;
    ended_ = true;
    clear();
    complain("interrupted; removing what was made (once more to leave it)");
    pthread_sigmask(SIG_UNBLOCK, &signals_, nullptr);
    return false;
  }
  void clear() const {
    if (on_terminal_) std::fputs("\r\033[K", stderr);
  }

 private:
  const bool on_terminal_;
  sigset_t signals_;
  bool ended_ = false;
};

Exit run(const Arguments& arguments) {
  auto path = directory_path(arguments.directory);
  if (!path) return complain(path.error());
  os::BenchPlan plan;
  plan.directory = *path;
  plan.threads = arguments.threads;
  plan.files = arguments.files.value_or(arguments.quick ? quick_files : plan.files);
  plan.size = arguments.size.value_or(arguments.quick ? quick_size : plan.size);
  Watch watch;
  const auto figures = os::bench_directory(plan, std::ref(watch));
  watch.clear();
  if (!figures) return complain(figures.error());
  const std::string text =
      arguments.json ? bench_report(plan, *figures).dump(2) + "\n" : bench_table(plan, *figures);
  std::fputs(text.c_str(), stdout);
  return Exit::ok;
}

}  // namespace

void add_bench(CLI::App& app, Exit& exit) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* command = app.add_subcommand(
      "bench", "Measure a directory of any file system: metadata, small files, large files");
  command->footer(
      "Works in a folder of its own in DIR and removes it at the end, also after ^C. Caches are\n"
      "left as they are: what was written is read back warm.\n"
      "  plumeria bench /mnt --quick\n"
      "  plumeria bench /mnt --threads 4 --json\n" +
      exit_codes());
  command->add_option("DIR", arguments->directory, "an existing directory")
      ->required()
      ->check(not_empty())
      ->type_name("");
  command->add_option("--files", arguments->files, "number of small files (default: 4000)")
      ->check(CLI::Range(std::uint64_t{1}, files_max))
      ->type_name("N");
  command
      ->add_option("--size", arguments->size,
                   "size of the large files together, at least 1M (default: 256M)")
      ->transform(size_between(size_min, size_max, 1))
      ->type_name("BYTES");
  command
      ->add_option("--threads", arguments->threads,
                   "how many work at a time, each on files of its own")
      ->check(CLI::Range(std::uint64_t{1}, threads_max))
      ->type_name("N")
      ->capture_default_str();
  command->add_flag("--quick", arguments->quick, "400 files and 16M, for a first impression");
  command->add_flag("--json", arguments->json, "as JSON, for programs");
  command->callback([arguments, &exit] { exit = run(*arguments); });
}

}  // namespace plumeria::cli
