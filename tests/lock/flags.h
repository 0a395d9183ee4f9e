// Flags of lock_service_test.
#pragma once

#include <cstdint>

namespace plumeria::lock_test {

extern bool rewrite_transcripts;  // --rewrite: write the files instead of comparing them
extern std::uint64_t first_seed;  // --seed N: of the random runs
extern std::uint64_t seeds;       // --seeds N: how many of them

}  // namespace plumeria::lock_test
