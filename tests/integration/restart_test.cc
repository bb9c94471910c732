// What a new process on the same state directory knows, and a disk that takes no more.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <thread>

#include "absl/strings/str_cat.h"
#include "tests/integration/full_disk.h"
#include "tests/integration/scripted_worker.h"
#include "tests/integration/test_server.h"

namespace ham::testing {
namespace {

using ham::v1::Job;
using ham::v1::ObservedRank;

class RestartTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const absl::Status status = server_.Start();
    ASSERT_TRUE(status.ok()) << status;
    client_.emplace(server_);
    worker_.emplace(server_, "a");
    ASSERT_TRUE(worker_->Connect().ok());
  }
  absl::StatusOr<ham::v1::ReportResponse> Report(const ham::v1::Assignment& rank, int64_t spool_sequence) {
    ham::v1::ReportRequest report;
    *report.mutable_fence() = worker_->FenceOf(rank.job(), rank.attempt());
    *report.add_records() = LogText(spool_sequence, absl::StrCat("line ", spool_sequence, "\n"));
    return ReportCall(&*worker_).Send(report);
  }
  // The coordinator starts anew; the worker comes back with `rank`.
  void Restart(const ham::v1::Assignment& rank, ObservedRank::State state) {
    const absl::Status status = server_.Restart();
    ASSERT_TRUE(status.ok()) << status;
    client_.emplace(server_);
    worker_.emplace(server_, "a");
    *worker_->registration.add_observed() = Observed(rank, state);
    ASSERT_TRUE(worker_->Connect().ok());
  }

  TestServer server_;
  std::optional<Client> client_;
  std::optional<ScriptedWorker> worker_;
};

TEST_F(RestartTest, LosesNothingThatWasAcknowledged) {
  std::vector<Job> jobs;
  for (int i = 0; i < 30; ++i) {
    ham::v1::CreateJobRequest request = SmallRequest(50);
    request.set_request_id(absl::StrCat("r", i));
    (*request.mutable_labels())["number"] = absl::StrCat(i);
    jobs.push_back(*client_->Create(request));
    if (i % 3 == 0) jobs.back() = *client_->Cancel(jobs.back().name());
  }
  const std::string cluster = worker_->welcome().cluster_id();
  for (int64_t term = 2; term <= 3; ++term) {
    ASSERT_TRUE(server_.Restart().ok());
    client_.emplace(server_);
    for (const Job& job : jobs) {
      const absl::StatusOr<Job> found = client_->Get(job.name());
      ASSERT_TRUE(found.ok()) << found.status();
      Job same = *found;
      same.set_state_message(job.state_message());  // it counts the workers that are there
      EXPECT_EQ(same.SerializeAsString(), job.SerializeAsString());
    }
    ScriptedWorker worker(server_, "b");
    ASSERT_TRUE(worker.Connect().ok());
    EXPECT_EQ(worker.welcome().term(), term);
    EXPECT_EQ(worker.welcome().cluster_id(), cluster);
  }
  ham::v1::ListJobsRequest all;
  all.set_parent("projects/default");
  const absl::StatusOr<ham::v1::ListJobsResponse> list = client_->List(all);
  ASSERT_EQ(list->jobs_size(), 30);
  EXPECT_EQ(list->jobs(0).name(), jobs.back().name());
}

TEST_F(RestartTest, StopsUnderLoadWithoutForgettingWhatItAnswered) {
  std::vector<std::vector<std::string>> acknowledged(4);
  std::atomic<int> answered = 0;
  std::vector<std::thread> threads;
  for (std::vector<std::string>& names : acknowledged) {
    threads.emplace_back([this, &names, &answered] {
      Client client(server_);
      while (true) {
        const absl::StatusOr<Job> job = client.Create(SmallRequest(50));
        if (!job.ok()) {
          // gRPC itself cancels calls that it had accepted and not yet begun.
          EXPECT_TRUE(absl::IsUnavailable(job.status()) || absl::IsCancelled(job.status())) << job.status();
          return;
        }
        names.push_back(job->name());
        ++answered;
      }
    });
  }
  EXPECT_TRUE(Eventually([&] { return answered >= 40; }));
  server_.StopServing();
  for (std::thread& thread : threads) thread.join();
  ASSERT_TRUE(server_.Restart().ok());
  client_.emplace(server_);
  for (const std::vector<std::string>& names : acknowledged) {
    for (const std::string& name : names) EXPECT_TRUE(client_->Get(name).ok()) << name;
  }
}

TEST_F(RestartTest, LetsRunningJobsGoOnWithTheirSessionSequenceAndSpool) {
  const ham::v1::Assignment rank = RunJob(&*client_, &*worker_);
  ASSERT_EQ(Report(rank, 1)->acknowledged_sequence(), 1);
  const int64_t session = worker_->welcome().session();
  Restart(rank, ObservedRank::RUNNING);
  EXPECT_EQ(worker_->welcome().session(), session);
  EXPECT_EQ(client_->Get(rank.job())->state(), Job::RUNNING);
  EXPECT_EQ(Report(rank, 1)->acknowledged_sequence(), 1);  // sent again: its answer was lost
  EXPECT_EQ(Report(rank, 2)->acknowledged_sequence(), 2);
  worker_->Beat({Exited(rank, true)});
  ASSERT_TRUE(client_->WaitForState(rank.job(), Job::SUCCEEDED).ok());
  const std::vector<ham::v1::JobRecord> log = client_->Log(rank.job());
  ASSERT_EQ(log.size(), 6u);
  for (size_t i = 0; i < log.size(); ++i) EXPECT_EQ(log[i].sequence(), static_cast<int64_t>(i) + 1);
  EXPECT_EQ(log[3].log().text(), "line 1\n");
  EXPECT_EQ(log[4].log().text(), "line 2\n");
}

TEST_F(RestartTest, StartsAGangAnewThatWasComingUp) {
  const std::string name = client_->MustCreate();
  const auto rank = worker_->Take(name, ObservedRank::STARTING);
  ASSERT_TRUE(rank);
  Restart(*rank, ObservedRank::STARTING);
  EXPECT_TRUE(worker_->WaitForAssignments(0));  // its keys went with the process: it is to stop
  worker_->Beat({});
  const auto next = worker_->Take(name, ObservedRank::RUNNING, 2);
  ASSERT_TRUE(next);
  EXPECT_EQ(client_->WaitForState(name, Job::RUNNING)->failure_class(), ham::v1::FAILURE_CLASS_UNSPECIFIED);
}

// ---- a disk that is full -----------------------------------------------------------------------------------

TEST_F(RestartTest, IsReadOnlyWhileItsDiskIsFullAndRecovers) {
  const ham::v1::Assignment rank = RunJob(&*client_, &*worker_);
  ham::v1::CreateJobRequest request = SmallRequest(50);
  request.set_request_id("once");
  const std::string before = client_->MustCreate(50);
  {
    const FullDisk full(std::filesystem::file_size(server_.StatePath("ham.db-wal")));
    const absl::Status create = client_->Create(request).status();
    EXPECT_TRUE(absl::IsUnavailable(create)) << create;
    EXPECT_EQ(ReasonOf(create), "STORE_FAILED");
    EXPECT_EQ(ReasonOf(client_->Cancel(before).status()), "STORE_FAILED");
    EXPECT_EQ(ReasonOf(Report(rank, 1).status()), "STORE_FAILED");
    // Reads, watches, beats and new connections go on.
    EXPECT_EQ(client_->Get(before)->state(), Job::QUEUED);
    EXPECT_EQ(client_->Log(rank.job()).size(), 3u);
    ham::v1::ListJobsRequest all;
    all.set_parent("projects/default");
    EXPECT_EQ(client_->List(all)->jobs_size(), 2);
    EXPECT_EQ(client_->Workers().size(), 1u);
    worker_->Beat({Observed(rank, ObservedRank::RUNNING)});
    *worker_->registration.add_observed() = Observed(rank, ObservedRank::RUNNING);
    ASSERT_TRUE(worker_->Connect().ok());
    worker_->Beat({Exited(rank, true)});  // cannot be written: the next beat says it again
    EXPECT_EQ(client_->Get(rank.job())->state(), Job::RUNNING);
  }
  absl::StatusOr<Job> created;
  ASSERT_TRUE(Eventually([&] {
    created = client_->Create(request);
    return created.ok();
  })) << created.status();
  EXPECT_EQ(Report(rank, 1)->acknowledged_sequence(), 1);
  worker_->Beat({Exited(rank, true)});
  ASSERT_TRUE(client_->WaitForState(rank.job(), Job::SUCCEEDED).ok());
  EXPECT_EQ(client_->Cancel(before)->state(), Job::CANCELLED);
  ASSERT_TRUE(server_.Restart().ok());
  client_.emplace(server_);
  EXPECT_EQ(client_->Create(request)->name(), created->name());
  EXPECT_EQ(client_->Get(rank.job())->state(), Job::SUCCEEDED);
  EXPECT_EQ(client_->Log(rank.job()).size(), 5u);
}

}  // namespace
}  // namespace ham::testing
