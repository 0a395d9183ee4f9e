// Measures a directory of any file system by plain POSIX calls: `plumeria bench`.
//
// Everything happens in a folder of its own, which is removed at the end, however it ends. Each
// thread works on files and directories of its own; all do the same thing at a time. Nothing is
// taken out of caches: what was written is read back warm.
//
// Threads  Makes its own and waits for them; `watch` is called on the caller's.
// Errors   The first call that fails ends it; the message names the file. Errc::interrupted when
//          `watch` wanted the end.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/result.h"

namespace plumeria::os {

struct BenchPlan {
  std::string directory;
  std::uint64_t threads = 1;
  std::uint64_t files = 4000;       // of all threads together
  std::uint64_t size = 256u << 20;  // bytes of the large files of all threads together
};

struct Figure {
  std::string group, name;
  std::string unit;         // of what is counted: "operations", "entries" or "MiB"
  double rate = 0;          // units a second, of all threads together
  std::uint64_t calls = 0;  // of all threads together
  double seconds = 0;       // from the first thread's begin to the last one's end
  // How long one call took, in microseconds.
  double median_us = 0, p99_us = 0, max_us = 0;
};

struct BenchProgress {
  std::string group, name;
  std::uint64_t done = 0, all = 0;  // calls
};
// Called about ten times a second; false ends the benchmark.
using BenchWatch = std::function<bool(const BenchProgress&)>;

// Figures in the order in which they were taken.
Result<std::vector<Figure>> bench_directory(const BenchPlan& plan, const BenchWatch& watch);

}  // namespace plumeria::os
