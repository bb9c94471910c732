#include "worker/agent/artifact_transfer.h"

#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "proto/sha256.h"
#include "tests/agent/scripted_coordinator.h"
#include "tests/support/temporary_directory.h"

namespace ham::agent {
namespace {

namespace fs = std::filesystem;
using ham::testing::ReadTestFile;
using ham::testing::ScriptedCoordinator;
using ham::testing::TemporaryDirectory;
using ham::testing::WriteTestFile;
using nlohmann::json;

constexpr int64_t kChunk = 1 << 20;

std::string Bytes(size_t size, int first) {
  std::string bytes(size, '\0');
  for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<char>(first + static_cast<int>(i / 1000));
  return bytes;
}

class ArtifactTransferTest : public ::testing::Test {
 protected:
  ArtifactTransferTest() : coordinator_(folder_ / "artifacts") {
    coordinator_.Start();
    config_ = coordinator_.connection();
    peer_.stub = ham::v1::WorkerService::NewStub(MakeChannel(config_, 0, "test"));
    peer_.config = &config_;
    peer_.fence.set_job("projects/default/jobs/j");
    peer_.fence.set_attempt(3);
    peer_.cancel = &cancel_;
    WriteCheckpoint({{"weights", weights_}, {"state", state_}});
  }

  void WriteCheckpoint(const std::vector<std::pair<std::string, std::string>>& files) {
    json manifest = {{"iteration", 10}, {"epoch", 2}, {"files", json::array()}};
    for (const auto& [name, bytes] : files) {
      WriteTestFile(folder_ / "checkpoint/" + name, bytes);
      manifest["files"].push_back({{"name", name}, {"sha256", Sha256Hex(bytes)}, {"bytes", bytes.size()}});
    }
    manifest_text_ = manifest.dump();
    WriteTestFile(manifest_, manifest_text_);
  }
  absl::Status Upload() { return UploadCheckpoint(peer_, manifest_, 10, 2); }
  absl::StatusOr<std::string> Download() {
    ham::v1::Checkpoint checkpoint;
    checkpoint.set_manifest_digest(Sha256Hex(manifest_text_));
    return DownloadCheckpoint(peer_, checkpoint, folder_ / "resume");
  }
  void Hold(const std::string& content_of, const std::string& bytes) {
    ASSERT_TRUE(coordinator_.artifacts()->Put(Sha256Hex(content_of), 0, bytes).ok());
  }
  bool Complete(const std::string& bytes) { return coordinator_.artifacts()->Query(Sha256Hex(bytes))->complete; }
  int64_t AllBytes() const { return static_cast<int64_t>(weights_.size() + state_.size() + manifest_text_.size()); }

  const TemporaryDirectory folder_;
  const std::string weights_ = Bytes(3 * kChunk + 500, 1);
  const std::string state_ = Bytes(700, 2);
  const std::string manifest_ = folder_ / "checkpoint/manifest.json";
  std::string manifest_text_;
  ScriptedCoordinator coordinator_;
  ConnectionConfig config_;
  CallCancel cancel_;
  TransferPeer peer_;
};

TEST_F(ArtifactTransferTest, UploadsFilesThenManifestAndCommits) {
  const absl::Status status = Upload();
  ASSERT_TRUE(status.ok()) << status;
  for (const std::string& bytes : {weights_, state_, manifest_text_}) EXPECT_TRUE(Complete(bytes));
  const auto seen = coordinator_.seen();
  EXPECT_EQ(seen.uploaded_bytes, AllBytes());
  ASSERT_EQ(seen.commits.size(), 1);
  EXPECT_EQ(seen.commits[0].manifest_digest(), Sha256Hex(manifest_text_));
  EXPECT_EQ(seen.commits[0].iteration(), 10);
  EXPECT_EQ(seen.commits[0].epoch(), 2);
  EXPECT_EQ(seen.commits[0].fence().attempt(), 3);
  ASSERT_EQ(seen.commits[0].artifact_digests_size(), 2);
  EXPECT_EQ(seen.commits[0].artifact_digests(0), Sha256Hex(weights_));
  EXPECT_EQ(seen.commits[0].artifact_digests(1), Sha256Hex(state_));
}

TEST_F(ArtifactTransferTest, SendsNothingTwice) {
  ASSERT_TRUE(Upload().ok());
  ASSERT_TRUE(Upload().ok());
  EXPECT_EQ(coordinator_.seen().uploaded_bytes, AllBytes());
  EXPECT_EQ(coordinator_.seen().commits.size(), 2);
}

TEST_F(ArtifactTransferTest, GoesOnWhereTheStoreIs) {
  Hold(weights_, weights_.substr(0, 2 * kChunk + 7));
  Hold(state_, state_);  // all is there, but nobody has asked to check and keep it
  ASSERT_TRUE(Upload().ok());
  EXPECT_TRUE(Complete(weights_));
  EXPECT_TRUE(Complete(state_));
  EXPECT_EQ(coordinator_.seen().uploaded_bytes, AllBytes() - (2 * kChunk + 7) - static_cast<int64_t>(state_.size()));
}

TEST_F(ArtifactTransferTest, AnEmptyFileIsAFile) {
  WriteCheckpoint({{"empty", ""}});
  ASSERT_TRUE(Upload().ok());
  EXPECT_TRUE(Complete(""));
  ASSERT_TRUE(Download().ok());
  EXPECT_TRUE(fs::exists(folder_ / "resume/empty"));
}

// A broken try of this agent, or an older attempt, still writes the same bytes.
TEST_F(ArtifactTransferTest, GoesOnWhenAnotherWriterMovedTheOffset) {
  std::atomic<bool> first = true;
  coordinator_.Change([&](ScriptedCoordinator::Script* script) {
    script->on_chunk = [&](const ham::v1::UploadArtifactRequest& chunk) {
      if (chunk.data().size() == static_cast<size_t>(kChunk) && first.exchange(false)) {
        EXPECT_TRUE(coordinator_.artifacts()->Put(Sha256Hex(weights_), 0, weights_.substr(0, kChunk + 99)).ok());
      }
      return grpc::Status::OK;
    };
  });
  const absl::Status status = Upload();
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_TRUE(Complete(weights_));
  EXPECT_EQ(coordinator_.seen().commits.size(), 1);
}

TEST_F(ArtifactTransferTest, TwoWritersOfOneArtifactBothCommit) {
  absl::Status other;
  std::thread thread([&] { other = Upload(); });
  absl::Status status = Upload();
  // Where they meet again and again, one may be told to try later.
  while (MayPass(status)) status = Upload();
  thread.join();
  while (MayPass(other)) other = Upload();
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_TRUE(other.ok()) << other;
  EXPECT_TRUE(Complete(weights_));
  EXPECT_EQ(coordinator_.seen().commits.size(), 2);
}

TEST_F(ArtifactTransferTest, SendsAllAgainWhenTheStoreHoldsOtherBytes) {
  Hold(weights_, std::string(weights_.size() - 10, 'x'));
  Hold(state_, std::string(state_.size() + 10, 'x'));  // more than there should be
  const absl::Status status = Upload();
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_TRUE(Complete(weights_));
  EXPECT_TRUE(Complete(state_));
}

TEST_F(ArtifactTransferTest, AWriterThatIsAlwaysInTheWayIsForALaterTry) {
  coordinator_.Change([&](ScriptedCoordinator::Script* script) {
    script->on_chunk = [&](const ham::v1::UploadArtifactRequest&) {
      return grpc::Status(grpc::StatusCode::OUT_OF_RANGE, "holds 5 bytes, not 7");
    };
  });
  const absl::Status status = Upload();
  EXPECT_TRUE(MayPass(status)) << status;
  EXPECT_NE(status.message().find("holds 5 bytes"), std::string::npos) << status;
}

TEST_F(ArtifactTransferTest, FencedIsForGood) {
  std::atomic<int> chunks = 0;
  coordinator_.Change([&](ScriptedCoordinator::Script* script) {
    script->on_chunk = [&](const ham::v1::UploadArtifactRequest&) {
      ++chunks;
      return grpc::Status(grpc::StatusCode::ABORTED, "attempt 3 is not current");
    };
  });
  const absl::Status status = Upload();
  EXPECT_TRUE(absl::IsAborted(status)) << status;
  EXPECT_FALSE(MayPass(status));
  EXPECT_EQ(chunks, 1);
}

TEST_F(ArtifactTransferTest, AFullStoreMayPass) {
  coordinator_.Change([&](ScriptedCoordinator::Script* script) {
    script->on_chunk = [](const ham::v1::UploadArtifactRequest&) {
      return grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "disk full");
    };
  });
  EXPECT_TRUE(MayPass(Upload()));
  coordinator_.Stop();
  EXPECT_TRUE(MayPass(Upload()));
}

TEST_F(ArtifactTransferTest, AChangedOrMissingFileIsNamed) {
  std::string other = weights_;
  other[5] ^= 1;
  WriteTestFile(folder_ / "checkpoint/weights", other);
  absl::Status status = Upload();
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  EXPECT_NE(status.message().find("checkpoint/weights"), std::string::npos) << status;
  WriteTestFile(folder_ / "checkpoint/weights", weights_.substr(0, 5));
  status = Upload();
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  fs::remove(folder_ / "checkpoint/weights");
  status = Upload();
  EXPECT_TRUE(absl::IsNotFound(status)) << status;
  EXPECT_NE(status.message().find("checkpoint/weights"), std::string::npos) << status;
  EXPECT_TRUE(coordinator_.seen().commits.empty());
}

TEST_F(ArtifactTransferTest, AWrongManifestIsRefusedBeforeAnythingIsSent) {
  const std::string digest = Sha256Hex("x");
  for (const std::string& text :
       {std::string(""), std::string("{}"), std::string(R"({"files":7})"), std::string(R"({"files":[7]})"),
        std::string(R"({"files":[{"name":"a","sha256":"b","bytes":1}]})"),
        absl::StrCat(R"({"files":[{"name":"../a","sha256":")", digest, R"(","bytes":1}]})"),
        absl::StrCat(R"({"files":[{"name":"/etc/passwd","sha256":")", digest, R"(","bytes":1}]})"),
        absl::StrCat(R"({"files":[{"name":"","sha256":")", digest, R"(","bytes":1}]})"),
        absl::StrCat(R"({"files":[{"name":"manifest.json","sha256":")", digest, R"(","bytes":1}]})"),
        absl::StrCat(R"({"files":[{"name":"a","sha256":")", digest, R"(","bytes":-1}]})"),
        absl::StrCat(R"({"files":[{"name":"a","sha256":")", digest, R"(","bytes":null}]})"),
        std::string(5 << 20, ' ')}) {
    WriteTestFile(manifest_, text);
    EXPECT_TRUE(absl::IsInvalidArgument(Upload())) << text.substr(0, 100);
  }
  fs::remove(manifest_);
  EXPECT_TRUE(absl::IsNotFound(Upload()));
  EXPECT_EQ(coordinator_.seen().uploaded_bytes, 0);
}

TEST_F(ArtifactTransferTest, DownloadsWhatWasUploaded) {
  ASSERT_TRUE(Upload().ok());
  const absl::StatusOr<std::string> manifest = Download();
  ASSERT_TRUE(manifest.ok()) << manifest.status();
  EXPECT_EQ(*manifest, folder_ / "resume/manifest.json");
  EXPECT_EQ(ReadTestFile(*manifest), manifest_text_);
  EXPECT_EQ(ReadTestFile(folder_ / "resume/weights"), weights_);
  EXPECT_EQ(ReadTestFile(folder_ / "resume/state"), state_);
}

TEST_F(ArtifactTransferTest, ABrokenDownloadGoesOnWhereItEnded) {
  ASSERT_TRUE(Upload().ok());
  std::atomic<int> chunks = 0;
  coordinator_.Change([&](ScriptedCoordinator::Script* script) {
    script->on_download = [&](ham::v1::DownloadArtifactResponse*) {
      return ++chunks == 4 ? grpc::Status(grpc::StatusCode::UNAVAILABLE, "cut") : grpc::Status::OK;
    };
  });
  const absl::Status cut = Download().status();
  EXPECT_TRUE(MayPass(cut)) << cut;
  const absl::StatusOr<std::string> manifest = Download();
  ASSERT_TRUE(manifest.ok()) << manifest.status();
  EXPECT_EQ(ReadTestFile(folder_ / "resume/weights"), weights_);
  // The manifest, the weights in two parts, the state.
  EXPECT_EQ(coordinator_.seen().download_offsets, (std::vector<int64_t>{0, 0, 2 * kChunk, 0}));
}

TEST_F(ArtifactTransferTest, OtherBytesAreDataLossAndNotKept) {
  ASSERT_TRUE(Upload().ok());
  coordinator_.Change([&](ScriptedCoordinator::Script* script) {
    script->on_download = [](ham::v1::DownloadArtifactResponse* response) {
      if (response->data().size() == static_cast<size_t>(kChunk)) response->mutable_data()->at(7) ^= 1;
      return grpc::Status::OK;
    };
  });
  const absl::Status status = Download().status();
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  EXPECT_NE(status.message().find(Sha256Hex(weights_)), std::string::npos) << status;
  coordinator_.Change([](ScriptedCoordinator::Script* script) { script->on_download = nullptr; });
  ASSERT_TRUE(Download().ok());
  EXPECT_EQ(ReadTestFile(folder_ / "resume/weights"), weights_);
}

TEST_F(ArtifactTransferTest, MoreBytesThanThereShouldBeAreDataLoss) {
  ASSERT_TRUE(Upload().ok());
  coordinator_.Change([&](ScriptedCoordinator::Script* script) {
    script->on_download = [](ham::v1::DownloadArtifactResponse* response) {
      if (response->data().size() > 600) *response->mutable_data() += "more";
      return grpc::Status::OK;
    };
  });
  EXPECT_TRUE(absl::IsDataLoss(Download().status()));
}

TEST_F(ArtifactTransferTest, WeightsGoOnWhereTheyEndedAndAreHeldAgainstTheirDigest) {
  ASSERT_TRUE(Upload().ok());
  std::atomic<int> chunks = 0;
  coordinator_.Change([&](ScriptedCoordinator::Script* script) {
    script->on_download = [&](ham::v1::DownloadArtifactResponse* response) {
      ++chunks;
      if (chunks == 3) return grpc::Status(grpc::StatusCode::UNAVAILABLE, "cut");
      if (chunks == 4) response->mutable_data()->at(0) ^= 1;
      return grpc::Status::OK;
    };
  });
  const std::string path = folder_ / "weights.safetensors", digest = Sha256Hex(weights_);
  EXPECT_TRUE(MayPass(DownloadWeights(peer_, digest, path)));
  EXPECT_TRUE(absl::IsDataLoss(DownloadWeights(peer_, digest, path)));
  EXPECT_FALSE(fs::exists(path));
  EXPECT_TRUE(DownloadWeights(peer_, digest, path).ok());
  EXPECT_EQ(ReadTestFile(path), weights_);
  EXPECT_EQ(coordinator_.seen().download_offsets, (std::vector<int64_t>{0, 2 * kChunk, 0}));
  EXPECT_TRUE(absl::IsNotFound(DownloadWeights(peer_, Sha256Hex("never uploaded"), folder_ / "other")));
}

TEST_F(ArtifactTransferTest, ADiskThatTakesNothingIsNotWaitedFor) {
  ASSERT_TRUE(Upload().ok());
  const absl::Status status = DownloadWeights(peer_, Sha256Hex(weights_), folder_ / "missing/weights");
  EXPECT_FALSE(MayPass(status)) << status;
  EXPECT_NE(status.message().find("cannot write"), std::string_view::npos) << status;
}

TEST_F(ArtifactTransferTest, AMissingCheckpointIsNotFound) { EXPECT_TRUE(absl::IsNotFound(Download().status())); }

TEST_F(ArtifactTransferTest, CancelEndsARunningUploadSoon) {
  absl::Notification entered;
  absl::Notification release;
  coordinator_.Change([&](ScriptedCoordinator::Script* script) {
    script->on_chunk = [&](const ham::v1::UploadArtifactRequest&) {
      if (!entered.HasBeenNotified()) entered.Notify();
      release.WaitForNotification();
      return grpc::Status::OK;
    };
  });
  absl::Status status;
  std::thread thread([&] { status = Upload(); });
  entered.WaitForNotification();
  cancel_.Cancel();
  thread.join();  // while the store still holds the call
  release.Notify();
  coordinator_.Stop();  // its calls use what stands here
  EXPECT_TRUE(absl::IsCancelled(status)) << status;
  EXPECT_TRUE(absl::IsCancelled(Upload()));
  EXPECT_TRUE(absl::IsCancelled(Download().status()));
}

TEST_F(ArtifactTransferTest, CancelEndsARunningQueryAndDownloadSoon) {
  ASSERT_TRUE(Upload().ok());
  absl::Notification query_entered;
  absl::Notification download_entered;
  absl::Notification release;
  coordinator_.Change([&](ScriptedCoordinator::Script* script) {
    script->on_query = [&] {
      query_entered.Notify();
      release.WaitForNotification();
    };
    script->on_download = [&](ham::v1::DownloadArtifactResponse*) {
      download_entered.Notify();
      release.WaitForNotification();
      return grpc::Status::OK;
    };
  });
  absl::Status uploaded;
  absl::Status downloaded;
  std::thread upload([&] { uploaded = Upload(); });
  std::thread download([&] { downloaded = Download().status(); });
  query_entered.WaitForNotification();
  download_entered.WaitForNotification();
  cancel_.Cancel();
  upload.join();
  download.join();
  release.Notify();
  coordinator_.Stop();  // its calls use what stands here
  EXPECT_TRUE(absl::IsCancelled(uploaded)) << uploaded;
  EXPECT_TRUE(absl::IsCancelled(downloaded)) << downloaded;
}

}  // namespace
}  // namespace ham::agent
