#include "format/log_chunk.h"

#include <absl/strings/str_cat.h>

#include "base/check.h"
#include "base/checksum.h"

namespace plumeria::format {
namespace {

constexpr std::uint32_t chunk_magic = 0x434d4c50;  // "PLMC"
constexpr std::size_t checksum_at = 64;
constexpr std::size_t initial_capacity = 4096;

// Of a chunk with its padding.
std::uint64_t chunk_checksum(ByteView chunk) {
  return checksum(chunk.subspan(chunk_header_size), checksum(chunk.first(checksum_at)));
}

}  // namespace

Bytes encode_log_header(const LogHeader& header) {
  CHECK(header.generation > 0);
  Bytes block(block_size);
  format_block(block, BlockType::log_header, header.slot, header.generation);
  std::byte* to = block.data();
  store(to + 32, log_format_version);
  store(to + 34, header.state);
  store(to + 36, header.slot);
  store(to + 40, header.lease);
  store(to + 48, header.start);
  store(to + 56, header.predecessor);
  store(to + 64, header.first);
  store(to + 72, header.log_size);
  store(to + 80, header.durable);
  seal(block, log_header_block(header.slot, header.generation));
  return block;
}

Result<LogHeader> decode_log_header(ByteView block, BlockId id) {
  TRY_STATUS(verify(block, id));
  const std::byte* from = block.data();
  if (load<std::uint32_t>(from) == 0) return LogHeader{};  // verify() saw that all is zero
  if (type_of(block) != BlockType::log_header) {
    return fail(Errc::corrupt,
                absl::StrCat(to_string(id), " (", type_name(type_of(block)), ", no log header)"));
  }
  if (load<std::uint16_t>(from + 32) != log_format_version) {
    return fail(Errc::version,
                absl::StrCat(to_string(id), ", log format ", load<std::uint16_t>(from + 32)));
  }
  LogHeader header;
  header.generation = version_of(block);
  header.state = load<LogState>(from + 34);
  header.slot = load<std::uint32_t>(from + 36);
  header.lease = load<std::uint64_t>(from + 40);
  header.start = load<std::uint64_t>(from + 48);
  header.predecessor = load<std::uint64_t>(from + 56);
  header.first = load<std::uint64_t>(from + 64);
  header.log_size = load<std::uint64_t>(from + 72);
  header.durable = load<std::uint64_t>(from + 80);
  if (header.generation == 0 || log_header_block(header.slot, header.generation) != id ||
      header.start % log_sector != 0 || header.log_size % block_size != 0 ||
      header.log_size <= log_ring_start || header.state > LogState::in_use) {
    return fail(Errc::corrupt, absl::StrCat(to_string(id), " (impossible values)"));
  }
  return header;
}

std::uint64_t first_predecessor(std::uint32_t slot, std::uint64_t lease) {
  std::byte seed[16] = {};
  store(seed, slot);
  store(seed + 8, lease);
  return checksum(seed);
}

ChunkBuilder::ChunkBuilder() {
  bytes_.reserve(initial_capacity);
  bytes_.resize(chunk_header_size);
}

void ChunkBuilder::add(ByteView record) {
  CHECK(fits(record.size()));
  const std::size_t at = bytes_.size();
  bytes_.resize(at + record_prefix_size);
  store(bytes_.data() + at, static_cast<std::uint32_t>(record.size()));
  bytes_.insert(bytes_.end(), record.begin(), record.end());
  ++records_;
}

Bytes ChunkBuilder::finish(ChunkHeader& header) && {
  CHECK(!empty());
  header.payload_size = static_cast<std::uint32_t>(payload_size());
  header.last = header.first + records_ - 1;
  bytes_.resize(header.size());
  std::byte* to = bytes_.data();
  store(to, chunk_magic);
  store(to + 4, log_format_version);
  store(to + 8, header.lease);
  store(to + 16, header.slot);
  store(to + 20, header.payload_size);
  store(to + 24, header.position);
  store(to + 32, header.durable);
  store(to + 40, header.first);
  store(to + 48, header.last);
  store(to + 56, header.predecessor);
  header.checksum = chunk_checksum(bytes_);
  store(to + checksum_at, header.checksum);
  return std::move(bytes_);
}

std::optional<ChunkHeader> peek_chunk(ByteView bytes) {
  if (bytes.size() < chunk_header_size) return std::nullopt;
  const std::byte* from = bytes.data();
  if (load<std::uint32_t>(from) != chunk_magic ||
      load<std::uint16_t>(from + 4) != log_format_version) {
    return std::nullopt;
  }
  ChunkHeader header;
  header.lease = load<std::uint64_t>(from + 8);
  header.slot = load<std::uint32_t>(from + 16);
  header.payload_size = load<std::uint32_t>(from + 20);
  header.position = load<std::uint64_t>(from + 24);
  header.durable = load<std::uint64_t>(from + 32);
  header.first = load<std::uint64_t>(from + 40);
  header.last = load<std::uint64_t>(from + 48);
  header.predecessor = load<std::uint64_t>(from + 56);
  header.checksum = load<std::uint64_t>(from + checksum_at);
  if (header.size() > chunk_size_max) return std::nullopt;
  return header;
}

std::optional<ChunkHeader> decode_chunk(ByteView bytes) {
  const std::optional<ChunkHeader> header = peek_chunk(bytes);
  if (!header || header->size() > bytes.size()) return std::nullopt;
  if (chunk_checksum(bytes.first(header->size())) != header->checksum) return std::nullopt;
  return header;
}

Result<std::vector<ByteView>> chunk_records(const ChunkHeader& header, ByteView chunk) {
  std::vector<ByteView> records;
  Reader reader(chunk.subspan(chunk_header_size, header.payload_size));
  while (reader.left() > 0) records.push_back(reader.get_blob());
  if (!reader.ok() || records.size() != header.last - header.first + 1) {
    return fail(Errc::corrupt, absl::StrCat("log of slot ", header.slot, ", chunk at position ",
                                            header.position, " (impossible records)"));
  }
  return records;
}

}  // namespace plumeria::format
