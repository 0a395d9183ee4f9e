#include <gtest/gtest.h>

#include "base/number.h"
#include "base/seeded_random.h"
#include "lock/lease_clock.h"
#include "lock/messages.h"
#include "lock/name.h"
#include "lock/view.h"

namespace plumeria::lock {
namespace {

TEST(ModeTest, OnlySharedGoesWithShared) {
  struct Row {
    Mode held, wanted;
    bool compatible, covers;
  };
  constexpr Row rows[] = {
      {Mode::none, Mode::none, true, true},
      {Mode::none, Mode::shared, true, false},
      {Mode::none, Mode::exclusive, true, false},
      {Mode::shared, Mode::none, true, true},
      {Mode::shared, Mode::shared, true, true},
      {Mode::shared, Mode::exclusive, false, false},
      {Mode::exclusive, Mode::none, true, true},
      {Mode::exclusive, Mode::shared, false, true},
      {Mode::exclusive, Mode::exclusive, false, true},
  };
  for (const Row& row : rows) {
    EXPECT_EQ(compatible(row.held, row.wanted), row.compatible)
        << mode_name(row.held) << " " << mode_name(row.wanted);
    EXPECT_EQ(covers(row.held, row.wanted), row.covers)
        << mode_name(row.held) << " " << mode_name(row.wanted);
  }
}

TEST(LeaseClockTest, ClerkStopsBeforeServerExpiresEvenWithTheFastestServerClock) {
  for (Duration duration : {Duration(100ms), Duration(2s), Duration(10s), Duration(1h)}) {
    const LeaseTerms terms{duration, 1050};
    const TimePoint sent{5s};
    // The server received it at once and its clock runs 5 % faster than the clerk's.
    const Duration server_wait = lease_expires_at(TimePoint{}, duration) - TimePoint{};
    const auto clerk_time_at_expiry = sent + server_wait * 1000 / 1050;
    EXPECT_LE(lease_deadline(sent, terms), clerk_time_at_expiry);
    EXPECT_LT(lease_usable_until(sent, terms), lease_deadline(sent, terms));
    EXPECT_LT(renew_after(terms), duration / 3);
  }
}

View example_view() {
  View view;
  view.epoch = Epoch{7};
  view.next_lease = LeaseNumber{40};
  view.lease_duration = 10s;
  view.features = 3;
  view.leases = {
      {.lease = LeaseNumber{4}, .state = LeaseState::live, .is_server = true, .label = "server"},
      {.lease = LeaseNumber{9},
       .state = LeaseState::recovering,
       .slot = 0,
       .instance = 77,
       .recoverer = LeaseNumber{4},
       .label = "host:/mnt"},
      {.lease = LeaseNumber{39}, .state = LeaseState::expired, .in_process = true, .slot = 2},
  };
  return view;
}

TEST(ViewTest, SurvivesEncoding) {
  const View view = example_view();
  auto decoded = decode_view(encode_view(view));
  ASSERT_TRUE(decoded.has_value()) << decoded.error().message();
  EXPECT_EQ(*decoded, view);
}

TEST(ViewTest, EveryDamagedByteIsFound) {
  const Bytes good = encode_view(example_view());
  for (std::size_t i = 0; i < good.size(); ++i) {
    Bytes bad = good;
    bad[i] ^= std::byte{0x10};
    EXPECT_FALSE(decode_view(bad).has_value()) << i;
    EXPECT_FALSE(decode_view(ByteView(good).first(i)).has_value()) << i;
  }
}

TEST(ViewTest, NewLeasesGetTheLowestFreeSlotAndANewNumber) {
  View view = example_view();
  EXPECT_EQ(view.lowest_free_slot(), 1u);
  LeaseRecord& added = view.add({.slot = view.lowest_free_slot(), .label = std::string(500, 'x')});
  EXPECT_EQ(raw(added.lease), 40u);
  EXPECT_EQ(added.label.size(), label_size_max);
  EXPECT_EQ(view.lowest_free_slot(), 3u);
  view.remove(LeaseNumber{9});
  EXPECT_EQ(view.lowest_free_slot(), 0u);
  EXPECT_EQ(view.find(LeaseNumber{9}), nullptr);
  EXPECT_NE(view.find(LeaseNumber{39}), nullptr);
}

const LockName some_name{LockClass::inode, 0x123456789abcdef};
const ProgramName some_program_name{"jobs", std::string(program_name_max, 'x')};
const FileLock some_file_lock{5, true, 6, 7, 8, Mode::shared, 9};

std::vector<Item> clerk_items() {
  return {Join{1, TimePoint(2ns), "host:/mnt", false},
          Renew{TimePoint(3ns)},
          Leave{},
          Request{some_name, Sequence{4}, Mode::exclusive, true},
          Release{some_name, Sequence{5}, Mode::shared},
          Keep{some_name, Sequence{6}, 7},
          Report{3, true, {{some_name, Sequence{8}, Mode::shared}}, {some_file_lock}},
          FileLockCall{CallNumber{9}, CallNumber{2}, FileLockKind::drop, true, some_file_lock},
          Named{lock_of(some_program_name), some_program_name}};
}
std::vector<Item> server_items() {
  return {Joined{1, TimePoint(2ns), LeaseNumber{3}, 4, LeaseTerms{2s, 1020}, WallTime{6}},
          JoinRefused{1, "full"},
          Renewed{TimePoint(2ns), LeaseTerms{2s, 1020}, WallTime{7}},
          Rejoin{},
          Lost{"silent"},
          Left{},
          Grant{some_name, Sequence{4}, Mode::shared, 13},
          Refused{some_name, Sequence{4}},
          Revoke{some_name, Sequence{4}, Mode::none, true, 12},
          ReportReceived{4},
          Ready{},
          FileLockAnswer{CallNumber{3}, FileLockResult::deadlock, some_file_lock}};
}

TEST(ProgramNameTest, TableAndNameTogetherAreTheLock) {
  EXPECT_EQ(lock_of({"a", "b"}), lock_of({"a", "b"}));
  EXPECT_NE(lock_of({"a", "b"}), lock_of({"b", "a"}));
  EXPECT_NE(lock_of({"a", "bc"}), lock_of({"ab", "c"}));
  EXPECT_EQ(lock_of({"a", "b"}).lock_class, LockClass::program);
  EXPECT_TRUE(is_valid({"t", std::string(program_name_max, 'x')}));
  EXPECT_TRUE(is_valid({"t", std::string("\0\xff", 2)}));
  EXPECT_FALSE(is_valid({"t", std::string(program_name_max + 1, 'x')}));
  EXPECT_FALSE(is_valid({"t", ""}));
  EXPECT_FALSE(is_valid({"", "n"}));
  EXPECT_FALSE(is_valid({std::string("a\0", 2), "n"}));
}

Bytes encode_one(const std::vector<Item>& items, Direction direction) {
  Outbox outbox;
  for (const Item& item : items) outbox.add(item);
  auto messages = outbox.take({direction, Epoch{5}, LeaseNumber{6}});
  EXPECT_EQ(messages.size(), 1u);
  return messages.at(0);
}

TEST(MessagesTest, EveryItemSurvivesEncoding) {
  for (Direction direction : {Direction::from_clerk, Direction::from_server}) {
    const auto items = direction == Direction::from_clerk ? clerk_items() : server_items();
    auto message = decode_message(encode_one(items, direction), direction);
    ASSERT_TRUE(message.has_value()) << message.error().message();
    EXPECT_EQ(message->header, (Header{direction, Epoch{5}, LeaseNumber{6}}));
    EXPECT_EQ(message->items, items);
    for (const Item& item : items) EXPECT_FALSE(to_string(item).empty());
  }
}

TEST(MessagesTest, ItemsOfTheOtherDirectionAreGarbage) {
  EXPECT_FALSE(
      decode_message(encode_one(clerk_items(), Direction::from_server), Direction::from_server)
          .has_value());
  EXPECT_FALSE(
      decode_message(encode_one(clerk_items(), Direction::from_clerk), Direction::from_server)
          .has_value());
}

TEST(MessagesTest, EveryCutIsRefusedOrShorter) {
  for (Direction direction : {Direction::from_clerk, Direction::from_server}) {
    const auto items = direction == Direction::from_clerk ? clerk_items() : server_items();
    const Bytes whole = encode_one(items, direction);
    for (std::size_t size = 0; size < whole.size(); ++size) {
      auto message = decode_message(ByteView(whole).first(size), direction);
      if (message) {
        EXPECT_LT(message->items.size(), items.size());
      }
    }
  }
}

TEST(MessagesTest, RandomDamageNeverCrashesTheDecoder) {
  SeededRandom random(1);
  const Bytes whole = encode_one(clerk_items(), Direction::from_clerk);
  for (int i = 0; i < 200'000; ++i) {
    Bytes bad = whole;
    for (int flips = 0; flips < 3; ++flips) {
      bad[24 + random.below(bad.size() - 24)] = static_cast<std::byte>(random.next());
    }
    (void)decode_message(bad, Direction::from_clerk);
  }
}

TEST(MessagesTest, LongListsAreSplitIntoMessagesOfBoundedSize) {
  Outbox outbox;
  for (std::uint64_t i = 1; i <= 10'000; ++i) {
    outbox.add(Request{{LockClass::inode, i}, Sequence{i}, Mode::shared, true});
  }
  std::uint64_t expected = 0;
  for (const Bytes& bytes : outbox.take({})) {
    EXPECT_LE(bytes.size(), lock_message_max);
    auto message = decode_message(bytes, Direction::from_clerk);
    ASSERT_TRUE(message.has_value());
    for (const Item& item : message->items) {
      EXPECT_EQ(std::get<Request>(item).name.number, ++expected);
    }
  }
  EXPECT_EQ(expected, 10'000u);
  EXPECT_TRUE(outbox.empty());
}

FileLock range(std::uint64_t start, std::uint64_t end, Mode mode) {
  return {.inode = 1, .owner = 1, .start = start, .end = end, .mode = mode};
}

TEST(FileLocksTest, RangesSplitMergeAndChangeMode) {
  struct Row {
    std::vector<FileLock> held;
    FileLock change;
    std::vector<FileLock> expected;
  };
  constexpr auto S = Mode::shared, X = Mode::exclusive, N = Mode::none;
  const Row rows[] = {
      {{}, range(0, 9, X), {range(0, 9, X)}},
      {{range(0, 9, X)}, range(3, 5, N), {range(0, 2, X), range(6, 9, X)}},
      {{range(0, 9, X)}, range(3, 5, S), {range(0, 2, X), range(3, 5, S), range(6, 9, X)}},
      {{range(0, 2, S), range(6, 9, S)}, range(3, 5, S), {range(0, 9, S)}},
      {{range(0, 2, S)}, range(3, 5, S), {range(0, 5, S)}},
      {{range(0, 2, S), range(6, 9, X)}, range(1, 7, S), {range(0, 7, S), range(8, 9, X)}},
      {{range(0, ~0ull, X)}, range(10, ~0ull, N), {range(0, 9, X)}},
      {{range(5, 9, X)}, range(0, ~0ull, N), {}},
      {{range(10, ~0ull, S)}, range(0, 9, S), {range(0, ~0ull, S)}},
  };
  for (const Row& row : rows) {
    auto held = row.held;
    apply(held, row.change);
    EXPECT_EQ(held, row.expected) << to_string(row.change);
  }
}

}  // namespace
}  // namespace plumeria::lock
