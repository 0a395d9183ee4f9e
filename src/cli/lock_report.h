// What `locks` and `who` print, from the lock server to the text. Pure functions.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "lockd/server.h"

namespace plumeria::cli {

// {"locks": [{table, name, holders: [{lease, label, mode, held_ms, fence, asked}], waiters:
// [{lease, label, mode, waits_ms}]}], "left_off": n}: at most about `size_max` bytes of it. Bytes
// that are no UTF-8 are replaced when it is sent.
nlohmann::json locks_to_json(const std::vector<lockd::ProgramLock>& locks, std::size_t size_max);
// Without those of other tables; all if `table` is empty.
nlohmann::json of_table(nlohmann::json report, const std::string& table);
std::string locks_to_text(const nlohmann::json& report);
// Who holds it, who waits in which order, and what the holders wait for, and so on.
std::string chain_to_text(const nlohmann::json& report, const std::string& table,
                          const std::string& name);

}  // namespace plumeria::cli
