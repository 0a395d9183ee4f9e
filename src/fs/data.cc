#include "fs/data.h"

#include <sys/stat.h>

#include <algorithm>

#include "base/check.h"
#include "base/fault.h"
#include "base/rare.h"
#include "fs/allocator.h"
#include "fs/data_steps.h"
#include "fs/orphans.h"

namespace plumeria::fs {
namespace {

using format::block_size;
using format::InodeEditor;
using format::InodeView;
using format::small_count;
using format::small_limit;

// Dirty bytes from which on a large file's data go to the disk ahead of their record.
constexpr std::uint64_t early_write_bytes = 1u << 20;
constexpr std::uint64_t write_size_max = 1u << 20;

struct ReadPart {
  std::uint64_t at = 0;  // in the result
  disk::Address from;
  std::uint64_t length = 0;
};

Task<Status> run_all(Core& core, std::vector<Task<Status>> tasks) {
  auto results = co_await gather(core.world.executor, std::move(tasks));
  for (Status& result : results) {
    if (!result) co_return fail(std::move(result).error());
  }
  co_return Status();
}

// Writes [offset, offset + data) as it is mapped, none of it in a hole.
void write_mapped(Core& core, const Map& map, std::uint64_t offset, const SharedBytes& data,
                  std::vector<Task<Status>>& writes) {
  std::uint64_t at = 0;
  while (at < data.size()) {
    std::uint64_t length = std::min<std::uint64_t>(data.size() - at, write_size_max);
    const disk::Address to = map.find(offset + at, length);
    CHECK(raw(to.segment) != 0);
    writes.push_back(
        core.disk.write(to, data.slice(at, length), core.lease, disk::Durability::retain));
    at += length;
  }
}

// The runs of `dirty`, adjacent small ones joined, so that a file written in little pieces costs
// few writes.
std::vector<std::pair<std::uint64_t, SharedBytes>> joined_runs(const cache::DirtyData& dirty) {
  std::vector<std::pair<std::uint64_t, SharedBytes>> runs;
  for (auto run = dirty.runs().begin(); run != dirty.runs().end();) {
    const std::uint64_t start = run->first;
    auto end = std::next(run);
    std::uint64_t size = run->second.size();
    while (end != dirty.runs().end() && end->first == start + size &&
           size + end->second.size() <= write_size_max) {
      size += end->second.size();
      ++end;
    }
    if (std::next(run) == end) {
      runs.emplace_back(start, run->second);
    } else {
      Bytes joined(size);
      dirty.overlay(start, joined);
      runs.emplace_back(start, SharedBytes(std::move(joined)));
    }
    run = end;
  }
  return runs;
}

bool fits_inline(const InodeView& view, const FileState& file) {
  return (file.size ? *file.size : view.size()) <= format::inline_max && !view.has_small_blocks() &&
         view.data_segment() == 0 && file.segment == 0 && !file.left_inline;
}

// Pages of the first small_count that hold dirty bytes and have no place yet.
std::vector<std::size_t> unplaced_pages(const InodeView& view, const FileState& file) {
  std::vector<std::size_t> pages;
  for (const auto& [start, data] : file.dirty.runs()) {
    const std::uint64_t last = start + data.size() - 1;
    for (std::uint64_t page = start / block_size; page <= last / block_size && page < small_count;
         ++page) {
      if (view.small(page) == 0 && (pages.empty() || pages.back() != page)) pages.push_back(page);
    }
  }
  return pages;
}

void edit_times(InodeEditor& editor, const InodeView& view, const FileState& file) {
  if (file.mtime) editor.mtime(*file.mtime);
  if (file.ctime) editor.ctime(std::max(*file.ctime, view.ctime()));
}

void become_clean(Core& core, FileState& file, LogPosition position) {
  file.dirty.clear();
  core.account(file);
  file.size.reset();
  file.mtime.reset();
  file.ctime.reset();
  file.segment = 0;
  file.left_inline = false;
  file.data_written = false;
  file.space_changed = false;
  file.early_bytes = 0;
  file.last = position;
}

Result<LogPosition> log_inline(Core& core, FileState& file, const BlockRef& block,
                               wal::Reservation& reservation) {
  Transaction transaction(core.cache);
  MutableByteView bytes = transaction.edit(block);
  const InodeView view(bytes);
  InodeEditor editor(bytes);
  const std::uint64_t size = size_of(block.bytes(), &file);
  MutableByteView area = editor.inline_area();
  if (view.is_regular()) {
    const std::uint64_t old = std::min<std::uint64_t>(view.inline_length(), size);
    std::fill(area.begin() + old, area.end(), std::byte{0});
    file.dirty.overlay(0, area.first(size));
    editor.inline_length(static_cast<std::uint32_t>(size));
    editor.size(size);
  }
  edit_times(editor, view, file);
  return transaction.commit(reservation);
}

// New small blocks for the pages that need them, chosen but not in use before commit.
struct SmallPlan {
  std::optional<PinnedPiece> piece;
  std::vector<std::size_t> pages;
  std::vector<std::uint64_t> numbers;
};

Task<Status> plan_small(Core& core, SmallPlan& plan) {
  if (plan.pages.empty()) co_return Status();
  Needs needs;
  needs.small_blocks = small_count;
  auto piece = co_await core.allocator->pin(needs);
  if (!piece) co_return fail(std::move(piece).error());
  plan.numbers = core.allocator->reserve_small(*piece, plan.pages.size());
  if (plan.numbers.empty()) co_return fail(Errc::no_space, "no small block left");
  plan.piece = std::move(*piece);
  co_return Status();
}

void write_new_small(Core& core, const FileState& file, const SmallPlan& plan,
                     std::vector<Task<Status>>& writes) {
  for (std::size_t i = 0; i < plan.pages.size(); ++i) {
    Bytes page(block_size);
    file.dirty.overlay(plan.pages[i] * block_size, page);
    const disk::Address to{disk::Segment{format::small_segment}, plan.numbers[i] * block_size};
    writes.push_back(
        core.disk.write(to, SharedBytes(std::move(page)), core.lease, disk::Durability::retain));
  }
}

// Everything dirty that has a place outside of new small blocks.
void write_placed(Core& core, const Map& map, const FileState& file, const SmallPlan& plan,
                  std::vector<Task<Status>>& writes) {
  const auto is_planned = [&plan](std::uint64_t page) {
    return std::find(plan.pages.begin(), plan.pages.end(), page) != plan.pages.end();
  };
  for (const auto& [start, data] : joined_runs(file.dirty)) {
    std::uint64_t at = 0;
    while (at < data.size()) {
      const std::uint64_t offset = start + at;
      if (offset >= small_limit || plan.pages.empty()) {
        write_mapped(core, map, offset, data.slice(at, data.size() - at), writes);
        break;
      }
      const std::uint64_t length =
          std::min<std::uint64_t>(data.size() - at, block_size - offset % block_size);
      if (!is_planned(offset / block_size)) {
        write_mapped(core, map, offset, data.slice(at, length), writes);
      }
      at += length;
    }
  }
}

Result<LogPosition> log_places(Core& core, FileState& file, const BlockRef& block,
                               const SmallPlan& plan, std::uint64_t segment_bytes,
                               wal::Reservation& reservation) {
  Transaction transaction(core.cache);
  MutableByteView bytes = transaction.edit(block);
  const InodeView view(bytes);
  InodeEditor editor(bytes);
  for (std::size_t i = 0; i < plan.pages.size(); ++i) {
    core.allocator->use(transaction, *plan.piece, Unit::small_block, plan.numbers[i]);
    editor.small(plan.pages[i], plan.numbers[i]);
  }
  if (file.segment != 0) {
    editor.data_segment(file.segment);
    core.orphans->remove(transaction, Orphan{OrphanKind::pending_segment, file.segment});
  }
  editor.segment_bytes(segment_bytes);
  if (file.left_inline) {
    MutableByteView area = editor.inline_area();
    std::fill(area.begin(), area.end(), std::byte{0});
    editor.inline_length(0);
  }
  if (file.size) editor.size(*file.size);
  edit_times(editor, view, file);
  return transaction.commit(reservation);
}

Task<Result<LogPosition>> commit_places(Core& core, FileState& file, BlockRef block,
                                        bool for_revoke) {
  leave_inline(core, file, block.bytes());
  const InodeView view(block.bytes());
  const Map map(block.bytes(), &file);
  const std::uint64_t size = size_of(block.bytes(), &file);
  SmallPlan plan;
  const bool large = map.segment() != 0 || size > small_limit;
  const auto unplaced = unplaced_pages(view, file);
  if (large) {
    const bool beyond =
        !file.dirty.runs().empty() && std::prev(file.dirty.runs().end())->first +
                                              std::prev(file.dirty.runs().end())->second.size() >
                                          small_limit;
    if (map.segment() == 0 && (!unplaced.empty() || beyond)) {
      Status taken = co_await take_segment(core, file, for_revoke);
      if (!taken) co_return fail(std::move(taken).error());
    }
  } else {
    plan.pages = unplaced;
  }
  auto reservation = co_await core.log.reserve(operation_log_bytes, for_revoke);
  if (!reservation) co_return fail(std::move(reservation).error());
  Status planned_small = co_await plan_small(core, plan);
  if (!planned_small) co_return fail(std::move(planned_small).error());
  std::vector<Task<Status>> writes;
  write_new_small(core, file, plan, writes);
  write_placed(core, map, file, plan, writes);
  Status written = co_await run_all(core, std::move(writes));
  // A record that shows bytes for the first time must not be durable before they are.
  const bool exposes = !plan.pages.empty() || file.segment != 0 || file.left_inline ||
                       (file.size && *file.size > view.size());
  if (written && exposes && !planted(Fault::release_before_flush)) {
    written = co_await core.disk.flush_retained();
  }
  // With no hole in it, the space cannot have grown.
  std::uint64_t space = view.segment_bytes();
  if (written && map.segment() != 0 &&
      (file.space_changed || file.segment != 0 || view.segment_bytes() < size)) {
    const auto now = co_await core.disk.allocated(disk::Segment{map.segment()});
    if (now) space = *now;  // Else st_blocks stays as it was.
  }
  if (!written) {
    core.allocator->unreserve_small(plan.numbers);
    co_return fail(std::move(written).error());
  }
  auto position = log_places(core, file, block, plan, space, *reservation);
  core.allocator->unreserve_small(plan.numbers);
  co_return position;
}

// Data of a large file that lie beyond the small blocks go out now, so that memory stays bounded.
// They show only with the next commit.
Task<Status> write_early(Core& core, FileState& file, BlockRef block) {
  if (file.dirty.bytes() < early_write_bytes || size_of(block.bytes(), &file) <= small_limit) {
    co_return Status();
  }
  leave_inline(core, file, block.bytes());
  if (InodeView(block.bytes()).data_segment() == 0) {
    CO_TRY_STATUS(co_await take_segment(core, file, false));
  }
  const Map map(block.bytes(), &file);
  std::vector<Task<Status>> writes;
  for (const auto& [start, data] : joined_runs(file.dirty)) {
    write_mapped(core, map, start, data, writes);
  }
  rarely<"fs: data go out ahead of their record">();
  file.data_written = true;
  CO_TRY_STATUS(co_await run_all(core, std::move(writes)));
  file.early_bytes += file.dirty.bytes();
  file.dirty.clear();
  core.account(file);
  co_return Status();
}

Result<LogPosition> log_shrink(Core& core, FileState& file, const BlockRef& block,
                               const FreedPages& freed, const std::vector<PinnedPiece>& pieces,
                               std::uint64_t size, wal::Reservation& reservation) {
  Transaction transaction(core.cache);
  MutableByteView bytes = transaction.edit(block);
  const InodeView view(bytes);
  InodeEditor editor(bytes);
  free_pages(core, transaction, editor, freed, pieces);
  if (size == 0) {
    for (std::uint64_t segment : {view.data_segment(), file.segment}) {
      if (segment != 0) core.orphans->let_go(transaction, segment);
    }
    editor.data_segment(0);
    editor.segment_bytes(0);
  }
  const auto keep = static_cast<std::uint32_t>(std::min<std::uint64_t>(view.inline_length(), size));
  MutableByteView area = editor.inline_area();
  std::fill(area.begin() + keep, area.end(), std::byte{0});
  editor.inline_length(keep);
  editor.size(std::min(view.size(), size));
  return transaction.commit(reservation);
}

Task<Status> shrink_data(Core& core, FileState& file, BlockRef block, std::uint64_t size,
                         bool for_revoke) {
  auto reservation = co_await core.log.reserve(operation_log_bytes, for_revoke);
  if (!reservation) co_return fail(std::move(reservation).error());
  CO_TRY_STATUS(co_await core.orphans->make_room(2));
  const FreedPages freed =
      plan_freed_pages(InodeView(block.bytes()), (size + block_size - 1) / block_size, small_count);
  auto pieces = co_await core.allocator->pin_numbers(freed.pieces);
  if (!pieces) co_return fail(std::move(pieces).error());
  CO_TRY_STATUS(co_await core.orphans->make_room(2));
  const std::uint64_t segments[] = {InodeView(block.bytes()).data_segment(), file.segment};
  auto position = log_shrink(core, file, block, freed, *pieces, size, *reservation);
  if (!position) co_return fail(std::move(position).error());
  core.allocator->small_blocks_freed(freed.numbers, *position);
  file.last = *position;
  file.dirty.truncate(size);
  core.account(file);
  file.size.reset();
  // What is cut off stays where it was, unless the file lets go of all that it had.
  core.clean_tails.erase(file.inode);
  file.cut_tail = size > 0;
  if (size == 0) {
    core.clean_tails.insert(file.inode);
    file.segment = 0;
    file.left_inline = false;
    file.data_written = false;
    file.early_bytes = 0;
    for (std::uint64_t segment : segments) {
      if (segment != 0) core.orphans->look_at(Orphan{OrphanKind::segment, segment});
    }
  }
  if (InodeView(block.bytes()).size() != size) file.size = size;
  co_return Status();
}

}  // namespace

std::uint64_t size_of(ByteView inode_block, const FileState* file) {
  if (file != nullptr && file->size) return *file->size;
  return InodeView(inode_block).size();
}

namespace {

// Bytes of whole blocks that hold the file's data, or are going to: what is dirty gets new ones as
// far as the size lets it.
std::uint64_t space_of(const InodeView& view, const FileState* file, std::uint64_t size) {
  const auto whole = [](std::uint64_t bytes) {
    return bytes / block_size * block_size + (bytes % block_size != 0 ? block_size : 0);
  };
  if (!view.is_regular()) return view.is_directory() ? whole(size) : 0;
  std::uint64_t space = view.xattr_block() != 0 ? block_size : 0;
  if (view.inline_length() > 0) space += block_size;
  for (std::size_t page = 0; page < small_count; ++page) {
    if (view.small(page) != 0) space += block_size;
  }
  if (view.data_segment() != 0) space += view.segment_bytes();
  const std::uint64_t dirty = file == nullptr ? 0 : file->dirty.bytes() + file->early_bytes;
  return std::max(space, std::min(space + whole(dirty), whole(size)));
}

}  // namespace

Attributes attributes_of(ByteView inode_block, const FileState* file) {
  const InodeView view(inode_block);
  Attributes attributes;
  attributes.inode = InodeNumber{view.number()};
  attributes.generation = view.generation();
  attributes.mode = view.mode();
  attributes.links = view.links();
  attributes.uid = view.uid();
  attributes.gid = view.gid();
  attributes.rdev = view.rdev();
  attributes.size = view.is_directory() ? std::max<std::uint64_t>(view.size(), block_size)
                                        : size_of(inode_block, file);
  attributes.blocks = space_of(view, file, attributes.size) / 512;
  attributes.atime = WallTime{view.atime()};
  attributes.mtime = WallTime{file != nullptr && file->mtime ? *file->mtime : view.mtime()};
  attributes.ctime = WallTime{file != nullptr && file->ctime ? std::max(*file->ctime, view.ctime())
                                                             : view.ctime()};
  return attributes;
}

Task<Result<Bytes>> read_data(Core& core, InodeNumber inode, std::uint64_t offset,
                              std::uint64_t length) {
  auto loaded = co_await core.load_inode(inode);
  if (!loaded) co_return fail(std::move(loaded).error());
  const BlockRef block = std::move(*loaded);
  const FileState* file = core.find_file(inode);
  const std::uint64_t size = size_of(block.bytes(), file);
  if (offset >= size) co_return Bytes();
  length = std::min(length, size - offset);
  const Map map(block.bytes(), file);
  // A lock that is downgraded is not waited for by readers: while this one waits for the disk, what
  // is dirty can be written back, and what the disk returns may be older.
  cache::DirtyData dirty;
  if (file != nullptr) dirty = file->dirty.overlapping(offset, offset + length);
  std::vector<ReadPart> parts;
  Bytes result;
  if (map.is_inline()) {
    result.resize(length);
    const ByteView data = InodeView(block.bytes()).inline_data();
    if (offset < data.size()) {
      const std::uint64_t here = std::min<std::uint64_t>(length, data.size() - offset);
      std::memcpy(result.data(), data.data() + offset, here);
    }
  } else if (file == nullptr || !file->dirty.covers(offset, offset + length)) {
    for (std::uint64_t at = 0; at < length;) {
      std::uint64_t run = length - at;
      const disk::Address from = map.find(offset + at, run);
      if (raw(from.segment) != 0) parts.push_back({at, from, run});
      at += run;
    }
  }
  if (parts.size() == 1 && parts[0].length == length) {
    auto whole = co_await core.disk.read(parts[0].from, length);
    if (!whole) co_return fail(std::move(whole).error());
    result = std::move(*whole);
  } else {
    result.resize(length);
    std::vector<Task<Result<Bytes>>> reads;
    for (const ReadPart& part : parts) reads.push_back(core.disk.read(part.from, part.length));
    auto pieces = co_await gather(core.world.executor, std::move(reads));
    for (std::size_t i = 0; i < pieces.size(); ++i) {
      if (!pieces[i]) co_return fail(std::move(pieces[i]).error());
      std::memcpy(result.data() + parts[i].at, pieces[i]->data(), parts[i].length);
    }
  }
  if (!parts.empty()) CO_TRY_STATUS(co_await core.cache.confirm_lease());
  dirty.overlay(offset, result);
  if (const FileState* now = core.find_file(inode)) now->dirty.overlay(offset, result);
  co_return result;
}

Task<Status> write_data(Core& core, InodeNumber inode, std::uint64_t offset, SharedBytes data) {
  auto loaded = co_await core.load_inode(inode);
  if (!loaded) co_return fail(std::move(loaded).error());
  const BlockRef block = std::move(*loaded);
  FileState& file = core.file(inode);
  const std::uint64_t end = offset + data.size();
  if (end > size_of(block.bytes(), &file)) {
    CO_TRY_STATUS(co_await clear_tail(core, file, block));
  }
  touch(core, file, InodeView(block.bytes()).mtime());
  file.dirty.insert(offset, std::move(data));
  if (end > size_of(block.bytes(), &file)) file.size = end;
  core.account(file);
  co_return co_await write_early(core, file, block);
}

Task<Status> truncate_data(Core& core, InodeNumber inode, std::uint64_t size, bool for_revoke) {
  auto loaded = co_await core.load_inode(inode);
  if (!loaded) co_return fail(std::move(loaded).error());
  const BlockRef block = std::move(*loaded);
  FileState& file = core.file(inode);
  const std::uint64_t old = size_of(block.bytes(), &file);
  if (size < old) {
    CO_TRY_STATUS(co_await shrink_data(core, file, block, size, for_revoke));
  } else if (size > old) {
    CO_TRY_STATUS(co_await clear_tail(core, file, block));
    will_be_dirty(core, file);
    file.size = size;
  }
  touch(core, file, InodeView(block.bytes()).mtime());
  co_return Status();
}

Task<Status> commit_data(Core& core, InodeNumber inode, bool for_revoke) {
  FileState* file = core.find_file(inode);
  if (file == nullptr || !file->is_dirty()) co_return Status();
  auto loaded = co_await core.load_inode(inode);
  if (!loaded) co_return fail(std::move(loaded).error());
  const BlockRef block = std::move(*loaded);
  if (std::exchange(file->cut_tail, false) && Map(block.bytes(), file).segment() != 0) {
    CO_TRY_STATUS(co_await clear_tail(core, *file, block));
    file->space_changed = true;
  }
  Result<LogPosition> position = LogPosition::none;
  if (fits_inline(InodeView(block.bytes()), *file)) {
    auto reservation = co_await core.log.reserve(operation_log_bytes, for_revoke);
    if (!reservation) co_return fail(std::move(reservation).error());
    position = log_inline(core, *file, block, *reservation);
  } else {
    position = co_await commit_places(core, *file, block, for_revoke);
  }
  if (!position) co_return fail(std::move(position).error());
  become_clean(core, *file, *position);
  co_return Status();
}

}  // namespace plumeria::fs
