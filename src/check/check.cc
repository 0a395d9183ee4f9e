#include "check/check.h"

#include <absl/strings/str_cat.h>

#include <algorithm>
#include <map>
#include <optional>
#include <utility>

#include "check/census.h"
#include "check/entry_checker.h"
#include "check/findings.h"
#include "check/store_reader.h"
#include "format/directory.h"
#include "format/layout.h"
#include "format/superblock.h"
#include "format/xattrs.h"
#include "lock/view.h"
#include "recovery/replay.h"
#include "wal/log_reader.h"

namespace plumeria::check {
namespace {

using format::BlockId;

class Checker {
 public:
  Checker(World world, disk::VirtualDisk& disk, Options options)
      : world_(world),
        disk_(disk),
        observer_(options.observer),
        findings_(report_, options.findings_max),
        census_(findings_) {}

  Task<Result<Report>> run() {
    CO_TRY_STATUS(co_await read_superblock());
    CO_TRY_STATUS(co_await read_logs());
    CO_TRY_STATUS(co_await count_blocks());
    CO_TRY_STATUS(co_await read_orphans());
    CO_TRY_STATUS(co_await read_xattrs());
    CO_TRY_STATUS(co_await walk_directories());
    CO_TRY_STATUS(co_await list_data_segments());
    census_.conclude();
    co_return std::move(report_);
  }

 private:
  void show_progress(std::string_view phase, std::uint64_t done) {
    if (observer_ != nullptr) observer_->progress(phase, done);
  }

  Task<Status> read_superblock() {
    const disk::Address where{disk::Segment{format::superblock_segment}, 0};
    CO_TRY(const Bytes block, co_await disk_.read(where, format::block_size));
    CO_TRY(superblock_, format::decode_superblock(block));
    co_return Status{};
  }

  Task<Status> read_logs() {
    StoreReader bare(world_, disk_, {});
    CO_TRY(const auto segments,
           co_await bare.segments(format::log_segment_base,
                                  format::log_segment_base + format::slot_limit));
    CO_TRY_STATUS(co_await read_view());
    std::vector<std::uint32_t> slots;
    for (const std::uint64_t segment : segments) {
      const auto slot = static_cast<std::uint32_t>(segment - format::log_segment_base);
      show_progress("logs", slot);
      auto log = co_await wal::read_log_header(disk_, slot);
      const bool damaged = !log || log->other_damaged;
      if (damaged && !is_owned(slot)) {
        // Nothing in it counts, but no crash leaves it like that.
        findings_.problem(log ? log->damage : log.error().message());
        continue;
      }
      if (!log) co_return fail(std::move(log).error());
      slots.push_back(slot);
      if (log->header.state != format::LogState::in_use) continue;
      ++report_.logs;
      check_log_owner(slot, log->header);
    }
    recovery::ReplayOptions options;
    options.log_size = superblock_.log_size;
    options.all_logs = true;
    CO_TRY(auto replayed, co_await recovery::preview(world_, disk_, slots, options));
    report_.replayed_blocks = replayed.size();
    reader_.emplace(world_, disk_, std::move(replayed));
    co_return Status{};
  }

  Task<Status> read_view() {
    CO_TRY(const disk::Register view, co_await disk_.read_register(lock::view_register));
    if (view.version == 0) co_return Status{};  // Never mounted.
    Result<lock::View> decoded = lock::decode_view(view.value);
    if (!decoded) co_return fail(std::move(decoded).error());
    view_ = *std::move(decoded);
    co_return Status{};
  }

  // Unless the slot of a log is that of a lease, all its records are in place.
  bool is_owned(std::uint32_t slot) const {
    if (!view_) return true;
    return std::any_of(view_->leases.begin(), view_->leases.end(),
                       [slot](const lock::LeaseRecord& lease) { return lease.slot == slot; });
  }

  // A log that is in use is replayed only if the view knows its owner, dead or alive.
  void check_log_owner(std::uint32_t slot, const format::LogHeader& header) {
    if (!view_) return;
    const lock::LeaseRecord* owner = view_->find(lock::LeaseNumber{header.lease});
    if (owner != nullptr && owner->slot == slot) return;
    findings_.problem(absl::StrCat("log of slot ", slot, " is in use by lease ", header.lease,
                                   ", which the lock service does not know"));
  }

  Task<Status> count_blocks() {
    auto add_piece = [this](BlockId id, ByteView block) {
      show_progress("allocation pieces", id.number);
      census_.add_piece(id, block);
    };
    CO_TRY_STATUS(co_await reader_->each_block(format::piece_segment, std::move(add_piece)));
    auto add_inode = [this](BlockId id, ByteView block) {
      show_progress("inodes", id.number);
      census_.add_inode(id, block);
    };
    CO_TRY_STATUS(co_await reader_->each_block(format::inode_segment, std::move(add_inode)));
    auto add_other = [this](BlockId id, ByteView block) {
      show_progress("directory blocks", id.number);
      census_.add_directory_block(id, block);
    };
    CO_TRY_STATUS(co_await reader_->each_block(format::directory_segment, std::move(add_other)));
    co_return Status{};
  }

  Task<Status> read_orphans() {
    const std::uint64_t base = format::orphan_segment_base;
    CO_TRY(const auto segments, co_await reader_->segments(base, base + format::slot_limit));
    for (const std::uint64_t segment : segments) {
      const auto slot = static_cast<std::uint32_t>(segment - base);
      auto visit = [this, slot](BlockId id, ByteView block) {
        census_.add_orphan_list(id, block, slot);
      };
      CO_TRY_STATUS(co_await reader_->each_block(segment, std::move(visit)));
    }
    co_return Status{};
  }

  Task<Status> read_xattrs() {
    constexpr std::size_t batch = 256;
    std::vector<const InodeInfo*> owners;
    for (const InodeInfo& inode : census_.inodes()) {
      if (inode.xattr_block == 0) continue;
      if (format::piece_of(format::Unit::directory_block, inode.xattr_block) <
          format::piece_limit) {
        owners.push_back(&inode);
      } else {
        findings_.problem(absl::StrCat("inode ", inode.number, " has block ", inode.xattr_block,
                                       " of extended attributes, which cannot be"));
      }
    }
    for (std::size_t at = 0; at < owners.size(); at += batch) {
      const std::size_t count = std::min(batch, owners.size() - at);
      std::vector<BlockId> ids;
      for (std::size_t i = at; i < at + count; ++i) {
        ids.push_back(format::directory_block(owners[i]->xattr_block));
      }
      CO_TRY(const auto blocks, co_await reader_->blocks(ids));
      for (std::size_t i = 0; i < count; ++i) {
        check_xattrs(owners[at + i]->number, ids[i], blocks[i]);
      }
    }
    co_return Status{};
  }

  void check_xattrs(std::uint64_t inode, BlockId id, ByteView block) {
    if (!census_.use_directory_block(id.number, inode)) return;
    Status status = format::verify(block, id);
    if (status) {
      Result<format::Xattrs> xattrs = format::decode_xattrs(block, id, inode);
      if (!xattrs) status = fail(std::move(xattrs).error());
    }
    if (!status) findings_.problem(status.error().message());
  }

  Task<Status> walk_directories() {
    EntryChecker checker(*reader_, census_, findings_, superblock_.hash_seed);
    std::uint64_t done = 0;
    for (const InodeInfo& inode : census_.inodes()) {
      if (!inode.is_directory()) continue;
      show_progress("directories", ++done);
      const DirectoryPlace place{inode.number, inode.directory_root, inode.directory_levels};
      CO_TRY_STATUS(co_await checker.check(place));
    }
    co_return Status{};
  }

  Task<Status> list_data_segments() {
    CO_TRY(const auto segments,
           co_await reader_->segments(format::data_segment_bit, ~std::uint64_t{0}));
    for (const std::uint64_t segment : segments) census_.see_segment(segment);
    co_return Status{};
  }

  World world_;
  disk::VirtualDisk& disk_;
  Observer* const observer_;
  Report report_;
  Findings findings_;
  Census census_;
  format::Superblock superblock_;
  std::optional<lock::View> view_;
  std::optional<StoreReader> reader_;
};

}  // namespace

Task<Result<Report>> run(World world, disk::VirtualDisk& disk, Options options) {
  Checker checker(world, disk, options);
  co_return co_await checker.run();
}

}  // namespace plumeria::check
