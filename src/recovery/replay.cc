#include "recovery/replay.h"

#include <absl/strings/str_cat.h>

#include <algorithm>
#include <map>
#include <optional>
#include <tuple>
#include <utility>

#include "base/async.h"
#include "base/check.h"
#include "base/fault.h"
#include "base/rare.h"
#include "format/block.h"
#include "format/log_record.h"
#include "wal/log_reader.h"

namespace plumeria::recovery {
namespace {

using format::BlockId;
using format::Change;
using format::ChangeKind;

constexpr std::size_t batches_in_flight = 8;
constexpr std::uint64_t batch_blocks_max = 64;
constexpr std::uint64_t batch_gap_max = 4;  // blocks worth reading to save a round trip

struct LoggedChange {
  Change change;
  std::uint32_t slot = 0;
};

// The changes of one block, in version order.
struct BlockChanges {
  BlockId id;
  std::span<const LoggedChange> changes;
};

// Blocks that lie close together: read at once.
struct Batch {
  std::span<const BlockChanges> blocks;
  std::uint64_t first() const { return blocks.front().id.number; }
  std::uint64_t count() const { return blocks.back().id.number - first() + 1; }
};

Error damaged(std::string what) { return Error{Errc::corrupt, std::move(what)}; }

disk::Address address_of(BlockId id) { return {disk::Segment{id.segment}, id.offset()}; }

// The last image, or nothing.
const LoggedChange* last_image(std::span<const LoggedChange> changes) {
  for (auto at = changes.rbegin(); at != changes.rend(); ++at) {
    if (at->change.kind == ChangeKind::image) return &*at;
  }
  return nullptr;
}

// May this block, which does not decode, have been torn while one of these changes was written in
// place? Its first 512 bytes are then those of a version that the log knows, or of an older one.
bool can_be_torn(ByteView block, std::span<const LoggedChange> changes) {
  return load<std::uint32_t>(block.data()) != format::block_magic ||
         format::version_of(block) <= changes.back().change.version;
}

// What of `changes` has to be applied to the block as it is on the disk.
Result<std::span<const LoggedChange>> needed_changes(ByteView block, BlockId id,
                                                     const ReplayOptions& options,
                                                     std::span<const LoggedChange> changes) {
  if (planted(Fault::replay_without_version_check)) return changes;
  const Status readable = format::verify(block, id);
  std::span<const LoggedChange> needed = changes;
  if (readable) {
    const std::uint64_t version = format::version_of(block);
    while (!needed.empty() && needed.front().change.version <= version) needed = needed.subspan(1);
    if (needed.empty()) rarely<"replay: a block is newer than all records of it">();
  }
  const LoggedChange* image = last_image(needed);
  const bool may_be_torn = options.all_logs && (options.salvage || can_be_torn(block, changes));
  if (!readable && (image == nullptr || !may_be_torn)) return fail(readable.error());
  if (!readable) rarely<"replay: a torn block is replaced by an image">();
  if (readable && image == nullptr && !needed.empty()) {
    rarely<"replay: deltas apply to the block on the disk">();
  }
  if (image != nullptr) needed = needed.subspan(image - needed.data());
  return needed;
}

Status apply_in_order(MutableByteView block, BlockId id, std::span<const LoggedChange> changes) {
  for (const LoggedChange& logged : changes) {
    const Change& change = logged.change;
    if (change.kind == ChangeKind::delta && change.version != format::version_of(block) + 1 &&
        !planted(Fault::replay_without_version_check)) {
      return fail(damaged(absl::StrCat(
          format::to_string(id), " (the log of slot ", logged.slot, " goes on with version ",
          change.version, ", but the block has version ", format::version_of(block), ")")));
    }
    format::apply_change(change, block);
  }
  if (load<std::uint32_t>(block.data()) != format::block_magic) {
    return fail(damaged(absl::StrCat(format::to_string(id), " (no block after replay of slot ",
                                     changes.back().slot, ")")));
  }
  format::seal(block, id);
  return {};
}

class Replayer {
 public:
  Replayer(World world, disk::VirtualDisk& disk, ReplayOptions options)
      : world_(world), disk_(disk), options_(std::move(options)) {}

  Task<Result<ReplayReport>> run(std::vector<std::uint32_t> slots) {
    const TimePoint begin = world_.clock.now();
    CO_TRY_STATUS(co_await bring_up(std::move(slots)));
    CO_TRY_STATUS(co_await disk_.flush());
    CO_TRY_STATUS(co_await trim());
    report_.took = world_.clock.now() - begin;
    co_return report_;
  }

  Task<Result<std::map<BlockId, Bytes>>> preview(std::vector<std::uint32_t> slots) {
    only_look_ = true;
    CO_TRY_STATUS(co_await bring_up(std::move(slots)));
    co_return std::move(seen_);
  }

 private:
  Task<Status> bring_up(std::vector<std::uint32_t> slots) {
    std::sort(slots.begin(), slots.end());
    slots.erase(std::unique(slots.begin(), slots.end()), slots.end());
    for (const std::uint32_t slot : slots) {
      const Status read = co_await read_log(slot);
      if (read) continue;
      if (!options_.salvage || read.error().code != Errc::corrupt) co_return read;
      report_.given_up.push_back(read.error().message());
      report_.damaged_logs.push_back(slot);
    }
    CO_TRY_STATUS(merge());
    // What was read may not be durable yet: its writer died before his flush. A block in place
    // whose record a power cut takes back would be the half of a change.
    if (!only_look_ && !changes_.empty()) CO_TRY_STATUS(co_await disk_.flush());
    co_return co_await replay_batches();
  }

  Task<Status> read_log(std::uint32_t slot) {
    auto visitor = [this, slot](const wal::LogRecord& record) { return collect(slot, record); };
    CO_TRY(wal::LogContents log,
           co_await wal::read_log(disk_, slot, options_.log_size, wal::DamageCheck::whole_ring,
                                  std::move(visitor)));
    ++report_.logs;
    report_.records += log.records;
    report_.bytes_read += log.bytes_read;
    logs_.emplace(slot, log);
    co_return Status{};
  }

  Status collect(std::uint32_t slot, const wal::LogRecord& record) {
    auto changes = format::decode_record(record.bytes);
    if (!changes) {
      return fail(damaged(absl::StrCat("log of slot ", slot, ", record ", raw(record.number), " (",
                                       changes.error().what, ")")));
    }
    for (const Change& change : *changes) changes_.push_back(LoggedChange{change, slot});
    if (memory_.empty() || memory_.back().view().data() != record.memory.view().data()) {
      memory_.push_back(record.memory);
    }
    return {};
  }

  // Sorts by block and version, and cuts into blocks and batches.
  Status merge() {
    report_.changes = changes_.size();
    std::sort(changes_.begin(), changes_.end(), [](const auto& a, const auto& b) {
      return std::tie(a.change.block, a.change.version, a.slot) <
             std::tie(b.change.block, b.change.version, b.slot);
    });
    for (std::size_t i = 0; i + 1 < changes_.size();) {
      const LoggedChange &a = changes_[i], &b = changes_[i + 1];
      if (a.change.block != b.change.block || a.change.version != b.change.version) {
        ++i;
        continue;
      }
      Error twice = damaged(absl::StrCat(format::to_string(a.change.block), " (version ",
                                         a.change.version, " is in the log of slot ", a.slot,
                                         " and again in that of slot ", b.slot, ")"));
      if (!options_.salvage) return fail(std::move(twice));
      report_.given_up.push_back(twice.message());
      changes_.erase(changes_.begin() + static_cast<std::ptrdiff_t>(i) + 1);
    }
    for (std::size_t from = 0, to; from < changes_.size(); from = to) {
      to = from + 1;
      const BlockId id = changes_[from].change.block;
      while (to < changes_.size() && changes_[to].change.block == id) ++to;
      blocks_.push_back(BlockChanges{id, std::span(changes_).subspan(from, to - from)});
    }
    for (std::size_t from = 0, to; from < blocks_.size(); from = to) {
      to = from + 1;
      const BlockId first = blocks_[from].id;
      while (to < blocks_.size() && blocks_[to].id.segment == first.segment &&
             blocks_[to].id.number - blocks_[to - 1].id.number <= batch_gap_max &&
             blocks_[to].id.number - first.number < batch_blocks_max) {
        ++to;
      }
      batches_.push_back(Batch{std::span(blocks_).subspan(from, to - from)});
    }
    return {};
  }

  Task<Status> replay_batches() {
    std::vector<Task<Status>> workers;
    for (std::size_t i = 0; i < std::min(batches_in_flight, batches_.size()); ++i) {
      workers.push_back(work());
    }
    (void)co_await gather(world_.executor, std::move(workers));
    for (const auto& [id, error] : errors_) {
      if (!options_.salvage || error.code != Errc::corrupt) co_return fail(error);
      report_.given_up.push_back(error.message());
      report_.damaged_blocks.push_back(id);
    }
    co_return Status{};
  }

  // Takes one batch after the other. A damaged block does not keep the others from being replayed.
  Task<Status> work() {
    while (next_batch_ < batches_.size()) {
      const Batch batch = batches_[next_batch_++];
      const Status status = co_await replay_batch(batch);
      if (!status) note_error(batch.blocks.front().id, status.error());
    }
    co_return Status{};
  }

  Task<Status> replay_batch(Batch batch) {
    CO_TRY(Bytes bytes, co_await disk_.read(address_of(batch.blocks.front().id),
                                            batch.count() * format::block_size));
    report_.bytes_read += bytes.size();
    std::vector<std::uint64_t> changed;  // block numbers, ascending
    for (const BlockChanges& block : batch.blocks) {
      const std::uint64_t at = (block.id.number - batch.first()) * format::block_size;
      const MutableByteView place = MutableByteView(bytes).subspan(at, format::block_size);
      const auto written = bring_up_to_date(place, block);
      if (!written) {
        note_error(block.id, written.error());
      } else if (*written && only_look_) {
        seen_.emplace(block.id, to_bytes(place));
      } else if (*written) {
        changed.push_back(block.id.number);
      }
    }
    CO_TRY_STATUS(co_await write_back(batch, SharedBytes(std::move(bytes)), std::move(changed)));
    co_return Status{};
  }

  // Whether the block has changed and is sealed.
  Result<bool> bring_up_to_date(MutableByteView block, const BlockChanges& changes) {
    TRY(const auto needed, needed_changes(block, changes.id, options_, changes.changes));
    if (needed.empty()) return false;
    TRY_STATUS(apply_in_order(block, changes.id, needed));
    return true;
  }

  // One write for each run of changed blocks. They are protected by the log, which is trimmed only
  // after the flush; sending them again after that could overwrite what a later owner wrote.
  Task<Status> write_back(Batch batch, SharedBytes bytes, std::vector<std::uint64_t> changed) {
    for (std::size_t from = 0, to; from < changed.size(); from = to) {
      to = from + 1;
      while (to < changed.size() && changed[to] == changed[to - 1] + 1) ++to;
      const BlockId first{batch.blocks.front().id.segment, changed[from]};
      const SharedBytes run = bytes.slice((first.number - batch.first()) * format::block_size,
                                          (to - from) * format::block_size);
      CO_TRY_STATUS(
          co_await disk_.write(address_of(first), run, options_.lease, disk::Durability::logged));
      report_.blocks_written += to - from;
    }
    co_return Status{};
  }

  Task<Status> trim() {
    for (const std::uint32_t slot : options_.trim) {
      const auto log = logs_.find(slot);
      if (log == logs_.end() && options_.salvage) continue;  // damaged
      CHECK(log != logs_.end());
      CO_TRY_STATUS(co_await wal::mark_empty(disk_, log->second, options_.lease));
    }
    co_return co_await disk_.flush();
  }

  void note_error(BlockId id, const Error& error) { errors_.emplace(id, error); }

  World world_;
  disk::VirtualDisk& disk_;
  const ReplayOptions options_;
  ReplayReport report_;
  std::map<std::uint32_t, wal::LogContents> logs_;
  std::vector<SharedBytes> memory_;  // what the changes point into
  std::vector<LoggedChange> changes_;
  std::vector<BlockChanges> blocks_;
  std::vector<Batch> batches_;
  std::size_t next_batch_ = 0;
  bool only_look_ = false;
  std::map<BlockId, Bytes> seen_;
  std::map<BlockId, Error> errors_;  // the first one is reported, whatever the order of I/O was
};

}  // namespace

Task<Result<ReplayReport>> replay(World world, disk::VirtualDisk& disk,
                                  std::vector<std::uint32_t> slots, ReplayOptions options) {
  Replayer replayer(world, disk, std::move(options));
  co_return co_await replayer.run(std::move(slots));
}

Task<Result<std::map<BlockId, Bytes>>> preview(World world, disk::VirtualDisk& disk,
                                               std::vector<std::uint32_t> slots,
                                               ReplayOptions options) {
  Replayer replayer(world, disk, std::move(options));
  co_return co_await replayer.preview(std::move(slots));
}

}  // namespace plumeria::recovery
