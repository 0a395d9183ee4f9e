// Requests of the kernel for extended attributes, among them access control lists, which it caches.
//
// Threads     The executor's. Ownership: borrows all that it is made with.
#pragma once

#include <string>

#include "base/task.h"
#include "fuse/data_requests.h"
#include "fuse/replies.h"

namespace plumeria::fuse {

class XattrRequests {
 public:
  XattrRequests(fs::Operations& operations, KernelCache& cache, Replies& replies,
                DataRequests& data)
      : operations_(operations), cache_(cache), replies_(replies), data_(data) {}

  // `size`: bytes that the caller has room for; 0: he asks for the length.
  Task<void> get(Request request, std::uint32_t size, std::string name);
  Task<void> list(Request request, std::uint32_t size);
  Task<void> set(Request request, fuse_setxattr_in in, std::string name, Bytes value);
  Task<void> remove(Request request, std::string name);

 private:
  Task<void> get_acl(Request request, std::uint32_t size, std::string name);
  Task<void> get_other(Request request, std::uint32_t size, std::string name);
  void reply_value(const Request& request, std::uint32_t size, const std::optional<Bytes>& value);
  void reply_bytes(const Request& request, std::uint32_t size, ByteView bytes);

  fs::Operations& operations_;
  KernelCache& cache_;
  Replies& replies_;
  DataRequests& data_;
};

}  // namespace plumeria::fuse
