#include "worker/trainer/progress_reporter.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "tests/support/run_ranks.h"

namespace ham::trainer {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;

constexpr absl::Duration kPatience = absl::Seconds(20);

// An agent that keeps what it is told.
class Told {
 public:
  absl::Status Send(const json& frame) {
    absl::MutexLock lock(&mutex_);
    frames_.push_back(frame);
    return answer_;
  }
  void Answer(const absl::Status& answer) {
    absl::MutexLock lock(&mutex_);
    answer_ = answer;
  }
  std::vector<json> frames() {
    absl::MutexLock lock(&mutex_);
    return frames_;
  }
  bool Await(const std::function<bool(const json& last)>& condition) {
    absl::MutexLock lock(&mutex_);
    const auto met = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      return !frames_.empty() && condition(frames_.back());
    };
    return mutex_.AwaitWithTimeout(absl::Condition(&met), kPatience);
  }

 private:
  absl::Mutex mutex_;
  std::vector<json> frames_ ABSL_GUARDED_BY(mutex_);
  absl::Status answer_ ABSL_GUARDED_BY(mutex_);
};

class ProgressReporterTest : public ::testing::Test {
 protected:
  std::unique_ptr<ProgressReporter> Reporter(absl::Duration interval) {
    return std::make_unique<ProgressReporter>([this](const json& frame) { return told_.Send(frame); }, interval);
  }
  std::vector<int> Ticks() {
    std::vector<int> ticks;
    for (const json& frame : told_.frames()) ticks.push_back(frame.at("tick"));
    return ticks;
  }

  Told told_;
};

TEST_F(ProgressReporterTest, TellsAChangeOfPhaseAtOnceAndNothingElseWithinTheInterval) {
  const auto reporter = Reporter(absl::Hours(1));
  const Position load = {.phase = "load"}, train = {.phase = "train", .iteration = 3, .epoch = 2};
  for (const Position& position : {load, load, train, train, load}) EXPECT_TRUE(reporter->Tick(position).ok());
  EXPECT_THAT(Ticks(), ElementsAre(1, 3, 5));
  EXPECT_EQ(told_.frames()[1], json({{"type", "progress"},
                                     {"phase", "train"},
                                     {"tick", 3},
                                     {"iteration", 3},
                                     {"epoch", 2},
                                     {"collective_sequence", 0},
                                     {"collective_begun", 0},
                                     {"collective_seconds", 0.0}}));
}

TEST_F(ProgressReporterTest, TellsEachStateOnce) {
  const auto reporter = Reporter(absl::Milliseconds(1));
  for (int tick = 1; tick <= 5; ++tick) {
    EXPECT_TRUE(reporter->Tick({.phase = "train"}).ok());
    EXPECT_TRUE(told_.Await([&](const json& last) { return last["tick"] == tick; }));
  }
  EXPECT_THAT(Ticks(), ElementsAre(1, 2, 3, 4, 5));
}

TEST_F(ProgressReporterTest, TellsOfACallThatWaitsForAnotherRank) {
  const auto reporter = Reporter(absl::Milliseconds(1));
  EXPECT_TRUE(reporter->Tick({.phase = "train"}).ok());
  ham::testing::RunRanks(2, [&](Collective& ranks) {
    const auto told = [&](int begun, int completed) {
      return told_.Await([&](const json& last) {
        return last["collective_begun"] == begun && last["collective_sequence"] == completed && last["tick"] == 1;
      });
    };
    if (ranks.rank() == 0) {
      reporter->Watch(&ranks);
      EXPECT_TRUE(ranks.Barrier().ok());
      EXPECT_TRUE(told(1, 1));
      reporter->Watch(nullptr);
    } else {
      EXPECT_TRUE(told(1, 0));
      EXPECT_TRUE(ranks.Barrier().ok());
    }
  });
  EXPECT_TRUE(reporter->Tick({.phase = "save"}).ok());
  const json last = told_.frames().back();
  EXPECT_EQ(last["collective_begun"], 1);
  EXPECT_GT(last["collective_seconds"], 0);
}

TEST_F(ProgressReporterTest, AnAgentThatIsGoneEndsTheRun) {
  const auto reporter = Reporter(absl::Milliseconds(1));
  told_.Answer(absl::UnavailableError("gone"));
  EXPECT_TRUE(absl::IsUnavailable(reporter->Tick({.phase = "load"})));
  told_.Answer(absl::OkStatus());
  EXPECT_TRUE(absl::IsUnavailable(reporter->Tick({.phase = "train"})));
}

}  // namespace
}  // namespace ham::trainer
