// What `plumeria bench` has measured: as JSON for programs, as a table for people.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "os/bench/directory_bench.h"

namespace plumeria::cli {

// The members are documented in plumeria-bench(1).
nlohmann::json bench_report(const os::BenchPlan& plan, const std::vector<os::Figure>& figures);
std::string bench_table(const os::BenchPlan& plan, const std::vector<os::Figure>& figures);

}  // namespace plumeria::cli
