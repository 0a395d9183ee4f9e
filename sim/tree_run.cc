#include "sim/tree_run.h"

#include <absl/strings/str_cat.h>
#include <linux/falloc.h>

#include <map>
#include <set>
#include <vector>

#include "base/checksum.h"
#include "base/number.h"
#include "base/rare.h"
#include "sim/reference.h"
#include "sim/snapshot_look.h"

namespace plumeria::sim {
namespace {

constexpr std::uint32_t type_mask = 0170000, type_directory = 0040000, type_symlink = 0120000,
                        type_regular = 0100000;

enum class Do {
  make_file,
  open,
  close,
  write,
  read,
  truncate,
  sync,
  make_directory,
  remove_directory,
  unlink,
  rename,
  link,
  symlink,
  read_link,
  stat,
  list,
  change_mode,
  map_store,
  space,
  set_xattr,
  remove_xattr,
};
constexpr std::uint64_t kinds = 21;
constexpr const char* kind_names[] = {
    "make_file", "open",  "close",  "write",  "read",      "truncate", "sync",
    "mkdir",     "rmdir", "unlink", "rename", "link",      "symlink",  "readlink",
    "stat",      "list",  "chmod",  "store",  "fallocate", "setxattr", "removexattr"};
static_assert(std::size(kind_names) == kinds);

struct Call {
  Do what{};
  std::string path, other;
  std::uint64_t offset = 0, size = 0, number = 0;
  std::uint32_t flags = 0;
  OpenFlags open_flags;
  std::optional<Descriptor> descriptor;  // the kernel's own
};

std::string text_of(const Status& status) {
  return status ? "ok"
                : absl::StrCat("error ", static_cast<int>(status.error().code), " ",
                               std::string(describe(status.error().code)));
}
template <class T>
std::string text_of_error(const Result<T>& result) {
  return text_of(Status(fail(result.error())));
}

std::string text_of(const Attributes& a) {
  const bool sized = (a.mode & type_mask) != type_directory;
  return absl::StrCat("mode ", absl::Hex(a.mode), " links ", a.links, " uid ", a.uid, " gid ",
                      a.gid, sized ? absl::StrCat(" size ", a.size) : "");
}

Bytes pattern(std::uint64_t number, std::uint64_t size) {
  Bytes bytes(size);
  RandomStream random(number);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random.next() | 1);
  return bytes;
}

std::string xattr_name(std::uint64_t number) { return absl::StrCat("user.", number % 3); }

// What a call answers, as text; a descriptor that it opened goes to `opened`.
Task<std::string> perform(Kernel* kernel, Call call, std::optional<Descriptor>* opened) {
  switch (call.what) {
    case Do::make_file:
    case Do::open: {
      auto result = co_await kernel->open(call.path, call.open_flags, 0644);
      if (!result) co_return text_of_error(result);
      *opened = *result;
      co_return "ok";
    }
    case Do::close:
      co_return text_of(co_await kernel->close(*call.descriptor));
    case Do::write: {
      Bytes data = pattern(call.number, call.size);
      auto result = co_await kernel->pwrite(*call.descriptor, call.offset, std::move(data));
      if (!result) co_return text_of_error(result);
      co_return absl::StrCat("wrote ", *result);
    }
    case Do::read: {
      auto result = co_await kernel->pread(*call.descriptor, call.offset,
                                           static_cast<std::uint32_t>(call.size));
      if (!result) co_return text_of_error(result);
      co_return absl::StrCat("read ", result->size(), " bytes, ", checksum(*result));
    }
    case Do::truncate:
      co_return text_of(co_await kernel->truncate(call.path, call.size));
    case Do::sync:
      co_return text_of(co_await kernel->sync());
    case Do::make_directory:
      co_return text_of(co_await kernel->mkdir(call.path, 0755));
    case Do::remove_directory:
      co_return text_of(co_await kernel->rmdir(call.path));
    case Do::unlink:
      co_return text_of(co_await kernel->unlink(call.path));
    case Do::rename:
      co_return text_of(co_await kernel->rename(call.path, call.other, call.flags));
    case Do::link:
      co_return text_of(co_await kernel->link(call.path, call.other));
    case Do::symlink:
      co_return text_of(co_await kernel->symlink(call.other, call.path));
    case Do::read_link: {
      auto result = co_await kernel->readlink(call.path);
      if (!result) co_return text_of_error(result);
      co_return *result;
    }
    case Do::stat: {
      auto result = co_await kernel->stat(call.path);
      if (!result) co_return text_of_error(result);
      co_return text_of(*result);
    }
    case Do::list: {
      auto result = co_await kernel->list(call.path);
      if (!result) co_return text_of_error(result);
      std::string text;
      for (const ListedName& entry : *result) {
        absl::StrAppend(&text, entry.name, ":", absl::Hex(entry.type), " ");
      }
      co_return text;
    }
    case Do::change_mode:
      co_return text_of(co_await kernel->chmod(call.path, call.flags));
    case Do::space:
      co_return text_of(
          co_await kernel->fallocate(*call.descriptor, call.offset, call.size, call.flags));
    case Do::set_xattr: {
      Bytes value = pattern(call.number, call.size);
      co_return text_of(co_await kernel->setxattr(call.path, xattr_name(call.number),
                                                  std::move(value), call.flags));
    }
    case Do::remove_xattr:
      co_return text_of(co_await kernel->removexattr(call.path, xattr_name(call.number)));
    case Do::map_store: {
      Bytes data = pattern(call.number, call.size);
      co_return text_of(co_await kernel->store(*call.descriptor, call.offset, std::move(data)));
    }
  }
  co_return "?";
}

std::string text_of(const Call& call, std::size_t mount) {
  return absl::StrCat("mount", mount, " ", kind_names[static_cast<int>(call.what)], " ", call.path,
                      " ", call.other, " offset ", call.offset, " size ", call.size, " flags ",
                      call.flags);
}

class TreeRun {
 public:
  TreeRun(Cluster& cluster, Nemesis& nemesis, RandomStream random)
      : cluster_(cluster),
        nemesis_(nemesis),
        random_(random),
        reference_node_(cluster.simulation().add_node("reference")),
        reference_kernel_(reference_node_, KernelOptions{}, 1, reference_tasks_) {
    reference_kernel_.set_operations(&reference_);
  }
  ~TreeRun() { reference_node_.crash(); }

  std::string run(std::uint64_t calls, std::uint64_t* done) {
    for (; *done < calls; ++*done) {
      if (random_.chance(1, 15)) {
        const Duration delay = random_.between(Duration{0}, Duration(3ms));
        Nemesis* nemesis = &nemesis_;
        cluster_.simulation().after(delay, [nemesis] { nemesis->strike(); });
      }
      if (random_.chance(1, 70)) make_snapshot();
      std::string difference = one_call();
      if (!difference.empty()) return difference;
      nemesis_.watch();
      if (random_.chance(1, 50)) {
        const std::size_t mount = random_.below(cluster_.mounts());
        if (cluster_.is_up(mount)) cluster_.kernel(mount).shrink();
      }
    }
    nemesis_.heal();
    cluster_.wait_until_all_up(300s);
    std::string difference = compare_trees();
    return difference.empty() ? compare_snapshots() : difference;
  }

 private:
  struct Open {
    std::size_t mount = 0;
    Descriptor descriptor{}, reference{};
    bool writable = false;
  };

  std::string random_name() { return std::string(1, static_cast<char>('a' + random_.below(4))); }
  std::string random_path() {
    std::string path = random_name();
    while (random_.chance(1, 2)) path += "/" + random_name();
    return path;
  }

  // Small and large offsets and sizes, on and off the borders of pages and of the small blocks.
  std::uint64_t random_offset() {
    constexpr std::uint64_t centres[] = {0, 100, 3600, 4096, 8192, 65536, 100'000};
    const std::uint64_t centre = centres[random_.below(std::size(centres))];
    return random_.chance(1, 2) ? centre : centre + random_.below(3000);
  }

  Call random_call(std::size_t mount, const Open* open) {
    Call call;
    call.what = static_cast<Do>(random_.below(kinds));
    call.path = random_path();
    call.other = random_path();
    call.offset = random_offset();
    call.size = random_.chance(1, 3) ? random_.between(1, 20'000) : random_.between(1, 600);
    call.number = random_.next();
    call.flags = 0;
    if (call.what == Do::rename) {
      if (random_.chance(1, 6)) call.flags = static_cast<std::uint32_t>(random_.between(1, 2));
    }
    if (call.what == Do::change_mode) {
      call.flags = static_cast<std::uint32_t>(random_.below(01000));
    }
    if (call.what == Do::space) {
      constexpr std::uint32_t modes[] = {0, FALLOC_FL_KEEP_SIZE, FALLOC_FL_ZERO_RANGE,
                                         FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                         FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE};
      call.flags = modes[random_.below(std::size(modes))];
    }
    if (call.what == Do::set_xattr) {
      call.size = std::min<std::uint64_t>(call.size, 3000);
      call.flags = static_cast<std::uint32_t>(random_.below(3));
    }
    if (call.what == Do::list && random_.chance(1, 3)) call.path = "";
    if (call.what == Do::truncate) call.size = random_offset();
    call.open_flags.create = call.what == Do::make_file;
    call.open_flags.exclusive = call.open_flags.create && random_.chance(1, 3);
    call.open_flags.writable = call.open_flags.create || random_.chance(1, 2);
    call.open_flags.truncate = call.open_flags.writable && random_.chance(1, 6);
    call.open_flags.append = call.open_flags.writable && random_.chance(1, 4);
    if (call.what == Do::map_store) {
      call.size = std::min(call.size, 4096 - call.offset % 4096);
    }
    const bool needs_open = call.what == Do::close || call.what == Do::write ||
                            call.what == Do::read || call.what == Do::map_store ||
                            call.what == Do::space;
    if (needs_open && (open == nullptr || open->mount != mount)) call.what = Do::make_file;
    if (call.what == Do::make_file) call.open_flags.create = call.open_flags.writable = true;
    if (needs_open && open != nullptr && open->mount == mount &&
        (call.what == Do::write || call.what == Do::map_store || call.what == Do::space) &&
        !open->writable) {
      call.what = Do::read;
    }
    return call;
  }

  std::string one_call() {
    std::size_t at = 0;
    const bool on_open = !open_.empty() && random_.chance(1, 2);
    std::size_t mount = random_.below(cluster_.mounts());
    if (on_open) {
      at = random_.below(open_.size());
      mount = open_[at].mount;
    }
    Call call = random_call(mount, on_open ? &open_[at] : nullptr);
    if (on_open) call.descriptor = open_[at].descriptor;
    if (call.what == Do::map_store) stored_into_.insert(mount);
    cluster_.simulation().trace("tree", text_of(call, mount));
    if (!cluster_.is_up(mount)) cluster_.wait_until_all_up(300s);
    std::optional<Descriptor> opened, reference_opened;
    const std::string got = cluster_.run(mount, perform(&cluster_.kernel(mount), call, &opened));
    Call same = call;
    if (on_open) same.descriptor = open_[at].reference;
    const std::string wanted = cluster_.simulation().run(
        reference_node_, perform(&reference_kernel_, same, &reference_opened));
    if (got != wanted) {
      return absl::StrCat(text_of(call, mount), ": got '", got, "', not '", wanted, "'");
    }
    if (opened) {
      open_.push_back(Open{mount, *opened, *reference_opened, call.open_flags.writable});
    }
    if (call.what == Do::close) open_.erase(open_.begin() + static_cast<std::ptrdiff_t>(at));
    return "";
  }

  std::string compare_trees() {
    const std::string wanted =
        cluster_.simulation().run(reference_node_, describe_tree(&reference_kernel_, ""));
    for (std::size_t i = 0; i < cluster_.mounts(); ++i) {
      const std::string got = cluster_.run(i, describe_tree(&cluster_.kernel(i), ""));
      if (got != wanted) {
        return absl::StrCat("the tree on mount", i, " is\n", got, "and not\n", wanted);
      }
    }
    return "";
  }

  // Between two calls, so the reference is in the same state. What mappings have changed is
  // nobody's before the kernel writes it.
  void make_snapshot() {
    const std::size_t mount = random_.below(cluster_.mounts());
    for (std::size_t i = 0; i < cluster_.mounts(); ++i) {
      if (!cluster_.is_up(i)) cluster_.wait_until_all_up(300s);
      if (stored_into_.erase(i) > 0) (void)cluster_.run(i, cluster_.kernel(i).sync());
    }
    const std::string name = absl::StrCat("s", snapshots_.size());
    const auto made = cluster_.try_run(mount, cluster_.mount(mount).create_snapshot(name));
    if (!made || !*made) return;  // Its mount has died, or lost its lease.
    rarely<"tree: a snapshot is made">();
    snapshots_[(*made)->id] = {
        name, cluster_.simulation().run(reference_node_, describe_tree(&reference_kernel_, ""))};
  }

  std::string compare_snapshots() {
    for (const auto& [id, snapshot] : snapshots_) {
      const SnapshotLook look = look_at_snapshot(cluster_.disk(), id, ClusterOptions{}.log_size);
      if (look.tree != snapshot.tree) {
        return absl::StrCat("snapshot ", snapshot.name, " shows\n", look.tree, "and not\n",
                            snapshot.tree);
      }
      if (!look.problems.empty()) {
        return absl::StrCat("fsck of snapshot ", snapshot.name, ": ", look.problems[0]);
      }
      const Status removed = cluster_.run(0, cluster_.mount(0).delete_snapshot(snapshot.name));
      if (!removed) return absl::StrCat("a snapshot stays: ", removed.error().message());
    }
    return "";
  }

  Cluster& cluster_;
  Nemesis& nemesis_;
  RandomStream random_;
  struct TakenSnapshot {
    std::string name, tree;
  };
  std::map<disk::SnapshotId, TakenSnapshot> snapshots_;
  std::set<std::size_t> stored_into_;  // mounts whose kernel may have dirty pages of mappings
  Node& reference_node_;
  ReferenceFileSystem reference_;
  TaskScope reference_tasks_;
  Kernel reference_kernel_;
  std::vector<Open> open_;
};

}  // namespace

Task<std::string> describe_tree(Kernel* kernel, std::string path) {
  auto attributes = co_await kernel->stat(path);
  if (!attributes) co_return absl::StrCat(path, ": ", text_of_error(attributes), "\n");
  std::string text;
  const std::uint32_t type = attributes->mode & type_mask;
  if (!path.empty()) text = absl::StrCat(path, ": ", text_of(*attributes));
  if (type == type_symlink) {
    auto target = co_await kernel->readlink(path);
    absl::StrAppend(&text, " -> ", target ? *target : text_of_error(target));
  }
  auto xattrs = co_await kernel->listxattr(path);
  if (!xattrs) co_return absl::StrCat(text, " ", text_of_error(xattrs), "\n");
  for (const std::string& name : *xattrs) {
    auto value = co_await kernel->getxattr(path, name);
    if (!value) co_return absl::StrCat(text, " ", text_of_error(value), "\n");
    absl::StrAppend(&text, " ", name, "=", *value ? absl::StrCat(checksum(**value)) : "gone");
  }
  if (type == type_regular) {
    auto descriptor = co_await kernel->open(path, OpenFlags{}, 0);
    if (!descriptor) co_return absl::StrCat(text, " ", text_of_error(descriptor), "\n");
    const auto size = static_cast<std::uint32_t>(attributes->size + 1);
    auto data = co_await kernel->pread(*descriptor, 0, size);
    absl::StrAppend(&text, " content ", data ? absl::StrCat(checksum(*data)) : text_of_error(data));
    (void)co_await kernel->close(*descriptor);
  }
  text += "\n";
  if (type != type_directory) co_return text;
  auto listed = co_await kernel->list(path);
  if (!listed) co_return absl::StrCat(text, text_of_error(listed), "\n");
  for (const ListedName& entry : *listed) {
    const std::string below = path.empty() ? entry.name : absl::StrCat(path, "/", entry.name);
    text += co_await describe_tree(kernel, below);
  }
  co_return text;
}

std::string run_tree(Cluster& cluster, Nemesis& nemesis, RandomStream random,
                     TreeRunOptions options, std::uint64_t* calls_done) {
  TreeRun run(cluster, nemesis, random);
  return run.run(options.calls, calls_done);
}

}  // namespace plumeria::sim
