// plumeria version
#include <absl/strings/str_cat.h>

#include <cstdio>

#include "cli/command.h"
#include "format/superblock.h"
#include "net/transport.h"

namespace plumeria::cli {

std::string version() {
  return absl::StrCat("plumeria ", PLUMERIA_VERSION, ", store format ", format::format_version,
                      ", protocol ", net::protocol_version);
}

void add_version(CLI::App& app, Exit& exit) {
  CLI::App* command =
      app.add_subcommand("version", "Print the versions of program, format and protocol");
  command->footer(
      "A server and its mounts must speak the same protocol, and a store be of this format.");
  command->callback([&exit] {
    std::printf("%s\n", version().c_str());
    exit = Exit::ok;
  });
}

}  // namespace plumeria::cli
