#include "cli/lock_store.h"

#include <absl/strings/str_cat.h>

#include <cstdlib>

#include "cli/command.h"
#include "os/asio_transport.h"

namespace plumeria::cli {

void add_lock_options(CLI::App& command, std::string& store, std::string& table) {
  command
      .add_option("--store", store,
                  "HOST:PORT of `plumeria serve` (default: the environment's PLUMERIA_STORE)")
      ->type_name("ADDRESS");
  command.add_option("--table", table, "which names these are")
      ->check(not_empty())
      ->type_name("TABLE")
      ->capture_default_str();
}

Result<std::string> lock_store(const std::string& named) {
  std::string address = named;
  const char* variable = std::getenv("PLUMERIA_STORE");
  if (address.empty() && variable != nullptr) address = variable;
  if (address.empty()) {
    return fail(Errc::invalid, "no store: give its HOST:PORT, or set PLUMERIA_STORE to it");
  }
  const Status is_address = os::check_address(address);
  if (!is_address) return fail(is_address.error());
  return address;
}

}  // namespace plumeria::cli
