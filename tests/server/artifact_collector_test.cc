// What goes, and when: artifacts that a newer checkpoint released, and those that nobody named.
#include "server/artifact_collector.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <optional>

#include "absl/time/clock.h"
#include "tests/server/state_fixture.h"

namespace ham::server {
namespace {

class ArtifactCollectorTest : public StateTest {
 protected:
  void SetUp() override {
    StateTest::SetUp();
    store_ = OpenStore(state_);
    jobs_ = store_->Load()->jobs;
    const auto rows = [this]() -> absl::StatusOr<std::vector<JobRow>> {
      if (!readable_.ok()) return readable_;
      return jobs_;
    };
    collector_.emplace(Limits(), artifacts_.get(), rows,
                       [this](const std::string& job) { return store_->GetContent(job); });
  }
  bool Has(const std::string& text) { return artifacts_->Query(Sha256Hex(text))->complete; }
  JobRow& Training() {
    for (JobRow& row : jobs_) {
      if (row.checkpoint) return row;
    }
    return jobs_.front();
  }
  // As if it had been there for `age`.
  static absl::Time After(absl::Duration age) { return absl::Now() + age; }

  std::unique_ptr<JobStore> store_;
  std::vector<JobRow> jobs_;
  absl::Status readable_;
  std::optional<ArtifactCollector> collector_;
};

TEST_F(ArtifactCollectorTest, WhatANewerCheckpointReleasedGoesSoon) {
  ASSERT_EQ(*collector_->Sweep(After(absl::Minutes(3))), 0);
  EXPECT_TRUE(Has("named by nobody"));
  // A third checkpoint, which has one file with the first in common.
  Training().older_checkpoints = {*Training().checkpoint};
  Training().checkpoint = PutCheckpoint(30, {"new weights", "old state"});
  ASSERT_EQ(*collector_->Sweep(After(absl::Minutes(1))), 0);  // somebody may be about to use it
  EXPECT_TRUE(Has("old weights"));
  EXPECT_GT(*collector_->Sweep(After(absl::Minutes(3))), 0);
  EXPECT_FALSE(Has("old weights"));
  for (const char* text :
       {"old state", "weights", "state", "new weights", "the record", "given weights", "named by nobody"}) {
    EXPECT_TRUE(Has(text)) << text;
  }
  EXPECT_EQ(*collector_->Sweep(After(absl::Minutes(3))), 0);
}

TEST_F(ArtifactCollectorTest, WhatWasNamedBetweenTwoSweepsGoesSoonToo) {
  const std::set<std::string> digests = {PutArtifact("named for a moment")};
  collector_->NoteNamed(digests);
  EXPECT_EQ(*collector_->Sweep(After(absl::Minutes(1))), 0);
  EXPECT_EQ(*collector_->Sweep(After(absl::Minutes(3))), 18);
}

TEST_F(ArtifactCollectorTest, WhatNobodyNamedGoesADayAfterItWasAskedFor) {
  ASSERT_TRUE(artifacts_->Put(Sha256Hex("half an upload"), 0, "half").ok());
  EXPECT_EQ(*collector_->Sweep(After(absl::Hours(23))), 0);
  EXPECT_TRUE(Has("named by nobody"));
  EXPECT_EQ(artifacts_->Query(Sha256Hex("half an upload"))->offset, 4);
  EXPECT_EQ(*collector_->Sweep(After(absl::Hours(25))), 15 + 4);
  EXPECT_FALSE(Has("named by nobody"));
  EXPECT_EQ(artifacts_->Query(Sha256Hex("half an upload"))->offset, 0);
  EXPECT_EQ(artifacts_->List()->size(), 8u);
}

TEST_F(ArtifactCollectorTest, AskingForAnArtifactRenewsItsTime) {
  const std::string path = ArtifactPath(state_ + "/artifacts", Sha256Hex("named by nobody"));
  std::filesystem::last_write_time(path, std::filesystem::file_time_type::clock::now() - std::chrono::hours(48));
  EXPECT_TRUE(Has("named by nobody"));
  EXPECT_EQ(*collector_->Sweep(absl::Now()), 0);
  std::filesystem::last_write_time(path, std::filesystem::file_time_type::clock::now() - std::chrono::hours(48));
  EXPECT_EQ(*collector_->Sweep(absl::Now()), 15);
}

TEST_F(ArtifactCollectorTest, RemovesNothingWhileRowsOrManifestsCannotBeRead) {
  readable_ = absl::UnavailableError("the coordinator stops");
  EXPECT_TRUE(absl::IsUnavailable(collector_->Sweep(After(absl::Hours(25))).status()));
  readable_ = absl::OkStatus();
  const std::string path = ArtifactPath(state_ + "/artifacts", Training().checkpoint->manifest_digest());
  std::filesystem::rename(path, path + ".aside");
  std::filesystem::create_directory(path);  // can be opened and not read
  EXPECT_TRUE(absl::IsUnavailable(collector_->Sweep(After(absl::Hours(25))).status()));
  EXPECT_TRUE(Has("named by nobody"));
  EXPECT_TRUE(Has("weights"));
}

TEST_F(ArtifactCollectorTest, WhatADamagedManifestOrRowNamedMayBeAnything) {
  const std::string path = ArtifactPath(state_ + "/artifacts", Training().checkpoint->manifest_digest());
  const std::string manifest = ham::testing::ReadTestFile(path);
  ham::testing::WriteTestFile(path, "{}");
  EXPECT_EQ(*collector_->Sweep(After(absl::Hours(25))), 0);
  EXPECT_TRUE(Has("weights")) << "they are whole";
  ham::testing::WriteTestFile(path, manifest);
  JobRow& damaged = jobs_.emplace_back();
  damaged.name = "projects/default/jobs/damaged";
  damaged.state_reason = kRowDamaged;
  EXPECT_EQ(*collector_->Sweep(After(absl::Hours(25))), 0);
  EXPECT_TRUE(Has("named by nobody"));
  jobs_.pop_back();
  EXPECT_GT(*collector_->Sweep(After(absl::Hours(25))), 0);
  EXPECT_FALSE(Has("named by nobody"));
  EXPECT_TRUE(Has("weights"));
}

TEST_F(ArtifactCollectorTest, WhatWasDroppedAsDamagedIsNotReleased) {
  ASSERT_EQ(*collector_->Sweep(After(absl::Minutes(3))), 0);
  collector_->NoteDamage();
  Training().older_checkpoints.clear();
  Training().checkpoint.reset();
  ASSERT_EQ(*collector_->Sweep(After(absl::Minutes(3))), 0);
  EXPECT_TRUE(Has("weights"));
}

TEST_F(ArtifactCollectorTest, StopsAtOnce) {
  collector_->Start();
  collector_->Shutdown();
  collector_->Shutdown();
}

// ---- the quota ---------------------------------------------------------------------------------------------

TEST_F(ArtifactCollectorTest, TheQuotaRefusesUploadsInWordsUntilThereIsRoom) {
  const int64_t held = [this] {
    int64_t bytes = 0;
    const absl::StatusOr<std::vector<ArtifactStore::Item>> items = artifacts_->List();
    for (const ArtifactStore::Item& item : *items) bytes += item.bytes;
    return bytes;
  }();
  const auto bounded = OpenArtifactDirectory(state_ + "/artifacts", held + 10);
  ASSERT_TRUE((*bounded)->Put(Sha256Hex("0123456789"), 0, "01234567").ok());
  const absl::Status full = (*bounded)->Put(Sha256Hex("0123456789"), 8, "xyz");
  EXPECT_TRUE(absl::IsResourceExhausted(full)) << full;
  EXPECT_EQ(full.message(), absl::StrCat("the coordinator holds ", held + 8, " of at most ", held + 10,
                                         " bytes of artifacts, and 3 more do not fit: raise --artifact-quota or lower "
                                         "--keep-checkpoints there"));
  EXPECT_EQ((*bounded)->Query(Sha256Hex("0123456789"))->offset, 8);
  ASSERT_TRUE((*bounded)->Put(Sha256Hex("0123456789"), 8, "89").ok());
  ASSERT_TRUE((*bounded)->Commit(Sha256Hex("0123456789"), 10).ok());
  EXPECT_TRUE(absl::IsResourceExhausted((*bounded)->Put(Sha256Hex("more"), 0, "more")));
  EXPECT_EQ(*(*bounded)->RemoveIf([](const auto& item) { return item.digest == Sha256Hex("named by nobody"); }), 15);
  EXPECT_TRUE((*bounded)->Put(Sha256Hex("more"), 0, "more").ok());
  // An upload that is dropped makes room too.
  EXPECT_TRUE(absl::IsResourceExhausted((*bounded)->Put(Sha256Hex("right"), 0, "twelve bytes")));
  EXPECT_TRUE(absl::IsDataLoss((*bounded)->Commit(Sha256Hex("more"), 3)));
  EXPECT_TRUE((*bounded)->Put(Sha256Hex("right"), 0, "twelve bytes").ok());
}

}  // namespace
}  // namespace ham::server
