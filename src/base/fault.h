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
  stale_end_ignored,             // extending a file does not zero what a truncate left
  renewal_counted_from_reply,    // the clerk counts its lease from the reply, not from the request
};

#ifdef PLUMERIA_PLANTED_FAULTS
void plant(Fault fault);
bool planted(Fault fault);
#else
constexpr bool planted(Fault) { return false; }
#endif

}  // namespace plumeria
