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

#include "base/checksum.h"
#include "base/log.h"
#include "format/block.h"
#include "format/layout.h"
#include "format/log_chunk.h"
#include "sim/cluster.h"
#include "wal/log_reader.h"

namespace plumeria::sim {
namespace {

using format::block_size;
using format::BlockId;
using format::BlockType;
using testing::IsEmpty;

constexpr Duration limit = 300s;
constexpr std::uint64_t tail_files = 8;  // each is a chunk of the log of its own
constexpr int names_in_index = 600;

// How often each kind of block is damaged.
std::uint64_t rounds() {
  if (std::getenv("PLUMERIA_LONG") != nullptr) return 2000;
#ifdef __SANITIZE_ADDRESS__
  return 60;  // A round takes ten times as long.
#else
  return 200;
#endif
}

std::string tail_name(std::uint64_t i) { return absl::StrCat("tail", i); }
std::string long_name(int i) { return absl::StrCat("d/", std::string(200, 'n'), i); }

Bytes content(std::size_t size, std::uint64_t seed) {
  Bytes bytes(size);
  RandomStream random(seed);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random.next() | 1);
  return bytes;
}

Task<Status> write_file(Kernel* kernel, std::string path, std::size_t size, bool keep_open) {
  OpenFlags flags;
  flags.writable = flags.create = true;
  CO_TRY(const Descriptor file, co_await kernel->open(path, flags, 0644));
  if (size > 0) {
    CO_TRY(const std::uint64_t written, co_await kernel->pwrite(file, 0, content(size, size)));
    CHECK(written == size);
  }
  if (!keep_open) CO_TRY_STATUS(co_await kernel->close(file));
  co_return Status{};
}

// A file without a name that is open.
Task<Status> make_orphan(Kernel* kernel) {
  CO_TRY_STATUS(co_await write_file(kernel, "orphan", 5000, true));
  CO_TRY_STATUS(co_await kernel->unlink("orphan"));
  co_return co_await kernel->sync();
}

// One of each kind of file, and a directory with an index.
Task<Status> make_tree(Kernel* kernel) {
  CO_TRY_STATUS(co_await kernel->mkdir("d", 0755));
  for (int i = 0; i < names_in_index; ++i) {
    CO_TRY_STATUS(co_await write_file(kernel, long_name(i), i == 7 ? 100 : 0, false));
  }
  CO_TRY_STATUS(co_await kernel->mkdir("plain", 0755));
  CO_TRY_STATUS(co_await write_file(kernel, "plain/a", 10, false));
  CO_TRY_STATUS(co_await write_file(kernel, "inline", 1000, false));
  CO_TRY_STATUS(co_await write_file(kernel, "small", 20'000, false));
  CO_TRY_STATUS(co_await write_file(kernel, "large", 300'000, false));
  CO_TRY_STATUS(co_await kernel->symlink("inline", "link"));
  CO_TRY_STATUS(co_await kernel->link("inline", "plain/hard"));
  for (const char* path : {"inline", "plain", "large"}) {
    CO_TRY_STATUS(co_await kernel->setxattr(path, "user.x", content(700, 7), 0));
  }
  co_return co_await make_orphan(kernel);
}

Task<Status> make_tail_file(Kernel* kernel, std::uint64_t i) {
  CO_TRY_STATUS(co_await write_file(kernel, tail_name(i), 50 + i, false));
  co_return co_await kernel->sync();
}

// What an application sees, by path.
using View = std::map<std::string, std::string>;
constexpr const char* error_mark = "error: ";

std::string error_text(const Error& error) { return absl::StrCat(error_mark, error.message()); }

Task<std::string> look_at_file(Kernel* kernel, std::string path) {
  auto opened = co_await kernel->open(path, OpenFlags{}, 0);
  if (!opened) {
    if (opened.error().code == Errc::no_entry) co_return "absent";
    co_return error_text(opened.error());
  }
  auto attributes = co_await kernel->fstat(*opened);
  auto bytes = co_await kernel->pread(*opened, 0, 400'000);
  const Status closed = co_await kernel->close(*opened);
  if (!attributes) co_return error_text(attributes.error());
  if (!bytes) co_return error_text(bytes.error());
  if (!closed) co_return error_text(closed.error());
  co_return absl::StrCat("mode ", absl::Hex(attributes->mode), " links ", attributes->links,
                         " size ", attributes->size, " read ", bytes->size(), " ",
                         checksum(*bytes));
}

Task<std::string> look_at_directory(Kernel* kernel, std::string path) {
  auto names = co_await kernel->list(path);
  if (!names) co_return error_text(names.error());
  std::set<std::string> sorted;
  for (const ListedName& name : *names) {
    if (!sorted.insert(absl::StrCat(name.name, " ", name.type)).second) co_return "a name twice";
  }
  std::string text;
  for (const std::string& name : sorted) absl::StrAppend(&text, name, "\n");
  co_return text;
}

Task<std::string> look_at_link(Kernel* kernel, std::string path) {
  auto target = co_await kernel->readlink(path);
  co_return target ? *target : error_text(target.error());
}

Task<View> look(Kernel* kernel) {
  View view;
  for (std::string path : {"", "d", "plain"}) {
    view[absl::StrCat("list of ", path)] = co_await look_at_directory(kernel, path);
  }
  std::vector<std::string> files{"plain/a", "inline", "small", "large", "plain/hard"};
  for (int i = 7; i < names_in_index; i += 37) files.push_back(long_name(i));
  for (std::uint64_t i = 0; i < tail_files; ++i) files.push_back(tail_name(i));
  for (const std::string& path : files) view[path] = co_await look_at_file(kernel, path);
  view["link"] = co_await look_at_link(kernel, "link");
  for (std::string path : {"inline", "plain", "large"}) {
    auto value = co_await kernel->getxattr(path, "user.x");
    view[absl::StrCat("attribute of ", path)] =
        !value ? error_text(value.error()) : absl::StrCat(*value ? checksum(**value) : 0);
  }
  co_return view;
}

// Changes beside what look() sees; the errors that came.
Task<std::vector<Error>> change(Kernel* kernel) {
  std::vector<Error> errors;
  const auto note = [&errors](const Status& status) {
    if (!status) errors.push_back(status.error());
  };
  note(co_await kernel->mkdir("plain/new", 0755));
  if (!errors.empty()) co_return errors;
  for (const std::size_t size : {0, 100, 5000, 100'000}) {
    for (int i = 0; i < 3; ++i) {
      const std::string path = absl::StrCat("plain/new/", size, "-", i);
      note(co_await write_file(kernel, path, size, false));
    }
  }
  note(co_await kernel->rename("plain/new/100-1", "plain/new/renamed", 0));
  note(co_await kernel->unlink("plain/new/5000-1"));
  note(co_await kernel->sync());
  co_return errors;
}
Task<std::vector<Error>> change_back(Kernel* kernel) {
  std::vector<Error> errors;
  auto names = co_await kernel->list("plain/new");
  if (!names) {
    if (names.error().code != Errc::no_entry) errors.push_back(names.error());
    co_return errors;
  }
  for (const ListedName& name : *names) {
    const Status gone = co_await kernel->unlink(absl::StrCat("plain/new/", name.name));
    if (!gone) errors.push_back(gone.error());
  }
  const Status gone = co_await kernel->rmdir("plain/new");
  if (!gone) errors.push_back(gone.error());
  co_return errors;
}

ClusterOptions options(std::uint64_t seed) {
  ClusterOptions options;
  options.seed = seed;
  options.embedded = true;
  options.mounts = 1;
  return options;
}

const std::map<BlockType, std::string> kind_names{
    {BlockType::superblock, "superblock"},
    {BlockType::piece, "piece"},
    {BlockType::inode, "inode"},
    {BlockType::directory_leaf, "directory leaf"},
    {BlockType::directory_inner, "directory inner block"},
    {BlockType::orphan_list, "orphan list"},
    {BlockType::log_header, "log header"},
    {BlockType::xattrs, "extended attributes"}};

// The medium as kill -9 of the mount leaves it (the log has records, the orphan list an entry), or
// as it is after a clean end; and what is seen on it.
struct Medium {
  explicit Medium(bool clean) : cluster(options(1)) {
    cluster.start();
    Kernel* kernel = &cluster.kernel(0);
    expect(cluster.run(0, make_tree(kernel)));
    // After a replay the blocks are in place, and the next life has but its own records.
    cluster.crash_mount(0);
    cluster.start();
    kernel = &cluster.kernel(0);
    expect(cluster.run(0, make_orphan(kernel)));
    views.push_back(cluster.run(0, look(kernel)));
    for (std::uint64_t i = 0; i < tail_files; ++i) {
      expect(cluster.run(0, make_tail_file(kernel, i)));
      views.push_back(cluster.run(0, look(kernel)));
    }
    cluster.simulation().run_for(50ms);  // The log vouches for its end.
    cluster.crash_mount(0);
    if (clean) {
      cluster.start();
      expect(cluster.run(0, cluster.kernel(0).sync()));
      expect(cluster.stop_mount(0));
    }
    EXPECT_THAT(cluster.check(), IsEmpty());
    find_blocks();
  }
  static void expect(const Status& status) { EXPECT_TRUE(status) << status.error().message(); }

  void find_blocks() {
    SimDisk& disk = cluster.disk();
    for (const disk::Segment segment : disk.segments()) {
      const auto number = static_cast<std::uint64_t>(segment);
      const bool is_log =
          number >= format::log_segment_base && number < format::orphan_segment_base;
      for (const std::uint64_t block : disk.blocks(segment)) {
        const BlockId id{number, block};
        const Bytes bytes = disk.peek({segment, id.offset()}, block_size);
        if (is_log && block >= format::log_header_blocks) {
          if (is_live(number, id)) kinds["log chunk"].push_back(id);
        } else if (load<std::uint32_t>(bytes.data()) == format::block_magic &&
                   number != format::small_segment && !format::is_data_segment(number)) {
          kinds[kind_names.at(format::type_of(bytes))].push_back(id);
        }
      }
    }
  }

  // Whether the log's owner has written there since the header that counts.
  bool is_live(std::uint64_t segment, BlockId id) {
    const auto slot = static_cast<std::uint32_t>(segment - format::log_segment_base);
    const format::LogHeader header =
        cluster.simulation()
            .run(cluster.inspector(), wal::read_log_header(cluster.inspection(), slot))
            ->header;
    const std::uint64_t first = (format::log_ring_start + header.start) / block_size;
    return header.state == format::LogState::in_use && id.number >= first;
  }

  Cluster cluster;
  std::vector<View> views;  // after 0, 1, … of the tail's files
  std::map<std::string, std::vector<BlockId>> kinds;
};
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
