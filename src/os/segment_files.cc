#include "os/segment_files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "os/store_directory.h"

namespace plumeria::os {

Result<SegmentFilePointer> SegmentFiles::find(disk::Segment segment) {
  if (SegmentFilePointer file = cached(segment)) return file;
  Result<SegmentFilePointer> opened = open(segment, read_only_ ? O_RDONLY : O_RDWR);
  if (!opened && opened.error().code == Errc::no_entry) return SegmentFilePointer();
  return opened;
}

Result<SegmentFilePointer> SegmentFiles::find_or_make(disk::Segment segment, bool* made) {
  *made = false;
  TRY(SegmentFilePointer file, find(segment));
  if (file) return file;
  *made = true;
  return open(segment, O_RDWR | O_CREAT);
}

Result<SegmentFilePointer> SegmentFiles::unlink(disk::Segment segment) {
  TRY(SegmentFilePointer file, find(segment));
  if (!file) return file;
  if (::unlink(file->path.c_str()) != 0) return fail(host_error(errno, "remove", file->path));
  forget(segment);
  return file;
}

Result<SegmentFilePointer> SegmentFiles::move_to(disk::Segment segment, const std::string& path) {
  TRY(SegmentFilePointer file, find(segment));
  if (!file) return file;
  if (::rename(file->path.c_str(), path.c_str()) != 0) {
    return fail(host_error(errno, "rename", file->path));
  }
  forget(segment);
  return file;
}

void SegmentFiles::forget(disk::Segment segment) {
  const auto entry = entries_.find(segment);
  recent_.erase(entry->second.place);
  entries_.erase(entry);
}

SegmentFilePointer SegmentFiles::cached(disk::Segment segment) {
  const auto found = entries_.find(segment);
  if (found == entries_.end()) return nullptr;
  recent_.splice(recent_.begin(), recent_, found->second.place);
  return found->second.file;
}

Result<SegmentFilePointer> SegmentFiles::open(disk::Segment segment, int flags) {
  make_room();
  auto file = std::make_shared<SegmentFile>();
  file->segment = segment;
  file->path = segment_path(store_, segment);
  TRY(file->file, open_file(file->path, flags));
  struct stat status {};
  if (fstat(file->file.get(), &status) != 0) return fail(host_error(errno, "stat", file->path));
  file->length = static_cast<std::uint64_t>(status.st_size);
  recent_.push_front(segment);
  entries_.emplace(segment, Entry{file, recent_.begin()});
  return file;
}

// Closes the files not used for longest. One that is in use elsewhere stays: there must never be
// two opinions about the length of one file.
void SegmentFiles::make_room() {
  auto last = recent_.end();
  while (entries_.size() >= open_files_max_ && last != recent_.begin()) {
    --last;
    const auto entry = entries_.find(*last);
    if (entry->second.file.use_count() > 1) continue;
    entries_.erase(entry);
    last = recent_.erase(last);
  }
}

}  // namespace plumeria::os
