#include "cli/report.h"

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>

#include "base/number.h"
#include "lock/view.h"

namespace plumeria::cli {
namespace {

using nlohmann::json;

std::int64_t milliseconds(Duration duration) {
  return std::chrono::duration_cast<std::chrono::milliseconds>(duration).count();
}

json replay_report(const recovery::ReplayReport& replay) {
  return {{"logs", replay.logs},
          {"records", replay.records},
          {"changes", replay.changes},
          {"blocks_written", replay.blocks_written},
          {"bytes_read", replay.bytes_read},
          {"took_ms", milliseconds(replay.took)}};
}

json lease_report(const lockd::LeaseStatus& lease) {
  json report = {{"lease", raw(lease.lease)},
                 {"state", lease.state},
                 {"label", lease.label},
                 {"locks", lease.locks},
                 {"left_ms", milliseconds(lease.left)}};
  if (lease.slot != lock::no_slot) report["slot"] = lease.slot;  // Programs have no log.
  return report;
}

std::string size(const json& bytes) {
  double value = bytes.get<double>();
  const char* units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  std::size_t unit = 0;
  for (; value >= 1024 && unit + 1 < std::size(units); ++unit) value /= 1024;
  return absl::StrFormat(unit == 0 ? "%.0f %s" : "%.1f %s", value, units[unit]);
}
std::uint64_t number(const json& value) { return value.get<std::uint64_t>(); }
std::string seconds(const json& milliseconds) {
  return absl::StrFormat("%.1f s", milliseconds.get<double>() / 1000);
}
void line(std::string& text, const char* name, const std::string& value) {
  absl::StrAppendFormat(&text, "%-12s %s\n", name, value);
}

void mount_text(std::string& text, const json& mount) {
  const json &lease = mount["lease"], &locks = mount["locks"], &log = mount["log"];
  const json &cache = mount["cache"], &files = mount["files"];
  line(text, "lease",
       absl::StrCat(number(lease["number"]), ", ", lease["state"].get<std::string>(), ", slot ",
                    number(lease["slot"]), ", ", seconds(lease["left_ms"]), " of ",
                    seconds(lease["duration_ms"]), " left"));
  line(text, "locks",
       absl::StrCat(number(locks["shared"]), " shared, ", number(locks["exclusive"]),
                    " exclusive; asked for ", number(locks["requests"]), ", had already ",
                    number(locks["local_hits"]), "; revoked ", number(locks["revokes"]),
                    ", downgraded ", number(locks["downgrades"])));
  line(text, "log",
       absl::StrCat(size(log["used"]), " of ", size(log["size"]), " used, ", number(log["records"]),
                    " records, ", number(log["syncs"]), " syncs"));
  line(text, "cache",
       absl::StrCat(size(cache["used"]), " of ", size(cache["size"]),
                    " used; dirty: ", size(cache["dirty_data"]), " of data, ",
                    number(cache["dirty_blocks"]), " blocks"));
  line(text, "files",
       absl::StrCat(number(files["open"]), " open, ", number(files["lost"]), " lost with a lease"));
  line(text, "fence",
       absl::StrCat(number(mount["refused_writes"]), " writes refused, ", number(mount["rejoins"]),
                    " leases lost"));
}

void server_text(std::string& text, const json& server) {
  line(text, "locks",
       absl::StrCat(number(server["locks"]), " held, ", number(server["waiting"]), " waiting; ",
                    number(server["grants"]), " granted, ", number(server["revokes"]), " revoked"));
  line(text, "epoch",
       absl::StrCat(number(server["epoch"]),
                    server["rebuilding"].get<bool>() ? ", waiting for reports of mounts" : ""));
  line(text, "recovery",
       absl::StrCat(
           server["was_clean"].get<bool>() ? "last stop was clean" : "last stop was not clean",
           "; ", number(server["expired"]), " leases ended, ", number(server["recovered"]),
           " logs replayed"));
  if (!server["last_replay_error"].get<std::string>().empty()) {
    line(text, "ERROR", server["last_replay_error"]);
  }
  for (const json& lease : server["leases"]) {
    const bool has_slot = lease.contains("slot");
    line(text, has_slot ? "mount" : "program",
         absl::StrCat(lease["label"].get<std::string>(), ": lease ", number(lease["lease"]), " ",
                      lease["state"].get<std::string>(),
                      has_slot ? absl::StrCat(", slot ", number(lease["slot"])) : "", ", ",
                      number(lease["locks"]), " locks, ", seconds(lease["left_ms"]), " left"));
  }
}

void store_text(std::string& text, const json& store) {
  line(text, "store",
       absl::StrCat(store["path"].get<std::string>(), " \"", store["label"].get<std::string>(),
                    "\", log ", size(store["log_size"]), " a mount, lease ",
                    seconds(store["lease_ms"])));
  for (const json& late : store["late_changes"]) {
    line(text, "fence",
         absl::StrCat("lease ", number(late["lease"]), " is over: tried ", number(late["tried"]),
                      " changes since, ", number(late["refused"]), " refused"));
  }
}

}  // namespace

json report(const mount::MountStatus& status) {
  const clerk::ClerkStatus& clerk = status.clerk;
  const char* state = clerk.lost ? "lost" : clerk.suspended ? "suspended" : "live";
  return {
      {"label", status.label},
      {"store_label", status.store_label},
      {"lease",
       {{"number", raw(clerk.membership.lease)},
        {"slot", clerk.membership.slot},
        {"state", state},
        {"left_ms", milliseconds(clerk.lease_left)},
        {"duration_ms", milliseconds(clerk.membership.lease_duration)}}},
      {"locks",
       {{"shared", clerk.locks_shared},
        {"exclusive", clerk.locks_exclusive},
        {"requests", clerk.requests},
        {"local_hits", clerk.local_hits},
        {"revokes", clerk.revokes},
        {"downgrades", clerk.downgrades},
        {"messages_sent", clerk.messages_sent},
        {"messages_received", clerk.messages_received}}},
      {"log",
       {{"size", status.log.size},
        {"used", status.log.used},
        {"records", status.log.records},
        {"syncs", status.log.syncs},
        {"bytes_written", status.log.bytes_written}}},
      {"cache",
       {{"size", status.cache_size},
        {"used", status.cache_used},
        {"dirty_blocks", status.dirty_blocks},
        {"dirty_data", status.dirty_data}}},
      {"files", {{"open", status.open_files}, {"lost", status.lost_files}}},
      {"rejoins", status.rejoins},
      {"refused_writes", status.fenced_writes},
  };
}

json report(const serve::ServerStatus& status) {
  json leases = json::array();
  for (const lockd::LeaseStatus& lease : status.locks.leases) leases.push_back(lease_report(lease));
  return {
      {"epoch", status.locks.epoch},
      {"rebuilding", status.locks.rebuilding},
      {"leases", leases},
      {"locks", status.locks.locks},
      {"waiting", status.locks.waiting},
      {"grants", status.locks.grants},
      {"revokes", status.locks.revokes},
      {"expired", status.locks.expired},
      {"recovered", status.locks.recovered},
      {"was_clean", status.was_clean},
      {"first_replay", replay_report(status.first)},
      {"last_replay", replay_report(status.last)},
      {"replays", status.replays},
      {"replay_errors", status.replay_errors},
      {"last_replay_error", status.last_replay_error},
      {"disk",
       {{"sessions", status.disk.sessions},
        {"requests", status.disk.requests},
        {"repeated", status.disk.repeated},
        {"bytes_read", status.disk.bytes_read},
        {"bytes_written", status.disk.bytes_written}}},
  };
}

json report(const disk::RemoteDisk::Counters& counters) {
  return {{"connected", counters.connected},    {"incarnation", counters.incarnation},
          {"requests", counters.requests},      {"resent", counters.resent},
          {"restarts", counters.restarts},      {"unanswered", counters.unanswered},
          {"retained", counters.retained_bytes}};
}

json report(const os::HostStore& store, const format::Superblock& superblock) {
  json late = json::array();
  for (const auto& [lease, changes] : store.late_changes()) {
    late.push_back({{"lease", raw(lease)}, {"tried", changes.tried}, {"refused", changes.refused}});
  }
  return {{"path", store.path()},
          {"label", superblock.label},
          {"log_size", superblock.log_size},
          {"lease_ms", superblock.lease_milliseconds},
          {"incarnation", store.incarnation()},
          {"was_clean", store.was_clean()},
          {"late_changes", late}};
}

std::string to_text(const json& report) {
  std::string text;
  line(text, "what", report["what"].get<std::string>());
  if (report.contains("pid")) line(text, "process", absl::StrCat(number(report["pid"])));
  if (report.contains("mount")) mount_text(text, report["mount"]);
  if (report.contains("connection")) line(text, "connection", report["connection"]);
  if (report.contains("store")) store_text(text, report["store"]);
  if (report.contains("server")) server_text(text, report["server"]);
  return text;
}

}  // namespace plumeria::cli
