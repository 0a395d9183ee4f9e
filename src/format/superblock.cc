#include "format/superblock.h"

#include "base/check.h"

namespace plumeria::format {

Bytes encode_superblock(const Superblock& superblock) {
  CHECK(superblock.label.size() <= label_max);
  Bytes block(block_size);
  format_block(block, BlockType::superblock, 0, 1);
  store(block.data() + 32, format_version);
  store(block.data() + 40, superblock.features);
  store(block.data() + 48, superblock.log_size);
  store(block.data() + 56, superblock.lease_milliseconds);
  store(block.data() + 64, superblock.hash_seed);
  store(block.data() + 72, superblock.created);
  store(block.data() + 80, superblock.uuid);
  store(block.data() + 96, static_cast<std::uint8_t>(superblock.label.size()));
  std::memcpy(block.data() + 97, superblock.label.data(), superblock.label.size());
  seal(block, superblock_id);
  return block;
}

Result<Superblock> decode_superblock(ByteView block) {
  if (block.size() != block_size || all_zero(block)) {
    return fail(Errc::not_a_store, "the superblock is empty");
  }
  TRY_STATUS(verify(block, superblock_id));
  if (type_of(block) != BlockType::superblock) {
    return fail(Errc::corrupt, absl::StrCat("superblock (is a ", type_name(type_of(block)), ")"));
  }
  const auto version = load<std::uint32_t>(block.data() + 32);
  Superblock superblock;
  superblock.features = load<std::uint64_t>(block.data() + 40);
  if (version != format_version || (superblock.features & ~known_features) != 0) {
    return fail(Errc::version,
                absl::StrCat("the store has format ", version, " with features ",
                             absl::Hex(superblock.features), ", this program knows format ",
                             format_version, " with features ", absl::Hex(known_features)));
  }
  superblock.log_size = load<std::uint64_t>(block.data() + 48);
  superblock.lease_milliseconds = load<std::uint64_t>(block.data() + 56);
  superblock.hash_seed = load<std::uint64_t>(block.data() + 64);
  superblock.created = load<std::int64_t>(block.data() + 72);
  superblock.uuid = load<std::array<std::uint64_t, 2>>(block.data() + 80);
  const std::size_t label_size = load<std::uint8_t>(block.data() + 96);
  if (label_size > label_max || superblock.log_size % block_size != 0 ||
      superblock.log_size < (1u << 20) || superblock.lease_milliseconds == 0) {
    return fail(Errc::corrupt, "superblock (impossible parameters)");
  }
  superblock.label = std::string(as_text(block.subspan(97, label_size)));
  return superblock;
}

}  // namespace plumeria::format
