#include <gtest/gtest.h>

#include <cstdlib>
#include <string_view>

#include "flags.h"

namespace plumeria::lock_test {
bool rewrite_transcripts = false;
std::uint64_t first_seed = 1;
std::uint64_t seeds = 60;
}  // namespace plumeria::lock_test

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  for (int i = 1; i < argc; ++i) {
    const std::string_view flag = argv[i];
    if (flag == "--rewrite") plumeria::lock_test::rewrite_transcripts = true;
    if (i + 1 == argc) break;
    if (flag == "--seed") plumeria::lock_test::first_seed = std::strtoull(argv[i + 1], nullptr, 10);
    if (flag == "--seeds") plumeria::lock_test::seeds = std::strtoull(argv[i + 1], nullptr, 10);
  }
  return RUN_ALL_TESTS();
}
