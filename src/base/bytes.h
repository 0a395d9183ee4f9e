// Bytes: owned, viewed and shared; and a little-endian encoder and decoder for everything that is
// written to the disk or sent over the network.
//
// Reader never reads past its end: once a read does not fit, ok() is false, every later read
// returns zeros or an empty view, and the caller checks ok() once at the end. Ownership: views
// borrow.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace plumeria {

static_assert(std::endian::native == std::endian::little, "little-endian hosts only");

using Bytes = std::vector<std::byte>;
using ByteView = std::span<const std::byte>;
using MutableByteView = std::span<std::byte>;

inline ByteView as_bytes(std::string_view text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}
inline std::string_view as_text(ByteView bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}
inline Bytes to_bytes(ByteView view) { return {view.begin(), view.end()}; }

bool all_zero(ByteView bytes);

// An immutable run of bytes that several owners share; slices share the same storage.
class SharedBytes {
 public:
  SharedBytes() = default;
  explicit SharedBytes(Bytes&& bytes)
      : owner_(std::make_shared<const Bytes>(std::move(bytes))), view_(*owner_) {}
  static SharedBytes copy_of(ByteView view) { return SharedBytes(to_bytes(view)); }

  SharedBytes slice(std::size_t from, std::size_t length) const {
    SharedBytes part = *this;
    part.view_ = view_.subspan(from, length);
    return part;
  }
  ByteView view() const { return view_; }
  std::size_t size() const { return view_.size(); }
  bool empty() const { return view_.empty(); }

 private:
  std::shared_ptr<const Bytes> owner_;
  ByteView view_;
};

// Fixed-width little-endian access to a place in memory that the caller knows to be large enough.
template <class T>
T load(const std::byte* from) {
  static_assert(std::is_trivially_copyable_v<T>);
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}
template <class T>
void store(std::byte* to, T value) {
  static_assert(std::is_trivially_copyable_v<T>);
  std::memcpy(to, &value, sizeof value);
}

// Appends to a byte vector that it owns.
class Writer {
 public:
  Writer() = default;
  explicit Writer(std::size_t reserve) { bytes_.reserve(reserve); }

  template <class T>
  requires std::is_integral_v<T> || std::is_enum_v<T>
  void put(T value) {
    const std::size_t at = bytes_.size();
    bytes_.resize(at + sizeof value);
    store(bytes_.data() + at, value);
  }
  void put_raw(ByteView view) { bytes_.insert(bytes_.end(), view.begin(), view.end()); }
  // A 32-bit length, then the bytes.
  void put_blob(ByteView view) {
    put(static_cast<std::uint32_t>(view.size()));
    put_raw(view);
  }
  void put_text(std::string_view text) { put_blob(as_bytes(text)); }

  std::size_t size() const { return bytes_.size(); }
  // For lengths and checksums that are known only later. Requires: at + sizeof(T) <= size().
  template <class T>
  void patch(std::size_t at, T value) {
    store(bytes_.data() + at, value);
  }
  ByteView view() const { return bytes_; }
  Bytes take() { return std::move(bytes_); }

 private:
  Bytes bytes_;
};

class Reader {
 public:
  explicit Reader(ByteView bytes) : bytes_(bytes) {}

  template <class T>
  requires std::is_integral_v<T> || std::is_enum_v<T> T get() {
    if (!take(sizeof(T))) return T{};
    return load<T>(bytes_.data() + at_ - sizeof(T));
  }
  ByteView get_raw(std::size_t length) {
    if (!take(length)) return {};
    return bytes_.subspan(at_ - length, length);
  }
  ByteView get_blob() { return get_raw(get<std::uint32_t>()); }
  std::string get_text() { return std::string(as_text(get_blob())); }

  bool ok() const { return ok_; }
  std::size_t left() const { return ok_ ? bytes_.size() - at_ : 0; }
  bool finished() const { return ok_ && at_ == bytes_.size(); }  // All read, nothing over.

 private:
  bool take(std::size_t length) {
    if (!ok_ || length > bytes_.size() - at_) {
      ok_ = false;
      return false;
    }
    at_ += length;
    return true;
  }

  ByteView bytes_;
  std::size_t at_ = 0;
  bool ok_ = true;
};

}  // namespace plumeria
