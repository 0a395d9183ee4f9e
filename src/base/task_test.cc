#include "base/task.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "base/async.h"
#include "base/manual_executor.h"
#include "base/result.h"

namespace plumeria {
namespace {

Task<int> answer() { co_return 42; }
Task<int> sum_of_answers(int times) {
  int sum = 0;
  for (int i = 0; i < times; ++i) sum += co_await answer();
  co_return sum;
}
Task<void> store_sum(int times, int& to) { to = co_await sum_of_answers(times); }

TEST(TaskTest, RunsOnlyWhenAwaited) {
  bool ran = false;
  struct Make {
    static Task<void> one(bool& to) {
      to = true;
      co_return;
    }
  };
  { Task<void> never = Make::one(ran); }
  EXPECT_FALSE(ran);
  TaskScope scope;
  scope.spawn(Make::one(ran));
  EXPECT_TRUE(ran);
}

TEST(TaskTest, ManyAwaitsOfReadyTasksNeedNoStack) {
  int sum = 0;
  TaskScope scope;
  scope.spawn(store_sum(1'000'000, sum));
  EXPECT_EQ(sum, 42'000'000);
  EXPECT_EQ(scope.running(), 0u);
}

TEST(TaskTest, AParentGoesOnWhenItsChildDoes) {
  ManualExecutor executor;
  std::vector<std::string> seen;
  struct Steps {
    static Task<int> child(Executor& executor, std::vector<std::string>& to) {
      to.push_back("child waits");
      co_await yield_to(executor);
      to.push_back("child ends");
      co_return 1;
    }
    static Task<void> parent(Executor& executor, std::vector<std::string>& to) {
      const int value = co_await child(executor, to);
      to.push_back("parent has " + std::to_string(value));
    }
  };
  TaskScope scope;
  scope.spawn(Steps::parent(executor, seen));
  EXPECT_EQ(scope.running(), 1u);
  executor.run();
  EXPECT_THAT(seen, testing::ElementsAre("child waits", "child ends", "parent has 1"));
  EXPECT_EQ(scope.running(), 0u);
}

TEST(TaskTest, AScopeDestroysTheFramesOfThoseWhoStillWait) {
  ManualExecutor executor;
  Event never(executor);
  auto held = std::make_shared<int>(1);
  struct Wait {
    static Task<void> inner(Event& event, std::shared_ptr<int> keeps) {
      co_await event.next();
      ++*keeps;
    }
    static Task<void> outer(Event& event, std::shared_ptr<int> keeps) {
      co_await inner(event, keeps);
    }
  };
  {
    TaskScope scope;
    scope.spawn(Wait::outer(never, held));
    EXPECT_EQ(held.use_count(), 3) << "one in each frame";
  }
  EXPECT_EQ(held.use_count(), 1);
  EXPECT_EQ(*held, 1);
}

TEST(TaskTest, AResultCarriesItsErrorThroughCoTry) {
  struct Steps {
    static Task<Result<int>> fails() {
      auto error = fail(Errc::no_space, "piece 3");
      co_return error;
    }
    static Task<Result<int>> passes_on() {
      CO_TRY(const int value, co_await fails());
      co_return value + 1;
    }
    static Task<void> keep(std::string& to) {
      const Result<int> result = co_await passes_on();
      to = result ? "no error" : result.error().message();
    }
  };
  std::string message;
  TaskScope scope;
  scope.spawn(Steps::keep(message));
  EXPECT_EQ(message, "piece 3: no space left");
}

}  // namespace
}  // namespace plumeria
