// Names in a few directories: created, removed, renamed, looked up and listed. A file's identity is
// its inode with its generation; its content says who made it.
#include <absl/strings/str_cat.h>

#include <algorithm>

#include "base/checksum.h"
#include "base/number.h"
#include "sim/whole_history.h"
#include "sim/workload.h"

namespace plumeria::sim {
namespace {

constexpr int clients_per_mount = 3;
constexpr std::uint64_t directories = 2, names = 5;

std::uint64_t identity_of(const Attributes& attributes) {
  const std::uint64_t pair[2] = {raw(attributes.inode), attributes.generation};
  return (checksum(std::as_bytes(std::span(pair))) >> 1) |
         1;  // Neither 0 nor a name of something unseen.
}

class NameWorkload final : public Workload {
 public:
  using Workload::Workload;

  std::string name() const override { return "names"; }

  void prepare() override {
    const Status made = cluster_.run(0, make_directories(this));
    if (!made) violate(absl::StrCat("cannot make directories: ", made.error().message()));
  }

  void start_clients(std::size_t mount) override {
    for (int i = 0; i < clients_per_mount; ++i) spawn_client(mount, client);
  }

  std::string verify() override {
    for (std::size_t mount = 0; mount < cluster_.mounts(); ++mount) {
      for (std::uint64_t i = 0; i < directories; ++i) {
        (void)cluster_.run(mount, list(this, mount, absl::StrCat("dir", i)));
        for (std::uint64_t j = 0; j < names; ++j) {
          (void)cluster_.run(mount, look_at(this, mount, path_of(i, j)));
        }
      }
    }
    if (!violation().empty()) return violation();
    for (const auto& [who, what] : errors_of_open_files_) {
      if (!losers_.contains(who)) return what;
    }
    std::string wrong = recorder_.check();
    if (wrong.empty()) wrong = check_whole();
    return wrong;
  }

 private:
  std::string check_whole() const {
    if (lost_something_) return "";  // What a crash takes back it may take back in parts.
    const CheckResult result = check_names(directories * names, history_);
    if (result.linearizable) return "";
    if (result.gave_up) return "too tangled to be judged: all names";
    return absl::StrCat("no order explains what was seen of all names: ", result.explanation);
  }
  static std::uint64_t number_of(const std::string& path) {
    for (std::uint64_t i = 0; i < directories * names; ++i) {
      if (path_of(i / names, i % names) == path) return i;
    }
    CHECK(false);
    return 0;
  }
  void seen_whole(std::size_t mount, NameOperation::Kind kind, const std::string& path,
                  std::uint64_t identity_seen, Duration begin) {
    NameOperation operation;
    operation.mount = identity(mount);
    operation.kind = kind;
    operation.name = number_of(path);
    operation.identity = identity_seen;
    operation.called = begin;
    operation.returned = cluster_.simulation().now();
    history_.push_back(operation);
  }
  // Its outcome is unknown until it is given a time of return.
  std::size_t called_whole(std::size_t mount, NameOperation::Kind kind, const std::string& path,
                           const std::string& to) {
    NameOperation operation;
    operation.mount = identity(mount);
    operation.kind = kind;
    operation.name = number_of(path);
    operation.to = number_of(to);
    operation.called = cluster_.simulation().now();
    history_.push_back(operation);
    return history_.size() - 1;
  }
  // It changed nothing: what it saw instead.
  void turned_out(std::size_t at, NameOperation::Kind kind) {
    history_[at].kind = kind;
    history_[at].identity = 0;
    history_[at].returned = cluster_.simulation().now();
  }

  // Most are so long that the block of a directory has several sectors to be torn at.
  static std::string name_of(std::uint64_t name) {
    return absl::StrCat("name", name, std::string(name == 0 ? 0 : 200, '-'));
  }
  static std::string path_of(std::uint64_t directory, std::uint64_t name) {
    return absl::StrCat("dir", directory, "/", name_of(name));
  }
  std::string random_path() { return path_of(random_.below(directories), random_.below(names)); }

  static Task<Status> make_directories(NameWorkload* self) {
    Kernel& kernel = self->cluster_.kernel(0);
    for (std::uint64_t i = 0; i < directories; ++i) {
      CO_TRY_STATUS(co_await kernel.mkdir(absl::StrCat("dir", i), 0755));
    }
    co_return co_await kernel.sync();
  }

  static Task<void> client(Workload* workload, Client* client) {
    auto* self = static_cast<NameWorkload*>(workload);
    while (self->goes_on(*client)) {
      ++self->calls_;
      co_await self->one_call(client);
      co_await self->pause_between_calls(*client);
    }
  }

  Task<void> one_call(Client* client) {
    const std::size_t mount = client->mount;
    const std::uint64_t what = random_.below(8);
    client->doing = absl::StrCat("call of kind ", what);
    switch (what) {
      case 0:
      case 1:
        co_return co_await create_file(client, random_path());
      case 2:
        co_return co_await remove(mount, random_path());
      case 3:
        co_return co_await move(mount, random_path(), random_path());
      case 4:
      case 5:
        co_return co_await look_at(this, mount, random_path());
      case 6:
        co_return co_await list(this, mount, absl::StrCat("dir", random_.below(directories)));
      default:
        co_return co_await sync_all(mount);
    }
  }

  // Makes a file, writes who it is into it, and keeps it open for a while: whoever removes it
  // meanwhile, its content stays.
  Task<void> create_file(Client* client, std::string path) {
    const std::size_t mount = client->mount;
    Kernel& kernel = cluster_.kernel(mount);
    OpenFlags flags;
    flags.writable = flags.create = flags.exclusive = true;
    const auto ticket = recorder_.called(path, identity(mount), Action::put);
    const std::size_t whole = called_whole(mount, NameOperation::Kind::create, path, path);
    history_[whole].identity = ++unknown_identities_ | KeyState::unseen;
    auto descriptor = co_await kernel.open(path, flags, 0644);
    if (!descriptor) {
      if (descriptor.error().code == Errc::exist) {
        recorder_.returned(ticket, Action::present, 0);
        turned_out(whole, NameOperation::Kind::found);
      }
      co_return;
    }
    // Later than it was made, but nobody else can have made another one under this descriptor.
    const Duration made = cluster_.simulation().now();
    auto attributes = co_await kernel.fstat(*descriptor);
    if (attributes) {
      recorder_.returned(ticket, Action::create, identity_of(*attributes), made);
      history_[whole].identity = identity_of(*attributes);
      history_[whole].returned = made;
      co_await keep_open(client, *descriptor, identity_of(*attributes));
    }
    (void)co_await kernel.close(*descriptor);
  }

  Task<void> keep_open(Client* client, Descriptor descriptor, std::uint64_t who) {
    Kernel& kernel = cluster_.kernel(client->mount);
    Bytes content(sizeof who);
    store(content.data(), who);
    auto written = co_await kernel.pwrite(descriptor, 0, content);
    if (!written) co_return note_error(client->mount, written.error());
    for (std::uint64_t i = random_.below(4); i > 0; --i) {
      co_await pause_between_calls(*client);
      auto read = co_await kernel.pread(descriptor, 0, 100);
      if (!read) co_return note_error(client->mount, read.error());
      if (*read != content) violate("an open file has lost its content");
    }
  }

  // Only who loses a lease may lose an open file. That he lost it is known later.
  void note_error(std::size_t mount, const Error& error) {
    errors_of_open_files_.emplace(
        identity(mount), absl::StrCat("an open file cannot be used on mount", mount, " at ",
                                      cluster_.simulation().now() / 1us, " us: ", error.message()));
  }

  Task<void> remove(std::size_t mount, std::string path) {
    const auto ticket = recorder_.called(path, identity(mount), Action::remove);
    const std::size_t whole = called_whole(mount, NameOperation::Kind::remove, path, path);
    auto removed = co_await cluster_.kernel(mount).unlink(path);
    if (removed) {
      recorder_.returned(ticket);
      history_[whole].returned = cluster_.simulation().now();
    } else if (removed.error().code == Errc::no_entry) {
      recorder_.returned(ticket, Action::absent, 0);
      turned_out(whole, NameOperation::Kind::read);
    }
  }

  Task<void> move(std::size_t mount, std::string from, std::string to) {
    if (from == to) co_return;
    const auto taken = recorder_.called(from, identity(mount), Action::remove);
    const auto put = recorder_.called(to, identity(mount), Action::put);
    const std::size_t whole = called_whole(mount, NameOperation::Kind::move, from, to);
    auto moved = co_await cluster_.kernel(mount).rename(from, to, 0);
    if (moved) {
      recorder_.returned(taken);
      recorder_.returned(put);
      history_[whole].returned = cluster_.simulation().now();
    } else if (moved.error().code == Errc::no_entry) {
      recorder_.returned(taken, Action::absent, 0);
      recorder_.withdraw(put);
      turned_out(whole, NameOperation::Kind::read);
    }
  }

  static Task<void> look_at(NameWorkload* self, std::size_t mount, std::string path) {
    const Duration begin = self->cluster_.simulation().now();
    auto attributes = co_await self->cluster_.kernel(mount).stat(path);
    std::uint64_t seen = 0;
    if (attributes) {
      seen = identity_of(*attributes);
    } else if (attributes.error().code != Errc::no_entry) {
      co_return;  // Removed between the name and the attributes, or the lease was lost.
    }
    self->recorder_.seen(path, self->identity(mount), Action::read, seen, begin);
    self->seen_whole(mount, NameOperation::Kind::read, path, seen, begin);
  }

  static Task<void> list(NameWorkload* self, std::size_t mount, std::string directory) {
    const Duration begin = self->cluster_.simulation().now();
    auto listed = co_await self->cluster_.kernel(mount).list(directory);
    if (!listed) co_return;
    std::map<std::string, int> found;
    for (const ListedName& entry : *listed) ++found[absl::StrCat(directory, "/", entry.name)];
    for (std::uint64_t j = 0; j < names; ++j) {
      const std::string path = absl::StrCat(directory, "/", name_of(j));
      const Action action = found.contains(path) ? Action::present : Action::absent;
      self->recorder_.seen(path, self->identity(mount), action, 0, begin);
      const auto kind =
          found.contains(path) ? NameOperation::Kind::found : NameOperation::Kind::read;
      self->seen_whole(mount, kind, path, 0, begin);
    }
    for (const auto& [path, times] : found) {
      if (times > 1) self->violate(absl::StrCat(path, " is listed twice"));
    }
  }

  Task<void> sync_all(std::size_t mount) {
    const Duration begin = cluster_.simulation().now();
    auto synced = co_await cluster_.kernel(mount).sync();
    if (synced) recorder_.synced("dir", identity(mount), begin);
  }

  std::vector<NameOperation> history_;
  std::uint64_t unknown_identities_ = 0;
  std::map<std::uint32_t, std::string> errors_of_open_files_;  // the first of each mount's life
};

}  // namespace

std::unique_ptr<Workload> make_name_workload(Cluster& cluster, RandomStream random) {
  return std::make_unique<NameWorkload>(cluster, random);
}

}  // namespace plumeria::sim
