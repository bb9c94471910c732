// WatchJob over real streams: from where, how far, what is left out, and how it ends.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "tests/integration/scripted_worker.h"
#include "tests/integration/test_server.h"

namespace ham::testing {
namespace {

using ham::v1::Job;
using ham::v1::JobRecord;
using ham::v1::ObservedRank;
using ham::v1::WatchJobRequest;
using ::testing::ElementsAre;

WatchJobRequest Request(const std::string& job, bool follow, const std::string& token = "") {
  WatchJobRequest request;
  request.set_name(job);
  request.set_follow(follow);
  request.set_token(token);
  return request;
}

// Sequences of `records` are first, first + 1, ...
void ExpectConsecutive(const std::vector<JobRecord>& records, int64_t first) {
  for (size_t i = 0; i < records.size(); ++i) {
    ASSERT_EQ(records[i].sequence(), first + static_cast<int64_t>(i));
  }
}

class WatchJobTest : public ::testing::Test {
 protected:
  void Start() {
    const absl::Status status = server_.Start();
    ASSERT_TRUE(status.ok()) << status;
    client_.emplace(server_);
  }
  // A job that runs on `worker_`.
  std::string RunJob() {
    worker_.emplace(server_, "a");
    EXPECT_TRUE(worker_->Connect().ok());
    const std::string name = client_->MustCreate();
    const auto rank = worker_->Take(name, ObservedRank::RUNNING);
    EXPECT_TRUE(rank.has_value());
    if (rank) rank_ = *rank;
    EXPECT_TRUE(client_->WaitForState(name, Job::RUNNING).ok());
    return name;
  }
  // Adds `count` log records of `bytes` each, durable when it returns.
  void AddLog(const std::string& job, int count, size_t bytes) {
    ReportCall report(&*worker_);
    for (int i = 0; i < count; ++i) {
      ham::v1::ReportRequest request;
      *request.mutable_fence() = worker_->FenceOf(job, rank_.attempt());
      *request.add_records() = LogText(++spooled_, std::string(bytes - 1, 'x') + "\n");
      const absl::StatusOr<ham::v1::ReportResponse> response = report.Send(request);
      ASSERT_TRUE(response.ok()) << response.status();
      ASSERT_EQ(response->acknowledged_sequence(), spooled_);
    }
  }
  void Finish() { worker_->Beat({Exited(rank_, true)}); }

  TestServer server_;
  std::optional<Client> client_;
  std::optional<ScriptedWorker> worker_;
  ham::v1::Assignment rank_;
  int64_t spooled_ = 0;
};

TEST_F(WatchJobTest, FollowsAJobFromItsBeginningToItsEnd) {
  Start();
  const std::string name = RunJob();
  Watch watch(&*client_, Request(name, true));
  const auto first = watch.Next();
  ASSERT_TRUE(first);
  EXPECT_EQ(first->job().name(), name);
  EXPECT_EQ(first->job().spec().train().epochs(), 12);
  AddLog(name, 3, 100);
  ASSERT_TRUE(watch.ReadUntil([](const JobRecord& record) { return record.sequence() == 6; }));
  Finish();
  Job last;
  while (const auto response = watch.Next()) {
    if (response->has_job()) last = response->job();
  }
  EXPECT_TRUE(watch.End().ok()) << watch.End();
  EXPECT_EQ(last.state(), Job::SUCCEEDED);
  ASSERT_EQ(watch.records().size(), 7u);
  ExpectConsecutive(watch.records(), 1);
  EXPECT_EQ(watch.records()[0].event().to_state(), Job::QUEUED);
  EXPECT_EQ(watch.records()[0].event().actor(), "admin");
  EXPECT_EQ(watch.records()[3].log().worker(), "a");
  EXPECT_EQ(watch.records()[6].event().to_state(), Job::SUCCEEDED);

  Watch after(&*client_, Request(name, true));  // of a finished job: the same, then the end
  EXPECT_TRUE(after.End().ok());
  ASSERT_EQ(after.records().size(), watch.records().size());
  for (size_t i = 0; i < after.records().size(); ++i) {
    EXPECT_EQ(after.records()[i].SerializeAsString(), watch.records()[i].SerializeAsString());
  }
}

TEST_F(WatchJobTest, GoesOnAfterAnyToken) {
  Start();
  const std::string name = RunJob();
  AddLog(name, 4, 10);
  Finish();
  ASSERT_TRUE(client_->WaitForState(name, Job::SUCCEEDED).ok());
  Watch whole(&*client_, Request(name, false));
  ASSERT_TRUE(whole.End().ok());
  const std::string stem = whole.token().substr(0, whole.token().rfind('.') + 1);
  for (int64_t after = 0; after <= 8; ++after) {
    Watch watch(&*client_, Request(name, true, absl::StrCat(stem, after)));
    EXPECT_TRUE(watch.End().ok());
    EXPECT_EQ(watch.records().size(), static_cast<size_t>(8 - after));
    ExpectConsecutive(watch.records(), after + 1);
    EXPECT_EQ(watch.token(), whole.token());
  }
}

TEST_F(WatchJobTest, EndsAtTheNewestRecordWithoutFollow) {
  Start();
  const std::string name = client_->MustCreate();
  Watch watch(&*client_, Request(name, false));
  EXPECT_TRUE(watch.End().ok());
  EXPECT_EQ(watch.records().size(), 1u);
  Watch again(&*client_, Request(name, false, watch.token()));
  EXPECT_TRUE(again.End().ok());
  EXPECT_EQ(again.records().size(), 0u);
  EXPECT_EQ(again.token(), watch.token());
}

TEST_F(WatchJobTest, RefusesForeignTokensAndGivesTheOldest) {
  Start();
  const std::string name = client_->MustCreate();
  const std::string other = client_->MustCreate();
  TestServer stranger;
  ASSERT_TRUE(stranger.Start().ok());
  Client stranger_client(stranger);
  const std::string third = stranger_client.MustCreate();
  const auto token_of = [](Client* client, const std::string& job) {
    Watch watch(client, Request(job, false));
    EXPECT_TRUE(watch.End().ok());
    return watch.token();
  };
  const std::string own = token_of(&*client_, name);
  std::string foreign_epoch = own;
  foreign_epoch[0] = foreign_epoch[0] == '0' ? '1' : '0';
  for (const std::string& token :
       {token_of(&*client_, other), token_of(&stranger_client, third), foreign_epoch, own + "0", std::string("x"),
        std::string(5000, 'y'), own.substr(0, own.size() - 1)}) {
    Watch watch(&*client_, Request(name, true, token));
    const absl::Status end = watch.End();
    EXPECT_TRUE(absl::IsOutOfRange(end)) << token << end;
    EXPECT_EQ(ReasonOf(end), "FOREIGN_TOKEN");
    const std::string oldest = Metadata(end, "token");
    Watch resumed(&*client_, Request(name, false, oldest));
    EXPECT_TRUE(resumed.End().ok());
    EXPECT_EQ(resumed.records().size(), 1u);
  }
}

TEST_F(WatchJobTest, SendsTheKindsAskedFor) {
  Start();
  const std::string name = RunJob();
  AddLog(name, 2, 10);
  ham::v1::ReportRequest report;
  *report.mutable_fence() = worker_->FenceOf(name, 1);
  ham::v1::MetricPoint point;
  point.set_iteration(7);
  *report.add_records() = Metric(++spooled_, point);
  ASSERT_TRUE(ReportCall(&*worker_).Send(report).ok());
  Finish();
  ASSERT_TRUE(client_->WaitForState(name, Job::SUCCEEDED).ok());
  const auto kinds = [&](const std::vector<ham::v1::RecordKind>& wanted) {
    WatchJobRequest request = Request(name, true);
    for (const ham::v1::RecordKind kind : wanted) request.add_kinds(kind);
    Watch watch(&*client_, request);
    EXPECT_TRUE(watch.End().ok());
    Watch rest(&*client_, Request(name, true, watch.token()));
    EXPECT_TRUE(rest.End().ok());
    EXPECT_EQ(rest.records().size(), 0u);  // the token counts what was left out
    std::vector<int64_t> sequences;
    for (const JobRecord& record : watch.records()) sequences.push_back(record.sequence());
    return sequences;
  };
  EXPECT_THAT(kinds({ham::v1::METRIC}), ElementsAre(6));
  EXPECT_THAT(kinds({ham::v1::LOG}), ElementsAre(4, 5));
  EXPECT_THAT(kinds({ham::v1::EVENT, ham::v1::METRIC}), ElementsAre(1, 2, 3, 6, 7));
  for (const int kind : {0, 9}) {
    WatchJobRequest request = Request(name, true);
    request.add_kinds(static_cast<ham::v1::RecordKind>(kind));
    Watch watch(&*client_, request);
    EXPECT_TRUE(absl::IsInvalidArgument(watch.End())) << watch.End();
    EXPECT_EQ(FieldViolationsOf(watch.End()).at(0).field, "kinds");
  }
}

TEST_F(WatchJobTest, RefusesUnknownJobsNamesAndFields) {
  Start();
  Watch unknown(&*client_, Request("projects/default/jobs/j0", true));
  EXPECT_TRUE(absl::IsNotFound(unknown.End())) << unknown.End();
  EXPECT_EQ(ReasonOf(unknown.End()), "JOB_NOT_FOUND");
  Watch wrong(&*client_, Request("j0", true));
  EXPECT_EQ(FieldViolationsOf(wrong.End()).at(0).field, "name");
  WatchJobRequest newer = Request(client_->MustCreate(), true);
  newer.GetReflection()->MutableUnknownFields(&newer)->AddVarint(12, 1);
  Watch refused(&*client_, newer);
  EXPECT_EQ(FieldViolationsOf(refused.End()).at(0).field, "#12");
}

TEST_F(WatchJobTest, EndsAtShutdownWithATokenThatAnotherProcessTakes) {
  Start();
  const std::string name = RunJob();
  AddLog(name, 2, 10);
  Watch watch(&*client_, Request(name, true));
  ASSERT_TRUE(watch.ReadUntil([](const JobRecord& record) { return record.sequence() == 5; }));
  server_.Stop();
  EXPECT_TRUE(absl::IsUnavailable(watch.End())) << watch.End();
  EXPECT_EQ(ReasonOf(watch.End()), "STOPPING");
  const std::string token = Metadata(watch.End(), "token");
  EXPECT_EQ(token, watch.token());
  Start();
  Watch resumed(&*client_, Request(name, true, token));
  ASSERT_TRUE(client_->Cancel(name).ok());
  ASSERT_TRUE(resumed.ReadUntil([](const JobRecord& record) { return record.has_event(); }));
  EXPECT_EQ(resumed.records().front().sequence(), 6);
}

// The reader takes nothing while more is there than any buffer on the way holds.
TEST_F(WatchJobTest, EndsASlowReaderWithItsToken) {
  server_.options.limits.watch_stall = absl::Milliseconds(300);
  Start();
  const std::string name = RunJob();
  AddLog(name, 24, 256 << 10);
  Watch watch(&*client_, Request(name, true));
  ASSERT_TRUE(watch.Next());
  ASSERT_TRUE(Eventually([&] { return server_->watches() == 0; }));
  const absl::Status end = watch.End();  // what was on its way still comes
  EXPECT_TRUE(absl::IsResourceExhausted(end)) << end;
  EXPECT_EQ(ReasonOf(end), "READER_TOO_SLOW");
  EXPECT_EQ(Metadata(end, "token"), watch.token());
  ExpectConsecutive(watch.records(), 1);
  EXPECT_LT(watch.records().size(), 27u);
  Finish();
  Watch rest(&*client_, Request(name, true, Metadata(end, "token")));
  EXPECT_TRUE(rest.End().ok()) << rest.End();
  ExpectConsecutive(rest.records(), static_cast<int64_t>(watch.records().size()) + 1);
  EXPECT_EQ(watch.records().size() + rest.records().size(), 28u);
}

TEST_F(WatchJobTest, TakesNoMoreWatchesThanItsLimit) {
  server_.options.limits.watches = 2;
  Start();
  const std::string name = client_->MustCreate();
  std::optional<Watch> first(std::in_place, &*client_, Request(name, true));
  Watch second(&*client_, Request(name, true));
  ASSERT_TRUE(first->Next());
  ASSERT_TRUE(second.Next());
  Watch third(&*client_, Request(name, true));
  EXPECT_TRUE(absl::IsResourceExhausted(third.End())) << third.End();
  EXPECT_EQ(ReasonOf(third.End()), "TOO_MANY_WATCHES");
  first.reset();  // a reader that goes away makes room
  ASSERT_TRUE(Eventually([&] { return server_->watches() == 1; }));
  Watch fourth(&*client_, Request(name, true));
  EXPECT_TRUE(fourth.Next());
}

}  // namespace
}  // namespace ham::testing
