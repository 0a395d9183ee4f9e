#include "cli/store.h"

#include <utility>

#include "format/layout.h"

namespace plumeria::cli {

Task<Result<format::Superblock>> read_superblock(disk::VirtualDisk& disk) {
  const disk::Address place{disk::Segment{format::superblock_id.segment},
                            format::superblock_id.offset()};
  CO_TRY(const Bytes block, co_await disk.read(place, format::block_size));
  co_return format::decode_superblock(block);
}

Result<OpenStore> open_store(Runtime& runtime, const std::string& path, bool read_only) {
  OpenStore store;
  TRY(store.disk,
      os::HostStore::open(runtime.executor, runtime.pool, path, {.read_only = read_only}));
  auto superblock = runtime.executor.run_until_done(read_superblock(*store.disk));
  if (!superblock) {
    Error error = superblock.error();
    error.what = path + (error.what.empty() ? "" : ": " + error.what);
    return fail(std::move(error));
  }
  store.superblock = *superblock;
  return store;
}

}  // namespace plumeria::cli
