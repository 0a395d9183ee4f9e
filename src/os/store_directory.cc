#include "os/store_directory.h"

#include <absl/strings/ascii.h>
#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_split.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <vector>

#include "base/checksum.h"
#include "base/number.h"
#include "os/real_world.h"

namespace plumeria::os {

namespace {

constexpr char first_line[] = "plumeria store";
constexpr std::uint64_t data_segment_bit = 1ull << 63;

struct DirectoryCloser {
  void operator()(DIR* directory) const { ::closedir(directory); }
};

Result<std::vector<std::string>> names_in(const std::string& path) {
  const std::unique_ptr<DIR, DirectoryCloser> directory(::opendir(path.c_str()));
  if (!directory) return fail(host_error(errno, "open", path));
  std::vector<std::string> names;
  while (const dirent* entry = ::readdir(directory.get())) {
    const std::string_view name = entry->d_name;
    if (name != "." && name != "..") names.emplace_back(name);
  }
  return names;
}

std::string hex(std::uint64_t number) { return absl::StrCat(absl::Hex(number, absl::kZeroPad16)); }

std::string identity_text(std::uint64_t identity, std::uint32_t format) {
  std::string text =
      absl::StrCat(first_line, "\nformat ", format, "\nidentity ", hex(identity), "\n");
  absl::StrAppend(&text, "checksum ", hex(checksum(as_bytes(text))), "\n");
  return text;
}

Bytes encode_state(std::uint64_t incarnation, bool clean) {
  Writer writer;
  writer.put(incarnation);
  writer.put(static_cast<std::uint8_t>(clean));
  return writer.take();
}

// "process 123 (plumeria serve /srv/store) on alpha since 2026-11-21 01:02:03 UTC"
std::string describe_this_process() {
  std::string command = "?";
  if (const Result<FileDescriptor> file = open_file("/proc/self/cmdline", O_RDONLY)) {
    char text[256];
    const ssize_t length = ::read(file->get(), text, sizeof text);
    if (length > 0) command.assign(text, static_cast<std::size_t>(length));
  }
  while (!command.empty() && command.back() == '\0') command.pop_back();
  for (char& c : command) {
    if (absl::ascii_iscntrl(static_cast<unsigned char>(c))) c = ' ';
  }
  char host[256] = "?";
  (void)gethostname(host, sizeof host - 1);
  char when[64];
  const time_t now = ::time(nullptr);
  tm utc{};
  gmtime_r(&now, &utc);
  strftime(when, sizeof when, "%Y-%m-%d %H:%M:%S UTC", &utc);
  return absl::StrCat("process ", getpid(), " (", command, ") on ", host, " since ", when);
}

}  // namespace

std::string segment_folder(const std::string& store, int folder) {
  if (folder == regions_folder) return store + "/segments/regions";
  return absl::StrCat(store, "/segments/", absl::Hex(folder, absl::kZeroPad2));
}

int folder_of(disk::Segment segment) {
  if ((raw(segment) & data_segment_bit) == 0) return regions_folder;
  return static_cast<int>(raw(segment) & 0xff);
}

std::string segment_path(const std::string& store, disk::Segment segment) {
  return absl::StrCat(segment_folder(store, folder_of(segment)), "/", hex(raw(segment)));
}

std::string register_file_name(std::string_view name) {
  std::string file_name;
  for (const char c : name) {
    if (absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_') {
      file_name.push_back(c);
    } else {
      absl::StrAppend(&file_name, "%", absl::Hex(static_cast<unsigned char>(c), absl::kZeroPad2));
    }
  }
  return file_name;
}

std::string register_name(std::string_view file_name) {
  std::string name;
  for (std::size_t i = 0; i < file_name.size(); ++i) {
    int value = 0;
    if (file_name[i] == '%' &&
        absl::SimpleHexAtoi(std::string(file_name.substr(i + 1, 2)), &value)) {
      name.push_back(static_cast<char>(value));
      i += 2;
    } else {
      name.push_back(file_name[i]);
    }
  }
  return name;
}

namespace {

Status make_files(const std::string& path) {
  TRY_STATUS(make_directory(path + "/segments"));
  for (int folder = 0; folder < segment_folders; ++folder) {
    TRY_STATUS(make_directory(segment_folder(path, folder)));
  }
  TRY_STATUS(sync_directory(path + "/segments"));
  TRY_STATUS(make_directory(path + "/registers"));
  TRY_STATUS(replace_file(path, "lock", {}));
  TRY_STATUS(SlotFile::create(path, "leases", disk::Admission().encode(), 1));
  TRY_STATUS(SlotFile::create(path, "state", encode_state(0, true), 1));
  // Last: a directory without it is no store.
  const std::string identity = identity_text(RealRandom().next(), host_store_format_plain);
  TRY_STATUS(replace_file(path, "store", as_bytes(identity)));
  return sync_directory(path + "/..");
}

}  // namespace

Status StoreDirectory::make(const std::string& path) {
  const bool made = ::mkdir(path.c_str(), 0755) == 0;
  if (!made && errno != EEXIST) return fail(host_error(errno, "make directory", path));
  TRY(const std::vector<std::string> names, names_in(path));
  if (std::find(names.begin(), names.end(), "store") != names.end()) {
    return fail(Errc::exist, absl::StrCat(path, ": a Plumeria store"));
  }
  for (const std::string& name : names) {
    if (name != "lost+found") return fail(Errc::not_empty, absl::StrCat(path, " (has ", name, ")"));
  }
  Status status = make_files(path);
  if (!status) {
    unmake(path);
    if (made) (void)::rmdir(path.c_str());
  }
  return status;
}

void StoreDirectory::unmake(const std::string& path) {
  std::error_code ignored;
  for (const char* name : {"store", "store.new", "state", "state.new", "leases", "leases.new",
                           "lock", "lock.new", "registers", "segments", "snapshots"}) {
    std::filesystem::remove_all(absl::StrCat(path, "/", name), ignored);
  }
}

Result<StoreDirectory> StoreDirectory::open(std::string path, bool read_only) {
  StoreDirectory store;
  store.path_ = std::move(path);
  TRY_STATUS(store.read_identity());
  TRY_STATUS(store.lock(read_only));
  TRY_STATUS(store.check_folders());
  TRY_STATUS(store.read_state(read_only));
  TRY_STATUS(store.read_leases(read_only));
  TRY_STATUS(store.read_registers(read_only));
  // Last, when nothing can be found wrong any more: else the next one would take the damage of a
  // store that was left in peace for what a power cut may have torn.
  if (!read_only) TRY_STATUS(store.begin_incarnation());
  return store;
}

Status StoreDirectory::check_folders() const {
  for (int folder = 0; folder < segment_folders; ++folder) {
    const std::string path = segment_folder(path_, folder);
    struct stat status {};
    if (::stat(path.c_str(), &status) != 0 || !S_ISDIR(status.st_mode)) {
      return fail(Errc::corrupt, absl::StrCat(path, " (no directory)"));
    }
  }
  return {};
}

Status StoreDirectory::read_identity() {
  const std::string path = path_ + "/store";
  const Result<Bytes> content = read_file(path, 4096);
  if (!content) {
    if (content.error().code != Errc::no_entry) return fail(content.error());
    return fail(Errc::not_a_store, absl::StrCat(path_, " (has no file `store`)"));
  }
  const std::string text(as_text(*content));
  const std::vector<std::string> lines = absl::StrSplit(text, '\n');
  if (lines[0] != first_line) {
    return fail(Errc::not_a_store, absl::StrCat(path, " (not made by plumeria mkfs)"));
  }
  std::uint32_t format = 0;
  if (lines.size() < 2 || !lines[1].starts_with("format ") ||
      !absl::SimpleAtoi(lines[1].substr(7), &format)) {
    return fail(Errc::corrupt, path);
  }
  if (format > host_store_format) {
    return fail(Errc::version,
                absl::StrCat(path_, " has format ", format, ", this program knows up to ",
                             host_store_format, "; use a newer Plumeria"));
  }
  if (lines.size() < 3 || !lines[2].starts_with("identity ") ||
      !absl::SimpleHexAtoi(lines[2].substr(9), &identity_) ||
      text != identity_text(identity_, format)) {
    return fail(Errc::corrupt, path);
  }
  format_ = format;
  return {};
}

Status StoreDirectory::set_format(std::uint32_t format) {
  if (format == format_) return {};
  TRY_STATUS(replace_file(path_, "store", as_bytes(identity_text(identity_, format))));
  format_ = format;
  return {};
}

Status StoreDirectory::lock(bool read_only) {
  const std::string path = path_ + "/lock";
  TRY(lock_, open_file(path, read_only ? O_RDONLY : O_RDWR | O_CREAT));
  if (::flock(lock_.get(), (read_only ? LOCK_SH : LOCK_EX) | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return fail(host_error(errno, "lock", path));
    const Result<Bytes> holder = read_file(path, 4096);
    std::string who = "another process";
    if (holder && !holder->empty()) {
      who = std::string(as_text(*holder).substr(0, holder->size() - 1));  // without newline
    }
    return fail(Errc::in_use, absl::StrCat(path_, " is held by ", who));
  }
  if (read_only) return {};
  const std::string holder = describe_this_process() + "\n";
  if (::ftruncate(lock_.get(), 0) != 0) return fail(host_error(errno, "write", path));
  // On a full disk the lock holds without the name.
  (void)write_at(lock_.get(), path, 0, as_bytes(holder));
  return {};
}

void StoreDirectory::say_ending() {
  const std::string holder = absl::StrCat(describe_this_process(), std::string(ending_mark), "\n");
  (void)write_at(lock_.get(), path_ + "/lock", 0, as_bytes(holder));
}

Status StoreDirectory::read_state(bool read_only) {
  TRY(SlotFile state, SlotFile::open(path_, "state", read_only));
  const Bytes value = state.take_value();
  Reader reader(value);
  incarnation_ = reader.get<std::uint64_t>();
  // A torn slot means that its writer was interrupted.
  was_clean_ = reader.get<std::uint8_t>() == 1 && !state.one_slot_damaged();
  if (!reader.finished()) return fail(Errc::corrupt, state.path());
  if (state.one_slot_damaged()) half_damaged_ = state.path();
  state_ = std::move(state);
  return {};
}

Status StoreDirectory::begin_incarnation() {
  // A damaged slot may have held the number that was the last one.
  incarnation_ += state_->one_slot_damaged() ? 2 : 1;
  return state_->write(encode_state(incarnation_, false));
}

Status StoreDirectory::mark_clean() {
  TRY_STATUS(state_->write(encode_state(incarnation_, true)));
  lock_.reset();
  return {};
}

Status StoreDirectory::still_there() const {
  struct stat named {
  }, held{};
  if (::stat((path_ + "/lock").c_str(), &named) == 0 && ::fstat(lock_.get(), &held) == 0 &&
      named.st_dev == held.st_dev && named.st_ino == held.st_ino) {
    return {};
  }
  return fail(Errc::io,
              absl::StrCat(path_, " is not there any more (removed, moved or unmounted)"));
}

Status StoreDirectory::check_slots(SlotFile& file, ByteView value, bool read_only) const {
  if (!file.one_slot_damaged()) return {};
  // Nobody was writing: the damaged slot may have been the newer one.
  if (was_clean_) return fail(Errc::corrupt, file.path());
  if (read_only) return {};
  return file.write(value);
}

Status StoreDirectory::read_leases(bool read_only) {
  TRY(SlotFile file, SlotFile::open(path_, "leases", read_only));
  const Bytes value = file.take_value();
  Result<disk::Admission> decoded = disk::Admission::decode(value);
  if (!decoded) return fail(Errc::corrupt, file.path());
  admission = *std::move(decoded);
  TRY_STATUS(check_slots(file, value, read_only));
  leases_ = std::move(file);
  return {};
}

Status StoreDirectory::read_registers(bool read_only) {
  const std::string directory = path_ + "/registers";
  TRY(const std::vector<std::string> names, names_in(directory));
  for (const std::string& name : names) {
    if (name.ends_with(".new")) continue;  // An interrupted creation or growth.
    TRY(SlotFile file, SlotFile::open(directory, name, read_only));
    Bytes value = file.take_value();
    TRY_STATUS(check_slots(file, value, read_only));
    const std::uint64_t version = file.sequence();
    registers.emplace(register_name(name),
                      StoredRegister{std::move(file), disk::Register{version, std::move(value)}});
  }
  return {};
}

}  // namespace plumeria::os
