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

void XattrRequests::reply_value(const Request& request, std::uint32_t size,
                                const std::optional<Bytes>& value) {
  if (value) {
    reply_bytes(request, size, *value);
  } else {
    replies_.failed(request, ENODATA);
  }
}

Task<void> XattrRequests::get(Request request, std::uint32_t size, std::string name) {
  if (cache_.sizes().is_ours(request.thread)) {
    // It must not wait, and may do everything. Unlike ENODATA, this is not taken for an answer that
    // could be kept for others.
    replies_.failed(request, EAGAIN);
    return []() -> Task<void> { co_return; }();
  }
  return name.starts_with(acl_prefix) ? get_acl(request, size, std::move(name))
                                      : get_other(request, size, std::move(name));
}

// A list, or that there is none, is cached by the kernel, and forgotten with the attributes.
Task<void> XattrRequests::get_acl(Request request, std::uint32_t size, std::string name) {
  auto found = co_await operations_.getxattr(request.inode, std::move(name));
  if (!found) {
    replies_.failed(request, found.error());
    co_return;
  }
  cache_.attributes_told(request.inode);
  reply_value(request, size, found->value);
}

// A write(2) that keeps all others out may wait for it: for whether there is security.capability.
Task<void> XattrRequests::get_other(Request request, std::uint32_t size, std::string name) {
  DataRequest data;
  data.unique = request.unique;
  data.kind = DataKind::attributes;
  data.range = {0, 0};
  auto call = [this, request, name](fs::Access access) {
    return operations_.getxattr_unless_revoked(request.inode, name, access);
  };
  auto found =
      co_await data_.in_turn<Result<std::optional<Bytes>>>(request.inode, data, std::move(call));
  if (!found) {
    replies_.failed(request, found.error());
  } else {
    reply_value(request, size, *found);
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
