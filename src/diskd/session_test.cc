#include "diskd/session.h"

#include <gtest/gtest.h>

namespace plumeria::diskd {
namespace {

using Arrival = Session::Arrival;

TEST(SessionTest, ARequestIsExecutedOnceHoweverOftenItComes) {
  Session session(100, 1000);
  EXPECT_EQ(session.arrive(1, 1, 10), Arrival::execute);
  EXPECT_EQ(session.arrive(1, 1, 10), Arrival::ignore);  // It is under way.
  session.answered(1, Bytes(3));
  EXPECT_EQ(session.arrive(1, 1, 10), Arrival::repeat);
  EXPECT_EQ(session.answer(1), Bytes(3));
  EXPECT_EQ(session.arrive(2, 2, 10), Arrival::execute);  // The client has answer 1.
  EXPECT_EQ(session.remembered(), 0u);
  EXPECT_EQ(session.arrive(1, 1, 10), Arrival::ignore);
}

TEST(SessionTest, RequestsMayOvertakeEachOther) {
  Session session(100, 1000);
  EXPECT_EQ(session.arrive(3, 1, 10), Arrival::execute);
  EXPECT_EQ(session.arrive(1, 1, 10), Arrival::execute);
  EXPECT_EQ(session.arrive(2, 1, 10), Arrival::execute);
  session.answered(3, {});
  EXPECT_EQ(session.arrive(4, 3, 10), Arrival::execute);  // 1 and 2 were answered before a loss.
  session.answered(1, {});
  session.answered(2, {});
  EXPECT_EQ(session.remembered(), 1u);
}

TEST(SessionTest, AForgottenRequestMayRunAgain) {
  Session session(100, 1000);
  EXPECT_EQ(session.arrive(1, 1, 10), Arrival::execute);
  session.forget(1);
  EXPECT_EQ(session.arrive(1, 1, 10), Arrival::execute);
}

TEST(SessionTest, BoundsAreKept) {
  Session session(3, 1000);
  EXPECT_EQ(session.arrive(1, 1, 600), Arrival::execute);
  EXPECT_EQ(session.arrive(2, 1, 600), Arrival::too_many);
  EXPECT_EQ(session.arrive(2, 1, 400), Arrival::execute);
  session.answered(2, {});
  EXPECT_EQ(session.arrive(3, 1, 0), Arrival::execute);
  EXPECT_EQ(session.arrive(4, 1, 0), Arrival::too_many);
  EXPECT_EQ(session.arrive(4, 3, 0), Arrival::execute);  // The client has answers 1 and 2.
}

}  // namespace
}  // namespace plumeria::diskd
