// plumeria-sim: runs simulated clusters from seeds, and replays the one that failed.
//
//   plumeria-sim --seed N                     one run
//   plumeria-sim --seeds A-B                  many, until the first failure
//   --workload files|names|tree               default: by the seed
//   --fault none|network|partition|…|all      default: by the seed
//   --trim-above P                            how full a log gets, in percent; default: by the seed
//   --plant NAME                              a planted fault (builds with PLUMERIA_PLANTED_FAULTS)
//   --twice                                   each seed twice; their traces must be equal
//   --trace                                   what happens, line by line
//   --quiet                                   only failures, and of many seeds the marks never
//   reached
//
// Exit code: 0 all is well, 1 a run failed (with its seed and how to repeat it), 2 wrong arguments.
#include <absl/strings/str_cat.h>
#include <absl/strings/str_split.h>
#include <malloc.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <vector>

#include "base/fault.h"
#include "base/log.h"
#include "base/rare.h"
#include "sim/run.h"

namespace plumeria::sim {
namespace {

struct Arguments {
  std::uint64_t first = 1, last = 1;
  std::string workload, fault, plant, trim_above;
  bool twice = false, trace = false, quiet = false, embedded = false;
  std::size_t mounts = 0;
};

// What a seed runs unless it was said.
RunOptions options_for(std::uint64_t seed, const Arguments& arguments) {
  RandomStream random(seed);
  RunOptions options;
  options.seed = seed;
  options.workload = workload_names()[random.below(workload_names().size())];
  const std::vector<Trouble> troubles = all_troubles();
  options.trouble = troubles[random.below(troubles.size())];
  options.embedded = random.chance(1, 10);
  options.mounts = arguments.mounts;
  if (!arguments.trim_above.empty()) {
    options.trim_log_above = std::strtod(arguments.trim_above.c_str(), nullptr) / 100;
  }
  if (!arguments.workload.empty()) options.workload = arguments.workload;
  if (!arguments.fault.empty()) options.trouble = *trouble_of(arguments.fault);
  if (arguments.embedded) options.embedded = true;
  if (arguments.mounts > 1) options.embedded = false;
  // Comparing call by call makes no sense where calls may be lost.
  const bool keeps_all = options.trouble == Trouble::none || options.trouble == Trouble::network ||
                         options.trouble == Trouble::calm || options.trouble == Trouble::restart ||
                         options.trouble == Trouble::power;
  if (options.workload == "tree" && (!keeps_all || options.trouble == Trouble::network)) {
    options.trouble = Trouble::calm;
  }
  if (options.workload == "tree" && options.embedded) options.trouble = Trouble::none;
  return options;
}

std::string hint_for(const RunOptions& options, const Arguments& arguments) {
  std::string hint =
      absl::StrCat("(commit ", PLUMERIA_COMMIT, "); repeat it: plumeria-sim --seed ", options.seed,
                   " --workload ", options.workload, " --fault ", trouble_name(options.trouble));
  if (options.embedded) hint += " --embedded";
  if (options.mounts != 0) absl::StrAppend(&hint, " --mounts ", options.mounts);
  if (!arguments.trim_above.empty()) {
    absl::StrAppend(&hint, " --trim-above ", arguments.trim_above);
  }
  if (!arguments.plant.empty()) absl::StrAppend(&hint, " --plant ", arguments.plant);
  return hint;
}

// A broken promise inside the code under test ends the program, and somebody's patience a run that
// spins within one event: say first how to repeat it.
void on_abort(int signal) {
  std::signal(signal, SIG_DFL);  // The second time it ends the program.
  std::fprintf(stderr, "plumeria-sim: aborted %s\n", replay_hint().c_str());
  std::fflush(stderr);
  std::raise(signal);
}

void drop_log(Severity, std::string_view) {}
void print_line(std::string_view line) {
  std::printf("%.*s\n", static_cast<int>(line.size()), line.data());
}
void print_log(Severity, std::string_view line) { print_line("    log: " + std::string(line)); }

struct Totals {
  std::uint64_t runs = 0, calls = 0, events = 0;
  std::map<std::string, std::uint64_t> marks;
};

RunReport run_once(const RunOptions& options, const Arguments& arguments) {
  set_replay_hint(hint_for(options, arguments));
  RunReport report = run(options);
  if (!report.failure.empty()) {
    std::fprintf(stderr, "plumeria-sim: seed %llu failed %s\n  %s\n",
                 static_cast<unsigned long long>(options.seed), replay_hint().c_str(),
                 report.failure.c_str());
  }
  return report;
}

bool run_seed(std::uint64_t seed, const Arguments& arguments, Totals& totals) {
  RunOptions options = options_for(seed, arguments);
  if (arguments.trace) options.trace = print_line;
  const RunReport report = run_once(options, arguments);
  ++totals.runs;
  totals.calls += report.calls;
  totals.events += report.events;
  for (const auto& [mark, times] : report.marks) totals.marks[mark] += times;
  if (!report.failure.empty()) return false;
  if (!arguments.quiet) {
    std::printf("seed %llu: %s under %s%s, %llu calls, %llu events, %.1f s, trace %016llx\n",
                static_cast<unsigned long long>(seed), options.workload.c_str(),
                trouble_name(options.trouble), options.embedded ? ", embedded" : "",
                static_cast<unsigned long long>(report.calls),
                static_cast<unsigned long long>(report.events),
                static_cast<double>(report.virtual_time / 1ms) / 1000.0,
                static_cast<unsigned long long>(report.trace_hash));
    std::fflush(stdout);
  }
  if (!arguments.twice) return true;
  const RunReport again = run_once(options, arguments);
  if (again.trace_hash == report.trace_hash && again.events == report.events) return true;
  std::fprintf(stderr, "plumeria-sim: seed %llu took another course the second time %s\n",
               static_cast<unsigned long long>(seed), replay_hint().c_str());
  return false;
}

// All marks, or those never reached.
void print_marks(Totals totals, bool quiet) {
  for (const RareMark* mark = rare_marks(); mark != nullptr; mark = mark->next()) {
    totals.marks[std::string(mark->text())] += mark->times();
  }
  std::printf("%llu runs, %llu calls, %llu events\n", static_cast<unsigned long long>(totals.runs),
              static_cast<unsigned long long>(totals.calls),
              static_cast<unsigned long long>(totals.events));
  for (const auto& [mark, times] : totals.marks) {
    if (quiet && times > 0) continue;
    std::printf("  %10llu  %s%s\n", static_cast<unsigned long long>(times), mark.c_str(),
                times == 0 ? "  <- never reached" : "");
  }
}

#ifdef PLUMERIA_PLANTED_FAULTS
const std::map<std::string, Fault>& plantable() {
  static const std::map<std::string, Fault> faults = {
      {"no_fence", Fault::no_fence},
      {"release_before_flush", Fault::release_before_flush},
      {"trim_before_flush", Fault::trim_before_flush},
      {"replay_without_version_check", Fault::replay_without_version_check},
      {"delta_without_image", Fault::delta_without_image},
      {"gainer_grants_early", Fault::gainer_grants_early},
      {"in_transition_ignored", Fault::in_transition_ignored},
      {"kernel_invalidation_left_out", Fault::kernel_invalidation_left_out},
      {"stale_end_ignored", Fault::stale_end_ignored},
      {"renewal_counted_from_reply", Fault::renewal_counted_from_reply},
  };
  return faults;
}
bool plant_by_name(const std::string& name) {
  const auto found = plantable().find(name);
  if (found == plantable().end()) return false;
  plant(found->second);
  return true;
}
#else
bool plant_by_name(const std::string&) { return false; }
#endif

int complain(const std::string& what) {
  std::fprintf(stderr, "plumeria-sim: %s; see the first lines of sim/main.cc\n", what.c_str());
  return 2;
}

bool parse_seeds(const std::string& text, Arguments& arguments) {
  const std::vector<std::string> ends = absl::StrSplit(text, '-');
  char* rest = nullptr;
  arguments.first = std::strtoull(ends.front().c_str(), &rest, 10);
  if (*rest != 0 || ends.front().empty()) return false;
  arguments.last = std::strtoull(ends.back().c_str(), &rest, 10);
  return *rest == 0 && !ends.back().empty() && ends.size() <= 2 &&
         arguments.first <= arguments.last;
}

int main(const std::vector<std::string>& words) {
  Arguments arguments;
  for (std::size_t i = 0; i < words.size(); ++i) {
    const std::string& word = words[i];
    const bool has_value = i + 1 < words.size();
    if (word == "--twice") {
      arguments.twice = true;
    } else if (word == "--trace") {
      arguments.trace = true;
    } else if (word == "--quiet") {
      arguments.quiet = true;
    } else if (word == "--embedded") {
      arguments.embedded = true;
    } else if (!has_value) {
      return complain(word + " is not an option, or lacks its value");
    } else if (word == "--seed" || word == "--seeds") {
      if (!parse_seeds(words[++i], arguments)) return complain("no seeds: " + words[i]);
    } else if (word == "--workload") {
      arguments.workload = words[++i];
      const auto& names = workload_names();
      if (std::find(names.begin(), names.end(), arguments.workload) == names.end()) {
        return complain("no workload: " + words[i]);
      }
    } else if (word == "--fault") {
      arguments.fault = words[++i];
      if (!trouble_of(arguments.fault)) return complain("no fault: " + words[i]);
    } else if (word == "--mounts") {
      arguments.mounts = std::strtoull(words[++i].c_str(), nullptr, 10);
    } else if (word == "--trim-above" && has_value) {
      arguments.trim_above = words[++i];
    } else if (word == "--plant") {
      arguments.plant = words[++i];
      if (!plant_by_name(arguments.plant)) {
        return complain("no planted fault of this build: " + words[i]);
      }
    } else {
      return complain("no option: " + word);
    }
  }
  // Whole logs are read thousands of times; their memory need not go back to the system each time.
  mallopt(M_MMAP_THRESHOLD, 64 << 20);
  mallopt(M_TRIM_THRESHOLD, 256 << 20);
  set_log_sink(arguments.trace ? print_log : drop_log);
  std::signal(SIGABRT, on_abort);
  std::signal(SIGSEGV, on_abort);
  std::signal(SIGTERM, on_abort);
  Totals totals;
  bool fine = true;
  for (std::uint64_t seed = arguments.first; fine && seed <= arguments.last; ++seed) {
    fine = run_seed(seed, arguments, totals);
  }
  if (arguments.first != arguments.last) print_marks(std::move(totals), arguments.quiet);
  return fine ? 0 : 1;
}

}  // namespace
}  // namespace plumeria::sim

int main(int argc, char** argv) {
  return plumeria::sim::main(std::vector<std::string>(argv + 1, argv + argc));
}
