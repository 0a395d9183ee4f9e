// The files of a host store that are not segments (docs/format.md, "Host store"): who it is, who
// holds it, whether it was closed cleanly, who may change it, and its registers.
//
//   store         identity, as text: format, identity number, checksum
//   lock          flock(2)ed while the store is open; names the holder
//   state         slot file: incarnation, clean or not
//   leases        slot file: disk::Admission
//   registers/    a slot file each; its sequence number is the register's version
//   snapshots/    os/snapshot_files.h; not before the first one
//   segments/     regions/ for shared regions, 00/ … ff/ for data segments by their lowest byte
//
// All calls block. Threads: one at a time.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "disk/admission.h"
#include "disk/disk.h"
#include "os/host_file.h"
#include "os/slot_file.h"

namespace plumeria::os {

// 1: without snapshots, which a program that knows none would damage. A store has it until the
// first snapshot is made, and again when the last one is gone.
constexpr std::uint32_t host_store_format = 2;
constexpr std::uint32_t host_store_format_plain = 1;
constexpr int regions_folder = 256;  // after the 256 folders of data segments
constexpr int segment_folders = 257;

std::string segment_folder(const std::string& store, int folder);
int folder_of(disk::Segment segment);
std::string segment_path(const std::string& store, disk::Segment segment);
// A register's name as a file name, and back.
std::string register_file_name(std::string_view name);
std::string register_name(std::string_view file_name);

struct StoredRegister {
  SlotFile file;
  disk::Register content;
};

// In the message of Errc::in_use, if the holder has said that he ends.
constexpr std::string_view ending_mark = ", which is ending";

class StoreDirectory {
 public:
  // Makes the files of a new store; the directory is missing or empty (lost+found does not count).
  // After an error all is as it was.
  static Status make(const std::string& path);
  // Removes what make() makes, and what a store has got since: for a new one that is of no use.
  static void unmake(const std::string& path);
  // Checks the identity, takes the lock, reads everything; for writing, makes a new incarnation
  // durable. Errors: see HostStore::open().
  static Result<StoreDirectory> open(std::string path, bool read_only);

  std::uint64_t identity() const { return identity_; }
  std::uint64_t incarnation() const { return incarnation_; }
  bool was_clean() const { return was_clean_; }
  // A file one of whose slots was torn or damaged while the other one serves; or empty.
  const std::string& half_damaged() const { return half_damaged_; }
  // Errc::io if somebody has removed, moved or unmounted it: then what is written goes nowhere.
  Status still_there() const;
  // What those who find the store held are told ends with ending_mark from now on.
  void say_ending();
  // Whoever writes does so after a clean end. Requires: everything is flushed.
  Status mark_clean();
  // Durable when it returns.
  Status set_format(std::uint32_t format);

  disk::Admission admission;  // as it was when the store was opened
  std::map<std::string, StoredRegister, std::less<>> registers;
  SlotFile& leases() { return *leases_; }

 private:
  Status lock(bool read_only);
  Status read_identity();
  Status read_state(bool read_only);
  Status begin_incarnation();
  Status read_leases(bool read_only);
  Status read_registers(bool read_only);
  // A missing one would look like segments that were never written.
  Status check_folders() const;
  // `file` was just opened: a damaged slot is repaired if a power cut can have torn it.
  Status check_slots(SlotFile& file, ByteView value, bool read_only) const;

  std::string path_;
  FileDescriptor lock_;
  std::uint64_t identity_ = 0;
  std::uint32_t format_ = 0;
  std::uint64_t incarnation_ = 0;
  bool was_clean_ = false;
  std::string half_damaged_;
  std::optional<SlotFile> state_, leases_;
};

}  // namespace plumeria::os
