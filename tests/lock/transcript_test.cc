// Conversations of clerks and a lock server, kept as files: below each command all that follows.
//
//   lock_service_test --rewrite   writes the files anew; review the difference
#include <absl/strings/str_cat.h>
#include <absl/strings/str_split.h>
#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <sstream>

#include "core_world.h"
#include "flags.h"

namespace plumeria::lock_test {

namespace {

Mode mode_named(const std::string& text) {
  return text == "exclusive" ? Mode::exclusive : Mode::shared;
}

// Commands:
//   clerks N                        the cast
//   acquire C L MODE | try C L MODE | drop C L MODE | give-back C L
//   given-up C L                    the handler has finished
//   refuse-tries C                  the handler says no
//   hold | go                       messages wait from now on | are delivered at once again
//   deliver I | double I | lose I   the I-th waiting message (0 is the oldest)
//   wait MS                         time passes
//   restart | report C | granting   the server's restart and rebuild
//   kill C | dying C | gone C       a lease's end
class Player {
 public:
  std::string play(const std::string& line) {
    std::string output;
    if (world_) world_->log = &output;
    command(absl::StrSplit(line, ' '));
    if (world_) {
      world_->log = &output;
      while (!holding_ && world_->in_flight() > 0) world_->deliver(0);
      world_->check();
    }
    return output;
  }

 private:
  void command(const std::vector<std::string>& words) {
    const std::string& verb = words[0];
    auto number = [&](std::size_t i) { return std::stoull(words.at(i)); };
    if (verb == "clerks") {
      clerk::ClerkCoreOptions options;
      options.linger_idle = options.linger_max = Duration::zero();
      world_ = std::make_unique<CoreWorld>(static_cast<int>(number(1)), options);
    } else if (verb == "acquire") {
      world_->acquire(number(1), number(2), mode_named(words.at(3)));
    } else if (verb == "try") {
      world_->try_acquire(number(1), number(2), mode_named(words.at(3)));
    } else if (verb == "drop") {
      world_->drop(number(1), number(2), mode_named(words.at(3)));
    } else if (verb == "give-back") {
      world_->give_back(number(1), number(2));
    } else if (verb == "given-up") {
      world_->finish_give_up(number(1), number(2));
    } else if (verb == "refuse-tries") {
      world_->refuse_tries(number(1), true);
    } else if (verb == "hold" || verb == "go") {
      holding_ = verb == "hold";
    } else if (verb == "deliver") {
      world_->deliver(number(1));
    } else if (verb == "double") {
      world_->deliver(number(1), true);
    } else if (verb == "lose") {
      world_->lose(number(1));
    } else if (verb == "wait") {
      world_->advance(std::chrono::milliseconds(number(1)));
    } else if (verb == "restart") {
      world_->restart_server();
    } else if (verb == "report") {
      world_->report(number(1));
    } else if (verb == "granting") {
      world_->start_granting();
    } else if (verb == "kill") {
      world_->kill(number(1));
    } else if (verb == "dying") {
      world_->dying(number(1));
    } else if (verb == "gone") {
      world_->gone(number(1));
    } else {
      ADD_FAILURE() << "unknown command " << verb;
    }
  }

  std::unique_ptr<CoreWorld> world_;
  bool holding_ = false;
};

bool is_output(const std::string& line) {
  return line.starts_with("->") || line.starts_with("   ");
}

void play_file(const std::string& name) {
  const std::string path = absl::StrCat(PLUMERIA_LOCK_TESTDATA, "/", name, ".txt");
  std::ifstream in(path);
  ASSERT_TRUE(in.good()) << path;
  std::string expected, actual, line;
  Player player;
  while (std::getline(in, line)) {
    absl::StrAppend(&expected, line, "\n");
    if (is_output(line)) continue;
    absl::StrAppend(&actual, line, "\n");
    if (!line.empty() && line[0] != '#') absl::StrAppend(&actual, player.play(line));
  }
  if (rewrite_transcripts) {
    std::ofstream(path) << actual;
  } else {
    EXPECT_EQ(expected, actual) << path;
  }
}

class TranscriptTest : public ::testing::TestWithParam<const char*> {};
TEST_P(TranscriptTest, IsAsItWas) { play_file(GetParam()); }

INSTANTIATE_TEST_SUITE_P(Files, TranscriptTest,
                         ::testing::Values("reader_writer_reader", "revoke_overtakes_grant",
                                           "duplicate_grant", "release_crosses_revoke", "upgrade",
                                           "try_on_open_locks", "stronger_revoke", "restart",
                                           "expired_lease", "writer_is_not_starved"),
                         [](const auto& test) { return test.param; });

}  // namespace
}  // namespace plumeria::lock_test
