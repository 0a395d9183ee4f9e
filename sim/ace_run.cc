#include "sim/ace_run.h"

#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>

#include <algorithm>
#include <map>
#include <memory>
#include <vector>

#include "base/checksum.h"
#include "base/number.h"
#include "sim/cluster.h"
#include "sim/reference.h"

namespace plumeria::sim::ace {
namespace {

constexpr std::uint32_t type_mask = 0170000, type_directory = 0040000, type_symlink = 0120000,
                        type_regular = 0100000;
constexpr const char* attribute = "user.ace";

// --- Operations ----------------------------------------------------------------------------------

// No byte is zero, so that a hole shows.
Bytes contents(std::uint64_t number, std::uint64_t size) {
  Bytes bytes(size);
  RandomStream random(number);
  std::uint64_t eight = 0;
  for (std::size_t at = 0; at < size; ++at, eight >>= 8) {
    if (at % 8 == 0) eight = random.next();
    bytes[at] = static_cast<std::byte>(eight | 1);
  }
  return bytes;
}

// An operation whose arguments no longer depend on the state of the file.
struct Call {
  Operation operation;
  std::uint64_t offset = 0;
  std::uint64_t number = 0;  // tells the contents of different calls apart
};

Task<Status> change_contents(Kernel* kernel, Call call) {
  const Operation& operation = call.operation;
  OpenFlags flags;
  flags.writable = true;
  flags.create = flags.exclusive = operation.what == Do::make_file;
  CO_TRY(const Descriptor file, co_await kernel->open(operation.path, flags, 0644));
  Status status;
  if (operation.what == Do::space) {
    status = co_await kernel->fallocate(file, call.offset, operation.length, operation.flags);
  } else if (operation.what == Do::store) {
    Bytes data = contents(call.number, operation.length);
    status = co_await kernel->store(file, call.offset, std::move(data));
  } else if (operation.length > 0) {
    Bytes data = contents(call.number, operation.length);
    auto written = co_await kernel->pwrite(file, call.offset, std::move(data));
    if (!written) status = fail(std::move(written).error());
  }
  const Status closed = co_await kernel->close(file);
  co_return status ? closed : status;
}

Task<Status> perform(Kernel* kernel, Call call) {
  const Operation& operation = call.operation;
  switch (operation.what) {
    case Do::make_file:
    case Do::write:
    case Do::store:
    case Do::space:
      return change_contents(kernel, std::move(call));
    case Do::make_directory:
      return kernel->mkdir(operation.path, 0755);
    case Do::truncate:
      return kernel->truncate(operation.path, call.offset);
    case Do::link:
      return kernel->link(operation.path, operation.other);
    case Do::unlink:
      return kernel->unlink(operation.path);
    case Do::remove_directory:
      return kernel->rmdir(operation.path);
    case Do::rename:
      return kernel->rename(operation.path, operation.other, operation.flags);
    case Do::symlink:
      return kernel->symlink("where/ever", operation.path);
    case Do::set_xattr:
      return kernel->setxattr(operation.path, attribute, contents(call.number, 500), 0);
    case Do::remove_xattr:
      return kernel->removexattr(operation.path, attribute);
    case Do::change_mode:
      return kernel->chmod(operation.path, 0600);
  }
  CHECK(false);
}

Task<Status> persist(Kernel* kernel, Persistence persistence) {
  if (persistence.what == Persist::everything) co_return co_await kernel->sync();
  CO_TRY(const Attributes attributes, co_await kernel->stat(persistence.path));
  if ((attributes.mode & type_mask) == type_directory) {
    co_return co_await kernel->fsync_directory(persistence.path);
  }
  CO_TRY(const Descriptor file, co_await kernel->open(persistence.path, OpenFlags{}, 0));
  const Status status = co_await kernel->fsync(file);
  const Status closed = co_await kernel->close(file);
  co_return status ? closed : status;
}

// --- What a tree looks like ----------------------------------------------------------------------

struct File {
  std::string text;  // all but the contents
  InodeNumber inode{};
  std::uint64_t blocks = 0;
  bool is_regular = false;
  Bytes data;
};
using Tree = std::map<std::string, File>;  // by path

Task<Status> look(Kernel* kernel, std::string path, Tree* tree) {
  CO_TRY(const Attributes attributes, co_await kernel->stat(path));
  const std::uint32_t type = attributes.mode & type_mask;
  File file;
  file.inode = attributes.inode;
  file.blocks = attributes.blocks;
  file.text = absl::StrCat("mode ", absl::Hex(attributes.mode), " links ", attributes.links);
  if (type == type_symlink) {
    CO_TRY(const std::string target, co_await kernel->readlink(path));
    absl::StrAppend(&file.text, " -> ", target);
  }
  CO_TRY(const std::vector<std::string> names, co_await kernel->listxattr(path));
  for (const std::string& name : names) {
    CO_TRY(const std::optional<Bytes> value, co_await kernel->getxattr(path, name));
    absl::StrAppend(&file.text, " ", name, "=", value ? absl::StrCat(checksum(*value)) : "gone");
  }
  if (type == type_regular) {
    file.is_regular = true;
    CO_TRY(const Descriptor opened, co_await kernel->open(path, OpenFlags{}, 0));
    auto data = co_await kernel->pread(opened, 0, static_cast<std::uint32_t>(attributes.size + 1));
    (void)co_await kernel->close(opened);
    if (!data) co_return fail(std::move(data).error());
    if (data->size() != attributes.size) {
      co_return fail(Errc::corrupt,
                     absl::StrCat("size ", attributes.size, ", but ", data->size(), " bytes"));
    }
    file.data = std::move(*data);
  }
  (*tree)[path] = std::move(file);
  if (type != type_directory) co_return Status();
  CO_TRY(const std::vector<ListedName> listed, co_await kernel->list(path));
  for (const ListedName& entry : listed) {
    const std::string below = path.empty() ? entry.name : absl::StrCat(path, "/", entry.name);
    CO_TRY_STATUS(co_await look(kernel, below, tree));
  }
  co_return Status();
}

std::string names_of(const Tree& tree) {
  std::string text;
  for (const auto& [path, file] : tree) absl::StrAppend(&text, "/", path, ": ", file.text, "\n");
  return text;
}

// --- The promise ---------------------------------------------------------------------------------

// The trees after each operation so far, and what is durable of them.
class History {
 public:
  void add(Tree tree) { trees_.push_back(std::move(tree)); }
  const Tree& now() const { return trees_.back(); }

  // Everything before was persisted, and the contents of this file; of all if there is no path.
  void persisted(const Persistence& persistence) {
    names_since_ = trees_.size() - 1;
    if (persistence.what == Persist::everything) {
      all_since_ = names_since_;
    } else {
      since_[now().at(persistence.path).inode] = names_since_;
    }
  }

  // What is wrong with a tree found after a power cut at this moment.
  std::string judge(const Tree& found) const {
    const std::string names = names_of(found);
    std::string best = absl::StrCat("the names were never these since operation ", names_since_,
                                    ":\n", names, "they are now:\n", names_of(now()));
    for (std::size_t k = names_since_; k < trees_.size(); ++k) {
      if (names_of(trees_[k]) != names) continue;
      std::string wrong = judge_contents(found, trees_[k]);
      if (wrong.empty()) return "";
      best = std::move(wrong);
    }
    return best;
  }

 private:
  // With the names of `names`, which tell what file is which.
  std::string judge_contents(const Tree& found, const Tree& names) const {
    std::map<InodeNumber, InodeNumber> inodes;
    for (const auto& [path, file] : found) {
      const File& was = names.at(path);
      if (inodes.try_emplace(was.inode, file.inode).first->second != file.inode) {
        return absl::StrCat("/", path, " is another file than its other link");
      }
      if (!file.is_regular) continue;
      std::string wrong = judge_file(file.data, was.inode);
      if (!wrong.empty()) return absl::StrCat("/", path, ": ", wrong);
    }
    return "";
  }

  std::string judge_file(const Bytes& found, InodeNumber inode) const {
    const auto own = since_.find(inode);
    const std::size_t since = std::max(all_since_, own == since_.end() ? 0 : own->second);
    std::vector<const Bytes*> versions;
    for (std::size_t k = since; k < trees_.size(); ++k) {
      for (const auto& [path, file] : trees_[k]) {
        if (file.inode != inode) continue;
        if (versions.empty() || *versions.back() != file.data) versions.push_back(&file.data);
        break;
      }
    }
    const auto any = [&](const auto& condition) {
      return std::any_of(versions.begin(), versions.end(), condition);
    };
    if (!any([&](const Bytes* version) { return version->size() == found.size(); })) {
      return absl::StrCat("it never had ", found.size(), " bytes since operation ", since);
    }
    if (any([&](const Bytes* version) { return *version == found; })) return "";
    for (std::size_t at = 0; at < found.size(); ++at) {
      if (any([&](const Bytes* v) { return at < v->size() && (*v)[at] == found[at]; })) continue;
      return absl::StrCat("byte ", at, " of ", found.size(), " was never ",
                          static_cast<int>(found[at]), " since operation ", since);
    }
    return "";
  }

  std::vector<Tree> trees_;
  std::size_t names_since_ = 0, all_since_ = 0;
  std::map<InodeNumber, std::size_t> since_;
};

// --- One run -------------------------------------------------------------------------------------

ClusterOptions embedded(std::uint64_t seed) {
  ClusterOptions options;
  options.seed = seed;
  options.embedded = true;
  options.mounts = 1;
  return options;
}

class Run {
 public:
  Run(std::uint64_t seed, Cuts cuts)
      : cluster_(embedded(seed)),
        cuts_(cuts),
        random_(cluster_.simulation().stream("ace")),
        reference_node_(cluster_.simulation().add_node("reference")),
        reference_kernel_(reference_node_, KernelOptions{}, 1, reference_tasks_) {
    reference_kernel_.set_operations(&reference_);
    cluster_.start();
  }
  ~Run() {
    cluster_.disk().on_change({});
    reference_node_.crash();
  }

  Outcome run(const Sequence& sequence) {
    if (!prepare(sequence.setup)) return std::move(outcome_);
    plan_cut_at_any_moment(sequence.steps.size());
    for (const Step& step : sequence.steps) {
      ++step_;
      if (!do_operation(step.operation)) return std::move(outcome_);
      if (random_.chance(1, 8)) {
        cluster_.simulation().run_for(random_.between(Duration{0}, Duration(1500ms)));
      }
      const bool is_last = &step == &sequence.steps.back();
      if (step.then.what != Persist::nothing && !do_persist(step.then, is_last)) break;
    }
    if (outcome_.failure.empty()) finish();
    return std::move(outcome_);
  }

 private:
  bool prepare(const std::vector<Operation>& setup) {
    history_.add(see_reference());
    for (const Operation& operation : setup) {
      if (!do_operation(operation)) return false;
    }
    return do_persist({Persist::everything, ""}, false);
  }

  template <class... Parts>
  bool failed(const Parts&... parts) {
    if (outcome_.failure.empty()) {
      outcome_.failure = absl::StrCat("step ", step_, ": ", parts...);
    }
    return false;
  }

  bool do_operation(const Operation& operation) {
    Call call{operation, 0, ++calls_};
    std::int64_t offset = operation.offset;
    if (operation.from_end) {
      const auto& now =
          cluster_.simulation().run(reference_node_, reference_kernel_.stat(operation.path));
      if (now) offset += static_cast<std::int64_t>(now->size);
    }
    call.offset = static_cast<std::uint64_t>(std::max<std::int64_t>(offset, 0));
    const Status wanted =
        cluster_.simulation().run(reference_node_, perform(&reference_kernel_, call));
    if (!wanted) {
      outcome_.impossible = true;
      return false;
    }
    // A cut in the middle may find the effect already.
    during_ = see_reference();
    const Status got = cluster_.run(0, perform(&cluster_.kernel(0), call));
    if (!got) return failed(text_of(operation), ": ", got.error().message());
    history_.add(std::move(*during_));
    during_.reset();
    return true;
  }

  bool do_persist(const Persistence& persistence, bool is_last) {
    const Status done = cluster_.run(0, persist(&cluster_.kernel(0), persistence));
    if (!done) return failed("fsync: ", done.error().message());
    history_.persisted(persistence);
    if (step_ == 0) return true;
    if (cuts_ == Cuts::one) {
      if (!is_last) return true;
      const auto how = static_cast<Unflushed>(random_.below(3));
      return cut_now(how, persistence);
    }
    return cut_now(Unflushed::dropped, persistence) && cut_now(Unflushed::kept, persistence) &&
           cut_now(Unflushed::by_chance, persistence) && cut_now(Unflushed::by_chance, persistence);
  }

  bool cut_now(Unflushed how, const Persistence& persistence) {
    Cluster after(embedded(random_.next()));
    after.disk().become_copy_after_power_cut(cluster_.disk(), how);
    return look_after(after, history_, persistence);
  }

  // `persistence`: what returned just before the cut.
  bool look_after(Cluster& after, const History& history, const Persistence& persistence) {
    ++outcome_.cuts;
    if (auto problems = after.check(); !problems.empty()) {
      return failed("fsck before the mount: ", absl::StrJoin(problems, "; "));
    }
    after.start();
    Tree found;
    const Status seen = after.run(0, look(&after.kernel(0), "", &found));
    if (!seen) return failed("after the cut: ", seen.error().message());
    const std::string wrong = history.judge(found);
    if (!wrong.empty()) return failed("after the cut: ", wrong);
    if (persistence.what == Persist::file && found.at(persistence.path).is_regular) {
      const std::uint64_t before = blocks_now(persistence.path);
      const std::uint64_t blocks = found.at(persistence.path).blocks;
      if (blocks != before) {
        return failed("/", persistence.path, " had ", before, " blocks, now ", blocks);
      }
    }
    const Status stopped = after.stop_mount(0);
    if (!stopped) return failed("after the cut: cannot stop: ", stopped.error().message());
    if (auto problems = after.check(); !problems.empty()) {
      return failed("fsck after the mount: ", absl::StrJoin(problems, "; "));
    }
    return true;
  }

  // As the mount says; what the kernel caches may be of before the write-back.
  std::uint64_t blocks_now(const std::string& path) {
    const auto attributes = cluster_.run(0, cluster_.kernel(0).stat(path));
    CHECK(attributes);
    const auto now = cluster_.run(0, cluster_.mount(0).operations().getattr(attributes->inode));
    CHECK(now);
    return now->value.blocks;
  }

  // One more cut, at a change of the disk that chance picks out of those of the whole run.
  void plan_cut_at_any_moment(std::size_t steps) {
    if (cuts_ == Cuts::one && !random_.chance(1, 4)) return;
    changes_left_ = random_.below(6 * steps);
    cluster_.disk().on_change([this](Place) {
      if (moment_ || changes_left_-- > 0) return;
      moment_ = std::make_unique<Cluster>(embedded(random_.next()));
      moment_->disk().become_copy_after_power_cut(cluster_.disk());
      history_then_ = history_;
      if (during_) history_then_.add(*during_);
    });
  }

  void finish() {
    if (moment_ && !look_after(*moment_, history_then_, {})) {
      outcome_.failure = absl::StrCat("a cut in the middle, ", outcome_.failure);
      return;
    }
    Tree live;
    const Status seen = cluster_.run(0, look(&cluster_.kernel(0), "", &live));
    if (!seen) {
      failed("without a cut: ", seen.error().message());
    } else if (names_of(live) != names_of(history_.now())) {
      failed("without a cut the tree is\n", names_of(live), "and not\n", names_of(history_.now()));
    } else {
      for (const auto& [path, file] : live) {
        if (file.data != history_.now().at(path).data) failed("without a cut /", path, " is wrong");
      }
    }
  }

  Tree see_reference() {
    Tree tree;
    const Status seen =
        cluster_.simulation().run(reference_node_, look(&reference_kernel_, "", &tree));
    CHECK(seen);
    return tree;
  }

  Cluster cluster_;
  const Cuts cuts_;
  RandomStream random_;
  Node& reference_node_;
  ReferenceFileSystem reference_;
  TaskScope reference_tasks_;
  Kernel reference_kernel_;
  History history_;
  std::optional<Tree> during_;  // the tree after the operation under way
  std::uint64_t calls_ = 0, step_ = 0;
  std::uint64_t changes_left_ = 0;
  std::unique_ptr<Cluster> moment_;  // the store as the cut at any moment left it
  History history_then_;
  Outcome outcome_;
};

}  // namespace

Outcome run(const Sequence& sequence, std::uint64_t seed, Cuts cuts) {
  Run one(seed, cuts);
  return one.run(sequence);
}

}  // namespace plumeria::sim::ace
