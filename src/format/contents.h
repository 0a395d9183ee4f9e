// What a block of each region must look like inside, beyond its checksum.
#pragma once

#include "base/bytes.h"
#include "base/result.h"
#include "format/block.h"

namespace plumeria::format {

// A block that verify() passed: Errc::corrupt, naming it, if it cannot be what its place asks for.
// Blocks that were never written pass. Does not look at other blocks.
Status check_contents(ByteView block, BlockId id);

}  // namespace plumeria::format
