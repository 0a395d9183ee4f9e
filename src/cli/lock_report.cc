#include "cli/lock_report.h"

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>

#include <set>
#include <utility>

#include "base/number.h"
#include "lock/name.h"

namespace plumeria::cli {
namespace {

using Json = nlohmann::json;

constexpr std::size_t bytes_per_party = 200;  // of its JSON, about

std::int64_t milliseconds(Duration duration) {
  return std::chrono::duration_cast<std::chrono::milliseconds>(duration).count();
}

Json holder_to_json(const lockd::ProgramParty& party) {
  Json one = {{"lease", raw(party.lease)},
              {"label", party.label},
              {"mode", lock::mode_name(party.mode)},
              {"asked", party.is_asked}};
  if (party.fence != 0) {  // A holder of a server before this one: neither is known.
    one["fence"] = party.fence;
    one["held_ms"] = milliseconds(party.since);
  }
  return one;
}

Json waiter_to_json(const lockd::ProgramParty& party) {
  return {{"lease", raw(party.lease)},
          {"label", party.label},
          {"mode", lock::mode_name(party.mode)},
          {"waits_ms", milliseconds(party.since)}};
}

// Of somebody else, so nothing about it is certain.
std::string text_of(const Json& of, const char* member) {
  auto at = of.find(member);
  if (at == of.end()) return "";
  return at->is_string() ? at->get<std::string>() : at->dump();
}
// For a terminal: what somebody else has chosen must not control it.
std::string visible(const std::string& text) {
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x20 && byte != 0x7f) {
      out += c;
    } else {
      absl::StrAppendFormat(&out, "\\x%02x", byte);
    }
  }
  return out;
}
std::string name_of(const Json& lock) {
  return absl::StrCat(visible(text_of(lock, "table")), "/", visible(text_of(lock, "name")));
}
const Json& list_of(const Json& of, const char* member) {
  static const Json empty = Json::array();
  auto at = of.find(member);
  return at != of.end() && at->is_array() ? *at : empty;
}

std::string duration_text(const Json& of, const char* member) {
  auto at = of.find(member);
  if (at == of.end() || !at->is_number()) return "for longer than this server runs";
  return absl::StrFormat("for %.1f s", static_cast<double>(at->get<std::int64_t>()) / 1000);
}

std::string party_text(const Json& party, const char* does, const char* since) {
  std::string text =
      absl::StrCat(does, " ", text_of(party, "mode"), " ", duration_text(party, since), ": ",
                   visible(text_of(party, "label")), " (lease ", text_of(party, "lease"));
  if (party.contains("fence")) absl::StrAppend(&text, ", fence ", text_of(party, "fence"));
  return absl::StrCat(text, ")");
}

void append_lock(std::string& text, const Json& lock, const std::string& indent) {
  absl::StrAppend(&text, indent, name_of(lock), "\n");
  for (const Json& holder : list_of(lock, "holders")) {
    absl::StrAppend(&text, indent, "  ", party_text(holder, "held", "held_ms"),
                    text_of(holder, "asked") == "true" ? ", asked to give it up" : "", "\n");
  }
  for (const Json& waiter : list_of(lock, "waiters")) {
    absl::StrAppend(&text, indent, "  ", party_text(waiter, "waits", "waits_ms"), "\n");
  }
}

void append_left_off(std::string& text, const Json& report) {
  const std::string left_off = text_of(report, "left_off");
  if (!left_off.empty() && left_off != "0") {
    absl::StrAppend(&text, "and ", left_off, " more\n");
  }
}

// The locks that this lease waits for.
std::vector<const Json*> waited_for(const Json& report, const std::string& lease) {
  std::vector<const Json*> found;
  for (const Json& lock : list_of(report, "locks")) {
    for (const Json& waiter : list_of(lock, "waiters")) {
      if (text_of(waiter, "lease") == lease) found.push_back(&lock);
    }
  }
  return found;
}

void append_chain(std::string& text, const Json& report, const Json& lock,
                  const std::string& indent, std::set<const Json*>& seen) {
  if (!seen.insert(&lock).second) {
    absl::StrAppend(&text, indent, name_of(lock), ": see above\n");
    return;
  }
  append_lock(text, lock, indent);
  for (const Json& holder : list_of(lock, "holders")) {
    const std::string lease = text_of(holder, "lease");
    for (const Json* next : waited_for(report, lease)) {
      absl::StrAppend(&text, indent, "  lease ", lease, " waits itself for\n");
      append_chain(text, report, *next, indent + "    ", seen);
    }
  }
}

}  // namespace

Json locks_to_json(const std::vector<lockd::ProgramLock>& locks, std::size_t size_max) {
  Json all = Json::array();
  std::size_t size = 0, left_off = 0;
  for (const lockd::ProgramLock& lock : locks) {
    size += 6 * (lock.name.table.size() + lock.name.name.size()) +
            bytes_per_party * (1 + lock.holders.size() + lock.waiters.size());
    if (size > size_max) {
      ++left_off;
      continue;
    }
    Json holders = Json::array(), waiters = Json::array();
    for (const auto& party : lock.holders) holders.push_back(holder_to_json(party));
    for (const auto& party : lock.waiters) waiters.push_back(waiter_to_json(party));
    all.push_back({{"table", lock.name.table},
                   {"name", lock.name.name},
                   {"holders", std::move(holders)},
                   {"waiters", std::move(waiters)}});
  }
  return {{"locks", std::move(all)}, {"left_off", left_off}};
}

Json of_table(Json report, const std::string& table) {
  if (table.empty() || !report.is_object()) return report;
  Json chosen = Json::array();
  for (const Json& lock : list_of(report, "locks")) {
    if (text_of(lock, "table") == table) chosen.push_back(lock);
  }
  report["locks"] = std::move(chosen);
  return report;
}

std::string locks_to_text(const Json& report) {
  std::string text;
  for (const Json& lock : list_of(report, "locks")) append_lock(text, lock, "");
  append_left_off(text, report);
  return text;
}

std::string chain_to_text(const Json& report, const std::string& table, const std::string& name) {
  std::string text;
  std::set<const Json*> seen;
  for (const Json& lock : list_of(report, "locks")) {
    if (text_of(lock, "table") != table || text_of(lock, "name") != name) continue;
    append_chain(text, report, lock, "", seen);
  }
  if (text.empty()) {
    text = absl::StrCat(table, "/", name, ": nobody holds it, nobody waits for it\n");
    append_left_off(text, report);
  }
  return text;
}

}  // namespace plumeria::cli
