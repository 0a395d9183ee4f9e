// The clerk's side of its lease: when to renew, when it may not use its locks any more
// (docs/protocol.md, "Leases"). A pure state machine.
#pragma once

#include <algorithm>

#include "base/fault.h"
#include "base/time.h"
#include "lock/lease_clock.h"

namespace plumeria::clerk {

class LeaseKeeper {
 public:
  // The server answered a join or renewal that was sent at `sent`. True if this ends a suspension.
  bool renewed(TimePoint now, TimePoint sent, lock::LeaseTerms terms) {
    if (sent > now) return false;  // No message of ours.
    if (planted(Fault::renewal_counted_from_reply)) sent = now;
    if (begun_ && sent <= counted_from_) return false;
    begun_ = true;
    counted_from_ = sent;
    terms_ = terms;
    renew_at_ = counted_from_ + lock::renew_after(terms);
    reconnect_at_ = renew_at_ + lock::reconnect_after(terms);
    if (!suspended_ || now >= usable_until()) return false;
    suspended_ = false;
    return true;
  }

  // Looked at before every pin: a process that was stopped finds its lease over although no timer
  // has run.
  bool usable(TimePoint now) const { return begun_ && !suspended_ && now < usable_until(); }
  bool suspended() const { return suspended_; }
  // Others cannot have the locks yet.
  bool lasts(TimePoint now) const { return begun_ && now < deadline(); }
  // From here on others may have the locks.
  TimePoint deadline() const { return lock::lease_deadline(counted_from_, terms_); }
  const lock::LeaseTerms& terms() const { return terms_; }

  struct Due {
    bool renew = false;      // send a renewal
    bool suspend = false;    // the suspension begins now
    bool reconnect = false;  // the connection seems to lead nowhere: make a new one
  };
  Due tick(TimePoint now) {
    Due due;
    if (!begun_) return due;
    if (!suspended_ && now >= usable_until()) suspended_ = due.suspend = true;
    if (now >= renew_at_) {
      due.renew = true;
      renew_at_ = now + lock::renew_again_after(terms_);
      if (now >= reconnect_at_) {
        due.reconnect = true;
        reconnect_at_ = now + lock::reconnect_after(terms_);
      }
    }
    return due;
  }
  TimePoint next_tick() const {
    if (!begun_) return TimePoint::max();
    return suspended_ ? renew_at_ : std::min(renew_at_, usable_until());
  }

 private:
  TimePoint usable_until() const { return lock::lease_usable_until(counted_from_, terms_); }

  bool begun_ = false, suspended_ = false;
  TimePoint counted_from_{}, renew_at_{}, reconnect_at_{};
  lock::LeaseTerms terms_;
};

}  // namespace plumeria::clerk
