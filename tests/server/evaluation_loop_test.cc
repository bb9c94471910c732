// Evaluations in the loop: from findings to the record, through whatever happens meanwhile.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <deque>
#include <set>

#include "tests/server/loop_fixture.h"
#include "tests/server/made_findings.h"

namespace ham::server {
namespace {

using ham::v1::Job;
using ham::v1::ObservedRank;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class EvaluationLoopTest : public LoopTest {
 protected:
  struct Asked {
    EvaluationRecord record;
    std::function<void(absl::StatusOr<std::string>)> done;
  };

  ~EvaluationLoopTest() override { loop_.reset(); }

  void Record(EvaluationRecord record, std::function<void(absl::StatusOr<std::string>)> done) override {
    absl::MutexLock lock(&mutex_);
    asked_.push_back({std::move(record), std::move(done)});
  }
  std::vector<Asked> TakeAsked() {
    Settle();
    absl::MutexLock lock(&mutex_);
    return std::exchange(asked_, {});
  }

  absl::Status Submit(const std::string& name, int most) {
    NewJob job;
    job.row.name = name;
    job.row.creator = "admin";
    job.row.device = "cpu";
    job.row.data_set = "d";
    job.row.pool = true;
    job.row.world_size = most;
    *job.content.spec.mutable_evaluate() = Spec();
    return CreateJobAndWait(&*loop_, job).status();
  }
  // Job "e", of up to two ranks, on workers a and b.
  void RunTwo() {
    Start();
    streams_["a"] = Register("a");
    streams_["b"] = Register("b");
    ASSERT_TRUE(Submit("e", 2).ok());
    ASSERT_TRUE(Beat("a", {Rank("e", 1, 0, ObservedRank::RUNNING)}).ok());
    ASSERT_TRUE(Beat("b", {Rank("e", 1, 1, ObservedRank::RUNNING)}).ok());
    ASSERT_EQ(Row("e").state, Job::RUNNING);
  }
  absl::StatusOr<ham::v1::ReportResponse> Report(const std::string& worker, int rank, const EvaluationFinding& finding,
                                                 const std::string& job = "e") {
    ham::v1::ReportRequest report;
    report.mutable_fence()->set_cluster_id("c");
    report.mutable_fence()->set_session(sessions_[worker]);
    report.mutable_fence()->set_job(job);
    report.mutable_fence()->set_attempt(1);
    report.set_rank(rank);
    ham::v1::SpooledRecord& record = *report.add_records();
    record.set_spool_sequence(++spooled_[rank]);
    *record.mutable_finding() = finding;
    absl::StatusOr<ham::v1::ReportResponse> result;
    absl::Notification over;
    loop_->Append(report, [&](absl::StatusOr<ham::v1::ReportResponse> response) {
      result = std::move(response);
      over.Notify();
    });
    over.WaitForNotification();
    Settle();
    return result;
  }
  void Must(const std::string& worker, int rank, const EvaluationFinding& finding) {
    const auto response = Report(worker, rank, finding);
    EXPECT_TRUE(response.ok() && response->acknowledged_sequence() == spooled_[rank]) << response.status();
  }
  std::vector<WorkBlock> WorkOf(const std::string& worker) {
    Settle();
    std::vector<WorkBlock> work;
    const ham::v1::DesiredAssignments desired = streams_[worker]->desired();
    for (const ham::v1::Assignment& assignment : desired.assignments()) {
      for (const ham::v1::WorkBlock& block : assignment.blocks()) {
        work.push_back({block.stage(), {block.rows().begin(), block.rows().end()}});
      }
    }
    return work;
  }
  // All that is left to do, by whoever has it. What is done may still be listed.
  void WorkOff() {
    std::set<std::pair<int32_t, std::vector<uint32_t>>> done;
    for (bool worked = true; worked;) {
      worked = false;
      for (const auto& [worker, rank] : std::map<std::string, int>{{"a", 0}, {"b", 1}}) {
        const std::vector<WorkBlock> work = WorkOf(worker);
        for (const WorkBlock& block : work) {
          if (!done.insert({block.stage, block.rows}).second) continue;
          Must(worker, rank, DoneWith(block));
          worked = true;
        }
      }
    }
  }
  std::vector<ham::v1::EvaluationMetrics> Metrics() {
    std::vector<ham::v1::EvaluationMetrics> metrics;
    for (const RecordPtr& record : store_.Log("e")) {
      if (record->metric().has_evaluation()) metrics.push_back(record->metric().evaluation());
    }
    return metrics;
  }
  void ExpectSucceedsWith(const std::vector<Asked>& asked) {
    ASSERT_THAT(asked, SizeIs(1));
    EXPECT_EQ(asked[0].record.samples.broken_by, ham::testing::MadeOutcomes().broken_by);
    EXPECT_EQ(asked[0].record.samples.margins, ham::testing::MadeOutcomes().margins);
    asked[0].done("digest");
    Settle();
    EXPECT_EQ(Row("e").state, Job::SUCCEEDED);
    EXPECT_EQ(Row("e").record_digest, "digest");
  }

  absl::Mutex mutex_;
  std::vector<Asked> asked_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, std::shared_ptr<Stream>> streams_;
  std::map<int, int64_t> spooled_;
};

TEST_F(EvaluationLoopTest, ComesToItsRecord) {
  RunTwo();
  EXPECT_THAT(WorkOf("a"), IsEmpty());
  Must("a", 0, Said(Inputs()));
  EXPECT_THAT(WorkOf("a"), SizeIs(1)) << "ten rows are one block";
  Must("b", 1, Said(Inputs()));
  WorkOff();
  ExpectSucceedsWith(TakeAsked());
  EXPECT_THAT(streams_["a"]->jobs(), IsEmpty());
  EXPECT_THAT(streams_["b"]->jobs(), IsEmpty());
  const std::vector<ham::v1::EvaluationMetrics> metrics = Metrics();
  ASSERT_GE(metrics.size(), 3u) << "one a stage at least";
  double robust = 1;
  for (const ham::v1::EvaluationMetrics& point : metrics) {
    EXPECT_LE(point.suites(0).robust_accuracy(), robust);
    EXPECT_EQ(point.has_progress(), &point != &metrics.back());
    robust = point.suites(0).robust_accuracy();
  }
  EXPECT_DOUBLE_EQ(robust, 0.5);
  EXPECT_EQ(store_.Log("e").back()->event().to_state(), Job::SUCCEEDED);
}

TEST_F(EvaluationLoopTest, GivesTheWorkOfASilentWorkerToAnother) {
  RunTwo();
  Must("a", 0, Said(Inputs()));
  const std::vector<WorkBlock> work = WorkOf("a");
  EXPECT_THAT(WorkOf("b"), IsEmpty());
  for (int second = 0; second < 18; ++second) {
    Pass(absl::Seconds(1));
    ASSERT_TRUE(Beat("b", {Rank("e", 1, 1, ObservedRank::RUNNING)}).ok());
  }
  EXPECT_EQ(Row("e").state, Job::RUNNING);
  EXPECT_EQ(WorkOf("b"), work);
  const auto late = Report("a", 0, Found(work[0]));
  EXPECT_TRUE(late.ok() && late->fenced());
  WorkOff();
  ExpectSucceedsWith(TakeAsked());
}

TEST_F(EvaluationLoopTest, GoesOnAfterARestart) {
  RunTwo();
  Must("a", 0, Said(Inputs()));
  Must("a", 0, Found(WorkOf("a")[0]));
  const std::vector<WorkBlock> work = WorkOf("a");
  ASSERT_EQ(work[0].stage, 0);
  loop_.reset();
  Start();
  for (const auto& [worker, rank] : std::map<std::string, int>{{"a", 0}, {"b", 1}}) {
    streams_[worker] = Register(worker, 1, {Rank("e", 1, rank, ObservedRank::RUNNING)});
  }
  EXPECT_EQ(Row("e").attempt, 1);
  EXPECT_EQ(WorkOf("a"), work) << "not the clean stage again";
  WorkOff();
  ExpectSucceedsWith(TakeAsked());
}

TEST_F(EvaluationLoopTest, MakesTheRecordOnceMoreWhereARestartLostIt) {
  RunTwo();
  Must("a", 0, Said(Inputs()));
  WorkOff();
  EXPECT_THAT(TakeAsked(), SizeIs(1));
  loop_.reset();
  Start();
  streams_["a"] = Register("a", 1, {Rank("e", 1, 0, ObservedRank::RUNNING)});
  ExpectSucceedsWith(TakeAsked());
}

TEST_F(EvaluationLoopTest, TakesNothingThatIsNotDurable) {
  RunTwo();
  Must("a", 0, Said(Inputs()));
  const std::vector<WorkBlock> work = WorkOf("a");
  store_.Fail(true);
  EXPECT_FALSE(Report("a", 0, Found(work[0])).ok());
  EXPECT_EQ(WorkOf("a"), work);
  store_.Fail(false);
  Pass(absl::Seconds(3));
  --spooled_[0];  // sent again
  Must("a", 0, Found(work[0]));
  WorkOff();
  const std::vector<Asked> asked = TakeAsked();
  ASSERT_THAT(asked, SizeIs(1));
  EXPECT_EQ(asked[0].record.attacks[0].forward_passes, 100u) << "counted once";
  store_.Fail(true);
  asked[0].done("digest");
  Settle();
  EXPECT_EQ(Row("e").state, Job::RUNNING);
  store_.Fail(false);
  Pass(absl::Seconds(3));
  ExpectSucceedsWith(TakeAsked());
}

TEST_F(EvaluationLoopTest, FailsAJobWhoseRanksContradictEachOther) {
  RunTwo();
  Must("a", 0, Said(Inputs()));
  EvaluationRecord inputs = Inputs();
  inputs.build_id = "fedcba987654";
  Must("b", 1, Said(inputs));
  EXPECT_EQ(Row("e").state, Job::RECOVERING);
  EXPECT_EQ(Row("e").failure_class, ham::v1::USER);
  EXPECT_THAT(Row("e").state_message, HasSubstr("build_id"));
  ASSERT_TRUE(Beat("a", {Exited("e", 1, 0, false)}).ok());
  ASSERT_TRUE(Beat("b", {Exited("e", 1, 1, false)}).ok());
  EXPECT_EQ(Row("e").state, Job::FAILED);
}

TEST_F(EvaluationLoopTest, KeepsOneCopyOfTheInputs) {
  RunTwo();
  Must("a", 0, Said(Inputs()));
  Must("b", 1, Said(Inputs()));
  EvaluationRecord inputs = Inputs();
  inputs.device = "another CPU";
  Must("b", 1, Said(inputs));
  std::vector<EvaluationFinding> kept;
  for (const RecordPtr& record : store_.Log("e")) {
    if (record->has_finding()) kept.push_back(record->finding());
  }
  ASSERT_THAT(kept, SizeIs(2));
  EXPECT_TRUE(kept[0].has_inputs());
  EXPECT_EQ(kept[1].device(), "another CPU");
  WorkOff();
  const std::vector<Asked> asked = TakeAsked();
  ASSERT_THAT(asked, SizeIs(1));
  EXPECT_EQ(asked[0].record.device, "another CPU; toy CPU, avx2");
}

TEST_F(EvaluationLoopTest, DoesNotForgetAContradiction) {
  RunTwo();
  Must("a", 0, Said(Inputs()));
  EvaluationRecord inputs = Inputs();
  inputs.build_id = "fedcba987654";
  // Durable, but what follows from it is not, as where a coordinator dies in between.
  store_.FailAfter(1);
  Must("b", 1, Said(inputs));
  EXPECT_EQ(Row("e").state, Job::RUNNING);
  loop_.reset();
  store_.Fail(false);
  ASSERT_TRUE(store_.Reopen().ok());
  Start();
  streams_["a"] = Register("a", 1, {Rank("e", 1, 0, ObservedRank::RUNNING)});
  Settle();
  EXPECT_EQ(Row("e").state, Job::RECOVERING);
  EXPECT_THAT(Row("e").state_message, HasSubstr("build_id"));
}

TEST_F(EvaluationLoopTest, FailsAJobWhoseContradictionTheStoreCouldNotTakeOnce) {
  RunTwo();
  Must("a", 0, Said(Inputs()));
  EvaluationRecord inputs = Inputs();
  inputs.build_id = "fedcba987654";
  store_.FailAfter(1);
  Must("b", 1, Said(inputs));
  EXPECT_EQ(Row("e").state, Job::RUNNING);
  store_.Fail(false);
  Pass(absl::Seconds(3));
  EXPECT_EQ(Row("e").state, Job::RECOVERING);
}

TEST_F(EvaluationLoopTest, BreaksAJobOfAFindingThatNoWatchCouldCarry) {
  RunTwo();
  EvaluationFinding large;
  large.set_inputs(std::string(limits_.finding_bytes, ' '));
  Must("a", 0, large);
  EXPECT_EQ(Row("e").state, Job::RECOVERING);
  for (const RecordPtr& record : store_.Log("e")) EXPECT_FALSE(record->has_finding());
}

TEST_F(EvaluationLoopTest, GivesNothingToARankThatHasNotStarted) {
  RunTwo();
  streams_["c"] = Register("c");
  ASSERT_TRUE(Submit("f", 1).ok());
  ASSERT_TRUE(Report("c", 0, Said(Inputs()), "f").ok());
  EXPECT_THAT(WorkOf("c"), IsEmpty());
  ASSERT_TRUE(Beat("c", {Rank("f", 1, 0, ObservedRank::RUNNING)}).ok());
  EXPECT_THAT(WorkOf("c"), SizeIs(1));
}

TEST_F(EvaluationLoopTest, FailsAJobWhoseRecordCannotBeMade) {
  RunTwo();
  Must("a", 0, Said(Inputs()));
  WorkOff();
  const std::vector<Asked> asked = TakeAsked();
  ASSERT_THAT(asked, SizeIs(1));
  asked[0].done(absl::DataLossError("samples: a row is broken twice"));
  Settle();
  EXPECT_EQ(Row("e").state, Job::RECOVERING);
  EXPECT_THAT(Row("e").state_message, HasSubstr("the record cannot be made: samples"));
}

TEST_F(EvaluationLoopTest, DropsARecordThatComesAfterTheJobWasCancelled) {
  RunTwo();
  Must("a", 0, Said(Inputs()));
  WorkOff();
  const std::vector<Asked> asked = TakeAsked();
  ASSERT_TRUE(ApplyAndWait(&*loop_, CancelJob{"e", "admin"}).ok());
  ASSERT_THAT(asked, SizeIs(1));
  asked[0].done("digest");
  Settle();
  EXPECT_EQ(Row("e").state, Job::CANCELLING);
  EXPECT_EQ(Row("e").record_digest, "");
}

TEST_F(EvaluationLoopTest, FailsAJobWhoseLogIsDamaged) {
  RunTwo();
  Must("a", 0, Said(Inputs()));
  loop_.reset();
  store_.Damage("e");
  Start();
  streams_["a"] = Register("a", 1, {Rank("e", 1, 0, ObservedRank::RUNNING)});
  Settle();
  EXPECT_EQ(Row("e").state, Job::RECOVERING);
  EXPECT_THAT(Row("e").state_message, HasSubstr("cannot be read"));
}

TEST_F(EvaluationLoopTest, TakesNoFindingsForATraining) {
  Start();
  RunJob();
  const auto response = Report("a", 0, Said(Inputs()), "j");
  ASSERT_TRUE(response.ok()) << response.status();
  EXPECT_EQ(response->acknowledged_sequence(), 1);
  for (const RecordPtr& record : store_.Log("j")) EXPECT_FALSE(record->has_finding());
}

}  // namespace
}  // namespace ham::server
