// plumeria-coherence-stress DIR_A DIR_B [--seconds N] [--seed S] [--only NAME,...] [--first]
//
// Looks for stale bytes, lost appends and stalls on two mounts of one file system. Any file system
// will do: it knows nothing of Plumeria. Its processes talk through shared memory, outside of the
// file system: whatever one of them was told is done must be seen by all that begin to look later.
//
// A stall is the file system's, not the machine's: time in which a process that only sleeps and
// wakes up could not run either (a stopped virtual processor, a stopped test) does not count.
// --first: end at the first violation or stall, without waiting for anybody.
//
// Exit code: 0 nothing found; 1 a violation (printed); 2 wrong use; 3 a stall of more than a
// second, or processes that cannot be ended (the caller must abort the FUSE connections).
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <thread>
#include <vector>

namespace {

constexpr std::size_t page = 4096;
constexpr int workers_max = 128;
constexpr std::uint64_t stall_limit_ms = 1000;

std::uint64_t now_ms() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<std::uint64_t>(t.tv_sec) * 1000 +
         static_cast<std::uint64_t>(t.tv_nsec) / 1000000;
}

struct Heartbeat {
  std::atomic<std::uint64_t> since;  // when the running call began; 0: none runs
  std::atomic<const char*> what;
  std::atomic<std::uint64_t> stolen_before;  // see Shared::stolen_ms
  std::atomic<std::uint64_t> calls;
  std::atomic<std::uint64_t> longest_ms;
  std::atomic<const char*> longest;
};

// All that the processes share outside of the file system.
struct Shared {
  std::atomic<bool> prepared;  // the files are there, and the work begins
  std::atomic<bool> stop;
  std::atomic<int> violations;
  std::atomic<std::uint64_t> checks;
  std::atomic<std::uint64_t> stolen_ms;  // time in which some processor ran nobody in time
  Heartbeat heartbeats[workers_max];
};

Shared* shared = nullptr;
Heartbeat* heartbeat = nullptr;
std::uint64_t random_state = 0;
std::string folders[2];

template <class T>
T* share() {
  void* at = mmap(nullptr, sizeof(T), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED) {
    std::perror("mmap");
    std::exit(2);
  }
  return new (at) T();
}

std::uint64_t random_number() {
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  random_state ^= random_state << 17;
  return random_state;
}
std::uint64_t below(std::uint64_t bound) { return (random_number() >> 11) % bound; }

[[gnu::format(printf, 1, 2)]] void violation(const char* format, ...) {
  if (shared->violations.fetch_add(1) >= 20) return;
  char text[512];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  std::fprintf(stderr, "VIOLATION %s\n", text);
}

// How long the call has been running that began at `since`.
std::uint64_t time_in_call(const Heartbeat& beat, std::uint64_t since) {
  const std::uint64_t elapsed = now_ms() - since;
  const std::uint64_t stolen = shared->stolen_ms - beat.stolen_before;
  return elapsed > stolen ? elapsed - stolen : 0;
}

// The process that calls it does not outlive its parent, which may have ended since it forked.
void end_with(pid_t parent) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(0);
}

// A call that touches the file system, watched by the parent.
class Call {
 public:
  explicit Call(const char* what) {
    heartbeat->what = what;
    heartbeat->stolen_before = shared->stolen_ms.load();
    heartbeat->since = now_ms();
  }
  ~Call() {
    const std::uint64_t took = time_in_call(*heartbeat, heartbeat->since);
    if (took > heartbeat->longest_ms) {
      heartbeat->longest_ms = took;
      heartbeat->longest = heartbeat->what.load();
    }
    heartbeat->since = 0;
    ++heartbeat->calls;
  }
};

void must(bool done, const char* what) {
  if (done || shared->stop) return;
  violation("%s failed: %s", what, std::strerror(errno));
  shared->stop = true;
  _exit(1);
}

int open_file(const std::string& path, int flags) {
  Call call("open");
  const int fd = open(path.c_str(), flags, 0644);
  must(fd >= 0, "open");
  return fd;
}

bool stopping() { return shared->stop.load(std::memory_order_relaxed); }

// Accesses to a mapping of a file that others truncate end in SIGBUS.
thread_local sigjmp_buf bus_jump;
volatile sig_atomic_t bus_expected = 0;
void on_bus(int) {
  if (bus_expected) siglongjmp(bus_jump, 1);
  _exit(99);
}
template <class Body>
bool survives_bus(Body body) {
  if (sigsetjmp(bus_jump, 1) != 0) {
    bus_expected = 0;
    return false;
  }
  bus_expected = 1;
  body();
  bus_expected = 0;
  return true;
}

struct Worker {
  std::string name;
  std::function<void()> body;
};
std::vector<Worker> workers;
std::vector<std::function<void()>> final_checks;
void add(std::string name, std::function<void()> body) {
  workers.push_back({std::move(name), std::move(body)});
}

// ---- pages: many slots, each with one writer and a version that only grows; written by pwrite of
// parts and of whole pages and by stores into shared mappings, read in both ways on both mounts.
// A page has slots of writers on both mounts, or one slot of its own size.

constexpr int slot_pages = 16, slots_per_page = 8;
constexpr std::size_t slot_size = page / slots_per_page;
struct Slots {
  std::atomic<std::uint64_t> issued[slot_pages * slots_per_page];
  std::atomic<std::uint64_t> finished[slot_pages * slots_per_page];
};

enum class How { write_part, write_page, store };
// Pages 0–3 are written whole, 4–9 by parts, 10–12 by stores, 13–15 by parts and stores.
How how_of(int page_number, int slot) {
  if (page_number < 4) return How::write_page;
  if (page_number < 10) return How::write_part;
  if (page_number < 13) return How::store;
  return slot % 2 == 0 ? How::write_part : How::store;
}
int owner_of(int page_number, int slot) {  // which of the four writers
  return page_number < 4 ? page_number : (slot / 2) % 4;
}

void check_slot(Slots* slots, int index, std::uint64_t floor, std::uint64_t seen, const char* how,
                int mount) {
  ++shared->checks;
  const std::uint64_t ceiling = slots->issued[index];
  if (seen >= floor && seen <= ceiling) return;
  violation("pages: mount %c by %s: page %d slot %d has version %lu, should be %lu to %lu",
            'A' + mount, how, index / slots_per_page, index % slots_per_page, seen, floor, ceiling);
}

void pages_writer(const std::string& path, Slots* slots, int writer) {
  const int fd = open_file(path, O_RDWR);
  auto* mapping = static_cast<char*>(
      mmap(nullptr, slot_pages * page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
  must(mapping != MAP_FAILED, "mmap");
  alignas(8) char buffer[page];
  while (!stopping()) {
    const int page_number = static_cast<int>(below(slot_pages));
    const int slot = page_number < 4 ? 0 : static_cast<int>(below(slots_per_page));
    if (owner_of(page_number, slot) != writer) continue;
    const int index = page_number * slots_per_page + slot;
    const std::uint64_t version = slots->issued[index] + 1;
    slots->issued[index] = version;
    const std::size_t offset =
        static_cast<std::size_t>(page_number) * page + static_cast<std::size_t>(slot) * slot_size;
    switch (how_of(page_number, slot)) {
      case How::write_page: {
        for (std::size_t i = 0; i < page; i += 8) std::memcpy(buffer + i, &version, 8);
        Call call("pwrite of a page");
        must(pwrite(fd, buffer, page, static_cast<off_t>(offset)) == static_cast<ssize_t>(page),
             "pwrite");
        break;
      }
      case How::write_part: {
        for (std::size_t i = 0; i < slot_size; i += 8) std::memcpy(buffer + i, &version, 8);
        Call call("pwrite of a part");
        must(pwrite(fd, buffer, slot_size, static_cast<off_t>(offset)) ==
                 static_cast<ssize_t>(slot_size),
             "pwrite");
        break;
      }
      case How::store: {
        Call call("store");
        auto* word = reinterpret_cast<std::atomic<std::uint64_t>*>(mapping + offset);
        word->store(version);
        break;
      }
    }
    slots->finished[index] = version;
    if (below(64) == 0) {
      Call call("msync");
      msync(mapping, slot_pages * page, MS_SYNC);
    }
    if (below(16) == 0) usleep(static_cast<useconds_t>(below(300)));
  }
}

void pages_reader(const std::string& path, Slots* slots, int mount, bool writable) {
  const int fd = open_file(path, writable ? O_RDWR : O_RDONLY);
  auto* mapping =
      static_cast<char*>(mmap(nullptr, slot_pages * page, PROT_READ, MAP_SHARED, fd, 0));
  must(mapping != MAP_FAILED, "mmap");
  while (!stopping()) {
    const int page_number = static_cast<int>(below(slot_pages));
    const int slot = page_number < 4 ? 0 : static_cast<int>(below(slots_per_page));
    const int index = page_number * slots_per_page + slot;
    const std::size_t offset =
        static_cast<std::size_t>(page_number) * page + static_cast<std::size_t>(slot) * slot_size;
    const std::uint64_t floor = slots->finished[index];
    std::uint64_t seen = 0;
    if (below(2) == 0) {
      {
        Call call("pread");
        must(pread(fd, &seen, 8, static_cast<off_t>(offset)) == 8, "pread");
      }
      check_slot(slots, index, floor, seen, "pread", mount);
    } else {
      {
        Call call("load");
        seen = reinterpret_cast<std::atomic<std::uint64_t>*>(mapping + offset)->load();
      }
      check_slot(slots, index, floor, seen, "load", mount);
    }
    if (below(16) == 0) usleep(static_cast<useconds_t>(below(300)));
  }
}

void add_pages() {
  auto* slots = share<Slots>();
  const std::string name = "/pages";
  const int fd = open_file(folders[0] + name, O_RDWR | O_CREAT | O_TRUNC);
  must(ftruncate(fd, slot_pages * page) == 0, "ftruncate");
  close(fd);
  for (int i = 0; i < 4; ++i) {
    add("pages.writer", [=] { pages_writer(folders[i % 2] + name, slots, i); });
  }
  for (int i = 0; i < 4; ++i) {
    add("pages.reader", [=] { pages_reader(folders[i % 2] + name, slots, i % 2, i >= 2); });
  }
}

// ---- model: one operation at a time, by whoever gets the turn, on either mount; every answer must
// be that of a plain array of bytes.

constexpr std::size_t model_max = 24 * page;
struct Model {
  std::atomic<int> turn;
  std::size_t size;
  std::uint8_t bytes[model_max];
};

struct ModelFile {
  std::string path;
  int fd = -1, append_fd = -1, read_fd = -1;
  std::uint8_t* mapping = nullptr;

  void open() {
    fd = open_file(path, O_RDWR);
    // Three ways to append, of which the kernel makes different requests.
    const std::uint64_t way = below(3);
    append_fd = open_file(path, way == 0   ? O_WRONLY | O_APPEND
                                : way == 1 ? O_RDWR | O_APPEND
                                           : O_WRONLY);
    if (way == 2) must(fcntl(append_fd, F_SETFL, O_APPEND) == 0, "F_SETFL");
    read_fd = open_file(path, O_RDONLY);
    mapping = static_cast<std::uint8_t*>(
        mmap(nullptr, model_max, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
    must(mapping != MAP_FAILED, "mmap");
  }
  void close_all() {
    Call call("close");
    munmap(mapping, model_max);
    close(fd);
    close(append_fd);
    close(read_fd);
  }
};

void model_read(Model* model, ModelFile& file, char mount) {
  std::uint8_t buffer[model_max];
  const std::size_t offset = below(model->size + 100);
  const std::size_t length = 1 + below(below(2) == 0 ? 200 : 5 * page);
  const std::size_t expected = offset >= model->size ? 0 : std::min(length, model->size - offset);
  ssize_t got;
  {
    Call call("model pread");
    got = pread(below(2) == 0 ? file.fd : file.read_fd, buffer, std::min(length, model_max),
                static_cast<off_t>(offset));
  }
  ++shared->checks;
  if (got != static_cast<ssize_t>(expected)) {
    violation("model: mount %c: pread(%zu, %zu) gives %zd bytes instead of %zu, size %zu", mount,
              offset, length, got, expected, model->size);
    return;
  }
  for (std::size_t i = 0; i < expected; ++i) {
    if (buffer[i] == model->bytes[offset + i]) continue;
    violation("model: mount %c: pread at %zu: byte %u instead of %u, size %zu", mount, offset + i,
              buffer[i], model->bytes[offset + i], model->size);
    return;
  }
}

void model_load(Model* model, ModelFile& file, char mount) {
  if (model->size == 0) return;
  const std::size_t offset = below(model->size);
  const std::size_t length = std::min<std::size_t>(1 + below(2 * page), model->size - offset);
  std::uint8_t buffer[2 * page];
  bool done;
  {
    Call call("model load");
    done = survives_bus([&] { std::memcpy(buffer, file.mapping + offset, length); });
  }
  ++shared->checks;
  if (!done) {
    // The kernel believes in an older, smaller size until it is asked for the attributes.
    struct stat status;
    Call call("model fstat");
    fstat(file.fd, &status);
    done = survives_bus([&] { std::memcpy(buffer, file.mapping + offset, length); });
    if (!done) {
      violation("model: mount %c: SIGBUS at %zu, size %zu", mount, offset, model->size);
      return;
    }
  }
  for (std::size_t i = 0; i < length; ++i) {
    if (buffer[i] == model->bytes[offset + i]) continue;
    violation("model: mount %c: load at %zu: byte %u instead of %u, size %zu", mount, offset + i,
              buffer[i], model->bytes[offset + i], model->size);
    return;
  }
}

void model_store(Model* model, ModelFile& file) {
  if (model->size == 0) return;
  const std::size_t offset = below(model->size);
  const std::size_t length = std::min<std::size_t>(1 + below(page), model->size - offset);
  const std::uint8_t value = static_cast<std::uint8_t>(below(256));
  // A store where the kernel does not yet know the file to reach is lost with a signal: ask first.
  struct stat status;
  Call call("model store");
  fstat(file.fd, &status);
  const bool done = survives_bus([&] { std::memset(file.mapping + offset, value, length); });
  if (!done) {
    violation("model: SIGBUS at a store at %zu, size %zu", offset, model->size);
    return;
  }
  std::memset(model->bytes + offset, value, length);
}

void model_write(Model* model, ModelFile& file, bool append) {
  std::uint8_t buffer[3 * page];
  std::size_t offset = append ? model->size : below(model->size + 300);
  std::size_t length = 1 + below(below(2) == 0 ? 300 : 3 * page);
  if (below(4) == 0 && !append) {
    offset &= ~(page - 1);
    length = std::max<std::size_t>(length & ~(page - 1), page);
  }
  if (offset + length > model_max) return;
  const std::uint8_t value = static_cast<std::uint8_t>(below(256));
  std::memset(buffer, value, length);
  Call call(append ? "model append" : "model pwrite");
  // Linux 6.18 loses a write(2) that makes the file longer if a page that a mapping made dirty, and
  // into which it goes, is written back at the same moment: docs/kernel.md, "What FUSE does not
  // allow".
  if (offset + length > model->size) fsync(file.fd);
  const ssize_t put = append ? write(file.append_fd, buffer, length)
                             : pwrite(file.fd, buffer, length, static_cast<off_t>(offset));
  must(put == static_cast<ssize_t>(length), "write");
  if (offset > model->size) std::memset(model->bytes + model->size, 0, offset - model->size);
  std::memset(model->bytes + offset, value, length);
  model->size = std::max(model->size, offset + length);
}

void model_truncate(Model* model, ModelFile& file) {
  const std::size_t size = below(model_max);
  Call call("model ftruncate");
  must(ftruncate(file.fd, static_cast<off_t>(size)) == 0, "ftruncate");
  if (size > model->size) std::memset(model->bytes + model->size, 0, size - model->size);
  model->size = size;
}

void model_size(Model* model, ModelFile& file, char mount) {
  struct stat status;
  Call call("model fstat");
  must((below(2) == 0 ? fstat(file.fd, &status) : stat(file.path.c_str(), &status)) == 0, "stat");
  ++shared->checks;
  if (static_cast<std::size_t>(status.st_size) == model->size) return;
  violation("model: mount %c: size %ld instead of %zu", mount, status.st_size, model->size);
}

void model_worker(std::string path, Model* model, char mount) {
  signal(SIGBUS, on_bus);
  ModelFile file;
  file.path = std::move(path);
  file.open();
  while (!stopping()) {
    int free = 0;
    if (!model->turn.compare_exchange_weak(free, 1)) {
      usleep(20);
      continue;
    }
    const std::uint64_t dice = below(100);
    if (dice < 30) {
      model_read(model, file, mount);
    } else if (dice < 45) {
      model_load(model, file, mount);
    } else if (dice < 55) {
      model_store(model, file);
    } else if (dice < 72) {
      model_write(model, file, false);
    } else if (dice < 82) {
      model_write(model, file, true);
    } else if (dice < 86) {
      model_truncate(model, file);
    } else if (dice < 96) {
      model_size(model, file, mount);
    } else if (dice < 98) {
      Call call("model fsync");
      fsync(file.fd);
    } else {
      file.close_all();
      file.open();
    }
    model->turn = 0;
    if (below(4) == 0) usleep(static_cast<useconds_t>(below(100)));
  }
}

void add_model() {
  for (int group = 0; group < 2; ++group) {
    auto* model = share<Model>();
    const std::string name = "/model." + std::to_string(group);
    close(open_file(folders[group] + name, O_RDWR | O_CREAT | O_TRUNC));
    for (int i = 0; i < 4; ++i) {
      add("model",
          [=] { model_worker(folders[i % 2] + name, model, static_cast<char>('A' + i % 2)); });
    }
  }
}

// ---- append: records of several writers on both mounts; each exactly once and in order, and a
// reader finds nothing but whole records below any size that it was told.

struct Record {
  std::uint32_t magic, writer, sequence, length;
};
constexpr std::uint32_t record_magic = 0x52454331;
struct Appended {
  std::atomic<std::uint64_t> bytes;  // finished appends of all
  std::atomic<std::uint32_t> records[4];
  std::atomic<std::uint64_t> limit;
};

void append_writer(const std::string& path, Appended* appended, std::uint32_t writer) {
  const int fd = open_file(path, (writer < 2 ? O_WRONLY : O_RDWR) | O_APPEND);
  char buffer[2 * page];
  std::uint32_t sequence = 0;
  while (!stopping() && appended->bytes < appended->limit) {
    Record record{record_magic, writer, sequence,
                  static_cast<std::uint32_t>(sizeof(Record) + below(below(8) == 0 ? 6000 : 300))};
    std::memset(buffer, static_cast<int>('a' + writer), record.length);
    std::memcpy(buffer, &record, sizeof record);
    {
      Call call("append");
      must(write(fd, buffer, record.length) == static_cast<ssize_t>(record.length), "append");
    }
    appended->records[writer] = ++sequence;
    appended->bytes += record.length;
    if (below(8) == 0) usleep(static_cast<useconds_t>(below(200)));
  }
}

// Checks [from, size) of the file; returns where the next record begins, or -1.
off_t check_records(int fd, off_t from, off_t size, std::uint32_t (&next)[4], const char* who) {
  static char buffer[1 << 20];
  while (from < size) {
    const std::size_t wanted =
        static_cast<std::size_t>(std::min<off_t>(size - from, sizeof buffer));
    ssize_t got;
    {
      Call call("append pread");
      got = pread(fd, buffer, wanted, from);
    }
    if (got != static_cast<ssize_t>(wanted)) {
      violation("append: %s: pread of %zu at %ld gives %zd", who, wanted, from, got);
      return -1;
    }
    std::size_t at = 0;
    while (at + sizeof(Record) <= wanted) {
      Record record;
      std::memcpy(&record, buffer + at, sizeof record);
      ++shared->checks;
      if (record.magic != record_magic || record.writer > 3 || record.length < sizeof record ||
          record.length > 2 * page || record.sequence != next[record.writer]) {
        violation("append: %s: no record at %ld of %ld (magic %x, writer %u, sequence %u after %u)",
                  who, from + static_cast<off_t>(at), size, record.magic, record.writer,
                  record.sequence, record.writer <= 3 ? next[record.writer] : 0);
        return -1;
      }
      if (at + record.length > wanted) break;
      for (std::size_t i = at + sizeof record; i < at + record.length; ++i) {
        if (buffer[i] == static_cast<char>('a' + record.writer)) continue;
        violation("append: %s: wrong byte %d at %ld", who, buffer[i], from + static_cast<off_t>(i));
        return -1;
      }
      ++next[record.writer];
      at += record.length;
    }
    if (at == 0) break;  // Less than a record is left of what fits.
    from += static_cast<off_t>(at);
  }
  return from;
}

void append_reader(const std::string& path, Appended* appended, const char* who) {
  const int fd = open_file(path, O_RDONLY);
  off_t from = 0;
  std::uint32_t next[4] = {};
  while (!stopping() && from >= 0) {
    const std::uint64_t floor = appended->bytes;
    struct stat status;
    {
      Call call("append fstat");
      fstat(fd, &status);
    }
    if (static_cast<std::uint64_t>(status.st_size) < floor) {
      violation("append: %s: size %ld after %lu bytes were appended", who, status.st_size, floor);
      return;
    }
    from = check_records(fd, from, status.st_size, next, who);
    usleep(static_cast<useconds_t>(below(3000)));
  }
}

void add_append() {
  auto* appended = share<Appended>();
  appended->limit = 256u << 20;
  const std::string name = "/append";
  close(open_file(folders[0] + name, O_RDWR | O_CREAT | O_TRUNC));
  for (std::uint32_t i = 0; i < 4; ++i) {
    add("append.writer", [=] { append_writer(folders[i % 2] + name, appended, i); });
  }
  for (int i = 0; i < 2; ++i) {
    add("append.reader",
        [=] { append_reader(folders[i] + name, appended, i == 0 ? "mount A" : "mount B"); });
  }
  final_checks.push_back([=] {
    for (int i = 0; i < 2; ++i) {
      const int fd = open_file(folders[i] + name, O_RDONLY);
      struct stat status;
      fstat(fd, &status);
      std::uint32_t next[4] = {};
      const off_t end =
          check_records(fd, 0, status.st_size, next, i == 0 ? "A at last" : "B at last");
      if (end >= 0 && end != status.st_size) violation("append: bytes after the last record");
      for (int w = 0; w < 4 && end >= 0; ++w) {
        if (next[w] < appended->records[w]) {
          violation("append: writer %d has %u records, %u were appended", w, next[w],
                    appended->records[w].load());
        }
      }
      close(fd);
    }
  });
}

// ---- sizes: one process makes a file longer and shorter and goes on writing at its start, so that
// the lock is wanted back at once; one on the other mount asks for the end in every way.

struct Sizes {
  std::atomic<std::uint64_t> turn;  // odd while the size changes
  std::atomic<std::uint64_t> size;
};
constexpr std::uint64_t sizes_max = 300000;

std::uint8_t sizes_byte(std::uint64_t offset) {
  return static_cast<std::uint8_t>(1 + offset % 251);
}

void sizes_writer(const std::string& path, Sizes* sizes) {
  const int fd = open_file(path, O_RDWR);
  static std::uint8_t buffer[5000];
  while (!stopping()) {
    const std::uint64_t size = sizes->size;
    if (size > 0 && below(3) > 0) {
      Call call("sizes pwrite");
      const std::uint8_t first = sizes_byte(0);
      must(pwrite(fd, &first, 1, 0) == 1, "pwrite");
      continue;
    }
    ++sizes->turn;
    if (size >= sizes_max || below(20) == 0) {
      Call call("sizes ftruncate");
      const std::uint64_t shorter = below(size + 1);
      must(ftruncate(fd, static_cast<off_t>(shorter)) == 0, "ftruncate");
      sizes->size = shorter;
    } else {
      const std::size_t length = 1 + below(below(2) == 0 ? 30 : sizeof buffer);
      for (std::size_t i = 0; i < length; ++i) buffer[i] = sizes_byte(size + i);
      Call call("sizes append");
      must(pwrite(fd, buffer, length, static_cast<off_t>(size)) == static_cast<ssize_t>(length),
           "append");
      sizes->size = size + length;
    }
    ++sizes->turn;
    if (below(4) == 0) usleep(static_cast<useconds_t>(below(500)));
  }
}

// How far the file reaches, asked in one of four ways. `size`: what the answer should be.
std::uint64_t sizes_ask(int fd, std::uint64_t size, const char** how) {
  Call call("sizes ask");
  struct stat status;
  std::uint8_t bytes[2] = {};
  switch (below(4)) {
    case 0:
      *how = "lseek";
      return static_cast<std::uint64_t>(lseek(fd, 0, SEEK_END));
    case 1:
      *how = "fstat";
      fstat(fd, &status);
      return static_cast<std::uint64_t>(status.st_size);
    case 2:
      *how = "fstat and lseek";
      fstat(fd, &status);
      return static_cast<std::uint64_t>(lseek(fd, 0, SEEK_END));
    default: {
      *how = "pread";
      const std::uint64_t from = size == 0 ? 0 : size - 1;
      ssize_t got;
      do {
        got = pread(fd, bytes, 2, static_cast<off_t>(from));
      } while (got < 0 && errno == EINTR);
      if (got > 0 && bytes[0] != sizes_byte(from)) *how = "pread with a wrong byte";
      if (got > 0 && bytes[0] != sizes_byte(from)) return 0;
      return got < 0 ? ~0ull : from + static_cast<std::uint64_t>(got);
    }
  }
}

void sizes_reader(const std::string& path, Sizes* sizes) {
  const int fd = open_file(path, O_RDONLY);
  while (!stopping()) {
    const std::uint64_t turn = sizes->turn;
    const std::uint64_t size = sizes->size;
    if (turn % 2 != 0) {
      usleep(10);
      continue;
    }
    const char* how = "";
    const std::uint64_t seen = sizes_ask(fd, size, &how);
    if (sizes->turn != turn) continue;  // It may have changed meanwhile.
    ++shared->checks;
    if (seen != size)
      violation("sizes: by %s the file ends at %lu instead of %lu", how, seen, size);
    if (below(8) == 0) usleep(static_cast<useconds_t>(below(1000)));
  }
}

void add_sizes() {
  for (int group = 0; group < 2; ++group) {
    auto* sizes = share<Sizes>();
    const std::string name = "/sizes." + std::to_string(group);
    close(open_file(folders[0] + name, O_RDWR | O_CREAT | O_TRUNC));
    add("sizes.writer", [=] { sizes_writer(folders[group] + name, sizes); });
    add("sizes.reader", [=] { sizes_reader(folders[1 - group] + name, sizes); });
  }
}

// ---- truncate: truncates, writes, stores and reads of one file in each other's way. A byte is
// zero or what somebody wrote there; what counts is that nobody waits for ever.

constexpr std::size_t truncate_size = 64 * page;

void truncate_worker(const std::string& path, int role, int mount) {
  signal(SIGBUS, on_bus);
  const int fd = open_file(path, O_RDWR);
  auto* mapping = static_cast<std::uint8_t*>(
      mmap(nullptr, truncate_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
  must(mapping != MAP_FAILED, "mmap");
  static std::uint8_t buffer[16 * page];
  while (!stopping()) {
    const std::size_t offset = below(truncate_size - sizeof buffer);
    const std::size_t length = 1 + below(below(2) == 0 ? 100 : sizeof buffer);
    const auto stamp = static_cast<std::uint8_t>(1 + (offset / page) % 200);
    switch (role) {
      case 0: {
        Call call("truncate");
        must(ftruncate(fd, static_cast<off_t>(below(truncate_size))) == 0, "ftruncate");
        usleep(static_cast<useconds_t>(below(2000)));
        break;
      }
      case 1: {
        for (std::size_t i = 0; i < length; ++i) {
          buffer[i] = static_cast<std::uint8_t>(1 + ((offset + i) / page) % 200);
        }
        Call call("truncate pwrite");
        must(pwrite(fd, buffer, length, static_cast<off_t>(offset)) == static_cast<ssize_t>(length),
             "pwrite");
        break;
      }
      case 2: {
        Call call("truncate store");
        survives_bus([&] { mapping[offset] = stamp; });
        break;
      }
      default: {
        ssize_t got;
        {
          Call call("truncate pread");
          got = pread(fd, buffer, length, static_cast<off_t>(offset));
        }
        for (ssize_t i = 0; i < got; ++i) {
          const std::size_t at = offset + static_cast<std::size_t>(i);
          const auto wanted = static_cast<std::uint8_t>(1 + (at / page) % 200);
          ++shared->checks;
          if (buffer[i] == 0 || buffer[i] == wanted) continue;
          violation("truncate: mount %c: byte %u at %zu instead of 0 or %u", 'A' + mount, buffer[i],
                    at, wanted);
          break;
        }
      }
    }
    if (below(8) == 0) usleep(static_cast<useconds_t>(below(500)));
  }
}

void add_truncate() {
  const std::string name = "/truncate";
  close(open_file(folders[0] + name, O_RDWR | O_CREAT | O_TRUNC));
  for (int role = 0; role < 4; ++role) {
    for (int mount = 0; mount < 2; ++mount) {
      add("truncate", [=] { truncate_worker(folders[mount] + name, role, mount); });
    }
  }
}

// ---- names: what one mount made, changed or removed, the other sees when it looks next.

struct Named {
  std::atomic<int> turn;
  std::atomic<std::uint32_t> mode[16];  // 0: the name is absent
  std::atomic<std::uint64_t> size[16];
};

void names_check(Named* named, const std::string& folder, int i, char mount) {
  const std::string path = folder + "/n" + std::to_string(i);
  struct stat status;
  int result;
  {
    Call call("names lstat");
    result = lstat(path.c_str(), &status);
  }
  ++shared->checks;
  const std::uint32_t mode = named->mode[i];
  if ((result == 0) != (mode != 0)) {
    violation("names: mount %c: n%d is %s, should be %s", mount, i,
              result == 0 ? "there" : std::strerror(errno), mode != 0 ? "there" : "absent");
  } else if (result == 0 && (status.st_mode & 07777) != mode) {
    violation("names: mount %c: n%d has mode %o instead of %o", mount, i, status.st_mode & 07777,
              mode);
  } else if (result == 0 && static_cast<std::uint64_t>(status.st_size) != named->size[i]) {
    violation("names: mount %c: n%d has size %ld instead of %lu", mount, i, status.st_size,
              named->size[i].load());
  }
}

void names_list(Named* named, const std::string& folder, char mount) {
  Call call("names readdir");
  DIR* listing = opendir(folder.c_str());
  must(listing != nullptr, "opendir");
  std::uint32_t found = 0;
  while (const dirent* entry = readdir(listing)) {
    if (entry->d_name[0] == 'n') found |= 1u << std::atoi(entry->d_name + 1);
  }
  closedir(listing);
  ++shared->checks;
  for (int i = 0; i < 16; ++i) {
    if (((found >> i) & 1) == (named->mode[i] != 0 ? 1u : 0u)) continue;
    violation("names: mount %c: the listing %s n%d", mount, (found >> i) & 1 ? "has" : "lacks", i);
  }
}

void names_change(Named* named, const std::string& folder, int i) {
  const std::string path = folder + "/n" + std::to_string(i);
  const std::uint64_t dice = below(4);
  if (named->mode[i] == 0) {
    const int fd = open_file(path, O_WRONLY | O_CREAT | O_EXCL);
    Call call("names create");
    const std::uint64_t size = below(200);
    char bytes[200] = {};
    must(write(fd, bytes, size) == static_cast<ssize_t>(size), "write");
    close(fd);
    must(chmod(path.c_str(), 0644) == 0, "chmod");
    named->mode[i] = 0644;
    named->size[i] = size;
  } else if (dice == 0) {
    Call call("names unlink");
    must(unlink(path.c_str()) == 0, "unlink");
    named->mode[i] = 0;
  } else if (dice == 1) {
    const int to = static_cast<int>(below(16));
    const std::string target = folder + "/n" + std::to_string(to);
    Call call("names rename");
    must(rename(path.c_str(), target.c_str()) == 0, "rename");
    if (to != i) {
      named->mode[to] = named->mode[i].load();
      named->size[to] = named->size[i].load();
      named->mode[i] = 0;
    }
  } else {
    const auto mode = static_cast<std::uint32_t>(0400 + below(0300));
    Call call("names chmod");
    must(chmod(path.c_str(), mode) == 0, "chmod");
    named->mode[i] = mode;
  }
}

void names_worker(const std::string& folder, Named* named, char mount) {
  while (!stopping()) {
    int free = 0;
    if (!named->turn.compare_exchange_weak(free, 1)) {
      usleep(20);
      continue;
    }
    const std::uint64_t dice = below(10);
    const int i = static_cast<int>(below(16));
    if (dice < 3) {
      names_change(named, folder, i);
    } else if (dice < 9) {
      names_check(named, folder, i, mount);
    } else {
      names_list(named, folder, mount);
    }
    named->turn = 0;
    if (below(4) == 0) usleep(static_cast<useconds_t>(below(100)));
  }
}

// Looks at names without taking turns, so that LOOKUPs wait while the directory's lock goes; its
// own directory must keep its path.
void names_noise(const std::string& folder) {
  must(chdir((folder + "/here/inner").c_str()) == 0, "chdir");
  char path[4096];
  while (!stopping()) {
    struct stat status;
    {
      Call call("noise lstat");
      lstat((folder + "/n" + std::to_string(below(16))).c_str(), &status);
      lstat((folder + "/here").c_str(), &status);
    }
    Call call("noise getcwd");
    ++shared->checks;
    if (getcwd(path, sizeof path) == nullptr) {
      violation("names: getcwd: %s", std::strerror(errno));
      return;
    }
    if (below(4) == 0) usleep(static_cast<useconds_t>(below(200)));
  }
}

void add_names() {
  auto* named = share<Named>();
  const std::string name = "/names";
  must(mkdir((folders[0] + name).c_str(), 0755) == 0, "mkdir");
  must(mkdir((folders[0] + name + "/here").c_str(), 0755) == 0, "mkdir");
  must(mkdir((folders[0] + name + "/here/inner").c_str(), 0755) == 0, "mkdir");
  for (int i = 0; i < 4; ++i) {
    add("names",
        [=] { names_worker(folders[i % 2] + name, named, static_cast<char>('A' + i % 2)); });
  }
  for (int i = 0; i < 2; ++i) add("names.noise", [=] { names_noise(folders[i] + name); });
}

// ---- locks: counters in a file under fcntl and flock locks; and a waiter that is killed.

struct Counters {
  std::atomic<std::uint64_t> done[2];
};

void locks_worker(const std::string& path, Counters* counters, int kind) {
  while (!stopping()) {
    const int fd = open_file(path, O_RDWR);
    for (int i = 0; i < 20 && !stopping(); ++i) {
      struct flock range {};
      range.l_type = F_WRLCK;
      range.l_len = 8;
      {
        Call call(kind == 0 ? "fcntl lock" : "flock");
        must(kind == 0 ? fcntl(fd, F_SETLKW, &range) == 0 : flock(fd, LOCK_EX) == 0, "lock");
      }
      std::uint64_t value = 0;
      {
        Call call("locked read and write");
        must(pread(fd, &value, 8, 0) == 8, "pread");
        ++value;
        must(pwrite(fd, &value, 8, 0) == 8, "pwrite");
      }
      ++counters->done[kind];
      range.l_type = F_UNLCK;
      Call call("unlock");
      must(kind == 0 ? fcntl(fd, F_SETLK, &range) == 0 : flock(fd, LOCK_UN) == 0, "unlock");
    }
    close(fd);
    usleep(static_cast<useconds_t>(below(500)));
  }
}

// A process that waits for a file lock can be killed at once.
void locks_killed(const std::string& path) {
  const int fd = open_file(path, O_RDWR);
  struct flock range {};
  range.l_type = F_WRLCK;
  must(fcntl(fd, F_SETLKW, &range) == 0, "fcntl");
  while (!stopping()) {
    const pid_t child = fork();
    if (child == 0) {
      struct flock mine {};
      mine.l_type = F_WRLCK;
      fcntl(fd, F_SETLKW, &mine);
      _exit(0);
    }
    usleep(20000);
    {
      Call call("killing a waiter");
      kill(child, SIGKILL);
      waitpid(child, nullptr, 0);
    }
    ++shared->checks;
    usleep(50000);
  }
}

void add_locks() {
  auto* counters = share<Counters>();
  for (int kind = 0; kind < 2; ++kind) {
    const std::string name = kind == 0 ? "/fcntl" : "/flock";
    const int fd = open_file(folders[0] + name, O_RDWR | O_CREAT | O_TRUNC);
    const std::uint64_t zero = 0;
    must(pwrite(fd, &zero, 8, 0) == 8, "pwrite");
    close(fd);
    for (int i = 0; i < 2; ++i) {
      add("locks", [=] { locks_worker(folders[i] + name, counters, kind); });
    }
    final_checks.push_back([=] {
      for (int i = 0; i < 2; ++i) {
        const int file = open_file(folders[i] + name, O_RDONLY);
        std::uint64_t value = 0;
        must(pread(file, &value, 8, 0) == 8, "pread");
        close(file);
        if (value == counters->done[kind]) continue;
        violation("locks: %s counts %lu on mount %c, %lu updates were made", name.c_str() + 1,
                  value, 'A' + i, counters->done[kind].load());
      }
    });
  }
  close(open_file(folders[0] + "/killed", O_RDWR | O_CREAT | O_TRUNC));
  add("locks.killed", [] { locks_killed(folders[1] + "/killed"); });
}

void add_folder() {
  const std::string work = "/stress." + std::to_string(getpid());
  const Call call("mkdir");
  must(mkdir((folders[0] + work).c_str(), 0755) == 0, "mkdir");
  for (std::string& folder : folders) folder += work;
}

// ---- the parent

struct Running {
  pid_t pid;
  std::string name;
};

void show_stack(const Running& worker) {
  for (const char* file : {"status", "stack", "syscall"}) {
    const std::string path = "/proc/" + std::to_string(worker.pid) + "/" + file;
    FILE* in = std::fopen(path.c_str(), "re");
    if (in == nullptr) continue;
    char line[256];
    while (std::fgets(line, sizeof line, in) != nullptr) {
      if (file[2] != 'a' || std::strncmp(line, "State", 5) == 0 || file[3] == 'c') {
        std::fprintf(stderr, "    %s", line);
      }
    }
    std::fclose(in);
  }
}

// On one processor: notices when it runs nobody.
void watch_processor(int processor) {
  constexpr std::uint64_t nap_ms = 5, usual_ms = 20;
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(static_cast<unsigned>(processor), &set);
  sched_setaffinity(0, sizeof set, &set);
  for (;;) {
    const std::uint64_t before = now_ms();
    usleep(nap_ms * 1000);
    const std::uint64_t took = now_ms() - before;
    if (took > nap_ms + usual_ms) shared->stolen_ms += took - nap_ms;
  }
}

// Whether a worker sits in one call for too long.
bool find_stall(const std::vector<Running>& running) {
  bool stalled = false;
  for (std::size_t i = 0; i < running.size(); ++i) {
    const Heartbeat& beat = shared->heartbeats[i];
    const std::uint64_t since = beat.since;
    if (since == 0 || time_in_call(beat, since) < stall_limit_ms) continue;
    std::fprintf(stderr, "STALL %s (pid %d): %s has been running for %lu ms\n",
                 running[i].name.c_str(), running[i].pid, beat.what.load(),
                 time_in_call(beat, since));
    show_stack(running[i]);
    stalled = true;
  }
  return stalled;
}

// Files are made before anybody works, so nobody is late then but the file system. A process of its
// own watches, as one whose call the kernel does not give back cannot even exit.
int watched(const std::function<int()>& work) {
  constexpr int patience_ms = 10 * stall_limit_ms;
  const pid_t parent = getpid();
  const pid_t worker = fork();
  if (worker == 0) {
    end_with(parent);
    const int result = work();
    std::fflush(stdout);
    _exit(result);
  }
  pollfd ended{static_cast<int>(syscall(SYS_pidfd_open, worker, 0)), POLLIN, 0};
  if (worker < 0 || ended.fd < 0) {
    std::perror("cannot watch the work");
    return 4;
  }
  if (poll(&ended, 1, patience_ms) == 0 && !shared->prepared) {
    std::fprintf(stderr, "STALL before the start: %s\n",
                 shared->heartbeats[workers_max - 1].what.load());
    kill(worker, SIGKILL);
    return 3;
  }
  int status = 0;
  if (waitpid(worker, &status, 0) != worker) return 4;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 4;
}

bool end_all(std::vector<Running>& running) {
  const std::uint64_t patience = now_ms() + 10000;
  bool killed = false;
  while (!running.empty()) {
    std::erase_if(running, [](const Running& worker) {
      int status = 0;
      if (waitpid(worker.pid, &status, WNOHANG) != worker.pid) return false;
      if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        violation("%s ended with status %x", worker.name.c_str(), status);
      }
      return true;
    });
    if (now_ms() > patience) {
      for (const Running& worker : running) {
        std::fprintf(stderr, "STUCK %s (pid %d)\n", worker.name.c_str(), worker.pid);
        show_stack(worker);
        kill(worker.pid, SIGKILL);
      }
      if (killed) return false;
      killed = true;
      usleep(500000);
    }
    usleep(20000);
  }
  return !killed;
}

int run(unsigned seconds, std::uint64_t seed, bool end_at_first) {
  const pid_t parent = getpid();
  std::vector<Running> running, watchers;
  for (int i = 0; i < static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN)); ++i) {
    const pid_t pid = fork();
    if (pid == 0) {
      end_with(parent);
      watch_processor(i);
    }
    watchers.push_back({pid, "watcher"});
  }
  for (std::size_t i = 0; i < workers.size(); ++i) {
    const pid_t pid = fork();
    if (pid == 0) {
      end_with(parent);
      heartbeat = &shared->heartbeats[i];
      random_state = (seed + i + 1) * 0x9e3779b97f4a7c15ull;
      for (int j = 0; j < 8; ++j) random_number();
      workers[i].body();
      _exit(0);
    }
    running.push_back({pid, workers[i].name});
  }
  const std::uint64_t began = now_ms(), end = began + seconds * 1000ull;
  bool stalled = false;
  while (now_ms() < end && shared->violations == 0 && !stalled) {
    usleep(50000);
    stalled = find_stall(running);
  }
  if (end_at_first && (stalled || shared->violations > 0)) {
    std::printf("seen after %.1f s\n", static_cast<double>(now_ms() - began) / 1000);
    std::fflush(stdout);
    _exit(stalled ? 3 : 1);
  }
  shared->stop = true;
  const bool ended = end_all(running);
  shared->stop = false;
  heartbeat = &shared->heartbeats[workers_max - 1];
  if (ended && !stalled && shared->violations == 0) {
    for (const auto& check : final_checks) check();
  }
  std::uint64_t calls = 0, longest = 0;
  const char* longest_call = "none";
  for (const Heartbeat& beat : shared->heartbeats) {
    calls += beat.calls;
    if (beat.longest_ms <= longest) continue;
    longest = beat.longest_ms;
    longest_call = beat.longest;
  }
  for (const Running& watcher : watchers) {
    kill(watcher.pid, SIGKILL);
    waitpid(watcher.pid, nullptr, 0);
  }
  std::printf(
      "calls %lu, checks %lu, violations %d, longest call %lu ms (%s), machine away %lu ms%s\n",
      calls, shared->checks.load(), shared->violations.load(), longest, longest_call,
      shared->stolen_ms.load(), stalled ? ", STALLED" : (ended ? "" : ", STUCK"));
  if (stalled || !ended) return 3;
  return shared->violations == 0 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  unsigned seconds = 30;
  std::uint64_t seed = 1;
  std::string only = "pages,model,append,sizes,truncate,names,locks";
  int folder_count = 0;
  bool end_at_first = false;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument == "--seconds" && i + 1 < argc) {
      seconds = static_cast<unsigned>(std::atoi(argv[++i]));
    } else if (argument == "--seed" && i + 1 < argc) {
      seed = std::strtoull(argv[++i], nullptr, 10);
    } else if (argument == "--only" && i + 1 < argc) {
      only = argv[++i];
    } else if (argument == "--first") {
      end_at_first = true;
    } else if (folder_count < 2 && argument[0] != '-') {
      folders[folder_count++] = argument;
    } else {
      folder_count = 3;
    }
  }
  if (folder_count != 2) {
    std::fprintf(stderr,
                 "usage: plumeria-coherence-stress DIR_A DIR_B [--seconds N] [--seed S] "
                 "[--only pages,model,append,sizes,truncate,names,locks] [--first]\n");
    return 2;
  }
  shared = share<Shared>();
  heartbeat = &shared->heartbeats[workers_max - 1];
  random_state = seed + 1;
  std::vector<void (*)()> parts{add_folder};
  const std::pair<const char*, void (*)()> all[] = {
      {"pages", add_pages}, {"model", add_model},       {"append", add_append},
      {"sizes", add_sizes}, {"truncate", add_truncate}, {"names", add_names},
      {"locks", add_locks},
  };
  for (const auto& [name, add_it] : all) {
    if (("," + only + ",").find("," + std::string(name) + ",") != std::string::npos) {
      parts.push_back(add_it);
    }
  }
  return watched([&] {
    for (void (*part)() : parts) part();
    shared->prepared = true;
    return run(seconds, seed, end_at_first);
  });
}
