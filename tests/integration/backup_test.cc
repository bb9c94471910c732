// Backups of a coordinator at work, and what its workers and clients meet after a restore.
#include "server/backup.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "server/job_store_schema.h"
#include "tests/integration/scripted_worker.h"
#include "tests/integration/test_server.h"

namespace ham::testing {
namespace {

using ham::v1::Job;
using ham::v1::ObservedRank;
using server::kRestoreStep;

// A server, and another on what was restored.
class BackupOfServerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const absl::Status status = server_.Start();
    ASSERT_TRUE(status.ok()) << status;
  }
  std::string MustBackUp(int number) {
    const std::string directory = folder_ / absl::StrCat("backup-", number);
    const absl::StatusOr<server::BackupSummary> backup =
        server::BackUp(server_.options.state_dir, directory, absl::Now());
    EXPECT_TRUE(backup.ok()) << backup.status();
    if (backup.ok()) {
      EXPECT_THAT(backup->left_out, ::testing::IsEmpty());
    }
    return directory;
  }
  static absl::Status StartRestored(const std::string& backup, TestServer* restored) {
    const absl::StatusOr<server::RestoreSummary> summary =
        server::Restore(backup, restored->options.state_dir, absl::Now());
    return summary.ok() ? restored->Start() : summary.status();
  }

  const TemporaryDirectory folder_;
  TestServer server_;
};

TEST_F(BackupOfServerTest, HoldsEveryJobAcknowledgedBeforeItBegan) {
  constexpr size_t kThreads = 4;
  std::atomic<bool> over = false;
  absl::Mutex mutex;
  std::vector<std::string> acknowledged;  // guarded by mutex
  std::vector<std::thread> threads;
  for (size_t i = 0; i < kThreads; ++i) {
    threads.emplace_back([&] {
      Client client(server_);
      while (!over) {
        const std::string name = client.MustCreate(50);
        absl::MutexLock lock(&mutex);
        acknowledged.push_back(name);
      }
    });
  }
  std::vector<std::pair<std::string, std::vector<std::string>>> backups;
  for (int i = 0; i < 3; ++i) {
    std::vector<std::string> names;
    EXPECT_TRUE(Eventually([&] {
      absl::MutexLock lock(&mutex);
      names = acknowledged;
      return names.size() >= static_cast<size_t>(20 * (i + 1));
    }));
    backups.emplace_back(MustBackUp(i), names);
  }
  over = true;
  for (std::thread& thread : threads) thread.join();
  for (const auto& [backup, names] : backups) {
    TestServer restored;
    const absl::Status status = StartRestored(backup, &restored);
    ASSERT_TRUE(status.ok()) << status;
    Client client(restored);
    for (const std::string& name : names) EXPECT_TRUE(client.Get(name).ok()) << name;
  }
}

TEST_F(BackupOfServerTest, WorkersOfBeforeAreFencedAndTokensOfBeforeAreForeign) {
  Client client(server_);
  ScriptedWorker before(server_, "a");
  ASSERT_TRUE(before.Connect().ok());
  const ham::v1::Assignment rank = RunJob(&client, &before);
  const ham::v1::Fence fence = before.FenceOf(rank.job(), 1);
  ham::v1::WatchJobRequest request;
  request.set_name(rank.job());
  Watch watch(&client, request);
  ASSERT_TRUE(watch.End().ok());
  request.set_token(watch.token());
  const std::string backup = MustBackUp(0);
  client.MustCreate(50);  // nobody will know it
  server_.Stop();
  TestServer restored;
  const absl::Status status = StartRestored(backup, &restored);
  ASSERT_TRUE(status.ok()) << status;

  Client after(restored);
  const absl::Status foreign = Watch(&after, request).End();
  EXPECT_TRUE(absl::IsOutOfRange(foreign)) << foreign;
  EXPECT_EQ(ReasonOf(foreign), "FOREIGN_TOKEN");
  // The same agent, its trainer still at work.
  ScriptedWorker worker(restored, "a");
  *worker.registration.add_observed() = Observed(rank, ObservedRank::RUNNING);
  ASSERT_TRUE(worker.Connect().ok());
  EXPECT_EQ(worker.welcome().cluster_id(), before.welcome().cluster_id());
  EXPECT_GT(worker.welcome().session(), before.welcome().session() + kRestoreStep);
  EXPECT_GT(worker.welcome().term(), before.welcome().term() + kRestoreStep);
  ASSERT_TRUE(worker.WaitForAssignments(0));  // it is to stop
  ham::v1::ReportRequest report;
  *report.mutable_fence() = fence;
  *report.add_records() = LogText(1, "of before\n");
  EXPECT_TRUE(ReportCall(&worker).Send(report)->fenced());
  ham::v1::CommitCheckpointRequest commit;
  *commit.mutable_fence() = fence;
  EXPECT_TRUE(absl::IsAborted(
      Call(worker.stub(), &ham::v1::WorkerService::Stub::CommitCheckpoint, commit, worker.config()).status()));
  worker.Beat({});
  ASSERT_TRUE(worker.Take(rank.job(), ObservedRank::RUNNING, 2 + kRestoreStep));
  EXPECT_TRUE(after.WaitForState(rank.job(), Job::RUNNING).ok());
  EXPECT_EQ(after.Get(rank.job())->attempt(), 2 + kRestoreStep);
  const std::vector<ham::v1::JobRecord> log = after.Log(rank.job());
  ASSERT_GT(log.size(), 4u);
  EXPECT_EQ(log[3].event().reason(), "RESTORED");
  for (size_t i = 0; i < log.size(); ++i) EXPECT_EQ(log[i].sequence(), static_cast<int64_t>(i) + 1);
}

TEST_F(BackupOfServerTest, NoCoordinatorStartsWhereARestoreWasCutOff) {
  server_.Stop();
  WriteTestFile(server_.StatePath("restore-unfinished"), "");
  EXPECT_TRUE(absl::IsFailedPrecondition(server_.Start()));
}

}  // namespace
}  // namespace ham::testing
