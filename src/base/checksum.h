// The one checksum of everything on disk and on the network: XXH3, 64 bits, seeded.
#pragma once

#include <cstdint>

#include "base/bytes.h"

namespace plumeria {

std::uint64_t checksum(ByteView bytes, std::uint64_t seed = 0);

}  // namespace plumeria
