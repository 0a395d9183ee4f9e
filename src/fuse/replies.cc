#include "fuse/replies.h"

#include <absl/strings/str_cat.h>
#include <errno.h>
#include <string.h>

#include <algorithm>
#include <array>

#include "base/log.h"
#include "base/number.h"
#include "fuse/errno.h"

namespace plumeria::fuse {

bool covers(const std::vector<clerk::Pin>& pins, fs::InodeNumber inode) {
  const lock::LockName name{lock::LockClass::inode, raw(inode)};
  return std::any_of(pins.begin(), pins.end(),
                     [&](const clerk::Pin& pin) { return pin.holds() && pin.name() == name; });
}

// What finding a path is made of; of a name's access control list it may say that there is none.
static bool is_of_a_path(const Request& request, int error) {
  switch (request.opcode) {
    case FUSE_LOOKUP:
    case FUSE_GETATTR:
      return error == 0;
    case FUSE_GETXATTR:
      return error == 0 || error == ENODATA;
    default:
      return false;
  }
}

int Replies::send(const Request& request, const void* body, std::size_t size) {
  if (!is_of_a_path(request, 0)) cache_.second_lookup().answered(request.thread);
  fuse_out_header header{};
  header.unique = request.unique;
  header.len = static_cast<std::uint32_t>(sizeof header + size);
  const std::array<iovec, 2> parts{iovec{&header, sizeof header},
                                   iovec{const_cast<void*>(body), size}};
  const int error = device_.reply(std::span(parts).first(size == 0 ? 1 : 2));
  if (error != 0 && error != ENOENT && error != ENODEV && error != ECONNABORTED) {
    log_error(absl::StrCat("the kernel refuses our reply to request ", request.opcode, ": ",
                           strerror(error)));
  }
  return error;
}

void Replies::failed(const Request& request, int error) {
  ++errors_;
  if (!is_of_a_path(request, error)) cache_.second_lookup().answered(request.thread);
  if (error == ESTALE) cache_.second_lookup().found_stale(request.thread);
  fuse_out_header header{};
  header.unique = request.unique;
  header.len = sizeof header;
  header.error = -error;
  const iovec part{&header, sizeof header};
  device_.reply(std::span(&part, 1));
}

void Replies::failed(const Request& request, const Error& error) {
  if (worth_a_log_line(error.code)) {
    const TimePoint now = executor_.now();
    if (now - last_logged_ < 1s) {
      ++not_logged_;
    } else {
      log_warning(absl::StrCat(
          "request ", request.opcode, " of inode ", raw(request.inode), " fails: ", error.message(),
          not_logged_ > 0 ? absl::StrCat(" (and ", not_logged_, " more)") : ""));
      last_logged_ = now;
      not_logged_ = 0;
    }
  }
  failed(request, errno_of(error.code));
}

void Replies::status(const Request& request, const Status& status) {
  if (status) {
    done(request);
  } else {
    failed(request, status.error());
  }
}

}  // namespace plumeria::fuse
