#include "fuse/name_requests.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>

#include "base/fault.h"
#include "base/number.h"
#include "fuse/thread_state.h"

namespace plumeria::fuse {

Task<void> NameRequests::lookup(Request request, std::string name) {
#ifdef PLUMERIA_PLANTED_FAULTS
  if (planted(Fault::fuse_expire_entry_instead_of_epoch)) cache_.name_seen(request.inode, name);
#endif
  auto found = co_await operations_.lookup(request.inode, name);
  for (std::uint32_t times = 0; found && found->attributes;) {
    const fs::Attributes& attributes = *found->attributes;
    const fs::InodeNumber inode = attributes.inode;
    if (cache_.settling(inode)) {
      found->pins.clear();
      co_await cache_.settled(inode);
    } else if (times == DataRequests::size_attempts ||
               cache_.sizes().is_sure_of_size(inode, attributes.size)) {
      break;
    } else if (cache_.may_cut_pages(inode) ||
               !cache_.sizes().may_believe_in_more(inode, attributes.size)) {
      const bool sure =
          co_await cache_.sizes().make_sure_of_size(attributes, DataRequests::is_last(times++));
      if (sure && !cache_.settling(inode)) break;
      found->pins.clear();
      co_await cache_.sizes().wait_for_changer(inode);
    } else {
      found->pins.clear();
      co_await cache_.sizes().wait_for_changer(inode);
      (void)co_await data_.make_sure_of_size(inode, fs::Access::normal,
                                             DataRequests::is_last(times++));
    }
    found = co_await operations_.lookup(request.inode, name);
  }
  if (!found) {
    replies_.failed(request, found.error());
    co_return;
  }
  const bool may_cache = cache_.may_cache_names() && covers(found->pins, request.inode);
  if (!found->attributes) {
    replies_.with(request, encode_absence(may_cache));
    co_return;
  }
  Validity validity;
  validity.name = may_cache;
  validity.attributes =
      covers(found->pins, found->attributes->inode) || planted(Fault::fuse_attributes_uncovered);
  clerk::Pin kept;
  if (cache_.second_lookup().wants(request.thread)) {
    auto pin = co_await operations_.keep(found->attributes->inode);
    if (pin) kept = std::move(*pin);
  }
  const int error = reply_entry(request, *found->attributes, validity);
  if (error == 0) cache_.second_lookup().looked_up(request.thread, std::move(kept));
}

Task<void> NameRequests::readlink(Request request) {
  auto target = co_await operations_.readlink(request.inode);
  if (!target) {
    replies_.failed(request, target.error());
    co_return;
  }
  replies_.send(request, target->data(), target->size());
}

Task<void> NameRequests::make(Request request, std::string name, std::uint32_t mode,
                              std::uint32_t rdev) {
  if (S_ISDIR(mode)) {
    auto made = co_await operations_.mkdir(request.inode, std::move(name), mode, request.caller);
    reply_created(request, made);
  } else {
    auto made =
        co_await operations_.mknod(request.inode, std::move(name), mode, rdev, request.caller);
    reply_created(request, made);
  }
}

Task<void> NameRequests::symlink(Request request, std::string name, std::string target) {
  auto made = co_await operations_.symlink(request.inode, std::move(name), std::move(target),
                                           request.caller);
  reply_created(request, made);
}

Task<void> NameRequests::link(Request request, std::uint64_t inode, std::string name) {
  auto made = co_await operations_.link(fs::InodeNumber{inode}, request.inode, std::move(name));
  reply_linked(request, made, {});
}

Task<void> NameRequests::remove(Request request, std::string name) {
  if (request.opcode == FUSE_RMDIR) {
    auto done = co_await operations_.rmdir(request.inode, std::move(name));
    replies_.status(request, done);
  } else {
    auto done = co_await operations_.unlink(request.inode, std::move(name));
    replies_.status(request, done);
  }
}

Task<void> NameRequests::rename(Request request, std::string name, std::uint64_t new_parent,
                                std::string new_name, std::uint32_t flags) {
  auto done = co_await operations_.rename(request.inode, std::move(name),
                                          fs::InodeNumber{new_parent}, std::move(new_name), flags);
  replies_.status(request, done);
}

Task<void> NameRequests::create(Request request, std::string name, fuse_create_in in) {
  // Somebody else may have made it after the kernel had looked. For an open without O_EXCL the
  // kernel looks again when told that its knowledge was stale, and opens it with the checks that
  // this needs. But it does so only once.
  const bool must_open = (in.flags & O_EXCL) == 0 && cache_.second_lookup().wants(request.thread);
  if (must_open) request.caller.groups = groups_of(request.thread);
  auto made = co_await operations_.create(request.inode, std::move(name), in.mode,
                                          must_open ? in.flags : in.flags | O_EXCL, request.caller);
  if (!made) {
    if (made.error().code == Errc::exist && (in.flags & O_EXCL) == 0) {
      replies_.failed(request, ESTALE);
    } else {
      replies_.failed(request, made.error());
    }
    co_return;
  }
  struct {
    fuse_entry_out entry;
    fuse_open_out open;
  } out{};
  Validity validity;
  validity.name = cache_.may_cache_names() && covers(made->entry.pins, request.inode);
  const fs::InodeNumber inode = made->entry.value.inode;
  const bool is_new = cache_.looked_up(made->entry.value);
  validity.attributes =
      !must_open && covers(made->entry.pins, inode) && cache_.may_cache_creation(request.thread);
  out.entry = encode_entry(made->entry.value, validity);
  out.open.fh = raw(made->handle);
  out.open.open_flags = data_.open_flags_for(in.flags);
  cache_.sizes().inode_told(inode, made->entry.value.size, is_new);
  data_.opened(inode, in.flags);
  if (validity.attributes) cache_.attributes_told(inode);
  if (replies_.with(request, out) == 0) {
    if (validity.attributes) cache_.creation_sent(inode, request.thread);
    data_.note_if_direct(out.open);
    co_return;
  }
  // Nobody waits for it any more, so nobody will release or forget it.
  data_.closed(inode, in.flags);
  forget(raw(inode), 1);
  (void)co_await operations_.release(made->handle);
}

Task<void> NameRequests::readdir(Request request, fuse_read_in in, bool plus) {
  constexpr std::size_t smallest_entry = 32;
  const std::size_t limit = std::min<std::size_t>(in.size, fs::io_size_max);
  auto listing =
      co_await operations_.readdir(request.inode, in.offset, limit / smallest_entry, plus);
  if (!listing) {
    replies_.failed(request, listing.error());
    co_return;
  }
  const bool may_cache = cache_.may_cache_names() && covers(listing->pins, request.inode);
  Bytes out;
  out.reserve(limit);
  std::vector<const fs::Attributes*> told;
  for (const fs::DirectoryEntry& entry : listing->value) {
    if (!plus) {
      if (!append_entry(out, limit, entry)) break;
      continue;
    }
    fuse_entry_out head{};
    const bool named = entry.attributes && !cache_.settling(entry.inode) && entry.name != "." &&
                       entry.name != ".." &&
                       cache_.sizes().is_sure_of_size(entry.inode, entry.attributes->size);
    if (named) {
      Validity validity;
      validity.name = may_cache;
      validity.attributes = covers(listing->pins, entry.inode);
      head = encode_entry(*entry.attributes, validity);
      if (validity.attributes) cache_.attributes_told(entry.inode);
    }
    if (!append_entry_plus(out, limit, entry, head)) break;
    if (named) told.push_back(&*entry.attributes);
  }
  for (const fs::Attributes* attributes : told) {
    const bool is_new = cache_.looked_up(*attributes);
    if (S_ISREG(attributes->mode))
      cache_.sizes().inode_told(attributes->inode, attributes->size, is_new);
  }
  if (replies_.send(request, out.data(), out.size()) == 0) {
    cache_.listing_sent(request.inode, request.thread);
  } else {
    for (const fs::Attributes* attributes : told) forget(raw(attributes->inode), 1);
  }
}

void NameRequests::forget(std::uint64_t inode, std::uint64_t count) {
  const fs::InodeNumber number{inode};
  if (cache_.forgotten(number, count)) operations_.forget(number);
}

int NameRequests::reply_entry(const Request& request, const fs::Attributes& attributes,
                              Validity validity) {
  const bool is_new = cache_.looked_up(attributes);
  if (S_ISREG(attributes.mode)) {
    cache_.sizes().inode_told(attributes.inode, attributes.size, is_new);
  }
  if (validity.attributes) cache_.attributes_told(attributes.inode);
  const int error = replies_.with(request, encode_entry(attributes, validity));
  if (error != 0) forget(raw(attributes.inode), 1);
  return error;
}

void NameRequests::reply_created(const Request& request,
                                 const Result<fs::Covered<fs::Attributes>>& made) {
  Validity validity;
  validity.attributes =
      made && covers(made->pins, made->value.inode) && cache_.may_cache_creation(request.thread);
  if (reply_linked(request, made, validity) && validity.attributes) {
    cache_.creation_sent(made->value.inode, request.thread);
  }
}

bool NameRequests::reply_linked(const Request& request,
                                const Result<fs::Covered<fs::Attributes>>& made,
                                Validity validity) {
  if (!made) {
    replies_.failed(request, made.error());
    return false;
  }
  validity.name = cache_.may_cache_names() && covers(made->pins, request.inode);
  return reply_entry(request, made->value, validity) == 0;
}

}  // namespace plumeria::fuse
