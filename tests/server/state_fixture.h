// A state directory with jobs, artifacts and an identity, as a coordinator leaves it, without one.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "proto/sha256.h"
#include "server/artifact_store.h"
#include "server/identity.h"
#include "server/job_store.h"
#include "tests/support/temporary_directory.h"

namespace ham::server {

class StateTest : public ::testing::Test {
 protected:
  std::unique_ptr<JobStore> OpenStore(const std::string& directory) {
    absl::StatusOr<std::unique_ptr<JobStore>> store = JobStore::Open(directory + "/ham.db");
    EXPECT_TRUE(store.ok()) << store.status();
    return store.ok() ? *std::move(store) : nullptr;
  }
  // Its digest.
  std::string PutArtifact(const std::string& text) {
    const std::string digest = Sha256Hex(text);
    EXPECT_TRUE(artifacts_->Put(digest, 0, text).ok());
    EXPECT_TRUE(artifacts_->Commit(digest, static_cast<int64_t>(text.size())).ok());
    return digest;
  }
  ham::v1::Checkpoint PutCheckpoint(int64_t iteration, const std::vector<std::string>& files) {
    std::string list;
    for (const std::string& file : files) {
      absl::StrAppend(&list, list.empty() ? "" : ",", "{\"sha256\":\"", PutArtifact(file), "\"}");
    }
    ham::v1::Checkpoint checkpoint;
    checkpoint.set_attempt(3);
    checkpoint.set_iteration(iteration);
    checkpoint.set_epoch(1);
    checkpoint.set_manifest_digest(
        PutArtifact(absl::StrCat("{\"iteration\":", iteration, ",\"epoch\":1,\"files\":[", list, "]}")));
    return checkpoint;
  }
  static JobRow Row(const std::string& id, int64_t index, ham::v1::Job::State state) {
    JobRow row;
    row.name = "projects/default/jobs/" + id;
    row.submit_index = index;
    row.state = state;
    row.creator = "admin";
    row.device = "cpu";
    row.data_set = "d";
    return row;
  }
  static std::shared_ptr<const ham::v1::JobRecord> Line(int64_t sequence) {
    auto record = std::make_shared<ham::v1::JobRecord>();
    record->set_sequence(sequence);
    record->mutable_log()->set_text(absl::StrCat("line ", sequence, "\n"));
    return record;
  }

  // A training at work with two checkpoints, an evaluation that has ended, a job that waits, and one being cancelled.
  void SetUp() override {
    ASSERT_TRUE(StateLock::Acquire(state_).ok());
    artifacts_ = OpenArtifactDirectory(state_ + "/artifacts").value();
    const absl::StatusOr<Identity> identity = LoadOrCreateIdentity(state_, {}, false);
    ASSERT_TRUE(identity.ok()) << identity.status();
    ASSERT_TRUE(WriteBootstrapFiles(state_, *identity, {"localhost:1"}).ok());
    JobRow training = Row("training", 1, ham::v1::Job::RUNNING);
    training.attempt = 3;
    training.gang = {{.rank = 0, .worker_id = "w", .session = 4, .slot = 0}};
    training.older_checkpoints = {PutCheckpoint(10, {"old weights", "old state"})};
    training.checkpoint = PutCheckpoint(20, {"weights", "state"});
    JobRow evaluation = Row("evaluation", 2, ham::v1::Job::SUCCEEDED);
    evaluation.pool = true;
    evaluation.attempt = 1;
    evaluation.record_digest = PutArtifact("the record");
    JobRow waiting = Row("waiting", 3, ham::v1::Job::QUEUED);
    JobRow cancelling = Row("cancelling", 4, ham::v1::Job::CANCELLING);
    cancelling.attempt = 7;
    cancelling.gang = {{.rank = 0, .worker_id = "w", .session = 4, .slot = 1}};
    PutArtifact("named by nobody");
    Transaction transaction;
    for (const JobRow& row : {training, evaluation, waiting, cancelling}) {
      transaction.jobs[row.name] = row;
      transaction.contents[row.name].labels["of"] = row.name;
    }
    transaction.contents[evaluation.name].spec.mutable_evaluate()->set_weights(PutArtifact("given weights"));
    transaction.workers["w"] = {
        .worker_id = "w", .name = "host", .incarnation = "incarnation", .incarnation_number = 3, .session = 4};
    transaction.records[training.name] = {Line(1), Line(2)};
    transaction.spools = {{training.name, 3, 0, 17}};
    transaction.requests = {{"admin", "r", "hash", training.name, absl::FromUnixSeconds(1000)}};
    ASSERT_TRUE(OpenStore(state_)->Commit(transaction).ok());
  }

  const ham::testing::TemporaryDirectory folder_;
  const std::string state_ = folder_ / "state";
  std::unique_ptr<ArtifactStore> artifacts_;
};

}  // namespace ham::server
