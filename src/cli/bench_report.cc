#include "cli/bench_report.h"

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>

namespace plumeria::cli {
namespace {

// 1234567 as 1,234,567; with digits behind the point where there are few before it.
std::string rate_text(double rate) {
  if (rate < 100) return absl::StrFormat("%.1f", rate);
  std::string digits = absl::StrFormat("%.0f", rate);
  for (std::size_t at = digits.size(); at > 3; at -= 3) digits.insert(at - 3, 1, ',');
  return digits;
}

std::string time_text(double microseconds) {
  if (microseconds < 10'000) {
    return absl::StrFormat(microseconds < 100 ? "%.1f us" : "%.0f us", microseconds);
  }
  return microseconds < 10e6 ? absl::StrFormat("%.1f ms", microseconds / 1e3)
                             : absl::StrFormat("%.1f s", microseconds / 1e6);
}

}  // namespace

nlohmann::json bench_report(const os::BenchPlan& plan, const std::vector<os::Figure>& figures) {
  nlohmann::json list = nlohmann::json::array();
  for (const os::Figure& figure : figures) {
    list.push_back({{"group", figure.group},
                    {"name", figure.name},
                    {"unit", absl::StrCat(figure.unit, "/s")},
                    {"rate", figure.rate},
                    {"calls", figure.calls},
                    {"seconds", figure.seconds},
                    {"median_us", figure.median_us},
                    {"p99_us", figure.p99_us},
                    {"max_us", figure.max_us}});
  }
  return {{"directory", plan.directory},
          {"threads", plan.threads},
          {"files", plan.files},
          {"size", plan.size},
          {"figures", list}};
}

std::string bench_table(const os::BenchPlan& plan, const std::vector<os::Figure>& figures) {
  std::string text =
      absl::StrFormat("%s: %d thread%s, %d files, large files of %d MiB\n", plan.directory,
                      plan.threads, plan.threads == 1 ? "" : "s", plan.files, plan.size >> 20);
  std::string group;
  for (const os::Figure& figure : figures) {
    if (figure.group != group) {
      absl::StrAppendFormat(&text, "\n%-22s %12s %-12s %10s %10s %10s\n", figure.group, "rate", "",
                            "median", "99 %", "slowest");
      group = figure.group;
    }
    absl::StrAppendFormat(&text, "  %-20s %12s %-12s %10s %10s %10s\n", figure.name,
                          rate_text(figure.rate), absl::StrCat(figure.unit, "/s"),
                          time_text(figure.median_us), time_text(figure.p99_us),
                          time_text(figure.max_us));
  }
  return text;
}

}  // namespace plumeria::cli
