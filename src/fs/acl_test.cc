#include "fs/acl.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace plumeria::fs {
namespace {

// Tags of acl(5), as <sys/acl.h> numbers them.
constexpr std::uint16_t owner = 1, user = 2, owning_group = 4, group = 8, mask = 16, other = 32;
constexpr std::uint32_t nobody = ~0u;

Acl minimal() { return {{owner, 6, nobody}, {owning_group, 4, nobody}, {other, 0, nobody}}; }
Acl extended() {
  return {{owner, 7, nobody}, {user, 7, 1001},   {owning_group, 5, nobody},
          {group, 2, 2002},   {mask, 5, nobody}, {other, 1, nobody}};
}
Caller caller(std::uint32_t uid, std::uint32_t gid, std::vector<std::uint32_t> groups = {}) {
  Caller caller;
  caller.uid = uid;
  caller.gid = gid;
  caller.groups = std::move(groups);
  return caller;
}

TEST(AclTest, ReadsBackWhatItWrote) {
  const auto read = decode_acl(encode_acl(extended()));
  ASSERT_TRUE(read) << read.error().message();
  EXPECT_EQ(*read, extended());
  EXPECT_EQ(encode_acl(minimal()).size(), 4 + 3 * 8);
}

TEST(AclTest, RefusesWhatIsNoList) {
  const auto is_refused = [](const Acl& acl) { return !decode_acl(encode_acl(acl)); };
  EXPECT_TRUE(is_refused({}));
  EXPECT_TRUE(is_refused({{owner, 6, nobody}, {other, 0, nobody}}));
  Acl acl = extended();
  acl.erase(acl.begin() + 4);
  EXPECT_TRUE(is_refused(acl)) << "users are named, but there is no mask";
  acl = extended();
  std::swap(acl[0], acl[1]);
  EXPECT_TRUE(is_refused(acl)) << "out of order";
  acl = extended();
  acl[5].permissions = 8;
  EXPECT_TRUE(is_refused(acl));
  acl = minimal();
  acl.push_back({other, 0, nobody});
  EXPECT_TRUE(is_refused(acl));
  Bytes bytes = encode_acl(minimal());
  bytes[0] = std::byte{3};
  EXPECT_FALSE(decode_acl(bytes)) << "another version";
  bytes = encode_acl(minimal());
  bytes.pop_back();
  EXPECT_FALSE(decode_acl(bytes));
}

TEST(AclTest, MaskIsTheGroupsPartOfTheMode) {
  EXPECT_EQ(mode_of(minimal()), 0640u);
  EXPECT_EQ(mode_of(extended()), 0751u);
  EXPECT_TRUE(is_minimal(minimal()));
  EXPECT_FALSE(is_minimal(extended()));
  Acl acl = extended();
  change_mode(acl, 0624);
  EXPECT_EQ(mode_of(acl), 0624u);
  EXPECT_EQ(acl[2].permissions, 5) << "the owning group's own entry stays";
  acl = minimal();
  change_mode(acl, 0777);
  EXPECT_EQ(mode_of(acl), 0777u);
}

TEST(AclTest, NewFilesGetWhatBothModeAndDefaultListGrant) {
  Acl acl = extended();
  EXPECT_EQ(inherit(acl, 0100666), 0100640u);
  EXPECT_EQ(mode_of(acl), 0640u);
  EXPECT_EQ(acl[1].permissions, 7) << "named users are bound by the mask alone";
}

TEST(AclTest, GrantsByTheMostSpecificEntry) {
  const auto may = [](const Caller& who, std::uint32_t wanted) {
    return grants(extended(), 1000, 2000, who, wanted);
  };
  EXPECT_TRUE(may(caller(1000, 9), 7));
  EXPECT_TRUE(may(caller(1001, 9), 5));
  EXPECT_FALSE(may(caller(1001, 9), 2)) << "the mask takes it away";
  EXPECT_TRUE(may(caller(5, 2000), 4));
  EXPECT_FALSE(may(caller(5, 2002), 2)) << "the mask takes it away";
  EXPECT_FALSE(may(caller(5, 2002), 1)) << "a group that is named does not fall to others";
  EXPECT_TRUE(may(caller(5, 9, {7, 2000}), 5));
  EXPECT_TRUE(may(caller(5, 9), 1));
  EXPECT_FALSE(may(caller(5, 9), 4));
}

}  // namespace
}  // namespace plumeria::fs
