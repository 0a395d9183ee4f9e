#include "base/result.h"

namespace plumeria {

std::string_view describe(Errc code) {
  switch (code) {
    case Errc::access:
      return "permission denied";
    case Errc::again:
      return "would block";
    case Errc::bad_handle:
      return "bad file handle";
    case Errc::busy:
      return "busy";
    case Errc::deadlock:
      return "would deadlock";
    case Errc::exist:
      return "exists already";
    case Errc::file_too_big:
      return "file too big";
    case Errc::interrupted:
      return "interrupted";
    case Errc::invalid:
      return "invalid argument";
    case Errc::io:
      return "input/output error";
    case Errc::is_directory:
      return "is a directory";
    case Errc::loop:
      return "too many symbolic links, or a directory moved into itself";
    case Errc::name_too_long:
      return "name too long";
    case Errc::no_data:
      return "no data";
    case Errc::no_entry:
      return "no such file or directory";
    case Errc::no_lock:
      return "no locks available";
    case Errc::no_space:
      return "no space left";
    case Errc::not_directory:
      return "not a directory";
    case Errc::not_empty:
      return "directory not empty";
    case Errc::not_permitted:
      return "operation not permitted";
    case Errc::not_supported:
      return "not supported";
    case Errc::no_device:
      return "no such device or address";
    case Errc::overflow:
      return "value too large";
    case Errc::range:
      return "out of range";
    case Errc::read_only:
      return "read-only";
    case Errc::stale:
      return "stale file handle";
    case Errc::too_many_links:
      return "too many links";
    case Errc::cross_device:
      return "crosses devices";
    case Errc::corrupt:
      return "damaged";
    case Errc::fenced:
      return "refused: the lease is over";
    case Errc::lost:
      return "the lease was lost";
    case Errc::unavailable:
      return "not reachable";
    case Errc::mismatch:
      return "changed by somebody else";
    case Errc::not_a_store:
      return "not a Plumeria store";
    case Errc::version:
      return "of another version";
    case Errc::in_use:
      return "in use";
    case Errc::log_full:
      return "log full";
    case Errc::shut_down:
      return "shutting down";
  }
  return "unknown error";
}

std::string Error::message() const {
  if (what.empty()) return std::string(describe(code));
  return what + ": " + std::string(describe(code));
}

}  // namespace plumeria
