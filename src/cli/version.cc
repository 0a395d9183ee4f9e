// plumeria version
#include <cstdio>

#include "cli/command.h"
#include "format/superblock.h"
#include "net/transport.h"

namespace plumeria::cli {

void add_version(CLI::App& app, Exit& exit) {
  CLI::App* command =
      app.add_subcommand("version", "Print the versions of program, format and protocol");
  command->footer(
      "A server and its mounts must speak the same protocol, and a store be of this format.");
  command->callback([&exit] {
    std::printf("plumeria %s, store format %u, protocol %u\n", PLUMERIA_VERSION,
                format::format_version, net::protocol_version);
    exit = Exit::ok;
  });
}

}  // namespace plumeria::cli
