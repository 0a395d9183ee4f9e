#include "fuse/errno.h"

#include <errno.h>

namespace plumeria::fuse {

int errno_of(Errc code) {
  switch (code) {
    case Errc::access:
      return EACCES;
    case Errc::again:
      return EAGAIN;
    case Errc::bad_handle:
      return EBADF;
    case Errc::busy:
      return EBUSY;
    case Errc::deadlock:
      return EDEADLK;
    case Errc::exist:
      return EEXIST;
    case Errc::file_too_big:
      return EFBIG;
    case Errc::interrupted:
      return EINTR;
    case Errc::invalid:
      return EINVAL;
    case Errc::io:
      return EIO;
    case Errc::is_directory:
      return EISDIR;
    case Errc::loop:
      return ELOOP;
    case Errc::name_too_long:
      return ENAMETOOLONG;
    case Errc::no_data:
      return ENODATA;
    case Errc::no_entry:
      return ENOENT;
    case Errc::no_lock:
      return ENOLCK;
    case Errc::no_space:
      return ENOSPC;
    case Errc::not_directory:
      return ENOTDIR;
    case Errc::not_empty:
      return ENOTEMPTY;
    case Errc::not_permitted:
      return EPERM;
    case Errc::not_supported:
      return EOPNOTSUPP;
    case Errc::no_device:
      return ENXIO;
    case Errc::overflow:
      return EOVERFLOW;
    case Errc::range:
      return ERANGE;
    case Errc::read_only:
      return EROFS;
    case Errc::stale:
      return ESTALE;
    case Errc::too_many_links:
      return EMLINK;
    case Errc::cross_device:
      return EXDEV;
    case Errc::corrupt:
    case Errc::fenced:
    case Errc::lost:
    case Errc::unavailable:
    case Errc::mismatch:
    case Errc::not_a_store:
    case Errc::version:
    case Errc::in_use:
    case Errc::log_full:
    case Errc::shut_down:
      return EIO;
  }
  return EIO;
}

bool worth_a_log_line(Errc code) { return errno_of(code) == EIO; }

}  // namespace plumeria::fuse
