#include "check/flipped_bit.h"

#include <bit>

namespace plumeria::check {

std::optional<Bytes> without_flipped_bit(ByteView block, format::BlockId id) {
  // Unless it is in the magic, the magic is whole. This spares most of the work on noise.
  const auto magic = load<std::uint32_t>(block.data());
  const int wrong = std::popcount(magic ^ format::block_magic);
  if (wrong > 1) return std::nullopt;
  Bytes candidate = to_bytes(block);
  const std::size_t end = wrong == 1 ? sizeof magic : block.size();
  for (std::size_t at = 0; at < end; ++at) {
    for (int bit = 0; bit < 8; ++bit) {
      const std::byte flip{static_cast<unsigned char>(1 << bit)};
      candidate[at] ^= flip;
      if (load<std::uint32_t>(candidate.data()) == format::block_magic &&
          format::verify(candidate, id)) {
        return candidate;
      }
      candidate[at] ^= flip;
    }
  }
  return std::nullopt;
}

}  // namespace plumeria::check
