// What a lock is called, and in which order several are taken.
//
// The order of the classes is the total order in which every operation waits for its locks
// (docs/protocol.md, "Order"): never wait for a lock while holding one that compares greater.
#pragma once

#include <absl/strings/str_cat.h>

#include <compare>
#include <cstdint>
#include <string>

namespace plumeria::lock {

enum class LockClass : std::uint8_t {
  none = 0,
  snapshot = 1,  // the store-wide barrier of snapshots
  rename = 2,    // held exclusively to move a directory to another parent; number 0
  inode = 3,     // an inode, its data, and the blocks of a directory; by inode number
  open =
      4,  // held shared while a file is open somewhere, exclusively to reclaim it; by inode number
  slot = 5,     // a mount's log slot and orphan list; by slot number
  piece = 6,    // an allocation piece; by piece number
  program = 7,  // of programs, not of the file system: lock/program_name.h
};

// 64-bit pair: class (and later: table) in `space`, number in `number`.
struct LockName {
  LockClass lock_class = LockClass::none;
  std::uint64_t number = 0;

  friend auto operator<=>(const LockName&, const LockName&) = default;
  template <typename H>
  friend H AbslHashValue(H h, const LockName& n) {
    return H::combine(std::move(h), static_cast<std::uint8_t>(n.lock_class), n.number);
  }
};

inline const char* class_name(LockClass lock_class) {
  switch (lock_class) {
    case LockClass::none:
      return "none";
    case LockClass::snapshot:
      return "snapshot";
    case LockClass::rename:
      return "rename";
    case LockClass::inode:
      return "inode";
    case LockClass::open:
      return "open";
    case LockClass::slot:
      return "slot";
    case LockClass::piece:
      return "piece";
    case LockClass::program:
      return "program";
  }
  return "?";
}
inline std::string to_string(LockName name) {
  return absl::StrCat(class_name(name.lock_class), ":", name.number);
}

// Whether operations of one client may hold a lock of this class exclusively side by side, because
// it is exclusive against other clients only: changes under it are transactions that do not wait.
constexpr bool shared_within_client(LockClass lock_class) { return lock_class == LockClass::piece; }

enum class Mode : std::uint8_t { none = 0, shared = 1, exclusive = 2 };

// Two holders conflict unless both are shared or one holds nothing.
constexpr bool compatible(Mode a, Mode b) {
  return a == Mode::none || b == Mode::none || (a == Mode::shared && b == Mode::shared);
}
constexpr bool covers(Mode held, Mode wanted) { return held >= wanted; }

inline const char* mode_name(Mode mode) {
  switch (mode) {
    case Mode::none:
      return "none";
    case Mode::shared:
      return "shared";
    case Mode::exclusive:
      return "exclusive";
  }
  return "?";
}

}  // namespace plumeria::lock
