// plumeria fsck [--repair] STORE
#include <absl/strings/str_cat.h>
#include <unistd.h>

#include <cstdio>
#include <memory>

#include "check/check.h"
#include "check/repair.h"
#include "cli/command.h"
#include "cli/runtime.h"
#include "cli/store.h"

namespace plumeria::cli {
namespace {

struct Arguments {
  std::string store;
  std::size_t findings_max = 200;
  bool repair = false;
};

constexpr Duration progress_interval = 250ms;

// Shows on a terminal how far it is, in one line that is written over and goes before any other.
class Progress final : public check::Observer {
 public:
  explicit Progress(const Clock& clock) : clock_(clock), is_shown_(::isatty(STDERR_FILENO) == 1) {}
  ~Progress() override { clear(); }

  void progress(std::string_view phase, std::uint64_t done) override {
    if (!is_shown_ || clock_.now() < next_) return;
    next_ = clock_.now() + progress_interval;
    std::fprintf(stderr, "\r%.*s: %llu\033[K", static_cast<int>(phase.size()), phase.data(),
                 static_cast<unsigned long long>(done));
    is_on_screen_ = true;
  }
  bool wants_end() override { return wants_end_; }
  void end() { wants_end_ = true; }
  void clear() {
    if (is_on_screen_) std::fputs("\r\033[K", stderr);
    is_on_screen_ = false;
  }

 private:
  const Clock& clock_;
  const bool is_shown_;
  TimePoint next_{};
  bool is_on_screen_ = false, wants_end_ = false;
};

void print_findings(const char* kind, const std::vector<std::string>& findings,
                    std::uint64_t count) {
  for (const std::string& finding : findings) std::printf("%s: %s\n", kind, finding.c_str());
  if (count > findings.size()) {
    std::printf("%s: … and %llu more\n", kind,
                static_cast<unsigned long long>(count - findings.size()));
  }
}

std::string summary(const check::Report& report) {
  return absl::StrCat(report.files, " files, ", report.directories, " directories, ",
                      report.symlinks, " symbolic links, ", report.others, " others; ",
                      report.orphans, " deleted but not reclaimed; ", report.logs,
                      " logs with records, which change ", report.replayed_blocks, " blocks");
}

// Checks, and prints what is found.
Result<check::Report> check_and_print(Runtime& runtime, const Arguments& arguments,
                                      os::HostStore& disk, Progress& progress) {
  check::Options options;
  options.findings_max = arguments.findings_max;
  options.observer = &progress;
  auto report = runtime.executor.run_until_done(check::run(runtime.world(), disk, options));
  progress.clear();
  if (!report) return report;
  if (const std::string& half = disk.half_damaged(); !half.empty()) {
    std::printf("torn or damaged: %s: one of its two values; the other one serves\n", half.c_str());
  }
  print_findings("damaged", report->problems, report->problem_count);
  print_findings("unused", report->leaks, report->leak_count);
  std::printf("%s\n", summary(*report).c_str());
  return report;
}

std::string verdict(const check::Report& report) {
  return report.is_clean() ? "clean" : absl::StrCat(report.problem_count, " damaged");
}

Exit run_check(Runtime& runtime, const Arguments& arguments, const std::string& path) {
  auto store = open_store(runtime, path, /*read_only=*/true);
  if (!store) return complain(store.error());
  Progress progress(runtime.executor);
  // Nothing is being changed, so it can end anywhere.
  runtime.on_signal([&progress](int) {
    progress.clear();
    std::fflush(stdout);
    complain("stopped");
    ::_exit(static_cast<int>(Exit::failed));
  });
  const auto report = check_and_print(runtime, arguments, *store->disk, progress);
  if (!report) return complain(report.error());
  std::printf("%s: %s\n", path.c_str(), verdict(*report).c_str());
  return report->is_clean() ? Exit::ok : Exit::damaged;
}

Exit complain_of_repair(const Error& error, const std::string& path) {
  switch (error.code) {
    case Errc::interrupted:
      complain(
          absl::StrCat("stopped; what was repaired so far is in the store, which can only be "
                       "mounted safely when this has come to its end: plumeria fsck --repair ",
                       path));
      return Exit::failed;
    case Errc::corrupt:
      complain(absl::StrCat(path, ": ", error.message(),
                            ": this cannot be repaired; restore the store from a backup"));
      return Exit::damaged;
    default:
      return complain(error);
  }
}

Exit run_repair(Runtime& runtime, const Arguments& arguments, const std::string& path) {
  auto disk = os::HostStore::open(runtime.executor, runtime.pool, path, {});
  if (!disk) return complain(disk.error());
  Progress progress(runtime.executor);
  // Each line is out before what it tells is written, whoever reads it, and whatever happens.
  std::setvbuf(stdout, nullptr, _IOLBF, BUFSIZ);
  runtime.on_signal([&progress](int) { progress.end(); });
  check::RepairOptions options;
  options.observer = &progress;
  options.tell = [&progress](std::string_view line) {
    progress.clear();
    std::printf("%.*s\n", static_cast<int>(line.size()), line.data());
  };
  const auto repaired =
      runtime.executor.run_until_done(check::repair(runtime.world(), **disk, std::move(options)));
  progress.clear();
  std::fflush(stdout);
  if (!repaired) return complain_of_repair(repaired.error(), path);

  const auto report = check_and_print(runtime, arguments, **disk, progress);
  if (!report) return complain(report.error());
  const Status closed = runtime.executor.run_until_done((*disk)->close());
  if (!closed) return complain(closed.error());
  const auto number = [](std::uint64_t value) { return static_cast<unsigned long long>(value); };
  std::printf("%llu repaired, %llu lost, %llu put into lost+found\n%s: %s\n",
              number(repaired->repairs), number(repaired->losses), number(repaired->found),
              path.c_str(), verdict(*report).c_str());
  if (!report->is_clean()) return Exit::damaged;
  return repaired->has_changed() ? Exit::repaired : Exit::ok;
}

Exit run(const Arguments& arguments) {
  auto path = directory_path(arguments.store);
  if (!path) return complain(path.error());
  Runtime runtime;
  return arguments.repair ? run_repair(runtime, arguments, *path)
                          : run_check(runtime, arguments, *path);
}

}  // namespace

void add_fsck(CLI::App& app, Exit& exit) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* command = app.add_subcommand(
      "fsck", "Check a store that nobody uses, exit code 4 if it is damaged; or repair it");
  command->footer(
      "Every finding is one line: \"damaged: …\" names the block or inode; \"unused: …\" is space\n"
      "that belongs to nobody, which a crash may leave and which does no harm; \"torn or damaged: "
      "…\"\n"
      "is a value of which there is another one. Logs that were not replayed are taken into "
      "account.\n"
      "With --repair: \"repaired: …\" was put right, \"lost: …\" is missing now. Exit code 6 if "
      "anything\n"
      "was changed and the store is whole again. Copy the store first: what is lost is gone.\n" +
      exit_codes());
  command->add_option("STORE", arguments->store, "the directory that mkfs made")
      ->required()
      ->check(not_empty())
      ->type_name("");
  command->add_flag("--repair", arguments->repair,
                    "make it a store that can be mounted, without what cannot be read");
  command->add_option("--findings", arguments->findings_max, "how many lines of each kind to print")
      ->type_name("NUMBER")
      ->capture_default_str();
  command->callback([arguments, &exit] { exit = run(*arguments); });
}

}  // namespace plumeria::cli
