#include "format/log_record.h"

#include <absl/strings/str_cat.h>

#include <algorithm>
#include <bit>
#include <utility>

#include "base/check.h"

namespace plumeria::format {
namespace {

constexpr std::size_t word = 8;
constexpr std::size_t range_header_size = 4;
// The version and the checksum are never part of a delta.
constexpr std::size_t hidden_from = 8, hidden_to = 24;

std::uint64_t difference(ByteView a, ByteView b, std::size_t at) {
  return load<std::uint64_t>(a.data() + at) ^ load<std::uint64_t>(b.data() + at);
}

// The first word from `at` on that differs, or `end`. All are multiples of a word.
std::size_t next_difference(ByteView a, ByteView b, std::size_t at, std::size_t end) {
  constexpr std::size_t step = 8 * word;
  while (at + step <= end) {
    std::uint64_t any = 0;
    for (std::size_t i = 0; i < step; i += word) any |= difference(a, b, at + i);
    if (any != 0) break;
    at += step;
  }
  while (at < end && difference(a, b, at) == 0) at += word;
  return at;
}

void put_range(Bytes& to, ByteView after, std::size_t from, std::size_t end) {
  const std::size_t at = to.size();
  to.resize(at + range_header_size + (end - from));
  store(to.data() + at, static_cast<std::uint16_t>(from));
  store(to.data() + at + 2, static_cast<std::uint16_t>(end - from));
  std::copy_n(after.data() + from, end - from, to.data() + at + range_header_size);
}

// Appends the ranges of [at, end) that differ. A range ends at a whole word that is equal, so two
// of them are never closer than 8 bytes: less would not pay for a range's own header.
void put_differences(Bytes& to, ByteView before, ByteView after, std::size_t at, std::size_t end) {
  while ((at = next_difference(before, after, at, end)) < end) {
    const std::size_t first = at + std::countr_zero(difference(before, after, at)) / 8;
    std::uint64_t last_word = 0;
    while (at < end) {
      const std::uint64_t here = difference(before, after, at);
      if (here == 0) break;
      last_word = here;
      at += word;
    }
    put_range(to, after, first, at - std::countl_zero(last_word) / 8);
  }
}

std::size_t without_zero_tail(ByteView block) {
  std::size_t size = block.size();
  while (size >= word && load<std::uint64_t>(block.data() + size - word) == 0) size -= word;
  while (size > 0 && block[size - 1] == std::byte{0}) --size;
  return std::max(size, block_header_size);
}

Status bad(const Change& change, const char* what) {
  return fail(Errc::corrupt, absl::StrCat("log record of ", to_string(change.block), " version ",
                                          change.version, " (", what, ")"));
}

Status check_image(const Change& change) {
  if (change.payload.size() < block_header_size || change.payload.size() > block_size) {
    return bad(change, "image of impossible size");
  }
  if (load<std::uint32_t>(change.payload.data()) != block_magic) {
    return bad(change, "image without magic");
  }
  if (version_of(change.payload) != change.version) return bad(change, "image of another version");
  return {};
}

DeltaRange next_range(Reader& reader) {
  DeltaRange range;
  range.offset = reader.get<std::uint16_t>();
  range.bytes = reader.get_raw(reader.get<std::uint16_t>());
  return range;
}

Status check_delta(const Change& change) {
  Reader reader(change.payload);
  while (reader.left() > 0) {
    const DeltaRange range = next_range(reader);
    if (!reader.ok()) return bad(change, "delta is cut off");
    const std::size_t from = range.offset, end = from + range.bytes.size();
    if (from == end || end > block_size) return bad(change, "delta beyond the block");
    if (from < hidden_to && end > hidden_from) {
      return bad(change, "delta of version or checksum");
    }
  }
  return {};
}

Status check_change(const Change& change) {
  switch (change.kind) {
    case ChangeKind::image:
      return check_image(change);
    case ChangeKind::delta:
      return check_delta(change);
  }
  return bad(change, "unknown kind of change");
}

}  // namespace

std::size_t RecordBuilder::begin_change(BlockId id, std::uint64_t version, ChangeKind kind) {
  const std::size_t at = bytes_.size();
  bytes_.resize(at + change_header_size);
  std::byte* to = bytes_.data() + at;
  store(to, id.segment);
  store(to + 8, id.number);
  store(to + 16, version);
  store(to + 24, kind);
  return at;
}

void RecordBuilder::end_change(std::size_t at) {
  const std::size_t length = bytes_.size() - at - change_header_size;
  CHECK(length <= block_size);
  store(bytes_.data() + at + 26, static_cast<std::uint16_t>(length));
}

void RecordBuilder::add_image(BlockId id, ByteView block) {
  CHECK(block.size() == block_size);
  CHECK(load<std::uint32_t>(block.data()) == block_magic);
  const std::size_t at = begin_change(id, version_of(block), ChangeKind::image);
  const ByteView image = block.first(without_zero_tail(block));
  bytes_.insert(bytes_.end(), image.begin(), image.end());
  store(bytes_.data() + at + change_header_size + 16, std::uint64_t{0});
  end_change(at);
}

void RecordBuilder::add_delta(BlockId id, ByteView before, ByteView after) {
  CHECK(before.size() == block_size && after.size() == block_size);
  CHECK(version_of(after) == version_of(before) + 1);
  const std::size_t at = begin_change(id, version_of(after), ChangeKind::delta);
  put_differences(bytes_, before, after, 0, hidden_from);
  put_differences(bytes_, before, after, hidden_to, block_size);
  if (bytes_.size() - at - change_header_size >= without_zero_tail(after)) {
    bytes_.resize(at);
    add_image(id, after);
    return;
  }
  end_change(at);
}

Result<std::vector<Change>> decode_record(ByteView record) {
  std::vector<Change> changes;
  Reader reader(record);
  while (reader.left() > 0) {
    Change change;
    change.block.segment = reader.get<std::uint64_t>();
    change.block.number = reader.get<std::uint64_t>();
    change.version = reader.get<std::uint64_t>();
    change.kind = reader.get<ChangeKind>();
    change.payload = reader.get_raw(reader.get<std::uint16_t>());
    if (!reader.ok()) return fail(Errc::corrupt, "log record is cut off");
    TRY_STATUS(check_change(change));
    changes.push_back(change);
  }
  if (changes.empty()) return fail(Errc::corrupt, "log record without a change");
  return changes;
}

std::vector<DeltaRange> delta_ranges(const Change& change) {
  CHECK(change.kind == ChangeKind::delta);
  std::vector<DeltaRange> ranges;
  Reader reader(change.payload);
  while (reader.left() > 0) ranges.push_back(next_range(reader));
  CHECK(reader.ok());
  return ranges;
}

void apply_change(const Change& change, MutableByteView block) {
  CHECK(block.size() == block_size);
  if (change.kind == ChangeKind::image) {
    const auto end = std::copy(change.payload.begin(), change.payload.end(), block.begin());
    std::fill(end, block.end(), std::byte{0});
    return;
  }
  Reader reader(change.payload);
  while (reader.left() > 0) {
    const DeltaRange range = next_range(reader);
    CHECK(reader.ok() && range.offset + range.bytes.size() <= block_size);
    std::copy(range.bytes.begin(), range.bytes.end(), block.begin() + range.offset);
  }
  set_version(block, change.version);
}

}  // namespace plumeria::format
