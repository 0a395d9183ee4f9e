#include "fuse/untaken_reads.h"

#include <gtest/gtest.h>

namespace plumeria::fuse {
namespace {

constexpr fs::InodeNumber file{5}, other{6};
constexpr Range page0{0, 4096}, page1{4096, 8192};

struct UntakenReadsTest : testing::Test {
  std::map<std::uint32_t, Taken> threads;
  UntakenReads reads{[this](std::uint32_t thread) { return threads.at(thread); }};
};

TEST_F(UntakenReadsTest, AReadIsUntakenUntilItsThreadHasRun) {
  reads.sent(7, file, {100, 200});
  threads[7] = Taken::no;
  EXPECT_TRUE(reads.any(file, page0));
  EXPECT_FALSE(reads.any(file, page1));
  EXPECT_FALSE(reads.any(other, page0));
  threads[7] = Taken::yes;
  EXPECT_FALSE(reads.any(file, page0));
  threads[7] = Taken::no;  // in another call by now
  EXPECT_FALSE(reads.any(file, page0));
}

TEST_F(UntakenReadsTest, AThreadThatAsksAgainHasTakenIt) {
  reads.sent(7, file, page0);
  reads.heard_from(8);
  threads[7] = Taken::no;
  EXPECT_TRUE(reads.any(file, page0));
  reads.heard_from(7);
  EXPECT_FALSE(reads.any(file, page0));
}

TEST_F(UntakenReadsTest, AThreadThatIsSeenToRunHasTakenItAtTheNextLook) {
  reads.sent(7, file, page0);
  threads[7] = Taken::soon;
  EXPECT_TRUE(reads.any(file, page0));
  EXPECT_FALSE(reads.any(file, page0));
}

TEST_F(UntakenReadsTest, RemembersThoseThatAreNotTakenHoweverMany) {
  for (std::uint32_t thread = 1; thread <= 2 * UntakenReads::limit; ++thread) {
    threads[thread] = thread == 3 ? Taken::no : Taken::yes;
    reads.sent(thread, file, thread == 3 ? page1 : page0);
  }
  EXPECT_TRUE(reads.any(file, page1));
  EXPECT_FALSE(reads.any(file, page0));
}

}  // namespace
}  // namespace plumeria::fuse
