// Where the locks of programs are: what lock, locks and who have in common.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "base/result.h"

namespace plumeria::cli {

constexpr std::string_view default_table = "default";

// Adds --store and --table.
void add_lock_options(CLI::App& command, std::string& store, std::string& table);
// The address named, or else that of PLUMERIA_STORE. Errc::invalid.
Result<std::string> lock_store(const std::string& named);

}  // namespace plumeria::cli
