// plumeria-ace: all, or many, generated sequences of file-system operations with power cuts
// (sim/ace_run.h, sim/ace_sequence.h).
//
//   --length N [--each M | --sample M] [--seed S] [--cuts one|many]
//       All sequences of that length; or M for each combination of operations, or M of all, that
//       the seed picks. Several --length may follow each other, each with its own options.
//   --length N --number X [--cuts many]
//       That one alone, with its text. Failures print these arguments.
//
// Exit code 0: no failure; else the first five are printed, and it is 1.
#include <malloc.h>

#include <cstdio>
#include <cstdlib>
#include <optional>
#include <string>
#include <vector>

#include "base/log.h"
#include "sim/ace_run.h"
#include "sim/world.h"

namespace plumeria::sim::ace {
namespace {

struct Task {
  std::size_t length = 1;
  std::uint64_t each = 0, sample = 0, seed = 1;
  std::optional<std::uint64_t> number;
  Cuts cuts = Cuts::many;
};

constexpr std::uint64_t failures_max = 5;

struct Totals {
  std::uint64_t run = 0, impossible = 0, cuts = 0, failures = 0;
};

// The seed of a sequence is its number, so that it can be repeated alone.
void run_one(const Task& task, std::uint64_t number, Totals& totals) {
  const auto planned = sequence(task.length, number);
  Outcome outcome;
  outcome.impossible = !planned;
  if (planned) outcome = run(*planned, number + 1, task.cuts);
  totals.cuts += outcome.cuts;
  ++(outcome.impossible ? totals.impossible : totals.run);
  if (task.number && planned) std::printf("%s\n", text_of(*planned).c_str());
  if (outcome.failure.empty()) return;
  ++totals.failures;
  std::fprintf(stderr, "failed: plumeria-ace --length %zu --cuts %s --number %llu\n  %s\n  %s\n",
               task.length, task.cuts == Cuts::one ? "one" : "many",
               static_cast<unsigned long long>(number), text_of(*planned).c_str(),
               outcome.failure.c_str());
}

// The numbers of the sequences that are to be run.
std::vector<std::uint64_t> numbers_of(const Task& task) {
  if (task.number) return {*task.number};
  RandomStream random(task.seed);
  std::vector<std::uint64_t> numbers;
  const std::uint64_t all = count(task.length);
  for (std::uint64_t i = 0; i < task.sample; ++i) numbers.push_back(random.below(all));
  for (std::uint64_t i = 0; i < task.each * combinations(task.length); ++i) {
    numbers.push_back(pick(task.length, i / task.each, random));
  }
  if (!numbers.empty()) return numbers;
  for (std::uint64_t i = 0; i < all; ++i) numbers.push_back(i);
  return numbers;
}

bool run_task(const Task& task) {
  Totals totals;
  for (const std::uint64_t number : numbers_of(task)) {
    run_one(task, number, totals);
    if (totals.failures == failures_max) break;
  }
  std::printf(
      "length %zu: %llu sequences of %llu run, %llu impossible ones left out, %llu power "
      "cuts, %llu failures\n",
      task.length, static_cast<unsigned long long>(totals.run),
      static_cast<unsigned long long>(count(task.length)),
      static_cast<unsigned long long>(totals.impossible),
      static_cast<unsigned long long>(totals.cuts),
      static_cast<unsigned long long>(totals.failures));
  std::fflush(stdout);
  return totals.failures == 0;
}

int complain(const std::string& what) {
  std::fprintf(stderr, "plumeria-ace: %s; see the first lines of sim/ace_main.cc\n", what.c_str());
  return 2;
}

// False: no such option.
bool set_option(Task& task, const std::string& option, const std::string& value) {
  char* rest = nullptr;
  const std::uint64_t number = std::strtoull(value.c_str(), &rest, 10);
  if (option == "--cuts") {
    task.cuts = value == "one" ? Cuts::one : Cuts::many;
    return value == "one" || value == "many";
  }
  if (*rest != 0 || value.empty()) return false;
  if (option == "--number") {
    task.number = number;
    return number < count(task.length);
  }
  if (option == "--each") {
    task.each = number;
  } else if (option == "--sample") {
    task.sample = number;
  } else if (option == "--seed") {
    task.seed = number;
  } else {
    return false;
  }
  return true;
}

int main(const std::vector<std::string>& words) {
  std::vector<Task> tasks;
  for (std::size_t i = 0; i + 1 < words.size(); i += 2) {
    const std::string &option = words[i], &value = words[i + 1];
    if (option == "--length" && value >= "1" && value <= "4" && value.size() == 1) {
      tasks.emplace_back();
      tasks.back().length = static_cast<std::size_t>(value[0] - '0');
    } else if (tasks.empty() || !set_option(tasks.back(), option, value)) {
      return complain(option + " " + value);
    }
  }
  if (tasks.empty() || words.size() % 2 != 0) return complain("--length N");
  mallopt(M_MMAP_THRESHOLD, 64 << 20);
  mallopt(M_TRIM_THRESHOLD, 256 << 20);
  set_log_sink([](Severity, std::string_view) {});
  bool fine = true;
  for (const Task& task : tasks) fine = run_task(task) && fine;
  return fine ? 0 : 1;
}

}  // namespace
}  // namespace plumeria::sim::ace

int main(int argc, char** argv) {
  return plumeria::sim::ace::main(std::vector<std::string>(argv + 1, argv + argc));
}
