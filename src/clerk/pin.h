// Local holds on locks: as long as there is one, the lock's mode stays.
//
// Threads     The executor's. Ownership: a pin may outlive the owner of what it holds.
#pragma once

#include <memory>
#include <utility>

#include "lock/name.h"

namespace plumeria::clerk {

// Who gave a pin and takes it back: the clerk, or a test's stand-in for one.
class PinOwner {
 public:
  PinOwner() : self_(std::make_shared<PinOwner*>(this)) {}
  PinOwner(const PinOwner&) = delete;
  PinOwner& operator=(const PinOwner&) = delete;

  virtual void unpin(lock::LockName name, lock::Mode mode) = 0;
  // Whether what is pinned may be relied on: the lease is neither lost nor about to be.
  virtual bool holds() const = 0;
  // Points at null when it is gone, for the pins that outlive it.
  const std::shared_ptr<PinOwner*>& self() const { return self_; }

 protected:
  ~PinOwner() { *self_ = nullptr; }

 private:
  std::shared_ptr<PinOwner*> self_;
};

// One local hold on one lock; dropped by the destructor. Movable. It may outlive its owner: a reply
// to the kernel can wait while the lease is lost and another one begins.
class Pin {
 public:
  Pin() = default;
  Pin(PinOwner* owner, lock::LockName name, lock::Mode mode)
      : owner_(owner->self()), name_(name), mode_(mode) {}
  Pin(Pin&& other) noexcept = default;
  Pin& operator=(Pin&& other) noexcept {
    if (this == &other) return *this;
    drop();
    owner_ = std::move(other.owner_);
    name_ = other.name_;
    mode_ = other.mode_;
    return *this;
  }
  ~Pin() { drop(); }

  explicit operator bool() const { return owner_ != nullptr; }
  // Whether what the lock covers may be cached, by the kernel, too.
  bool holds() const { return owner_ != nullptr && *owner_ != nullptr && (*owner_)->holds(); }
  lock::LockName name() const { return name_; }
  lock::Mode mode() const { return mode_; }
  void drop() {
    const std::shared_ptr<PinOwner*> owner = std::move(owner_);
    if (owner != nullptr && *owner != nullptr) (*owner)->unpin(name_, mode_);
  }

 private:
  std::shared_ptr<PinOwner*> owner_;
  lock::LockName name_;
  lock::Mode mode_ = lock::Mode::none;
};

}  // namespace plumeria::clerk
