// The snapshots of a host store, as files (docs/format.md, "Snapshots").
//
// The segment files always hold the present. A snapshot keeps what they held before: the first
// change of a range after the newest snapshot copies it away first, durably; a segment that is
// discarded as a whole goes there as a file. So a snapshot costs nothing when it is made, and
// nothing when one reads the present.
//
//   snapshots/list          slot file: which there are
//   snapshots/ID/index      what is kept, a record for each range
//   snapshots/ID/data       its bytes
//   snapshots/ID/registers  as they were
//   snapshots/ID/segments/  segment files that were discarded as a whole since
//
// What a snapshot does not keep was not changed before the next newer one, and is to be found
// there, or at last in the present. So one that is deleted while there are older ones stays as a
// *rest*: it shows nothing, and gives its space back as far as the next older one has the same
// range.
//
// Invariants  The oldest is no rest. While anything is under way that changes the present, what it
//             changes is kept.
// Threads     SnapshotFiles is the executor's; what is marked "blocks" may run in the pool, one at
// a
//             time for each snapshot.
#pragma once

#include <absl/container/btree_map.h>
#include <absl/container/btree_set.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "disk/disk.h"
#include "os/kept_ranges.h"
#include "os/segment_files.h"
#include "os/slot_file.h"

namespace plumeria::os {

using Registers = std::map<std::string, disk::Register, std::less<>>;

struct KeptSnapshot {
  disk::SnapshotId id{};
  std::string name;
  WallTime created{};
  bool is_made = false;  // else a crash takes it back
  bool is_rest = false;  // it was deleted
  std::string folder;
  FileDescriptor index, data;
  std::uint64_t index_length = 0, data_length = 0;  // of what counts
  Registers registers;
  absl::btree_map<disk::Segment, KeptRanges> kept;
  absl::btree_set<disk::Segment> whole;  // a file in segments/ has what `kept` has not

  std::string whole_path(disk::Segment segment) const;
  std::vector<Range> gaps(disk::Segment segment, Range range) const;
};
using KeptSnapshotPointer = std::shared_ptr<KeptSnapshot>;

// A range of the present that is to be kept. Beyond `stored` there is nothing; then `file` may be
// null.
struct ToKeep {
  disk::Segment segment{};
  Range range;
  SegmentFilePointer file;
  std::uint64_t stored = 0;
};
struct NowKept {
  disk::Segment segment{};
  Range range;
  std::uint64_t place = 0;
};

// Copies all of it, durably. What fails is not kept. Blocks.
Result<std::vector<NowKept>> copy_away(KeptSnapshot& snapshot, const std::vector<ToKeep>& all);
// The files of a new snapshot, durably, but not in the list. Blocks.
Result<KeptSnapshotPointer> make_snapshot_files(const std::string& store, disk::SnapshotId id,
                                                std::string name, WallTime created,
                                                Registers registers);
void remove_snapshot_files(const KeptSnapshot& snapshot);  // Blocks.
// Bytes of the host's disk that its files take. Blocks.
std::uint64_t space_of(const KeptSnapshot& snapshot);

// What of a rest nobody needs.
struct Unneeded {
  KeptSnapshotPointer rest;
  std::vector<Range> of_data;
  std::vector<disk::Segment> whole;                             // files
  std::vector<std::pair<disk::Segment, Range>> parts_of_whole;  // holes to be made in files
};
void give_back(const Unneeded& unneeded);  // Blocks.

class SnapshotFiles {
 public:
  // Frees what a crash has left, unless read_only. Errc::corrupt names a file. Blocks.
  static Result<SnapshotFiles> open(std::string store, bool read_only, bool was_clean);

  bool any() const { return !chain_.empty(); }
  // With those that are deleted, from the oldest on.
  const std::vector<KeptSnapshotPointer>& chain() const { return chain_; }
  KeptSnapshotPointer find(disk::SnapshotId id) const;  // null: it was deleted, or never was
  const KeptSnapshotPointer& newest() const { return chain_.back(); }

  // Whether a change of the range has to wait until something is kept.
  bool needs(disk::Segment segment, Range range) const {
    return any() && !gaps(segment, range).empty();
  }
  std::vector<Range> gaps(disk::Segment segment, Range range) const;
  void kept(const std::vector<NowKept>& ranges);

  // Where the byte of a snapshot is, and all that follow it up to `end`.
  struct Source {
    enum class Kind : std::uint8_t { zeros, data, whole, present };
    Kind kind = Kind::zeros;
    KeptSnapshotPointer snapshot;  // of `data` and `whole`
    std::uint64_t place = 0;       // in that file
    std::uint64_t end = no_end;
    friend bool operator==(const Source&, const Source&) = default;
  };
  Source where(disk::SnapshotId id, disk::Segment segment, std::uint64_t offset) const;
  // Segments of which something is kept that a snapshot, or an older one, shows.
  absl::btree_set<disk::Segment> segments_since(disk::SnapshotId id) const;

  disk::SnapshotId take_id() { return disk::SnapshotId{next_id_++}; }
  void add(KeptSnapshotPointer snapshot) { chain_.push_back(std::move(snapshot)); }
  // The rests that no older snapshot needs; they are in the chain no more.
  std::vector<KeptSnapshotPointer> take_unneeded();
  std::vector<Unneeded> unneeded_parts() const;

  // To be written to the list, by write_list(), which blocks: also `added`, as the newest, and
  // `deleted` as a rest.
  Bytes encode_list(const KeptSnapshotPointer& added = {},
                    const KeptSnapshotPointer& deleted = {}) const;
  Status write_list(ByteView list);

 private:
  std::string folder_;
  std::optional<SlotFile> list_;  // none before the first snapshot
  std::uint64_t next_id_ = 1;
  std::vector<KeptSnapshotPointer> chain_;
};

}  // namespace plumeria::os
