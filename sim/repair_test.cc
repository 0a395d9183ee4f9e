// Damages blocks of a store, of each kind and in many ways, and repairs it. Afterwards fsck finds
// nothing, the store can be mounted and used, and whatever is missing or different was told to be
// lost. Also when the power fails at any write of the repair, and it is begun again.
#include "check/repair.h"

#include <absl/strings/match.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <regex>
#include <set>

#include "base/log.h"
#include "check/check.h"
#include "sim/damaged_medium.h"

namespace plumeria::sim {
namespace {

using namespace damaged_medium;
using format::block_size;
using format::BlockId;
using format::BlockType;
using testing::IsEmpty;

// How often each kind of block is damaged.
std::uint64_t rounds() {
  if (std::getenv("PLUMERIA_LONG") != nullptr) return 600;
#ifdef __SANITIZE_ADDRESS__
  return 12;  // A round takes ten times as long.
#else
  return 60;
#endif
}

disk::Address place(BlockId id) { return {disk::Segment{id.segment}, id.offset()}; }

// Damages one block; what was done.
std::string damage(SimDisk& disk, BlockId id, RandomStream& random) {
  Bytes block = disk.peek(place(id), block_size);
  std::string what;
  std::size_t from = 0, length = block_size;
  bool zeros = true;
  switch (random.below(6)) {
    case 0: {
      const std::uint64_t bit = random.below(8 * block_size);
      block[bit / 8] ^= static_cast<std::byte>(1 << bit % 8);
      length = 0;
      what = absl::StrCat("bit ", bit);
      break;
    }
    case 1:
      what = "zeros";
      break;
    case 2:
      length /= 2;
      what = "zeros in the first half";
      break;
    case 3:
      from = length /= 2;
      what = "zeros in the second half";
      break;
    case 4:
      from = random.below(8) * 512;
      length = 512;
      zeros = false;
      what = absl::StrCat("noise in 512 bytes at ", from);
      break;
    default:
      zeros = false;
      what = "noise";
      break;
  }
  for (std::size_t i = from; i < from + length; ++i) {
    block[i] = zeros ? std::byte{0} : static_cast<std::byte>(random.next());
  }
  disk.poke(place(id), block);
  return absl::StrCat(what, " of ", to_string(id));
}

// Link counts follow from the names that are left: fsck compares them.
std::string without_links(const std::string& text) {
  static const std::regex links(" links [0-9]+");
  return std::regex_replace(text, links, "");
}

// The group's permissions go with the extended attributes.
std::string without_mode(const std::string& text) {
  static const std::regex mode("mode [0-9a-f]+");
  return std::regex_replace(text, mode, "");
}

std::set<std::string> lines_of(const std::string& text) {
  std::set<std::string> lines;
  for (std::size_t from = 0, to; (to = text.find('\n', from)) != text.npos; from = to + 1) {
    lines.insert(text.substr(from, to - from));
  }
  return lines;
}

// A store that is damaged and repaired.
class RepairedStore {
 public:
  RepairedStore(Medium& base, std::uint64_t seed)
      : cluster_(options(seed)), repairer_(&cluster_.simulation().add_node("repairer")) {
    cluster_.disk().become_copy_of(base.cluster.disk());
  }
  SimDisk& disk() { return cluster_.disk(); }
  const std::vector<std::string>& told() const { return told_; }
  bool has_told(const std::string& what) const {
    return std::any_of(told_.begin(), told_.end(),
                       [&what](const std::string& line) { return absl::StrContains(line, what); });
  }
  std::uint64_t count_told(const std::string& what) const {
    return std::count_if(told_.begin(), told_.end(), [&what](const std::string& line) {
      return absl::StrContains(line, what);
    });
  }

  // Nothing if the power fails meanwhile.
  std::optional<Result<check::RepairReport>> try_repair() {
    if (!disk().power_is_on()) disk().power_on();
    if (!repairer_->alive()) repairer_->start();
    const auto handle = disk().open(*repairer_);
    check::RepairOptions repair_options;
    repair_options.tell = [this](std::string_view line) { told_.emplace_back(line); };
    return cluster_.simulation().try_run(
        *repairer_, check::repair(repairer_->world(), *handle, std::move(repair_options)));
  }
  Result<check::RepairReport> repair() { return *try_repair(); }

  check::Report report() {
    auto report = cluster_.simulation().run(
        cluster_.inspector(), check::run(cluster_.inspector().world(), cluster_.inspection(), {}));
    if (!report) {
      ADD_FAILURE() << report.error().message();
      return {};
    }
    return *std::move(report);
  }

  bool start() {
    cluster_.start_mount(0);
    const auto decided = [&] { return cluster_.is_up(0) || cluster_.start_error(0); };
    EXPECT_TRUE(cluster_.simulation().run_until(decided, limit)) << "the mount hangs";
    return cluster_.is_up(0);
  }
  // A store that is only half repaired may be used, or refused.
  void use_half_repaired() {
    if (start()) {
      (void)cluster_.run(0, look(&cluster_.kernel(0)));
      (void)cluster_.run(0, change(&cluster_.kernel(0)));
    }
    cluster_.crash_mount(0);
  }
  // Everything works on it, and fsck finds nothing afterwards. What is seen.
  View use() {
    EXPECT_TRUE(start()) << cluster_.start_error(0)->message();
    if (!cluster_.is_up(0)) return {};
    Kernel* kernel = &cluster_.kernel(0);
    EXPECT_THAT(cluster_.run(0, change_back(kernel)), IsEmpty());  // of an earlier use
    View seen = cluster_.run(0, look(kernel));
    // A directory that is lost is no obstacle to the others.
    if (seen.at("list of plain") == error_text(Error{Errc::no_entry, ""}) ||
        absl::StartsWith(seen.at("list of plain"), error_mark)) {
      const Status made = cluster_.run(0, kernel->mkdir("plain", 0755));
      EXPECT_TRUE(made) << made.error().message();
    }
    EXPECT_THAT(cluster_.run(0, change(kernel)), IsEmpty());
    EXPECT_THAT(cluster_.run(0, change_back(kernel)), IsEmpty());
    const Status stopped = cluster_.stop_mount(0);
    EXPECT_TRUE(stopped) << stopped.error().message();
    EXPECT_THAT(report().problems, IsEmpty());
    return seen;
  }

 private:
  Cluster cluster_;
  Node* const repairer_;
  std::vector<std::string> told_;
};

const std::string attribute_of = "attribute of ";

// What of `wanted` is missing or different although nobody was told.
std::vector<std::string> unexplained(const View& seen, const View& wanted,
                                     const RepairedStore& store) {
  std::vector<std::string> differences;
  const bool names_of_d_are_lost = store.has_told(" names of directory ");
  const auto is_told = [&](const std::string& name) {
    return store.has_told(absl::StrCat("entry \"", name, "\": inode "));
  };
  for (const auto& [path, text] : wanted) {
    const std::string& now = seen.at(path);
    if (without_links(now) == without_links(text)) continue;
    if (store.has_told("extended attributes of") &&
        (without_mode(without_links(now)) == without_mode(without_links(text)) ||
         (absl::StartsWith(path, attribute_of) && now == "0"))) {
      continue;
    }
    if (absl::StartsWith(path, "list of ")) {
      if (absl::StartsWith(now, error_mark)) {
        if (!is_told(path.substr(8)) && !store.has_told("root directory")) {
          differences.push_back(absl::StrCat(path, ": ", now));
        }
        continue;
      }
      const std::set<std::string> names = lines_of(now), before = lines_of(text);
      for (const std::string& line : before) {
        const std::string without_type = line.substr(0, line.rfind(' '));
        const bool is_below_d = path == "list of d" && names_of_d_are_lost;
        if (names.contains(line) || is_told(without_type) || is_below_d) continue;
        if (store.has_told("root directory")) continue;
        differences.push_back(absl::StrCat(path, " lacks ", line));
      }
      for (const std::string& line : names) {
        if (before.contains(line) || absl::StartsWith(line, "lost+found ")) continue;
        differences.push_back(absl::StrCat(path, " has got ", line));
      }
      continue;
    }
    // A path leads nowhere if any name on it is lost; but never to something else.
    const bool is_gone = now == "absent" || absl::StartsWith(now, error_mark);
    const std::string file =
        absl::StartsWith(path, attribute_of) ? path.substr(attribute_of.size()) : path;
    const std::string last = file.substr(file.rfind('/') + 1);
    const std::string first = file.substr(0, file.find('/'));
    const bool is_below_d = first == "d" && names_of_d_are_lost;
    if (is_gone &&
        (is_told(last) || is_told(first) || is_below_d || store.has_told("root directory"))) {
      continue;
    }
    differences.push_back(absl::StrCat(path, ": ", now, "\n  instead of ", text));
  }
  return differences;
}

class RepairTest : public testing::TestWithParam<std::tuple<bool, const char*>> {
 protected:
  RepairTest() {
    previous_sink_ = set_log_sink([](Severity, std::string_view) {});
  }
  ~RepairTest() override { set_log_sink(previous_sink_); }
  static Medium& medium(bool clean) {
    static Medium crashed(false), ended(true);
    return clean ? ended : crashed;
  }
  LogSink previous_sink_;
};

TEST_P(RepairTest, BringsBackWhatIsNotToldToBeLost) {
  const auto& [clean, kind_name] = GetParam();
  const std::string kind = kind_name;
  Medium& base = medium(clean);
  const bool is_log = absl::StartsWith(kind, "log");
  if (clean && kind == "log chunk") return;  // A log that was left in peace has none that counts.
  ASSERT_FALSE(base.kinds[kind].empty());
  RepairedStore whole(base, 1);
  const check::Report before = whole.report();
  std::uint64_t refused = 0, with_loss = 0;
  for (std::uint64_t round = 0; round < rounds() && !HasFailure(); ++round) {
    RandomStream random(round);
    RepairedStore store(base, round + 1);
    // Every other one is among the first, which everything hangs on: of inodes, the directories.
    const std::vector<BlockId>& blocks = base.kinds[kind];
    const std::uint64_t among = round % 2 == 0 ? blocks.size() : 3;
    const BlockId id = blocks[random.below(std::min<std::uint64_t>(among, blocks.size()))];
    SCOPED_TRACE(absl::StrCat("round ", round, ": ", damage(store.disk(), id, random)));
    const auto repaired = store.repair();
    SCOPED_TRACE(absl::StrCat("told:\n", absl::StrJoin(store.told(), "\n").substr(0, 3000)));
    if (!repaired) {
      ++refused;
      EXPECT_EQ(kind, "superblock") << repaired.error().message();
      EXPECT_TRUE(absl::StrContains(repaired.error().message(), "superblock"));
      continue;
    }
    with_loss += repaired->losses > 0;
    const check::Report after = store.report();
    EXPECT_THAT(after.problems, IsEmpty());
    EXPECT_THAT(after.leaks, IsEmpty());
    if (!is_log) {
      EXPECT_EQ(after.inodes, before.inodes - store.count_told("lost: inode ") -
                                  store.count_told("stood in no orphan list") +
                                  store.count_told("is new, directory") +
                                  store.count_told("root directory"));
    }
    const View seen = store.use();
    if (HasFailure()) break;
    std::vector<std::string> best = unexplained(seen, base.views.back(), store);
    // Of a damaged log the end may be lost.
    for (std::size_t i = 0; is_log && !best.empty() && i < base.views.size(); ++i) {
      best = std::min(best, unexplained(seen, base.views[i], store),
                      [](const auto& a, const auto& b) { return a.size() < b.size(); });
    }
    EXPECT_THAT(best, IsEmpty());
    if (kind == "piece" || kind == "directory inner block" || kind == "orphan list") {
      EXPECT_FALSE(store.has_told("lost:") && clean) << "nothing has to be lost";
    }
  }
  std::printf("%s: %llu with losses, %llu refused\n", kind_name,
              static_cast<unsigned long long>(with_loss), static_cast<unsigned long long>(refused));
}

INSTANTIATE_TEST_SUITE_P(OfEachKind, RepairTest,
                         testing::Combine(testing::Bool(),
                                          testing::Values("superblock", "piece", "inode",
                                                          "extended attributes", "directory leaf",
                                                          "directory inner block", "orphan list",
                                                          "log header", "log chunk")),
                         [](const auto& param_info) {
                           std::string name = std::get<1>(param_info.param);
                           for (char& c : name) {
                             if (c == ' ') c = '_';
                           }
                           return absl::StrCat(
                               name, std::get<0>(param_info.param) ? "_clean" : "_crashed");
                         });

// ---- Worse damage ----

class WorseDamageTest : public testing::Test {
 protected:
  WorseDamageTest() : base(false) {
    previous_sink_ = set_log_sink([](Severity, std::string_view) {});
    for (const auto& [kind, blocks] : base.kinds) {
      if (kind != "superblock") all.insert(all.end(), blocks.begin(), blocks.end());
    }
  }
  ~WorseDamageTest() override { set_log_sink(previous_sink_); }

  Medium base;
  std::vector<BlockId> all;

 private:
  LogSink previous_sink_;
};

TEST_F(WorseDamageTest, LeavesAStoreThatCanBeUsed) {
  for (std::uint64_t round = 0; round < 2 * rounds() && !HasFailure(); ++round) {
    RandomStream random(round);
    RepairedStore store(base, round + 1);
    std::string what;
    for (std::uint64_t i = 0; i < 2 + round % 10; ++i) {
      // Kinds of which there are few get their share.
      const auto kind = std::next(base.kinds.begin(), random.below(base.kinds.size()));
      if (kind->first == "superblock") continue;
      const BlockId id = i % 2 == 0 ? kind->second[random.below(kind->second.size())]
                                    : all[random.below(all.size())];
      absl::StrAppend(&what, damage(store.disk(), id, random), "; ");
    }
    SCOPED_TRACE(absl::StrCat("round ", round, ": ", what));
    const auto repaired = store.repair();
    SCOPED_TRACE(absl::StrCat("told:\n", absl::StrJoin(store.told(), "\n").substr(0, 3000)));
    ASSERT_TRUE(repaired) << repaired.error().message();
    EXPECT_THAT(store.report().problems, IsEmpty());
    const auto again = store.repair();
    ASSERT_TRUE(again);
    EXPECT_FALSE(again->has_changed()) << store.told().back();
    (void)store.use();
  }
}

// Blocks that a program with a mistake has sealed: any bytes in any block, with a good checksum.
TEST_F(WorseDamageTest, AnySealedNonsenseIsPutRight) {
  std::vector<std::vector<BlockId>> kinds;
  for (const auto& [kind, blocks] : base.kinds) {
    if (kind != "superblock" && !absl::StartsWith(kind, "log")) kinds.push_back(blocks);
  }
  const std::uint64_t numbers[] = {0, 1, 2, 3, 7, 100, 1u << 20, 1ull << 40, 1ull << 63, ~0ull};
  for (std::uint64_t round = 0; round < 5 * rounds() && !HasFailure(); ++round) {
    RandomStream random(round);
    RepairedStore store(base, round + 1);
    std::string what;
    for (std::uint64_t i = 0; i <= round % 4; ++i) {
      const std::vector<BlockId>& blocks = kinds[random.below(kinds.size())];
      // The first inodes are those that everything hangs on.
      const std::uint64_t among = random.below(2) == 0 ? blocks.size() : 6;
      const BlockId id = blocks[random.below(std::min<std::uint64_t>(among, blocks.size()))];
      Bytes block = store.disk().peek(place(id), block_size);
      absl::StrAppend(&what, to_string(id), " at");
      for (std::uint64_t j = 0; j <= random.below(4); ++j) {
        // Most of what matters is in the first half KiB.
        const std::uint64_t end = random.below(3) > 0 ? 512 : block_size;
        const std::uint64_t at = 24 + random.below(end - 32);
        if (at / 8 == 13)
          continue;  // Of an inode: extended attributes, which the check passes over.
        absl::StrAppend(&what, " ", at);
        switch (random.below(3)) {
          case 0:
            block[at] = static_cast<std::byte>(random.next());
            break;
          case 1:
            plumeria::store(block.data() + at / 8 * 8, numbers[random.below(std::size(numbers))]);
            break;
          default:
            plumeria::store(block.data() + at / 4 * 4, static_cast<std::uint32_t>(random.below(9)));
        }
      }
      format::seal(block, id);
      store.disk().poke(place(id), block);
      absl::StrAppend(&what, "; ");
    }
    SCOPED_TRACE(absl::StrCat("round ", round, ": ", what));
    const auto repaired = store.repair();
    SCOPED_TRACE(absl::StrCat("told:\n", absl::StrJoin(store.told(), "\n").substr(0, 3000)));
    ASSERT_TRUE(repaired) << repaired.error().message();
    const check::Report after = store.report();
    EXPECT_THAT(after.problems, IsEmpty());
    EXPECT_THAT(after.leaks, IsEmpty());
    const auto again = store.repair();
    ASSERT_TRUE(again);
    EXPECT_FALSE(again->has_changed()) << store.told().back();
    if (round % 5 == 0) store.use_half_repaired();
  }
}

// The power fails at any write of a repair that has much to do. Whatever happens to the store then,
// the next repair ends, and no more is lost than without the power cut.
TEST_F(WorseDamageTest, PowerCutsMakeNothingWorse) {
  const auto make_worse = [this](RepairedStore& store, bool directory_is_lost) {
    RandomStream random(7);
    std::vector<BlockId> blocks{base.kinds["orphan list"].front()};
    if (directory_is_lost) {
      blocks.push_back({format::inode_segment, 2});  // "d", the first that was made
      blocks.push_back(base.kinds["piece"].front());
    } else {
      blocks.push_back(base.kinds["directory inner block"].front());
      blocks.push_back(base.kinds["directory leaf"].back());
      blocks.push_back({format::inode_segment, 100});
    }
    for (const BlockId id : blocks) {
      Bytes noise(block_size);
      for (std::byte& byte : noise) byte = static_cast<std::byte>(random.next());
      store.disk().poke(place(id), noise);
    }
  };
  for (const bool directory_is_lost : {false, true}) {
    RepairedStore straight(base, 1);
    make_worse(straight, directory_is_lost);
    const std::uint64_t changes_before = straight.disk().changes();
    ASSERT_TRUE(straight.repair());
    const std::uint64_t changes = straight.disk().changes() - changes_before;
    const std::uint64_t inodes = straight.report().inodes;
    std::printf("%llu changes, %llu losses\n", static_cast<unsigned long long>(changes),
                static_cast<unsigned long long>(straight.count_told("lost:")));
    ASSERT_GT(changes, 20u);
    const std::uint64_t step = std::max<std::uint64_t>(1, changes / rounds());
    for (std::uint64_t cut = 0; cut < changes && !HasFailure(); cut += step) {
      RepairedStore store(base, cut + 1);
      make_worse(store, directory_is_lost);
      SCOPED_TRACE(absl::StrCat("cut after ", cut, " changes"));
      store.disk().cut_power_after(cut);
      EXPECT_FALSE(store.try_repair()) << "it ended before";
      // Half of the time once more, in the middle of the second.
      store.disk().never_cut_power();
      if (cut / step % 2 == 1) {
        store.disk().cut_power_after(cut / 2);
        (void)store.try_repair();
        store.disk().never_cut_power();
      }
      const bool is_used = cut / step % 5 == 4;
      if (is_used) store.use_half_repaired();
      const auto repaired = store.try_repair();
      ASSERT_TRUE(repaired);
      SCOPED_TRACE(absl::StrCat("told:\n", absl::StrJoin(store.told(), "\n").substr(0, 3000)));
      ASSERT_TRUE(*repaired) << repaired->error().message();
      const check::Report after = store.report();
      EXPECT_THAT(after.problems, IsEmpty());
      if (!is_used) {
        EXPECT_EQ(after.inodes, inodes);
      }
      EXPECT_THAT(unexplained(store.use(), base.views.back(), store), IsEmpty());
    }
  }
}

}  // namespace
}  // namespace plumeria::sim
