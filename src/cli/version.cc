// plumeria version
#include <cstdio>

#include "cli/command.h"
#include "format/superblock.h"
#include "net/transport.h"

namespace plumeria::cli {

void add_version(CLI::App& app, Exit& exit) {
  app.add_subcommand("version", "Print the versions of program, format and protocol")
      ->callback([&exit] {
        std::printf("plumeria %s, store format %u, protocol %u\n", PLUMERIA_VERSION,
                    format::format_version, net::protocol_version);
        exit = Exit::ok;
      });
}

}  // namespace plumeria::cli
