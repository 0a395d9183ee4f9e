// Requests of the kernel that find, make and remove names: each becomes a call of fs::Operations
// and a reply. What a reply names counts as a lookup, until the kernel forgets it.
//
// Threads     The executor's. Ownership: borrows all that it is made with.
#pragma once

#include <string>

#include "base/task.h"
#include "fuse/data_requests.h"
#include "fuse/encode.h"
#include "fuse/replies.h"

namespace plumeria::fuse {

class NameRequests {
 public:
  NameRequests(fs::Operations& operations, KernelCache& cache, Replies& replies, DataRequests& data)
      : operations_(operations), cache_(cache), replies_(replies), data_(data) {}

  Task<void> lookup(Request request, std::string name);
  Task<void> readlink(Request request);
  Task<void> make(Request request, std::string name, std::uint32_t mode, std::uint32_t rdev);
  Task<void> symlink(Request request, std::string name, std::string target);
  Task<void> link(Request request, std::uint64_t inode, std::string name);
  Task<void> remove(Request request, std::string name);
  Task<void> rename(Request request, std::string name, std::uint64_t new_parent,
                    std::string new_name, std::uint32_t flags);
  Task<void> create(Request request, std::string name, fuse_create_in in);
  Task<void> readdir(Request request, fuse_read_in in, bool plus);
  void forget(std::uint64_t inode, std::uint64_t count);

 private:
  // An entry for the kernel to keep, which counts as a lookup.
  int reply_entry(const Request& request, const fs::Attributes& attributes, Validity validity);
  // Of a name that was made, with or without an inode (docs/kernel.md, "Attributes"). Whether it
  // was taken.
  bool reply_linked(const Request& request, const Result<fs::Covered<fs::Attributes>>& made,
                    Validity validity);
  void reply_created(const Request& request, const Result<fs::Covered<fs::Attributes>>& made);

  fs::Operations& operations_;
  KernelCache& cache_;
  Replies& replies_;
  DataRequests& data_;
};

}  // namespace plumeria::fuse
