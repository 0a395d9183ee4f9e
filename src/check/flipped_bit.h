// Puts a block right in which one bit is wrong.
//
// A checksum of 64 bits tells almost surely which of the 32768 bits it is: that another change fits
// by chance has a probability of 2^-49. So what one flipped bit has damaged is not lost.
#pragma once

#include <optional>

#include "base/bytes.h"
#include "format/block.h"

namespace plumeria::check {

// The block as it was before one of its bits changed; nothing if more than that is wrong with it.
// Takes about 10 ms.
std::optional<Bytes> without_flipped_bit(ByteView block, format::BlockId id);

}  // namespace plumeria::check
