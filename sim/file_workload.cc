// Files as rows of cells. Each write fills its cells with a number that no other write has, so a
// read tells which write it saw, and a cell of two numbers was torn.
#include <absl/strings/str_cat.h>

#include <algorithm>

#include "sim/whole_history.h"
#include "sim/workload.h"

namespace plumeria::sim {
namespace {

constexpr std::uint64_t cell_size = 512;
constexpr std::uint64_t cells = 20;
constexpr std::uint64_t page_size = 4096;
constexpr std::uint64_t record_size = 64;
constexpr std::uint64_t appends_max = 150;
constexpr int clients_per_mount = 3;

enum class Kind { plain, mapped, list };

struct FileShape {
  std::string name;
  Kind kind = Kind::plain;
  std::uint64_t base = 0;  // bytes before the first cell, a hole
};

Bytes filled(std::uint64_t number, std::uint64_t bytes) {
  Bytes data(bytes);
  for (std::uint64_t at = 0; at < bytes; at += sizeof number) store(data.data() + at, number);
  return data;
}

// The number that fills the bytes; nothing if they differ.
std::optional<std::uint64_t> number_in(ByteView bytes) {
  const std::uint64_t number = load<std::uint64_t>(bytes.data());
  for (std::size_t at = 0; at < bytes.size(); at += sizeof number) {
    if (load<std::uint64_t>(bytes.data() + at) != number) return std::nullopt;
  }
  return number;
}

class FileWorkload final : public Workload {
 public:
  FileWorkload(Cluster& cluster, RandomStream random) : Workload(cluster, random) {
    files_ = {{"inline", Kind::plain, 0},
              {"small", Kind::plain, 2048},
              {"large", Kind::plain, 60 * 1024},
              {"mapped", Kind::mapped, 0},
              {"list", Kind::list, 0}};
    uses_.resize(cluster.mounts(), std::vector<Use>(files_.size()));
    histories_.resize(files_.size());
  }

  std::string name() const override { return "files"; }

  void prepare() override {
    for (std::size_t file = 0; file < files_.size(); ++file) {
      const Status made = cluster_.run(0, make_file(this, file));
      if (!made) violate(absl::StrCat("cannot make ", files_[file].name, made.error().message()));
    }
  }

  void start_clients(std::size_t mount) override {
    uses_[mount].assign(files_.size(), Use{});
    for (int i = 0; i < clients_per_mount; ++i) spawn_client(mount, client);
  }

  std::string verify() override {
    for (std::size_t mount = 0; mount < cluster_.mounts(); ++mount) {
      for (std::size_t file = 0; file < files_.size(); ++file) {
        cluster_.run(mount, look_at_all(this, mount, file));
      }
    }
    if (!violation().empty()) return violation();
    std::string wrong = recorder_.check();
    for (std::size_t file = 0; wrong.empty() && file < files_.size(); ++file) {
      wrong = check_whole(file);
    }
    return wrong;
  }

 private:
  std::string check_whole(std::size_t file) const {
    // What a crash takes back it may take back in parts; the list is one value anyway.
    if (lost_something_ || files_[file].kind == Kind::list) return "";
    const CheckResult result = check_file(cells, histories_[file]);
    if (result.linearizable) return "";
    if (result.gave_up) return absl::StrCat("too tangled to be judged: ", files_[file].name);
    return absl::StrCat("no order explains what was seen of ", files_[file].name, ": ",
                        result.explanation);
  }
  // Its outcome is unknown until returned_whole().
  std::size_t called_whole(std::size_t file, FileOperation operation) {
    operation.called = cluster_.simulation().now();
    histories_[file].push_back(std::move(operation));
    return histories_[file].size() - 1;
  }
  void returned_whole(std::size_t file, std::size_t at) {
    histories_[file][at].returned = cluster_.simulation().now();
  }
  void seen_whole(std::size_t file, FileOperation operation, Duration begin) {
    operation.called = begin;
    operation.returned = cluster_.simulation().now();
    histories_[file].push_back(std::move(operation));
  }

  // Who uses a file on one mount now. A writer is alone: applications on one mount share the
  // kernel's pages, which show a write before it is ordered against other mounts.
  struct Use {
    int readers = 0, writers = 0;
  };

  static std::string cell_key(const FileShape& shape, std::uint64_t cell) {
    return absl::StrCat(shape.name, "/cell", cell);
  }
  static std::string size_key(const FileShape& shape) { return absl::StrCat(shape.name, "/size"); }

  static Task<Status> make_file(FileWorkload* self, std::size_t file) {
    const FileShape& shape = self->files_[file];
    Kernel& kernel = self->cluster_.kernel(0);
    OpenFlags flags;
    flags.writable = flags.create = true;
    CO_TRY(const Descriptor descriptor, co_await kernel.open(shape.name, flags, 0644));
    if (shape.kind == Kind::mapped) {
      CO_TRY_STATUS(co_await kernel.ftruncate(descriptor, cells * cell_size));
    }
    CO_TRY_STATUS(co_await kernel.fsync(descriptor));
    co_return co_await kernel.close(descriptor);
  }

  static Task<void> client(Workload* workload, Client* client) {
    auto* self = static_cast<FileWorkload*>(workload);
    while (self->goes_on(*client)) {
      const std::size_t file = self->random_.below(self->files_.size());
      co_await self->use_file(client, file);
      co_await self->pause_between_calls(*client);
    }
  }

  // Opens the file, does some calls, closes it.
  Task<void> use_file(Client* client, std::size_t file) {
    const FileShape& shape = files_[file];
    Kernel& kernel = cluster_.kernel(client->mount);
    OpenFlags flags;
    flags.writable = random_.chance(2, 3);
    flags.append = flags.writable && shape.kind == Kind::list;
    client->doing = absl::StrCat("open ", shape.name);
    auto descriptor = co_await kernel.open(shape.name, flags, 0);
    if (!descriptor) {
      if (descriptor.error().code == Errc::no_entry) {
        violate(absl::StrCat(shape.name, " is not there"));
      }
      co_return;
    }
    const std::uint64_t count = random_.between(1, 8);
    for (std::uint64_t i = 0; i < count && goes_on(*client); ++i) {
      const bool change = flags.writable && random_.chance(1, 2);
      Use& use = uses_[client->mount][file];
      if (use.writers > 0 || (change && use.readers > 0)) {
        co_await pause_between_calls(*client);
        continue;
      }
      ++(change ? use.writers : use.readers);
      ++calls_;
      client->doing = absl::StrCat(change ? "change " : "look at ", shape.name);
      bool fine = false;
      if (change) {
        fine = co_await change_file(client, file, *descriptor);
      } else {
        fine = co_await look(client->mount, file, *descriptor);
      }
      --(change ? use.writers : use.readers);
      if (!fine) break;  // The lease was lost: the descriptor is good for nothing.
      co_await pause_between_calls(*client);
    }
    client->doing = absl::StrCat("close ", shape.name);
    (void)co_await kernel.close(*descriptor);
  }

  Task<bool> change_file(Client* client, std::size_t file, Descriptor descriptor) {
    const FileShape& shape = files_[file];
    const std::uint64_t what = random_.below(10);
    if (what == 0) co_return co_await sync_file(client, file, descriptor);
    if (shape.kind == Kind::list) co_return co_await append_record(client, file, descriptor);
    if (shape.kind == Kind::mapped) co_return co_await store_cell(client, file, descriptor);
    if (what == 1) co_return co_await truncate_file(client, file, descriptor);
    co_return co_await write_cells(client, file, descriptor);
  }

  Task<bool> sync_file(Client* client, std::size_t file, Descriptor descriptor) {
    const Duration begin = cluster_.simulation().now();
    auto synced = co_await cluster_.kernel(client->mount).fsync(descriptor);
    if (!synced) co_return false;
    recorder_.synced(absl::StrCat(files_[file].name, "/"), identity(client->mount), begin);
    co_return true;
  }

  Task<bool> write_cells(Client* client, std::size_t file, Descriptor descriptor) {
    const FileShape& shape = files_[file];
    const std::uint64_t first = random_.below(cells);
    const std::uint64_t count = random_.between(1, std::min<std::uint64_t>(12, cells - first));
    const std::uint64_t number = ++last_number_;
    const std::uint32_t who = identity(client->mount);
    std::vector<Recorder::Ticket> tickets;
    for (std::uint64_t cell = first; cell < first + count; ++cell) {
      tickets.push_back(recorder_.called(cell_key(shape, cell), who, Action::write, number));
    }
    const std::uint64_t end = shape.base + (first + count) * cell_size;
    tickets.push_back(recorder_.called(size_key(shape), who, Action::extend, end));
    const std::size_t whole = called_whole(file, {.mount = who,
                                                  .kind = FileOperation::Kind::write,
                                                  .first = first,
                                                  .count = count,
                                                  .number = number,
                                                  .size = end});
    const std::uint64_t offset = shape.base + first * cell_size;
    Bytes data = filled(number, count * cell_size);
    auto written =
        co_await cluster_.kernel(client->mount).pwrite(descriptor, offset, std::move(data));
    if (!written) co_return false;
    for (const auto& ticket : tickets) recorder_.returned(ticket);
    returned_whole(file, whole);
    co_return true;
  }

  // Cells that begin at or after the new size become zero.
  Task<bool> truncate_file(Client* client, std::size_t file, Descriptor descriptor) {
    const FileShape& shape = files_[file];
    const std::uint64_t left = random_.below(cells + 1);
    const std::uint64_t size = shape.base + left * cell_size;
    const std::uint32_t who = identity(client->mount);
    std::vector<Recorder::Ticket> tickets;
    for (std::uint64_t cell = left; cell < cells; ++cell) {
      tickets.push_back(recorder_.called(cell_key(shape, cell), who, Action::write, 0));
    }
    tickets.push_back(recorder_.called(size_key(shape), who, Action::write, size));
    const std::size_t whole = called_whole(
        file, {.mount = who, .kind = FileOperation::Kind::truncate, .first = left, .size = size});
    auto done = co_await cluster_.kernel(client->mount).ftruncate(descriptor, size);
    if (!done) co_return false;
    for (const auto& ticket : tickets) recorder_.returned(ticket);
    returned_whole(file, whole);
    co_return true;
  }

  Task<bool> store_cell(Client* client, std::size_t file, Descriptor descriptor) {
    const FileShape& shape = files_[file];
    const std::uint64_t cell = random_.below(cells);
    const std::uint64_t number = ++last_number_;
    const auto ticket =
        recorder_.called(cell_key(shape, cell), identity(client->mount), Action::write, number);
    const std::size_t whole = called_whole(file, {.mount = identity(client->mount),
                                                  .kind = FileOperation::Kind::store,
                                                  .first = cell,
                                                  .count = 1,
                                                  .number = number});
    Bytes data = filled(number, cell_size);
    auto stored = co_await cluster_.kernel(client->mount)
                      .store(descriptor, shape.base + cell * cell_size, std::move(data));
    if (!stored) {
      if (stored.error().code == Errc::range) violate("a mapped file became shorter");
      co_return false;
    }
    recorder_.returned(ticket);
    returned_whole(file, whole);
    co_return true;
  }

  Task<bool> append_record(Client* client, std::size_t file, Descriptor descriptor) {
    if (++appends_ > appends_max) co_return true;
    const FileShape& shape = files_[file];
    const std::uint64_t number = ++last_number_;
    const auto ticket = recorder_.called(absl::StrCat(shape.name, "/records"),
                                         identity(client->mount), Action::append, number);
    Bytes data = filled(number, record_size);
    auto written = co_await cluster_.kernel(client->mount).pwrite(descriptor, 0, std::move(data));
    if (!written) co_return false;
    recorder_.returned(ticket);
    co_return true;
  }

  Task<bool> look(std::size_t mount, std::size_t file, Descriptor descriptor) {
    const FileShape& shape = files_[file];
    if (shape.kind == Kind::list) co_return co_await read_list(mount, file, descriptor);
    if (random_.chance(1, 4)) co_return co_await look_at_size(mount, file, descriptor);
    const std::uint64_t first = random_.below(cells);
    const std::uint64_t count = random_.between(1, cells - first);
    co_return co_await read_cells(mount, file, descriptor, first, count);
  }

  Task<bool> look_at_size(std::size_t mount, std::size_t file, Descriptor descriptor) {
    const Duration begin = cluster_.simulation().now();
    auto attributes = co_await cluster_.kernel(mount).fstat(descriptor);
    if (!attributes) co_return false;
    if (files_[file].kind == Kind::plain) {
      recorder_.seen(size_key(files_[file]), identity(mount), Action::read, attributes->size,
                     begin);
      seen_whole(
          file,
          {.mount = identity(mount), .kind = FileOperation::Kind::look, .size = attributes->size},
          begin);
    }
    co_return true;
  }

  Task<bool> read_cells(std::size_t mount, std::size_t file, Descriptor descriptor,
                        std::uint64_t first, std::uint64_t count) {
    const FileShape& shape = files_[file];
    const Duration begin = cluster_.simulation().now();
    const std::uint64_t offset = shape.base + first * cell_size;
    auto data = co_await cluster_.kernel(mount).pread(
        descriptor, offset, static_cast<std::uint32_t>(count * cell_size));
    if (!data) co_return false;
    if (data->size() % cell_size != 0) {
      violate(absl::StrCat(shape.name, " ends within a cell"));
      co_return true;
    }
    data->resize(count * cell_size);
    FileOperation piece{.mount = identity(mount), .kind = FileOperation::Kind::read};
    for (std::uint64_t i = 0; i < count; ++i) {
      const auto number = number_in(ByteView(*data).subspan(i * cell_size, cell_size));
      if (!number || *number > last_number_) {
        violate(absl::StrCat(cell_key(shape, first + i), " holds what nobody wrote"));
        co_return true;
      }
      recorder_.seen(cell_key(shape, first + i), identity(mount), Action::read, *number, begin);
      // What read(2) returns of one page it saw at one moment.
      if (piece.values.empty()) piece.first = first + i;
      piece.values.push_back(*number);
      const bool page_ends = (offset + (i + 1) * cell_size) % page_size == 0;
      if (page_ends || i + 1 == count) {
        seen_whole(file, piece, begin);
        piece.values.clear();
      }
    }
    co_return true;
  }

  Task<bool> read_list(std::size_t mount, std::size_t file, Descriptor descriptor) {
    const FileShape& shape = files_[file];
    const Duration begin = cluster_.simulation().now();
    constexpr auto most = static_cast<std::uint32_t>((appends_max + 1) * record_size);
    auto data = co_await cluster_.kernel(mount).pread(descriptor, 0, most);
    if (!data) co_return false;
    std::uint64_t list = 0;
    for (std::size_t at = 0; at + record_size <= data->size(); at += record_size) {
      const auto number = number_in(ByteView(*data).subspan(at, record_size));
      if (!number || *number > last_number_ || *number == 0) {
        violate(absl::StrCat(shape.name, " record ", at / record_size, " is what nobody wrote"));
        co_return true;
      }
      list = appended(list, *number);
    }
    if (data->size() % record_size != 0) violate(absl::StrCat(shape.name, " ends in a record"));
    recorder_.seen(absl::StrCat(shape.name, "/records"), identity(mount), Action::read, list,
                   begin);
    co_return true;
  }

  static Task<void> look_at_all(FileWorkload* self, std::size_t mount, std::size_t file) {
    Kernel& kernel = self->cluster_.kernel(mount);
    auto descriptor = co_await kernel.open(self->files_[file].name, OpenFlags{}, 0);
    if (!descriptor) {
      self->violate(
          absl::StrCat("at the end ", self->files_[file].name, ": ", descriptor.error().message()));
      co_return;
    }
    bool fine = co_await self->look_at_size(mount, file, *descriptor);
    if (self->files_[file].kind == Kind::list) {
      fine = co_await self->read_list(mount, file, *descriptor) && fine;
    } else {
      fine = co_await self->read_cells(mount, file, *descriptor, 0, cells) && fine;
    }
    if (!fine) self->violate(absl::StrCat("at the end ", self->files_[file].name, ": error"));
    (void)co_await kernel.close(*descriptor);
  }

  std::vector<FileShape> files_;
  std::vector<std::vector<Use>> uses_;  // by mount and file
  std::vector<std::vector<FileOperation>> histories_;
  std::uint64_t last_number_ = 0;
  std::uint64_t appends_ = 0;
};

}  // namespace

std::unique_ptr<Workload> make_file_workload(Cluster& cluster, RandomStream random) {
  return std::make_unique<FileWorkload>(cluster, random);
}

}  // namespace plumeria::sim
