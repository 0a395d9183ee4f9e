// plumeria: one program, one command for each thing to do.
#include <csignal>
#include <exception>

#include "cli/command.h"

namespace {

constexpr const char* footer = R"(Each command explains itself: plumeria COMMAND --help.

Try it on one machine:
  plumeria mkfs ./store
  plumeria mount ./store /mnt            # everything in one process
  plumeria umount /mnt
Share it:
  plumeria serve ./store                 # listens on 127.0.0.1:7411
  plumeria mount 127.0.0.1:7411 /mnt/a
  plumeria mount 127.0.0.1:7411 /mnt/b

)";

}  // namespace

int main(int argc, char** argv) {
  using namespace plumeria::cli;
  std::signal(SIGPIPE, SIG_IGN);
  CLI::App app("Plumeria: a POSIX file system that several machines mount at once", "plumeria");
  app.footer(footer + exit_codes());
  Exit exit = Exit::ok;
  add_mkfs(app, exit);
  add_mount(app, exit);
  add_umount(app, exit);
  add_serve(app, exit);
  add_status(app, exit);
  add_fsck(app, exit);
  add_version(app, exit);
  try {
    app.parse(argc, argv);
    if (app.get_subcommands().empty()) throw CLI::RequiredError("a command");
  } catch (const CLI::Success& asked) {  // --help
    return app.exit(asked);
  } catch (const CLI::ParseError& wrong) {
    complain(wrong.what());
    complain("see plumeria --help, or plumeria COMMAND --help");
    return static_cast<int>(Exit::usage);
  } catch (const std::exception& error) {  // Out of memory and the like, thrown by libraries.
    complain(error.what());
    return static_cast<int>(Exit::failed);
  }
  return static_cast<int>(exit);
}
