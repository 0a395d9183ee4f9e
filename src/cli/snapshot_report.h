// What a daemon and the command `snapshot` say to each other, in JSON.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "base/result.h"
#include "mount/mount.h"

namespace plumeria::cli {

nlohmann::json report_made(const mount::SnapshotMade& made, const std::string& name);
// The error that an answer tells, if it does.
Status error_in(const nlohmann::json& answer);

// The answers of a mount that holds its store.
Task<nlohmann::json> answer_create(mount::Mount& mount, nlohmann::json question);
Task<nlohmann::json> answer_delete(mount::Mount& mount, nlohmann::json question);

}  // namespace plumeria::cli
