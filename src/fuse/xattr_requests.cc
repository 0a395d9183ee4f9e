#include "fuse/xattr_requests.h"

#include <errno.h>

#include "fuse/wire.h"

namespace plumeria::fuse {
namespace {

constexpr std::string_view acl_prefix = "system.posix_acl_";
constexpr std::string_view for_root_alone = "trusted.";

}  // namespace

void XattrRequests::reply_bytes(const Request& request, std::uint32_t size, ByteView bytes) {
  if (size == 0) {
    fuse_getxattr_out out{};
    out.size = static_cast<std::uint32_t>(bytes.size());
    replies_.with(request, out);
  } else if (bytes.size() > size) {
    replies_.failed(request, ERANGE);
  } else {
    replies_.send(request, bytes.data(), bytes.size());
  }
}

Task<void> XattrRequests::get(Request request, std::uint32_t size, std::string name) {
  const bool is_acl = name.starts_with(acl_prefix);
  auto found = co_await operations_.getxattr(request.inode, std::move(name));
  if (!found) {
    replies_.failed(request, found.error());
    co_return;
  }
  // A list, or that there is none, is forgotten with the attributes.
  if (is_acl) cache_.attributes_told(request.inode);
  if (found->value) {
    reply_bytes(request, size, *found->value);
  } else {
    replies_.failed(request, ENODATA);
  }
}

Task<void> XattrRequests::list(Request request, std::uint32_t size) {
  auto names = co_await operations_.listxattr(request.inode);
  if (!names) {
    replies_.failed(request, names.error());
    co_return;
  }
  std::string all;
  for (const std::string& name : *names) {
    if (name.starts_with(for_root_alone) && request.caller.uid != 0) continue;
    all.append(name).push_back('\0');
  }
  reply_bytes(request, size, as_bytes(all));
}

Task<void> XattrRequests::set(Request request, fuse_setxattr_in in, std::string name, Bytes value) {
  // The kernel keeps others from changing the file meanwhile, as with SETATTR.
  cache_.sizes().changes_file(request.inode);
  const bool kill_sgid = (in.setxattr_flags & FUSE_SETXATTR_ACL_KILL_SGID) != 0;
  auto done = co_await operations_.setxattr(request.inode, std::move(name), std::move(value),
                                            in.flags, kill_sgid);
  replies_.status(request, done);
}

Task<void> XattrRequests::remove(Request request, std::string name) {
  cache_.sizes().changes_file(request.inode);
  auto done = co_await operations_.removexattr(request.inode, std::move(name));
  replies_.status(request, done);
}

}  // namespace plumeria::fuse
