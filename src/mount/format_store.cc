#include <sys/stat.h>

#include "format/inode.h"
#include "format/piece.h"
#include "format/superblock.h"
#include "mount/mount.h"

namespace plumeria::mount {
namespace {

Task<Status> write_block(disk::VirtualDisk& disk, format::BlockId id, Bytes block,
                         lock::LeaseNumber lease) {
  format::seal(block, id);
  const disk::Address to{disk::Segment{id.segment}, id.offset()};
  return disk.write(to, SharedBytes(std::move(block)), lease, disk::Durability::retain);
}

Bytes root_directory(const FormatOptions& options) {
  Bytes block(format::block_size);
  format::format_block(block, format::BlockType::inode, raw(fs::root_inode), 1);
  format::InodeEditor root(block);
  root.generation(1);
  root.mode(S_IFDIR | 0755);
  root.links(2);
  root.parent(raw(fs::root_inode));
  const std::int64_t now = raw(options.now);
  root.atime(now);
  root.mtime(now);
  root.ctime(now);
  root.btime(now);
  return block;
}

}  // namespace

Task<Status> format_store(disk::VirtualDisk& disk, FormatOptions options) {
  if (options.label.size() > format::label_max) {
    co_return fail(Errc::invalid, absl::StrCat("the label is longer than ", format::label_max));
  }
  if (options.log_size < wal::log_size_min || options.log_size % format::block_size != 0) {
    co_return fail(Errc::invalid,
                   absl::StrCat("log size ", options.log_size, " is not a multiple of ",
                                format::block_size, " of at least ", wal::log_size_min, " bytes"));
  }
  auto old = co_await disk.read({disk::Segment{format::superblock_segment}, 0}, format::block_size);
  if (!old) co_return fail(std::move(old).error());
  if (!all_zero(*old)) co_return fail(Errc::exist, "the store already holds a file system");
  Bytes piece(format::block_size);
  format::format_piece(piece, 0, 1);
  format::PieceEditor(piece).set_used(format::Unit::inode, raw(fs::root_inode), true);
  CO_TRY_STATUS(
      co_await write_block(disk, format::piece_block(0), std::move(piece), options.lease));
  CO_TRY_STATUS(co_await write_block(disk, format::inode_block(raw(fs::root_inode)),
                                     root_directory(options), options.lease));
  CO_TRY_STATUS(co_await disk.flush());
  format::Superblock superblock;
  superblock.log_size = options.log_size;
  superblock.lease_milliseconds = static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::milliseconds>(options.lease_duration).count());
  superblock.hash_seed = options.hash_seed;
  superblock.created = raw(options.now);
  superblock.uuid = {options.hash_seed * 0x9e3779b97f4a7c15u, options.hash_seed};
  superblock.label = options.label;
  // Last, so that what is interrupted is no store.
  CO_TRY_STATUS(co_await disk.write({disk::Segment{format::superblock_segment}, 0},
                                    SharedBytes(format::encode_superblock(superblock)),
                                    options.lease, disk::Durability::retain));
  co_return co_await disk.flush();
}

}  // namespace plumeria::mount
