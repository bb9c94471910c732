// Evaluation jobs as clients and workers see them: their weights, and their records.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "proto/sha256.h"
#include "server/job_store.h"
#include "tests/integration/scripted_worker.h"
#include "tests/integration/test_server.h"

namespace ham::testing {
namespace {

using ham::v1::Job;
using ham::v1::ObservedRank;
using ::testing::HasSubstr;

const std::string kWeights = std::string(1 << 20, 'a') + std::string(1 << 20, 'b') + "the rest";

class EvaluationJobTest : public ::testing::Test {
 protected:
  void SetUp() override { Restart(); }
  void Restart() {
    const absl::Status status = server_.Restart();
    ASSERT_TRUE(status.ok()) << status;
    client_.emplace(server_);
  }

  // Of `chunks` one after the other from `offset`.
  absl::Status Upload(const std::string& digest, int64_t size, const std::vector<std::string>& chunks,
                      int64_t offset = 0) {
    grpc::ClientContext context;
    SetBound(&context);
    SetToken(client_->config(), &context);
    ham::v1::UploadWeightsResponse response;
    const auto writer = client_->jobs()->UploadWeights(&context, &response);
    ham::v1::UploadWeightsRequest request;
    request.set_digest(digest);
    request.set_size(size);
    for (const std::string& chunk : chunks) {
      request.set_offset(offset);
      request.set_data(chunk);
      offset += static_cast<int64_t>(chunk.size());
      if (!writer->Write(request)) break;
      request.Clear();
    }
    writer->WritesDone();
    return FromGrpc(writer->Finish());
  }
  // In chunks of `step` bytes.
  absl::Status Upload(const std::string& text, size_t step = 1 << 20) {
    std::vector<std::string> chunks;
    for (size_t at = 0; at < text.size(); at += step) chunks.push_back(text.substr(at, step));
    return Upload(Sha256Hex(text), static_cast<int64_t>(text.size()), chunks);
  }
  static absl::StatusOr<std::string> Download(ScriptedWorker* worker, const std::string& job,
                                              const std::string& digest) {
    grpc::ClientContext context;
    SetBound(&context);
    SetToken(worker->config(), &context);
    ham::v1::DownloadArtifactRequest request;
    *request.mutable_fence() = worker->FenceOf(job, 1);
    request.set_digest(digest);
    const auto reader = worker->stub()->DownloadArtifact(&context, request);
    std::string text;
    ham::v1::DownloadArtifactResponse response;
    while (reader->Read(&response)) text += response.data();
    const grpc::Status status = reader->Finish();
    if (!status.ok()) return FromGrpc(status);
    return text;
  }
  absl::StatusOr<std::string> Record(const std::string& job) {
    grpc::ClientContext context;
    SetBound(&context);
    SetToken(client_->config(), &context);
    ham::v1::GetEvaluationRecordRequest request;
    request.set_name(job);
    const auto reader = client_->jobs()->GetEvaluationRecord(&context, request);
    std::string text;
    ham::v1::GetEvaluationRecordResponse response;
    while (reader->Read(&response)) {
      EXPECT_LE(response.data().size(), 1u << 20);
      text += response.data();
    }
    const grpc::Status status = reader->Finish();
    if (!status.ok()) return FromGrpc(status);
    return text;
  }

  static ham::v1::CreateJobRequest Request(const std::string& weights) {
    ham::v1::CreateJobRequest request;
    request.set_parent("projects/default");
    auto* evaluate = request.mutable_spec()->mutable_evaluate();
    if (!weights.empty()) evaluate->set_weights(Sha256Hex(weights));
    evaluate->mutable_data()->set_name("fashion-mnist");
    return request;
  }
  static ham::v1::CreateJobRequest RequestOfJob(const std::string& job) {
    ham::v1::CreateJobRequest request;
    request.set_parent("projects/default");
    request.mutable_spec()->mutable_evaluate()->set_job(job);
    return request;
  }
  std::string MustCreate(const std::string& weights) {
    EXPECT_TRUE(Upload(weights).ok());
    const absl::StatusOr<Job> job = client_->Create(Request(weights));
    EXPECT_TRUE(job.ok()) << job.status();
    return job.ok() ? job->name() : "";
  }
  // As if the coordinator had written it so.
  template <class Change>
  void ChangeRow(const std::string& job, Change change) {
    server_.Stop();
    {
      const auto store = server::JobStore::Open(server_.StatePath("ham.db"));
      ASSERT_TRUE(store.ok()) << store.status();
      const auto contents = (*store)->Load();
      ASSERT_TRUE(contents.ok()) << contents.status();
      server::Transaction transaction;
      for (server::JobRow row : contents->jobs) {
        if (row.name != job) continue;
        change(&row);
        transaction.jobs[job] = row;
      }
      ASSERT_EQ(transaction.jobs.size(), 1u);
      const absl::Status status = (*store)->Commit(transaction);
      ASSERT_TRUE(status.ok()) << status;
    }
    Restart();
  }
  // A training that has ended with a checkpoint after `epoch`.
  std::string TrainedJob(const ham::v1::JobSpec& spec, const std::string& manifest, int epoch = 12) {
    ham::v1::CreateJobRequest request = SmallRequest();
    *request.mutable_spec() = spec;
    const absl::StatusOr<Job> job = client_->Create(request);
    EXPECT_TRUE(job.ok()) << job.status();
    EXPECT_TRUE(Upload(manifest).ok());
    ChangeRow(job->name(), [&](server::JobRow* row) {
      row->state = Job::SUCCEEDED;
      row->checkpoint.emplace();
      row->checkpoint->set_epoch(epoch);
      row->checkpoint->set_manifest_digest(Sha256Hex(manifest));
    });
    return job->name();
  }
  std::string Manifest() {
    EXPECT_TRUE(Upload("the model").ok());
    EXPECT_TRUE(Upload("the state").ok());
    return absl::StrCat(R"({"iteration": 9, "epoch": 1, "files": [{"name": "model.safetensors", "sha256": ")",
                        Sha256Hex("the model"), R"("}, {"name": "state.safetensors", "sha256": ")",
                        Sha256Hex("the state"), R"("}]})");
  }

  TestServer server_;
  std::optional<Client> client_;
};

// ---- UploadWeights -----------------------------------------------------------------------------------------

TEST_F(EvaluationJobTest, WeightsAreTakenOnceAndThenKnown) {
  const std::string digest = Sha256Hex(kWeights);
  EXPECT_TRUE(Upload(kWeights).ok());
  EXPECT_TRUE(Upload(digest, -1, {"lies"}).ok());  // not looked at
  EXPECT_TRUE(client_->Create(Request(kWeights)).ok());
}

TEST_F(EvaluationJobTest, AnUploadThatWasCutOffIsNoHindrance) {
  const std::string digest = Sha256Hex(kWeights);
  const auto size = static_cast<int64_t>(kWeights.size());
  const absl::Status cut = Upload(digest, size, {kWeights.substr(0, 1000)});
  EXPECT_TRUE(absl::IsOutOfRange(cut)) << cut;
  EXPECT_TRUE(absl::IsFailedPrecondition(client_->Create(Request(kWeights)).status()));
  const absl::Status status = Upload(kWeights, 300001);  // the end of what is held lies within a chunk
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_TRUE(client_->Create(Request(kWeights)).ok());
}

TEST_F(EvaluationJobTest, WeightsThatAreNotWhatTheirDigestSaysAreDropped) {
  const std::string digest = Sha256Hex("truth");
  EXPECT_TRUE(absl::IsDataLoss(Upload(digest, 4, {"lies"})));
  EXPECT_TRUE(Upload("truth").ok());
}

TEST_F(EvaluationJobTest, UploadsOutOfBoundsAreRefused) {
  const std::string digest = Sha256Hex("text");
  const int64_t most = std::numeric_limits<int64_t>::max();
  EXPECT_TRUE(absl::IsInvalidArgument(Upload("../../../etc/passwd", 4, {"text"})));
  EXPECT_TRUE(absl::IsInvalidArgument(Upload(digest, -1, {"text"})));
  EXPECT_TRUE(absl::IsInvalidArgument(Upload(digest, most, {"text"})));
  EXPECT_TRUE(absl::IsInvalidArgument(Upload(digest, 3, {"text"})));
  EXPECT_TRUE(absl::IsInvalidArgument(Upload(digest, 4, {"text"}, -1)));
  EXPECT_TRUE(absl::IsInvalidArgument(Upload(digest, 2 << 20, {std::string((1 << 20) + 1, 'x')})));
  EXPECT_TRUE(absl::IsInvalidArgument(Upload(digest, 4, {})));
  const absl::Status gap = Upload(digest, 4, {"xt"}, 2);
  EXPECT_TRUE(absl::IsAborted(gap)) << gap;
  EXPECT_TRUE(Upload("text").ok());
}

// ---- CreateJob ---------------------------------------------------------------------------------------------

TEST_F(EvaluationJobTest, WithoutItsWeightsAnEvaluationIsRefused) {
  const absl::Status status = client_->Create(Request(kWeights)).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_EQ(ReasonOf(status), "WEIGHTS_NOT_HERE");
  EXPECT_THAT(std::string(status.message()), HasSubstr(Sha256Hex(kWeights)));
  EXPECT_THAT(std::string(status.message()), HasSubstr("--weights FILE"));
}

TEST_F(EvaluationJobTest, AJobsAveragedWeightsAreEvaluatedWithItsModelAndData) {
  ham::v1::JobSpec spec = SmallSpec();
  spec.mutable_train()->mutable_model()->set_name("preact-resnet-18");
  spec.mutable_train()->mutable_model()->set_activation("silu");
  spec.mutable_train()->mutable_model()->set_normalization("data_set");
  spec.mutable_train()->mutable_data()->set_name("imagenette");
  spec.mutable_train()->mutable_data()->set_image_size(160);
  const std::string trained = TrainedJob(spec, Manifest());
  ham::v1::CreateJobRequest request = RequestOfJob(trained);
  request.mutable_spec()->mutable_evaluate()->mutable_data()->set_rows(7);
  request.set_request_id("r");
  const absl::StatusOr<Job> job = client_->Create(request);
  ASSERT_TRUE(job.ok()) << job.status();
  const ham::v1::EvaluateSpec& evaluate = job->spec().evaluate();
  EXPECT_EQ(evaluate.weights(), Sha256Hex("the state"));
  EXPECT_EQ(evaluate.job(), trained);
  EXPECT_EQ(evaluate.model().name(), "preact-resnet-18");
  EXPECT_EQ(evaluate.model().activation(), "silu");
  EXPECT_EQ(evaluate.model().normalization(), "none");
  EXPECT_EQ(evaluate.data().name(), "imagenette");
  EXPECT_EQ(evaluate.data().image_size(), 160);
  EXPECT_EQ(evaluate.data().rows(), 7);
  EXPECT_EQ(client_->Create(request)->name(), job->name());  // by the request as it was sent

  auto* other = request.mutable_spec()->mutable_evaluate();
  request.clear_request_id();
  other->mutable_model()->set_activation("relu");
  other->mutable_data()->set_name("svhn");
  const absl::StatusOr<Job> changed = client_->Create(request);
  ASSERT_TRUE(changed.ok()) << changed.status();
  EXPECT_EQ(changed->spec().evaluate().model().activation(), "relu");
  EXPECT_EQ(changed->spec().evaluate().model().name(), "preact-resnet-18");
  EXPECT_EQ(changed->spec().evaluate().data().name(), "svhn");
  EXPECT_EQ(changed->spec().evaluate().data().image_size(), 0);
}

TEST_F(EvaluationJobTest, AJobWithoutAnAverageYetHasItsOwnWeightsEvaluated) {
  ham::v1::JobSpec spec = SmallSpec();
  spec.mutable_train()->set_swa_start_epoch(5);
  for (const auto& [epoch, weights] : {std::pair(4, "the model"), std::pair(5, "the state")}) {
    const absl::StatusOr<Job> job = client_->Create(RequestOfJob(TrainedJob(spec, Manifest(), epoch)));
    ASSERT_TRUE(job.ok()) << job.status();
    EXPECT_EQ(job->spec().evaluate().weights(), Sha256Hex(weights)) << epoch;
  }
  spec.mutable_train()->set_swa_start_epoch(0);
  spec.mutable_train()->set_ema_decay(0);
  EXPECT_EQ(client_->Create(RequestOfJob(TrainedJob(spec, Manifest())))->spec().evaluate().weights(),
            Sha256Hex("the model"));
}

TEST_F(EvaluationJobTest, AJobWhoseWeightsCannotBeEvaluatedIsNamed) {
  const auto refused = [this](const std::string& job, const std::string& sentence) {
    const absl::Status status = client_->Create(RequestOfJob(job)).status();
    EXPECT_THAT(std::string(status.message()), HasSubstr(sentence));
    return status;
  };
  const absl::Status missing = refused("projects/default/jobs/nosuch", "nosuch does not exist");
  EXPECT_TRUE(absl::IsNotFound(missing)) << missing;
  EXPECT_EQ(ReasonOf(missing), "JOB_NOT_FOUND");
  EXPECT_TRUE(absl::IsFailedPrecondition(refused(client_->MustCreate(), "has no checkpoint yet")));
  EXPECT_TRUE(absl::IsFailedPrecondition(refused(MustCreate("w"), "is an evaluation")));
  const absl::Status malformed = client_->Create(RequestOfJob("j1")).status();
  ASSERT_EQ(FieldViolationsOf(malformed).size(), 1u) << malformed;
  EXPECT_EQ(FieldViolationsOf(malformed)[0].field, "spec.evaluate.job");
  const std::string nameless = R"({"iteration": 9, "epoch": 1, "files": []})";
  EXPECT_TRUE(absl::IsFailedPrecondition(refused(TrainedJob(SmallSpec(), nameless), "does not say which")));
  const std::string gone = TrainedJob(SmallSpec(), R"({"iteration": 9, "epoch": 1, "files": [{"name":
      "state.safetensors", "sha256": ")" + Sha256Hex("gone") +
                                                       R"("}]})");
  EXPECT_TRUE(absl::IsFailedPrecondition(refused(gone, Sha256Hex("gone"))));
  ham::v1::CreateJobRequest both = RequestOfJob(gone);
  both.mutable_spec()->mutable_evaluate()->set_weights(Sha256Hex("w"));
  EXPECT_EQ(FieldViolationsOf(client_->Create(both).status())[0].field, "spec.evaluate.job");
}

// ---- DownloadArtifact --------------------------------------------------------------------------------------

TEST_F(EvaluationJobTest, ARankMayReadTheWeightsItEvaluatesAndNothingElse) {
  ASSERT_TRUE(Upload("of another job").ok());
  const std::string job = MustCreate(kWeights);
  ScriptedWorker worker(server_, "a");
  ASSERT_TRUE(worker.Connect().ok());
  ASSERT_TRUE(worker.Take(job, ObservedRank::STARTING));
  const absl::StatusOr<std::string> weights = Download(&worker, job, Sha256Hex(kWeights));
  ASSERT_TRUE(weights.ok()) << weights.status();
  EXPECT_TRUE(*weights == kWeights);
  for (const std::string& other : {Sha256Hex("of another job"), std::string()}) {
    const absl::Status status = Download(&worker, job, other).status();
    EXPECT_TRUE(absl::IsPermissionDenied(status)) << other << status;
  }
}

TEST_F(EvaluationJobTest, DamagedWeightsFailTheirJobInWordsAndCanBeUploadedAgain) {
  const std::string job = MustCreate(kWeights);
  ScriptedWorker worker(server_, "a");
  ASSERT_TRUE(worker.Connect().ok());
  ASSERT_TRUE(worker.Take(job, ObservedRank::STARTING));
  const std::string digest = Sha256Hex(kWeights);
  const std::string path = server_.StatePath("artifacts/" + digest.substr(0, 2) + "/" + digest);
  WriteTestFile(path, kWeights.substr(1));
  EXPECT_TRUE(absl::IsDataLoss(Download(&worker, job, digest).status()));
  ASSERT_TRUE(worker.WaitForAssignments(0));
  worker.Beat({});
  const absl::StatusOr<Job> failed = client_->WaitForState(job, Job::FAILED);
  ASSERT_TRUE(failed.ok()) << failed.status();
  EXPECT_THAT(failed->state_message(), HasSubstr("Its weights cannot be read: artifact " + digest));
  EXPECT_EQ(client_->Create(Request(kWeights)).status().code(), absl::StatusCode::kFailedPrecondition);
  MustCreate(kWeights);
  EXPECT_TRUE(ReadTestFile(path) == kWeights);
}

// ---- GetEvaluationRecord -----------------------------------------------------------------------------------

TEST_F(EvaluationJobTest, ARecordComesWholeOnceItsJobHasSucceeded) {
  const std::string job = MustCreate("w");
  const absl::Status early = Record(job).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(early)) << early;
  EXPECT_EQ(ReasonOf(early), "NO_RECORD");
  EXPECT_THAT(std::string(early.message()), HasSubstr("is QUEUED"));
  ASSERT_TRUE(Upload(kWeights).ok());  // any artifact of more than one chunk
  ChangeRow(job, [](server::JobRow* row) {
    row->state = Job::SUCCEEDED;
    row->record_digest = Sha256Hex(kWeights);
  });
  const absl::StatusOr<std::string> record = Record(job);
  ASSERT_TRUE(record.ok()) << record.status();
  EXPECT_TRUE(*record == kWeights);
}

TEST_F(EvaluationJobTest, OtherJobsHaveNoRecord) {
  const absl::Status training = Record(client_->MustCreate()).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(training)) << training;
  EXPECT_EQ(ReasonOf(training), "NOT_AN_EVALUATION");
  EXPECT_TRUE(absl::IsNotFound(Record("projects/default/jobs/nosuch").status()));
  EXPECT_TRUE(absl::IsInvalidArgument(Record("j1").status()));
}

}  // namespace
}  // namespace ham::testing
