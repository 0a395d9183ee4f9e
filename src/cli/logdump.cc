// plumeria logdump STORE
#include <absl/strings/str_cat.h>

#include <cstdio>
#include <memory>
#include <optional>

#include "cli/command.h"
#include "cli/log_dump.h"
#include "cli/runtime.h"
#include "cli/store.h"

namespace plumeria::cli {
namespace {

struct Arguments {
  std::string store, block;
  std::optional<std::uint32_t> slot;
  bool json = false, verbose = false;
};

Exit run(const Arguments& arguments) {
  auto path = directory_path(arguments.store);
  if (!path) return complain(path.error());
  Runtime runtime;
  auto store = open_store(runtime, *path, /*read_only=*/true);
  if (!store) return complain(store.error());
  LogDumpOptions options;
  options.store = *path;
  options.slot = arguments.slot;
  options.json = arguments.json;
  options.ranges = arguments.verbose;
  if (!arguments.block.empty()) options.block = *parse_block_filter(arguments.block);
  const auto report = runtime.executor.run_until_done(
      dump_logs(runtime.world(), *store->disk, store->superblock, std::move(options),
                [](std::string_view text) { std::fwrite(text.data(), 1, text.size(), stdout); }));
  if (!report) return complain(report.error());
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) {
    complain("the output could not be written");
    return Exit::failed;
  }
  if (report->damaged == 0) return Exit::ok;
  complain(absl::StrCat(*path, ": ", report->damaged, " damaged"));
  return Exit::damaged;
}

}  // namespace

void add_logdump(CLI::App& app, Exit& exit) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* command = app.add_subcommand(
      "logdump", "Print the logs of a store that nobody uses: their headers, chunks and records");
  command->footer(
      "Changes nothing. Each log tells how it ended: \"end\"; \"torn\", as a crash leaves it;\n"
      "\"damaged\", and then the exit code is 4; \"empty\", when its owner had everything in "
      "place.\n"
      "  plumeria logdump /srv/store --block inode:17 -v\n" +
      exit_codes());
  command->add_option("STORE", arguments->store, "the directory that mkfs made")
      ->required()
      ->check(not_empty())
      ->type_name("");
  command->add_option("--slot", arguments->slot, "only the log of this slot")->type_name("NUMBER");
  command
      ->add_option("--block", arguments->block,
                   "only what changes this block: inode:N, piece:N, directory:N or orphans:SLOT")
      ->check([](const std::string& text) {
        const auto filter = parse_block_filter(text);
        return filter ? std::string() : filter.error().what;
      })
      ->type_name("KIND:NUMBER");
  command->add_flag("-v,--verbose", arguments->verbose, "with the bytes that deltas replace");
  command->add_flag("--json", arguments->json, "as JSON, for programs");
  command->callback([arguments, &exit] { exit = run(*arguments); });
}

}  // namespace plumeria::cli
