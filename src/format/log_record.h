// One log record: an atomic metadata change, as a list of changes of single blocks
// (docs/format.md, "Log").
//
//   record  change...                          without a count: a record ends where its bytes end
//   change  0  u64 segment, 8 u64 number       the block
//          16  u64 version                     of the block after the change
//          24  u16 kind                        ChangeKind
//          26  u16 payload length, then the payload
//
// An image is the block in its on-disk form without its zero tail, its checksum field zero. It
// applies to whatever the block was. A delta is a list of {u16 offset, u16 length, bytes}; it
// applies only to the version right before its own, and never touches the version and the checksum
// (bytes 8 to 23): apply_change() sets the version, seal() the checksum.
//
// Ownership: Change borrows the record's bytes. Threads: any; values only.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "format/block.h"

namespace plumeria::format {

enum class ChangeKind : std::uint16_t { image = 1, delta = 2 };

constexpr std::size_t change_header_size = 28;
constexpr std::size_t change_size_max = change_header_size + block_size;

// What a record of `blocks` changes can need at most: for reservations.
constexpr std::uint64_t record_size_bound(std::uint64_t blocks) { return blocks * change_size_max; }

struct Change {
  BlockId block;
  std::uint64_t version = 0;  // after the change
  ChangeKind kind{};
  ByteView payload;
};

// Collects the changes of one transaction.
class RecordBuilder {
 public:
  // `block` has its new content and version; its checksum does not matter.
  void add_image(BlockId id, ByteView block);
  // The difference of the two; `after` has the version that follows that of `before` (a CHECK).
  // Becomes an image where that is shorter.
  void add_delta(BlockId id, ByteView before, ByteView after);

  std::size_t size() const { return bytes_.size(); }  // never above record_size_bound(changes)
  bool empty() const { return bytes_.empty(); }
  ByteView view() const { return bytes_; }
  // The record; the builder is empty again.
  Bytes take() { return std::exchange(bytes_, {}); }
  void clear() { bytes_.clear(); }  // keeps the memory

 private:
  std::size_t begin_change(BlockId id, std::uint64_t version, ChangeKind kind);
  void end_change(std::size_t at);

  Bytes bytes_;
};

// The changes of a record, each checked as far as that is possible without its block:
// apply_change() of them cannot reach beyond a block. Errc::corrupt says what is wrong with the
// record.
Result<std::vector<Change>> decode_record(ByteView record);

// The ranges that a delta replaces, in ascending order. They borrow from the change. Requires: a
// delta of decode_record().
struct DeltaRange {
  std::size_t offset = 0;  // in the block
  ByteView bytes;
};
std::vector<DeltaRange> delta_ranges(const Change& change);

// Makes `block` (block_size bytes) what it was after the change, but for its checksum. Requires: a
// change of decode_record(); for a delta, a block of the version before.
void apply_change(const Change& change, MutableByteView block);

}  // namespace plumeria::format
