// plumeria-fsx: random calls on the contents of one file, compared byte by byte with a model in
// memory (after Apple's and SGI's fsx, with two ways to the same file).
//
//   plumeria-fsx PATH [PATH] [--seed N] [--seconds N | --calls N] [--no-direct]
//
// PATH names a file that does not exist yet; a second one the same file on another mount. Each call
// goes by one of the two, and has returned before the next begins. After some hundred calls the
// file begins anew, with another limit of its size, so that every way to store a file is passed.
//
// The seed decides everything: the same seed, paths and number of calls are the same run. Exit code
// 0: no difference; 1: a difference or a failed call, with all calls on the file so far; 2: wrong
// arguments.
#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace plumeria::fsx {
namespace {

using Content = std::vector<std::uint8_t>;

constexpr std::uint64_t page = 4096;
constexpr std::uint64_t calls_per_file = 400;
// One fits into an inode, one into small blocks, the others need a data segment.
constexpr std::uint64_t size_limits[] = {3500, 15 * page, 70 * page, 700 * page};

struct Arguments {
  std::vector<std::string> paths;
  std::uint64_t seed = 0;
  std::uint64_t seconds = 0, calls = 0;
  bool direct = true;
};

// SplitMix64: small, and the same everywhere.
class Chance {
 public:
  explicit Chance(std::uint64_t seed) : state_(seed) {}
  std::uint64_t next() {
    std::uint64_t z = (state_ += 0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  }
  std::uint64_t below(std::uint64_t limit) { return limit == 0 ? 0 : next() % limit; }
  bool one_in(std::uint64_t of) { return below(of) == 0; }

 private:
  std::uint64_t state_;
};

class Failure {
 public:
  explicit Failure(std::string what) : what_(std::move(what)) {}
  const std::string& what() const { return what_; }

 private:
  std::string what_;
};

std::string text(std::uint64_t number) { return std::to_string(number); }

[[noreturn]] void fail(const std::string& what) { throw Failure(what); }
[[noreturn]] void fail_errno(const std::string& what) { fail(what + ": " + std::strerror(errno)); }

// For O_DIRECT.
class AlignedBuffer {
 public:
  explicit AlignedBuffer(std::size_t size)
      : memory_(static_cast<std::uint8_t*>(std::aligned_alloc(page, size))) {}
  std::uint8_t* data() { return memory_.get(); }

 private:
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  std::unique_ptr<std::uint8_t, Free> memory_;
};

// One mount's way to the file.
struct Side {
  std::string path;
  int file = -1, appending = -1, direct = -1;

  void open(int flags = 0) {
    file = ::open(path.c_str(), O_RDWR | O_CLOEXEC | flags, 0644);
    if (file < 0) fail_errno("open " + path);
    appending = ::open(path.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC);
    if (appending < 0) fail_errno("open " + path + " to append");
  }
  // Not every file system has it.
  bool open_direct() {
    direct = ::open(path.c_str(), O_RDWR | O_DIRECT | O_CLOEXEC);
    return direct >= 0;
  }
  void close() {
    for (int* descriptor : {&file, &appending, &direct}) {
      if (*descriptor < 0) continue;
      if (::close(*descriptor) != 0) fail_errno("close");
      *descriptor = -1;
    }
  }
};

class Exerciser {
 public:
  explicit Exerciser(const Arguments& arguments)
      : chance_(arguments.seed), has_direct_(arguments.direct) {
    for (const std::string& path : arguments.paths) sides_.push_back(Side{path});
    begin_file();
  }

  void one_call() {
    if (++calls_of_file_ > calls_per_file) {
      check_all();
      begin_file();
    }
    side_ = &sides_[chance_.below(sides_.size())];
    (this->*calls_[chance_.below(std::size(calls_))].run)();
    check_size();
    if (chance_.one_in(20)) check_all();
  }

  void end() {
    check_all();
    for (Side& side : sides_) side.close();
    if (::unlink(sides_[0].path.c_str()) != 0) fail_errno("unlink");
  }

  void print_log() const {
    for (const std::string& line : log_) std::fprintf(stderr, "  %s\n", line.c_str());
  }
  const std::map<std::string, std::uint64_t>& counts() const { return counts_; }

 private:
  struct Kind {
    void (Exerciser::*run)();
  };
  static const Kind calls_[24];

  struct Range {
    std::uint64_t offset = 0, length = 0;
    std::uint64_t end() const { return offset + length; }
  };

  // --- The file, and what is said about it ------------------------------------------------------

  void begin_file() {
    const bool first = calls_of_file_ == 0;
    for (Side& side : sides_) side.close();
    if (!first && ::unlink(sides_[0].path.c_str()) != 0) fail_errno("unlink");
    log_.clear();
    model_.clear();
    calls_of_file_ = 1;
    limit_ = size_limits[chance_.below(std::size(size_limits))];
    note("a new file of at most " + text(limit_) + " bytes");
    sides_[0].open(O_CREAT | O_EXCL);
    if (sides_.size() > 1) sides_[1].open();
    for (Side& side : sides_) has_direct_ = has_direct_ && side.open_direct();
  }

  void note(const std::string& what) {
    std::string line = text(log_.size()) + " ";
    if (sides_.size() > 1 && side_ != nullptr) {
      line += side_ == &sides_[0] ? "first: " : "second: ";
    }
    log_.push_back(line + what);
  }
  void note(const char* what, Range range, const std::string& more = "") {
    ++counts_[what];
    note(std::string(what) + " [" + text(range.offset) + ", " + text(range.end()) + ")" + more +
         ", size " + text(model_.size()));
  }

  // --- Arguments ---------------------------------------------------------------------------------

  // Often at, or near, a border of pages, or the end.
  std::uint64_t place(std::uint64_t limit) {
    std::uint64_t at = chance_.below(limit + 1);
    if (chance_.one_in(3)) at = at / page * page;
    if (chance_.one_in(8)) at = std::min<std::uint64_t>(model_.size(), limit);
    if (chance_.one_in(8)) at = std::min(at + 1, limit);
    return at;
  }
  std::uint64_t some_length(std::uint64_t most) {
    const std::uint64_t usual = chance_.one_in(6) ? 200'000 : chance_.one_in(2) ? 12'000 : 500;
    return most == 0 ? 0 : 1 + chance_.below(std::min(most, usual));
  }
  // Within the file as it is; empty if that is.
  Range range_inside() {
    if (model_.empty()) return {};
    Range range{place(model_.size() - 1), 0};
    range.length = some_length(model_.size() - range.offset);
    return range;
  }
  // Anywhere up to the limit.
  Range range_anywhere() {
    Range range{place(limit_ - 1), 0};
    range.length = some_length(limit_ - range.offset);
    return range;
  }
  static Range whole_pages(Range range) {
    const std::uint64_t from = range.offset / page * page;
    return Range{from, (range.end() - from + page - 1) / page * page};
  }
  Content new_bytes(std::uint64_t length) {
    Content bytes(length);
    std::uint64_t eight = 0;
    for (std::size_t at = 0; at < length; ++at, eight >>= 8) {
      if (at % 8 == 0) eight = chance_.next();
      bytes[at] = static_cast<std::uint8_t>(eight | 1);  // Never zero: a hole shows.
    }
    return bytes;
  }

  // --- The model ---------------------------------------------------------------------------------

  void model_write(std::uint64_t offset, const Content& bytes) {
    if (offset + bytes.size() > model_.size()) model_.resize(offset + bytes.size());
    std::copy(bytes.begin(), bytes.end(), model_.begin() + static_cast<std::ptrdiff_t>(offset));
  }
  void model_zero(Range range) {
    const std::uint64_t end = std::min<std::uint64_t>(range.end(), model_.size());
    for (std::uint64_t at = range.offset; at < end; ++at) model_[at] = 0;
  }
  void model_grow(std::uint64_t size) {
    if (size > model_.size()) model_.resize(size);
  }
  void compare(std::uint64_t offset, const std::uint8_t* bytes, std::uint64_t length,
               const char* how) {
    const std::uint8_t* wanted = model_.data() + offset;
    if (std::memcmp(bytes, wanted, length) == 0) return;
    std::uint64_t at = 0, wrong = 0;
    while (bytes[at] == wanted[at]) ++at;
    for (std::uint64_t i = at; i < length; ++i) wrong += bytes[i] != wanted[i] ? 1 : 0;
    fail(std::string(how) + ": byte " + text(offset + at) + " is " + text(bytes[at]) + ", not " +
         text(wanted[at]) + "; " + text(wrong) + " of " + text(length) + " bytes from " +
         text(offset) + " on are wrong");
  }

  // --- Checks ------------------------------------------------------------------------------------

  void check_size() {
    const Side& side = sides_[chance_.below(sides_.size())];
    struct stat status {};
    if (::fstat(side.file, &status) != 0) fail_errno("fstat");
    if (static_cast<std::uint64_t>(status.st_size) == model_.size()) return;
    fail("the size by " + side.path + " is " + text(static_cast<std::uint64_t>(status.st_size)) +
         ", not " + text(model_.size()));
  }
  void check_all() {
    for (const Side& side : sides_) {
      Content bytes(model_.size() + 1);
      const ssize_t got = ::pread(side.file, bytes.data(), bytes.size(), 0);
      if (got < 0) fail_errno("pread of all");
      if (static_cast<std::size_t>(got) != model_.size()) {
        fail(side.path + " has " + text(static_cast<std::uint64_t>(got)) + " bytes, not " +
             text(model_.size()));
      }
      compare(0, bytes.data(), model_.size(), ("all of " + side.path).c_str());
    }
  }

  // --- Calls -------------------------------------------------------------------------------------

  void read() {
    const Range range = range_anywhere();
    note("read", range);
    Content bytes(range.length);
    const ssize_t got =
        ::pread(side_->file, bytes.data(), range.length, static_cast<off_t>(range.offset));
    if (got < 0) fail_errno("pread");
    check_read(range, bytes.data(), static_cast<std::uint64_t>(got), "read");
  }
  void check_read(Range range, const std::uint8_t* bytes, std::uint64_t got, const char* how) {
    const std::uint64_t there =
        range.offset >= model_.size()
            ? 0
            : std::min<std::uint64_t>(range.length, model_.size() - range.offset);
    if (got != there) fail(std::string(how) + ": " + text(got) + " bytes, not " + text(there));
    if (there > 0) compare(range.offset, bytes, there, how);
  }

  void write() {
    const Range range = range_anywhere();
    note("write", range);
    const Content bytes = new_bytes(range.length);
    write_all(side_->file, range, bytes.data());
    model_write(range.offset, bytes);
  }
  static void write_all(int file, Range range, const std::uint8_t* bytes) {
    const ssize_t written = ::pwrite(file, bytes, range.length, static_cast<off_t>(range.offset));
    if (written < 0) fail_errno("pwrite");
    if (static_cast<std::uint64_t>(written) != range.length) {
      fail("pwrite: " + text(static_cast<std::uint64_t>(written)) + " bytes");
    }
  }

  void append() {
    const Range range{model_.size(), some_length(limit_ - model_.size())};
    if (range.length == 0) return;
    note("append", range);
    const Content bytes = new_bytes(range.length);
    const ssize_t written = ::write(side_->appending, bytes.data(), bytes.size());
    if (written < 0) fail_errno("write");
    if (static_cast<std::uint64_t>(written) != range.length) fail("append: a short write");
    model_write(range.offset, bytes);
  }

  // The mapping begins at a page.
  template <class Use>
  void with_mapping(Range range, int protection, const Use& use) {
    const std::uint64_t from = range.offset / page * page;
    void* memory = ::mmap(nullptr, range.end() - from, protection, MAP_SHARED, side_->file,
                          static_cast<off_t>(from));
    if (memory == MAP_FAILED) fail_errno("mmap");
    use(static_cast<std::uint8_t*>(memory) + (range.offset - from), memory, range.end() - from);
    if (::munmap(memory, range.end() - from) != 0) fail_errno("munmap");
  }
  // What lies beyond the end that this mount's kernel knows is SIGBUS for a mapping, and not there
  // for copy_file_range; asking for the size tells it.
  void ask_for_size() {
    struct stat status {};
    if (::fstat(side_->file, &status) != 0) fail_errno("fstat");
  }
  void mapped_read() {
    const Range range = range_inside();
    if (range.length == 0) return;
    note("mapped read", range);
    ask_for_size();
    with_mapping(range, PROT_READ, [&](const std::uint8_t* bytes, void*, std::uint64_t) {
      compare(range.offset, bytes, range.length, "mapped read");
    });
  }
  void mapped_write() {
    const Range range = range_inside();
    if (range.length == 0) return;
    const bool sync = chance_.one_in(3);
    note("mapped write", range, sync ? " and msync" : "");
    ask_for_size();
    const Content bytes = new_bytes(range.length);
    with_mapping(range, PROT_READ | PROT_WRITE,
                 [&](std::uint8_t* at, void* memory, std::uint64_t length) {
                   std::copy(bytes.begin(), bytes.end(), at);
                   if (sync && ::msync(memory, length, MS_SYNC) != 0) fail_errno("msync");
                 });
    model_write(range.offset, bytes);
    has_dirty_pages_ = has_dirty_pages_ || !sync;
  }

  void truncate() {
    std::uint64_t size = place(limit_);
    if (chance_.one_in(10)) size = 0;
    note("truncate", Range{0, size});
    const bool by_path = chance_.one_in(2);
    const int result = by_path ? ::truncate(side_->path.c_str(), static_cast<off_t>(size))
                               : ::ftruncate(side_->file, static_cast<off_t>(size));
    if (result != 0) fail_errno("truncate");
    model_.resize(size);
  }

  void change_space(const char* name, Range range, int mode) {
    note(name, range);
    if (::fallocate(side_->file, mode, static_cast<off_t>(range.offset),
                    static_cast<off_t>(range.length)) != 0) {
      fail_errno(name);
    }
    if ((mode & FALLOC_FL_KEEP_SIZE) == 0) model_grow(range.end());
    if ((mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)) != 0) model_zero(range);
  }
  void allocate() { change_space("allocate", range_anywhere(), 0); }
  void allocate_behind() {
    change_space("allocate, keep size", range_anywhere(), FALLOC_FL_KEEP_SIZE);
  }
  void punch() {
    change_space("punch", range_anywhere(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE);
  }
  void zero() { change_space("zero", range_anywhere(), FALLOC_FL_ZERO_RANGE); }
  void zero_inside() {
    change_space("zero, keep size", range_anywhere(), FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE);
  }

  void copy() {
    const Range from = range_inside();
    if (from.length == 0) return;
    const Range to{place(limit_ - from.length), from.length};
    if (to.offset < from.end() && from.offset < to.end()) return;  // EINVAL
    note("copy", from, " to " + text(to.offset));
    ask_for_size();
    std::uint64_t done = 0;
    while (done < from.length) {
      auto source = static_cast<off_t>(from.offset + done);
      auto target = static_cast<off_t>(to.offset + done);
      const ssize_t copied =
          ::copy_file_range(side_->file, &source, side_->file, &target, from.length - done, 0);
      if (copied < 0) fail_errno("copy_file_range");
      if (copied == 0) fail("copy_file_range: the end at " + text(done));
      done += static_cast<std::uint64_t>(copied);
    }
    const auto begin = model_.begin() + static_cast<std::ptrdiff_t>(from.offset);
    model_write(to.offset, Content(begin, begin + static_cast<std::ptrdiff_t>(from.length)));
  }

  void direct_read() {
    if (!has_direct_) return;
    const Range range = whole_pages(range_anywhere());
    note("direct read", range);
    AlignedBuffer buffer(range.length);
    const ssize_t got =
        ::pread(side_->direct, buffer.data(), range.length, static_cast<off_t>(range.offset));
    if (got < 0) fail_errno("direct pread");
    check_read(range, buffer.data(), static_cast<std::uint64_t>(got), "direct read");
  }
  void direct_write() {
    if (!has_direct_ || limit_ < page) return;
    const Range range = whole_pages(range_anywhere());
    note("direct write", range);
    const Content bytes = new_bytes(range.length);
    AlignedBuffer buffer(range.length);
    std::copy(bytes.begin(), bytes.end(), buffer.data());
    write_all(side_->direct, range, buffer.data());
    model_write(range.offset, bytes);
  }

  // What lseek calls a hole must be zeros, and what it calls data must begin and end somewhere.
  void seek() {
    const Range range = range_inside();
    if (range.length == 0) return;
    note("seek", range);
    // A hole that a mapping has filled stays one for lseek until the page is written back.
    if (std::exchange(has_dirty_pages_, false)) {
      for (const Side& side : sides_) {
        if (::fdatasync(side.file) != 0) fail_errno("fdatasync");
      }
    }
    const off_t data = ::lseek(side_->file, static_cast<off_t>(range.offset), SEEK_DATA);
    if (data < 0 && errno != ENXIO) fail_errno("SEEK_DATA");
    const std::uint64_t end = data < 0 ? model_.size() : static_cast<std::uint64_t>(data);
    for (std::uint64_t at = range.offset; at < end; ++at) {
      if (model_[at] != 0) fail("byte " + text(at) + " is data, SEEK_DATA says " + text(end));
    }
    const off_t hole = ::lseek(side_->file, static_cast<off_t>(range.offset), SEEK_HOLE);
    if (hole < 0) fail_errno("SEEK_HOLE");
    const auto at = static_cast<std::uint64_t>(hole);
    if (at < range.offset || at > model_.size()) fail("SEEK_HOLE says " + text(at));
    if (at < model_.size() && model_[at] != 0) fail("SEEK_HOLE says " + text(at) + ": no hole");
  }

  void synchronize() {
    const bool data_only = chance_.one_in(2);
    note(data_only ? "fdatasync" : "fsync", Range{0, model_.size()});
    if ((data_only ? ::fdatasync(side_->file) : ::fsync(side_->file)) != 0) fail_errno("fsync");
  }
  void reopen() {
    note("reopen", Range{0, model_.size()});
    side_->close();
    side_->open();
    if (has_direct_ && !side_->open_direct()) fail_errno("open with O_DIRECT");
  }
  void forget() {
    note("forget pages", Range{0, model_.size()});
    if (::posix_fadvise(side_->file, 0, 0, POSIX_FADV_DONTNEED) != 0) fail("fadvise");
  }

  Chance chance_;
  std::vector<Side> sides_;
  Side* side_ = nullptr;
  bool has_direct_;
  bool has_dirty_pages_ = false;  // that a mapping made so
  Content model_;
  std::uint64_t limit_ = 0;
  std::uint64_t calls_of_file_ = 0;
  std::vector<std::string> log_;
  std::map<std::string, std::uint64_t> counts_;
};

// Frequent ones several times.
const Exerciser::Kind Exerciser::calls_[24] = {
    {&Exerciser::read},         {&Exerciser::read},
    {&Exerciser::write},        {&Exerciser::write},
    {&Exerciser::write},        {&Exerciser::append},
    {&Exerciser::mapped_read},  {&Exerciser::mapped_read},
    {&Exerciser::mapped_write}, {&Exerciser::mapped_write},
    {&Exerciser::truncate},     {&Exerciser::truncate},
    {&Exerciser::allocate},     {&Exerciser::allocate_behind},
    {&Exerciser::punch},        {&Exerciser::zero},
    {&Exerciser::zero_inside},  {&Exerciser::copy},
    {&Exerciser::direct_read},  {&Exerciser::direct_write},
    {&Exerciser::seek},         {&Exerciser::synchronize},
    {&Exerciser::reopen},       {&Exerciser::forget},
};

int run(const Arguments& arguments) {
  using Clock = std::chrono::steady_clock;
  std::printf("seed %llu\n", static_cast<unsigned long long>(arguments.seed));
  std::fflush(stdout);
  const auto end = Clock::now() + std::chrono::seconds(arguments.seconds);
  std::uint64_t done = 0;
  std::unique_ptr<Exerciser> exerciser;
  try {
    exerciser = std::make_unique<Exerciser>(arguments);
    const auto goes_on = [&] {
      return arguments.calls > 0 ? done < arguments.calls : Clock::now() < end;
    };
    for (; goes_on(); ++done) exerciser->one_call();
    exerciser->end();
  } catch (const Failure& failure) {
    std::fprintf(stderr, "after %llu calls: %s\n", static_cast<unsigned long long>(done),
                 failure.what().c_str());
    if (exerciser) exerciser->print_log();
    std::fprintf(stderr, "again: --seed %llu --calls %llu\n",
                 static_cast<unsigned long long>(arguments.seed),
                 static_cast<unsigned long long>(done + 1));
    return 1;
  }
  std::printf("%llu calls, no difference:", static_cast<unsigned long long>(done));
  for (const auto& [kind, count] : exerciser->counts()) {
    std::printf(" %s %llu,", kind.c_str(), static_cast<unsigned long long>(count));
  }
  std::printf("\n");
  return 0;
}

int complain() {
  std::fprintf(stderr, "plumeria-fsx: see the first lines of tests/fsx/fsx.cc\n");
  return 2;
}

int main(const std::vector<std::string>& words) {
  Arguments arguments;
  for (std::size_t i = 0; i < words.size(); ++i) {
    if (words[i] == "--no-direct") {
      arguments.direct = false;
    } else if (!words[i].starts_with("--")) {
      arguments.paths.push_back(words[i]);
    } else if (i + 1 == words.size()) {
      return complain();
    } else {
      const std::uint64_t number = std::strtoull(words[i + 1].c_str(), nullptr, 10);
      if (words[i] == "--seed") {
        arguments.seed = number;
      } else if (words[i] == "--seconds") {
        arguments.seconds = number;
      } else if (words[i] == "--calls") {
        arguments.calls = number;
      } else {
        return complain();
      }
      ++i;
    }
  }
  const bool bounded = arguments.seconds > 0 || arguments.calls > 0;
  if (arguments.paths.empty() || arguments.paths.size() > 2 || !bounded) return complain();
  return run(arguments);
}

}  // namespace
}  // namespace plumeria::fsx

int main(int argc, char** argv) {
  return plumeria::fsx::main(std::vector<std::string>(argv + 1, argv + argc));
}
