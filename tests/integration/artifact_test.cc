// Checkpoints on their way to the coordinator and back.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <limits>

#include "absl/strings/str_cat.h"
#include "proto/sha256.h"
#include "tests/integration/full_disk.h"
#include "tests/integration/scripted_worker.h"
#include "tests/integration/test_server.h"

namespace ham::testing {
namespace {

using ham::v1::Job;
using ham::v1::ObservedRank;
using ::testing::HasSubstr;
using Stub = ham::v1::WorkerService::Stub;

class ArtifactTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const absl::Status status = server_.Start();
    ASSERT_TRUE(status.ok()) << status;
    client_.emplace(server_);
    worker_.emplace(server_, "a");
    ASSERT_TRUE(worker_->Connect().ok());
    rank_ = RunJob(&*client_, &*worker_);
    job_ = rank_.job();
    ASSERT_FALSE(job_.empty());
    fence_ = worker_->FenceOf(job_, 1);
  }

  absl::StatusOr<ham::v1::QueryArtifactResponse> Query(const std::string& digest) {
    ham::v1::QueryArtifactRequest request;
    request.set_digest(digest);
    return Call(worker_->stub(), &Stub::QueryArtifact, request, worker_->config());
  }
  // `chunks` one after the other from `offset`; fence, digest and size go with the first.
  absl::Status Upload(const ham::v1::Fence& fence, const std::string& digest, int64_t size,
                      const std::vector<std::string>& chunks, int64_t offset = 0) {
    grpc::ClientContext context;
    SetBound(&context);
    SetToken(worker_->config(), &context);
    ham::v1::UploadArtifactResponse response;
    const auto writer = worker_->stub()->UploadArtifact(&context, &response);
    ham::v1::UploadArtifactRequest request;
    *request.mutable_fence() = fence;
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
  absl::Status Upload(const std::string& text) {
    std::vector<std::string> chunks;
    for (size_t at = 0; at == 0 || at < text.size(); at += 1 << 20) chunks.push_back(text.substr(at, 1 << 20));
    return Upload(fence_, Sha256Hex(text), static_cast<int64_t>(text.size()), chunks);
  }
  absl::StatusOr<std::string> Download(const ham::v1::Fence& fence, const std::string& digest, int64_t offset = 0) {
    grpc::ClientContext context;
    SetBound(&context);
    SetToken(worker_->config(), &context);
    ham::v1::DownloadArtifactRequest request;
    *request.mutable_fence() = fence;
    request.set_digest(digest);
    request.set_offset(offset);
    const auto reader = worker_->stub()->DownloadArtifact(&context, request);
    std::string text;
    ham::v1::DownloadArtifactResponse response;
    while (reader->Read(&response)) text += response.data();
    const grpc::Status status = reader->Finish();
    if (!status.ok()) return FromGrpc(status);
    return text;
  }
  static std::string Manifest(int64_t iteration, const std::vector<std::string>& files) {
    std::string list;
    for (const std::string& file : files) {
      absl::StrAppend(&list, list.empty() ? "" : ",", "{\"sha256\":\"", Sha256Hex(file), "\"}");
    }
    return absl::StrCat("{\"iteration\":", iteration, ",\"epoch\":2,\"files\":[", list, "]}");
  }
  ham::v1::CommitCheckpointRequest CommitRequest(int64_t iteration, const std::vector<std::string>& files) {
    ham::v1::CommitCheckpointRequest request;
    *request.mutable_fence() = fence_;
    request.set_iteration(iteration);
    request.set_epoch(2);
    request.set_manifest_digest(Sha256Hex(Manifest(iteration, files)));
    for (const std::string& file : files) request.add_artifact_digests(Sha256Hex(file));
    return request;
  }
  absl::Status Commit(const ham::v1::CommitCheckpointRequest& request) {
    return Call(worker_->stub(), &Stub::CommitCheckpoint, request, worker_->config()).status();
  }
  // A whole checkpoint of `files`.
  void MustCommit(int64_t iteration, const std::vector<std::string>& files) {
    for (const std::string& file : files) ASSERT_TRUE(Upload(file).ok());
    ASSERT_TRUE(Upload(Manifest(iteration, files)).ok());
    const absl::Status status = Commit(CommitRequest(iteration, files));
    ASSERT_TRUE(status.ok()) << status;
  }

  TestServer server_;
  std::optional<Client> client_;
  std::optional<ScriptedWorker> worker_;
  std::string job_;
  ham::v1::Assignment rank_;
  ham::v1::Fence fence_;
};

TEST_F(ArtifactTest, KeepsAnUploadThatWasCutOffAndTakesTheRest) {
  const std::string text = std::string(1 << 20, 'a') + std::string(1 << 20, 'b') + "the rest";
  const std::string digest = Sha256Hex(text);
  const int64_t size = static_cast<int64_t>(text.size());
  EXPECT_EQ(Query(digest)->offset(), 0);
  EXPECT_FALSE(Upload(fence_, digest, size, {text.substr(0, 1 << 20)}).ok());  // too short
  ASSERT_TRUE(server_.Restart().ok());
  client_.emplace(server_);
  worker_.emplace(server_, "a");
  *worker_->registration.add_observed() = Observed(rank_, ObservedRank::RUNNING);
  ASSERT_TRUE(worker_->Connect().ok());
  EXPECT_FALSE(Query(digest)->complete());
  ASSERT_EQ(Query(digest)->offset(), 1 << 20);
  const absl::Status status =
      Upload(fence_, digest, size, {text.substr(1 << 20, 1 << 20), text.substr(2 << 20)}, 1 << 20);
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_TRUE(Query(digest)->complete());
  EXPECT_TRUE(Upload(text.substr(0, 10)).ok());
  EXPECT_TRUE(Upload(fence_, digest, size, {text.substr(0, 1 << 20)}).ok());  // complete: nothing to do
}

TEST_F(ArtifactTest, DropsAnUploadThatIsNotWhatItsDigestSays) {
  const std::string digest = Sha256Hex("truth");
  const absl::Status status = Upload(fence_, digest, 4, {"lies"});
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  EXPECT_EQ(Query(digest)->offset(), 0);
  EXPECT_TRUE(Upload("truth").ok());
  EXPECT_TRUE(Upload("").ok());  // an empty file is one too
}

TEST_F(ArtifactTest, RefusesUploadsOutOfBounds) {
  const std::string digest = Sha256Hex("text");
  const int64_t most = std::numeric_limits<int64_t>::max();
  EXPECT_TRUE(absl::IsInvalidArgument(Upload(fence_, "../../../etc/passwd", 4, {"text"})));
  EXPECT_TRUE(absl::IsInvalidArgument(Upload(fence_, digest.substr(1), 4, {"text"})));
  EXPECT_TRUE(absl::IsInvalidArgument(Upload(fence_, digest, -1, {"text"})));
  EXPECT_TRUE(absl::IsInvalidArgument(Upload(fence_, digest, most, {"text"})));
  EXPECT_TRUE(absl::IsInvalidArgument(Upload(fence_, digest, 3, {"text"})));
  EXPECT_TRUE(absl::IsInvalidArgument(Upload(fence_, digest, 4, {"text"}, -1)));
  EXPECT_TRUE(absl::IsInvalidArgument(Upload(fence_, digest, 4, {"text"}, most)));
  EXPECT_TRUE(absl::IsInvalidArgument(Upload(fence_, digest, 2 << 20, {std::string((1 << 20) + 1, 'x')})));
  EXPECT_TRUE(absl::IsInvalidArgument(Upload(fence_, digest, 4, {})));
  ham::v1::Fence stranger = fence_;
  stranger.set_attempt(2);
  EXPECT_TRUE(absl::IsAborted(Upload(stranger, digest, 4, {"text"})));
  EXPECT_EQ(Query(digest)->offset(), 0);
  EXPECT_TRUE(absl::IsInvalidArgument(Query(std::string(100000, 'x')).status()));
}

TEST_F(ArtifactTest, CommitsACheckpointOnceAllOfItIsHere) {
  const std::vector<std::string> files = {"weights", "optimiser"};
  EXPECT_TRUE(absl::IsFailedPrecondition(Commit(CommitRequest(10, files))));
  ASSERT_TRUE(Upload(Manifest(10, files)).ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(Commit(CommitRequest(10, files))));
  ASSERT_TRUE(Upload(files[0]).ok());
  const absl::Status missing = Commit(CommitRequest(10, files));
  EXPECT_TRUE(absl::IsFailedPrecondition(missing)) << missing;
  EXPECT_THAT(std::string(missing.message()), HasSubstr(Sha256Hex(files[1])));
  EXPECT_FALSE(client_->Get(job_)->has_checkpoint());
  ASSERT_TRUE(Upload(files[1]).ok());
  ham::v1::CommitCheckpointRequest request = CommitRequest(10, files);
  request.mutable_artifact_digests()->RemoveLast();
  EXPECT_TRUE(absl::IsInvalidArgument(Commit(request)));
  request = CommitRequest(10, files);
  request.set_iteration(11);
  EXPECT_TRUE(absl::IsInvalidArgument(Commit(request)));
  request = CommitRequest(10, files);
  request.mutable_fence()->set_attempt(2);
  EXPECT_TRUE(absl::IsAborted(Commit(request)));
  request = CommitRequest(10, files);
  request.set_manifest_digest(Sha256Hex(files[0]));  // here, and no manifest
  EXPECT_TRUE(absl::IsInvalidArgument(Commit(request)));

  ASSERT_TRUE(Commit(CommitRequest(10, files)).ok());
  const ham::v1::Checkpoint checkpoint = client_->Get(job_)->checkpoint();
  EXPECT_EQ(checkpoint.iteration(), 10);
  EXPECT_EQ(checkpoint.epoch(), 2);
  EXPECT_EQ(checkpoint.attempt(), 1);
  EXPECT_EQ(checkpoint.manifest_digest(), Sha256Hex(Manifest(10, files)));
  EXPECT_TRUE(Commit(CommitRequest(10, files)).ok());  // its answer was lost
  const std::vector<ham::v1::JobRecord> log = client_->Log(job_);
  ASSERT_EQ(log.size(), 4u);
  EXPECT_EQ(log[3].event().reason(), "CHECKPOINT_COMMITTED");
  EXPECT_EQ(log[3].event().actor(), "a");
  EXPECT_EQ(log[3].event().from_state(), Job::RUNNING);
  EXPECT_EQ(log[3].event().to_state(), Job::RUNNING);
}

TEST_F(ArtifactTest, GivesTheNextAttemptItsCheckpointAndNothingElse) {
  const std::vector<std::string> files = {std::string(3 << 20, 'w'), "optimiser"};
  MustCommit(10, files);
  const std::string secret = "of another job";
  ASSERT_TRUE(Upload(secret).ok());
  worker_->Beat({Exited(rank_, false)});
  const auto next = worker_->Take(job_, ObservedRank::STARTING, 2);
  ASSERT_TRUE(next);
  EXPECT_EQ(next->checkpoint().iteration(), 10);
  const std::string manifest = next->checkpoint().manifest_digest();
  const ham::v1::Fence fence = worker_->FenceOf(job_, 2);
  EXPECT_EQ(*Download(fence, manifest), Manifest(10, files));
  EXPECT_TRUE(*Download(fence, Sha256Hex(files[0])) == files[0]);
  EXPECT_EQ(*Download(fence, Sha256Hex(files[1]), 5), "iser");
  EXPECT_EQ(*Download(fence, Sha256Hex(files[1]), 500), "");
  EXPECT_TRUE(absl::IsInvalidArgument(Download(fence, manifest, -1).status()));
  for (const std::string& digest :
       {Sha256Hex(secret), Sha256Hex("never seen"), std::string(), std::string("../x"), std::string(100000, '%')}) {
    const absl::Status status = Download(fence, digest).status();
    EXPECT_TRUE(absl::IsPermissionDenied(status)) << digest.substr(0, 70) << status;
  }
  EXPECT_TRUE(absl::IsAborted(Download(fence_, manifest).status()));  // of the attempt before
  const std::string other = client_->MustCreate(3);                   // waits: it has no fence at all
  EXPECT_TRUE(absl::IsAborted(Download(worker_->FenceOf(other, 1), manifest).status()));
}

TEST_F(ArtifactTest, GivesAnAttemptWithoutCheckpointNothing) {
  ASSERT_TRUE(Upload("file").ok());
  const absl::Status status = Download(fence_, Sha256Hex("file")).status();
  EXPECT_TRUE(absl::IsPermissionDenied(status)) << status;
  EXPECT_TRUE(absl::IsInvalidArgument(Download(fence_, "").status()));
}

TEST_F(ArtifactTest, GoesOnFromTheCheckpointBeforeADamagedOne) {
  MustCommit(10, {"old weights"});
  MustCommit(20, {"weights", "state"});
  const std::string path =
      server_.StatePath("artifacts/" + Sha256Hex("weights").substr(0, 2) + "/" + Sha256Hex("weights"));
  ASSERT_EQ(ReadTestFile(path), "weights");
  WriteTestFile(path, "weighty");
  worker_->Beat({Exited(rank_, false)});
  auto next = worker_->Take(job_, ObservedRank::STARTING, 2);
  ASSERT_TRUE(next);
  EXPECT_EQ(next->checkpoint().iteration(), 20);
  const ham::v1::Fence fence = worker_->FenceOf(job_, 2);
  EXPECT_EQ(*Download(fence, Sha256Hex("state")), "state");
  const absl::Status damaged = Download(fence, Sha256Hex("weights")).status();
  EXPECT_TRUE(absl::IsDataLoss(damaged)) << damaged;
  ASSERT_TRUE(worker_->WaitForAssignments(0));
  worker_->Beat({});
  next = worker_->Take(job_, ObservedRank::STARTING, 3);
  ASSERT_TRUE(next);
  EXPECT_EQ(next->checkpoint().iteration(), 10);
  EXPECT_EQ(*Download(worker_->FenceOf(job_, 3), Sha256Hex("old weights")), "old weights");
  std::vector<std::string> reasons;
  for (const ham::v1::JobRecord& record : client_->Log(job_)) reasons.push_back(record.event().reason());
  EXPECT_EQ(std::count(reasons.begin(), reasons.end(), "CHECKPOINT_DAMAGED"), 1);
  // It can come again, and what was wrong lies aside.
  EXPECT_FALSE(Query(Sha256Hex("weights"))->complete());
  EXPECT_EQ(ReadTestFile(server_.StatePath("artifacts/damaged/" + Sha256Hex("weights"))), "weighty");
  // A missing one is no better.
  const std::string manifest = next->checkpoint().manifest_digest();
  std::filesystem::remove(server_.StatePath("artifacts/" + manifest.substr(0, 2) + "/" + manifest));
  EXPECT_TRUE(absl::IsDataLoss(Download(worker_->FenceOf(job_, 3), manifest).status()));
  ASSERT_TRUE(worker_->WaitForAssignments(0));
  worker_->Beat({});
  next = worker_->Take(job_, ObservedRank::RUNNING, 4);
  ASSERT_TRUE(next);
  EXPECT_FALSE(next->has_checkpoint());
}

// A worker that goes on with a download sends what it has to nobody: the coordinator checks that part too.
TEST_F(ArtifactTest, ADamagedBeginningIsFoundWhenTheRestIsAskedFor) {
  MustCommit(10, {"weights"});
  worker_->Beat({Exited(rank_, false)});
  ASSERT_TRUE(worker_->Take(job_, ObservedRank::STARTING, 2));
  WriteTestFile(server_.StatePath("artifacts/" + Sha256Hex("weights").substr(0, 2) + "/" + Sha256Hex("weights")),
                "Weights");
  EXPECT_TRUE(absl::IsDataLoss(Download(worker_->FenceOf(job_, 2), Sha256Hex("weights"), 3).status()));
}

// The job goes on, and so does the upload once there is room.
TEST_F(ArtifactTest, SaysThatItsDiskIsFullWhileTheJobGoesOn) {
  const std::string text(3 << 20, 'w');
  {
    const FullDisk full((1 << 20) + 500);
    const absl::Status status = Upload(text);
    EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("make room there"));
    worker_->Beat({Observed(rank_, ObservedRank::RUNNING)});
    EXPECT_EQ(client_->Get(job_)->state(), Job::RUNNING);
    EXPECT_TRUE(Upload("a small one").ok());
  }
  const int64_t held = Query(Sha256Hex(text))->offset();
  EXPECT_EQ(held, (1 << 20) + 500);
  const std::string rest = text.substr(static_cast<size_t>(held));
  const absl::Status status = Upload(fence_, Sha256Hex(text), static_cast<int64_t>(text.size()),
                                     {rest.substr(0, 1 << 20), rest.substr(1 << 20)}, held);
  EXPECT_TRUE(status.ok()) << status;
}

TEST_F(ArtifactTest, RefusesUploadsBeyondItsQuotaInWords) {
  server_.options.artifact_quota = 2 << 20;
  ASSERT_TRUE(server_.Restart().ok());
  client_.emplace(server_);
  worker_.emplace(server_, "a");
  *worker_->registration.add_observed() = Observed(rank_, ObservedRank::RUNNING);
  ASSERT_TRUE(worker_->Connect().ok());
  const absl::Status status = Upload(std::string(3 << 20, 'w'));
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("--artifact-quota"));
  EXPECT_EQ(client_->Get(job_)->state(), Job::RUNNING);
}

// From three checkpoints on the first goes, and what it shares with others stays.
TEST_F(ArtifactTest, WhatANewerCheckpointReleasedIsRemoved) {
  server_.options.limits.artifact_sweep = absl::Milliseconds(5);
  server_.options.limits.released_artifact_life = absl::ZeroDuration();
  ASSERT_TRUE(server_.Restart().ok());
  client_.emplace(server_);
  worker_.emplace(server_, "a");
  *worker_->registration.add_observed() = Observed(rank_, ObservedRank::RUNNING);
  ASSERT_TRUE(worker_->Connect().ok());
  MustCommit(10, {"weights 10", "shared"});
  MustCommit(20, {"weights 20", "shared"});
  const auto is_there = [this](const std::string& text) {
    return std::filesystem::exists(
        server_.StatePath("artifacts/" + Sha256Hex(text).substr(0, 2) + "/" + Sha256Hex(text)));
  };
  EXPECT_TRUE(is_there("weights 10"));
  MustCommit(30, {"weights 30", "shared"});
  EXPECT_TRUE(Eventually([&] { return !is_there("weights 10"); }));
  for (const char* text : {"weights 20", "weights 30", "shared"}) EXPECT_TRUE(is_there(text)) << text;
}

TEST_F(ArtifactTest, ResetsTheCountOfFailuresWithEachCheckpoint) {
  for (int attempt = 1; attempt <= 3; ++attempt) {
    MustCommit(attempt, {absl::StrCat("weights ", attempt)});
    EXPECT_EQ(client_->Get(job_)->checkpoint().attempt(), attempt);
    worker_->Beat({Exited(rank_, false)});
    const auto next = worker_->Take(job_, ObservedRank::RUNNING, attempt + 1);  // at once: no backoff
    ASSERT_TRUE(next);
    rank_ = *next;
    fence_ = worker_->FenceOf(job_, rank_.attempt());
    ASSERT_TRUE(client_->WaitForState(job_, Job::RUNNING).ok());
  }
}

}  // namespace
}  // namespace ham::testing
