// What a worker may say on its streams, and what it is told.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <limits>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "proto/version.h"
#include "tests/integration/scripted_worker.h"
#include "tests/integration/test_server.h"

namespace ham::testing {
namespace {

using ham::v1::Job;
using ham::v1::ObservedRank;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;

class WorkerServiceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const absl::Status status = server_.Start();
    ASSERT_TRUE(status.ok()) << status;
    client_.emplace(server_);
    worker_.emplace(server_, "a");
  }
  void Connect() {
    const absl::Status status = worker_->Connect();
    ASSERT_TRUE(status.ok()) << status;
  }
  ham::v1::ReportRequest ReportOf(const ham::v1::Assignment& rank) {
    ham::v1::ReportRequest request;
    *request.mutable_fence() = worker_->FenceOf(rank.job(), rank.attempt());
    request.set_rank(rank.rank());
    return request;
  }
  // The server still does its work.
  void ExpectAlive() {
    ScriptedWorker other(server_, "alive");
    EXPECT_TRUE(other.Connect().ok());
    EXPECT_TRUE(client_->Create(SmallRequest(99)).ok());
  }

  TestServer server_;
  std::optional<Client> client_;
  std::optional<ScriptedWorker> worker_;
};

// ---- registration ------------------------------------------------------------------------------------------

TEST_F(WorkerServiceTest, WelcomesAWorkerAndShowsIt) {
  Connect();
  const ham::v1::Welcome welcome = worker_->welcome();
  EXPECT_FALSE(welcome.cluster_id().empty());
  EXPECT_EQ(welcome.term(), 1);
  EXPECT_EQ(welcome.session(), 1);
  EXPECT_EQ(welcome.heartbeat_interval().seconds(), 1);
  EXPECT_EQ(welcome.lease().seconds(), 600);
  EXPECT_EQ(welcome.terminate_grace().seconds(), 15);
  ASSERT_TRUE(Eventually([&] { return client_->Workers().size() == 1; }));
  const ham::v1::Worker shown = client_->Workers()[0];
  EXPECT_EQ(shown.name(), "workers/a");
  EXPECT_EQ(shown.worker_id(), "id-a");
  EXPECT_EQ(shown.state(), ham::v1::Worker::CONNECTED);
  EXPECT_EQ(shown.build_id(), BuildId());
  ASSERT_THAT(shown.slots(), SizeIs(1));
  EXPECT_EQ(shown.slots(0).job(), "");
  EXPECT_EQ(shown.data_sets(0).name(), "fashion-mnist");
  const ham::v1::Assignment rank = RunJob(&*client_, &*worker_);
  EXPECT_TRUE(Eventually([&] { return client_->Workers()[0].slots(0).job() == rank.job(); }));
  worker_->Disconnect();
  EXPECT_TRUE(Eventually([&] { return client_->Workers()[0].state() == ham::v1::Worker::UNREACHABLE; }));
  EXPECT_EQ(client_->Get(rank.job())->state(), Job::RUNNING);  // evidence only: the lease decides
}

// Each change replaces the picture that a reader may still be copying.
TEST_F(WorkerServiceTest, ShowsWorkersWhileTheyComeAndGo) {
  std::atomic<bool> done = false;
  std::vector<std::thread> readers;
  for (int i = 0; i < 2; ++i) {
    readers.emplace_back([&] {
      Client client(server_);
      while (!done) {
        for (const ham::v1::Worker& worker : client.Workers()) EXPECT_EQ(worker.worker_id(), "id-a");
      }
    });
  }
  for (int i = 0; i < 300; ++i) {
    Connect();
    worker_->Disconnect();
  }
  done = true;
  for (std::thread& reader : readers) reader.join();
}

TEST_F(WorkerServiceTest, RefusesAnotherProtocolVersion) {
  worker_->registration.set_protocol_version(kProtocolVersion + 1);
  const absl::Status status = worker_->Connect();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_EQ(ReasonOf(status), "PROTOCOL_VERSION");
  EXPECT_TRUE(client_->Workers().empty());
}

TEST_F(WorkerServiceTest, MixesNoBuildsInAGang) {
  Connect();
  ScriptedWorker other(server_, "b");
  other.registration.set_build_id("another");
  ASSERT_TRUE(other.Connect().ok());
  const std::string pair = client_->MustCreate(2);
  EXPECT_EQ(client_->Get(pair)->state(), Job::QUEUED);
  EXPECT_EQ(client_->Get(pair)->state_reason(), "NO_WORKER_FITS");
  ScriptedWorker third(server_, "c");
  ASSERT_TRUE(third.Connect().ok());
  const auto mine = worker_->Take(pair, ObservedRank::RUNNING);
  const auto theirs = third.Take(pair, ObservedRank::RUNNING);
  ASSERT_TRUE(mine && theirs);
  EXPECT_EQ(mine->rank() + theirs->rank(), 1);
  EXPECT_EQ(mine->world_size(), 2);
  EXPECT_TRUE(client_->WaitForState(pair, Job::RUNNING).ok());
}

TEST_F(WorkerServiceTest, RefusesASecondWorkerOfOneName) {
  Connect();
  ScriptedWorker other(server_, "a");
  other.registration.set_worker_id("id-other");
  const absl::Status status = other.Connect();
  EXPECT_TRUE(absl::IsAlreadyExists(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("--name"));
  RunJob(&*client_, &*worker_);  // the first goes on
  worker_->Disconnect();
  EXPECT_TRUE(absl::IsAlreadyExists(other.Connect()));  // its ranks may still run
}

TEST_F(WorkerServiceTest, LetsANewConnectionOfAWorkerTakeThePlaceOfTheOld) {
  Connect();
  const ham::v1::Assignment rank = RunJob(&*client_, &*worker_);
  const int64_t session = worker_->welcome().session();
  ScriptedWorker again(server_, "a");
  *again.registration.add_observed() = Observed(rank, ObservedRank::RUNNING);
  ASSERT_TRUE(again.Connect().ok());
  EXPECT_EQ(again.welcome().session(), session);
  EXPECT_TRUE(absl::IsAborted(worker_->WaitForEnd())) << worker_->WaitForEnd();
  again.Beat({Exited(rank, true)});
  EXPECT_TRUE(client_->WaitForState(rank.job(), Job::SUCCEEDED).ok());
  EXPECT_EQ(client_->Workers()[0].state(), ham::v1::Worker::CONNECTED);
}

TEST_F(WorkerServiceTest, TakesANewIncarnationForProofThatItsRanksAreGone) {
  Connect();
  const ham::v1::Assignment rank = RunJob(&*client_, &*worker_);
  const ham::v1::Fence old = worker_->FenceOf(rank.job(), 1);
  worker_->registration.set_incarnation("second");
  Connect();
  EXPECT_GT(worker_->welcome().session(), old.session());
  const auto next = worker_->Take(rank.job(), ObservedRank::STARTING, 2);
  ASSERT_TRUE(next);
  EXPECT_EQ(client_->Get(rank.job())->failure_class(), ham::v1::WORKER_LOST);
}

TEST_F(WorkerServiceTest, RefusesRegistrationsThatNoWorkerSends) {
  using Spoil = std::function<void(ham::v1::RegisterWorker*)>;
  const std::vector<std::pair<std::string, Spoil>> cases = {
      {"register.worker_name", [](auto* in) { in->set_worker_name(""); }},
      {"register.worker_name", [](auto* in) { in->set_worker_name("-a"); }},
      {"register.worker_name", [](auto* in) { in->set_worker_name("a~id-a"); }},
      {"register.worker_name", [](auto* in) { in->set_worker_name(std::string(64, 'a')); }},
      {"register.worker_id", [](auto* in) { in->clear_worker_id(); }},
      {"register.worker_id", [](auto* in) { in->set_worker_id(std::string(65, 'a')); }},
      {"register.incarnation", [](auto* in) { in->clear_incarnation(); }},
      {"register.build_id", [](auto* in) { in->set_build_id(std::string(65, 'b')); }},
      {"register.slots.index", [](auto* in) { in->mutable_slots(0)->set_index(-1); }},
      {"register.slots.index", [](auto* in) { *in->add_slots() = in->slots(0); }},
      {"register.slots.device", [](auto* in) { in->mutable_slots(0)->set_device("abacus"); }},
      {"register.slots.device_name", [](auto* in) { in->mutable_slots(0)->set_device_name(std::string(300, 'n')); }},
      {"register.slots.gpu",
       [](auto* in) { in->mutable_slots(0)->mutable_gpu()->set_driver_version(std::string(5000, '1')); }},
      {"register.slots",
       [](auto* in) {
         for (int i = 1; i < 1025; ++i) {
           in->add_slots()->set_index(i);
           in->mutable_slots(i)->set_device("cpu");
         }
       }},
      {"register.data_sets",
       [](auto* in) {
         for (int i = 0; i < 1001; ++i) in->add_data_sets()->set_name(absl::StrCat("d", i));
       }},
      {"register.data_sets.name", [](auto* in) { in->mutable_data_sets(0)->set_name(std::string(300, 'd')); }},
      {"register.data_sets.digest", [](auto* in) { in->mutable_data_sets(0)->set_digest(std::string(300, 'd')); }},
  };
  for (const auto& [field, spoil] : cases) {
    ScriptedWorker worker(server_, "b");
    spoil(&worker.registration);
    const absl::Status status = worker.Connect();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << field << status;
    ASSERT_GE(FieldViolationsOf(status).size(), 1u) << field;
    EXPECT_EQ(FieldViolationsOf(status)[0].field, field);
  }
  EXPECT_TRUE(client_->Workers().empty());
}

TEST_F(WorkerServiceTest, EndsStreamsThatSpeakOutOfTurn) {
  ham::v1::AgentMessage beat;
  beat.mutable_beat();
  worker_->Dial();
  worker_->Send(beat);
  EXPECT_TRUE(absl::IsInvalidArgument(worker_->WaitForEnd())) << worker_->WaitForEnd();
  worker_->Dial();
  worker_->Send(ham::v1::AgentMessage());
  EXPECT_TRUE(absl::IsInvalidArgument(worker_->WaitForEnd())) << worker_->WaitForEnd();
  Connect();
  ham::v1::AgentMessage again;
  *again.mutable_register_() = worker_->registration;
  worker_->Send(again);
  EXPECT_TRUE(absl::IsInvalidArgument(worker_->WaitForEnd())) << worker_->WaitForEnd();
  ExpectAlive();
}

// ---- ranks -------------------------------------------------------------------------------------------------

TEST_F(WorkerServiceTest, RunsAJobFromItsAssignmentToSuccess) {
  Connect();
  const std::string name = client_->MustCreate();
  const auto rank = worker_->Take(name, ObservedRank::STARTING);
  ASSERT_TRUE(rank);
  EXPECT_EQ(rank->attempt(), 1);
  EXPECT_EQ(rank->rank(), 0);
  EXPECT_EQ(rank->world_size(), 1);
  EXPECT_EQ(rank->slot(), 0);
  EXPECT_FALSE(rank->has_checkpoint());
  EXPECT_EQ(rank->spec().SerializeAsString(), client_->Get(name)->spec().SerializeAsString());  // resolved
  EXPECT_EQ(client_->Get(name)->state(), Job::STARTING);
  worker_->Beat({Observed(*rank, ObservedRank::RUNNING)});
  ASSERT_TRUE(client_->WaitForState(name, Job::RUNNING).ok());
  worker_->Beat({Exited(*rank, true)});
  const absl::StatusOr<Job> done = client_->WaitForState(name, Job::SUCCEEDED);
  ASSERT_TRUE(done.ok()) << done.status();
  EXPECT_TRUE(done->has_start_time());
  EXPECT_TRUE(done->has_end_time());
  EXPECT_TRUE(worker_->WaitForAssignments(0));
  std::vector<std::string> reasons;
  for (const ham::v1::JobRecord& record : client_->Log(name)) reasons.push_back(record.event().reason());
  EXPECT_THAT(reasons, ElementsAre("SUBMITTED", "GANG_PLACED", "ALL_RANKS_RUNNING", "COMPLETED"));
}

TEST_F(WorkerServiceTest, TriesAgainAfterACrashAndNotAfterAUserError) {
  Connect();
  const ham::v1::Assignment rank = RunJob(&*client_, &*worker_);
  worker_->Beat({Exited(rank, false, ham::v1::TRAINER_CRASH)});
  const auto second = worker_->Take(rank.job(), ObservedRank::RUNNING, 2);
  ASSERT_TRUE(second);
  worker_->Beat({Exited(*second, false, ham::v1::USER)});
  const absl::StatusOr<Job> failed = client_->WaitForState(rank.job(), Job::FAILED);
  ASSERT_TRUE(failed.ok()) << failed.status();
  EXPECT_EQ(failed->attempt(), 2);
  EXPECT_EQ(failed->failure_class(), ham::v1::USER);
  EXPECT_THAT(failed->state_message(), HasSubstr("it broke."));
}

TEST_F(WorkerServiceTest, KeepsLittleOfAnEndlessExitMessage) {
  Connect();
  const ham::v1::Assignment rank = RunJob(&*client_, &*worker_);
  ObservedRank exited = Exited(rank, false, ham::v1::USER);
  std::string endless = "a";
  while (endless.size() < (4 << 20)) endless += "\xF0\x9F\x98\x80";
  exited.mutable_exit()->set_message(endless);
  worker_->Beat({exited});
  const absl::StatusOr<Job> failed = client_->WaitForState(rank.job(), Job::FAILED);
  ASSERT_TRUE(failed.ok()) << failed.status();
  EXPECT_LT(failed->state_message().size(), 2048u);
  EXPECT_THAT(failed->state_message(), HasSubstr("Rank 0 on a: a\xF0\x9F\x98\x80"));
  EXPECT_EQ(client_->Log(rank.job()).size(), 4u);
}

// ---- reports -----------------------------------------------------------------------------------------------

TEST_F(WorkerServiceTest, KeepsEachRecordOfASpoolOnce) {
  Connect();
  const ham::v1::Assignment rank = RunJob(&*client_, &*worker_);
  ham::v1::ReportRequest report = ReportOf(rank);
  *report.add_records() = LogText(1, "one\n");
  *report.add_records() = LogText(2, "two\n");
  ReportCall call(&*worker_);
  absl::StatusOr<ham::v1::ReportResponse> response = call.Send(report);
  ASSERT_TRUE(response.ok()) << response.status();
  EXPECT_EQ(response->job(), rank.job());
  EXPECT_EQ(response->attempt(), 1);
  EXPECT_EQ(response->rank(), 0);
  EXPECT_EQ(response->acknowledged_sequence(), 2);
  EXPECT_FALSE(response->fenced());
  *report.add_records() = LogText(3, "three\n");
  *report.add_records() = LogText(7, "seven, after a gap of dropped text\n");
  EXPECT_EQ(call.Send(report)->acknowledged_sequence(), 7);
  EXPECT_EQ(ReportCall(&*worker_).Send(report)->acknowledged_sequence(), 7);  // as after a lost connection
  std::vector<std::string> texts;
  for (const ham::v1::JobRecord& record : client_->Log(rank.job())) {
    if (record.has_log()) texts.push_back(record.log().text());
  }
  EXPECT_THAT(texts, ElementsAre("one\n", "two\n", "three\n", "seven, after a gap of dropped text\n"));
}

TEST_F(WorkerServiceTest, FencesReportsThatAreNotOfACurrentRank) {
  Connect();
  const ham::v1::Assignment rank = RunJob(&*client_, &*worker_);
  const ham::v1::ReportRequest good = [&] {
    ham::v1::ReportRequest report = ReportOf(rank);
    *report.add_records() = LogText(1, "stale\n");
    return report;
  }();
  std::vector<ham::v1::ReportRequest> stale(6, good);
  stale[0].mutable_fence()->set_cluster_id("another");
  stale[1].mutable_fence()->set_session(good.fence().session() + 1);
  stale[2].mutable_fence()->set_attempt(2);
  stale[3].mutable_fence()->set_job("projects/default/jobs/j0");
  stale[4].set_rank(1);
  stale[5].clear_fence();
  ReportCall call(&*worker_);
  for (const ham::v1::ReportRequest& report : stale) {
    const absl::StatusOr<ham::v1::ReportResponse> response = call.Send(report);
    ASSERT_TRUE(response.ok()) << response.status();
    EXPECT_TRUE(response->fenced()) << report.ShortDebugString();
    EXPECT_EQ(response->acknowledged_sequence(), 0);
  }
  EXPECT_EQ(client_->Log(rank.job()).size(), 3u);
  worker_->Beat({Exited(rank, true)});
  ASSERT_TRUE(client_->WaitForState(rank.job(), Job::SUCCEEDED).ok());
  EXPECT_TRUE(call.Send(good)->fenced());  // the attempt is over
}

TEST_F(WorkerServiceTest, KeepsNumbersThatAreNotFinite) {
  Connect();
  const ham::v1::Assignment rank = RunJob(&*client_, &*worker_);
  ham::v1::MetricPoint point;
  point.set_iteration(3);
  point.mutable_train()->set_loss(std::nan(""));
  point.mutable_train()->set_learning_rate(std::numeric_limits<double>::infinity());
  point.mutable_train()->set_hard_share(-std::numeric_limits<double>::infinity());
  ham::v1::ReportRequest report = ReportOf(rank);
  *report.add_records() = Metric(1, point);
  ASSERT_TRUE(ReportCall(&*worker_).Send(report).ok());
  const ham::v1::JobRecord record = client_->Log(rank.job()).back();
  EXPECT_TRUE(std::isnan(record.metric().train().loss()));
  EXPECT_EQ(record.metric().train().learning_rate(), std::numeric_limits<double>::infinity());
  EXPECT_EQ(record.metric().train().hard_share(), -std::numeric_limits<double>::infinity());
}

TEST_F(WorkerServiceTest, CutsLongLogTextBetweenLinesOrCharacters) {
  Connect();
  const ham::v1::Assignment rank = RunJob(&*client_, &*worker_);
  std::string lines;
  while (lines.size() < (600 << 10)) absl::StrAppend(&lines, "line ", lines.size(), "\n");
  std::string one_line;
  while (one_line.size() < (600 << 10)) one_line += "\xE2\x82\xAC";
  ham::v1::ReportRequest report = ReportOf(rank);
  *report.add_records() = LogText(1, lines);
  *report.add_records() = LogText(2, one_line);
  ASSERT_TRUE(ReportCall(&*worker_).Send(report).ok());
  std::string whole;
  for (const ham::v1::JobRecord& record : client_->Log(rank.job())) {
    if (!record.has_log()) continue;
    EXPECT_LE(record.log().text().size(), 256u << 10);
    if (whole.size() < lines.size()) {
      EXPECT_EQ(record.log().text().back(), '\n');
    }
    whole += record.log().text();
  }
  EXPECT_TRUE(whole == lines + one_line);
}

TEST_F(WorkerServiceTest, GivesRecordsWithAnImpossibleTimeItsOwn) {
  Connect();
  const ham::v1::Assignment rank = RunJob(&*client_, &*worker_);
  ham::v1::ReportRequest report = ReportOf(rank);
  *report.add_records() = LogText(1, "x\n");
  report.mutable_records(0)->mutable_time()->set_seconds(std::numeric_limits<int64_t>::max());
  *report.add_records() = LogText(2, "x\n");
  report.mutable_records(1)->mutable_time()->set_nanos(-1);
  ASSERT_TRUE(ReportCall(&*worker_).Send(report).ok());
  const std::vector<ham::v1::JobRecord> log = client_->Log(rank.job());
  ASSERT_EQ(log.size(), 5u);
  for (const ham::v1::JobRecord& record : log) {  // what protobuf JSON can print
    EXPECT_GE(record.time().seconds(), log[0].time().seconds());
    EXPECT_LE(record.time().seconds(), log[0].time().seconds() + 3600);
    EXPECT_GE(record.time().nanos(), 0);
  }
}

// A reader's messages have 4 MiB at most: one record beyond that would end every watch of its job, and one that is
// refused would be sent for ever.
TEST_F(WorkerServiceTest, PutsALineInPlaceOfMetricsThatNoWatchCouldShow) {
  Connect();
  const ham::v1::Assignment rank = RunJob(&*client_, &*worker_);
  ham::v1::MetricPoint point;
  for (int i = 0; i < 500000; ++i) point.mutable_evaluation()->add_per_class_clean_accuracy(0.5);
  ham::v1::ReportRequest report = ReportOf(rank);
  *report.add_records() = Metric(1, point);
  const absl::StatusOr<ham::v1::ReportResponse> response = ReportCall(&*worker_).Send(report);
  ASSERT_TRUE(response.ok()) << response.status();
  EXPECT_EQ(response->acknowledged_sequence(), 1);
  const ham::v1::JobRecord record = client_->Log(rank.job()).back();
  EXPECT_EQ(record.sequence(), 4);
  EXPECT_THAT(record.log().text(), HasSubstr("metric"));
}

TEST_F(WorkerServiceTest, OutlivesMalformedAndHugeMessages) {
  Connect();
  const ham::v1::Assignment rank = RunJob(&*client_, &*worker_);
  ham::v1::ReportRequest huge = ReportOf(rank);
  for (int i = 0; i < 6; ++i) *huge.add_records() = LogText(i + 1, std::string(1 << 20, 'x'));
  EXPECT_TRUE(absl::IsResourceExhausted(ReportCall(&*worker_).Send(huge).status()));
  std::string no_utf8 = ReportOf(rank).SerializeAsString();
  no_utf8 += std::string("\x1A\x06\x08\x01\x22\x02\xC3\x28", 8);  // records { spool_sequence: 1 log_text: "\xC3(" }
  for (const std::string& bytes : {no_utf8, std::string("\xFF\xFF\xFF\xFF"), std::string("\x0A\xFF\xFF\x01", 4)}) {
    for (const char* method : {"Control", "Report", "SetRendezvousKey", "GetRendezvousKey", "QueryArtifact",
                               "UploadArtifact", "DownloadArtifact", "CommitCheckpoint"}) {
      const RawAnswer answer =
          RawCall(server_.NewChannel(), absl::StrCat("/ham.v1.WorkerService/", method), bytes, &worker_->config());
      EXPECT_THAT(answer.messages, SizeIs(0)) << method;
      if (method != std::string("Report")) {
        EXPECT_FALSE(answer.status.ok()) << method << answer.status;
      }
    }
  }
  const RawAnswer unknown = RawCall(server_.NewChannel(), "/ham.v1.WorkerService/Nothing", "", &worker_->config());
  EXPECT_TRUE(absl::IsUnimplemented(unknown.status));
  EXPECT_EQ(client_->Log(rank.job()).size(), 3u);
  ExpectAlive();
}

// ---- rendezvous --------------------------------------------------------------------------------------------

class RendezvousTest : public WorkerServiceTest {
 protected:
  void SetUp() override {
    WorkerServiceTest::SetUp();
    Connect();
    rank_ = RunJob(&*client_, &*worker_);
    fence_ = worker_->FenceOf(rank_.job(), 1);
  }
  absl::Status Set(const ham::v1::Fence& fence, const std::string& key, const std::string& value) {
    ham::v1::SetRendezvousKeyRequest request;
    *request.mutable_fence() = fence;
    request.set_key(key);
    request.set_value(value);
    return Call(worker_->stub(), &ham::v1::WorkerService::Stub::SetRendezvousKey, request, worker_->config()).status();
  }
  absl::StatusOr<std::string> Get(const ham::v1::Fence& fence, const std::string& key,
                                  std::chrono::milliseconds bound = kBound) {
    ham::v1::GetRendezvousKeyRequest request;
    *request.mutable_fence() = fence;
    request.set_key(key);
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + bound);
    SetToken(worker_->config(), &context);
    ham::v1::GetRendezvousKeyResponse response;
    const grpc::Status status = worker_->stub()->GetRendezvousKey(&context, request, &response);
    if (!status.ok()) return FromGrpc(status);
    return response.value();
  }
  // A Get of another thread; started when it returns, as far as can be seen.
  std::thread GetLater(const std::string& key, absl::StatusOr<std::string>* result) {
    return std::thread([this, key, result] { *result = Get(fence_, key); });
  }

  ham::v1::Assignment rank_;
  ham::v1::Fence fence_;
};

TEST_F(RendezvousTest, GivesWhatWasSetAndWaitsForWhatWillBe) {
  const std::string bytes("\x00\xFF\x00", 3);
  ASSERT_TRUE(Set(fence_, "address", bytes).ok());
  EXPECT_EQ(*Get(fence_, "address"), bytes);
  ASSERT_TRUE(Set(fence_, "address", "new").ok());
  EXPECT_EQ(*Get(fence_, "address"), "new");
  absl::StatusOr<std::string> later;
  std::thread waiter = GetLater("later", &later);
  EXPECT_TRUE(absl::IsDeadlineExceeded(Get(fence_, "never", std::chrono::milliseconds(50)).status()));
  ASSERT_TRUE(Set(fence_, "later", "now").ok());
  waiter.join();
  EXPECT_EQ(*later, "now");
}

TEST_F(RendezvousTest, EndsWaitersWithTheAttempt) {
  absl::StatusOr<std::string> missing;
  std::thread waiter = GetLater("missing", &missing);
  EXPECT_TRUE(absl::IsDeadlineExceeded(Get(fence_, "missing", std::chrono::milliseconds(50)).status()));
  ASSERT_TRUE(Set(fence_, "old", "value").ok());
  worker_->Beat({Exited(rank_, false)});
  waiter.join();
  EXPECT_TRUE(absl::IsAborted(missing.status())) << missing.status();
  const auto next = worker_->Take(rank_.job(), ObservedRank::RUNNING, 2);
  ASSERT_TRUE(next);
  EXPECT_TRUE(absl::IsAborted(Get(fence_, "old").status()));
  EXPECT_TRUE(absl::IsAborted(Set(fence_, "old", "x")));
  const ham::v1::Fence second = worker_->FenceOf(rank_.job(), 2);
  EXPECT_TRUE(absl::IsDeadlineExceeded(Get(second, "old", std::chrono::milliseconds(50)).status()));  // keys went too
}

TEST_F(RendezvousTest, TakesNoKeysOfAnAttemptThatIsBeingStopped) {
  ASSERT_TRUE(Set(fence_, "old", "value").ok());
  ASSERT_EQ(client_->Cancel(rank_.job())->state(), Job::CANCELLING);
  EXPECT_TRUE(absl::IsAborted(Set(fence_, "new", "value")));  // nobody would drop it
  EXPECT_TRUE(absl::IsAborted(Get(fence_, "old").status()));
}

TEST_F(RendezvousTest, KeepsToItsBounds) {
  EXPECT_TRUE(Set(fence_, "largest", std::string(64 << 10, 'v')).ok());
  EXPECT_TRUE(absl::IsInvalidArgument(Set(fence_, "larger", std::string((64 << 10) + 1, 'v'))));
  EXPECT_TRUE(absl::IsInvalidArgument(Set(fence_, "", "v")));
  EXPECT_TRUE(absl::IsInvalidArgument(Get(fence_, "").status()));
  EXPECT_TRUE(absl::IsInvalidArgument(Set(fence_, std::string(513, 'k'), "v")));
}

TEST_F(RendezvousTest, RefusesStrangers) {
  ham::v1::Fence stranger = fence_;
  stranger.set_session(fence_.session() + 1);
  EXPECT_TRUE(absl::IsAborted(Set(stranger, "k", "v")));
  EXPECT_TRUE(absl::IsAborted(Get(stranger, "k").status()));
  stranger = fence_;
  stranger.set_cluster_id(std::string(100000, '%'));  // its refusal must fit into trailers
  EXPECT_TRUE(absl::IsAborted(Set(stranger, "k", "v")));
  stranger = fence_;
  stranger.set_job(std::string(100000, 'j'));
  EXPECT_TRUE(absl::IsAborted(Get(stranger, "k").status()));
}

TEST_F(RendezvousTest, EndsWaitersAtShutdown) {
  absl::StatusOr<std::string> missing;
  std::thread waiter = GetLater("missing", &missing);
  EXPECT_TRUE(absl::IsDeadlineExceeded(Get(fence_, "missing", std::chrono::milliseconds(50)).status()));
  server_.Stop();
  waiter.join();
  EXPECT_TRUE(absl::IsUnavailable(missing.status())) << missing.status();
  EXPECT_TRUE(absl::IsUnavailable(worker_->WaitForEnd()));
}

}  // namespace
}  // namespace ham::testing
