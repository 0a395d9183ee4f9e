// A request as the kernel sends it (linux/fuse.h): a header, and arguments behind it.
#pragma once

#include <cstring>
#include <string>

#include "base/bytes.h"
#include "fs/operations.h"

namespace plumeria::fuse {

// What every request starts with, kept while it is answered.
struct Request {
  std::uint64_t unique = 0;
  std::uint32_t opcode = 0;
  fs::InodeNumber inode{};
  fs::Caller caller;
  std::uint32_t thread = 0;
};

// The bytes of a request behind its header, taken apart without reading past their end.
class Arguments {
 public:
  explicit Arguments(ByteView bytes) : bytes_(bytes) {}

  template <class T>
  T get() {
    T value{};
    if (bytes_.size() < sizeof value) {
      ok_ = false;
    } else {
      std::memcpy(&value, bytes_.data(), sizeof value);
      bytes_ = bytes_.subspan(sizeof value);
    }
    return value;
  }
  // Up to a zero byte.
  std::string text() {
    const std::string_view all = as_text(bytes_);
    const std::size_t length = all.find('\0');
    if (length == std::string_view::npos) {
      ok_ = false;
      return {};
    }
    bytes_ = bytes_.subspan(length + 1);
    return std::string(all.substr(0, length));
  }
  ByteView rest() const { return bytes_; }
  bool ok() const { return ok_; }

 private:
  ByteView bytes_;
  bool ok_ = true;
};

}  // namespace plumeria::fuse
