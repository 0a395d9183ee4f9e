// A log on the disk: two header blocks and a ring of chunks (docs/format.md, "Log").
//
//   block 0, 1    log headers, written in turn: the one of the higher generation counts, and while
//                 it is being replaced the other one is left alone
//   8192 … size   the ring. The log is an endless stream of bytes; position p of it lies at
//                 8192 + p % (size - 8192), so that a chunk may go round the ring's end.
//
// A chunk is written at once and is whole or not there. It begins at a multiple of 512:
//
//    0  u32 magic "PLMC"     4  u16 format version 1   6  u16 0
//    8  u64 lease           16  u32 slot              20  u32 payload length
//   24  u64 position        in the stream, of the chunk's first byte
//   32  u64 durable         everything before this position was durable when the chunk was written
//   40  u64 first, 48 u64 last   numbers of the first and the last record in it
//   56  u64 predecessor     checksum of the chunk before, for the first one that of the log header
//   64  u64 checksum        XXH3 of bytes 72 to the end, seeded with XXH3 of bytes 0 to 63
//   72  payload: records, each {u32 length, bytes}; zeros up to a multiple of 512
//
// The valid log is the chain of chunks from the header's start on: each of the header's lease, at
// its position, with its predecessor's checksum. What `durable` says must be part of the chain;
// so a damaged chunk in the middle is told from a torn end.
//
// A log header is a block (format/block.h); its version is the generation, its owner the slot:
//
//   32  u16 format version 1   34  u16 state (LogState)   36  u32 slot
//   40  u64 lease              48  u64 start (position)   56  u64 predecessor
//   64  u64 first record expected at the start            72  u64 size of the log in bytes
//
// Values only.
#pragma once

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "format/block.h"

namespace plumeria::format {

constexpr std::uint64_t log_header_blocks = 2;
constexpr std::uint64_t log_ring_start = log_header_blocks * block_size;
constexpr std::uint64_t log_sector = 512;
constexpr std::uint16_t log_format_version = 1;

enum class LogState : std::uint16_t {
  empty = 0,   // nobody's: no record counts
  in_use = 1,  // of the lease
};

struct LogHeader {
  std::uint64_t generation = 0;  // 0: the log was never used
  LogState state = LogState::empty;
  std::uint32_t slot = 0;
  std::uint64_t lease = 0;
  std::uint64_t start = 0;
  std::uint64_t predecessor = 0;
  std::uint64_t first = 1;
  std::uint64_t log_size = 0;
  std::uint64_t durable = 0;  // everything before it was durable when this was written

  friend bool operator==(const LogHeader&, const LogHeader&) = default;
};

// The block that holds the header of a generation.
inline BlockId log_header_block(std::uint32_t slot, std::uint64_t generation) {
  return BlockId{log_segment(slot), generation % log_header_blocks};
}
// A sealed block.
Bytes encode_log_header(const LogHeader& header);
// Generation 0 for a block of zeros. Errc::corrupt or Errc::version, naming the block.
Result<LogHeader> decode_log_header(ByteView block, BlockId id);

// The predecessor of the first chunk of a lease.
std::uint64_t first_predecessor(std::uint32_t slot, std::uint64_t lease);

constexpr std::size_t chunk_header_size = 72;
constexpr std::size_t record_prefix_size = 4;
constexpr std::size_t chunk_size_max = 1u << 20;  // with header and padding

constexpr std::uint64_t chunk_size_of(std::uint64_t payload) {
  return (chunk_header_size + payload + log_sector - 1) / log_sector * log_sector;
}
// A record of n bytes makes the log grow by at most n plus this, however often chunks are written.
constexpr std::uint64_t record_overhead_max =
    chunk_header_size + record_prefix_size + log_sector - 1;

struct ChunkHeader {
  std::uint64_t lease = 0;
  std::uint32_t slot = 0;
  std::uint32_t payload_size = 0;
  std::uint64_t position = 0;
  std::uint64_t durable = 0;
  std::uint64_t first = 0;
  std::uint64_t last = 0;
  std::uint64_t predecessor = 0;
  std::uint64_t checksum = 0;

  std::uint64_t size() const { return chunk_size_of(payload_size); }
  std::uint64_t end() const { return position + size(); }
};

// Collects the records of one chunk in the form in which it is written.
class ChunkBuilder {
 public:
  ChunkBuilder();
  bool fits(std::size_t record_size) const {
    return chunk_size_of(payload_size() + record_prefix_size + record_size) <= chunk_size_max;
  }
  void add(ByteView record);  // Requires: fits().
  bool empty() const { return records_ == 0; }
  std::uint64_t records() const { return records_; }
  std::uint64_t size() const { return empty() ? 0 : chunk_size_of(payload_size()); }

  // The chunk, whole. Fills in the header's last, payload_size and checksum. Requires: !empty().
  Bytes finish(ChunkHeader& header) &&;

 private:
  std::size_t payload_size() const { return bytes_.size() - chunk_header_size; }

  Bytes bytes_;
  std::uint64_t records_ = 0;
};

// What the first bytes of a chunk claim, not yet proven by its checksum; nothing if they are none.
std::optional<ChunkHeader> peek_chunk(ByteView bytes);
// The chunk that `bytes` begin with, if it is there with all its bytes as they were written.
std::optional<ChunkHeader> decode_chunk(ByteView bytes);

// The records of a chunk that decode_chunk() has accepted, as views into it.
Result<std::vector<ByteView>> chunk_records(const ChunkHeader& header, ByteView chunk);

}  // namespace plumeria::format
