// plumeria umount DIR
#include <absl/strings/str_cat.h>
#include <sys/mount.h>

#include <cerrno>
#include <cstring>
#include <memory>

#include "cli/admin.h"
#include "cli/command.h"
#include "cli/runtime.h"

namespace plumeria::cli {
namespace {

struct Arguments {
  std::string directory;
  bool lazy = false;
  double patience_seconds = 60;
};

Exit run(const Arguments& arguments) {
  auto path = directory_path(arguments.directory);
  if (!path) return complain(path.error());
  if (!is_mounted(*path)) {
    complain(absl::StrCat(*path, ": no Plumeria file system is mounted here"));
    return Exit::failed;
  }
  bool was_dead = false;
  const Duration patience =
      std::chrono::milliseconds(static_cast<std::int64_t>(arguments.patience_seconds * 1000));
  // The daemon is asked first, so that its end cannot be missed; if it does not answer there is
  // nothing to wait for.
  int error = -1;  // errno of the unmount, 0 for success
  const auto unmount = [&] {
    error = ::umount2(path->c_str(), arguments.lazy ? MNT_DETACH : 0) == 0 ? 0 : errno;
  };
  const auto ended =
      ask(admin_address_of_mount(*path), "end", patience, [&](const nlohmann::json& answer) {
        if (!answer.contains("waiting")) return false;
        unmount();
        return error == 0 && !arguments.lazy;
      });
  if (error == -1) {
    was_dead = is_dead_mount(*path);
    unmount();
  }
  if (error != 0) {
    complain(absl::StrCat(*path, ": ", std::strerror(error),
                          error == EBUSY ? " (files of it are open; --lazy detaches it now)" : ""));
    return error == EBUSY ? Exit::in_use : Exit::failed;
  }
  if (arguments.lazy) return Exit::ok;
  if (was_dead) {
    complain(absl::StrCat(
        *path, " is unmounted; its daemon had died, and with it what was not yet ", "written"));
    return Exit::ok;
  }
  if (!ended) {
    complain(absl::StrCat(*path, " is unmounted, but its daemon did not say that everything is ",
                          "written: ", ended.error().message()));
    return Exit::failed;
  }
  if (ended->contains("error")) {
    complain((*ended)["error"].get<std::string>());
    return Exit::failed;
  }
  return Exit::ok;
}

}  // namespace

void add_umount(CLI::App& app, Exit& exit) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* command =
      app.add_subcommand("umount", "Unmount, and wait until everything is written to the store");
  command->footer(
      "umount(8) does as well, but returns before the daemon has written everything back.\n"
      "A mount whose daemon has died is unmounted at once.\n" +
      exit_codes());
  command->add_option("DIR", arguments->directory, "the mount point")
      ->required()
      ->check(not_empty())
      ->type_name("");
  command->add_flag("-l,--lazy", arguments->lazy,
                    "detach now, even if files are open; the daemon ends after the last is closed");
  command
      ->add_option("--timeout", arguments->patience_seconds,
                   "how long to wait for the daemon to write everything back")
      ->check(seconds_between(0, 86400))
      ->type_name("SECONDS")
      ->capture_default_str();
  command->callback([arguments, &exit] { exit = run(*arguments); });
}

}  // namespace plumeria::cli
