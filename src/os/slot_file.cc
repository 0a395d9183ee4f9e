#include "os/slot_file.h"

#include <absl/strings/str_cat.h>
#include <fcntl.h>

#include <optional>

#include "base/checksum.h"

namespace plumeria::os {

namespace {

constexpr std::uint64_t slot_magic = 0x31544f4c53554c50;  // "PLUSLOT1"
constexpr std::uint64_t header_size = 32;
constexpr std::uint64_t slot_size_min = 16u << 10;
constexpr std::uint64_t file_size_max = 16u << 20;

std::uint64_t checksum_of(std::uint64_t sequence, ByteView value) {
  return checksum(value, sequence ^ slot_magic);
}

Bytes encode(std::uint64_t sequence, ByteView value) {
  Writer writer(header_size + value.size());
  writer.put(slot_magic);
  writer.put(sequence);
  writer.put(static_cast<std::uint64_t>(value.size()));
  writer.put(checksum_of(sequence, value));
  writer.put_raw(value);
  return writer.take();
}

struct Slot {
  std::uint64_t sequence = 0;  // 0: empty
  ByteView value;
};

std::optional<Slot> decode(ByteView bytes) {
  Reader reader(bytes);
  const auto magic = reader.get<std::uint64_t>();
  const auto sequence = reader.get<std::uint64_t>();
  const auto length = reader.get<std::uint64_t>();
  const auto sum = reader.get<std::uint64_t>();
  if (all_zero(bytes.first(header_size))) return Slot{};
  const ByteView value = reader.get_raw(length);
  if (!reader.ok() || magic != slot_magic || sequence == 0) return std::nullopt;
  if (sum != checksum_of(sequence, value)) return std::nullopt;
  return Slot{sequence, value};
}

}  // namespace

Result<SlotFile> SlotFile::create(std::string directory, std::string name, ByteView value,
                                  std::uint64_t sequence) {
  SlotFile file(std::move(directory), std::move(name));
  std::uint64_t size = slot_size_min;
  while (size < header_size + 2 * value.size()) size *= 2;
  Bytes content = encode(sequence, value);
  content.resize(2 * size);  // Written, not left as holes, so that it has all its blocks.
  TRY_STATUS(replace_file(file.directory_, file.name_, content));
  TRY(file.file_, open_file(file.path_, O_RDWR));
  file.slot_size_ = size;
  file.sequence_ = sequence;
  return file;
}

Result<SlotFile> SlotFile::open(std::string directory, std::string name, bool read_only) {
  SlotFile file(std::move(directory), std::move(name));
  TRY(const Bytes content, read_file(file.path_, file_size_max));
  if (content.size() < 2 * header_size || content.size() % 1024 != 0) {
    return fail(Errc::corrupt, file.path_);
  }
  TRY(file.file_, open_file(file.path_, read_only ? O_RDONLY : O_RDWR));
  file.slot_size_ = content.size() / 2;
  for (int i = 0; i < 2; ++i) {
    const auto slot = decode(
        ByteView(content).subspan(static_cast<std::size_t>(i) * file.slot_size_, file.slot_size_));
    if (!slot) {
      file.one_slot_damaged_ = true;
    } else if (slot->sequence > file.sequence_) {
      file.sequence_ = slot->sequence;
      file.current_slot_ = i;
      file.value_ = to_bytes(slot->value);
    }
  }
  if (file.sequence_ == 0) return fail(Errc::corrupt, file.path_);
  return file;
}

Status SlotFile::write(ByteView value) {
  if (header_size + value.size() > slot_size_) {
    TRY(SlotFile larger, create(directory_, name_, value, sequence_ + 1));
    *this = std::move(larger);
    return {};
  }
  const int slot = 1 - current_slot_;
  TRY_STATUS(write_at(file_.get(), path_, static_cast<std::uint64_t>(slot) * slot_size_,
                      encode(sequence_ + 1, value)));
  TRY_STATUS(sync_data(file_.get(), path_));
  ++sequence_;
  current_slot_ = slot;
  one_slot_damaged_ = false;
  return {};
}

}  // namespace plumeria::os
