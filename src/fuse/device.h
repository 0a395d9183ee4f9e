// One FUSE connection: /dev/fuse opened and mounted, and the bytes that go through it.
//
// Threads     read() and reply() belong to the executor's thread; notify() may be called from any
//             thread and may block until the kernel has let go of what it is told to forget.
// Danger      A thread that is blocked in notify() cannot be killed, and neither can its process.
//             abort() is the only way out: every request and notification then fails.
// Ownership   Owns the file descriptor and the mount.
#pragma once

#include <sys/types.h>
#include <sys/uio.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "base/bytes.h"
#include "base/result.h"

namespace plumeria::fuse {

struct MountPoint {
  std::string source;     // what /proc/mounts and df show
  std::string directory;  // an existing directory
  bool read_only = false;
  bool allow_suid = false;  // else nosuid and nodev
  bool no_exec = false;
};

class Device {
 public:
  // Errors name the directory and the reason.
  static Result<std::unique_ptr<Device>> open(const MountPoint& where);
  ~Device();  // Unmounts lazily if it is still mounted.
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  int fd() const { return fd_; }
  // Number of bytes of one request; 0: none is waiting; Errc::shut_down: unmounted or aborted.
  Result<std::size_t> read(MutableByteView buffer);
  // An errno, 0 when the kernel took it. ENOENT: the request was interrupted and is gone.
  int reply(std::span<const iovec> parts);
  // A message whose header announces more bytes than there are (make_longer()) is sent with bytes
  // that the kernel fails to read: it then has done everything but the copying.
  int notify(ByteView message) const;

  // Makes the kernel ask for the attributes of an inode that it has, by a GETATTR of this thread
  // that it does not believe to be answered yet, and tells what size it believes in after it has
  // taken the reply; nothing if it does not know the inode or does not let us. On the way it may
  // ask for those of the root. Sleeps in the kernel while pages that are cut off are locked.
  // Needs CAP_DAC_READ_SEARCH.
  std::optional<std::uint64_t> make_ask(std::uint64_t inode, std::uint64_t generation) const;
  // Makes the kernel set an inode's size by truncate(2), for which it keeps everybody out who
  // writes to the file, asks by a SETATTR of this thread, and takes the reply in any case. Else as
  // make_ask(); before, it may ask for the attributes. `error` is an errno if it failed.
  std::optional<std::uint64_t> truncate(std::uint64_t inode, std::uint64_t generation,
                                        std::uint64_t size, int& error) const;

  // The name of the connection in /sys/fs/fuse/connections.
  std::uint32_t connection() const { return connection_; }
  // Ends the connection at once. Needs fusectl; it is mounted if it is not.
  Status abort();
  // umount(2), which can block on requests to us: never on the executor's thread.
  Status unmount(bool lazily);

 private:
  int open_inode(std::uint64_t inode, std::uint64_t generation) const;  // a path; -1: cannot
  Device(int fd, int parent, std::string directory, std::uint32_t connection)
      : fd_(fd), parent_(parent), directory_(std::move(directory)), connection_(connection) {}

  int fd_;
  int parent_;  // the directory that the mount point is in
  std::string directory_;
  std::uint32_t connection_;
  bool mounted_ = true;
};

// The handle of a connection in /sys/fs/fuse/connections. It stays that of this connection, also
// when the kernel gives its number to another one; whoever aborts later opens it now, and closes
// it.
Result<int> open_abort(std::uint32_t connection);
// Ends the connection: all that waits on it fails. No error if it has ended.
Status abort_connection(int handle);

}  // namespace plumeria::fuse
