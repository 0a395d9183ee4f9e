#include "os/host_store.h"

#include <absl/strings/str_cat.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <limits>
#include <set>
#include <utility>
#include <vector>

#include "base/async.h"
#include "base/check.h"
#include "base/log.h"
#include "base/number.h"
#include "os/segment_files.h"
#include "os/store_directory.h"

namespace plumeria::os {

using disk::Address;
using disk::Extent;
using disk::LeaseNumber;
using disk::Segment;

namespace {

constexpr std::uint64_t no_end = std::numeric_limits<std::uint64_t>::max();
// Beyond this many files one syncfs() is cheaper than so many fdatasync()s.
constexpr std::size_t files_synced_singly = 32;
// Freeing more than this at once goes to the pool.
constexpr std::uint64_t inline_discard_max = 16u << 20;

std::size_t choose_open_files_max(std::size_t asked) {
  if (asked > 0) return asked;
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return 64;
  return static_cast<std::size_t>(std::clamp<rlim_t>(limit.rlim_cur / 4, 16, 1024));
}

std::uint64_t end_of(Address from, std::uint64_t length) {
  return from.offset > no_end - length ? no_end : from.offset + length;
}

std::string place_in(const SegmentFile& file, std::uint64_t offset) {
  return absl::StrCat(file.path, " at ", offset);
}

// Reads what is in the host's page cache, without waiting for a device. Returns how many bytes
// came.
std::size_t read_cached(const SegmentFile& file, std::uint64_t offset, MutableByteView into) {
  iovec part{into.data(), into.size()};
  const ssize_t got = ::preadv2(file.file.get(), &part, 1, static_cast<off_t>(offset), RWF_NOWAIT);
  return got < 0 ? 0 : static_cast<std::size_t>(got);
}

Status punch(const SegmentFile& file, std::uint64_t from, std::uint64_t end) {
  if (::fallocate(file.file.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                  static_cast<off_t>(from), static_cast<off_t>(end - from)) == 0) {
    return {};
  }
  if (errno != EOPNOTSUPP) return fail(host_error(errno, "discard", place_in(file, from)));
  // A host without holes: at least the bytes are gone.
  const Bytes zeros(std::min<std::uint64_t>(end - from, 1u << 20));
  while (from < end) {
    const auto part = std::min<std::uint64_t>(end - from, zeros.size());
    TRY_STATUS(write_at(file.file.get(), file.path, from, ByteView(zeros).first(part)));
    from += part;
  }
  return {};
}

// How long a file of the host's file system can be: ext4 ends at 16 TiB. Seeking beyond fails
// (EINVAL) and changes nothing.
std::uint64_t longest_file(const std::string& folder) {
  const FileDescriptor file(::open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  if (file.get() < 0) return disk::segment_limit;
  std::uint64_t possible = 0, impossible = disk::segment_limit + 1;
  while (possible + 1 < impossible) {
    const std::uint64_t length = possible + (impossible - possible) / 2;
    const bool fits = ::lseek(file.get(), static_cast<off_t>(length), SEEK_SET) >= 0;
    (fits ? possible : impossible) = length;
  }
  return possible;
}

Result<std::vector<Segment>> scan_segments(const std::string& store) {
  std::vector<Segment> segments;
  for (int folder = 0; folder < segment_folders; ++folder) {
    const std::string path = segment_folder(store, folder);
    DIR* directory = ::opendir(path.c_str());
    if (directory == nullptr) return fail(host_error(errno, "open", path));
    while (const dirent* entry = ::readdir(directory)) {
      char* end = nullptr;
      const std::uint64_t number = std::strtoull(entry->d_name, &end, 16);
      if (end != entry->d_name + 16 || *end != '\0') continue;
      struct stat status {};
      if (::fstatat(dirfd(directory), entry->d_name, &status, 0) != 0) continue;
      if (status.st_size > 0) segments.push_back(Segment{number});
    }
    ::closedir(directory);
  }
  std::sort(segments.begin(), segments.end());
  return segments;
}

Status first_error(const std::vector<Status>& results) {
  for (const Status& result : results) {
    if (!result) return result;
  }
  return {};
}

}  // namespace

struct HostStore::State {
  State(RealExecutor& e, ThreadPool& p, std::string store_path, Options o, StoreDirectory d)
      : executor(e),
        pool(p),
        path(std::move(store_path)),
        options(o),
        directory(std::move(d)),
        files(path, o.read_only, choose_open_files_max(o.open_files_max)) {
    if (!options.read_only) segment_max = longest_file(path);
  }

  // Asked before every change.
  Status may_change(LeaseNumber lease) {
    if (options.read_only) return fail(Errc::read_only, path);
    if (broken) return fail(*broken);
    return directory.admission.check(lease);
  }

  // A change that has left for the pool; fence() waits for those of its lease.
  class UnderWay {
   public:
    UnderWay(State& state, LeaseNumber lease) : state_(state), lease_(lease) {
      ++state_.under_way[lease_];
    }
    ~UnderWay() {
      if (--state_.under_way[lease_] > 0) return;
      state_.under_way.erase(lease_);
      state_.change_ended.notify_all();
    }
    UnderWay(const UnderWay&) = delete;
    UnderWay& operator=(const UnderWay&) = delete;

   private:
    State& state_;
    const LeaseNumber lease_;
  };

  void mark_dirty(const SegmentFilePointer& file) {
    if (too_many_dirty) return;
    dirty_files.emplace(file->segment, file);
    if (dirty_files.size() <= files_synced_singly) return;
    too_many_dirty = true;
    dirty_files.clear();
  }

  void segments_changed(Segment segment) { dirty_folders[folder_of(segment)] = ++segments_version; }

  void folder_is_durable(int folder, std::uint64_t version) {
    const auto found = dirty_folders.find(folder);
    if (found != dirty_folders.end() && found->second <= version) dirty_folders.erase(found);
  }

  // After a failed sync nobody knows which acknowledged data the host has dropped.
  Status break_down(Error error) {
    if (!broken) {
      log_error(absl::StrCat("the store cannot be written any more: ", error.message(),
                             "; put it right, then restart"));
      broken = Error{Errc::io, error.what};
      if (broken_handler) broken_handler(*broken);
    }
    return fail(*broken);
  }

  // A segment without a file was never written, if the store is still there.
  Result<SegmentFilePointer> find(Segment segment) {
    auto file = files.find(segment);
    if (file && !*file) TRY_STATUS(directory.still_there());
    return file;
  }
  Result<SegmentFilePointer> find_or_make(Segment segment) {
    bool made = false;
    auto file = files.find_or_make(segment, &made);
    if (!file && file.error().code == Errc::no_entry) {
      const Status there = directory.still_there();
      return fail(break_down(there ? file.error() : there.error()).error());
    }
    if (file && made) segments_changed(segment);
    return file;
  }

  Task<Status> sync_dirty();
  Task<Status> sync_segments(std::vector<Segment> segments);
  Task<Status> sync_folder(int folder, std::uint64_t version);
  Task<Status> persist_leases();

  RealExecutor& executor;
  ThreadPool& pool;
  const std::string path;
  const Options options;
  StoreDirectory directory;
  SegmentFiles files;
  std::optional<Error> broken;
  std::function<void(const Error&)> broken_handler;

  std::map<Segment, SegmentFilePointer> dirty_files;  // written since the last flush began
  bool too_many_dirty = false;                        // then of all files
  std::map<int, std::uint64_t> dirty_folders;         // → segments_version of the last change
  std::uint64_t segment_max = disk::segment_limit;
  std::uint64_t flushes_begun = 0, flushes_ended = 0;
  bool flushing = false;
  Event flush_ended{executor};

  std::map<LeaseNumber, std::size_t> under_way;
  Event change_ended{executor};
  Mutex leases_mutex{executor};
  Mutex registers_mutex{executor};

  std::uint64_t segments_version = 0;  // counts files made and removed
  std::uint64_t listed_version = no_end;
  std::vector<Segment> listed;  // of listed_version
};

HostStore::HostStore(std::unique_ptr<State> state) : state_(std::move(state)) {}
HostStore::~HostStore() = default;

Result<std::unique_ptr<HostStore>> HostStore::create(RealExecutor& executor, ThreadPool& pool,
                                                     std::string path, Options options) {
  TRY_STATUS(StoreDirectory::make(path));
  return open(executor, pool, std::move(path), options);
}

void HostStore::remove(const std::string& path) { StoreDirectory::unmake(path); }

Result<std::unique_ptr<HostStore>> HostStore::open(RealExecutor& executor, ThreadPool& pool,
                                                   std::string path, Options options) {
  TRY(StoreDirectory directory, StoreDirectory::open(path, options.read_only));
  return std::unique_ptr<HostStore>(new HostStore(
      std::make_unique<State>(executor, pool, std::move(path), options, std::move(directory))));
}

bool HostStore::was_clean() const { return state_->directory.was_clean(); }
std::uint64_t HostStore::incarnation() const { return state_->directory.incarnation(); }
std::uint64_t HostStore::identity() const { return state_->directory.identity(); }
const std::string& HostStore::path() const { return state_->path; }
const std::string& HostStore::half_damaged() const { return state_->directory.half_damaged(); }
void HostStore::on_broken(std::function<void(const Error&)> handler) {
  state_->broken_handler = std::move(handler);
}
std::map<LeaseNumber, disk::LateChanges> HostStore::late_changes() const {
  return state_->directory.admission.late();
}

void HostStore::ending() { state_->directory.say_ending(); }

Task<Status> HostStore::close() {
  State& state = *state_;
  if (state.options.read_only) co_return Status();
  CO_TRY_STATUS(co_await flush());
  CHECK(state.under_way.empty());
  const Status marked =
      co_await state.pool.run([directory = &state.directory] { return directory->mark_clean(); });
  state.broken = Error{Errc::shut_down, state.path};
  co_return marked;
}

Task<Result<Bytes>> HostStore::read(Address from, std::uint64_t length) {
  CHECK(length > 0 && length <= disk::transfer_max);
  CO_TRY(const SegmentFilePointer file, state_->find(from.segment));
  Bytes bytes(length);
  if (!file || from.offset >= file->length) co_return bytes;
  const std::uint64_t stored = std::min(length, file->length - from.offset);
  const MutableByteView wanted = MutableByteView(bytes).first(stored);
  const std::size_t done = read_cached(*file, from.offset, wanted);
  if (done == stored) co_return bytes;
  const auto read_rest = [file, from, done, stored,
                          bytes = std::move(bytes)]() mutable -> Result<Bytes> {
    const MutableByteView rest = MutableByteView(bytes).subspan(done, stored - done);
    TRY_STATUS(read_at(file->file.get(), file->path, from.offset + done, rest));
    return std::move(bytes);
  };
  Task<Result<Bytes>> reading = state_->pool.run(std::move(read_rest));
  co_return co_await reading;
}

Task<Status> HostStore::write(Address to, SharedBytes data, LeaseNumber lease, disk::Durability) {
  CHECK(!data.empty() && data.size() <= disk::transfer_max);
  State& state = *state_;
  CO_TRY_STATUS(state.may_change(lease));
  const std::uint64_t end = end_of(to, data.size());
  if (end > state.segment_max) {
    co_return fail(Errc::file_too_big, absl::StrCat("segment ", disk::to_string(to)));
  }
  CO_TRY(const SegmentFilePointer file, state.find_or_make(to.segment));
  // Also after an error: part of it may have been written.
  file->length = std::max(file->length, end);
  state.mark_dirty(file);
  co_return write_at(file->file.get(), file->path, to.offset, data.view());
}

Task<Status> HostStore::discard(Address from, std::uint64_t length, LeaseNumber lease) {
  State& state = *state_;
  CO_TRY_STATUS(state.may_change(lease));
  const std::uint64_t end = end_of(from, length);
  if (from.offset == 0 && end == no_end) {
    CO_TRY(SegmentFilePointer gone, state.files.unlink(from.segment));
    if (!gone) co_return Status();
    state.dirty_files.erase(from.segment);
    state.segments_changed(from.segment);
    Task<bool> freeing = state.pool.run([file = std::move(gone)]() mutable {
      file.reset();
      return true;
    });
    (void)co_await freeing;  // Then its space is there for others.
    co_return Status();
  }
  CO_TRY(const SegmentFilePointer file, state.files.find(from.segment));
  if (!file || from.offset >= file->length) co_return Status();
  const std::uint64_t stored_end = std::min(end, file->length);
  if (stored_end - from.offset <= inline_discard_max) {
    state.mark_dirty(file);
    co_return punch(*file, from.offset, stored_end);
  }
  const State::UnderWay guard(state, lease);
  Task<Status> punching =
      state.pool.run([file, from, stored_end] { return punch(*file, from.offset, stored_end); });
  const Status punched = co_await punching;
  state.mark_dirty(file);
  co_return punched;
}

Task<Status> HostStore::preallocate(Address from, std::uint64_t length, LeaseNumber lease) {
  State& state = *state_;
  CO_TRY_STATUS(state.may_change(lease));
  const std::uint64_t end = end_of(from, length);
  if (length == 0) co_return Status();
  if (end > state.segment_max) {
    co_return fail(Errc::file_too_big, absl::StrCat("segment ", disk::to_string(from)));
  }
  // Else the host fills the disk before it says that there is not enough, and others get nothing.
  CO_TRY(const disk::Usage room, co_await usage());
  if (room.available < length) co_return fail(Errc::no_space, state.path);
  CO_TRY(const SegmentFilePointer file, state.find_or_make(from.segment));
  const std::uint64_t length_before = file->length;
  const State::UnderWay guard(state, lease);
  Task<int> allocating = state.pool.run([file, from, length] {
    const int result = ::fallocate(file->file.get(), 0, static_cast<off_t>(from.offset),
                                   static_cast<off_t>(length));
    return result == 0 ? 0 : errno;
  });
  const int error_number = co_await allocating;
  state.mark_dirty(file);
  if (error_number == 0) {
    file->length = std::max(file->length, end);
    co_return Status();
  }
  // The host may have allocated a part. What lies beyond the old end is given back, unless somebody
  // wrote there meanwhile.
  if (file->length == length_before) {
    (void)!::ftruncate(file->file.get(), static_cast<off_t>(length_before));
  }
  co_return fail(host_error(error_number, "preallocate", place_in(*file, from.offset)));
}

// Everybody who calls while a round runs is served by the next one: only a round that began after
// the call surely covers what was acknowledged before it.
Task<Status> HostStore::flush() {
  State& state = *state_;
  if (state.options.read_only) co_return Status();
  const std::uint64_t wanted = state.flushes_begun + 1;
  while (state.flushes_ended < wanted) {
    if (state.flushing) {
      co_await state.flush_ended.next();
      continue;
    }
    state.flushing = true;
    const std::uint64_t round = ++state.flushes_begun;
    const Status synced = co_await state.sync_dirty();
    if (!synced) (void)state.break_down(synced.error());
    state.flushes_ended = round;
    state.flushing = false;
    state.flush_ended.notify_all();
  }
  if (state.broken) co_return fail(*state.broken);
  co_return Status();
}

Task<Status> HostStore::flush_segments(std::vector<Segment> segments) {
  State& state = *state_;
  if (state.options.read_only) co_return Status();
  if (state.broken) co_return fail(*state.broken);
  const Status synced = co_await state.sync_segments(std::move(segments));
  if (!synced) co_return state.break_down(synced.error());
  if (state.broken) co_return fail(*state.broken);  // What it was to cover may be lost.
  co_return Status();
}

Task<Status> HostStore::State::sync_dirty() {
  CO_TRY_STATUS(directory.still_there());
  const auto synced_files = std::exchange(dirty_files, {});
  const auto synced_folders = dirty_folders;
  const bool all = std::exchange(too_many_dirty, false);
  if (all || synced_files.size() + synced_folders.size() > files_synced_singly) {
    Task<Status> syncing = pool.run([store = path]() -> Status {
      TRY(const FileDescriptor root, open_file(store, O_RDONLY | O_DIRECTORY));
      if (::syncfs(root.get()) != 0) return fail(host_error(errno, "sync", store));
      return {};
    });
    CO_TRY_STATUS(co_await std::move(syncing));
    for (const auto& [folder, version] : synced_folders) folder_is_durable(folder, version);
    co_return Status();
  }
  std::vector<Task<Status>> syncs;
  for (const auto& [segment, file] : synced_files) {
    syncs.push_back(pool.run([file = file] { return sync_data(file->file.get(), file->path); }));
  }
  for (const auto& [folder, version] : synced_folders) {
    syncs.push_back(sync_folder(folder, version));
  }
  co_return first_error(co_await gather(executor, std::move(syncs)));
}

// Without a look at what is dirty: another flush that is under way may have taken that over, and
// has not made it durable yet.
Task<Status> HostStore::State::sync_segments(std::vector<Segment> segments) {
  CO_TRY_STATUS(directory.still_there());
  std::vector<Task<Status>> syncs;
  std::set<int> folders;
  for (const Segment segment : segments) {
    CO_TRY(SegmentFilePointer file, files.find(segment));
    if (file) {
      syncs.push_back(
          pool.run([file = std::move(file)] { return sync_data(file->file.get(), file->path); }));
    }
    folders.insert(folder_of(segment));
  }
  for (const int folder : folders) {
    const auto changed = dirty_folders.find(folder);
    if (changed != dirty_folders.end()) syncs.push_back(sync_folder(folder, changed->second));
  }
  if (syncs.size() == 1) co_return co_await std::move(syncs.front());
  co_return first_error(co_await gather(executor, std::move(syncs)));
}

Task<Status> HostStore::State::sync_folder(int folder, std::uint64_t version) {
  Task<Status> syncing = pool.run(
      [folder_path = segment_folder(path, folder)] { return sync_directory(folder_path); });
  CO_TRY_STATUS(co_await std::move(syncing));
  folder_is_durable(folder, version);
  co_return Status();
}

Task<Result<std::optional<Extent>>> HostStore::next_extent(Segment segment, std::uint64_t from) {
  std::optional<Extent> extent;
  CO_TRY(const SegmentFilePointer file, state_->find(segment));
  if (!file || from >= file->length) co_return extent;
  const int fd = file->file.get();
  const off_t begin = ::lseek(fd, static_cast<off_t>(from), SEEK_DATA);
  if (begin < 0 && errno == ENXIO) co_return extent;
  if (begin < 0) co_return fail(host_error(errno, "seek", place_in(*file, from)));
  const off_t end = ::lseek(fd, begin, SEEK_HOLE);
  if (end < 0) co_return fail(host_error(errno, "seek", place_in(*file, from)));
  extent = Extent{static_cast<std::uint64_t>(begin), static_cast<std::uint64_t>(end - begin)};
  co_return extent;
}

Task<Result<std::uint64_t>> HostStore::allocated(Segment segment) {
  CO_TRY(const SegmentFilePointer file, state_->find(segment));
  if (!file) co_return 0;
  struct stat found {};
  if (::fstat(file->file.get(), &found) != 0) {
    co_return fail(host_error(errno, "stat", place_in(*file, 0)));
  }
  co_return static_cast<std::uint64_t>(found.st_blocks) * 512;
}

Task<Result<std::vector<Segment>>> HostStore::list_segments(Segment first, std::size_t limit) {
  State& state = *state_;
  if (state.listed_version != state.segments_version) {
    const std::uint64_t version = state.segments_version;
    Task<Result<std::vector<Segment>>> scanning =
        state.pool.run([store = state.path] { return scan_segments(store); });
    Result<std::vector<Segment>> scanned = co_await scanning;
    if (!scanned) co_return fail(scanned.error());
    state.listed = *std::move(scanned);
    state.listed_version = version;
  }
  const auto begin = std::lower_bound(state.listed.begin(), state.listed.end(), first);
  const auto count = std::min<std::size_t>(limit, state.listed.end() - begin);
  co_return std::vector<Segment>(begin, begin + static_cast<std::ptrdiff_t>(count));
}

Task<Result<disk::Usage>> HostStore::usage() {
  struct statvfs status {};
  if (::statvfs(state_->path.c_str(), &status) != 0) {
    co_return fail(host_error(errno, "statvfs", state_->path));
  }
  disk::Usage usage;
  usage.total = static_cast<std::uint64_t>(status.f_blocks) * status.f_frsize;
  usage.available = static_cast<std::uint64_t>(status.f_bavail) * status.f_frsize;
  usage.segment_max = state_->segment_max;
  co_return usage;
}

Task<Result<disk::Register>> HostStore::read_register(std::string_view name) {
  struct Read {
    static Task<Result<disk::Register>> one(disk::Register content) { co_return content; }
  };
  const auto found = state_->directory.registers.find(name);
  if (found == state_->directory.registers.end()) return Read::one(disk::Register());
  return Read::one(found->second.content);
}

Task<Result<std::uint64_t>> HostStore::write_register(std::string_view name, std::uint64_t expected,
                                                      Bytes value, LeaseNumber lease) {
  return update_register(std::string(name), expected, std::move(value), lease);
}

Task<Result<std::uint64_t>> HostStore::update_register(std::string name, std::uint64_t expected,
                                                       Bytes value, LeaseNumber lease) {
  CHECK(value.size() <= disk::register_size_max);
  State& state = *state_;
  CO_TRY_STATUS(state.may_change(lease));
  const State::UnderWay under_way(state, lease);
  const Mutex::Guard guard = co_await state.registers_mutex.lock();
  auto found = state.directory.registers.find(name);
  const std::uint64_t version =
      found == state.directory.registers.end() ? 0 : found->second.content.version;
  if (version != expected) {
    co_return fail(Errc::mismatch,
                   absl::StrCat("register ", name, " has version ", version, ", not ", expected));
  }
  const auto shared = std::make_shared<const Bytes>(std::move(value));
  if (version > 0) {
    SlotFile* file = &found->second.file;
    Task<Status> writing = state.pool.run([file, shared] { return file->write(*shared); });
    CO_TRY_STATUS(co_await writing);
    found->second.content = disk::Register{version + 1, *shared};
    co_return version + 1;
  }
  Task<Result<SlotFile>> making =
      state.pool.run([directory = state.path + "/registers", file_name = register_file_name(name),
                      shared] { return SlotFile::create(directory, file_name, *shared, 1); });
  Result<SlotFile> made = co_await making;
  if (!made) co_return fail(made.error());
  StoredRegister created{*std::move(made), disk::Register{1, *shared}};
  state.directory.registers.emplace(std::move(name), std::move(created));
  co_return std::uint64_t{1};
}

Task<Status> HostStore::State::persist_leases() {
  const auto encoded = std::make_shared<const Bytes>(directory.admission.encode());
  Task<Status> writing =
      pool.run([file = &directory.leases(), encoded] { return file->write(*encoded); });
  co_return co_await writing;
}

Task<Status> HostStore::admit(LeaseNumber lease) {
  State& state = *state_;
  if (state.options.read_only) co_return fail(Errc::read_only, state.path);
  const Mutex::Guard guard = co_await state.leases_mutex.lock();
  disk::Admission next = state.directory.admission;
  CO_TRY_STATUS(next.admit(lease));
  const auto encoded = std::make_shared<const Bytes>(next.encode());
  Task<Status> writing =
      state.pool.run([file = &state.directory.leases(), encoded] { return file->write(*encoded); });
  CO_TRY_STATUS(co_await writing);
  co_return state.directory.admission.admit(lease);  // It may have been fenced meanwhile.
}

Task<Status> HostStore::fence(LeaseNumber lease) {
  State& state = *state_;
  if (state.options.read_only) co_return fail(Errc::read_only, state.path);
  (void)state.directory.admission.fence(lease);  // From now on nothing is admitted …
  {
    const Mutex::Guard guard = co_await state.leases_mutex.lock();
    CO_TRY_STATUS(co_await state.persist_leases());
  }
  while (state.under_way.contains(lease)) co_await state.change_ended.next();  // … nor on its way.
  co_return Status();
}

}  // namespace plumeria::os
