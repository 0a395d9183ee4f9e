#include "sim/ace_sequence.h"

#include <absl/strings/str_cat.h>
#include <linux/falloc.h>
#include <linux/fs.h>

#include <map>

#include "base/check.h"

namespace plumeria::sim::ace {
namespace {

std::string parent_of(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  return slash == std::string::npos ? "" : path.substr(0, slash);
}

void add_data_operations(std::vector<Operation>& all, const std::string& path) {
  const auto size = static_cast<std::int64_t>(nominal_size(path));
  const std::int64_t middle = size / 3;
  const auto add = [&](Do what, std::int64_t offset, bool from_end, std::uint64_t length,
                       std::uint32_t flags = 0) {
    all.push_back(Operation{what, path, "", offset, from_end, length, flags});
  };
  add(Do::write, 0, true, 5000);       // append
  add(Do::write, middle, false, 700);  // overwrite
  add(Do::write, -300, true, 4096);    // overlap the end
  add(Do::write, 9000, true, 600);     // leave a hole
  add(Do::store, middle / 4096 * 4096 + 100, false, 200);
  add(Do::truncate, size / 2, false, 0);
  add(Do::truncate, 0, false, 0);
  add(Do::truncate, 7000, true, 0);
  constexpr std::uint32_t keep = FALLOC_FL_KEEP_SIZE;
  add(Do::space, -100, true, 8192, 0);
  add(Do::space, -100, true, 8192, keep);
  add(Do::space, middle, false, 9000, FALLOC_FL_ZERO_RANGE);
  add(Do::space, -700, true, 5000, FALLOC_FL_ZERO_RANGE);
  add(Do::space, -700, true, 5000, FALLOC_FL_ZERO_RANGE | keep);
  add(Do::space, middle, false, 9000, FALLOC_FL_PUNCH_HOLE | keep);
}

std::vector<Operation> make_operations() {
  std::vector<Operation> all;
  const auto add = [&all](Do what, const char* path, const char* other = "",
                          std::uint32_t flags = 0) {
    all.push_back(Operation{what, path, other, 0, false, 0, flags});
  };
  for (const char* path : {"foo", "bar", "A/foo"}) add_data_operations(all, path);
  add(Do::make_file, "foo");
  add(Do::make_file, "A/bar");
  add(Do::make_directory, "C");
  add(Do::make_directory, "A/C");
  add(Do::link, "foo", "bar");
  add(Do::link, "foo", "A/bar");
  add(Do::link, "A/foo", "B/bar");
  add(Do::unlink, "foo");
  add(Do::unlink, "A/foo");
  add(Do::remove_directory, "A/C");
  add(Do::remove_directory, "B");
  add(Do::rename, "foo", "bar");
  add(Do::rename, "foo", "A/foo");
  add(Do::rename, "A/foo", "B/foo");
  add(Do::rename, "A/foo", "A/bar");
  add(Do::rename, "A", "C");
  add(Do::rename, "A", "B");
  add(Do::rename, "A/C", "B/C");
  add(Do::rename, "foo", "A/foo", RENAME_EXCHANGE);
  add(Do::rename, "A", "B", RENAME_EXCHANGE);
  add(Do::rename, "A/foo", "B", RENAME_EXCHANGE);
  add(Do::symlink, "foo");
  add(Do::symlink, "A/bar");
  add(Do::set_xattr, "foo");
  add(Do::set_xattr, "A");
  add(Do::remove_xattr, "foo");
  add(Do::change_mode, "bar");
  return all;
}

// Names that an operation leaves behind and that can be opened, and their directories.
std::vector<Persistence> persistences(const Operation& operation, bool may_be_nothing) {
  std::vector<Persistence> all;
  if (may_be_nothing) all.push_back({Persist::nothing, ""});
  const auto add_file = [&all](const std::string& path) { all.push_back({Persist::file, path}); };
  const auto add_directory = [&all](const std::string& path) {
    for (const Persistence& known : all) {
      if (known.what == Persist::directory && known.path == path) return;
    }
    all.push_back({Persist::directory, path});
  };
  switch (operation.what) {
    case Do::make_directory:
    case Do::symlink:
    case Do::unlink:
    case Do::remove_directory:
      if (operation.what == Do::make_directory) add_directory(operation.path);
      add_directory(parent_of(operation.path));
      break;
    case Do::rename:
      // Or directory: the one call does for both.
      add_file(operation.other);
      add_directory(parent_of(operation.path));
      add_directory(parent_of(operation.other));
      break;
    case Do::link:
      add_file(operation.path);
      add_directory(parent_of(operation.other));
      break;
    default:
      add_file(operation.path);
      add_directory(parent_of(operation.path));
  }
  all.push_back({Persist::everything, ""});
  return all;
}

// What is known about the tree while the dependencies of a sequence are found.
class Planner {
 public:
  // False: impossible.
  bool add(const Operation& operation) {
    switch (operation.what) {
      case Do::make_file:
      case Do::symlink:
        if (!need_absent(operation.path)) return false;
        set(operation.path, operation.what == Do::symlink ? Kind::symlink : Kind::file);
        return true;
      case Do::make_directory:
        if (!need_absent(operation.path)) return false;
        set(operation.path, Kind::own_directory);
        return true;
      case Do::link:
        if (!need(operation.path, Kind::file) || !need_absent(operation.other)) return false;
        set(operation.other, Kind::file);
        return true;
      case Do::unlink:
        if (!need(operation.path, Kind::file)) return false;
        set(operation.path, Kind::absent);
        ++removed_;
        return true;
      case Do::remove_directory:
        if (!need(operation.path, Kind::directory) || !is_empty(operation.path)) return false;
        set(operation.path, Kind::absent);
        return true;
      case Do::rename:
        return rename(operation);
      case Do::set_xattr:
        return need(operation.path, operation.path == "A" ? Kind::directory : Kind::file);
      case Do::remove_xattr:
        if (!need(operation.path, Kind::file)) return false;
        // Part of the file's state from before, unless that is a new one.
        (before.empty() && removed_ == 0 ? setup : before)
            .push_back(Operation{Do::set_xattr, operation.path, "", 0, false, 0, 0});
        return true;
      default:
        return need(operation.path, Kind::file);
    }
  }

  std::vector<Operation> setup;
  std::vector<Operation> before;  // the operation that was added last

 private:
  // own_directory: made by the sequence, or brought there; what is not known in it is absent.
  enum class Kind { absent, file, symlink, directory, own_directory };

  static bool same(Kind a, Kind b) {
    const auto plain = [](Kind kind) {
      return kind == Kind::own_directory ? Kind::directory : kind;
    };
    return plain(a) == plain(b);
  }
  std::optional<Kind> find(const std::string& path) const {
    if (path.empty()) return Kind::directory;
    const auto known = tree_.find(path);
    if (known != tree_.end()) return known->second;
    const auto above = find(parent_of(path));
    if (!above || *above == Kind::directory) return std::nullopt;
    return Kind::absent;
  }
  void set(const std::string& path, Kind kind) {
    erase_below(path);
    tree_[path] = kind;
  }
  void erase_below(const std::string& path) {
    std::erase_if(tree_, [&](const auto& entry) { return entry.first.starts_with(path + "/"); });
  }
  bool is_empty(const std::string& path) const {
    for (const auto& [name, kind] : tree_) {
      if (name.starts_with(path + "/") && kind != Kind::absent) return false;
    }
    return true;
  }

  bool need(const std::string& path, Kind kind) {
    const auto known = find(path);
    if (known && *known != Kind::absent) return same(*known, kind);
    if (!need(parent_of(path), Kind::directory)) return false;
    const bool is_file = kind == Kind::file;
    std::vector<Operation>& where = find(path) ? before : setup;
    if (is_file) {
      where.push_back(Operation{Do::make_file, path, "", 0, false, 0, 0});
      where.push_back(Operation{Do::write, path, "", 0, false, nominal_size(path), 0});
    } else {
      where.push_back(Operation{Do::make_directory, path, "", 0, false, 0, 0});
    }
    const Kind own = is_file ? kind : Kind::own_directory;
    tree_[path] = find(path) ? own : kind;
    return true;
  }
  bool need_absent(const std::string& path) {
    if (!need(parent_of(path), Kind::directory)) return false;
    const auto known = find(path);
    if (!known) tree_[path] = Kind::absent;
    return !known || *known == Kind::absent;
  }

  // Directories that are names of the sequence; the others are files.
  static Kind kind_of(const std::string& path) {
    const std::string name = path.substr(path.rfind('/') + 1);
    return name == "A" || name == "B" || name == "C" ? Kind::directory : Kind::file;
  }
  bool rename(const Operation& operation) {
    const std::string &from = operation.path, &to = operation.other;
    if (!need(from, kind_of(from)) || !need(parent_of(to), Kind::directory)) return false;
    if (from == "A" && !find("A/foo")) need("A/foo", Kind::file);
    const bool exchange = (operation.flags & RENAME_EXCHANGE) != 0;
    if (exchange && !need(to, kind_of(to))) return false;
    // These are for renames over something, the other names for new ones.
    const bool over = to.ends_with("foo") || to == "B";
    if (over && !need(to, kind_of(to))) return false;
    const auto target = find(to);
    if (!exchange && target && *target != Kind::absent) {
      if (!same(*target, kind_of(from)) || !is_empty(to)) return false;
    }
    std::map<std::string, Kind> moved = take(from), back;
    if (exchange) back = take(to);
    erase_below(to);
    put(to, moved);
    tree_[from] = Kind::absent;
    if (exchange) put(from, back);
    ++removed_;
    return true;
  }
  std::map<std::string, Kind> take(const std::string& path) {
    std::map<std::string, Kind> taken;
    for (const auto& [name, kind] : tree_) {
      if (name == path || name.starts_with(path + "/")) taken[name.substr(path.size())] = kind;
    }
    erase_below(path);
    return taken;
  }
  void put(const std::string& path, const std::map<std::string, Kind>& taken) {
    for (const auto& [name, kind] : taken) {
      tree_[path + name] = kind == Kind::directory ? Kind::own_directory : kind;
    }
  }

  std::map<std::string, Kind> tree_;
  std::uint64_t removed_ = 0;  // or renamed: names that may mean something else now
};

const char* name_of(Do what) {
  constexpr const char* names[] = {"create",   "mkdir",    "write",       "store", "fallocate",
                                   "truncate", "link",     "unlink",      "rmdir", "rename",
                                   "symlink",  "setxattr", "removexattr", "chmod"};
  return names[static_cast<int>(what)];
}

}  // namespace

const std::vector<Operation>& operations() {
  static const std::vector<Operation> all = make_operations();
  return all;
}

std::uint64_t nominal_size(const std::string& path) {
  if (path.ends_with("foo")) return path == "foo" ? 3000 : 80'000;
  return path == "bar" ? 30'000 : 500;
}

namespace {

// Every operation with every call after it, those of one operation side by side.
struct Choices {
  explicit Choices(bool last) {
    for (const Operation& operation : operations()) {
      first.push_back(steps.size());
      for (const Persistence& persistence : persistences(operation, !last)) {
        steps.push_back(Step{operation, persistence});
      }
    }
    first.push_back(steps.size());
  }
  std::vector<Step> steps;
  std::vector<std::size_t> first;  // of each operation, and the end
};
const Choices& choices(bool last) {
  static const Choices of_last(true), of_others(false);
  return last ? of_last : of_others;
}

}  // namespace

std::uint64_t count(std::size_t length) {
  CHECK(length >= 1);
  std::uint64_t product = choices(true).steps.size();
  for (std::size_t i = 1; i < length; ++i) product *= choices(false).steps.size();
  return product;
}

std::uint64_t combinations(std::size_t length) {
  std::uint64_t product = 1;
  for (std::size_t i = 0; i < length; ++i) product *= operations().size();
  return product;
}

std::uint64_t pick(std::size_t length, std::uint64_t combination, RandomStream& random) {
  CHECK(combination < combinations(length));
  std::uint64_t number = 0, unit = 1;
  for (std::size_t i = 1; i <= length; ++i) {
    const Choices& from = choices(i == length);
    const std::size_t operation = combination % operations().size();
    combination /= operations().size();
    number += unit * random.between(from.first[operation], from.first[operation + 1] - 1);
    unit *= from.steps.size();
  }
  return number;
}

std::optional<Sequence> sequence(std::size_t length, std::uint64_t number) {
  CHECK(number < count(length));
  Planner planner;
  Sequence planned;
  for (std::size_t i = 1; i <= length; ++i) {
    const std::vector<Step>& from = choices(i == length).steps;
    const Step& step = from[number % from.size()];
    number /= from.size();
    planner.before.clear();
    if (!planner.add(step.operation)) return std::nullopt;
    for (Operation& operation : planner.before) {
      planned.steps.push_back(Step{std::move(operation), {}});
    }
    planned.steps.push_back(step);
  }
  planned.setup = std::move(planner.setup);
  return planned;
}

std::string text_of(const Operation& operation) {
  std::string text = absl::StrCat(name_of(operation.what), " ", operation.path);
  if (!operation.other.empty()) absl::StrAppend(&text, " ", operation.other);
  if (operation.offset != 0 || operation.length != 0 || operation.what == Do::truncate) {
    absl::StrAppend(&text, " at ", operation.from_end ? "end+" : "", operation.offset, " length ",
                    operation.length);
  }
  if (operation.flags != 0) absl::StrAppend(&text, " flags ", operation.flags);
  return text;
}

std::string text_of(const Sequence& sequence) {
  std::string text = "setup:";
  for (const Operation& operation : sequence.setup) {
    absl::StrAppend(&text, " ", text_of(operation), ";");
  }
  for (const Step& step : sequence.steps) {
    absl::StrAppend(&text, "\n    ", text_of(step.operation));
    constexpr const char* calls[] = {"", ", fsync ", ", fsyncdir /", ", sync"};
    absl::StrAppend(&text, calls[static_cast<int>(step.then.what)], step.then.path);
  }
  return text;
}

}  // namespace plumeria::sim::ace
