// Numbers that must not be swapped are enum classes; raw() is the way back to the integer.
#pragma once

#include <type_traits>

namespace plumeria {

template <class E>
requires std::is_enum_v<E>
constexpr std::underlying_type_t<E> raw(E value) {
  return static_cast<std::underlying_type_t<E>>(value);
}

}  // namespace plumeria
