#include "check/entry_checker.h"

#include <absl/strings/escaping.h>
#include <absl/strings/str_cat.h>

#include <utility>
#include <vector>

namespace plumeria::check {

bool is_possible_name(std::string_view name) {
  return !name.empty() && name != "." && name != ".." && name.find('/') == name.npos &&
         name.find('\0') == name.npos;
}

Task<Status> EntryChecker::check(DirectoryPlace directory) {
  directory_ = directory.number;
  entries_ = 0;
  DirectoryWalk walk(reader_, *this);
  CO_TRY_STATUS(co_await walk.walk(directory));
  census_.count_entries(directory_, entries_);
  co_return Status{};
}

void EntryChecker::list(ListPlace place, ByteView area) {
  const std::string where = to_string(place, directory_);
  const std::vector<format::EntryView> entries = format::sorted_entries(area);
  for (std::size_t i = 0; i < entries.size(); ++i) {
    const format::EntryView& entry = entries[i];
    check_entry(where, entry);
    if (entry.cookie < place.low || entry.cookie >= place.high) {
      findings_.problem(
          absl::StrCat(where, " has cookie ", entry.cookie, " outside of its part of the index"));
    }
    if (i > 0 && entries[i - 1].cookie == entry.cookie) {
      findings_.problem(absl::StrCat(where, " has cookie ", entry.cookie, " twice"));
    }
    for (std::size_t j = i; j-- > 0;) {
      if (entries[j].cookie / format::cookie_collisions !=
          entry.cookie / format::cookie_collisions) {
        break;
      }
      if (entries[j].name == entry.name) {
        findings_.problem(absl::StrCat(where, " has the name \"",
                                       absl::CEscape(std::string(entry.name)), "\" twice"));
      }
    }
    census_.use_entry(directory_, entry);
  }
  entries_ += entries.size();
}

void EntryChecker::check_entry(const std::string& where, const format::EntryView& entry) {
  const std::string name(entry.name);
  if (!is_possible_name(name)) {
    findings_.problem(
        absl::StrCat(where, " has the impossible name \"", absl::CEscape(name), "\""));
  }
  const std::uint64_t base = format::cookie_base(entry.name, hash_seed_);
  if (entry.cookie < base || entry.cookie >= base + format::cookie_collisions) {
    findings_.problem(
        absl::StrCat(where, " has a wrong cookie for the name \"", absl::CEscape(name), "\""));
  }
}

}  // namespace plumeria::check
