#include "os/snapshot_files.h"

#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "base/check.h"
#include "base/checksum.h"
#include "base/number.h"
#include "os/store_directory.h"

namespace plumeria::os {

using disk::Segment;
using disk::SnapshotId;

namespace {

constexpr std::uint64_t list_magic = 0x31535041'4e53504cu;       // "LPSNAPS1"
constexpr std::uint64_t registers_magic = 0x31474552'4e53504cu;  // "LPSNREG1"
constexpr std::uint64_t index_magic = 0x31584449'4e53504cu;      // "LPSNIDX1"
constexpr std::size_t record_size = 48;
constexpr std::uint64_t page = 4096;
constexpr std::size_t copy_size = 1u << 20;
constexpr std::size_t registers_size_max = 64u << 20;
constexpr std::uint64_t index_size_max = 16ull << 30;

std::string folder_of_snapshot(const std::string& folder, SnapshotId id) {
  return absl::StrCat(folder, "/", absl::Hex(raw(id), absl::kZeroPad16));
}

std::uint64_t seed_of(SnapshotId id, std::uint64_t position) {
  return index_magic ^ (raw(id) << 40) ^ position;
}

// `durable`: how much of the index surely was, when this was written.
Bytes encode_record(SnapshotId id, std::uint64_t position, std::uint64_t durable,
                    const NowKept& kept) {
  Writer writer(record_size);
  writer.put(kept.segment);
  writer.put(kept.range.from);
  writer.put(kept.range.end);
  writer.put(kept.place);
  writer.put(durable);
  writer.put(checksum(writer.view(), seed_of(id, position)));
  return writer.take();
}

struct Record {
  NowKept kept;
  std::uint64_t durable = 0;
};
std::optional<Record> decode_record(SnapshotId id, std::uint64_t position, ByteView bytes) {
  Reader reader(bytes);
  Record record;
  record.kept.segment = reader.get<Segment>();
  record.kept.range.from = reader.get<std::uint64_t>();
  record.kept.range.end = reader.get<std::uint64_t>();
  record.kept.place = reader.get<std::uint64_t>();
  record.durable = reader.get<std::uint64_t>();
  const auto sum = reader.get<std::uint64_t>();
  const bool is_good = reader.finished() && record.kept.range.from < record.kept.range.end &&
                       sum == checksum(bytes.first(record_size - 8), seed_of(id, position));
  if (!is_good) return std::nullopt;
  return record;
}

Bytes encode_registers(const Registers& registers) {
  Writer writer;
  writer.put(registers_magic);
  for (const auto& [name, content] : registers) {
    writer.put_text(name);
    writer.put(content.version);
    writer.put_blob(content.value);
  }
  writer.put(checksum(writer.view()));
  return writer.take();
}

Result<Registers> read_registers(const std::string& path) {
  TRY(const Bytes bytes, read_file(path, registers_size_max));
  if (bytes.size() < 16) return fail(Errc::corrupt, path);
  const ByteView body = ByteView(bytes).first(bytes.size() - 8);
  Reader reader(body);
  const auto magic = reader.get<std::uint64_t>();
  if (magic != registers_magic ||
      load<std::uint64_t>(bytes.data() + body.size()) != checksum(body)) {
    return fail(Errc::corrupt, path);
  }
  Registers registers;
  while (reader.left() > 0) {
    std::string name = reader.get_text();
    disk::Register content;
    content.version = reader.get<std::uint64_t>();
    content.value = to_bytes(reader.get_blob());
    registers.emplace(std::move(name), std::move(content));
  }
  if (!reader.finished()) return fail(Errc::corrupt, path);
  return registers;
}

std::vector<std::string> names_in(const std::string& path) {
  std::vector<std::string> names;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(path, ignored)) {
    names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

// A power cut leaves records of which nobody was told; what was told of and is gone is damage, and
// so is whatever is wrong after a clean end.
Status read_index(KeptSnapshot& snapshot, bool read_only, bool was_clean) {
  const std::string path = snapshot.folder + "/index";
  TRY(const Bytes bytes, read_file(path, index_size_max));
  std::uint64_t at = 0;
  const auto record_at = [&](std::uint64_t position) {
    return decode_record(snapshot.id, position, ByteView(bytes).subspan(position, record_size));
  };
  for (; at + record_size <= bytes.size(); at += record_size) {
    const auto record = record_at(at);
    if (!record) break;
    const NowKept& kept = record->kept;
    if (snapshot.kept[kept.segment].gaps(kept.range.from, kept.range.end) !=
        std::vector<Range>{kept.range}) {
      return fail(Errc::corrupt, path);
    }
    snapshot.kept[kept.segment].insert(kept.range, kept.place);
    if (kept.place != KeptRanges::zeros) {
      snapshot.data_length =
          std::max(snapshot.data_length, kept.place + (kept.range.end - kept.range.from));
    }
  }
  snapshot.index_length = at;
  if (was_clean && at != bytes.size()) {
    return fail(Errc::corrupt, absl::StrCat(path, " at ", at));
  }
  for (std::uint64_t later = at + record_size; later + record_size <= bytes.size();
       later += record_size) {
    const auto record = record_at(later);
    if (record && record->durable > at) {
      return fail(Errc::corrupt, absl::StrCat(path, " at ", at));
    }
  }
  if (read_only || at == bytes.size()) return {};
  if (::ftruncate(snapshot.index.get(), static_cast<off_t>(at)) != 0) {
    return fail(host_error(errno, "truncate", path));
  }
  return sync_data(snapshot.index.get(), path);
}

Status open_snapshot(KeptSnapshot& snapshot, bool read_only, bool was_clean) {
  const int flags = read_only ? O_RDONLY : O_RDWR;
  TRY(snapshot.index, open_file(snapshot.folder + "/index", flags));
  TRY(snapshot.data, open_file(snapshot.folder + "/data", flags));
  TRY(snapshot.registers, read_registers(snapshot.folder + "/registers"));
  TRY_STATUS(read_index(snapshot, read_only, was_clean));
  for (const std::string& name : names_in(snapshot.folder + "/segments")) {
    std::uint64_t number = 0;
    if (absl::SimpleHexAtoi(name, &number)) snapshot.whole.insert(Segment{number});
  }
  return {};
}

// Of a part that has data in its file: to the end of the data file.
Status copy_run(KeptSnapshot& snapshot, const ToKeep& from, Range run, std::uint64_t place) {
  Bytes buffer(std::min<std::uint64_t>(copy_size, run.end - run.from));
  for (std::uint64_t at = run.from; at < run.end;) {
    const std::uint64_t part = std::min<std::uint64_t>(buffer.size(), run.end - at);
    const MutableByteView bytes = MutableByteView(buffer).first(part);
    TRY_STATUS(read_at(from.file->file.get(), from.file->path, at, bytes));
    TRY_STATUS(
        write_at(snapshot.data.get(), snapshot.folder + "/data", place + (at - run.from), bytes));
    at += part;
  }
  return {};
}

// Holes need no bytes.
Status copy_part(KeptSnapshot& snapshot, const ToKeep& part, std::uint64_t& data_end,
                 std::vector<NowKept>& kept) {
  const std::uint64_t stored = std::clamp(part.stored, part.range.from, part.range.end);
  std::uint64_t at = part.range.from;
  const auto are_zeros = [&](std::uint64_t end) {
    if (at < end) kept.push_back({part.segment, {at, end}, KeptRanges::zeros});
    at = std::max(at, end);
  };
  while (at < stored) {
    const int fd = part.file->file.get();
    const off_t found = ::lseek(fd, static_cast<off_t>(at), SEEK_DATA);
    if (found < 0 && errno != ENXIO) return fail(host_error(errno, "seek", part.file->path));
    const auto begin = found < 0 ? stored : std::min(static_cast<std::uint64_t>(found), stored);
    are_zeros(begin);
    if (begin == stored) break;
    const off_t hole = ::lseek(fd, static_cast<off_t>(begin), SEEK_HOLE);
    if (hole < 0) return fail(host_error(errno, "seek", part.file->path));
    const Range run{begin, std::min(static_cast<std::uint64_t>(hole), stored)};
    const std::uint64_t place = (data_end + page - 1) / page * page + run.from % page;
    TRY_STATUS(copy_run(snapshot, part, run, place));
    data_end = place + (run.end - run.from);
    kept.push_back({part.segment, run, place});
    at = run.end;
  }
  are_zeros(part.range.end);
  return {};
}

Status write_index(KeptSnapshot& snapshot, const std::vector<NowKept>& kept) {
  const std::string path = snapshot.folder + "/index";
  Bytes records;
  for (const NowKept& one : kept) {
    const Bytes record = encode_record(snapshot.id, snapshot.index_length + records.size(),
                                       snapshot.index_length, one);
    records.insert(records.end(), record.begin(), record.end());
  }
  Status written = write_at(snapshot.index.get(), path, snapshot.index_length, records);
  if (written) written = sync_data(snapshot.index.get(), path);
  if (!written) {
    // What stays of them must never count. A sync that failed is the end of it all anyway.
    (void)!::ftruncate(snapshot.index.get(), static_cast<off_t>(snapshot.index_length));
    return written;
  }
  snapshot.index_length += records.size();
  return {};
}

void punch(int fd, Range range) {
  (void)!::fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(range.from),
                     static_cast<off_t>(range.end - range.from));
}

std::uint64_t blocks_of(const std::string& path) {
  struct stat found {};
  if (::stat(path.c_str(), &found) != 0) return 0;
  return static_cast<std::uint64_t>(found.st_blocks) * 512;
}

void remove_unlisted(const std::string& folder, const std::vector<KeptSnapshotPointer>& listed) {
  for (const std::string& name : names_in(folder)) {
    std::uint64_t number = 0;
    if (name.size() != 16 || !absl::SimpleHexAtoi(name, &number)) continue;
    const auto is_it = [&](const KeptSnapshotPointer& s) { return raw(s->id) == number; };
    if (std::any_of(listed.begin(), listed.end(), is_it)) continue;
    std::error_code ignored;
    std::filesystem::remove_all(absl::StrCat(folder, "/", name), ignored);
  }
}

// What of the range the snapshot keeps, too.
std::vector<Range> common(const KeptSnapshot& snapshot, Segment segment, Range range) {
  std::vector<Range> found;
  std::uint64_t at = range.from;
  for (const Range& gap : snapshot.gaps(segment, range)) {
    if (at < gap.from) found.push_back({at, gap.from});
    at = gap.end;
  }
  if (at < range.end) found.push_back({at, range.end});
  return found;
}

}  // namespace

std::string KeptSnapshot::whole_path(Segment segment) const {
  return absl::StrCat(folder, "/segments/", absl::Hex(raw(segment), absl::kZeroPad16));
}

std::vector<Range> KeptSnapshot::gaps(Segment segment, Range range) const {
  if (whole.contains(segment)) return {};
  const auto found = kept.find(segment);
  if (found == kept.end()) return {range};
  return found->second.gaps(range.from, range.end);
}

Result<std::vector<NowKept>> copy_away(KeptSnapshot& snapshot, const std::vector<ToKeep>& all) {
  std::vector<NowKept> kept;
  std::uint64_t data_end = snapshot.data_length;
  for (const ToKeep& part : all) TRY_STATUS(copy_part(snapshot, part, data_end, kept));
  // A record must never be there without its bytes.
  if (data_end > snapshot.data_length) {
    TRY_STATUS(sync_data(snapshot.data.get(), snapshot.folder + "/data"));
  }
  TRY_STATUS(write_index(snapshot, kept));
  snapshot.data_length = data_end;
  return kept;
}

Result<KeptSnapshotPointer> make_snapshot_files(const std::string& store, SnapshotId id,
                                                std::string name, WallTime created,
                                                Registers registers) {
  const std::string folder = store + "/snapshots";
  if (::mkdir(folder.c_str(), 0755) == 0) {
    TRY_STATUS(sync_directory(store));
  } else if (errno != EEXIST) {
    return fail(host_error(errno, "make directory", folder));
  }
  auto made = std::make_shared<KeptSnapshot>();
  made->id = id;
  made->name = std::move(name);
  made->created = created;
  made->folder = folder_of_snapshot(folder, id);
  made->registers = std::move(registers);
  // Of an attempt that failed.
  std::error_code ignored;
  std::filesystem::remove_all(made->folder, ignored);
  TRY_STATUS(make_directory(made->folder));
  TRY_STATUS(make_directory(made->folder + "/segments"));
  TRY(made->index, open_file(made->folder + "/index", O_RDWR | O_CREAT | O_EXCL));
  TRY(made->data, open_file(made->folder + "/data", O_RDWR | O_CREAT | O_EXCL));
  TRY_STATUS(replace_file(made->folder, "registers", encode_registers(made->registers)));
  TRY_STATUS(sync_directory(folder));
  return made;
}

void remove_snapshot_files(const KeptSnapshot& snapshot) {
  std::error_code ignored;
  std::filesystem::remove_all(snapshot.folder, ignored);
}

std::uint64_t space_of(const KeptSnapshot& snapshot) {
  std::uint64_t bytes = 0;
  for (const char* file : {"/index", "/data", "/registers"}) {
    bytes += blocks_of(snapshot.folder + file);
  }
  for (const std::string& name : names_in(snapshot.folder + "/segments")) {
    bytes += blocks_of(absl::StrCat(snapshot.folder, "/segments/", name));
  }
  return bytes;
}

void give_back(const Unneeded& unneeded) {
  for (const Range& range : unneeded.of_data) punch(unneeded.rest->data.get(), range);
  for (const Segment segment : unneeded.whole) {
    (void)!::unlink(unneeded.rest->whole_path(segment).c_str());
  }
  for (const auto& [segment, range] : unneeded.parts_of_whole) {
    const auto file = open_file(unneeded.rest->whole_path(segment), O_RDWR);
    if (file) punch(file->get(), range);
  }
}

Result<SnapshotFiles> SnapshotFiles::open(std::string store, bool read_only, bool was_clean) {
  SnapshotFiles files;
  files.folder_ = std::move(store) + "/snapshots";
  struct stat status {};
  if (::stat((files.folder_ + "/list").c_str(), &status) != 0) {
    if (!read_only) remove_unlisted(files.folder_, {});  // The first one did not come about.
    return files;
  }
  TRY(SlotFile list, SlotFile::open(files.folder_, "list", read_only));
  const Bytes value = list.take_value();
  if (list.one_slot_damaged()) {
    if (was_clean) return fail(Errc::corrupt, list.path());
    if (!read_only) TRY_STATUS(list.write(value));
  }
  Reader reader(value);
  const auto magic = reader.get<std::uint64_t>();
  files.next_id_ = reader.get<std::uint64_t>();
  while (reader.left() > 0) {
    auto snapshot = std::make_shared<KeptSnapshot>();
    snapshot->id = reader.get<SnapshotId>();
    snapshot->created = reader.get<WallTime>();
    snapshot->is_rest = reader.get<std::uint8_t>() == 0;
    snapshot->is_made = true;
    snapshot->name = reader.get_text();
    snapshot->folder = folder_of_snapshot(files.folder_, snapshot->id);
    files.chain_.push_back(std::move(snapshot));
  }
  if (!reader.finished() || magic != list_magic) return fail(Errc::corrupt, list.path());
  files.list_ = std::move(list);
  // Before they are opened: a crash may have come in the middle of their removal.
  if (!read_only && !files.take_unneeded().empty()) {
    TRY_STATUS(files.write_list(files.encode_list()));
  }
  for (const KeptSnapshotPointer& snapshot : files.chain_) {
    TRY_STATUS(open_snapshot(*snapshot, read_only, was_clean));
  }
  if (read_only) return files;
  remove_unlisted(files.folder_, files.chain_);
  if (!was_clean) {
    for (const Unneeded& unneeded : files.unneeded_parts()) give_back(unneeded);
  }
  return files;
}

KeptSnapshotPointer SnapshotFiles::find(SnapshotId id) const {
  for (const KeptSnapshotPointer& snapshot : chain_) {
    if (snapshot->id == id && snapshot->is_made && !snapshot->is_rest) return snapshot;
  }
  return nullptr;
}

// What a rest keeps is for the older ones alone, and they need nothing that they have.
std::vector<Range> SnapshotFiles::gaps(Segment segment, Range range) const {
  std::vector<Range> left{range};
  for (auto it = chain_.rbegin(); it != chain_.rend() && !left.empty(); ++it) {
    std::vector<Range> next;
    for (const Range& part : left) {
      const std::vector<Range> missing = (*it)->gaps(segment, part);
      next.insert(next.end(), missing.begin(), missing.end());
    }
    left = std::move(next);
    if (!(*it)->is_rest) break;
  }
  return left;
}

void SnapshotFiles::kept(const std::vector<NowKept>& ranges) {
  for (const NowKept& one : ranges) newest()->kept[one.segment].insert(one.range, one.place);
}

SnapshotFiles::Source SnapshotFiles::where(SnapshotId id, Segment segment,
                                           std::uint64_t offset) const {
  Source source;
  for (const KeptSnapshotPointer& snapshot : chain_) {
    if (snapshot->id < id) continue;
    const auto ranges = snapshot->kept.find(segment);
    if (ranges != snapshot->kept.end()) {
      const KeptRanges::Found found = ranges->second.find(offset);
      source.end = std::min(source.end, found.end);
      if (found.is_kept) {
        if (found.place == KeptRanges::zeros) return source;
        source.kind = Source::Kind::data;
        source.place = found.place;
        source.snapshot = snapshot;
        return source;
      }
    }
    if (snapshot->whole.contains(segment)) {
      source.kind = Source::Kind::whole;
      source.place = offset;
      source.snapshot = snapshot;
      return source;
    }
  }
  source.kind = Source::Kind::present;
  source.place = offset;
  return source;
}

absl::btree_set<Segment> SnapshotFiles::segments_since(SnapshotId id) const {
  absl::btree_set<Segment> found;
  for (const KeptSnapshotPointer& snapshot : chain_) {
    if (snapshot->id < id) continue;
    for (const auto& [segment, ranges] : snapshot->kept) {
      if (ranges.has_bytes()) found.insert(segment);
    }
    found.insert(snapshot->whole.begin(), snapshot->whole.end());
  }
  return found;
}

std::vector<KeptSnapshotPointer> SnapshotFiles::take_unneeded() {
  const auto first = std::find_if(chain_.begin(), chain_.end(),
                                  [](const auto& snapshot) { return !snapshot->is_rest; });
  std::vector<KeptSnapshotPointer> gone(chain_.begin(), first);
  chain_.erase(chain_.begin(), first);
  return gone;
}

std::vector<Unneeded> SnapshotFiles::unneeded_parts() const {
  std::vector<Unneeded> all;
  for (std::size_t i = 1; i < chain_.size(); ++i) {
    if (!chain_[i]->is_rest) continue;
    const KeptSnapshot& older = *chain_[i - 1];
    Unneeded unneeded;
    unneeded.rest = chain_[i];
    for (const auto& [segment, ranges] : chain_[i]->kept) {
      for (const auto& [range, place] : ranges.with_bytes()) {
        for (const Range& part : common(older, segment, range)) {
          const std::uint64_t from = place + (part.from - range.from);
          unneeded.of_data.push_back({from, from + (part.end - part.from)});
        }
      }
    }
    for (const Segment segment : chain_[i]->whole) {
      const std::vector<Range> parts = common(older, segment, {0, no_end});
      if (parts == std::vector<Range>{{0, no_end}}) {
        unneeded.whole.push_back(segment);
        continue;
      }
      for (Range part : parts) {
        part.end = std::min(part.end, disk::segment_limit);
        unneeded.parts_of_whole.emplace_back(segment, part);
      }
    }
    all.push_back(std::move(unneeded));
  }
  return all;
}

Bytes SnapshotFiles::encode_list(const KeptSnapshotPointer& added,
                                 const KeptSnapshotPointer& deleted) const {
  Writer writer;
  writer.put(list_magic);
  writer.put(next_id_);
  const auto put = [&](const KeptSnapshotPointer& snapshot) {
    const bool shows = snapshot->is_made && !snapshot->is_rest && snapshot != deleted;
    writer.put(snapshot->id);
    writer.put(snapshot->created);
    writer.put(static_cast<std::uint8_t>(shows));
    writer.put_text(snapshot->name);
  };
  for (const KeptSnapshotPointer& snapshot : chain_) put(snapshot);
  if (added) put(added);
  return writer.take();
}

Status SnapshotFiles::write_list(ByteView list) {
  if (list_) return list_->write(list);
  TRY(list_, SlotFile::create(folder_, "list", list, 1));
  return {};
}

}  // namespace plumeria::os
