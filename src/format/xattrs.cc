#include "format/xattrs.h"

#include <algorithm>

namespace plumeria::format {
namespace {

constexpr std::size_t entry_header = 4;

}  // namespace

bool fits(const Xattrs& xattrs) {
  std::size_t used = 0;
  for (const auto& [name, value] : xattrs) used += entry_header + name.size() + value.size();
  return used <= xattrs_max;
}

void encode_xattrs(MutableByteView block, const Xattrs& xattrs) {
  std::fill(block.begin() + xattrs_at, block.end(), std::byte{0});
  std::byte* to = block.data() + xattrs_at;
  for (const auto& [name, value] : xattrs) {
    store(to, static_cast<std::uint8_t>(name.size()));
    store(to + 2, static_cast<std::uint16_t>(value.size()));
    std::memcpy(to + entry_header, name.data(), name.size());
    if (!value.empty()) std::memcpy(to + entry_header + name.size(), value.data(), value.size());
    to += entry_header + name.size() + value.size();
  }
  const auto used = static_cast<std::uint32_t>(to - block.data() - xattrs_at);
  store(block.data() + 32, used);
}

Result<Xattrs> decode_xattrs(ByteView block, BlockId id, std::uint64_t inode) {
  const auto damaged = [id](std::string what) {
    return fail(Errc::corrupt, absl::StrCat(to_string(id), " (", what, ")"));
  };
  if (type_of(block) != BlockType::xattrs || owner_of(block) != inode) {
    return damaged(absl::StrCat("is a ", type_name(type_of(block)), " of ", owner_of(block),
                                ", expected extended attributes of inode ", inode));
  }
  const auto used = load<std::uint32_t>(block.data() + 32);
  if (used > xattrs_max) return damaged("extended attributes longer than the block");
  ByteView rest = block.subspan(xattrs_at, used);
  Xattrs xattrs;
  while (!rest.empty()) {
    if (rest.size() < entry_header) return damaged("extended attribute cut off");
    const std::size_t name_length = load<std::uint8_t>(rest.data());
    const std::size_t value_length = load<std::uint16_t>(rest.data() + 2);
    const std::size_t length = entry_header + name_length + value_length;
    if (name_length == 0 || length > rest.size()) return damaged("impossible extended attribute");
    std::string name(as_text(rest.subspan(entry_header, name_length)));
    const bool ascends = xattrs.empty() || std::prev(xattrs.end())->first < name;
    if (!ascends || name.find('\0') != std::string::npos) {
      return damaged("extended attributes out of order");
    }
    xattrs.emplace(std::move(name),
                   to_bytes(rest.subspan(entry_header + name_length, value_length)));
    rest = rest.subspan(length);
  }
  return xattrs;
}

}  // namespace plumeria::format
