// Damages blocks of a store, of each kind and in many ways, and looks at it through fsck and
// through a mount. Each answer must be right, or an error that names the block; fsck must find the
// damage; and nothing else may have been touched: once the damage is undone, all is as it was.
#include <absl/strings/match.h>
#include <absl/strings/str_cat.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <map>
#include <set>

#include "base/log.h"
#include "format/block.h"
#include "sim/damaged_medium.h"

namespace plumeria::sim {
namespace {

using namespace damaged_medium;
using format::block_size;
using format::BlockId;
using testing::IsEmpty;

// How often each kind of block is damaged.
std::uint64_t rounds() {
  if (std::getenv("PLUMERIA_LONG") != nullptr) return 2000;
#ifdef __SANITIZE_ADDRESS__
  return 60;  // A round takes ten times as long.
#else
  return 200;
#endif
}

// One way to damage blocks: what was there, and what is there now.
struct Damage {
  std::string what;
  std::map<BlockId, std::pair<Bytes, Bytes>> blocks;
};

disk::Address place(BlockId id) { return {disk::Segment{id.segment}, id.offset()}; }

Damage make_damage(const SimDisk& disk, const std::vector<BlockId>& blocks, RandomStream& random) {
  const BlockId id = blocks[random.below(blocks.size())];
  const Bytes before = disk.peek(place(id), block_size);
  Bytes after = before;
  Damage damage;
  const std::uint64_t way = random.below(20);
  if (way < 13) {
    const std::uint64_t bit = random.below(8 * block_size);
    after[bit / 8] ^= static_cast<std::byte>(1 << bit % 8);
    damage.what = absl::StrCat("bit ", bit);
  } else if (way < 15) {
    std::fill(after.begin(), after.end(), std::byte{0});
    damage.what = "zeros";
  } else if (way < 17) {
    const std::uint64_t sector = random.below(8) * 512;
    for (std::uint64_t i = 0; i < 512; ++i) {
      after[sector + i] = way == 15 ? std::byte{0} : static_cast<std::byte>(random.next());
    }
    damage.what = absl::StrCat("512 bytes at ", sector);
  } else if (way == 17) {
    for (std::byte& byte : after) byte = static_cast<std::byte>(random.next());
    damage.what = "noise";
  } else {
    const BlockId other = blocks[random.below(blocks.size())];
    after = disk.peek(place(other), block_size);
    damage.what = absl::StrCat("swap with ", to_string(other));
    damage.blocks[other] = {after, before};
  }
  absl::StrAppend(&damage.what, " of ", to_string(id));
  damage.blocks[id] = {before, after};
  std::erase_if(damage.blocks,
                [](const auto& one) { return one.second.first == one.second.second; });
  return damage;
}

bool names_a_block(const std::string& text, const Damage& damage) {
  for (const auto& [id, bytes] : damage.blocks) {
    std::string name = to_string(id);
    if (absl::StrContains(name, "log of slot")) name = name.substr(0, name.find(','));
    if (absl::StrContains(text, name)) return true;
    // A directory says which of its blocks is missing.
    if (id.segment == format::directory_segment && absl::StrContains(text, "directory")) {
      return true;
    }
  }
  return false;
}

void expect_error(const Error& error, const Damage& damage) {
  const std::set<Errc> fitting{Errc::corrupt, Errc::io, Errc::not_a_store};
  EXPECT_TRUE(fitting.contains(error.code)) << error.message();
  EXPECT_TRUE(names_a_block(error.message(), damage)) << error.message();
}

// What is seen is, but for errors that name the damage, one of these views. Returns its number.
std::optional<std::size_t> find_view(const std::vector<View>& views, const View& seen,
                                     const Damage* damage) {
  for (std::size_t i = views.size(); i-- > 0;) {
    bool equal = true;
    for (const auto& [path, text] : seen) {
      const bool is_error = absl::StartsWith(text, error_mark);
      if (is_error && damage != nullptr && names_a_block(text, *damage)) continue;
      equal &= text == views[i].at(path);
    }
    if (equal) return i;
  }
  return std::nullopt;
}

std::string difference(const View& seen, const View& wanted) {
  std::string text;
  for (const auto& [path, what] : seen) {
    if (what != wanted.at(path)) {
      absl::StrAppend(&text, path, ": ", what, "\n  instead of ", wanted.at(path), "\n");
    }
  }
  return text;
}

// One store with one damage.
class DamagedStore {
 public:
  DamagedStore(Medium& base, const std::string& kind, std::uint64_t round)
      : base_(base), cluster_(options(round + 1)) {
    RandomStream random(round);
    cluster_.disk().become_copy_of(base.cluster.disk());
    damage_ = make_damage(cluster_.disk(), base.kinds[kind], random);
    for (const auto& [id, bytes] : damage_.blocks) cluster_.disk().poke(place(id), bytes.second);
  }
  const Damage& damage() const { return damage_; }
  bool is_found_by_fsck() { return !cluster_.check().empty(); }
  std::optional<Error> start_error() const { return cluster_.start_error(0); }

  // Starts the mount; false if it says why it cannot.
  bool start() {
    cluster_.start_mount(0);
    const auto decided = [&] { return cluster_.is_up(0) || cluster_.start_error(0); };
    EXPECT_TRUE(cluster_.simulation().run_until(decided, limit)) << "the mount hangs";
    return cluster_.is_up(0);
  }
  // Reads all and changes much. Errors must name the damage. The number of the view that was seen.
  std::optional<std::size_t> use(std::uint64_t& failed_calls) {
    Kernel* kernel = &cluster_.kernel(0);
    const View seen = cluster_.run(0, look(kernel));
    for (const auto& [path, text] : seen) failed_calls += absl::StartsWith(text, error_mark);
    const auto view = find_view(base_.views, seen, &damage_);
    EXPECT_TRUE(view) << difference(seen, base_.views.back());
    for (const Error& error : cluster_.run(0, change(kernel))) expect_error(error, damage_);
    const Status stopped = cluster_.stop_mount(0);
    if (!stopped) expect_error(stopped.error(), damage_);
    return view;
  }
  void give_up() { cluster_.crash_mount(0); }
  // As far as the damage is still there.
  void undo_damage() {
    for (const auto& [id, bytes] : damage_.blocks) {
      if (cluster_.disk().peek(place(id), block_size) == bytes.second) {
        cluster_.disk().poke(place(id), bytes.first);
      }
    }
  }
  // All is right, and what use() changed can be changed back. The number of the view that is seen.
  std::optional<std::size_t> expect_sound() {
    EXPECT_THAT(cluster_.check(), IsEmpty());
    EXPECT_TRUE(start()) << start_error()->message();
    if (!cluster_.is_up(0)) return std::nullopt;
    Kernel* kernel = &cluster_.kernel(0);
    EXPECT_THAT(cluster_.run(0, change_back(kernel)), IsEmpty());
    const View seen = cluster_.run(0, look(kernel));
    const auto view = find_view(base_.views, seen, nullptr);
    EXPECT_TRUE(view) << difference(seen, base_.views.back());
    const Status stopped = cluster_.stop_mount(0);
    EXPECT_TRUE(stopped) << stopped.error().message();
    EXPECT_THAT(cluster_.check(), IsEmpty());
    return view;
  }

 private:
  Medium& base_;
  Cluster cluster_;
  Damage damage_;
};

class DamageTest : public testing::TestWithParam<std::tuple<bool, const char*>> {
 protected:
  DamageTest() {
    previous_sink_ = set_log_sink([](Severity, std::string_view) {});
  }
  ~DamageTest() override { set_log_sink(previous_sink_); }
  static Medium& medium(bool clean) {
    static Medium crashed(false), ended(true);
    return clean ? ended : crashed;
  }
  LogSink previous_sink_;
};

TEST_P(DamageTest, IsFoundAndHarmsNothingElse) {
  const auto& [clean, kind] = GetParam();
  Medium& base = medium(clean);
  const bool is_chunk = std::string_view(kind) == "log chunk";
  if (clean && is_chunk) return;  // A log that was left in peace has none that counts.
  ASSERT_FALSE(base.kinds[kind].empty());
  std::uint64_t made = 0, found = 0, refused = 0, failed_calls = 0;
  for (std::uint64_t round = 0; round < rounds() && !HasFailure(); ++round) {
    DamagedStore store(base, kind, round);
    if (store.damage().blocks.empty()) continue;
    ++made;
    SCOPED_TRACE(absl::StrCat("round ", round, ": ", store.damage().what));
    const bool is_found = store.is_found_by_fsck();
    found += is_found;

    std::optional<std::size_t> view = tail_files;
    const std::uint64_t failed_before = failed_calls;
    if (store.start()) {
      view = store.use(failed_calls);
    } else {
      ++refused;
      expect_error(*store.start_error(), store.damage());
      store.give_up();
    }
    if (!is_found) {
      // Then all was right, because the log or the other header told better.
      EXPECT_EQ(failed_calls, failed_before);
    }
    EXPECT_EQ(view, tail_files);
    store.undo_damage();
    EXPECT_EQ(store.expect_sound(), view);
  }
  std::printf("%s: fsck found %llu of %llu, %llu mounts refused, %llu calls failed\n", kind,
              static_cast<unsigned long long>(found), static_cast<unsigned long long>(made),
              static_cast<unsigned long long>(refused),
              static_cast<unsigned long long>(failed_calls));
}

INSTANTIATE_TEST_SUITE_P(OfEachKind, DamageTest,
                         testing::Combine(testing::Bool(),
                                          testing::Values("superblock", "piece", "inode",
                                                          "directory leaf", "directory inner block",
                                                          "orphan list", "log header", "log chunk",
                                                          "extended attributes")),
                         [](const auto& param_info) {
                           std::string name = std::get<1>(param_info.param);
                           for (char& c : name) {
                             if (c == ' ') c = '_';
                           }
                           return absl::StrCat(
                               name, std::get<0>(param_info.param) ? "_clean" : "_crashed");
                         });

}  // namespace
}  // namespace plumeria::sim
