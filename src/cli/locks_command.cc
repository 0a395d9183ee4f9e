// plumeria locks HOST:PORT, plumeria who NAME
#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>

#include <cstdio>
#include <memory>
#include <set>

#include "cli/admin.h"
#include "cli/command.h"
#include "cli/lock_report.h"
#include "cli/lock_store.h"

namespace plumeria::cli {
namespace {

constexpr Duration patience = 5s;

Result<nlohmann::json> ask_for_locks(const std::string& store) {
  TRY(const std::string address, lock_store(store));
  return ask(address, "locks", patience);
}

struct ListArguments {
  std::string store, table;
  bool json = false;
};

Exit list(const ListArguments& arguments) {
  auto answer = ask_for_locks(arguments.store);
  if (!answer) return complain(answer.error());
  const nlohmann::json chosen = of_table(*answer, arguments.table);
  const std::string text = arguments.json ? chosen.dump(2) + "\n" : locks_to_text(chosen);
  std::fputs(text.c_str(), stdout);
  return Exit::ok;
}

struct WhoArguments {
  std::string store, table{default_table}, name;
};

Exit who(const WhoArguments& arguments) {
  auto answer = ask_for_locks(arguments.store);
  if (!answer) return complain(answer.error());
  std::fputs(chain_to_text(*answer, arguments.table, arguments.name).c_str(), stdout);
  return Exit::ok;
}

}  // namespace

void add_locks(CLI::App& app, Exit& exit) {
  auto arguments = std::make_shared<ListArguments>();
  CLI::App* command =
      app.add_subcommand("locks", "List the locks of programs: who holds, who waits, since when");
  command->footer(
      "Locks of `plumeria lock` that nobody holds or waits for do not exist.\n"
      "  plumeria locks 192.0.2.1:7411 --table jobs\n" +
      exit_codes());
  command
      ->add_option("STORE", arguments->store, "HOST:PORT of `plumeria serve` (or PLUMERIA_STORE)")
      ->type_name("");
  command->add_option("--table", arguments->table, "only of this table")->type_name("TABLE");
  command->add_flag("--json", arguments->json, "as JSON, for programs");
  command->callback([arguments, &exit] { exit = list(*arguments); });
}

void add_who(CLI::App& app, Exit& exit) {
  auto arguments = std::make_shared<WhoArguments>();
  CLI::App* command = app.add_subcommand("who", "Tell why one waits for a lock of programs");
  command->footer(
      "Who holds it, who waits in which order, and for what the holders wait themselves.\n"
      "  plumeria who nightly-backup --store 192.0.2.1:7411\n" +
      exit_codes());
  command->add_option("NAME", arguments->name, "of the lock")
      ->required()
      ->check(not_empty())
      ->type_name("");
  add_lock_options(*command, arguments->store, arguments->table);
  command->callback([arguments, &exit] { exit = who(*arguments); });
}

}  // namespace plumeria::cli
