#include "fs/acl.h"

#include <algorithm>

namespace plumeria::fs {
namespace {

// Of <linux/posix_acl.h>, which user space does not get.
constexpr std::uint16_t user_obj = 0x01, user = 0x02, group_obj = 0x04, group = 0x08, mask = 0x10,
                        other = 0x20;
constexpr std::uint32_t version = 2;
constexpr std::size_t header_size = 4, entry_size = 8;

AclEntry* find(Acl& acl, std::uint16_t tag) {
  const auto at =
      std::find_if(acl.begin(), acl.end(), [tag](const AclEntry& e) { return e.tag == tag; });
  return at == acl.end() ? nullptr : &*at;
}
std::uint32_t permissions_of(const Acl& acl, std::uint16_t tag, std::uint32_t otherwise) {
  for (const AclEntry& entry : acl) {
    if (entry.tag == tag) return entry.permissions;
  }
  return otherwise;
}

// The entry that stands for the group's bits of the mode.
AclEntry* group_class(Acl& acl) {
  AclEntry* of_mask = find(acl, mask);
  return of_mask != nullptr ? of_mask : find(acl, group_obj);
}

// Each of the three that must be there once, in order, and a mask where users or groups are named.
bool is_valid(const Acl& acl) {
  std::uint16_t last = 0;
  bool named = false;
  int required = 0;
  for (const AclEntry& entry : acl) {
    if (entry.permissions > 7) return false;
    const bool many = entry.tag == user || entry.tag == group;
    if (entry.tag < last || (entry.tag == last && !many)) return false;
    last = entry.tag;
    named = named || many;
    switch (entry.tag) {
      case user_obj:
      case group_obj:
      case other:
        ++required;
        break;
      case user:
      case group:
      case mask:
        break;
      default:
        return false;
    }
  }
  return required == 3 && (!named || permissions_of(acl, mask, 8) <= 7);
}

}  // namespace

Result<Acl> decode_acl(ByteView value) {
  if (value.size() < header_size || load<std::uint32_t>(value.data()) != version ||
      (value.size() - header_size) % entry_size != 0) {
    return fail(Errc::invalid, "an access control list of unknown form");
  }
  Acl acl;
  for (std::size_t at = header_size; at < value.size(); at += entry_size) {
    AclEntry entry;
    entry.tag = load<std::uint16_t>(value.data() + at);
    entry.permissions = load<std::uint16_t>(value.data() + at + 2);
    entry.id = load<std::uint32_t>(value.data() + at + 4);
    acl.push_back(entry);
  }
  if (!is_valid(acl)) return fail(Errc::invalid, "an impossible access control list");
  return acl;
}

Bytes encode_acl(const Acl& acl) {
  Bytes value(header_size + acl.size() * entry_size);
  store(value.data(), version);
  std::byte* to = value.data() + header_size;
  for (const AclEntry& entry : acl) {
    store(to, entry.tag);
    store(to + 2, entry.permissions);
    store(to + 4, entry.id);
    to += entry_size;
  }
  return value;
}

std::uint32_t mode_of(const Acl& acl) {
  const std::uint32_t of_group = permissions_of(acl, mask, permissions_of(acl, group_obj, 0));
  return permissions_of(acl, user_obj, 0) << 6 | of_group << 3 | permissions_of(acl, other, 0);
}

bool is_minimal(const Acl& acl) { return acl.size() == 3; }

void change_mode(Acl& acl, std::uint32_t mode) {
  find(acl, user_obj)->permissions = mode >> 6 & 7;
  group_class(acl)->permissions = mode >> 3 & 7;
  find(acl, other)->permissions = mode & 7;
}

std::uint32_t inherit(Acl& acl, std::uint32_t mode) {
  const std::uint32_t granted = mode & mode_of(acl);
  change_mode(acl, granted);
  return (mode & ~std::uint32_t{0777}) | granted;
}

// acl(5), "Access check algorithm".
bool grants(const Acl& acl, std::uint32_t owner, std::uint32_t group_of_file, const Caller& caller,
            std::uint32_t wanted) {
  const auto suffices = [wanted](std::uint32_t permissions) {
    return (permissions & wanted) == wanted;
  };
  const std::uint32_t masked = permissions_of(acl, mask, 7);
  if (caller.uid == owner) return suffices(permissions_of(acl, user_obj, 0));
  for (const AclEntry& entry : acl) {
    if (entry.tag == user && entry.id == caller.uid) return suffices(entry.permissions & masked);
  }
  bool member = false;
  for (const AclEntry& entry : acl) {
    if (entry.tag != group && entry.tag != group_obj) continue;
    const std::uint32_t id = entry.tag == group ? entry.id : group_of_file;
    const auto& groups = caller.groups;
    if (id != caller.gid && std::find(groups.begin(), groups.end(), id) == groups.end()) continue;
    if (suffices(entry.permissions & masked)) return true;
    member = true;
  }
  return !member && suffices(permissions_of(acl, other, 0));
}

}  // namespace plumeria::fs
