#include "sim/kernel_model.h"

#include <absl/strings/str_cat.h>
#include <absl/strings/str_split.h>
#include <linux/falloc.h>

#include <algorithm>

#include "base/number.h"

namespace plumeria::sim {
namespace {

// Numbers of the interface between kernel and daemon.
constexpr std::uint32_t type_mask = 0170000, type_directory = 0040000, type_symlink = 0120000;
constexpr std::uint32_t open_read_write = 2, open_append = 02000, open_exclusive = 0200,
                        open_truncate = 01000;
constexpr std::uint32_t rename_exchange = 2;
constexpr int retries_max = 40;  // of an open that races with others

}  // namespace

Kernel::Kernel(Node& node, KernelOptions options, std::uint64_t seed, TaskScope& tasks)
    : node_(node),
      world_(node.world()),
      options_(options),
      random_(seed),
      renaming_(world_.executor),
      tasks_(tasks) {}
Kernel::~Kernel() = default;

// --- Caches --------------------------------------------------------------------------------------

Kernel::Inode& Kernel::inode_at(InodeNumber number) {
  auto& inode = inodes_[number];
  if (!inode) inode = std::make_unique<Inode>(world_, number);
  return *inode;
}

bool Kernel::covered(const std::vector<clerk::Pin>& pins, InodeNumber inode) {
  const lock::LockName name{lock::LockClass::inode, raw(inode)};
  return std::any_of(pins.begin(), pins.end(),
                     [&](const clerk::Pin& pin) { return pin.name() == name; });
}

Task<void> Kernel::request_time() {
  ++count_.requests;
  const Duration time = random_.between(Duration{0}, options_.request_time_max);
  co_await sleep_for(world_, time);
}

void Kernel::trace(const char* what, InodeNumber inode, std::uint64_t number) {
  Simulation& simulation = node_.simulation();
  if (!simulation.tracing()) return;
  simulation.trace(node_.name(),
                   absl::StrCat("kernel: ", what, ", inode ", raw(inode), ", ", number));
}

// The mount is about to give the lock up and has done nothing for a request.
Task<void> Kernel::repeat_later() {
  ++count_.repeated;
  co_await sleep_for(world_, 100us);
}

void Kernel::take_attributes(const Attributes& attributes, bool is_covered) {
  Inode& inode = inode_at(attributes.inode);
  if (!is_covered && inode.size_valid) return;  // What is cached under a lock is not older.
  if (attributes.size < inode.size) truncate_pages(inode, attributes.size);
  inode.size = attributes.size;
  inode.size_valid = is_covered;
  inode.attributes.reset();
  if (is_covered) inode.attributes = attributes;
}

void Kernel::forget_attributes(InodeNumber inode) { inode_at(inode).attributes.reset(); }

void Kernel::directory_changed(InodeNumber directory) {
  forget_attributes(directory);
  inode_at(directory).listing.reset();
  ++inode_at(directory).changes;
}

// The pages beyond `size` go, the last one is zero from there on.
void Kernel::truncate_pages(Inode& inode, std::uint64_t size) {
  const std::uint64_t first_gone = (size + page_size - 1) / page_size;
  inode.pages.erase(inode.pages.lower_bound(first_gone), inode.pages.end());
  const auto last = inode.pages.find(size / page_size);
  if (last == inode.pages.end()) return;
  auto& bytes = last->second.bytes;
  std::fill(bytes.begin() + static_cast<std::ptrdiff_t>(size % page_size), bytes.end(),
            std::byte{0});
}

void Kernel::shrink() {
  for (auto& [number, inode] : inodes_) {
    if (random_.chance(1, 2)) inode->attributes.reset();
    if (random_.chance(1, 2)) inode->entries.clear();
    if (random_.chance(1, 2)) inode->listing.reset();
    std::erase_if(inode->pages,
                  [&](const auto& page) { return !page.second.dirty && random_.chance(1, 2); });
  }
}

// --- Names ---------------------------------------------------------------------------------------

Task<Result<Kernel::Found>> Kernel::look_up(InodeNumber parent, std::string name) {
  const auto& entries = inode_at(parent).entries;
  if (const auto cached = entries.find(name); cached != entries.end()) {
    ++count_.served_names;
    co_return Found{cached->second.inode, cached->second.type};
  }
  co_await request_time();
  auto reply = co_await operations_->lookup(parent, name);
  if (!reply) co_return fail(std::move(reply).error());
  Entry entry;
  if (reply->attributes) {
    entry = Entry{reply->attributes->inode, reply->attributes->mode & type_mask};
    take_attributes(*reply->attributes, covered(reply->pins, *entry.inode));
  }
  if (covered(reply->pins, parent)) inode_at(parent).entries[name] = entry;
  reply->pins.clear();
  co_await request_time();
  co_return Found{entry.inode, entry.type};
}

Task<Result<Kernel::Resolved>> Kernel::resolve(std::string path) {
  ++count_.calls;
  Resolved at{fs::root_inode, ""};
  if (path.empty()) co_return at;
  const std::vector<std::string> names = absl::StrSplit(path, '/');
  for (std::size_t i = 0; i + 1 < names.size(); ++i) {
    auto found = co_await look_up(at.parent, names[i]);
    if (!found) co_return fail(std::move(found).error());
    if (!found->inode) co_return fail(Errc::no_entry);
    if (found->type != type_directory) co_return fail(Errc::not_directory);
    at.parent = *found->inode;
  }
  at.name = names.back();
  if (at.name.size() > fs::name_max) co_return fail(Errc::name_too_long);
  co_return at;
}

Task<Result<Kernel::Found>> Kernel::find(std::string path) {
  auto at = co_await resolve(path);
  if (!at) co_return fail(std::move(at).error());
  if (at->name.empty()) co_return Found{fs::root_inode, type_directory};
  co_return co_await look_up(at->parent, at->name);
}

Task<Result<InodeNumber>> Kernel::must_find(std::string path) {
  auto found = co_await find(path);
  if (!found) co_return fail(std::move(found).error());
  if (!found->inode) co_return fail(Errc::no_entry);
  co_return *found->inode;
}

void Kernel::entry_made(InodeNumber parent, const std::string& name,
                        const fs::Covered<Attributes>& made) {
  take_attributes(made.value, covered(made.pins, made.value.inode));
  directory_changed(parent);
  auto& entries = inode_at(parent).entries;
  entries.erase(name);
  if (covered(made.pins, parent)) {
    entries[name] = Entry{made.value.inode, made.value.mode & type_mask};
  }
}

Task<Status> Kernel::mkdir(std::string path, std::uint32_t mode) {
  auto at = co_await resolve(path);
  if (!at) co_return fail(std::move(at).error());
  if (at->name.empty()) co_return fail(Errc::exist);
  auto guard = co_await inode_at(at->parent).changing.lock();
  auto found = co_await look_up(at->parent, at->name);
  if (!found) co_return fail(std::move(found).error());
  if (found->inode) co_return fail(Errc::exist);
  co_await request_time();
  auto made = co_await operations_->mkdir(at->parent, at->name, mode, caller());
  if (!made) co_return fail(std::move(made).error());
  entry_made(at->parent, at->name, *made);
  co_return Status{};
}

Task<Status> Kernel::symlink(std::string target, std::string path) {
  auto at = co_await resolve(path);
  if (!at) co_return fail(std::move(at).error());
  if (at->name.empty()) co_return fail(Errc::exist);
  auto guard = co_await inode_at(at->parent).changing.lock();
  auto found = co_await look_up(at->parent, at->name);
  if (!found) co_return fail(std::move(found).error());
  if (found->inode) co_return fail(Errc::exist);
  co_await request_time();
  auto made = co_await operations_->symlink(at->parent, at->name, target, caller());
  if (!made) co_return fail(std::move(made).error());
  entry_made(at->parent, at->name, *made);
  co_return Status{};
}

Task<Status> Kernel::link(std::string from, std::string to) {
  auto source = co_await find(from);
  if (!source) co_return fail(std::move(source).error());
  if (!source->inode) co_return fail(Errc::no_entry);
  if (source->type == type_directory) co_return fail(Errc::not_permitted);
  auto at = co_await resolve(to);
  if (!at) co_return fail(std::move(at).error());
  if (at->name.empty()) co_return fail(Errc::exist);
  auto guard = co_await inode_at(at->parent).changing.lock();
  auto found = co_await look_up(at->parent, at->name);
  if (!found) co_return fail(std::move(found).error());
  if (found->inode) co_return fail(Errc::exist);
  co_await request_time();
  auto made = co_await operations_->link(*source->inode, at->parent, at->name);
  if (!made) co_return fail(std::move(made).error());
  entry_made(at->parent, at->name, *made);
  co_return Status{};
}

Task<Status> Kernel::unlink(std::string path) {
  auto at = co_await resolve(path);
  if (!at) co_return fail(std::move(at).error());
  if (at->name.empty()) co_return fail(Errc::is_directory);
  auto guard = co_await inode_at(at->parent).changing.lock();
  auto found = co_await look_up(at->parent, at->name);
  if (!found) co_return fail(std::move(found).error());
  if (!found->inode) co_return fail(Errc::no_entry);
  if (found->type == type_directory) co_return fail(Errc::is_directory);
  co_await request_time();
  auto done = co_await operations_->unlink(at->parent, at->name);
  if (!done) co_return done;
  inode_at(at->parent).entries.erase(at->name);
  directory_changed(at->parent);
  forget_attributes(*found->inode);
  co_return done;
}

Task<Status> Kernel::rmdir(std::string path) {
  auto at = co_await resolve(path);
  if (!at) co_return fail(std::move(at).error());
  if (at->name.empty()) co_return fail(Errc::busy);
  auto guard = co_await inode_at(at->parent).changing.lock();
  auto found = co_await look_up(at->parent, at->name);
  if (!found) co_return fail(std::move(found).error());
  if (!found->inode) co_return fail(Errc::no_entry);
  if (found->type != type_directory) co_return fail(Errc::not_directory);
  co_await request_time();
  auto done = co_await operations_->rmdir(at->parent, at->name);
  if (!done) co_return done;
  inode_at(at->parent).entries.erase(at->name);
  directory_changed(at->parent);
  forget_attributes(*found->inode);
  co_return done;
}

Task<Status> Kernel::rename(std::string from, std::string to, std::uint32_t flags) {
  auto source = co_await resolve(from);
  if (!source) co_return fail(std::move(source).error());
  auto target = co_await resolve(to);
  if (!target) co_return fail(std::move(target).error());
  if (source->name.empty() || target->name.empty()) co_return fail(Errc::busy);
  std::optional<Mutex::Guard> across, first, second;
  if (source->parent != target->parent) across.emplace(co_await renaming_.lock());
  first.emplace(co_await inode_at(std::min(source->parent, target->parent)).changing.lock());
  if (source->parent != target->parent) {
    second.emplace(co_await inode_at(std::max(source->parent, target->parent)).changing.lock());
  }
  auto moved = co_await look_up(source->parent, source->name);
  if (!moved) co_return fail(std::move(moved).error());
  if (!moved->inode) co_return fail(Errc::no_entry);
  auto replaced = co_await look_up(target->parent, target->name);
  if (!replaced) co_return fail(std::move(replaced).error());
  if (*moved->inode == target->parent) co_return fail(Errc::invalid);  // Into itself.
  Inode& old_parent = inode_at(source->parent);
  Inode& new_parent = inode_at(target->parent);
  const std::uint64_t drops_before = old_parent.names_dropped + new_parent.names_dropped;
  co_await request_time();
  auto done = co_await operations_->rename(source->parent, source->name, target->parent,
                                           target->name, flags);
  if (!done) co_return done;
  const auto kept_entry = old_parent.entries.find(source->name);
  const bool still_covered = drops_before == old_parent.names_dropped + new_parent.names_dropped &&
                             kept_entry != old_parent.entries.end() &&
                             kept_entry->second.inode == moved->inode;
  const bool hard_linked = replaced->inode == moved->inode;
  if (hard_linked || (flags & rename_exchange) != 0 || !still_covered) {
    old_parent.entries.erase(source->name);
    new_parent.entries.erase(target->name);
  } else {
    const Entry entry = kept_entry->second;
    old_parent.entries.erase(kept_entry);
    new_parent.entries[target->name] = entry;
  }
  directory_changed(source->parent);
  directory_changed(target->parent);
  forget_attributes(*moved->inode);
  if (replaced->inode) forget_attributes(*replaced->inode);
  co_return done;
}

Task<Result<std::string>> Kernel::readlink(std::string path) {
  auto found = co_await find(path);
  if (!found) co_return fail(std::move(found).error());
  if (!found->inode) co_return fail(Errc::no_entry);
  if (found->type != type_symlink) co_return fail(Errc::invalid);
  co_await request_time();
  co_return co_await operations_->readlink(*found->inode);
}

Task<Result<std::vector<ListedName>>> Kernel::list(std::string path) {
  auto found = co_await find(path);
  if (!found) co_return fail(std::move(found).error());
  if (!found->inode) co_return fail(Errc::no_entry);
  if (found->type != type_directory) co_return fail(Errc::not_directory);
  Inode& directory = inode_at(*found->inode);
  if (directory.listing) {
    ++count_.served_listings;
    co_return *directory.listing;
  }
  std::vector<ListedName> names;
  bool all_covered = true;
  std::uint64_t cookie = 0, versions_before = 0;
  for (bool first = true;; first = false) {
    co_await request_time();
    const std::size_t max = random_.between(3, 40);
    const bool plus = random_.chance(1, 2);
    auto reply = co_await operations_->readdir(directory.number, cookie, max, plus);
    if (!reply) co_return fail(std::move(reply).error());
    if (first) versions_before = directory.names_dropped + directory.changes;
    if (!covered(reply->pins, directory.number)) all_covered = false;
    for (const fs::DirectoryEntry& entry : reply->value) {
      cookie = entry.cookie;
      if (entry.name == "." || entry.name == "..") continue;
      names.push_back(ListedName{entry.name, entry.type & type_mask});
      if (entry.attributes) {
        take_attributes(*entry.attributes, covered(reply->pins, entry.inode));
        if (covered(reply->pins, directory.number)) {
          directory.entries[entry.name] = Entry{entry.inode, entry.type & type_mask};
        }
      }
    }
    if (reply->value.empty()) break;
  }
  const auto by_name = [](const ListedName& a, const ListedName& b) { return a.name < b.name; };
  std::sort(names.begin(), names.end(), by_name);
  if (all_covered && versions_before == directory.names_dropped + directory.changes) {
    directory.listing = names;
  }
  co_return names;
}

// --- Attributes ----------------------------------------------------------------------------------

Task<Result<Attributes>> Kernel::attributes_of(InodeNumber number) {
  if (const auto& cached = inode_at(number).attributes) {
    ++count_.served_attributes;
    co_return *cached;
  }
  co_await request_time();
  trace("sends GETATTR", number);
  auto reply = co_await operations_->getattr(number);
  if (!reply) co_return fail(std::move(reply).error());
  take_attributes(reply->value, covered(reply->pins, number));
  co_return reply->value;
}

Task<Status> Kernel::refresh_size(InodeNumber number) {
  if (inode_at(number).size_valid) co_return Status{};
  auto attributes = co_await attributes_of(number);
  if (!attributes) co_return fail(std::move(attributes).error());
  co_return Status{};
}

Task<Result<Attributes>> Kernel::stat(std::string path) {
  auto inode = co_await must_find(path);
  if (!inode) co_return fail(std::move(inode).error());
  co_return co_await attributes_of(*inode);
}

Task<Result<Attributes>> Kernel::fstat(Descriptor descriptor) {
  ++count_.calls;
  auto file = file_of(descriptor);
  if (!file) co_return fail(std::move(file).error());
  co_return co_await attributes_of(file->inode);
}

Task<Status> Kernel::chmod(std::string path, std::uint32_t mode) {
  auto inode = co_await must_find(path);
  if (!inode) co_return fail(std::move(inode).error());
  auto guard = co_await inode_at(*inode).changing.lock();
  co_await request_time();
  fs::Changes changes;
  changes.mode = mode;
  auto reply = co_await operations_->setattr(*inode, changes, caller(), fs::Access::normal);
  if (!reply) co_return fail(std::move(reply).error());
  take_attributes(reply->value, covered(reply->pins, *inode));
  co_return Status{};
}

Task<Result<std::optional<Bytes>>> Kernel::getxattr(std::string path, std::string name) {
  CO_TRY(const InodeNumber inode, co_await must_find(path));
  co_await request_time();
  auto reply = co_await operations_->getxattr(inode, name);
  if (!reply) co_return fail(std::move(reply).error());
  co_return std::move(reply->value);
}

Task<Result<std::vector<std::string>>> Kernel::listxattr(std::string path) {
  CO_TRY(const InodeNumber inode, co_await must_find(path));
  co_await request_time();
  co_return co_await operations_->listxattr(inode);
}

Task<Status> Kernel::setxattr(std::string path, std::string name, Bytes value,
                              std::uint32_t flags) {
  CO_TRY(const InodeNumber inode, co_await must_find(path));
  auto guard = co_await inode_at(inode).changing.lock();
  co_await request_time();
  auto done = co_await operations_->setxattr(inode, name, std::move(value), flags, false);
  forget_attributes(inode);
  co_return done;
}

Task<Status> Kernel::removexattr(std::string path, std::string name) {
  CO_TRY(const InodeNumber inode, co_await must_find(path));
  auto guard = co_await inode_at(inode).changing.lock();
  co_await request_time();
  auto done = co_await operations_->removexattr(inode, name);
  forget_attributes(inode);
  co_return done;
}

// --- Requests that may be kept back --------------------------------------------------------------

Task<fs::Access> Kernel::turn(InodeNumber number, RequestKind kind, std::shared_ptr<Kept>* kept) {
  for (;;) {
    Inode& inode = inode_at(number);
    if (inode.holds == 0) co_return fs::Access::normal;
    if (kind == RequestKind::write_page && inode.drops > 0) co_return fs::Access::under_revoke;
    const auto request = std::make_shared<Kept>(world_.executor, kind);
    inode.kept.push_back(request);
    ++count_.kept;
    while (!request->over && !request->under_revoke) co_await request->changed.next();
    if (!request->under_revoke) continue;
    ++count_.answered_under_revoke;
    *kept = request;
    co_return fs::Access::under_revoke;
  }
}

// The request that had its turn under a revoke is answered.
void Kernel::turn_over(const std::shared_ptr<Kept>& kept) {
  if (!kept) return;
  kept->over = true;
  kept->changed.notify_all();
}

Task<void> Kernel::answer_kept(InodeNumber number, RequestKind kind) {
  for (;;) {
    auto& kept = inode_at(number).kept;
    const auto found = std::find_if(kept.begin(), kept.end(),
                                    [&](const auto& request) { return request->kind == kind; });
    if (found == kept.end()) co_return;
    const std::shared_ptr<Kept> request = *found;
    kept.erase(found);
    request->under_revoke = true;
    request->changed.notify_all();
    while (!request->over) co_await request->changed.next();
  }
}

void Kernel::hold(InodeNumber number) {
  trace("hold", number);
  ++inode_at(number).holds;
}

void Kernel::release(InodeNumber number) {
  trace("release", number);
  Inode& inode = inode_at(number);
  CHECK(inode.holds > 0);
  if (--inode.holds > 0) return;
  for (const auto& request : std::exchange(inode.kept, {})) {
    request->over = true;
    request->changed.notify_all();
  }
}

Task<void> Kernel::drop(InodeNumber number, mount::What what) {
  trace("drop", number, (what.attributes ? 1 : 0) + (what.pages ? 2 : 0) + (what.names ? 4 : 0));
  Inode& inode = inode_at(number);
  ++count_.drops;
  if (what.names) {
    inode.entries.clear();
    inode.listing.reset();
    ++inode.names_dropped;
  }
  if (what.pages) co_await drop_pages(number);
  if (what.attributes) {
    inode.attributes.reset();
    inode.size_valid = false;
  }
  trace("dropped", number);
  co_await sleep_for(world_, random_.between(Duration{0}, options_.request_time_max));
}

Task<void> Kernel::drop_pages(InodeNumber number) {
  Inode& inode = inode_at(number);
  ++inode.drops;
  ++inode.pages_dropped;
  co_await answer_kept(number, RequestKind::write_page);
  for (;;) {
    std::erase_if(inode.pages, [](const auto& page) { return !page.second.dirty; });
    if (inode.pages.empty() && inode.writing.empty() && inode.reading == 0) break;
    if (inode.truncating) co_await answer_kept(number, RequestKind::truncate);
    // Also requests that block nothing may be answered under the lock.
    if (random_.chance(1, 4)) co_await answer_kept(number, RequestKind::read);
    if (random_.chance(1, 4)) co_await answer_kept(number, RequestKind::write);
    if (!inode.pages.empty()) {
      ++count_.dirty_pages_at_drop;
      (void)co_await write_back_page(number, inode.pages.begin()->first);
    } else if (!inode.writing.empty() || inode.reading > 0) {
      co_await inode.answered.next();
    }
  }
  --inode.drops;
  ++inode.pages_dropped;
}

// Of one inode whose lock does not go.
Task<void> Kernel::forget_pages(InodeNumber number, std::shared_ptr<std::uint64_t> left) {
  hold(number);
  co_await drop_pages(number);
  inode_at(number).attributes.reset();
  inode_at(number).size_valid = false;
  release(number);
  --*left;
}

Task<bool> Kernel::drop_everything(TimePoint deadline) {
  const auto left = std::make_shared<std::uint64_t>(0);
  for (auto& [number, inode] : inodes_) {
    inode->entries.clear();
    inode->listing.reset();
    ++inode->names_dropped;
    inode->attributes.reset();
    inode->size_valid = false;
    if (inode->drops > 0) continue;  // Its own revoke does it.
    ++*left;
    tasks_.spawn(forget_pages(number, left));
  }
  while (*left > 0 && world_.clock.now() < deadline) co_await sleep_for(world_, 1ms);
  co_return *left == 0;
}

// --- Files ---------------------------------------------------------------------------------------

Result<Kernel::File> Kernel::file_of(Descriptor descriptor) const {
  const auto found = files_.find(descriptor);
  if (found == files_.end()) return fail(Errc::bad_handle);
  return found->second;
}

InodeNumber Kernel::inode_of(Descriptor descriptor) const { return files_.at(descriptor).inode; }

std::string Kernel::what_is_cached(InodeNumber number) const {
  const auto found = inodes_.find(number);
  if (found == inodes_.end()) return "";
  const Inode& inode = *found->second;
  if (inode.attributes || inode.size_valid) return "attributes";
  if (!inode.entries.empty() || inode.listing) return "names";
  // A write(2) puts its bytes into the cache before the mount orders it.
  if (!inode.pages.empty() && !inode.changing.is_locked()) return "pages";
  return "";
}

Task<Result<Descriptor>> Kernel::open(std::string path, OpenFlags flags, std::uint32_t mode) {
  auto at = co_await resolve(path);
  if (!at) co_return fail(std::move(at).error());
  if (at->name.empty()) co_return fail(Errc::is_directory);
  for (int attempt = 0; attempt < retries_max; ++attempt) {
    auto found = co_await look_up(at->parent, at->name);
    if (!found) co_return fail(std::move(found).error());
    if (found->inode) {
      if (flags.create && flags.exclusive) co_return fail(Errc::exist);
      if (found->type == type_directory) co_return fail(Errc::is_directory);
      if (found->type == type_symlink) co_return fail(Errc::loop);
      auto opened = co_await open_found(*found->inode, flags);
      if (opened || opened.error().code != Errc::stale) co_return opened;
      inode_at(at->parent).entries.erase(at->name);  // Removed meanwhile: look again.
      continue;
    }
    if (!flags.create) co_return fail(Errc::no_entry);
    auto created = co_await create(at->parent, at->name, flags, mode);
    const bool lost_race = !created && created.error().code == Errc::exist && !flags.exclusive;
    if (!lost_race) co_return created;
    inode_at(at->parent).entries.erase(at->name);
  }
  co_return fail(Errc::stale, path);
}

Task<Result<Descriptor>> Kernel::create(InodeNumber parent, std::string name, OpenFlags flags,
                                        std::uint32_t mode) {
  auto guard = co_await inode_at(parent).changing.lock();
  auto found = co_await look_up(parent, name);
  if (!found) co_return fail(std::move(found).error());
  if (found->inode) co_return fail(Errc::exist);
  co_await request_time();
  std::uint32_t number = open_read_write;
  if (flags.append) number |= open_append;
  if (flags.exclusive) number |= open_exclusive;
  if (flags.truncate) number |= open_truncate;
  auto made = co_await operations_->create(parent, name, mode, number, caller());
  if (!made) co_return fail(std::move(made).error());
  entry_made(parent, name, made->entry);
  co_return add_file(File{made->entry.value.inode, made->handle, flags});
}

Descriptor Kernel::add_file(File file) {
  const Descriptor descriptor{++last_descriptor_};
  files_.emplace(descriptor, file);
  return descriptor;
}

Task<Result<Descriptor>> Kernel::open_found(InodeNumber inode, OpenFlags flags) {
  co_await request_time();
  std::uint32_t number = flags.writable ? open_read_write : 0;
  if (flags.append) number |= open_append;
  auto handle = co_await operations_->open(inode, number);
  if (!handle) co_return fail(std::move(handle).error());
  const Descriptor descriptor = add_file(File{inode, *handle, flags});
  if (!flags.truncate) co_return descriptor;
  auto emptied = co_await set_size(inode, 0);
  if (emptied) co_return descriptor;
  (void)co_await close(descriptor);
  co_return fail(std::move(emptied).error());
}

Task<Status> Kernel::close(Descriptor descriptor) {
  ++count_.calls;
  auto file = file_of(descriptor);
  if (!file) co_return fail(std::move(file).error());
  Status written;
  if (file->flags.writable) written = co_await write_back(file->inode);
  const bool locked = files_.at(descriptor).has_file_lock;
  files_.erase(descriptor);
  co_await request_time();
  if (locked) {
    (void)co_await operations_->drop_file_locks(file->inode, true, raw(descriptor));
  }
  auto released = co_await operations_->release(file->handle);
  co_return written ? released : written;
}

Task<Result<Bytes>> Kernel::pread(Descriptor descriptor, std::uint64_t offset, std::uint32_t size) {
  ++count_.calls;
  auto file = file_of(descriptor);
  if (!file) co_return fail(std::move(file).error());
  Bytes result;
  while (size > 0) {
    const std::uint64_t inside = offset % page_size;
    const auto part = static_cast<std::uint32_t>(std::min<std::uint64_t>(size, page_size - inside));
    auto bytes = co_await read_in_page(file->inode, offset, part);
    if (!bytes) co_return fail(std::move(bytes).error());
    result.insert(result.end(), bytes->begin(), bytes->end());
    if (bytes->size() < part) break;
    offset += part;
    size -= part;
  }
  co_return result;
}

// Of one page; what it has is decided at one moment.
Task<Result<Bytes>> Kernel::read_in_page(InodeNumber number, std::uint64_t offset,
                                         std::uint32_t size) {
  Inode& inode = inode_at(number);
  if (offset + size > inode.size) {
    auto refreshed = co_await refresh_size(number);
    if (!refreshed) co_return fail(std::move(refreshed).error());
  }
  if (offset >= inode.size) co_return Bytes{};
  const auto page = inode.pages.find(offset / page_size);
  if (page == inode.pages.end()) co_return co_await fill_page(number, offset, size);
  ++count_.served_pages;
  const std::uint64_t length = std::min<std::uint64_t>(size, inode.size - offset);
  const auto from = page->second.bytes.begin() + static_cast<std::ptrdiff_t>(offset % page_size);
  co_return Bytes(from, from + static_cast<std::ptrdiff_t>(length));
}

// Sends a READ for the page of `offset` and some after it. What the reply has for the caller is
// returned: the page may be dropped again before the caller looks at the cache.
Task<Result<Bytes>> Kernel::fill_page(InodeNumber number, std::uint64_t offset,
                                      std::uint32_t size) {
  Inode& inode = inode_at(number);
  const std::uint64_t first = offset / page_size;
  const std::uint64_t wanted = random_.between(1, options_.read_ahead_pages);
  const std::uint64_t start = first * page_size;
  co_await request_time();
  std::shared_ptr<Kept> kept;
  std::uint64_t pages = 0, length = 0, writes_before = 0;
  Result<Bytes> reply;
  for (;;) {
    // A page's WRITE can be under way longer than the page is in the cache (fuse_readahead waits).
    const auto is_written = [&] {
      const auto written = inode.writing.lower_bound(first);
      return written != inode.writing.end() && *written < first + wanted;
    };
    while (is_written()) co_await inode.answered.next();
    const fs::Access access = co_await turn(number, RequestKind::read, &kept);
    if (access == fs::Access::normal) ++inode.reading;
    trace("sends READ", number, start);
    // It ends before the next page that is there (page_cache_ra_unbounded in Linux).
    for (pages = 1; pages < wanted && !inode.pages.contains(first + pages);) ++pages;
    length = pages * page_size;
    writes_before = inode.writes_sent;
    reply = co_await operations_->read(number, start, static_cast<std::uint32_t>(length), access);
    if (access == fs::Access::normal && --inode.reading == 0) inode.answered.notify_all();
    trace(access == fs::Access::normal ? "READ" : "READ under revoke", number, start);
    if (reply || reply.error().code != Errc::again) break;
    turn_over(kept);
    kept.reset();
    co_await repeat_later();
  }
  if (!reply) {
    turn_over(kept);
    co_return fail(std::move(reply).error());
  }
  const std::uint64_t end = start + reply->size();
  if (reply->size() < length && end < inode.size && !inode.changing.is_locked()) {
    inode.size = end;
    inode.size_valid = false;
  }
  // Linux keeps the pages locked while they are read, so that nobody has written to them since.
  const bool may_fill = inode.writes_sent == writes_before;
  for (std::uint64_t i = 0; may_fill && i < pages && i * page_size < reply->size(); ++i) {
    const auto [page, is_new] = inode.pages.try_emplace(first + i);
    if (!is_new) continue;  // A mapping or a WRITE was faster.
    const std::uint64_t part = std::min<std::uint64_t>(page_size, reply->size() - i * page_size);
    std::copy_n(reply->begin() + static_cast<std::ptrdiff_t>(i * page_size), part,
                page->second.bytes.begin());
  }
  turn_over(kept);
  const std::uint64_t stop = std::min(offset + size, end);
  if (stop <= offset) co_return Bytes{};
  const auto from = reply->begin() + static_cast<std::ptrdiff_t>(offset - start);
  co_return Bytes(from, from + static_cast<std::ptrdiff_t>(stop - offset));
}

Task<Result<std::uint64_t>> Kernel::pwrite(Descriptor descriptor, std::uint64_t offset,
                                           Bytes data) {
  ++count_.calls;
  auto file = file_of(descriptor);
  if (!file) co_return fail(std::move(file).error());
  if (!file->flags.writable) co_return fail(Errc::bad_handle);
  auto guard = co_await inode_at(file->inode).changing.lock();
  const std::uint64_t size = data.size();
  auto written = co_await write_through(file->inode, offset, std::move(data), file->flags.append);
  if (!written) co_return fail(std::move(written).error());
  co_return size;
}

Task<Status> Kernel::write_through(InodeNumber number, std::uint64_t offset, Bytes data,
                                   bool append) {
  Inode& inode = inode_at(number);
  const SharedBytes bytes(std::move(data));
  std::uint64_t drops_before = 0;
  for (;;) {
    if (!append) copy_into_pages(inode, offset, bytes.view());
    drops_before = inode.pages_dropped;
    co_await request_time();
    std::shared_ptr<Kept> kept;
    const fs::Access access = co_await turn(number, RequestKind::write, &kept);
    trace("sends WRITE", number, offset);
    ++inode.writes_sent;
    auto reply = co_await operations_->write(number, offset, bytes, append, false, access);
    trace(access == fs::Access::normal ? "WRITE" : "WRITE under revoke", number, offset);
    if (!reply && reply.error().code == Errc::again) {
      turn_over(kept);
      co_await repeat_later();
      continue;
    }
    if (!reply) {
      erase_pages(inode, offset, bytes.size());
      turn_over(kept);
      co_return fail(std::move(reply).error());
    }
    inode.attributes.reset();
    if (append) {
      erase_pages(inode, reply->offset, bytes.size());
      inode.size_valid = false;
    } else {
      // The range's pages may be those of somebody else by now.
      if (drops_before != inode.pages_dropped) erase_pages(inode, offset, bytes.size());
      inode.size = std::max(inode.size, offset + bytes.size());
    }
    turn_over(kept);
    co_return Status{};
  }
}

// What a WRITE changes in the cache before it is sent: pages that are there, and whole ones.
void Kernel::copy_into_pages(Inode& inode, std::uint64_t offset, ByteView data) {
  while (!data.empty()) {
    const std::uint64_t inside = offset % page_size;
    const std::uint64_t part = std::min<std::uint64_t>(data.size(), page_size - inside);
    auto page = inode.pages.find(offset / page_size);
    if (page == inode.pages.end() && part == page_size) {
      page = inode.pages.try_emplace(offset / page_size).first;
    }
    if (page != inode.pages.end()) {
      std::copy_n(data.begin(), part,
                  page->second.bytes.begin() + static_cast<std::ptrdiff_t>(inside));
    }
    data = data.subspan(part);
    offset += part;
  }
}

void Kernel::erase_pages(Inode& inode, std::uint64_t offset, std::uint64_t size) {
  const std::uint64_t first = offset / page_size, last = (offset + size - 1) / page_size;
  for (auto page = inode.pages.lower_bound(first);
       page != inode.pages.end() && page->first <= last;) {
    page = page->second.dirty ? std::next(page) : inode.pages.erase(page);
  }
}

Task<Status> Kernel::set_size(InodeNumber number, std::uint64_t size) {
  Inode& inode = inode_at(number);
  auto guard = co_await inode.changing.lock();
  // No dirty page is sent from here until the answer; those under way are awaited.
  inode.truncating = true;
  while (!inode.writing.empty()) co_await inode.answered.next();
  fs::Changes changes;
  changes.size = size;
  for (;;) {
    co_await request_time();
    std::shared_ptr<Kept> kept;
    const fs::Access access = co_await turn(number, RequestKind::truncate, &kept);
    auto reply = co_await operations_->setattr(number, changes, caller(), access);
    trace(access == fs::Access::normal ? "truncate" : "truncate under revoke", number, size);
    const bool again = !reply && reply.error().code == Errc::again;
    if (reply) {
      truncate_pages(inode, size);
      take_attributes(reply->value, covered(reply->pins, number));
    }
    if (!again) inode.truncating = false;
    turn_over(kept);
    inode.answered.notify_all();
    if (again) {
      co_await repeat_later();
      continue;
    }
    if (!reply) co_return fail(std::move(reply).error());
    co_return Status{};
  }
}

// As set_size(): what is dirty goes out first, what is zeroed is forgotten afterwards.
Task<Status> Kernel::change_space(InodeNumber number, std::uint64_t offset, std::uint64_t length,
                                  std::uint32_t mode) {
  Inode& inode = inode_at(number);
  auto guard = co_await inode.changing.lock();
  CO_TRY_STATUS(co_await write_back(number));
  for (;;) {
    co_await request_time();
    std::shared_ptr<Kept> kept;
    const fs::Access access = co_await turn(number, RequestKind::truncate, &kept);
    auto done = co_await operations_->fallocate(number, offset, length, mode, access);
    trace(access == fs::Access::normal ? "fallocate" : "fallocate under revoke", number, offset);
    const bool again = !done && done.error().code == Errc::again;
    if (done) {
      const bool zeroes = (mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)) != 0;
      if (zeroes) erase_pages(inode, offset, length);
      if ((mode & FALLOC_FL_KEEP_SIZE) == 0) inode.size = std::max(inode.size, offset + length);
      forget_attributes(number);
    }
    turn_over(kept);
    inode.answered.notify_all();
    if (!again) co_return done;
    co_await repeat_later();
  }
}

Task<Status> Kernel::fallocate(Descriptor descriptor, std::uint64_t offset, std::uint64_t length,
                               std::uint32_t mode) {
  ++count_.calls;
  CO_TRY(const File file, file_of(descriptor));
  if (!file.flags.writable) co_return fail(Errc::invalid);
  co_return co_await change_space(file.inode, offset, length, mode);
}

Task<Status> Kernel::ftruncate(Descriptor descriptor, std::uint64_t size) {
  ++count_.calls;
  auto file = file_of(descriptor);
  if (!file) co_return fail(std::move(file).error());
  if (!file->flags.writable) co_return fail(Errc::invalid);
  co_return co_await set_size(file->inode, size);
}

Task<Status> Kernel::truncate(std::string path, std::uint64_t size) {
  auto found = co_await find(path);
  if (!found) co_return fail(std::move(found).error());
  if (!found->inode) co_return fail(Errc::no_entry);
  if (found->type == type_directory) co_return fail(Errc::is_directory);
  if (found->type == type_symlink) co_return fail(Errc::invalid);
  co_return co_await set_size(*found->inode, size);
}

Task<Status> Kernel::fsync(Descriptor descriptor) {
  ++count_.calls;
  auto file = file_of(descriptor);
  if (!file) co_return fail(std::move(file).error());
  CO_TRY_STATUS(co_await write_back(file->inode));
  co_await request_time();
  co_return co_await operations_->fsync(file->inode, false);
}

Task<Status> Kernel::fsync_directory(std::string path) {
  auto inode = co_await must_find(path);
  if (!inode) co_return fail(std::move(inode).error());
  co_await request_time();
  co_return co_await operations_->fsync(*inode, false);
}

Task<Status> Kernel::sync() {
  ++count_.calls;
  std::vector<InodeNumber> numbers;
  for (const auto& [number, inode] : inodes_) numbers.push_back(number);
  for (const InodeNumber number : numbers) CO_TRY_STATUS(co_await write_back(number));
  co_await request_time();
  co_return co_await operations_->sync_everything();
}

// --- Shared mappings -----------------------------------------------------------------------------

Task<Result<Bytes>> Kernel::load(Descriptor descriptor, std::uint64_t offset, std::uint32_t size) {
  ++count_.calls;
  CHECK(offset / page_size == (offset + size - 1) / page_size);
  auto file = file_of(descriptor);
  if (!file) co_return fail(std::move(file).error());
  auto bytes = co_await read_in_page(file->inode, offset, size);
  if (!bytes) co_return fail(std::move(bytes).error());
  if (bytes->empty()) co_return fail(Errc::range);
  bytes->resize(size);  // The rest of the last page is zero.
  co_return bytes;
}

Task<Status> Kernel::store(Descriptor descriptor, std::uint64_t offset, Bytes data) {
  ++count_.calls;
  CHECK(offset / page_size == (offset + data.size() - 1) / page_size);
  auto file = file_of(descriptor);
  if (!file) co_return fail(std::move(file).error());
  if (!file->flags.writable) co_return fail(Errc::bad_handle);
  Inode& inode = inode_at(file->inode);
  for (;;) {
    auto refreshed = co_await refresh_size(file->inode);
    if (!refreshed) co_return refreshed;
    if (offset >= inode.size) co_return fail(Errc::range);
    const auto page = inode.pages.find(offset / page_size);
    if (page != inode.pages.end()) {
      // Bytes behind the end are no part of the file. Whether they show when it grows POSIX leaves
      // open (mmap); here they never do.
      const std::uint64_t within = std::min<std::uint64_t>(data.size(), inode.size - offset);
      copy_into_pages(inode, offset, ByteView(data).first(within));
      page->second.dirty = true;
      const Duration delay = random_.between(Duration{0}, options_.write_back_max);
      tasks_.spawn(write_back_later(file->inode, delay));
      co_return Status{};
    }
    auto filled = co_await fill_page(file->inode, offset, 1);
    if (!filled) co_return fail(std::move(filled).error());
  }
}

Task<Status> Kernel::msync(Descriptor descriptor) { return fsync(descriptor); }

Task<void> Kernel::write_back_later(InodeNumber number, Duration delay) {
  co_await sleep_for(world_, delay);
  (void)co_await write_back(number);
}

Task<Status> Kernel::write_back(InodeNumber number) {
  Inode& inode = inode_at(number);
  std::vector<std::uint64_t> dirty;
  for (const auto& [index, page] : inode.pages) {
    if (page.dirty) dirty.push_back(index);
  }
  Status status;
  for (const std::uint64_t index : dirty) {
    auto written = co_await write_back_page(number, index);
    if (!written) status = written;
  }
  while (!inode.writing.empty()) co_await inode.answered.next();
  co_return status;
}

Task<Status> Kernel::write_back_page(InodeNumber number, std::uint64_t index) {
  Inode& inode = inode_at(number);
  while (inode.writing.contains(index) || inode.truncating) {
    // A kept truncation holds the page up, and a drop waits for the page: it goes first.
    if (inode.truncating && inode.drops > 0) co_await answer_kept(number, RequestKind::truncate);
    if (inode.writing.contains(index) || inode.truncating) co_await inode.answered.next();
  }
  const auto page = inode.pages.find(index);
  if (page == inode.pages.end() || !page->second.dirty) co_return Status{};
  page->second.dirty = false;
  const std::uint64_t start = index * page_size;
  if (inode.size <= start) co_return Status{};
  const std::uint64_t length = std::min(page_size, inode.size - start);
  const SharedBytes bytes =
      SharedBytes::copy_of(ByteView(page->second.bytes).first(static_cast<std::size_t>(length)));
  inode.writing.insert(index);
  for (;;) {
    std::shared_ptr<Kept> kept;
    const fs::Access access = co_await turn(number, RequestKind::write_page, &kept);
    ++inode.writes_sent;
    trace("sends page", number, start);
    auto reply = co_await operations_->write_mapped(number, start, bytes, false, access);
    trace(access == fs::Access::normal ? "page written" : "page written under revoke", number,
          start);
    turn_over(kept);
    if (!reply && reply.error().code == Errc::again) {
      co_await repeat_later();
      continue;
    }
    inode.writing.erase(index);
    inode.attributes.reset();
    if (!reply) inode.pages.erase(index);
    inode.answered.notify_all();
    if (!reply) co_return fail(std::move(reply).error());
    co_return Status{};
  }
}

// --- File locks ----------------------------------------------------------------------------------

Task<Status> Kernel::flock(Descriptor descriptor, lock::Mode mode, bool wait) {
  ++count_.calls;
  auto file = file_of(descriptor);
  if (!file) co_return fail(std::move(file).error());
  files_.at(descriptor).has_file_lock = true;
  clerk::FileLock wanted;
  wanted.inode = raw(file->inode);
  wanted.is_flock = true;
  wanted.owner = raw(descriptor);
  wanted.mode = mode;
  co_await request_time();
  const std::uint64_t request = ++last_lock_request_;
  co_return co_await operations_->set_file_lock(wanted, wait, request);
}

}  // namespace plumeria::sim
