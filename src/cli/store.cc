#include "cli/store.h"

#include <utility>

#include "base/async.h"
#include "format/layout.h"
#include "os/store_directory.h"

namespace plumeria::cli {

Task<Result<format::Superblock>> read_superblock(disk::VirtualDisk& disk) {
  const disk::Address place{disk::Segment{format::superblock_id.segment},
                            format::superblock_id.offset()};
  CO_TRY(const Bytes block, co_await disk.read(place, format::block_size));
  co_return format::decode_superblock(block);
}

namespace {

constexpr Duration patience_with_holder = 300ms;  // who may not have said yet that he ends
constexpr Duration patience_with_end = 60s;       // with all that he still writes
constexpr Duration look_again = 10ms;

// umount(8) and a signal return before the daemon has written everything back.
Result<std::unique_ptr<os::HostStore>> open_when_free(Runtime& runtime, const std::string& path,
                                                      bool read_only) {
  const TimePoint begun = runtime.executor.now();
  for (;;) {
    auto store =
        os::HostStore::open(runtime.executor, runtime.pool, path, {.read_only = read_only});
    if (store || store.error().code != Errc::in_use) return store;
    const bool ends = store.error().what.find(os::ending_mark) != std::string::npos;
    const Duration waited = runtime.executor.now() - begun;
    if (waited > (ends ? patience_with_end : patience_with_holder)) return store;
    runtime.executor.run_until_done(sleep_for(runtime.world(), look_again));
  }
}

}  // namespace

Result<OpenStore> open_store(Runtime& runtime, const std::string& path, bool read_only) {
  OpenStore store;
  TRY(store.disk, open_when_free(runtime, path, read_only));
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
