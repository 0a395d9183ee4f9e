// Calls to the host's files as Results: every error names the path and what was tried.
//
// All of them block. Threads: any.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "base/bytes.h"
#include "base/result.h"

namespace plumeria::os {

// Owns a file descriptor.
class FileDescriptor {
 public:
  FileDescriptor() = default;
  explicit FileDescriptor(int fd) : fd_(fd) {}
  FileDescriptor(FileDescriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~FileDescriptor();
  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }
  void reset() { *this = FileDescriptor(); }

 private:
  int fd_ = -1;
};

// "<path>: cannot <action>", with the Errc that fits: no_space, no_entry, not_directory,
// file_too_big, access, read_only, exist; else "<path>: cannot <action> (<strerror>)" and io.
Error host_error(int error_number, const std::string& action, const std::string& path);

Result<FileDescriptor> open_file(const std::string& path, int flags, unsigned mode = 0644);
// All of it. Errc::corrupt if it is longer than `limit`.
Result<Bytes> read_file(const std::string& path, std::size_t limit);
// The whole range; a hole or the end of the file reads as zeros.
Status read_at(int fd, const std::string& path, std::uint64_t offset, MutableByteView into);
Status write_at(int fd, const std::string& path, std::uint64_t offset, ByteView data);
Status sync_data(int fd, const std::string& path);
Status sync_directory(const std::string& path);
Status make_directory(const std::string& path);
// Durable, and either the old or the new content after a power cut.
Status replace_file(const std::string& directory, const std::string& name, ByteView content);

}  // namespace plumeria::os
