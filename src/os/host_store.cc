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
#include <set>
#include <utility>
#include <vector>

#include "base/async.h"
#include "base/check.h"
#include "base/log.h"
#include "base/number.h"
#include "os/segment_files.h"
#include "os/snapshot_files.h"
#include "os/store_directory.h"

namespace plumeria::os {

using disk::Address;
using disk::Extent;
using disk::LeaseNumber;
using disk::Segment;

namespace {

// What snapshots need is copied in rounds of at most this.
constexpr std::uint64_t kept_at_once_max = 32u << 20;
constexpr std::uint64_t page = 4096;
// Of the room that is set aside for copies of logs and metadata while there are snapshots.
constexpr std::uint64_t kept_reserve_max = 512u << 20;
// Who changes what follows the last change will go on: more is copied at once, up to this.
constexpr std::uint64_t keep_ahead_max = 1u << 20;
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

// Bytes that logs and metadata take: as much may have to be copied before they are written again.
std::uint64_t space_of_regions(const std::string& store) {
  std::uint64_t bytes = 0;
  DIR* directory = ::opendir(segment_folder(store, regions_folder).c_str());
  if (directory == nullptr) return 0;
  while (const dirent* entry = ::readdir(directory)) {
    struct stat status {};
    if (::fstatat(dirfd(directory), entry->d_name, &status, 0) != 0) continue;
    if (S_ISREG(status.st_mode)) bytes += static_cast<std::uint64_t>(status.st_blocks) * 512;
  }
  ::closedir(directory);
  return bytes;
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

// The host tells of a failed write once for each descriptor: whoever syncs the same file next has
// to be told by us that his data may be lost, too.
Status sync_segment(SegmentFile& file, const std::string& path) {
  const std::lock_guard guard(file.sync_mutex);
  if (file.sync_failed) return fail(Errc::io, absl::StrCat("an earlier sync of ", path, " failed"));
  const Status synced = sync_data(file.file.get(), path);
  file.sync_failed = !synced;
  return synced;
}

}  // namespace

struct HostStore::State {
  State(RealExecutor& e, ThreadPool& p, std::string store_path, Options o, StoreDirectory d,
        SnapshotFiles s)
      : executor(e),
        pool(p),
        path(std::move(store_path)),
        options(o),
        directory(std::move(d)),
        snapshots(std::move(s)),
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

  // Around a change of segments in the pool, which begins while no snapshot is being made.
  class ChangeInPool {
   public:
    explicit ChangeInPool(State& state) : state_(state) { ++state_.changing_in_pool; }
    ~ChangeInPool() {
      if (--state_.changing_in_pool == 0) state_.pool_changed.notify_all();
    }
    ChangeInPool(const ChangeInPool&) = delete;
    ChangeInPool& operator=(const ChangeInPool&) = delete;

   private:
    State& state_;
  };
  Task<void> until_no_snapshot_waits() {
    while (snapshot_waits) co_await pool_changed.next();
  }

  void mark_dirty(const SegmentFilePointer& file) {
    if (too_many_dirty) return;
    dirty_files.insert_or_assign(file->segment, file);
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

  Task<Status> flush();
  Task<Status> sync_dirty();
  Task<Status> sync_segments(std::vector<Segment> segments);
  Task<Status> sync_folder(int folder, std::uint64_t version);
  Task<Status> persist_leases();

  // Before a change of the range: what snapshots need of it is copied away. When the caller goes on
  // a new snapshot may need it, so he asks again.
  Task<Status> keep(Segment segment, Range range);
  Task<Status> keep_round(std::vector<std::pair<Segment, Range>> wanted);
  std::uint64_t look_ahead(Segment segment, Range range);
  Task<Status> move_to_snapshot(Segment segment);
  Task<Status> write_snapshot_list(Bytes list);
  Task<Status> free_unneeded();
  Task<Status> make_snapshot(std::string name, WallTime created);
  struct Part {
    SnapshotFiles::Source source;
    std::uint64_t at = 0, length = 0;  // in the result
    SegmentFilePointer present;        // null: nothing is there
    friend bool operator==(const Part&, const Part&) = default;
  };
  Result<std::vector<Part>> parts_of(disk::SnapshotId id, Address from, std::uint64_t length);
  Error no_snapshot(disk::SnapshotId id) const {
    return Error{Errc::stale, absl::StrCat(path, ": snapshot ", raw(id))};
  }

  RealExecutor& executor;
  ThreadPool& pool;
  const std::string path;
  const Options options;
  StoreDirectory directory;
  SnapshotFiles snapshots;
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

  Mutex snapshots_mutex{executor};  // one is made or deleted at a time
  std::vector<std::pair<Segment, Range>> to_keep;
  bool keeping = false;
  Event keep_ended{executor};
  struct Ahead {
    std::uint64_t end = 0, window = 0;
  };
  std::map<Segment, Ahead> ahead;  // of the last changes
  // A change in the pool: what a snapshot of this moment would show there is not sure.
  std::size_t changing_in_pool = 0;
  bool snapshot_waits = false;
  Event pool_changed{executor};

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
  TRY(SnapshotFiles snapshots, SnapshotFiles::open(path, options.read_only, directory.was_clean()));
  if (!options.read_only && !snapshots.any()) {
    TRY_STATUS(directory.set_format(host_store_format_plain));
  }
  return std::unique_ptr<HostStore>(new HostStore(std::make_unique<State>(
      executor, pool, std::move(path), options, std::move(directory), std::move(snapshots))));
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
  std::optional<State::UnderWay> guard;
  while (state.snapshots.needs(to.segment, {to.offset, end})) {
    if (!guard) guard.emplace(state, lease);
    CO_TRY_STATUS(co_await state.keep(to.segment, {to.offset, end}));
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
    const State::UnderWay guard(state, lease);
    while (state.snapshot_waits) {
      co_await state.until_no_snapshot_waits();
      CO_TRY_STATUS(state.may_change(lease));
    }
    if (state.snapshots.needs(from.segment, {0, no_end})) {
      co_return co_await state.move_to_snapshot(from.segment);
    }
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
  CO_TRY(SegmentFilePointer file, state.files.find(from.segment));
  if (!file || from.offset >= file->length) co_return Status();
  std::uint64_t stored_end = std::min(end, file->length);
  const State::UnderWay guard(state, lease);
  while (state.snapshot_waits || state.snapshots.needs(from.segment, {from.offset, stored_end})) {
    co_await state.until_no_snapshot_waits();
    CO_TRY_STATUS(state.may_change(lease));
    CO_TRY_STATUS(co_await state.keep(from.segment, {from.offset, stored_end}));
    CO_TRY(file, state.files.find(from.segment));
    if (!file || from.offset >= file->length) co_return Status();
    stored_end = std::min(end, file->length);
  }
  if (stored_end - from.offset <= inline_discard_max) {
    state.mark_dirty(file);
    co_return punch(*file, from.offset, stored_end);
  }
  const State::ChangeInPool changing(state);
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

// ---- snapshots

Task<Status> HostStore::State::keep(Segment segment, Range range) {
  while (snapshots.needs(segment, range)) {
    to_keep.emplace_back(segment, range);
    if (keeping) {
      co_await keep_ended.next();
      continue;
    }
    keeping = true;
    const Status kept = co_await keep_round(std::exchange(to_keep, {}));
    keeping = false;
    keep_ended.notify_all();
    if (!kept && kept.error().code == Errc::io) co_return break_down(kept.error());
    if (!kept) co_return kept;
  }
  if (broken) co_return fail(*broken);
  co_return Status();
}

// How much beyond the range is to be kept with it.
std::uint64_t HostStore::State::look_ahead(Segment segment, Range range) {
  constexpr std::size_t remembered_max = 1000;
  if (ahead.size() > remembered_max) ahead.clear();
  Ahead& last = ahead[segment];
  const bool follows = last.end != 0 && last.end / page == range.from / page;
  last.window = follows ? std::clamp<std::uint64_t>(2 * last.window, 4 * page, keep_ahead_max) : 0;
  const std::uint64_t end = range.end > no_end - last.window ? no_end : range.end + last.window;
  last.end = end;
  return end;
}

Task<Status> HostStore::State::keep_round(std::vector<std::pair<Segment, Range>> wanted) {
  std::vector<ToKeep> round;
  std::uint64_t bytes = 0;
  std::map<Segment, KeptRanges> planned;
  for (const auto& [segment, range] : wanted) {
    CO_TRY(const SegmentFilePointer file, files.find(segment));
    const std::uint64_t length = file ? file->length : 0;
    Range whole{range.from / page * page, range.end > no_end - page ? no_end : range.end};
    if (whole.end < no_end) whole.end = (whole.end + page - 1) / page * page;
    if (whole.from < length && whole.end < length) whole.end = look_ahead(segment, whole);
    // There was nothing behind the end: then all of that is settled.
    if (whole.end >= length) whole.end = no_end;
    if (whole.from > length) whole.from = (length + page - 1) / page * page;
    for (const Range& gap : snapshots.gaps(segment, whole)) {
      for (Range part : planned[segment].gaps(gap.from, gap.end)) {
        const std::uint64_t stored = std::clamp(length, part.from, part.end) - part.from;
        if (bytes + stored > kept_at_once_max) {
          if (bytes >= kept_at_once_max) break;
          part.end = part.from + (kept_at_once_max - bytes) / page * page;
          if (part.from >= part.end) break;
        }
        bytes += std::min(stored, part.end - part.from);
        planned[segment].insert(part, KeptRanges::zeros);
        round.push_back({segment, part, file, length});
      }
    }
  }
  if (round.empty()) co_return Status();
  const KeptSnapshotPointer to = snapshots.newest();
  Task<Result<std::vector<NowKept>>> copying =
      pool.run([to, round = std::move(round)] { return copy_away(*to, round); });
  CO_TRY(const std::vector<NowKept> done, co_await copying);
  for (const NowKept& one : done) to->kept[one.segment].insert(one.range, one.place);
  co_return Status();
}

// A segment that is discarded as a whole goes to the snapshot that needs it, as a file.
Task<Status> HostStore::State::move_to_snapshot(Segment segment) {
  // What is being copied from it has to arrive first.
  while (keeping) co_await keep_ended.next();
  if (!snapshots.needs(segment, {0, no_end})) {
    CO_TRY_STATUS(files.unlink(segment));
    dirty_files.erase(segment);
    segments_changed(segment);
    co_return Status();
  }
  const KeptSnapshotPointer to = snapshots.newest();
  CO_TRY(const SegmentFilePointer file, files.move_to(segment, to->whole_path(segment)));
  if (!file) co_return Status();
  to->whole.insert(segment);
  dirty_files.erase(segment);
  segments_changed(segment);
  std::vector<Range> had;  // What is kept elsewhere need not be kept here.
  std::uint64_t at = 0;
  const auto ranges = to->kept.find(segment);
  if (ranges != to->kept.end()) {
    for (const Range& gap : ranges->second.gaps(0, file->length)) {
      if (at < gap.from) had.push_back({at, gap.from});
      at = gap.end;
    }
    if (at < file->length) had.push_back({at, file->length});
  }
  const std::string old_folder = segment_folder(path, folder_of(segment));
  const ChangeInPool moving(*this);  // It is for the new snapshot's flush, and not in dirty_files.
  Task<Status> syncing = pool.run([file, to, had, old_folder]() -> Status {
    for (const Range& range : had) (void)punch(*file, range.from, range.end);
    TRY_STATUS(sync_segment(*file, to->whole_path(file->segment)));
    TRY_STATUS(sync_directory(to->folder + "/segments"));
    return sync_directory(old_folder);
  });
  const Status synced = co_await syncing;
  if (!synced) co_return break_down(synced.error());
  co_return Status();
}

Task<Status> HostStore::State::write_snapshot_list(Bytes encoded) {
  const auto list = std::make_shared<const Bytes>(std::move(encoded));
  Task<Status> writing = pool.run([files = &snapshots, list] { return files->write_list(*list); });
  co_return co_await writing;
}

Task<Result<disk::SnapshotId>> HostStore::create_snapshot(std::string name, WallTime created,
                                                          LeaseNumber lease) {
  State& state = *state_;
  CO_TRY_STATUS(disk::check_snapshot_name(name));
  CO_TRY_STATUS(state.may_change(lease));
  const State::UnderWay guard(state, lease);
  const Mutex::Guard alone = co_await state.snapshots_mutex.lock();
  for (const KeptSnapshotPointer& other : state.snapshots.chain()) {
    if (!other->is_rest && other->name == name) {
      co_return fail(Errc::exist, absl::StrCat("snapshot ", name));
    }
  }
  // Else the logs cannot be written any more, for want of a place for what they overwrite.
  struct statvfs space {};
  if (::statvfs(state.path.c_str(), &space) != 0) {
    co_return fail(host_error(errno, "statvfs", state.path));
  }
  const std::uint64_t needed = std::min(space_of_regions(state.path), kept_reserve_max);
  if (static_cast<std::uint64_t>(space.f_bavail) * space.f_frsize < needed) {
    co_return fail(Errc::no_space,
                   absl::StrCat("a snapshot of ", state.path, " needs ", (needed >> 20) + 1,
                                " MiB of its disk to begin with"));
  }
  // A program that knows no snapshots keeps nothing for them.
  Task<Status> marking = state.pool.run(
      [directory = &state.directory] { return directory->set_format(host_store_format); });
  CO_TRY_STATUS(co_await marking);
  CO_TRY_STATUS(co_await state.make_snapshot(std::move(name), created));
  co_return state.snapshots.newest()->id;
}

// From when it is in the chain things are kept for it. In the list it is a rest until all is
// durable: a crash leaves what older ones may need by then, and nothing to be seen.
Task<Status> HostStore::State::make_snapshot(std::string name, WallTime created) {
  Registers registers;
  {
    const Mutex::Guard settled = co_await registers_mutex.lock();
    for (const auto& [register_name, stored] : directory.registers) {
      registers.emplace(register_name, stored.content);
    }
  }
  Task<Result<KeptSnapshotPointer>> making =
      pool.run([store = path, id = snapshots.take_id(), name, created, registers] {
        return make_snapshot_files(store, id, name, created, registers);
      });
  CO_TRY(const KeptSnapshotPointer made, co_await making);
  // What is not in the list is removed at the next start, with all that was kept in it.
  Bytes with_a_rest = snapshots.encode_list(made);
  if (const Status written = co_await write_snapshot_list(std::move(with_a_rest)); !written) {
    Task<bool> removing = pool.run([made] {
      remove_snapshot_files(*made);
      return true;
    });
    (void)co_await removing;
    co_return written;
  }
  // A round that is under way keeps things for the one before.
  snapshot_waits = true;
  while (changing_in_pool > 0) co_await pool_changed.next();
  while (keeping) co_await keep_ended.next();
  snapshots.add(made);
  snapshot_waits = false;
  pool_changed.notify_all();
  Status done = co_await flush();
  while (changing_in_pool > 0) co_await pool_changed.next();
  if (done) {
    made->is_made = true;
    Bytes whole = snapshots.encode_list();
    done = co_await write_snapshot_list(std::move(whole));
  }
  if (!done) {
    made->is_rest = true;
    (void)co_await free_unneeded();
  }
  co_return done;
}

Task<Status> HostStore::delete_snapshot(disk::SnapshotId id, LeaseNumber lease) {
  State& state = *state_;
  CO_TRY_STATUS(state.may_change(lease));
  const State::UnderWay guard(state, lease);
  const Mutex::Guard alone = co_await state.snapshots_mutex.lock();
  const KeptSnapshotPointer snapshot = state.snapshots.find(id);
  if (!snapshot) co_return fail(state.no_snapshot(id));
  // As long as a crash may leave it, things are kept for it.
  Bytes list = state.snapshots.encode_list({}, snapshot);
  CO_TRY_STATUS(co_await state.write_snapshot_list(std::move(list)));
  snapshot->is_rest = true;
  co_return co_await state.free_unneeded();
}

// What no snapshot shows any more. Requires: snapshots_mutex.
Task<Status> HostStore::State::free_unneeded() {
  while (keeping) co_await keep_ended.next();
  std::vector<KeptSnapshotPointer> gone = snapshots.take_unneeded();
  std::vector<Unneeded> parts = snapshots.unneeded_parts();
  if (!gone.empty()) {
    Bytes list = snapshots.encode_list();
    CO_TRY_STATUS(co_await write_snapshot_list(std::move(list)));
  }
  const bool none_left = !snapshots.any();
  Task<Status> freeing = pool.run([directory = &directory, gone, parts, none_left]() -> Status {
    for (const KeptSnapshotPointer& one : gone) remove_snapshot_files(*one);
    for (const Unneeded& one : parts) give_back(one);
    if (none_left) TRY_STATUS(directory->set_format(host_store_format_plain));
    return {};
  });
  gone.clear();
  co_return co_await freeing;
}

Task<Result<std::vector<disk::Snapshot>>> HostStore::list_snapshots() {
  std::vector<KeptSnapshotPointer> shown;
  for (const KeptSnapshotPointer& snapshot : state_->snapshots.chain()) {
    if (snapshot->is_made && !snapshot->is_rest) shown.push_back(snapshot);
  }
  std::vector<disk::Snapshot> all;
  if (shown.empty()) co_return all;
  Task<std::vector<disk::Snapshot>> measuring = state_->pool.run([shown] {
    std::vector<disk::Snapshot> found;
    for (const KeptSnapshotPointer& one : shown) {
      found.push_back({one->id, one->name, one->created, space_of(*one)});
    }
    return found;
  });
  all = co_await measuring;
  co_return all;
}

Result<std::vector<HostStore::State::Part>> HostStore::State::parts_of(disk::SnapshotId id,
                                                                       Address from,
                                                                       std::uint64_t length) {
  using Kind = SnapshotFiles::Source::Kind;
  if (!snapshots.find(id)) return fail(no_snapshot(id));
  std::vector<Part> parts;
  const std::uint64_t end = end_of(from, length);
  for (std::uint64_t at = from.offset; at < end;) {
    Part part;
    part.source = snapshots.where(id, from.segment, at);
    part.at = at - from.offset;
    part.length = std::min(part.source.end, end) - at;
    if (part.source.kind == Kind::present) {
      TRY(part.present, find(from.segment));
    }
    at += part.length;
    if (part.source.kind == Kind::zeros) continue;
    if (part.source.kind == Kind::present && !part.present) continue;
    parts.push_back(std::move(part));
  }
  return parts;
}

Task<Result<Bytes>> HostStore::read_snapshot(disk::SnapshotId id, Address from,
                                             std::uint64_t length) {
  CHECK(length > 0 && length <= disk::transfer_max);
  for (;;) {
    CO_TRY(std::vector<State::Part> parts, state_->parts_of(id, from, length));
    if (parts.empty()) co_return Bytes(length);
    const std::vector<State::Part> before = parts;
    Task<Result<Bytes>> reading = state_->pool.run(
        [segment = from.segment, length, parts = std::move(parts)]() -> Result<Bytes> {
          using Kind = SnapshotFiles::Source::Kind;
          Bytes bytes(length);
          for (const State::Part& part : parts) {
            const MutableByteView into = MutableByteView(bytes).subspan(part.at, part.length);
            const SnapshotFiles::Source& source = part.source;
            if (source.kind == Kind::present) {
              TRY_STATUS(read_at(part.present->file.get(), part.present->path, source.place, into));
            } else if (source.kind == Kind::data) {
              const std::string& folder = source.snapshot->folder;
              TRY_STATUS(read_at(source.snapshot->data.get(), folder, source.place, into));
            } else {
              const std::string path = source.snapshot->whole_path(segment);
              TRY(const FileDescriptor file, open_file(path, O_RDONLY));
              TRY_STATUS(read_at(file.get(), path, source.place, into));
            }
          }
          return bytes;
        });
    Result<Bytes> bytes = co_await reading;
    // The present may have become the past while it was read.
    CO_TRY(const std::vector<State::Part> after, state_->parts_of(id, from, length));
    if (after == before) co_return bytes;
  }
}

Task<Result<std::optional<Extent>>> HostStore::next_snapshot_extent(disk::SnapshotId id,
                                                                    Segment segment,
                                                                    std::uint64_t from) {
  using Kind = SnapshotFiles::Source::Kind;
  State& state = *state_;
  std::optional<Extent> extent;
  for (std::uint64_t at = from; at < disk::segment_limit;) {
    if (!state.snapshots.find(id)) co_return fail(state.no_snapshot(id));
    const SnapshotFiles::Source source = state.snapshots.where(id, segment, at);
    const std::uint64_t end = std::min(source.end, disk::segment_limit);
    if (source.kind == Kind::data) {
      extent = Extent{at, end - at};
      break;
    }
    if (source.kind != Kind::zeros) {
      FileDescriptor whole;
      SegmentFilePointer present;
      std::string where;
      if (source.kind == Kind::whole) {
        where = source.snapshot->whole_path(segment);
        CO_TRY(whole, open_file(where, O_RDONLY));
      } else {
        CO_TRY(present, state.find(segment));
        if (present) where = present->path;
      }
      const int fd = present ? present->file.get() : whole.get();
      const off_t begin = fd < 0 ? -1 : ::lseek(fd, static_cast<off_t>(at), SEEK_DATA);
      if (fd >= 0 && begin < 0 && errno != ENXIO) co_return fail(host_error(errno, "seek", where));
      if (begin >= 0 && static_cast<std::uint64_t>(begin) < end) {
        const off_t hole = ::lseek(fd, begin, SEEK_HOLE);
        if (hole < 0) co_return fail(host_error(errno, "seek", where));
        const auto first = static_cast<std::uint64_t>(begin);
        extent = Extent{first, std::min(static_cast<std::uint64_t>(hole), end) - first};
        break;
      }
    }
    at = end;
  }
  co_return extent;
}

Task<Result<std::vector<Segment>>> HostStore::list_snapshot_segments(disk::SnapshotId id,
                                                                     Segment first,
                                                                     std::size_t limit) {
  State& state = *state_;
  if (!state.snapshots.find(id)) co_return fail(state.no_snapshot(id));
  CO_TRY(const std::vector<Segment> present, co_await list_segments(first, no_end));
  absl::btree_set<Segment> all = state.snapshots.segments_since(id);
  all.insert(present.begin(), present.end());
  std::vector<Segment> found;
  for (auto it = all.lower_bound(first); it != all.end() && found.size() < limit; ++it) {
    CO_TRY(const std::optional<Extent> extent, co_await next_snapshot_extent(id, *it, 0));
    if (extent) found.push_back(*it);
  }
  co_return found;
}

Task<Result<disk::Register>> HostStore::read_snapshot_register(disk::SnapshotId id,
                                                               std::string name) {
  const KeptSnapshotPointer snapshot = state_->snapshots.find(id);
  if (!snapshot) co_return fail(state_->no_snapshot(id));
  const auto found = snapshot->registers.find(name);
  co_return found == snapshot->registers.end() ? disk::Register() : found->second;
}

// Everybody who calls while a round runs is served by the next one: only a round that began after
// the call surely covers what was acknowledged before it.
Task<Status> HostStore::flush() {
  State& state = *state_;
  if (state.options.read_only) co_return Status();
  co_return co_await state.flush();
}

Task<Status> HostStore::State::flush() {
  const std::uint64_t wanted = flushes_begun + 1;
  while (flushes_ended < wanted) {
    if (flushing) {
      co_await flush_ended.next();
      continue;
    }
    flushing = true;
    const std::uint64_t round = ++flushes_begun;
    const Status synced = co_await sync_dirty();
    if (!synced) (void)break_down(synced.error());
    flushes_ended = round;
    flushing = false;
    flush_ended.notify_all();
  }
  if (broken) co_return fail(*broken);
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
    syncs.push_back(pool.run([file = file] { return sync_segment(*file, file->path); }));
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
          pool.run([file = std::move(file)] { return sync_segment(*file, file->path); }));
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
  if (state_->snapshots.any()) {
    const std::uint64_t reserve = std::min(space_of_regions(state_->path), kept_reserve_max);
    usage.available -= std::min(usage.available, reserve);
  }
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
