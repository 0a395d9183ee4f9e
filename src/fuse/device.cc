#include "fuse/device.h"

#include <absl/strings/str_cat.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>

#include "base/check.h"
#include "fuse/wire.h"

namespace plumeria::fuse {

namespace {

constexpr char control_folder[] = "/sys/fs/fuse/connections";

Error system_error(std::string what, int error) {
  const Errc code = error == EPERM || error == EACCES ? Errc::not_permitted
                    : error == ENOENT                 ? Errc::no_entry
                    : error == EBUSY                  ? Errc::busy
                                                      : Errc::io;
  return Error{code, absl::StrCat(what, ": ", strerror(error))};
}

// The number of the connection is that of the mounted file system's device. It is read from
// /proc/self/mountinfo, because stat(2) of the mount point would ask us, who do not answer yet.
std::uint32_t connection_of(const std::string& directory) {
  FILE* file = ::fopen("/proc/self/mountinfo", "re");
  if (file == nullptr) return 0;
  std::uint32_t found = 0;
  char* line = nullptr;
  std::size_t capacity = 0;
  while (::getline(&line, &capacity, file) > 0) {
    unsigned major_number = 0, minor_number = 0;
    char mounted_on[4096];
    if (::sscanf(line, "%*d %*d %u:%u %*s %4095s", &major_number, &minor_number, mounted_on) != 3) {
      continue;
    }
    if (directory == mounted_on)
      found = (major_number << 20) | minor_number;  // as the kernel counts
  }
  ::free(line);
  ::fclose(file);
  return found;
}

// As /proc writes it: blanks and backslashes as octal numbers.
std::string escaped(const std::string& path) {
  std::string out;
  for (const char c : path) {
    if (c == ' ' || c == '\t' || c == '\n' || c == '\\') {
      char octal[5];
      ::snprintf(octal, sizeof octal, "\\%03o",
                 static_cast<unsigned>(static_cast<unsigned char>(c)));
      out += octal;
    } else {
      out += c;
    }
  }
  return out;
}

// A file handle as the kernel makes it of a FUSE inode (fs/fuse/inode.c, fuse_encode_fh).
struct FuseHandle {
  file_handle head;
  std::uint32_t inode_high, inode_low, generation;
};
constexpr int fuse_handle_type = 0x81;  // FILEID_INO64_GEN

void* unreadable_page() {
  static void* const page = ::mmap(nullptr, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(page != MAP_FAILED);
  return page;
}

}  // namespace

Result<std::unique_ptr<Device>> Device::open(const MountPoint& where) {
  char resolved[PATH_MAX];
  if (::realpath(where.directory.c_str(), resolved) == nullptr) {
    return fail(system_error(absl::StrCat("mount point ", where.directory), errno));
  }
  struct stat status {};
  if (::stat(resolved, &status) != 0) {
    return fail(system_error(absl::StrCat("mount point ", where.directory), errno));
  }
  if (!S_ISDIR(status.st_mode)) {
    return fail(Errc::not_directory, absl::StrCat("mount point ", where.directory));
  }
  const std::string parent_name(resolved, std::string_view(resolved).rfind('/') + 1);
  const int parent = ::open(parent_name.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (parent < 0) return fail(system_error(absl::StrCat("cannot open ", parent_name), errno));
  const int fd = ::open("/dev/fuse", O_RDWR | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) {
    const int error = errno;
    ::close(parent);
    return fail(system_error("cannot open /dev/fuse", error));
  }

  unsigned long flags = 0;
  if (!where.allow_suid) flags |= MS_NOSUID | MS_NODEV;
  if (where.read_only) flags |= MS_RDONLY;
  if (where.no_exec) flags |= MS_NOEXEC;
  const std::string options =
      absl::StrCat("fd=", fd, ",rootmode=40000,user_id=", ::getuid(), ",group_id=", ::getgid(),
                   ",default_permissions,allow_other,max_read=", 1u << 20);
  if (::mount(where.source.c_str(), resolved, "fuse.plumeria", flags, options.c_str()) != 0) {
    const int error = errno;
    ::close(fd);
    ::close(parent);
    return fail(system_error(absl::StrCat("cannot mount at ", where.directory), error));
  }
  return std::unique_ptr<Device>(
      new Device(fd, parent, resolved, connection_of(escaped(resolved))));
}

// Others may have unmounted it, and mounted something else there.
Device::~Device() {
  if (mounted_ && connection_of(escaped(directory_)) == connection_) {
    ::umount2(directory_.c_str(), MNT_DETACH | UMOUNT_NOFOLLOW);
  }
  ::close(fd_);
  ::close(parent_);
}

Result<std::size_t> Device::read(MutableByteView buffer) {
  for (;;) {
    const ssize_t length = ::read(fd_, buffer.data(), buffer.size());
    if (length > 0) return static_cast<std::size_t>(length);
    if (length == 0) return fail(Errc::shut_down, directory_);
    switch (errno) {
      case EAGAIN:
        return 0;
      case EINTR:
      case ENOENT:
        continue;  // ENOENT: the request was interrupted before we saw it.
      case ENODEV:
      case ECONNABORTED:
        return fail(Errc::shut_down, directory_);
      default:
        return fail(system_error(absl::StrCat("reading requests of ", directory_), errno));
    }
  }
}

int Device::reply(std::span<const iovec> parts) {
  for (;;) {
    if (::writev(fd_, parts.data(), static_cast<int>(parts.size())) >= 0) return 0;
    if (errno != EINTR) return errno;
  }
}

int Device::notify(ByteView message) const {
  fuse_out_header header{};
  CHECK(message.size() >= sizeof header);
  std::memcpy(&header, message.data(), sizeof header);
  const std::size_t missing = header.len - message.size();
  const std::array<iovec, 2> parts{
      iovec{const_cast<std::byte*>(message.data()), message.size()},
      iovec{missing == 0 ? nullptr : unreadable_page(), missing},
  };
  for (;;) {
    if (::writev(fd_, parts.data(), missing == 0 ? 1 : 2) >= 0) return 0;
    if (missing > 0 && errno == EFAULT) return 0;
    if (errno != EINTR) return errno;
  }
}

int Device::open_inode(std::uint64_t inode, std::uint64_t generation) const {
  // Opened only now, because it keeps the mount busy. Something else may be mounted over it.
  const std::string name = directory_.substr(directory_.rfind('/') + 1);
  const int root = ::openat(parent_, name.empty() ? "." : name.c_str(),
                            O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (root < 0) return -1;
  struct statx status {};
  int file = -1;
  if (::statx(root, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE, &status) == 0 &&
      ((status.stx_dev_major << 20) | status.stx_dev_minor) == connection_) {
    FuseHandle handle{};
    handle.head.handle_bytes = sizeof handle - sizeof handle.head;
    handle.head.handle_type = fuse_handle_type;
    handle.inode_high = static_cast<std::uint32_t>(inode >> 32);
    handle.inode_low = static_cast<std::uint32_t>(inode);
    handle.generation = static_cast<std::uint32_t>(generation);
    file = ::open_by_handle_at(root, &handle.head, O_PATH | O_CLOEXEC);
  }
  ::close(root);
  return file;
}

std::optional<std::uint64_t> Device::make_ask(std::uint64_t inode, std::uint64_t generation) const {
  const int file = open_inode(inode, generation);
  if (file < 0) return {};
  struct statx status {};
  const bool done =
      ::statx(file, "", AT_EMPTY_PATH | AT_STATX_FORCE_SYNC, STATX_SIZE, &status) == 0 &&
      ::statx(file, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_SIZE, &status) == 0;
  ::close(file);
  if (!done) return {};
  return status.stx_size;
}

std::optional<std::uint64_t> Device::truncate(std::uint64_t inode, std::uint64_t generation,
                                              std::uint64_t size, int& error) const {
  const int file = open_inode(inode, generation);
  if (file < 0) return {};
  struct statx status {};
  const std::string path = absl::StrCat("/proc/self/fd/", file);
  if (::truncate(path.c_str(), static_cast<off_t>(size)) != 0) error = errno;
  const bool done =
      error == 0 && ::statx(file, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_SIZE, &status) == 0;
  ::close(file);
  if (!done) return {};
  return status.stx_size;
}

Status Device::abort() {
  TRY(const int handle, open_abort(connection_));
  const Status aborted = abort_connection(handle);
  ::close(handle);
  return aborted;
}

Result<int> open_abort(std::uint32_t connection) {
  const std::string path = absl::StrCat(control_folder, "/", connection, "/abort");
  int fd = ::open(path.c_str(), O_WRONLY | O_CLOEXEC);
  if (fd < 0) {
    ::mount("fusectl", control_folder, "fusectl", 0, nullptr);
    fd = ::open(path.c_str(), O_WRONLY | O_CLOEXEC);
  }
  if (fd < 0) return fail(system_error(absl::StrCat("cannot open ", path), errno));
  return fd;
}

Status abort_connection(int handle) {
  if (::write(handle, "1", 1) != 1) return fail(system_error("cannot abort a connection", errno));
  return {};
}

Status Device::unmount(bool lazily) {
  if (::umount2(directory_.c_str(), (lazily ? MNT_DETACH : 0) | UMOUNT_NOFOLLOW) != 0) {
    return fail(system_error(absl::StrCat("cannot unmount ", directory_), errno));
  }
  mounted_ = false;
  return {};
}

}  // namespace plumeria::fuse
