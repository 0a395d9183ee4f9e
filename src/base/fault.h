// Faults that the tests plant to prove that the simulator catches them.
//
// In the product planted() is constexpr false and its branches vanish. A build with
// PLUMERIA_PLANTED_FAULTS asks plant() at run time, so that one build serves all faults.
#pragma once

namespace plumeria {

enum class Fault {
  none,
  no_fence,                      // the disk accepts writes of a fenced lease
  release_before_flush,          // a lock is released before its data and log are durable
  trim_before_flush,             // log records are trimmed before the blocks' write-back is flushed
  replay_without_version_check,  // replay applies records to blocks of a higher version
  delta_without_image,           // the first record of a block is a delta
  gainer_grants_early,    // a restarted lock server grants before every live lease has reported
  in_transition_ignored,  // the lock server grants while a revoke is on its way
  kernel_invalidation_left_out,  // a lock is given up without invalidating the kernel's cache
  stale_end_ignored,             // a file grows over what lies behind its end
  renewal_counted_from_reply,    // the clerk counts its lease from the reply, not from the request
  // Rules of the kernel's cache (docs/kernel.md), shown by the stress test of two real mounts.
  fuse_pages_under_shared_with_writer,  // pages are read under a shared lock though a writer is
                                        // open
  fuse_parked_request_blocks_revoke,    // requests are not kept back while a lock is given up
  fuse_no_repeat,                       // ranges answered during an invalidation stay cached
  fuse_expire_entry_instead_of_epoch,   // names are expired one by one
  fuse_attributes_uncovered,            // attributes are cached though no lock covers them
  fuse_append_not_invalidated,          // a relocated append leaves its bytes at the stale offset
  fuse_write_range_not_invalidated,     // a WRITE that met an invalidation leaves its pages alone
  fuse_size_told_once,                  // sizes are told by replies only, which may be ignored
  fuse_read_overtakes_write,            // a READ is answered before the WRITE that changes its page
};

#ifdef PLUMERIA_PLANTED_FAULTS
void plant(Fault fault);
bool planted(Fault fault);
#else
constexpr bool planted(Fault) { return false; }
#endif

}  // namespace plumeria
