// plumeria status DIR|STORE|HOST:PORT
#include <absl/strings/str_cat.h>

#include <cstdio>
#include <memory>

#include "cli/admin.h"
#include "cli/command.h"
#include "cli/report.h"
#include "cli/runtime.h"
#include "cli/store.h"

namespace plumeria::cli {
namespace {

struct Arguments {
  std::string target;
  bool json = false;
};

constexpr Duration patience = 5s;

// A store that nobody serves or mounts on this machine: what it says itself.
Result<nlohmann::json> look_at_store(const std::string& path) {
  Runtime runtime;
  TRY(const OpenStore store, open_store(runtime, path, /*read_only=*/true));
  return nlohmann::json{{"what", absl::StrCat("store ", path, ", not in use")},
                        {"store", report(*store.disk, store.superblock)}};
}

Result<nlohmann::json> find_out(const std::string& text) {
  TRY(const Target target, resolve(text));
  if (target.is_address) {
    auto answer = ask(target.text, "status", patience);
    if (!answer) return fail(with_hint(answer.error(), target));
    return answer;
  }
  const bool is_mount = is_mounted(target.text);
  auto answer = ask(is_mount ? admin_address_of_mount(target.text) : admin_address(target.text),
                    "status", patience);
  if (answer || answer.error().code != Errc::unavailable) return answer;
  if (!is_mount) {
    const std::string above = mount_point_above(target.text);
    if (!above.empty()) {
      return fail(Errc::invalid,
                  absl::StrCat(target.text, " is a part of what is mounted at ", above));
    }
  } else {
    return fail(Errc::unavailable,
                absl::StrCat(target.text, ": its daemon ",
                             is_dead_mount(target.text) ? "has died" : "does not answer"));
  }
  return look_at_store(target.text);
}

Exit run(const Arguments& arguments) {
  const auto found = find_out(arguments.target);
  if (!found) return complain(found.error());
  const std::string text = arguments.json ? found->dump(2) + "\n" : to_text(*found);
  std::fputs(text.c_str(), stdout);
  return Exit::ok;
}

}  // namespace

void add_status(CLI::App& app, Exit& exit) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* command = app.add_subcommand(
      "status", "Show leases, locks, log and cache of a mount, a server or a store");
  command->footer(
      absl::StrCat("A mount point and a store that is in use are answered by the daemon of this "
                   "machine; a store\n"
                   "that is not in use is described from what it says itself. plumeria-status(1) "
                   "explains every\n"
                   "member.\n"
                   "  plumeria status /mnt\n"
                   "  plumeria status 192.0.2.1:7411 --json\n",
                   exit_codes()));
  command->add_option("TARGET", arguments->target, "mount point, store, or HOST:PORT")
      ->required()
      ->check(not_empty())
      ->type_name("");
  command->add_flag("--json", arguments->json, "as JSON, for programs");
  command->callback([arguments, &exit] { exit = run(*arguments); });
}

}  // namespace plumeria::cli
