// A whole scrape against a loop that works, and one that stands still.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/synchronization/notification.h"
#include "server/metrics_exporter.h"
#include "tests/server/loop_fixture.h"
#include "tests/support/temporary_directory.h"

namespace ham::server {
namespace {

using ::testing::Contains;
using ::testing::Not;
using ::testing::StartsWith;

// Stops the thread that reads it where the test says so.
class StoppingClock : public Clock {
 public:
  explicit StoppingClock(const Clock* clock) : clock_(clock) {}
  // The `read`th reading from now on lasts until GoOn.
  void StopAt(int read) { left_ = read; }
  void WaitUntilStopped() { stopped_.WaitForNotification(); }
  void GoOn() { go_on_.Notify(); }
  Now Read() const override {
    if (left_ > 0 && --left_ == 0) {
      stopped_.Notify();
      go_on_.WaitForNotification();
    }
    return clock_->Read();
  }

 private:
  const Clock* const clock_;
  mutable std::atomic<int> left_ = 0;
  mutable absl::Notification stopped_, go_on_;
};

class ScrapeTest : public LoopTest {
 protected:
  void TearDown() override {
    if (loop_) loop_->Stop();
  }
  void StartLoop() {
    Start();
    artifacts_ = OpenArtifactDirectory(directory_.path() + "/artifacts").value();
    sources_ = {.snapshot = &snapshot_,
                .clock = &scrape_clock_,
                .streams = &streams_,
                .waiting = [this] { return loop_->waiting(); },
                .artifacts = artifacts_.get(),
                .state_dir = directory_.path(),
                .certificate_expiry = std::nullopt,
                .job_series = 100000,
                .serving = &serving_};
  }
  std::vector<std::string> Lines() const { return absl::StrSplit(ScrapeText(sources_), '\n'); }
  // The jobs of a snapshot are up to a second old.
  void PassASecond() {
    clock_.Advance(absl::Seconds(1));
    Settle();
  }

  const testing::TemporaryDirectory directory_;
  ScriptedClock scrape_clock_;  // never behind that of the loop's thread
  StoppingClock stopping_clock_{&clock_};
  OpenStreams streams_;
  std::atomic<bool> serving_ = true;
  std::unique_ptr<ArtifactStore> artifacts_;
  MetricSources sources_;
};

TEST_F(ScrapeTest, ShowsWhatHappenedInTheLoop) {
  StartLoop();
  RunJob();
  ASSERT_TRUE(Create("k").ok());  // no slot is left
  PassASecond();
  scrape_clock_.Advance(absl::Seconds(5));
  const std::vector<std::string> lines = Lines();
  for (const char* line :
       {"ham_job_state{job=\"j\",state=\"RUNNING\"} 1", "ham_job_state{job=\"k\",state=\"QUEUED\"} 1",
        "ham_job_attempt{job=\"j\"} 1", "ham_queue_jobs 1", "ham_queue_oldest_seconds 5",
        "ham_job_events_total{reason=\"SUBMITTED\"} 2", "ham_job_events_total{reason=\"GANG_PLACED\"} 1",
        "ham_worker_connected{worker=\"a\"} 1", "ham_worker_beat_age_seconds{worker=\"a\"} 5", "ham_lease_seconds 15",
        "ham_leases_frozen 0", "ham_core_queue_events 0", "ham_artifact_bytes 0"}) {
    EXPECT_THAT(lines, Contains(line));
  }
  EXPECT_THAT(lines, Not(Contains(StartsWith("ham_certificate_"))));
  EXPECT_THAT(lines, Not(Contains(StartsWith("ham_artifact_quota_"))));
}

TEST_F(ScrapeTest, SaysThatLeasesAreHeldAfterAStall) {
  StartLoop();
  RunJob();
  clock_.Advance(absl::Seconds(60));
  scrape_clock_.Advance(absl::Seconds(60));
  Settle();
  EXPECT_THAT(Lines(), Contains("ham_leases_frozen 1"));
  scrape_clock_.Advance(absl::Seconds(15));
  EXPECT_THAT(Lines(), Contains("ham_leases_frozen 0"));
}

TEST_F(ScrapeTest, CountsRolledBackEventsNot) {
  StartLoop();
  store_.Fail(true);
  EXPECT_TRUE(absl::IsUnavailable(Create("j")));
  Settle();
  EXPECT_THAT(Lines(), Contains("ham_job_events_total{reason=\"SUBMITTED\"} 0"));
  EXPECT_THAT(Lines(), Contains("ham_store_failed 1"));
  EXPECT_THAT(Lines(), Contains("ham_queue_jobs 0"));
  EXPECT_EQ(Readiness(sources_), StoreFailed());
  store_.Fail(false);
  Pass(absl::Seconds(3));
  EXPECT_TRUE(Readiness(sources_).ok());
  serving_ = false;
  EXPECT_TRUE(absl::IsUnavailable(Readiness(sources_)));
}

TEST_F(ScrapeTest, ALoopThatStartedAnewLearnsWhatItsJobsAre) {
  StartLoop();
  NewJob job;
  job.row.name = "j";
  job.row.device = "cpu";
  job.row.data_set = "d";
  job.content.spec.mutable_train()->mutable_method()->set_name("ham");
  ASSERT_TRUE(CreateJobAndWait(&*loop_, job).ok());
  PassASecond();
  const auto info = Contains(::testing::ContainsRegex("^ham_job_info.job=\"j\".*method=\"ham\""));
  EXPECT_THAT(Lines(), info);
  loop_->Stop();
  StartLoop();
  EXPECT_THAT(Lines(), info);
}

// The core's thread stands still with the lock of its queue in its hands, and 1,000 jobs are scraped all the same.
TEST_F(ScrapeTest, WaitsForNoLockOfTheCore) {
  Transaction jobs;
  for (int i = 0; i < 1000; ++i) {
    JobRow& row = jobs.jobs[absl::StrCat("j", i)];
    row.name = absl::StrCat("j", i);
    row.submit_index = i + 1;
  }
  ASSERT_TRUE(store_.Commit(jobs).ok());
  StartLoop();
  loop_.emplace(CoordinatorLoop::Options{.cluster_id = "c", .term = 1, .limits = limits_},
                CoordinatorLoop::Parts{&store_, &policy_, &stopping_clock_, &*hub_, &rendezvous_, &snapshot_,
                                       [] { return 0.0; }, nullptr},
                *store_.Load());
  Settle();
  // The end of this batch, the begin of the next, and the wait for it, under the lock.
  loop_->Inspect([&](const absl::StatusOr<CoordinatorLoop::View>&) { stopping_clock_.StopAt(3); });
  stopping_clock_.WaitUntilStopped();
  std::atomic<bool> posted = false;
  std::thread blocked([&] {
    loop_->Inspect([](const absl::StatusOr<CoordinatorLoop::View>&) {});
    posted = true;
  });
  const std::vector<std::string> lines = Lines();
  EXPECT_FALSE(posted);  // so the lock was held
  EXPECT_EQ(std::count_if(lines.begin(), lines.end(),
                          [](const std::string& line) { return line.rfind("ham_job_state{", 0) == 0; }),
            1000);
  stopping_clock_.GoOn();
  blocked.join();
  EXPECT_TRUE(posted);
}

}  // namespace
}  // namespace ham::server
