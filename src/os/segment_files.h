// The open segment files of a host store: a bounded cache of descriptors, each with the length of
// its file, which only we change.
//
// Threads     The executor's; a SegmentFile that somebody holds may be read and written elsewhere.
#pragma once

#include <absl/container/flat_hash_map.h>

#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <string>

#include "disk/disk.h"
#include "os/host_file.h"

namespace plumeria::os {

struct SegmentFile {
  disk::Segment segment{};
  std::string path;
  FileDescriptor file;
  std::uint64_t length = 0;  // only grows, until the file is unlinked
  std::mutex sync_mutex;     // of sync_segment(), and of sync_failed
  bool sync_failed = false;
};
using SegmentFilePointer = std::shared_ptr<SegmentFile>;

class SegmentFiles {
 public:
  SegmentFiles(std::string store, bool read_only, std::size_t open_files_max)
      : store_(std::move(store)), read_only_(read_only), open_files_max_(open_files_max) {}

  // Null if the segment has no file.
  Result<SegmentFilePointer> find(disk::Segment segment);
  // Makes it if there is none; `made` tells.
  Result<SegmentFilePointer> find_or_make(disk::Segment segment, bool* made);
  // Unlinks the file. Its blocks are freed when the last pointer goes, which may take long: the
  // pointer that is returned (null: there was none) is best dropped in the pool.
  Result<SegmentFilePointer> unlink(disk::Segment segment);
  // Moves the file to `path`, of the same host file system. Null: there is none.
  Result<SegmentFilePointer> move_to(disk::Segment segment, const std::string& path);

 private:
  struct Entry {
    SegmentFilePointer file;
    std::list<disk::Segment>::iterator place;
  };
  Result<SegmentFilePointer> open(disk::Segment segment, int flags);
  SegmentFilePointer cached(disk::Segment segment);
  void forget(disk::Segment segment);
  void make_room();

  const std::string store_;
  const bool read_only_;
  const std::size_t open_files_max_;
  absl::flat_hash_map<disk::Segment, Entry> entries_;  // never iterated
  std::list<disk::Segment> recent_;                    // the one used last comes first
};

}  // namespace plumeria::os
