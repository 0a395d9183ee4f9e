// One generated sequence on a simulated mount, power cuts at each of its calls like fsync, and
// whether what comes back is what was promised.
//
// The promise
//   Names       Every operation on names and attributes is in the mount's log, in order. fsync of
//               anything (a file, a directory, all) makes everything durable that came before in
//               the log. So after a power cut the tree (names, kinds, links, modes, extended
//               attributes) is the one after some operation at or after the last such call.
//   Contents    of a file are at least as new as the last fsync of that file, or of everything:
//               its size is one that it had since, and each byte within it one that the file had
//               there since. (Two writes that were not fsynced can survive in part and in any
//               order; bytes that the file never had at that place never show.)
//   Space       What was fsynced last has the space then that it had before the cut (st_blocks).
//   The store   has nothing wrong for fsck, before it is mounted again and after.
// And without any cut every operation has the effect that it has on the reference.
#pragma once

#include <cstdint>
#include <string>

#include "sim/ace_sequence.h"

namespace plumeria::sim::ace {

struct Outcome {
  bool impossible = false;  // an operation had no effect on the reference either: not worth a run
  std::string failure;      // empty: all is well
  std::uint64_t cuts = 0;   // power cuts after which the store was looked at
};

enum class Cuts {
  one,   // after the last step, of a kind that the seed decides; now and then one at any moment
  many,  // after each call like fsync all unflushed writes dropped, all kept, two by chance; and
         // one at any moment
};

// The same arguments take the same course.
Outcome run(const Sequence& sequence, std::uint64_t seed, Cuts cuts);

}  // namespace plumeria::sim::ace
