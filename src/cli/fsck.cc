// plumeria fsck STORE
#include <absl/strings/str_cat.h>

#include <cstdio>
#include <memory>

#include "check/check.h"
#include "cli/command.h"
#include "cli/runtime.h"
#include "cli/store.h"

namespace plumeria::cli {
namespace {

struct Arguments {
  std::string store;
  std::size_t findings_max = 200;
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

Exit run(const Arguments& arguments) {
  auto path = directory_path(arguments.store);
  if (!path) return complain(path.error());
  Runtime runtime;
  auto store = open_store(runtime, *path, /*read_only=*/true);
  if (!store) return complain(store.error());
  check::Options options;
  options.findings_max = arguments.findings_max;
  const auto report =
      runtime.executor.run_until_done(check::run(runtime.world(), *store->disk, options));
  if (!report) return complain(report.error());
  if (const std::string& half = store->disk->half_damaged(); !half.empty()) {
    std::printf("torn or damaged: %s: one of its two values; the other one serves\n", half.c_str());
  }
  print_findings("damaged", report->problems, report->problem_count);
  print_findings("unused", report->leaks, report->leak_count);
  std::printf(
      "%s\n%s: %s\n", summary(*report).c_str(), path->c_str(),
      report->is_clean() ? "clean" : absl::StrCat(report->problem_count, " damaged").c_str());
  return report->is_clean() ? Exit::ok : Exit::damaged;
}

}  // namespace

void add_fsck(CLI::App& app, Exit& exit) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* command = app.add_subcommand(
      "fsck", "Check a store that nobody uses; changes nothing, exit code 4 if it is damaged");
  command->footer(
      "Every finding is one line: \"damaged: …\" names the block or inode; \"unused: …\" is space\n"
      "that belongs to nobody, which a crash may leave and which does no harm; \"torn or damaged: "
      "…\"\n"
      "is a value of which there is another one. Logs that were not replayed are taken into "
      "account.\n" +
      exit_codes());
  command->add_option("STORE", arguments->store, "the directory that mkfs made")
      ->required()
      ->check(not_empty())
      ->type_name("");
  command->add_option("--findings", arguments->findings_max, "how many lines of each kind to print")
      ->type_name("NUMBER")
      ->capture_default_str();
  command->callback([arguments, &exit] { exit = run(*arguments); });
}

}  // namespace plumeria::cli
