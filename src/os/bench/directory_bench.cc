#include "os/bench/directory_bench.h"

#include <absl/strings/str_cat.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <barrier>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <deque>
#include <filesystem>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "base/bytes.h"
#include "os/host_file.h"
#include "os/real_world.h"

namespace plumeria::os {
namespace {

using Clock = std::chrono::steady_clock;
using Seconds = std::chrono::duration<double>;
using Microseconds = std::chrono::duration<double, std::micro>;

constexpr std::uint64_t small_size = 4096;       // bytes
constexpr std::uint64_t large_piece = 1u << 20;  // bytes of one sequential call
constexpr std::uint64_t listings = 5;            // of each thread's folder
constexpr auto watch_interval = std::chrono::milliseconds(100);

// How many of each a thread makes.
struct Share {
  std::uint64_t files = 0, directories = 0, synced = 0, pieces = 0;

  explicit Share(const BenchPlan& plan) {
    const auto part = [&plan](std::uint64_t all) {
      return std::max<std::uint64_t>(1, all / plan.threads);
    };
    files = part(plan.files);
    directories = part(plan.files / 4);
    synced = part(plan.files / 10);
    pieces = part(plan.size / large_piece);
  }
};

// One thread's folder, and the calls that are measured. `i` counts them from 0 on.
class Hand {
 public:
  Hand(std::string folder, Share share)
      : folder_(std::move(folder)), share_(share), bytes_(large_piece) {
    // Not zeros, which a file system could store for nothing.
    for (std::size_t at = 0; at < bytes_.size(); at += sizeof(std::uint64_t)) {
      store(bytes_.data() + at, random_.next());
    }
  }

  Status make_directory(std::uint64_t i) {
    const std::string path = name("d", i);
    return check(::mkdir(path.c_str(), 0755), "make directory", path);
  }
  Status create(std::uint64_t i) {
    const std::string path = name("f", i);
    TRY(const FileDescriptor file, open_file(path, O_WRONLY | O_CREAT | O_EXCL));
    return {};
  }
  Status stat(std::uint64_t i) {
    const std::string path = name("f", i);
    struct stat what {};
    return check(::stat(path.c_str(), &what), "stat", path);
  }
  Status list(std::uint64_t) {
    DIR* directory = ::opendir(folder_.c_str());
    if (directory == nullptr) return check(-1, "list", folder_);
    std::uint64_t entries = 0;
    while (const dirent* entry = ::readdir(directory)) entries += entry->d_name[0] != '.';
    ::closedir(directory);
    if (entries == this->entries()) return {};
    return fail(Errc::io, absl::StrCat(folder_, ": the listing has ", entries, " entries instead ",
                                       "of ", this->entries()));
  }
  Status rename(std::uint64_t i) {
    const std::string path = name("f", i), to = name("g", i);
    return check(std::rename(path.c_str(), to.c_str()), "rename", path);
  }
  Status unlink(std::uint64_t i) {
    const std::string path = name("g", i);
    return check(::unlink(path.c_str()), "unlink", path);
  }
  Status remove_directory(std::uint64_t i) {
    const std::string path = name("d", i);
    return check(::rmdir(path.c_str()), "remove directory", path);
  }

  Status write_small(std::uint64_t i) { return write_whole(name("s", i), /*sync=*/false); }
  Status write_synced(std::uint64_t i) { return write_whole(name("y", i), /*sync=*/true); }
  Status read_small(std::uint64_t i) {
    const std::string path = name("s", i);
    TRY(const FileDescriptor file, open_file(path, O_RDONLY));
    return read_all(file.get(), path, 0, small_size);
  }

  Status write_piece(std::uint64_t i) {
    if (i == 0) {
      TRY(large_, open_file(large_path(), O_RDWR | O_CREAT | O_EXCL));
    }
    TRY_STATUS(write_at(large_.get(), large_path(), i * large_piece, bytes_));
    if (i + 1 < share_.pieces) return {};
    return check(::fsync(large_.get()), "fsync", large_path());
  }
  Status read_piece(std::uint64_t i) {
    return read_all(large_.get(), large_path(), i * large_piece, large_piece);
  }
  Status write_anywhere(std::uint64_t) {
    const ByteView bytes = ByteView(bytes_).first(small_size);
    TRY_STATUS(write_at(large_.get(), large_path(), anywhere(), bytes));
    return check(::fdatasync(large_.get()), "fdatasync", large_path());
  }
  Status read_anywhere(std::uint64_t) {
    return read_all(large_.get(), large_path(), anywhere(), small_size);
  }

  std::uint64_t entries() const { return share_.files + share_.directories; }

 private:
  static Status check(int result, const char* action, const std::string& path) {
    if (result == 0) return {};
    return fail(host_error(errno, action, path));
  }
  std::string name(const char* kind, std::uint64_t i) const {
    return absl::StrCat(folder_, "/", kind, i);
  }
  std::string large_path() const { return folder_ + "/large"; }
  std::uint64_t anywhere() {
    return random_.next() % (share_.pieces * large_piece / small_size) * small_size;
  }

  Status write_whole(const std::string& path, bool sync) {
    TRY(const FileDescriptor file, open_file(path, O_WRONLY | O_CREAT | O_EXCL));
    TRY_STATUS(write_at(file.get(), path, 0, ByteView(bytes_).first(small_size)));
    return sync ? check(::fsync(file.get()), "fsync", path) : Status{};
  }
  // One call, unlike read_at(), unless the kernel gives less; and a file that ends early is
  // noticed.
  Status read_all(int file, const std::string& path, std::uint64_t offset, std::uint64_t length) {
    for (std::uint64_t got = 0; got < length;) {
      const ssize_t now =
          ::pread(file, bytes_.data() + got, length - got, static_cast<off_t>(offset + got));
      if (now < 0 && errno == EINTR) continue;
      if (now < 0) return check(-1, "read", path);
      if (now == 0) return fail(Errc::io, absl::StrCat(path, ": ends at ", offset + got));
      got += static_cast<std::uint64_t>(now);
    }
    return {};
  }

  const std::string folder_;
  const Share share_;
  RealRandom random_;
  Bytes bytes_;
  FileDescriptor large_;
};

struct Step {
  const char *group, *name, *unit;
  double units = 1;         // that one call counts
  std::uint64_t calls = 0;  // of each thread
  Status (Hand::*call)(std::uint64_t) = nullptr;
};

std::vector<Step> steps(const Share& share) {
  constexpr const char *metadata = "metadata", *small = "small files, 4 KiB",
                       *sequential = "sequential, 1 MiB", *random = "random, 4 KiB";
  constexpr const char *operations = "operations", *entries = "entries", *mebibytes = "MiB";
  const double all = static_cast<double>(share.files + share.directories);
  return {
      {metadata, "mkdir", operations, 1, share.directories, &Hand::make_directory},
      {metadata, "create", operations, 1, share.files, &Hand::create},
      {metadata, "stat", operations, 1, share.files, &Hand::stat},
      {metadata, "readdir", entries, all, listings, &Hand::list},
      {metadata, "rename", operations, 1, share.files, &Hand::rename},
      {metadata, "unlink", operations, 1, share.files, &Hand::unlink},
      {metadata, "rmdir", operations, 1, share.directories, &Hand::remove_directory},
      {small, "create+write", operations, 1, share.files, &Hand::write_small},
      {small, "open+read", operations, 1, share.files, &Hand::read_small},
      {small, "create+write+fsync", operations, 1, share.synced, &Hand::write_synced},
      {sequential, "write, one fsync", mebibytes, 1, share.pieces, &Hand::write_piece},
      {sequential, "read, warm", mebibytes, 1, share.pieces, &Hand::read_piece},
      {random, "write+fdatasync", operations, 1, share.synced, &Hand::write_anywhere},
      {random, "read, warm", operations, 1, share.files, &Hand::read_anywhere},
  };
}

// One step, done by all threads at once.
class Round {
 public:
  Round(const Step& step, std::deque<Hand>& hands)
      : step_(step), hands_(hands), ready_(static_cast<std::ptrdiff_t>(hands.size())) {}

  Result<Figure> run(const BenchWatch& watch) {
    std::vector<Timing> timings(hands_.size());
    std::vector<std::thread> threads;
    for (std::size_t i = 0; i < hands_.size(); ++i) {
      threads.emplace_back([this, i, &timings] { work(hands_[i], timings[i]); });
    }
    const bool wanted = watch_until_done(watch);
    for (std::thread& thread : threads) thread.join();
    if (error_) return fail(*std::move(error_));
    if (!wanted) return fail(Errc::interrupted);
    return figure(timings);
  }

 private:
  struct Timing {
    Clock::time_point begin, end;
    std::vector<float> calls_us;
  };

  void work(Hand& hand, Timing& timing) {
    timing.calls_us.reserve(step_.calls);
    ready_.arrive_and_wait();
    Clock::time_point last = timing.begin = Clock::now();
    for (std::uint64_t i = 0; i < step_.calls && !stop_; ++i) {
      const Status status = (hand.*step_.call)(i);
      if (!status) {
        note_error(status.error());
        break;
      }
      const Clock::time_point now = Clock::now();
      timing.calls_us.push_back(static_cast<float>(Microseconds(now - last).count()));
      last = now;
      done_.fetch_add(1, std::memory_order_relaxed);
    }
    timing.end = last;
    const std::lock_guard lock(mutex_);
    ++finished_;
    changed_.notify_all();
  }

  void note_error(const Error& error) {
    const std::lock_guard lock(mutex_);
    if (!error_) error_ = error;
    stop_ = true;
  }

  // Whether the watch never wanted the end.
  bool watch_until_done(const BenchWatch& watch) {
    std::unique_lock lock(mutex_);
    bool wanted = true;
    while (
        !changed_.wait_for(lock, watch_interval, [this] { return finished_ == hands_.size(); })) {
      lock.unlock();
      const std::uint64_t all = step_.calls * hands_.size();
      if (!watch(BenchProgress{step_.group, step_.name, done_, all})) wanted = false;
      if (!wanted) stop_ = true;
      lock.lock();
    }
    return wanted;
  }

  Figure figure(const std::vector<Timing>& timings) const {
    std::vector<float> calls;
    Clock::time_point begin = timings[0].begin, end = timings[0].end;
    for (const Timing& timing : timings) {
      begin = std::min(begin, timing.begin);
      end = std::max(end, timing.end);
      calls.insert(calls.end(), timing.calls_us.begin(), timing.calls_us.end());
    }
    std::sort(calls.begin(), calls.end());
    Figure figure{step_.group, step_.name, step_.unit};
    figure.calls = calls.size();
    figure.seconds = Seconds(end - begin).count();
    figure.rate = static_cast<double>(calls.size()) * step_.units / figure.seconds;
    figure.median_us = calls[calls.size() / 2];
    figure.p99_us = calls[calls.size() * 99 / 100];
    figure.max_us = calls.back();
    return figure;
  }

  const Step& step_;
  std::deque<Hand>& hands_;
  std::barrier<> ready_;
  std::atomic<bool> stop_ = false;
  std::atomic<std::uint64_t> done_ = 0;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::size_t finished_ = 0;    // guarded by mutex_
  std::optional<Error> error_;  // guarded by mutex_
};

Result<std::vector<Figure>> measure(const BenchPlan& plan, const std::string& folder,
                                    const BenchWatch& watch) {
  const Share share(plan);
  std::deque<Hand> hands;
  for (std::uint64_t i = 0; i < plan.threads; ++i) {
    const std::string own = absl::StrCat(folder, "/", i);
    TRY_STATUS(make_directory(own));
    hands.emplace_back(own, share);
  }
  std::vector<Figure> figures;
  for (const Step& step : steps(share)) {
    // Asked here too, because a step can be done before it would be asked in it.
    if (!watch(BenchProgress{step.group, step.name, 0, step.calls})) return fail(Errc::interrupted);
    TRY(const Figure figure, Round(step, hands).run(watch));
    figures.push_back(figure);
  }
  return figures;
}

}  // namespace

Result<std::vector<Figure>> bench_directory(const BenchPlan& plan, const BenchWatch& watch) {
  std::string folder = plan.directory + "/plumeria-bench-XXXXXX";
  if (::mkdtemp(folder.data()) == nullptr) {
    return fail(host_error(errno, "make a directory in it", plan.directory));
  }
  Result<std::vector<Figure>> figures = measure(plan, folder, watch);
  std::error_code error;
  std::filesystem::remove_all(folder, error);
  if (error && figures) return fail(host_error(error.value(), "remove it", folder));
  if (error) absl::StrAppend(&figures.error().what, "; ", folder, " could not be removed");
  return figures;
}

}  // namespace plumeria::os
