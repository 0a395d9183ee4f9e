// The FUSE protocol as the kernel speaks it on /dev/fuse: <linux/fuse.h>, and what newer kernels
// added to it after the header that this system ships.
//
// We speak it without libfuse: what this mount depends on (killing of set-user-id bits left to us,
// raw epoch notifications, deferred replies, the order of replies and invalidations) is beyond
// libfuse 3.14, and what is left of it then is a copy of these structures.
#pragma once

#include <linux/fuse.h>

#include <cstdint>

namespace plumeria::fuse {

static_assert(FUSE_KERNEL_VERSION == 7);

constexpr std::uint32_t minor_we_speak = 38;    // Structures are those of protocol 7.38.
constexpr std::uint32_t minor_least = 31;       // Linux 5.4
constexpr std::uint32_t minor_with_epoch = 44;  // Linux 6.16 knows notify_inc_epoch.

// Since 7.44: names that were looked up before are looked up again at their next use.
constexpr std::int32_t notify_inc_epoch = 8;

// Bit 36 of INIT's flags, since 7.39: mappings of files that are read and written directly.
constexpr std::uint32_t direct_io_allow_mmap_2 = 1u << (36 - 32);

// Flags of WRITE and OPEN that tell to clear set-user-id and set-group-id bits.
constexpr std::uint32_t write_kill_suidgid = 1u << 2;
constexpr std::uint32_t open_kill_suidgid = 1u << 0;

constexpr std::uint64_t cache_for_ever = 1ull << 40;  // seconds
constexpr std::size_t page_size = 4096;               // of the kernel's page cache, on x86-64

}  // namespace plumeria::fuse
