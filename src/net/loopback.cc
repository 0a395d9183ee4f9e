#include "net/loopback.h"

#include <array>
#include <map>
#include <utility>

#include "base/check.h"
#include "base/number.h"

namespace plumeria::net {

namespace {

constexpr std::size_t channels = 4;

Bytes joined(Bytes head, const SharedBytes& payload) {
  head.insert(head.end(), payload.view().begin(), payload.view().end());
  return head;
}

}  // namespace

class Loopback::End final : public Transport {
 public:
  End(Shared& shared, End& other) : shared_(shared), other_(other) {}

  PeerId connect(std::string_view) override;
  void send(PeerId to, Channel channel, Bytes head, SharedBytes payload) override;
  void on_message(Channel channel, MessageHandler handler) override {
    message_handlers_.at(raw(channel)) = std::make_shared<MessageHandler>(std::move(handler));
  }
  void on_connection(Channel channel, ConnectionHandler handler) override {
    connection_handlers_.at(raw(channel)) = std::make_shared<ConnectionHandler>(std::move(handler));
  }
  std::size_t queued(PeerId) const override { return 0; }
  void disconnect(PeerId peer, std::string_view reason) override;
  std::string last_error(PeerId) const override { return {}; }

  void establish(PeerId here);
  void link(PeerId here, PeerId there, bool connected_by_us);
  void deliver(PeerId from, Channel channel, ByteView message);
  void report(PeerId peer, bool connected);

 private:
  struct Link {
    PeerId there{};
    bool connected_by_us = false;
  };
  Shared& shared_;
  End& other_;
  std::map<PeerId, Link> links_;
  // Shared, so that a handler may replace itself while it runs.
  std::array<std::shared_ptr<MessageHandler>, channels> message_handlers_;
  std::array<std::shared_ptr<ConnectionHandler>, channels> connection_handlers_;
};

struct Loopback::Shared {
  explicit Shared(Executor& e) : executor(e), client(*this, server), server(*this, client) {}
  PeerId new_peer() { return PeerId{++last_peer}; }

  Executor& executor;
  std::uint64_t last_peer = 0;
  std::weak_ptr<Shared> self;
  End client, server;

  // `work` runs in a later turn unless the Loopback is gone by then.
  template <class Work>
  void post(Work work) {
    executor.post([weak = self, work = std::move(work)]() mutable {
      if (const auto shared = weak.lock()) work();
    });
  }
};

PeerId Loopback::End::connect(std::string_view) {
  const PeerId here = shared_.new_peer();
  shared_.post([this, here] { establish(here); });
  return here;
}

void Loopback::End::establish(PeerId here) {
  const PeerId there = shared_.new_peer();
  link(here, there, true);
  other_.link(there, here, false);
  other_.report(there, true);
  report(here, true);
}

void Loopback::End::link(PeerId here, PeerId there, bool connected_by_us) {
  links_.emplace(here, Link{there, connected_by_us});
}

void Loopback::End::send(PeerId to, Channel channel, Bytes head, SharedBytes payload) {
  CHECK(head.size() + payload.size() <= message_size_max);
  const auto found = links_.find(to);
  if (found == links_.end()) return;
  const PeerId there = found->second.there;
  auto message = std::make_shared<const Bytes>(joined(std::move(head), payload));
  shared_.post([this, there, channel, message = std::move(message)] {
    other_.deliver(there, channel, *message);
  });
}

void Loopback::End::deliver(PeerId from, Channel channel, ByteView message) {
  if (!links_.contains(from)) return;
  const auto handler = message_handlers_.at(raw(channel));
  if (handler && *handler) (*handler)(from, message);
}

void Loopback::End::report(PeerId peer, bool connected) {
  for (std::size_t channel = 0; channel < channels; ++channel) {
    const auto handler = connection_handlers_.at(channel);
    if (handler && *handler) (*handler)(peer, connected);
  }
}

void Loopback::End::disconnect(PeerId peer, std::string_view) {
  const auto found = links_.find(peer);
  if (found == links_.end()) return;
  const Link gone = found->second;
  links_.erase(found);
  other_.links_.erase(gone.there);
  shared_.post([this, peer, gone] {
    report(peer, false);
    other_.report(gone.there, false);
    if (gone.connected_by_us) {
      establish(peer);
    } else {
      other_.establish(gone.there);
    }
  });
}

Loopback::Loopback(Executor& executor) : shared_(std::make_shared<Shared>(executor)) {
  shared_->self = shared_;
}
Loopback::~Loopback() = default;

Transport& Loopback::client() { return shared_->client; }
Transport& Loopback::server() { return shared_->server; }

}  // namespace plumeria::net
