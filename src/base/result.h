// Result<T>: a value, or the Error that the caller has to expect.
//
// Errors are values; no exception crosses a folder. `Errc` has two halves: what POSIX calls return
// (named after the errno without its E; only `fuse` and `cli` translate to errno), and what the
// world does to us, which travels up to the one place that can act on it.
#pragma once

#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <utility>

namespace plumeria {

enum class Errc {
  // What POSIX calls return.
  access,          // EACCES
  again,           // EAGAIN: would block, or a try was refused
  bad_handle,      // EBADF
  busy,            // EBUSY
  deadlock,        // EDEADLK
  exist,           // EEXIST
  file_too_big,    // EFBIG
  interrupted,     // EINTR
  invalid,         // EINVAL
  io,              // EIO
  is_directory,    // EISDIR
  loop,            // ELOOP
  name_too_long,   // ENAMETOOLONG
  no_data,         // ENODATA
  no_entry,        // ENOENT
  no_lock,         // ENOLCK
  no_space,        // ENOSPC
  not_directory,   // ENOTDIR
  not_empty,       // ENOTEMPTY
  not_permitted,   // EPERM
  not_supported,   // EOPNOTSUPP
  no_device,       // ENXIO
  overflow,        // EOVERFLOW
  range,           // ERANGE
  read_only,       // EROFS
  stale,           // ESTALE
  too_many_links,  // EMLINK
  cross_device,    // EXDEV
  // What the world does to us.
  corrupt,      // bytes that fail their checksum or make no sense; the message names the place
  fenced,       // the lease of this write is over: the disk refused it
  lost,         // this mount's lease is gone; what was dirty is lost
  unavailable,  // the peer or the store cannot be reached now
  mismatch,     // a compare-and-swap found another version
  not_a_store,  // foreign or missing store
  version,      // a store or a peer of another format or protocol version
  in_use,       // somebody else holds the store
  log_full,     // no room in the log until blocks are written back
  shut_down,    // this part is being stopped
};

// "no such file or directory", "lease is over", …: for messages to people.
std::string_view describe(Errc code);

struct Error {
  Errc code;
  std::string what;  // Names the place or the thing; may be empty where the code says it all.

  std::string message() const;  // "<what>: <description of the code>"
};

template <class T>
using Result = tl::expected<T, Error>;
using Status = Result<void>;

inline tl::unexpected<Error> fail(Errc code, std::string what = {}) {
  return tl::unexpected<Error>(Error{code, std::move(what)});
}
inline tl::unexpected<Error> fail(Error error) { return tl::unexpected<Error>(std::move(error)); }

}  // namespace plumeria

#define PLUMERIA_JOIN_(a, b) a##b
#define PLUMERIA_JOIN(a, b) PLUMERIA_JOIN_(a, b)

// `TRY(auto x, f());` declares x, or returns the error. `TRY_STATUS(f());` for a Status.
// CO_TRY and CO_TRY_STATUS do the same inside a coroutine (the expression may be a co_await).
#define PLUMERIA_TRY_(temporary, declaration, expression, return_)        \
  auto temporary = (expression);                                          \
  if (!temporary) return_ ::plumeria::fail(std::move(temporary).error()); \
  declaration = *std::move(temporary)
#define TRY(declaration, ...) \
  PLUMERIA_TRY_(PLUMERIA_JOIN(try_, __LINE__), declaration, (__VA_ARGS__), return )
#define CO_TRY(declaration, ...) \
  PLUMERIA_TRY_(PLUMERIA_JOIN(try_, __LINE__), declaration, (__VA_ARGS__), co_return )
#define PLUMERIA_TRY_STATUS_(expression, return_)                               \
  do {                                                                          \
    auto try_status_ = (expression);                                            \
    if (!try_status_) return_ ::plumeria::fail(std::move(try_status_).error()); \
  } while (false)
#define TRY_STATUS(...) PLUMERIA_TRY_STATUS_((__VA_ARGS__), return )
#define CO_TRY_STATUS(...) PLUMERIA_TRY_STATUS_((__VA_ARGS__), co_return )
