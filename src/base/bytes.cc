#include "base/bytes.h"

namespace plumeria {

bool all_zero(ByteView bytes) {
  if (bytes.empty()) return true;
  return bytes[0] == std::byte{0} &&
         std::memcmp(bytes.data(), bytes.data() + 1, bytes.size() - 1) == 0;
}

}  // namespace plumeria
