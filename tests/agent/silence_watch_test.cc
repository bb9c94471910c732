#include "worker/agent/silence_watch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "absl/time/clock.h"

namespace ham::agent {
namespace {

constexpr absl::Duration kPatience = absl::Seconds(20);

ham::v1::Progress At(int64_t tick, int64_t begun = 0) {
  ham::v1::Progress progress;
  progress.set_tick(tick);
  progress.set_collective_begun(begun);
  return progress;
}

class SilenceWatchTest : public ::testing::Test {
 protected:
  SilenceWatch::Silent Silent() {
    return [this](const ham::v1::Progress& last, absl::Duration silence) {
      absl::MutexLock lock(&mutex_);
      told_.push_back(last);
      silences_.push_back(silence);
    };
  }
  bool AwaitTold(size_t times, absl::Duration patience = kPatience) {
    absl::MutexLock lock(&mutex_);
    const auto met = [&]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return told_.size() >= times; };
    return mutex_.AwaitWithTimeout(absl::Condition(&met), patience);
  }
  std::vector<ham::v1::Progress> told() {
    absl::MutexLock lock(&mutex_);
    return told_;
  }
  std::vector<absl::Duration> silences() {
    absl::MutexLock lock(&mutex_);
    return silences_;
  }

 private:
  absl::Mutex mutex_;
  std::vector<ham::v1::Progress> told_ ABSL_GUARDED_BY(mutex_);
  std::vector<absl::Duration> silences_ ABSL_GUARDED_BY(mutex_);
};

TEST_F(SilenceWatchTest, TellsOfASilenceOnceWithWhatWasHeardLastAndIsThenMorePatient) {
  SilenceWatch watch(absl::Milliseconds(20), Silent());
  for (int64_t tick = 1; tick <= 3; ++tick) {
    const absl::Time begin = absl::Now();
    watch.Heard(At(tick));
    ASSERT_TRUE(AwaitTold(static_cast<size_t>(tick)));
    EXPECT_GE(absl::Now() - begin, absl::Milliseconds(10 << tick));
  }
  EXPECT_THAT(silences(),
              ::testing::ElementsAre(absl::Milliseconds(20), absl::Milliseconds(40), absl::Milliseconds(80)));
  const auto told = this->told();
  ASSERT_EQ(told.size(), 3U);
  for (int64_t tick = 1; tick <= 3; ++tick) EXPECT_EQ(told[static_cast<size_t>(tick - 1)].tick(), tick);
}

TEST_F(SilenceWatchTest, CallsBegunAreNoTicks) {
  SilenceWatch watch(absl::Milliseconds(20), Silent());
  const absl::Time end = absl::Now() + kPatience;
  int64_t begun = 0;
  while (told().empty() && absl::Now() < end) watch.Heard(At(1, ++begun));
  ASSERT_EQ(told().size(), 1U);
  EXPECT_GT(told()[0].collective_begun(), 0);
}

TEST_F(SilenceWatchTest, IsQuietBeforeTheFirstTickAndWithinTheLimit) {
  {
    SilenceWatch unheard(absl::Milliseconds(1), Silent());
    SilenceWatch other(absl::Milliseconds(1), Silent());
    other.Heard(At(1));
    ASSERT_TRUE(AwaitTold(1));  // the first had as long
  }
  EXPECT_EQ(told().size(), 1U);
  {
    SilenceWatch watch(absl::Hours(1), Silent());
    watch.Heard(At(2));
  }
  EXPECT_EQ(told().size(), 1U);
}

}  // namespace
}  // namespace ham::agent
