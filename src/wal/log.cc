#include "wal/log.h"

#include <absl/strings/str_cat.h>

#include <algorithm>
#include <deque>
#include <optional>
#include <utility>
#include <vector>

#include "base/async.h"
#include "base/check.h"
#include "base/log.h"
#include "base/rare.h"
#include "format/log_chunk.h"
#include "wal/log_reader.h"

namespace plumeria::wal {
namespace {

using format::ChunkBuilder;
using format::ChunkHeader;
using format::log_ring_start;
using format::LogHeader;

// So long after the last round a header tells how far the log is durable.
constexpr Duration witness_after = 10ms;

// Kept for giving up locks: several records even of the smallest log, no waste of a large one.
std::uint64_t revoke_reserve(std::uint64_t ring) {
  return std::min<std::uint64_t>(ring / 4, 4u << 20);
}

// A chunk whose place and checksum are settled: written, or being written.
struct Chunk {
  std::uint64_t end = 0;
  LogPosition last{};
  std::uint64_t checksum = 0;
};

struct RoomWaiter {
  Promise<Status> granted;
  std::uint64_t bytes;
};

}  // namespace

struct Log::State : std::enable_shared_from_this<State> {
  State(World w, disk::VirtualDisk& d, std::uint32_t s, std::uint64_t log_size, lock::LeaseNumber l,
        double above)
      : world(w), disk(d), slot(s), ring(log_size - log_ring_start), lease(l), trim_above(above) {
    header.slot = s;
    header.log_size = log_size;
  }

  // Room.
  std::uint64_t used() const { return closed_end + pending_size - header.start; }
  std::uint64_t limit(bool for_revoke) const {
    return for_revoke ? ring : ring - revoke_reserve(ring);
  }
  bool has_room(std::uint64_t bytes, bool for_revoke) const {
    return used() + reserved + bytes <= limit(for_revoke);
  }
  double pressure() const {
    return std::min(1.0, static_cast<double>(used() + reserved) /
                             static_cast<double>(limit(/*for_revoke=*/false)));
  }
  bool is_scarce() const { return pressure() > trim_above; }
  Task<Status> wait_for_room(std::uint64_t bytes, bool for_revoke);
  void admit();
  void give_back(std::uint64_t bytes);
  void usage_grew();
  void post_pressure();

  // Rounds.
  Task<Status> join(LogPosition last, bool next_round);
  void want_round();
  Task<void> pump();
  Task<void> round();
  void witness_later();
  Task<void> witness();
  SharedBytes close_chunk(ChunkBuilder builder);
  void put_writes(std::vector<Task<Status>>& writes);
  Task<Status> write_and_flush();
  void seal(Error error);

  Task<Status> take_over();
  void trim(LogPosition last);

  World world;
  disk::VirtualDisk& disk;
  const std::uint32_t slot;
  const std::uint64_t ring;
  const lock::LeaseNumber lease;
  const double trim_above;

  std::optional<Error> sealed;
  LogHeader header;       // the newest durable one; what is before its start may be overwritten
  LogHeader next_header;  // what the next round writes, if its start is later
  bool finishing = false;

  std::deque<Chunk> chunks;  // not trimmed, oldest first
  std::uint64_t closed_end = 0;
  std::uint64_t last_checksum = 0;   // of the last chunk in `chunks`, or of what was before it
  LogPosition closed{};              // last record in `chunks`
  std::deque<ChunkBuilder> pending;  // the last one takes the next record
  std::uint64_t pending_size = 0;
  std::uint64_t durable_end = 0;
  LogPosition end{}, durable{}, trimmed{};

  std::uint64_t reserved = 0;
  std::deque<RoomWaiter> revoke_waiters, waiters;

  bool pumping = false;
  bool header_wanted = false;
  std::uint64_t witnessed = 0;  // the highest durable end that a header on the disk tells
  bool joinable = false;        // the round has not begun to flush
  std::vector<Promise<Status>> joined, joining_next;
  TaskScope scope;

  Callback pressure_callback;
  bool pressure_posted = false;
  bool was_scarce = false;
  std::uint64_t syncs = 0, bytes_written = 0;
};

// ---- Room ----

Task<Status> Log::State::wait_for_room(std::uint64_t bytes, bool for_revoke) {
  auto& queue = for_revoke ? revoke_waiters : waiters;
  if (queue.empty() && has_room(bytes, for_revoke)) {
    reserved += bytes;
    usage_grew();
    co_return Status{};
  }
  Promise<Status> granted(world.executor);
  rarely<"log: an operation waits for room">();
  queue.push_back(RoomWaiter{granted, bytes});
  if (next_header.start > header.start) {
    header_wanted = true;
    want_round();
  }
  post_pressure();
  co_return co_await granted.future();
}

void Log::State::admit() {
  const auto admit_from = [this](std::deque<RoomWaiter>& queue, bool for_revoke) {
    while (!queue.empty() && has_room(queue.front().bytes, for_revoke)) {
      reserved += queue.front().bytes;
      queue.front().granted.set(Status{});
      queue.pop_front();
    }
  };
  admit_from(revoke_waiters, true);
  admit_from(waiters, false);
}

void Log::State::give_back(std::uint64_t bytes) {
  CHECK(bytes <= reserved);
  reserved -= bytes;
  if (!sealed) admit();
  was_scarce = is_scarce();
}

void Log::State::usage_grew() {
  if (is_scarce() && !was_scarce) post_pressure();
  was_scarce = is_scarce();
}

void Log::State::post_pressure() {
  if (!pressure_callback || pressure_posted) return;
  pressure_posted = true;
  world.executor.post([weak = weak_from_this()] {
    const std::shared_ptr<State> state = weak.lock();
    if (state == nullptr) return;
    state->pressure_posted = false;
    if (!state->sealed) state->pressure_callback();
  });
}

// ---- Rounds ----

Task<Status> Log::State::join(LogPosition last, bool next_round) {
  if (sealed) co_return fail(*sealed);
  Promise<Status> done(world.executor);
  if (joinable && last <= closed && !next_round) {
    joined.push_back(done);
  } else {
    joining_next.push_back(done);
    want_round();
  }
  co_return co_await done.future();
}

void Log::State::want_round() {
  if (pumping || sealed) return;
  pumping = true;
  scope.spawn(pump());
}

Task<void> Log::State::pump() {
  while (!sealed && (!joining_next.empty() || header_wanted)) {
    co_await yield_to(world.executor);  // Who is about to sync or append shares the round.
    if (!sealed) co_await round();
  }
  pumping = false;
  witness_later();
}

void Log::State::witness_later() {
  if (sealed || witnessed >= durable_end) return;
  const std::uint64_t round_before = syncs;
  world.executor.at(world.clock.now() + witness_after, [weak = weak_from_this(), round_before] {
    const std::shared_ptr<State> state = weak.lock();
    if (state == nullptr || state->sealed || state->pumping || state->syncs != round_before) return;
    state->pumping = true;
    state->scope.spawn(state->witness());
  });
}

// Each chunk vouches for those before it; for the last one, once nothing follows, a header does.
// Nobody waits for it: the next flush covers it. It goes to the place of the next header, so the
// one that counts stays, and that place is free as long as the next one is not durable.
Task<void> Log::State::witness() {
  LogHeader written = header;
  written.generation = header.generation + 1;
  written.durable = durable_end;
  const disk::Address to{disk::Segment{format::log_segment(slot)},
                         format::log_header_block(slot, written.generation).offset()};
  SharedBytes block(format::encode_log_header(written));
  bytes_written += block.size();
  const Status status = co_await disk.write(to, std::move(block), lease, disk::Durability::retain);
  if (!status) seal(status.error());
  witnessed = written.durable;
  co_await pump();  // What has been asked for meanwhile.
}

Task<void> Log::State::round() {
  joined = std::exchange(joining_next, {});
  header_wanted = false;
  const Status status = co_await write_and_flush();
  joinable = false;
  if (!status) {
    seal(status.error());
    co_return;
  }
  ++syncs;
  for (const Promise<Status>& done : std::exchange(joined, {})) done.set(Status{});
  admit();
  was_scarce = is_scarce();
  if (!waiters.empty() || !revoke_waiters.empty()) {
    // What was trimmed while this round was under way can help them already.
    if (next_header.start > header.start) header_wanted = true;
    post_pressure();
  }
}

SharedBytes Log::State::close_chunk(ChunkBuilder builder) {
  ChunkHeader chunk;
  chunk.lease = raw(lease);
  chunk.slot = slot;
  chunk.position = closed_end;
  chunk.durable = durable_end;
  chunk.first = raw(next(closed));
  chunk.predecessor = last_checksum;
  SharedBytes bytes(std::move(builder).finish(chunk));
  closed_end = chunk.end();
  pending_size -= chunk.size();
  last_checksum = chunk.checksum;
  closed = LogPosition{chunk.last};
  chunks.push_back(Chunk{closed_end, closed, last_checksum});
  return bytes;
}

// Closes what is pending and appends its writes: one for a chunk, two where the ring ends in it.
void Log::State::put_writes(std::vector<Task<Status>>& writes) {
  const disk::Segment segment{format::log_segment(slot)};
  for (ChunkBuilder& builder : pending) {
    const std::uint64_t place = closed_end % ring;
    const SharedBytes chunk = close_chunk(std::move(builder));
    const std::uint64_t head = std::min<std::uint64_t>(chunk.size(), ring - place);
    const disk::Address to{segment, log_ring_start + place};
    writes.push_back(disk.write(to, chunk.slice(0, head), lease, disk::Durability::retain));
    if (head < chunk.size()) {
      rarely<"log: a chunk goes round the end of the ring">();
      const disk::Address start{segment, log_ring_start};
      writes.push_back(disk.write(start, chunk.slice(head, chunk.size() - head), lease,
                                  disk::Durability::retain));
    }
    bytes_written += chunk.size();
  }
  pending.clear();
}

Task<Status> Log::State::write_and_flush() {
  std::vector<Task<Status>> writes;
  put_writes(writes);
  LogHeader written = header;
  if (finishing || next_header.start > header.start) {
    // The older of the two header blocks: the newer one stays good until this one is durable.
    rarely<"log: its start moves on">();
    written = next_header;
    written.generation = header.generation + 1;
    written.durable = durable_end;
    const disk::Address to{disk::Segment{format::log_segment(slot)},
                           format::log_header_block(slot, written.generation).offset()};
    SharedBytes block(format::encode_log_header(written));
    bytes_written += block.size();
    writes.push_back(disk.write(to, std::move(block), lease, disk::Durability::retain));
  }
  const LogPosition target = closed;
  const std::uint64_t target_end = closed_end;
  joinable = true;
  if (writes.size() == 1) {
    CO_TRY_STATUS(co_await std::move(writes.front()));
  } else if (!writes.empty()) {
    const std::vector<Status> results = co_await gather(world.executor, std::move(writes));
    for (const Status& result : results) CO_TRY_STATUS(result);
  }
  joinable = false;
  CO_TRY_STATUS(co_await disk.flush_retained());
  durable = target;
  durable_end = target_end;
  header = written;
  co_return Status{};
}

void Log::State::seal(Error error) {
  rarely<"log: sealed by an error">();
  sealed = std::move(error);
  for (auto* waiting : {&joined, &joining_next}) {
    for (const Promise<Status>& done : std::exchange(*waiting, {})) done.set(fail(*sealed));
  }
  for (auto* queue : {&revoke_waiters, &waiters}) {
    for (const RoomWaiter& waiter : std::exchange(*queue, {})) waiter.granted.set(fail(*sealed));
  }
}

// ---- Start, trim ----

// The slot is ours because nobody owns it, so whatever records the log has are in place. To find
// some is a fault all the same, unless a header is damaged: then the other one, which is older, has
// to be believed as far as it goes, and the damaged one is written again.
Task<Status> Log::State::take_over() {
  CO_TRY(const LogState state, co_await read_log_header(disk, slot));
  LogContents found{.header = state.header, .end = state.header.start};
  if (state.other_damaged) {
    log_warning(absl::StrCat(state.damage, ": written again"));
  } else {
    CO_TRY(found, co_await read_log(disk, slot, header.log_size, DamageCheck::whole_ring,
                                    [](const LogRecord&) { return Status{}; }));
  }
  if (found.records > 0) {
    co_return fail(Errc::corrupt, absl::StrCat("log of slot ", slot, " (holds ", found.records,
                                               " records of lease ", found.header.lease,
                                               " that were not replayed)"));
  }
  const disk::Segment segment{format::log_segment(slot)};
  if (found.header.generation == 0) {
    const disk::Address whole{segment, 0};
    Status allocated = co_await disk.preallocate(whole, header.log_size, lease);
    if (!allocated) {
      Error error = std::move(allocated).error();
      error.what = absl::StrCat("the log of slot ", slot, " needs ", header.log_size >> 20,
                                " MiB; ", error.what);
      co_return fail(std::move(error));
    }
  }
  // One header must be durable before the other one is overwritten.
  CO_TRY_STATUS(co_await disk.flush());
  header.generation = found.header.generation + 1;
  header.state = format::LogState::in_use;
  header.lease = raw(lease);
  header.start = found.end;
  header.predecessor = format::first_predecessor(slot, raw(lease));
  header.first = 1;
  header.durable = header.start;
  const disk::Address to{segment, format::log_header_block(slot, header.generation).offset()};
  SharedBytes block(format::encode_log_header(header));
  CO_TRY_STATUS(co_await disk.write(to, std::move(block), lease, disk::Durability::retain));
  CO_TRY_STATUS(co_await disk.flush());
  next_header = header;
  closed_end = durable_end = witnessed = header.start;
  last_checksum = header.predecessor;
  co_return Status{};
}

void Log::State::trim(LogPosition last) {
  while (!chunks.empty() && chunks.front().last <= std::min(last, durable)) {
    const Chunk& chunk = chunks.front();
    trimmed = chunk.last;
    next_header.start = chunk.end;
    next_header.predecessor = chunk.checksum;
    next_header.first = raw(next(chunk.last));
    chunks.pop_front();
  }
  const bool scarce = is_scarce() || !waiters.empty() || !revoke_waiters.empty();
  if (scarce && next_header.start > header.start) {
    header_wanted = true;
    want_round();
  }
}

// ---- Reservation, Log ----

Reservation::~Reservation() {
  if (log_ != nullptr && bytes_ > 0) log_->state_->give_back(bytes_);
}

Log::Log(World world, disk::VirtualDisk& disk, std::uint32_t slot, std::uint64_t size,
         lock::LeaseNumber lease, double trim_above) {
  CHECK(size >= log_size_min && size % format::block_size == 0);
  CHECK(lease != lock::LeaseNumber::none);
  state_ = std::make_shared<State>(world, disk, slot, size, lease, trim_above);
}

Log::~Log() = default;

Task<Status> Log::start() { return state_->take_over(); }

Task<Result<Reservation>> Log::reserve(std::uint64_t bytes, bool for_revoke) {
  State& state = *state_;
  if (state.sealed) co_return fail(*state.sealed);
  const std::uint64_t total = bytes + record_overhead;
  if (total > state.limit(for_revoke)) {
    co_return fail(Errc::log_full, absl::StrCat("log of slot ", state.slot, " (", bytes,
                                                " bytes are more than it can ever hold)"));
  }
  CO_TRY_STATUS(co_await state.wait_for_room(total, for_revoke));
  Reservation reservation;
  reservation.log_ = this;
  reservation.bytes_ = total;
  co_return reservation;
}

Result<LogPosition> Log::append(ByteView record, Reservation& reservation) {
  State& state = *state_;
  if (state.sealed) return fail(*state.sealed);
  CHECK(record.size() <= record_size_max);
  CHECK(reservation.log_ == this);
  const std::uint64_t paid = record.size() + record_overhead;
  CHECK(paid <= reservation.bytes_);
  CHECK(!state.finishing);
  if (state.pending.empty() || !state.pending.back().fits(record.size())) {
    state.pending.emplace_back();
  }
  ChunkBuilder& chunk = state.pending.back();
  const std::uint64_t before_size = chunk.size();
  chunk.add(record);
  state.pending_size += chunk.size() - before_size;
  state.reserved -= paid;
  reservation.bytes_ -= paid;
  state.end = next(state.end);
  state.admit();
  return state.end;
}

Task<Status> Log::sync(LogPosition last) {
  CHECK(last <= state_->end);
  return state_->join(last, /*next_round=*/false);
}

Task<Status> Log::trim(LogPosition last) {
  if (state_->sealed) co_return fail(*state_->sealed);
  state_->trim(last);
  co_return Status{};
}

Task<Status> Log::finish() {
  State& state = *state_;
  if (state.sealed) co_return fail(*state.sealed);
  CHECK(state.trimmed == state.end);
  CHECK(state.next_header.start == state.closed_end);
  state.finishing = true;
  state.next_header.state = format::LogState::empty;
  CO_TRY_STATUS(co_await state.join(state.end, /*next_round=*/true));
  state.seal(Error{Errc::shut_down, absl::StrCat("log of slot ", state.slot)});
  co_return Status{};
}

Task<void> Log::settled() {
  while (state_->pumping) co_await sleep_for(state_->world, 1ms);
}

LogPosition Log::end() const { return state_->end; }
LogPosition Log::durable() const { return state_->durable; }
LogPosition Log::trimmed() const { return state_->trimmed; }
double Log::pressure() const { return state_->pressure(); }
bool Log::is_scarce() const { return state_->is_scarce(); }
void Log::on_pressure(Callback callback) { state_->pressure_callback = std::move(callback); }

LogStatus Log::status() const {
  LogStatus status;
  status.size = state_->ring;
  status.used = state_->used();
  status.reserved = state_->reserved;
  status.end = state_->end;
  status.durable = state_->durable;
  status.trimmed = state_->trimmed;
  status.syncs = state_->syncs;
  status.records = raw(state_->end);
  status.bytes_written = state_->bytes_written;
  return status;
}

}  // namespace plumeria::wal
