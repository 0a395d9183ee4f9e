#include "check/sole_owner.h"

#include <absl/strings/str_cat.h>

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/number.h"
#include "check/flipped_bit.h"
#include "check/store_reader.h"
#include "format/layout.h"
#include "lock/server_end.h"
#include "recovery/replay.h"
#include "wal/log_reader.h"

namespace plumeria::check {
namespace {

using format::BlockId;
using lock::LeaseRecord;
using lock::LeaseState;

disk::Address address_of(BlockId id) { return {disk::Segment{id.segment}, id.offset()}; }

}  // namespace

// ---- Lease ----

Task<Status> SoleOwner::write_view() {
  Bytes bytes = lock::encode_view(view_);
  CO_TRY(view_version_, co_await disk_.write_register(lock::view_register, view_version_,
                                                      std::move(bytes), lease_));
  co_return Status{};
}

Task<Status> SoleOwner::mark(bool open) {
  Bytes bytes = lock::encode_server_end(open ? lock::ServerEnd::open : lock::ServerEnd::closed);
  CO_TRY(end_version_, co_await disk_.write_register(lock::server_end_register, end_version_,
                                                     std::move(bytes), lease_));
  co_return Status{};
}

Task<Status> SoleOwner::claim() {
  CO_TRY(const disk::Register view, co_await disk_.read_register(lock::view_register));
  CO_TRY(const disk::Register end, co_await disk_.read_register(lock::server_end_register));
  view_version_ = view.version;
  end_version_ = end.version;
  if (view.version > 0) {
    CO_TRY(view_, lock::decode_view(view.value));
  }
  view_.epoch = lock::Epoch{raw(view_.epoch) + 1};
  std::vector<lock::LeaseNumber> others;
  for (LeaseRecord& record : view_.leases) {
    others.push_back(record.lease);
    if (record.state == LeaseState::live && !record.is_server && !record.in_process) {
      account_.lost(absl::StrCat("lease ", raw(record.lease), " of mount ", record.label,
                                 " is ended, with what that mount has not written yet"));
    }
    if (record.state == LeaseState::live) record.state = LeaseState::expired;
  }
  // Without a slot yet: as a lock server's, which the next one forgets.
  LeaseRecord self;
  self.is_server = true;
  self.label = "fsck --repair";
  lease_ = view_.add(self).lease;
  CO_TRY_STATUS(co_await disk_.admit(lease_));
  CO_TRY_STATUS(co_await write_view());
  for (const lock::LeaseNumber other : others) CO_TRY_STATUS(co_await disk_.fence(other));
  co_return co_await mark(/*open=*/true);
}

const LeaseRecord* SoleOwner::owner_of(std::uint32_t slot) const {
  const auto found = std::find_if(view_.leases.begin(), view_.leases.end(),
                                  [slot](const LeaseRecord& r) { return r.slot == slot; });
  return found == view_.leases.end() ? nullptr : &*found;
}

Task<Status> SoleOwner::leave() {
  CO_TRY_STATUS(co_await log_->finish());
  CO_TRY_STATUS(co_await disk_.flush());
  CO_TRY_STATUS(co_await mark(/*open=*/false));
  view_.remove(lease_);
  CO_TRY_STATUS(co_await write_view());
  co_return co_await disk_.fence(lease_);
}

Task<void> SoleOwner::settled() {
  if (log_) co_await log_->settled();
}

// ---- Logs ----

Task<Result<bool>> SoleOwner::put_flipped_bit_right(BlockId id) {
  CO_TRY(const Bytes block, co_await disk_.read(address_of(id), format::block_size));
  if (format::verify(block, id)) co_return false;
  std::optional<Bytes> whole = without_flipped_bit(block, id);
  if (!whole) co_return false;
  account_.repaired(absl::StrCat(to_string(id), ": one bit was wrong"));
  SharedBytes bytes(*std::move(whole));
  CO_TRY_STATUS(
      co_await disk_.write(address_of(id), std::move(bytes), lease_, disk::Durability::retain));
  CO_TRY_STATUS(co_await disk_.flush());
  co_return true;
}

// As far as that is possible.
Task<Status> SoleOwner::put_headers_right(std::uint32_t slot, std::uint64_t log_size) {
  for (std::uint64_t i = 0; i < format::log_header_blocks; ++i) {
    const BlockId header = format::log_header_block(slot, i);
    CO_TRY_STATUS(co_await put_flipped_bit_right(header));
  }
  const LeaseRecord* owner = owner_of(slot);
  if (owner == nullptr) co_return Status{};
  const auto lost = co_await wal::lost_first_header(disk_, slot, log_size, owner->lease);
  if (!lost && lost.error().code != Errc::corrupt) co_return fail(lost.error());
  if (!lost || !*lost) co_return Status{};
  const BlockId id = format::log_header_block(slot, (*lost)->generation);
  account_.repaired(absl::StrCat(to_string(id), ": written again, as its first chunk tells it"));
  SharedBytes block(format::encode_log_header(**lost));
  CO_TRY_STATUS(
      co_await disk_.write(address_of(id), std::move(block), lease_, disk::Durability::retain));
  co_return co_await disk_.flush();
}

// Without those in which, damaged as they are, nothing counts.
Task<Result<std::vector<std::uint32_t>>> SoleOwner::logs_that_count(
    const std::vector<std::uint32_t>& slots, std::uint64_t log_size) {
  std::vector<std::uint32_t> counting;
  for (const std::uint32_t slot : slots) {
    CO_TRY_STATUS(co_await put_headers_right(slot, log_size));
    auto log = co_await wal::read_log_header(disk_, slot);
    if (!log && log.error().code != Errc::corrupt) co_return fail(std::move(log).error());
    const LeaseRecord* owner = owner_of(slot);
    if (owner == nullptr && (!log || log->other_damaged)) {
      account_.repaired(absl::StrCat(log ? log->damage : log.error().message(),
                                     ": emptied; nothing in it counted"));
      damaged_logs_.push_back(slot);
      continue;
    }
    counting.push_back(slot);
    if (!log || log->header.state != format::LogState::in_use) continue;
    if (owner == nullptr || raw(owner->lease) != log->header.lease) {
      account_.repaired(absl::StrCat("log of slot ", slot, " was in use by lease ",
                                     log->header.lease,
                                     ", which the lock service does not know: replayed"));
    }
  }
  co_return counting;
}

Task<Status> SoleOwner::replay(std::vector<std::uint32_t> slots, std::uint64_t log_size) {
  recovery::ReplayOptions options;
  options.log_size = log_size;
  options.lease = lease_;
  options.all_logs = true;
  options.salvage = true;
  CO_TRY(const recovery::ReplayReport first,
         co_await recovery::replay(world_, disk_, slots, options));
  for (const BlockId id : first.damaged_blocks) CO_TRY_STATUS(co_await put_flipped_bit_right(id));
  options.trim = slots;
  CO_TRY(const recovery::ReplayReport second,
         co_await recovery::replay(world_, disk_, slots, options));
  replayed_blocks_ = first.blocks_written + second.blocks_written;
  damaged_logs_.insert(damaged_logs_.end(), second.damaged_logs.begin(), second.damaged_logs.end());
  for (const std::string& what : second.given_up) {
    account_.lost(absl::StrCat(what, ": what the logs have of it after that is given up"));
  }
  co_return Status{};
}

// Nothing in them counts any more. A log of which nothing was ever written is a good one.
Task<Status> SoleOwner::discard_damaged(const std::vector<std::uint32_t>& slots) {
  for (const std::uint32_t slot : slots) {
    const auto log = co_await wal::read_log_header(disk_, slot);
    const bool told =
        std::find(damaged_logs_.begin(), damaged_logs_.end(), slot) != damaged_logs_.end();
    if (log && !log->other_damaged && !told) continue;
    const disk::Address whole{disk::Segment{format::log_segment(slot)}, 0};
    CO_TRY_STATUS(co_await disk_.discard(whole, ~std::uint64_t{0}, lease_));
  }
  co_return co_await disk_.flush();
}

Task<Status> SoleOwner::take_over_logs(std::uint64_t log_size) {
  StoreReader reader(world_, disk_, {});
  CO_TRY(const auto segments,
         co_await reader.segments(format::log_segment_base,
                                  format::log_segment_base + format::slot_limit));
  std::vector<std::uint32_t> slots;
  for (const std::uint64_t segment : segments) {
    slots.push_back(static_cast<std::uint32_t>(segment - format::log_segment_base));
  }
  CO_TRY(std::vector<std::uint32_t> counting, co_await logs_that_count(slots, log_size));
  CO_TRY_STATUS(co_await replay(std::move(counting), log_size));
  CO_TRY_STATUS(co_await discard_damaged(slots));
  // All is in place: the leases are over, and ours gets a slot that a crash makes others replay.
  std::erase_if(view_.leases, [this](const LeaseRecord& r) { return r.lease != lease_; });
  LeaseRecord* self = view_.find(lease_);
  CHECK(self != nullptr);
  self->is_server = false;
  self->in_process = true;
  self->slot = 0;
  CO_TRY_STATUS(co_await write_view());
  log_.emplace(world_, disk_, self->slot, log_size, lease_);
  co_return co_await log_->start();
}

}  // namespace plumeria::check
