#include "net/loopback.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <deque>

namespace plumeria::net {
namespace {

class QueueExecutor final : public Executor {
 public:
  void post(Callback callback) override { queue_.push_back(std::move(callback)); }
  void resume(std::coroutine_handle<> coroutine) override {
    post([coroutine] { coroutine.resume(); });
  }
  TimerId at(TimePoint, Callback) override { return TimerId::none; }
  void cancel(TimerId) override {}
  void run() {
    while (!queue_.empty()) {
      Callback next = std::move(queue_.front());
      queue_.pop_front();
      next();
    }
  }

 private:
  std::deque<Callback> queue_;
};

class LoopbackTest : public testing::Test {
 protected:
  void record(Transport& transport, std::vector<std::string>& into) {
    transport.on_message(
        Channel::disk, [&into](PeerId, ByteView message) { into.emplace_back(as_text(message)); });
    transport.on_connection(Channel::disk, [&into, &transport, this](PeerId peer, bool connected) {
      into.emplace_back(connected ? "+" : "-");
      if (&transport == &loopback.server() && connected) at_server = peer;
    });
  }
  static Bytes text(std::string_view t) { return to_bytes(as_bytes(t)); }

  QueueExecutor executor;
  Loopback loopback{executor};
  PeerId at_server{};
  std::vector<std::string> client_saw, server_saw;
};

TEST_F(LoopbackTest, CarriesMessagesBothWaysInOrder) {
  record(loopback.client(), client_saw);
  record(loopback.server(), server_saw);
  const PeerId server = loopback.client().connect("anything");
  loopback.client().send(server, Channel::disk, text("too early"));
  executor.run();
  loopback.client().send(server, Channel::disk, text("head "), SharedBytes(text("payload")));
  loopback.client().send(server, Channel::disk, text("second"));
  loopback.client().send(server, Channel::lock, text("nobody listens"));
  loopback.server().send(at_server, Channel::disk, text("answer"));
  EXPECT_THAT(server_saw, testing::ElementsAre("+"));  // Not on the sender's stack.
  executor.run();
  EXPECT_THAT(server_saw, testing::ElementsAre("+", "head payload", "second"));
  EXPECT_THAT(client_saw, testing::ElementsAre("+", "answer"));
}

TEST_F(LoopbackTest, ADisconnectedClientConnectsAgainUnderANewIdAtTheServer) {
  record(loopback.client(), client_saw);
  record(loopback.server(), server_saw);
  const PeerId server = loopback.client().connect("");
  executor.run();
  const PeerId first = at_server;
  loopback.client().send(server, Channel::disk, text("lost"));
  loopback.server().disconnect(at_server, "test");
  executor.run();
  EXPECT_NE(at_server, first);
  loopback.client().send(server, Channel::disk, text("hello"));
  executor.run();
  EXPECT_THAT(client_saw, testing::ElementsAre("+", "-", "+"));
  EXPECT_THAT(server_saw, testing::ElementsAre("+", "-", "+", "hello"));
}

TEST(LoopbackLifeTest, WhatIsUnderWayWhenItGoesIsDropped) {
  QueueExecutor executor;
  auto loopback = std::make_unique<Loopback>(executor);
  loopback->server().on_message(Channel::disk, [](PeerId, ByteView) { FAIL(); });
  const PeerId server = loopback->client().connect("");
  executor.run();
  loopback->client().send(server, Channel::disk, Bytes(8));
  loopback.reset();
  executor.run();
}

}  // namespace
}  // namespace plumeria::net
