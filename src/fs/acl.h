// POSIX access control lists, as acl(5) and the withdrawn POSIX 1003.1e draft 17 describe them, in
// the form in which Linux passes them as extended attributes (<linux/posix_acl_xattr.h>).
//
// The kernel checks permissions by them; what it leaves to a FUSE file system is done here: what a
// new file inherits, and that the list and the permission bits say the same.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "fs/operations.h"

namespace plumeria::fs {

constexpr std::string_view access_acl_name = "system.posix_acl_access";
constexpr std::string_view default_acl_name = "system.posix_acl_default";

struct AclEntry {
  std::uint16_t tag = 0;          // ACL_USER_OBJ and so on, of <linux/posix_acl.h>
  std::uint16_t permissions = 0;  // 4 read, 2 write, 1 execute
  std::uint32_t id = 0;           // of ACL_USER and ACL_GROUP
  friend bool operator==(const AclEntry&, const AclEntry&) = default;
};
using Acl = std::vector<AclEntry>;

// Errc::invalid if it is no list that acl_valid(3) would take.
Result<Acl> decode_acl(ByteView value);
Bytes encode_acl(const Acl& acl);

// The permission bits (0777) that go with an access list.
std::uint32_t mode_of(const Acl& acl);
// Whether it says no more than permission bits can.
bool is_minimal(const Acl& acl);
// What chmod(2) to these bits makes of it.
void change_mode(Acl& acl, std::uint32_t mode);
// Makes the default list of a directory the access list of a file that is created there with
// `mode`; returns the file's mode. The umask has no part in it.
std::uint32_t inherit(Acl& acl, std::uint32_t mode);
// Whether it grants all of `wanted` (as AclEntry::permissions) to the caller, who is not root.
bool grants(const Acl& acl, std::uint32_t owner, std::uint32_t group, const Caller& caller,
            std::uint32_t wanted);

}  // namespace plumeria::fs
