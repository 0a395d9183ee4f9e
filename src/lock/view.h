// The view: what the lock service keeps in the store, in the register `view_register`, changed by
// compare-and-swap only (docs/protocol.md, "The view").
//
// Invariant  leases are sorted by number, all below next_lease; no two have the same slot.
// Errors     Errc::corrupt for bytes that make no sense, Errc::version for a newer layout.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "base/time.h"
#include "lock/lease.h"

namespace plumeria::lock {

constexpr std::string_view view_register = "view";

// Raised by every start of a lock server; in every message.
enum class Epoch : std::uint64_t { none = 0 };

enum class LeaseState : std::uint8_t {
  live = 1,
  expired = 2,     // over; not yet fenced and replayed for certain
  recovering = 3,  // fenced; `recoverer` replays its log
};
const char* state_name(LeaseState state);

constexpr std::uint32_t no_slot = ~0u;      // of a lease without a log (a lock server)
constexpr std::size_t label_size_max = 64;  // bytes; longer ones are cut

struct LeaseRecord {
  LeaseNumber lease{};
  LeaseState state = LeaseState::live;
  bool is_server = false;   // a lock server's own lease
  bool in_process = false;  // its clerk lives in the lock server's process
  std::uint32_t slot = no_slot;
  std::uint64_t instance = 0;  // the random number that its clerk joined with
  LeaseNumber recoverer{};
  std::string label;  // host:directory, for people

  friend bool operator==(const LeaseRecord&, const LeaseRecord&) = default;
};

struct View {
  Epoch epoch{};
  LeaseNumber next_lease{1};
  Duration lease_duration{};   // the longest that may still be running
  std::uint64_t features = 0;  // that all members have
  std::vector<LeaseRecord> leases;

  LeaseRecord* find(LeaseNumber lease);
  const LeaseRecord* find(LeaseNumber lease) const;
  const LeaseRecord* find_instance(std::uint64_t instance) const;
  // Records a new live lease and returns it; its number is next_lease, which grows.
  LeaseRecord& add(LeaseRecord record);
  void remove(LeaseNumber lease);
  std::uint32_t lowest_free_slot() const;

  friend bool operator==(const View&, const View&) = default;
};

Bytes encode_view(const View& view);
Result<View> decode_view(ByteView bytes);

}  // namespace plumeria::lock
