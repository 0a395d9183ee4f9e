// Changes that a disk server has acknowledged but may still lose in a power cut: kept until a flush
// covers them, in the order in which they were called.
//
// Pure bookkeeping of remote_disk.h; no I/O, no time. Entries are named by `order`, which grows
// with each call of the caller.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "base/bytes.h"
#include "disk/wire.h"

namespace plumeria::disk {

class Retained {
 public:
  struct Change {
    wire::Request request;
    SharedBytes payload;
    std::uint64_t incarnation = 0;      // of the server that acknowledged it last
    std::uint64_t acknowledgement = 0;  // counts acknowledgements
  };

  // The server of `incarnation` has acknowledged it, for the first time or again.
  void acknowledged(std::uint64_t order, wire::Request request, SharedBytes payload,
                    std::uint64_t incarnation);
  // A flush that is sent now will cover all acknowledgements up to this one.
  std::uint64_t last_acknowledgement() const { return last_acknowledgement_; }
  // Such a flush, of these segments (none: of all), has succeeded, at a server of `incarnation`.
  void covered(std::uint64_t acknowledgement, std::uint64_t incarnation,
               const std::vector<Segment>& segments);
  // In their original order: what a server of `incarnation` does not have.
  std::vector<std::uint64_t> unknown_to(std::uint64_t incarnation) const;
  const Change* find(std::uint64_t order) const;  // null: it is covered or forgotten
  void erase(std::uint64_t order);
  void erase_all_of(LeaseNumber lease);

  std::size_t bytes() const { return bytes_; }
  std::size_t size() const { return changes_.size(); }

 private:
  static std::size_t cost(const SharedBytes& payload) { return payload.size() + 256; }

  std::map<std::uint64_t, Change> changes_;                    // by order
  std::map<std::uint64_t, std::uint64_t> by_acknowledgement_;  // → order
  std::uint64_t last_acknowledgement_ = 0;
  std::size_t bytes_ = 0;
};

// Whether the two touch a common byte, or cannot be told apart.
bool overlap(const wire::Request& a, std::size_t a_payload, const wire::Request& b,
             std::size_t b_payload);

}  // namespace plumeria::disk
