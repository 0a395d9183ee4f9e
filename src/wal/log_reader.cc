#include "wal/log_reader.h"

#include <absl/strings/str_cat.h>

#include <algorithm>
#include <optional>
#include <utility>

namespace plumeria::wal {
namespace {

using format::ChunkHeader;
using format::log_header_blocks;
using format::log_ring_start;
using format::log_sector;
using format::LogHeader;

disk::Address address(std::uint32_t slot, std::uint64_t offset) {
  return disk::Address{disk::Segment{format::log_segment(slot)}, offset};
}

// Reads the stream of a log by position, many bytes at a time.
class Window {
 public:
  Window(disk::VirtualDisk& disk, std::uint32_t slot, std::uint64_t ring, std::uint64_t end)
      : disk_(disk), slot_(slot), ring_(ring), end_(end) {}

  // Bytes from `position` on, at least `needed` if the end is not nearer.
  Task<Result<SharedBytes>> at(std::uint64_t position, std::uint64_t needed) {
    needed = std::min(needed, end_ - position);
    if (position < position_ || position + needed > position_ + bytes_.size()) {
      CO_TRY_STATUS(co_await fill(position, needed));
    }
    const std::uint64_t from = position - position_;
    co_return bytes_.slice(from, bytes_.size() - from);
  }
  std::uint64_t end() const { return end_; }
  std::uint64_t bytes_read() const { return bytes_read_; }

 private:
  Task<Status> fill(std::uint64_t position, std::uint64_t needed) {
    const std::uint64_t place = position % ring_;
    std::uint64_t length = std::min({disk::transfer_max, end_ - position, ring_ - place});
    auto head = co_await disk_.read(address(slot_, log_ring_start + place), length);
    if (!head) co_return fail(std::move(head).error());
    bytes_read_ += length;
    if (length < needed) {  // It goes round the ring's end.
      auto rest = co_await disk_.read(address(slot_, log_ring_start), needed - length);
      if (!rest) co_return fail(std::move(rest).error());
      bytes_read_ += needed - length;
      head->insert(head->end(), rest->begin(), rest->end());
    }
    position_ = position;
    bytes_ = SharedBytes(*std::move(head));
    co_return Status{};
  }

  disk::VirtualDisk& disk_;
  std::uint32_t slot_;
  std::uint64_t ring_, end_;
  std::uint64_t position_ = 0;
  SharedBytes bytes_;
  std::uint64_t bytes_read_ = 0;
};

struct Chunk {
  ChunkHeader header;
  SharedBytes bytes;
};

// The whole chunk at `position`, if there is one of this slot.
Task<Result<std::optional<Chunk>>> chunk_at(Window& window, std::uint32_t slot,
                                            std::uint64_t position) {
  std::optional<Chunk> none;
  if (position + log_sector > window.end()) co_return none;
  CO_TRY(SharedBytes bytes, co_await window.at(position, log_sector));
  const std::optional<ChunkHeader> claim = format::peek_chunk(bytes.view());
  if (!claim || claim->slot != slot) co_return none;
  if (claim->size() > bytes.size()) {
    auto whole = co_await window.at(position, claim->size());
    if (!whole) co_return fail(std::move(whole).error());
    bytes = *std::move(whole);
  }
  const std::optional<ChunkHeader> header = format::decode_chunk(bytes.view());
  if (!header) co_return none;
  std::optional<Chunk> chunk = Chunk{*header, bytes.slice(0, header->size())};
  co_return chunk;
}

Status visit_records(const Chunk& chunk, RecordVisitor& visitor) {
  TRY(const std::vector<ByteView> records, format::chunk_records(chunk.header, chunk.bytes.view()));
  LogRecord record;
  record.number = LogPosition{chunk.header.first};
  record.chunk = chunk.header;
  record.memory = chunk.bytes;
  for (const ByteView bytes : records) {
    record.bytes = bytes;
    TRY_STATUS(visitor(record));
    record.number = next(record.number);
  }
  return {};
}

// Whether a chunk of the header's lease was begun where the chain ends; it is not whole.
Task<Result<bool>> is_torn_at_end(Window& window, const LogContents& contents) {
  if (contents.end + log_sector > window.end()) co_return false;
  CO_TRY(const SharedBytes bytes, co_await window.at(contents.end, log_sector));
  const std::optional<ChunkHeader> claim = format::peek_chunk(bytes.view());
  co_return claim && claim->slot == contents.header.slot && claim->lease == contents.header.lease &&
      claim->position == contents.end;
}

// Follows the chain from the header's start on.
Task<Status> visit_chain(Window& window, LogContents& contents, std::uint64_t ring,
                         RecordVisitor& visitor) {
  const LogHeader& log = contents.header;
  std::uint64_t predecessor = log.predecessor;
  std::uint64_t first = log.first;
  while (true) {
    CO_TRY(const std::optional<Chunk> chunk, co_await chunk_at(window, log.slot, contents.end));
    if (!chunk) {
      CO_TRY(contents.torn, co_await is_torn_at_end(window, contents));
      break;
    }
    const ChunkHeader& header = chunk->header;
    if (header.lease != log.lease || header.position != contents.end || header.first != first ||
        header.predecessor != predecessor || header.end() > log.start + ring) {
      break;
    }
    CO_TRY_STATUS(visit_records(*chunk, visitor));
    contents.end = header.end();
    contents.records += header.last - header.first + 1;
    ++contents.chunks;
    predecessor = header.checksum;
    first = header.last + 1;
  }
  co_return Status{};
}

// Does this chunk prove that the log is longer than the chain that was found? A crash takes only
// what was not durable yet, and the first header of a lease is durable before its first chunk.
bool proves_damage(const ChunkHeader& chunk, const LogContents& contents) {
  const LogHeader& log = contents.header;
  if (chunk.lease > log.lease) return true;
  return chunk.lease == log.lease && log.state == format::LogState::in_use &&
         chunk.durable > contents.end;
}

Task<Status> look_for_damage(Window& window, const LogContents& contents, std::uint32_t slot,
                             std::uint64_t ring) {
  const LogHeader& log = contents.header;
  if (log.state == format::LogState::in_use && log.durable > contents.end) {
    co_return fail(Errc::corrupt,
                   absl::StrCat("log of slot ", slot, " (no valid chunk at position ", contents.end,
                                ", but it was durable to ", log.durable, ")"));
  }
  std::uint64_t at = contents.end;
  while (at < contents.header.start + ring) {
    CO_TRY(const std::optional<Chunk> chunk, co_await chunk_at(window, slot, at));
    if (!chunk || chunk->header.position % ring != at % ring) {
      at += log_sector;
      continue;
    }
    if (proves_damage(chunk->header, contents)) {
      co_return fail(Errc::corrupt,
                     absl::StrCat("log of slot ", slot, " (no valid chunk at position ",
                                  contents.end, ", but lease ", chunk->header.lease,
                                  " has written on to position ", chunk->header.end(), ")"));
    }
    at += chunk->header.size();  // What looks like a chunk inside of it is somebody's data.
  }
  co_return Status{};
}

}  // namespace

Task<Result<LogState>> read_log_header(disk::VirtualDisk& disk, std::uint32_t slot) {
  CO_TRY(const Bytes blocks, co_await disk.read(address(slot, 0), log_ring_start));
  LogState state;
  std::optional<Error> first_error;
  bool found = false;
  for (std::uint64_t i = 0; i < log_header_blocks; ++i) {
    const ByteView block = ByteView(blocks).subspan(i * format::block_size, format::block_size);
    auto header = format::decode_log_header(block, format::log_header_block(slot, i));
    if (!header) {
      if (header.error().code != Errc::corrupt || first_error) {
        co_return fail(std::move(header).error());
      }
      first_error = std::move(header).error();
    } else if (!found || header->generation > state.header.generation) {
      if (found && state.header.generation > 0) state.other = state.header;
      state.header = *header;
      found = true;
    } else if (header->generation > 0) {
      state.other = *header;
    }
  }
  if (state.header.generation == 0) {  // never used
    state.header.slot = slot;
  } else if (!first_error && state.header.generation > 1) {
    // The header before was written too, so it cannot be empty.
    const format::BlockId other = format::log_header_block(slot, state.header.generation + 1);
    if (all_zero(ByteView(blocks).subspan(other.offset(), format::block_size))) {
      first_error = Error{Errc::corrupt, absl::StrCat(to_string(other), " (empty)")};
    }
  }
  if (state.header.slot != slot) {
    co_return fail(Errc::corrupt, absl::StrCat("log of slot ", slot, " (says that it is of slot ",
                                               state.header.slot, ")"));
  }
  state.other_damaged = first_error.has_value();
  if (first_error) state.damage = first_error->message();
  co_return state;
}

Task<Result<LogContents>> read_log(disk::VirtualDisk& disk, std::uint32_t slot,
                                   std::uint64_t log_size, DamageCheck check,
                                   RecordVisitor visitor) {
  CO_TRY(const LogState state, co_await read_log_header(disk, slot));
  LogContents contents;
  contents.header = state.header;
  contents.end = state.header.start;
  contents.bytes_read = log_ring_start;
  if (state.header.generation != 0 && state.header.log_size != log_size) {
    co_return fail(Errc::corrupt,
                   absl::StrCat("log of slot ", slot, " (made with ", state.header.log_size,
                                " bytes, the store has logs of ", log_size, ")"));
  }
  // A log that was never used has no chunks: if it has, its header is lost.
  const bool in_use = state.header.state == format::LogState::in_use;
  if (!in_use && !state.other_damaged && state.header.generation > 0) co_return contents;

  const std::uint64_t ring = log_size - log_ring_start;
  // The last chunk that somebody may have written begins before the start, one round further.
  Window window(disk, slot, ring, state.header.start + ring + format::chunk_size_max);
  if (in_use) CO_TRY_STATUS(co_await visit_chain(window, contents, ring, visitor));
  if (check == DamageCheck::whole_ring) {
    CO_TRY_STATUS(co_await look_for_damage(window, contents, slot, ring));
  }
  contents.bytes_read += window.bytes_read();
  co_return contents;
}

Task<Result<std::optional<LogHeader>>> lost_first_header(disk::VirtualDisk& disk,
                                                         std::uint32_t slot, std::uint64_t log_size,
                                                         lock::LeaseNumber lease) {
  std::optional<LogHeader> header;
  CO_TRY(const LogState state, co_await read_log_header(disk, slot));
  if (!state.other_damaged || state.header.state == format::LogState::in_use) co_return header;
  const std::uint64_t start = state.header.start;
  Window window(disk, slot, log_size - log_ring_start, start + format::chunk_size_max);
  CO_TRY(const std::optional<Chunk> chunk, co_await chunk_at(window, slot, start));
  const std::uint64_t predecessor = format::first_predecessor(slot, raw(lease));
  if (!chunk || chunk->header.lease != raw(lease) || chunk->header.position != start ||
      chunk->header.first != 1 || chunk->header.predecessor != predecessor) {
    co_return header;
  }
  header = state.header;
  ++header->generation;
  header->state = format::LogState::in_use;
  header->lease = raw(lease);
  header->predecessor = predecessor;
  header->first = 1;
  header->log_size = log_size;
  header->durable = start;
  co_return header;
}

Task<Status> mark_empty(disk::VirtualDisk& disk, LogContents read, lock::LeaseNumber lease) {
  LogHeader header = read.header;
  CO_TRY(const LogState now, co_await read_log_header(disk, header.slot));
  if (now.header != header) {
    co_return fail(Errc::mismatch, absl::StrCat("log of slot ", header.slot));
  }
  if (header.state == format::LogState::empty) co_return Status{};
  ++header.generation;
  header.state = format::LogState::empty;
  header.start = read.end;
  header.first = 1;
  const disk::Address to =
      address(header.slot, format::log_header_block(header.slot, header.generation).offset());
  SharedBytes block(format::encode_log_header(header));
  co_return co_await disk.write(to, std::move(block), lease, disk::Durability::retain);
}

}  // namespace plumeria::wal
