#include "sim/network.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

namespace plumeria::sim {
namespace {

using net::Channel;
using net::PeerId;
using testing::ElementsAre;
using testing::IsEmpty;

class SimNetworkTest : public testing::Test {
 protected:
  SimNetworkTest() : simulation_(1), network_(simulation_, {}) {
    start_server();
    client_ = std::make_unique<SimTransport>(network_, client_node_);
    client_->on_connection(Channel::lock,
                           [this](PeerId, bool up) { client_events_.push_back(up); });
    to_server_ = client_->connect("server");
  }
  void start_server() {
    server_ = std::make_unique<SimTransport>(network_, server_node_);
    server_->on_message(Channel::lock, [this](PeerId from, ByteView message) {
      received_.emplace_back(as_text(message));
      last_peer_ = from;
    });
    server_->on_connection(Channel::lock,
                           [this](PeerId, bool up) { server_events_.push_back(up); });
  }
  void send(const std::string& text) {
    client_->send(to_server_, Channel::lock, to_bytes(as_bytes(text)), {});
  }
  void send_numbers(int count) {
    for (int i = 0; i < count; ++i) send(std::string(1, static_cast<char>(i)));
  }

  Simulation simulation_;
  Node& client_node_ = simulation_.add_node("client");
  Node& server_node_ = simulation_.add_node("server");
  SimNetwork network_;
  std::unique_ptr<SimTransport> server_, client_;
  PeerId to_server_{}, last_peer_{};
  std::vector<std::string> received_;
  std::vector<bool> client_events_, server_events_;
};

TEST_F(SimNetworkTest, MessagesArriveInOrderOnASoundConnection) {
  simulation_.run_for(1s);
  EXPECT_THAT(client_events_, ElementsAre(true));
  EXPECT_THAT(server_events_, ElementsAre(true));
  for (const char* text : {"a", "b", "c"}) send(text);
  EXPECT_EQ(client_->queued(to_server_), 3u);
  simulation_.run_for(1s);
  EXPECT_THAT(received_, ElementsAre("a", "b", "c"));
  EXPECT_EQ(client_->queued(to_server_), 0u);
}

TEST_F(SimNetworkTest, HeadAndPayloadAreOneMessageAndAnswersFindTheirWay) {
  simulation_.run_for(1s);
  client_->send(to_server_, Channel::lock, to_bytes(as_bytes("head")),
                SharedBytes::copy_of(as_bytes("+payload")));
  simulation_.run_for(1s);
  ASSERT_THAT(received_, ElementsAre("head+payload"));
  std::string answer;
  client_->on_message(Channel::lock, [&](PeerId, ByteView message) { answer = as_text(message); });
  server_->send(last_peer_, Channel::lock, to_bytes(as_bytes("answer")), {});
  simulation_.run_for(1s);
  EXPECT_EQ(answer, "answer");
}

TEST_F(SimNetworkTest, WhatIsSentBeforeTheConnectionStandsIsDropped) {
  send("early");
  simulation_.run_for(1s);
  EXPECT_THAT(received_, IsEmpty());
}

TEST_F(SimNetworkTest, LossDoublingAndReorderingHappenAtTheirRates) {
  simulation_.run_for(1s);
  network_.set_options({.lost = 200'000, .doubled = 200'000, .reordered = 300'000});
  send_numbers(100);
  simulation_.run_for(10s);
  std::vector<std::string> sorted = received_;
  std::sort(sorted.begin(), sorted.end());
  EXPECT_NE(received_, sorted);
  EXPECT_NE(std::adjacent_find(sorted.begin(), sorted.end()), sorted.end());
  sorted.erase(std::unique(sorted.begin(), sorted.end()), sorted.end());
  EXPECT_LT(sorted.size(), 100u);
  EXPECT_GT(sorted.size(), 50u);
}

TEST_F(SimNetworkTest, AShortCutOnlyDelays) {
  simulation_.run_for(1s);
  network_.cut("client", "server");
  send("x");
  simulation_.run_for(3s);
  EXPECT_THAT(received_, IsEmpty());
  network_.heal();
  simulation_.run_for(1s);
  EXPECT_THAT(received_, ElementsAre("x"));
  EXPECT_THAT(client_events_, ElementsAre(true));
}

TEST_F(SimNetworkTest, ACutOneWayLetsTheOtherWayThrough) {
  simulation_.run_for(1s);
  network_.cut("server", "client");
  send("x");
  simulation_.run_for(1s);
  EXPECT_THAT(received_, ElementsAre("x"));
}

TEST_F(SimNetworkTest, ALongCutBreaksTheConnectionAndHealingBringsANewOne) {
  simulation_.run_for(1s);
  network_.cut_both("client", "server");
  simulation_.run_for(20s);
  EXPECT_THAT(client_events_, ElementsAre(true, false));
  EXPECT_THAT(server_events_, ElementsAre(true, false));
  EXPECT_EQ(client_->last_error(to_server_), "server: timed out");
  network_.heal();
  simulation_.run_for(1s);
  EXPECT_THAT(client_events_, ElementsAre(true, false, true));
  EXPECT_EQ(client_->last_error(to_server_), "");
}

TEST_F(SimNetworkTest, TheClientFindsARestartedServer) {
  simulation_.run_for(1s);
  server_node_.crash();
  server_.reset();
  simulation_.run_for(10s);
  EXPECT_EQ(client_->last_error(to_server_), "server: connection refused");
  server_node_.start();
  start_server();
  simulation_.run_for(1s);
  EXPECT_THAT(client_events_, ElementsAre(true, false, true));
  send("again");
  simulation_.run_for(1s);
  EXPECT_THAT(received_, ElementsAre("again"));
}

TEST_F(SimNetworkTest, ADisconnectedClientConnectsAgainAsANewPeer) {
  simulation_.run_for(1s);
  send("x");
  simulation_.run_for(1s);
  const PeerId before = last_peer_;
  server_->disconnect(before, "garbage");
  simulation_.run_for(1s);
  EXPECT_THAT(client_events_, ElementsAre(true, false, true));
  send("y");
  simulation_.run_for(1s);
  EXPECT_NE(last_peer_, before);
}

TEST_F(SimNetworkTest, APausedNodeHandlesItsMessagesWhenItGoesOn) {
  simulation_.run_for(1s);
  server_node_.pause();
  send("x");
  simulation_.run_for(30s);
  EXPECT_THAT(received_, IsEmpty());
  server_node_.resume();
  simulation_.run_for(1s);
  EXPECT_THAT(received_, ElementsAre("x"));
}

TEST_F(SimNetworkTest, TooLongAMessageIsABrokenPromise) {
  EXPECT_DEATH(client_->send(to_server_, Channel::lock, Bytes(net::message_size_max + 1), {}),
               "CHECK failed");
}

}  // namespace
}  // namespace plumeria::sim
