#include "os/host_file.h"

#include <absl/strings/str_cat.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

namespace plumeria::os {

namespace {

Errc code_of(int error_number) {
  switch (error_number) {
    case ENOSPC:
    case EDQUOT:
      return Errc::no_space;
    case ENOENT:
      return Errc::no_entry;
    case ENOTDIR:
      return Errc::not_directory;
    case EFBIG:
      return Errc::file_too_big;
    case EACCES:
    case EPERM:
      return Errc::access;
    case EROFS:
      return Errc::read_only;
    case EEXIST:
      return Errc::exist;
    case EOPNOTSUPP:
      return Errc::not_supported;
    default:
      return Errc::io;
  }
}

}  // namespace

FileDescriptor::~FileDescriptor() {
  if (fd_ >= 0) ::close(fd_);
}

Error host_error(int error_number, const std::string& action, const std::string& path) {
  const Errc code = code_of(error_number);
  std::string what = absl::StrCat(path, ": cannot ", action);
  if (code == Errc::io || error_number == EDQUOT || error_number == EPERM) {
    char text[128];
    absl::StrAppend(&what, " (", strerror_r(error_number, text, sizeof text), ")");
  }
  return Error{code, std::move(what)};
}

Result<FileDescriptor> open_file(const std::string& path, int flags, unsigned mode) {
  const int fd = ::open(path.c_str(), flags | O_CLOEXEC, mode);
  if (fd < 0) return fail(host_error(errno, "open", path));
  return FileDescriptor(fd);
}

Result<Bytes> read_file(const std::string& path, std::size_t limit) {
  TRY(const FileDescriptor file, open_file(path, O_RDONLY));
  struct stat status {};
  if (fstat(file.get(), &status) != 0) return fail(host_error(errno, "stat", path));
  if (!S_ISREG(status.st_mode)) return fail(Errc::corrupt, absl::StrCat(path, ": not a file"));
  const auto size = static_cast<std::uint64_t>(status.st_size);
  if (size > limit) {
    return fail(Errc::corrupt, absl::StrCat(path, ": ", size, " bytes, expected at most ", limit));
  }
  Bytes content(size);
  TRY_STATUS(read_at(file.get(), path, 0, content));
  return content;
}

Status read_at(int fd, const std::string& path, std::uint64_t offset, MutableByteView into) {
  std::size_t done = 0;
  while (done < into.size()) {
    const ssize_t got =
        ::pread(fd, into.data() + done, into.size() - done, static_cast<off_t>(offset + done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return fail(host_error(errno, absl::StrCat("read at ", offset + done), path));
    if (got == 0) break;
    done += static_cast<std::size_t>(got);
  }
  std::fill(into.begin() + static_cast<std::ptrdiff_t>(done), into.end(), std::byte{0});
  return {};
}

Status write_at(int fd, const std::string& path, std::uint64_t offset, ByteView data) {
  std::size_t done = 0;
  while (done < data.size()) {
    const ssize_t put =
        ::pwrite(fd, data.data() + done, data.size() - done, static_cast<off_t>(offset + done));
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return fail(host_error(errno, absl::StrCat("write at ", offset + done), path));
    if (put == 0) return fail(host_error(ENOSPC, absl::StrCat("write at ", offset + done), path));
    done += static_cast<std::size_t>(put);
  }
  return {};
}

Status sync_data(int fd, const std::string& path) {
  if (::fdatasync(fd) != 0) return fail(host_error(errno, "sync", path));
  return {};
}

Status sync_directory(const std::string& path) {
  TRY(const FileDescriptor directory, open_file(path, O_RDONLY | O_DIRECTORY));
  if (::fsync(directory.get()) != 0) return fail(host_error(errno, "sync", path));
  return {};
}

Status make_directory(const std::string& path) {
  if (::mkdir(path.c_str(), 0755) != 0) return fail(host_error(errno, "make directory", path));
  return {};
}

Status replace_file(const std::string& directory, const std::string& name, ByteView content) {
  const std::string path = absl::StrCat(directory, "/", name);
  const std::string temporary = path + ".new";
  {
    TRY(const FileDescriptor file, open_file(temporary, O_WRONLY | O_CREAT | O_TRUNC));
    TRY_STATUS(write_at(file.get(), temporary, 0, content));
    if (::fsync(file.get()) != 0) return fail(host_error(errno, "sync", temporary));
  }
  if (::rename(temporary.c_str(), path.c_str()) != 0) {
    return fail(host_error(errno, "rename", temporary));
  }
  return sync_directory(directory);
}

}  // namespace plumeria::os
