// One order for everything that happened to a whole file, or to a whole set of names: stronger than
// sim/history.h, where each cell and each name has an order of its own. A write of several cells, a
// truncation and a rename are one operation here.
//
// For runs in which nothing was lost: what a crash takes back it may take back in parts.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/time.h"
#include "sim/order_search.h"

namespace plumeria::sim {

// A file of cells (sim/file_workload.cc). Cells behind its end are 0.
struct FileOperation {
  enum class Kind : std::uint8_t {
    write,     // cells from `first` on := number; the size grows to `size` at least
    store,     // cell `first` := number, in a mapping
    truncate,  // cells from `first` on := 0; the size becomes `size`
    read,      // cells from `first` on have these values
    look,      // the size is `size`
  };
  std::uint32_t mount = 0;
  Kind kind{};
  std::uint64_t first = 0, count = 0, number = 0, size = 0;
  std::vector<std::uint64_t> values;
  Duration called{};
  std::optional<Duration> returned;
};
CheckResult check_file(std::uint64_t cells, std::vector<FileOperation> operations);

// Names, by number. A file's identity is not 0; 0 is no file.
struct NameOperation {
  enum class Kind : std::uint8_t {
    create,  // nothing had this name; now `identity` has it
    remove,  // something had this name; now nothing has it
    move,    // what had this name has the name `to` now, and what that one had is gone
    read,    // `identity` has this name (0: nothing)
    found,   // something has this name
  };
  std::uint32_t mount = 0;
  Kind kind{};
  std::uint64_t name = 0, to = 0, identity = 0;
  Duration called{};
  std::optional<Duration> returned;
};
CheckResult check_names(std::uint64_t names, std::vector<NameOperation> operations);

}  // namespace plumeria::sim
