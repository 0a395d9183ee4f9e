#include "format/directory.h"

#include <algorithm>

#include "base/check.h"
#include "base/checksum.h"

namespace plumeria::format {
namespace {

constexpr std::size_t header_size = 20;
constexpr std::uint64_t collision_mask = cookie_collisions - 1;

std::size_t needed(std::size_t name_size) {
  return (header_size + name_size + 3) & ~std::size_t{3};
}

std::uint64_t cookie_at(const std::byte* entry) { return load<std::uint64_t>(entry); }
std::uint64_t inode_at(const std::byte* entry) { return load<std::uint64_t>(entry + 8); }
std::size_t length_at(const std::byte* entry) { return load<std::uint16_t>(entry + 16); }
std::size_t name_length_at(const std::byte* entry) { return load<std::uint8_t>(entry + 18); }

EntryView view_at(const std::byte* entry) {
  return {cookie_at(entry),
          inode_at(entry),
          load<std::uint8_t>(entry + 19),
          {reinterpret_cast<const char*>(entry) + header_size, name_length_at(entry)}};
}

void write_entry(std::byte* at, const EntryView& entry, std::size_t length) {
  store(at, entry.cookie);
  store(at + 8, entry.inode);
  store(at + 16, static_cast<std::uint16_t>(length));
  store(at + 18, static_cast<std::uint8_t>(entry.name.size()));
  store(at + 19, entry.type);
  std::memcpy(at + header_size, entry.name.data(), entry.name.size());
}

// An area of zeros counts as one free entry that fills it; before the first change it is made one.
bool never_used(ByteView area) { return length_at(area.data()) == 0; }

// Calls visit(offset) for each entry, free ones too, until it returns true.
template <class Visit>
void walk(ByteView area, Visit visit) {
  if (never_used(area)) return;
  for (std::size_t at = 0; at < area.size(); at += length_at(area.data() + at)) {
    if (visit(at)) return;
  }
}

// Where the entry with this cookie is; area.size() if nowhere. `previous` gets the entry before it.
std::size_t offset_of(ByteView area, std::uint64_t cookie, std::size_t* previous = nullptr) {
  std::size_t found = area.size();
  std::size_t before = area.size();
  walk(area, [&](std::size_t at) {
    if (inode_at(area.data() + at) != 0 && cookie_at(area.data() + at) == cookie) {
      found = at;
      return true;
    }
    before = at;
    return false;
  });
  if (previous != nullptr) *previous = before;
  return found;
}

std::size_t used_by(const std::byte* entry) {
  return inode_at(entry) == 0 ? 0 : needed(name_length_at(entry));
}

bool insert_into_gap(MutableByteView area, const EntryView& entry) {
  const std::size_t want = needed(entry.name.size());
  bool done = false;
  walk(area, [&](std::size_t at) {
    std::byte* here = area.data() + at;
    const std::size_t used = used_by(here);
    const std::size_t length = length_at(here);
    if (length - used < want) return false;
    if (used != 0) store(here + 16, static_cast<std::uint16_t>(used));
    write_entry(here + used, entry, length - used);
    done = true;
    return true;
  });
  return done;
}

void compact(MutableByteView area) {
  const Bytes old = to_bytes(area);
  const std::vector<EntryView> entries = [&] {
    std::vector<EntryView> list;
    walk(old, [&](std::size_t at) {
      if (inode_at(old.data() + at) != 0) list.push_back(view_at(old.data() + at));
      return false;
    });
    return list;
  }();
  std::fill(area.begin(), area.end(), std::byte{0});
  std::size_t at = 0;
  for (std::size_t i = 0; i < entries.size(); ++i) {
    const bool last = i + 1 == entries.size();
    const std::size_t length = last ? area.size() - at : needed(entries[i].name.size());
    write_entry(area.data() + at, entries[i], length);
    at += length;
  }
  if (entries.empty()) store(area.data() + 16, static_cast<std::uint16_t>(area.size()));
}

}  // namespace

std::uint64_t cookie_base(std::string_view name, std::uint64_t hash_seed) {
  const std::uint64_t hash = checksum(as_bytes(name), hash_seed) >> 4;
  return std::max<std::uint64_t>(hash, 1) << 3;
}

std::optional<EntryView> find_entry(ByteView area, std::uint64_t base, std::string_view name) {
  std::optional<EntryView> found;
  walk(area, [&](std::size_t at) {
    const std::byte* entry = area.data() + at;
    if ((cookie_at(entry) & ~collision_mask) != base || inode_at(entry) == 0) return false;
    const EntryView view = view_at(entry);
    if (view.name != name) return false;
    found = view;
    return true;
  });
  return found;
}

std::optional<std::uint64_t> free_cookie(ByteView area, std::uint64_t base) {
  std::uint32_t taken = 0;
  walk(area, [&](std::size_t at) {
    const std::byte* entry = area.data() + at;
    if (inode_at(entry) != 0 && (cookie_at(entry) & ~collision_mask) == base) {
      taken |= 1u << (cookie_at(entry) & collision_mask);
    }
    return false;
  });
  for (std::uint64_t i = 0; i < cookie_collisions; ++i) {
    if ((taken & (1u << i)) == 0) return base + i;
  }
  return std::nullopt;
}

bool insert_entry(MutableByteView area, const EntryView& entry) {
  CHECK(entry.inode != 0);
  CHECK(!entry.name.empty() && entry.name.size() <= 255);
  if (never_used(area)) store(area.data() + 16, static_cast<std::uint16_t>(area.size()));
  if (insert_into_gap(area, entry)) return true;
  std::size_t used = 0;
  walk(area, [&](std::size_t at) {
    used += used_by(area.data() + at);
    return false;
  });
  if (area.size() - used < needed(entry.name.size())) return false;
  compact(area);
  return insert_into_gap(area, entry);
}

void remove_entry(MutableByteView area, std::uint64_t cookie) {
  std::size_t previous = 0;
  const std::size_t at = offset_of(area, cookie, &previous);
  CHECK(at < area.size());
  const std::size_t length = length_at(area.data() + at);
  if (previous < area.size()) {
    store(area.data() + previous + 16,
          static_cast<std::uint16_t>(length_at(area.data() + previous) + length));
    std::fill_n(area.data() + at, std::min(length, header_size), std::byte{0});
  } else {
    store(area.data() + at, std::uint64_t{0});
    store(area.data() + at + 8, std::uint64_t{0});
    store(area.data() + at + 18, std::uint16_t{0});
  }
}

void change_entry(MutableByteView area, std::uint64_t cookie, std::uint64_t inode,
                  std::uint8_t type) {
  const std::size_t at = offset_of(area, cookie);
  CHECK(at < area.size());
  store(area.data() + at + 8, inode);
  store(area.data() + at + 19, type);
}

std::vector<EntryView> sorted_entries(ByteView area) {
  std::vector<EntryView> entries;
  walk(area, [&](std::size_t at) {
    if (inode_at(area.data() + at) != 0) entries.push_back(view_at(area.data() + at));
    return false;
  });
  std::sort(entries.begin(), entries.end(),
            [](const EntryView& a, const EntryView& b) { return a.cookie < b.cookie; });
  return entries;
}

bool is_empty_list(ByteView area) {
  bool empty = true;
  walk(area, [&](std::size_t at) {
    empty = inode_at(area.data() + at) == 0;
    return !empty;
  });
  return empty;
}

Status check_entries(ByteView area) {
  if (never_used(area)) {
    if (all_zero(area)) return {};
    return fail(Errc::corrupt, "entry list without a first entry");
  }
  for (std::size_t at = 0; at < area.size();) {
    if (area.size() - at < header_size) return fail(Errc::corrupt, "entry cut off");
    const std::byte* entry = area.data() + at;
    const std::size_t length = length_at(entry);
    if (length % 4 != 0 || length < header_size || length > area.size() - at) {
      return fail(Errc::corrupt, "entry of impossible length");
    }
    if (inode_at(entry) != 0 &&
        (name_length_at(entry) == 0 || needed(name_length_at(entry)) > length)) {
      return fail(Errc::corrupt, "entry with impossible name");
    }
    at += length;
  }
  return {};
}

void format_leaf(MutableByteView block, std::uint64_t directory, std::uint64_t version,
                 std::uint64_t low) {
  format_block(block, BlockType::directory_leaf, directory, version);
  store(block.data() + 32, low);
}

void format_inner(MutableByteView block, std::uint64_t directory, std::uint64_t version,
                  std::uint64_t low, std::uint32_t level) {
  format_block(block, BlockType::directory_inner, directory, version);
  store(block.data() + 32, low);
  store(block.data() + 40, level);
}

Child inner_child(ByteView block, std::size_t index) {
  CHECK(index < inner_size(block));
  const std::byte* at = block.data() + directory_area_at + 16 * index;
  return {load<std::uint64_t>(at), load<std::uint64_t>(at + 8)};
}

std::size_t inner_find(ByteView block, std::uint64_t cookie) {
  std::size_t low = 0;
  std::size_t high = inner_size(block);
  while (high - low > 1) {
    const std::size_t middle = (low + high) / 2;
    if (inner_child(block, middle).low <= cookie) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return low;
}

void inner_insert(MutableByteView block, std::size_t index, Child child) {
  const std::uint32_t count = inner_size(block);
  CHECK(count < inner_fanout && index <= count);
  std::byte* at = block.data() + directory_area_at + 16 * index;
  std::memmove(at + 16, at, 16 * (count - index));
  store(at, child.low);
  store(at + 8, child.block);
  store(block.data() + 44, count + 1);
}

void inner_remove(MutableByteView block, std::size_t index) {
  const std::uint32_t count = inner_size(block);
  CHECK(index < count);
  std::byte* at = block.data() + directory_area_at + 16 * index;
  std::memmove(at, at + 16, 16 * (count - index - 1));
  std::fill_n(block.data() + directory_area_at + 16 * (count - 1), 16, std::byte{0});
  store(block.data() + 44, count - 1);
}

void inner_split(MutableByteView from, MutableByteView to, std::size_t index) {
  const std::uint32_t count = inner_size(from);
  CHECK(index <= count && inner_size(to) == 0);
  std::byte* first = from.data() + directory_area_at + 16 * index;
  const std::size_t bytes = 16 * (count - index);
  std::memcpy(to.data() + directory_area_at, first, bytes);
  std::fill_n(first, bytes, std::byte{0});
  store(from.data() + 44, static_cast<std::uint32_t>(index));
  store(to.data() + 44, static_cast<std::uint32_t>(count - index));
}

Status check_directory_block(ByteView block, BlockId id, std::uint64_t directory) {
  const BlockType type = type_of(block);
  if (type != BlockType::directory_leaf && type != BlockType::directory_inner) {
    return fail(Errc::corrupt, absl::StrCat(to_string(id), " (is a ", type_name(type),
                                            ", expected a part of directory ", directory, ")"));
  }
  if (owner_of(block) != directory) {
    return fail(Errc::corrupt, absl::StrCat(to_string(id), " (belongs to directory ",
                                            owner_of(block), ", expected ", directory, ")"));
  }
  if (type == BlockType::directory_leaf) {
    Status entries = check_entries(leaf_area(block));
    if (!entries) {
      return fail(Errc::corrupt, absl::StrCat(to_string(id), " (", entries.error().what, ")"));
    }
    return {};
  }
  if (inner_size(block) == 0 || inner_size(block) > inner_fanout || inner_level(block) == 0 ||
      inner_level(block) >= directory_levels_max) {
    return fail(Errc::corrupt, absl::StrCat(to_string(id), " (impossible index)"));
  }
  return {};
}

}  // namespace plumeria::format
