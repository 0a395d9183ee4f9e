// A small value on the host's disk, replaced as a whole and durably, also when the disk is full.
//
// The file holds two slots of equal size, all of whose blocks are allocated; a write goes to the
// slot with the older value and then syncs. So a power cut leaves the old value or the new one, and
// a replacement that fits needs no space. Layout of a slot: magic, sequence number, length,
// checksum of the value seeded with the sequence number, the value. A slot of zeros is empty. The
// sequence number grows by one with each write.
//
// A damaged slot is either a write that a power cut tore or a fault of the medium. Only the owner
// knows whether a write can have been torn (one_slot_damaged()).
//
// Threads     Any, one at a time; every call blocks. Errors name the path.
#pragma once

#include <cstdint>
#include <string>

#include "base/bytes.h"
#include "base/result.h"
#include "os/host_file.h"

namespace plumeria::os {

class SlotFile {
 public:
  // Makes directory/name with this value, replacing what is there.
  static Result<SlotFile> create(std::string directory, std::string name, ByteView value,
                                 std::uint64_t sequence);
  // Errc::corrupt if no slot is good.
  static Result<SlotFile> open(std::string directory, std::string name, bool read_only);

  std::uint64_t sequence() const { return sequence_; }
  const std::string& path() const { return path_; }
  bool one_slot_damaged() const { return one_slot_damaged_; }
  // The value that open() found; empties it.
  Bytes take_value() { return std::move(value_); }

  // Durable when it returns; the sequence number is one higher. After an error either value may be
  // found by the next open().
  Status write(ByteView value);

 private:
  SlotFile(std::string directory, std::string name)
      : directory_(std::move(directory)), name_(std::move(name)), path_(directory_ + "/" + name_) {}

  std::string directory_, name_, path_;
  FileDescriptor file_;
  std::uint64_t slot_size_ = 0;
  std::uint64_t sequence_ = 0;
  int current_slot_ = 0;
  bool one_slot_damaged_ = false;
  Bytes value_;
};

}  // namespace plumeria::os
