#include "cli/snapshot_report.h"

#include <chrono>
#include <utility>

namespace plumeria::cli {

namespace {

double milliseconds(Duration time) {
  return std::chrono::duration<double, std::milli>(time).count();
}

nlohmann::json report_error(const Error& error) {
  return {{"error", error.what}, {"code", static_cast<int>(error.code)}};
}

std::string name_in(const nlohmann::json& question) {
  const auto name = question.find("name");
  return name != question.end() && name->is_string() ? name->get<std::string>() : "";
}

}  // namespace

nlohmann::json report_made(const mount::SnapshotMade& made, const std::string& name) {
  return {{"name", name},
          {"id", static_cast<std::uint64_t>(made.id)},
          {"prepared_ms", milliseconds(made.prepared)},
          {"paused_ms", milliseconds(made.paused)}};
}

Status error_in(const nlohmann::json& answer) {
  if (!answer.contains("error")) return {};
  return fail(static_cast<Errc>(answer.value("code", static_cast<int>(Errc::io))),
              answer.value("error", ""));
}

Task<nlohmann::json> answer_create(mount::Mount& mount, nlohmann::json question) {
  const std::string name = name_in(question);
  const auto made = co_await mount.create_snapshot(name);
  co_return made ? report_made(*made, name) : report_error(made.error());
}

Task<nlohmann::json> answer_delete(mount::Mount& mount, nlohmann::json question) {
  const Status removed = co_await mount.delete_snapshot(name_in(question));
  co_return removed ? nlohmann::json::object() : report_error(removed.error());
}

}  // namespace plumeria::cli
