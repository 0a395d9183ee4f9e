#include "check/block_writer.h"

#include <utility>

#include "base/check.h"
#include "format/log_record.h"

namespace plumeria::check {
namespace {

constexpr std::size_t changes_max = 60;  // in one record
static_assert(format::record_size_bound(changes_max) <= wal::record_size_max);

}  // namespace

Status BlockWriter::go_on() const {
  if (observer_ != nullptr && observer_->wants_end()) return fail(Errc::interrupted);
  return {};
}

Task<Status> BlockWriter::write(format::BlockId id, Bytes block) {
  format::seal(block, id);
  SharedBytes bytes(std::move(block));
  const disk::Address to{disk::Segment{id.segment}, id.offset()};
  CO_TRY_STATUS(co_await disk_.write(to, std::move(bytes), lease_, disk::Durability::retain));
  ++written_;
  unflushed_ = true;
  co_return Status{};
}

Task<Status> BlockWriter::change(format::BlockId id, Bytes block) {
  format::set_version(block, format::version_of(block) + 1);
  const bool is_new = changes_.emplace(id, std::move(block)).second;
  CHECK(is_new);
  if (changes_.size() < changes_max) co_return Status{};
  co_return co_await commit();
}

Task<Status> BlockWriter::replace(format::BlockId id, Bytes block) {
  CO_TRY_STATUS(go_on());
  co_return co_await write(id, std::move(block));
}

Task<Status> BlockWriter::discard(std::uint64_t segment) {
  CO_TRY_STATUS(go_on());
  const disk::Address whole{disk::Segment{segment}, 0};
  CO_TRY_STATUS(co_await disk_.discard(whole, ~std::uint64_t{0}, lease_));
  unflushed_ = true;
  co_return Status{};
}

Task<Status> BlockWriter::commit() {
  CO_TRY_STATUS(go_on());
  // What was written directly must not be less durable than a record that builds on it.
  if (unflushed_) CO_TRY_STATUS(co_await disk_.flush());
  format::RecordBuilder record;
  for (const auto& [id, block] : changes_) record.add_image(id, block);
  CO_TRY(wal::Reservation reservation, co_await log_.reserve(record.size()));
  CO_TRY(const wal::LogPosition position, log_.append(record.view(), reservation));
  CO_TRY_STATUS(co_await log_.sync(position));
  std::map<format::BlockId, Bytes> changes = std::exchange(changes_, {});
  for (auto& [id, block] : changes) CO_TRY_STATUS(co_await write(id, std::move(block)));
  CO_TRY_STATUS(co_await disk_.flush());
  unflushed_ = false;
  co_return co_await log_.trim(position);
}

Task<Status> BlockWriter::settle() {
  if (!changes_.empty()) CO_TRY_STATUS(co_await commit());
  if (unflushed_) CO_TRY_STATUS(co_await disk_.flush());
  unflushed_ = false;
  co_return Status{};
}

}  // namespace plumeria::check
