// plumeria: one program, one command for each thing to do.
#include <csignal>
#include <exception>
#include <string>

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
  app.set_version_flag("--version", version(), "Print the versions and exit");
  Exit exit = Exit::ok;
  add_mkfs(app, exit);
  add_mount(app, exit);
  add_umount(app, exit);
  add_serve(app, exit);
  add_snapshot(app, exit);
  add_status(app, exit);
  add_lock(app, exit);
  add_locks(app, exit);
  add_who(app, exit);
  add_fsck(app, exit);
  add_logdump(app, exit);
  add_bench(app, exit);
  add_version(app, exit);
  try {
    app.parse(argc, argv);
    if (app.get_subcommands().empty()) throw CLI::RequiredError("a command");
  } catch (const CLI::Success& asked) {  // --help, --version
    return app.exit(asked);
  } catch (const CLI::ParseError& wrong) {
    const std::string command = argc > 1 ? argv[1] : "";
    bool is_known = false;
    for (const CLI::App* one : app.get_subcommands([](CLI::App*) { return true; })) {
      is_known = is_known || one->get_name() == command;
    }
    const bool is_word = !command.empty() && command[0] != '-';
    complain(is_word && !is_known ? "unknown command " + command : wrong.what());
    complain("see plumeria " + (is_known ? command + " --help" : "--help"));
    return static_cast<int>(Exit::usage);
  } catch (const std::exception& error) {  // Out of memory and the like, thrown by libraries.
    complain(error.what());
    return static_cast<int>(Exit::failed);
  }
  return static_cast<int>(exit);
}
