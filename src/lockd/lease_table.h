// Which leases this server minds, until when, and whom the rebuild still waits for
// (docs/protocol.md, "Leases", "Restart and rebuild"). A pure state machine; the view, which
// outlives the server, is elsewhere.
#pragma once

#include <absl/container/btree_map.h>

#include <cstdint>
#include <string>
#include <vector>

#include "base/time.h"
#include "lock/lease.h"
#include "lock/lease_clock.h"

namespace plumeria::lockd {

using lock::LeaseNumber;

class LeaseTable {
 public:
  // A rebuild without progress for `report_patience` ends the lease.
  LeaseTable(Duration duration, Duration report_patience)
      : duration_(duration), report_patience_(report_patience) {}

  // A clerk that has joined now: it holds nothing, so it counts as reported.
  void joined(TimePoint now, LeaseNumber lease);
  // A lease of the view that was live before this server started; `wait` is the longest lease that
  // may be running.
  void inherited(TimePoint now, LeaseNumber lease, Duration wait);
  // A lease of the view that was over before this server started.
  void inherited_dying(LeaseNumber lease);

  // A renewal came. False if the lease is not live here.
  bool renew(TimePoint now, LeaseNumber lease);
  bool live(LeaseNumber lease) const;
  bool known(LeaseNumber lease) const { return leases_.contains(lease); }  // live or dying
  // The time that is left to a live lease.
  Duration left(TimePoint now, LeaseNumber lease) const;

  // This lease is not renewed any more and ends when it runs out: until then its clerk may use its
  // locks, whatever it has done. False if it is not live, or condemned already.
  bool condemn(LeaseNumber lease, std::string why);

  struct Due {
    LeaseNumber lease{};
    std::string why;
  };
  // Live leases whose time is over; the caller lets them die. Condemns those that do not report.
  std::vector<Due> due(TimePoint now);
  TimePoint next_due() const;
  // This server was stopped itself: every live lease has a full duration from now.
  void extend_all(TimePoint now);

  void dying(LeaseNumber lease);
  void gone(LeaseNumber lease);

  // A page of a report. `accept`: take its content; `acknowledge`: tell the clerk that it came.
  struct Page {
    bool accept = false, acknowledge = false;
  };
  Page report(TimePoint now, LeaseNumber lease, std::uint32_t page, bool last);
  // True when every lease has reported or is gone.
  bool rebuilt() const { return unknown_ == 0; }
  bool has_reported(LeaseNumber lease) const;

 private:
  struct State {
    bool live = true;
    bool reported = false;
    bool condemned = false;
    std::string why;  // it is condemned
    std::uint32_t next_page = 0;
    TimePoint expires_at{}, report_due{};
  };
  absl::btree_map<LeaseNumber, State> leases_;
  Duration duration_, report_patience_;
  std::size_t unknown_ = 0;  // leases whose locks are not known
};

}  // namespace plumeria::lockd
