// Artifacts and backups in every state in which a loss of power may leave them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <optional>
#include <random>

#include "absl/strings/str_cat.h"
#include "proto/sha256.h"
#include "server/artifact_store.h"
#include "server/backup.h"
#include "server/backup_manifest.h"
#include "tests/server/state_fixture.h"
#include "tests/support/recorded_disk.h"

namespace ham::server {
namespace {

namespace fs = std::filesystem;
using ham::testing::RecordedDisk;
using ham::testing::TemporaryDirectory;

constexpr uint32_t kSeed = 11;
constexpr int kRounds = 3;  // random states beside the one without anything unsynced, at each operation

// What a store was asked to do: uploads in pieces, one that is no such artifact, ones that are removed and set aside.
class RecordedUploads {
 public:
  RecordedUploads() {
    const auto store = OpenArtifactDirectory(root_ + "/artifacts");
    for (int i = 0; i < 3; ++i) Upload(store->get(), absl::StrCat("artifact ", i, std::string(3000, 'x')));
    const std::string lie = Sha256Hex("truth");
    EXPECT_TRUE((*store)->Put(lie, 0, "lie").ok());
    EXPECT_TRUE(absl::IsDataLoss((*store)->Commit(lie, 3)));
    const std::string removed = Upload(store->get(), "removed");
    promised_.back().until = disk_.operations();
    EXPECT_EQ(*(*store)->RemoveIf([&](const auto& item) { return item.digest == removed; }), 7);
    Upload(store->get(), "the last one");
  }

  // An artifact that is there after a loss of power within these operations.
  struct Promise {
    std::string text;
    size_t from = 0;
    size_t until = SIZE_MAX;
  };
  const std::vector<Promise>& promised() const { return promised_; }
  RecordedDisk& disk() { return disk_; }

 private:
  std::string Upload(ArtifactStore* store, const std::string& text) {
    const std::string digest = Sha256Hex(text);
    const size_t half = text.size() / 2;
    EXPECT_TRUE(store->Put(digest, 0, text.substr(0, half)).ok());
    EXPECT_TRUE(store->Put(digest, static_cast<int64_t>(half), text.substr(half)).ok());
    EXPECT_TRUE(store->Commit(digest, static_cast<int64_t>(text.size())).ok());
    promised_.push_back({text, disk_.operations()});
    return digest;
  }

  const TemporaryDirectory folder_;
  const std::string root_ = folder_.path();
  RecordedDisk disk_{root_};
  std::vector<Promise> promised_;
};

// What is wrong in `directory` after the first `count` operations; "" if nothing is.
std::string ProblemOf(const RecordedUploads& uploads, size_t count, const std::string& directory) {
  const auto store = OpenArtifactDirectory(directory);
  if (!store.ok()) return std::string(store.status().message());
  const absl::StatusOr<std::vector<ArtifactStore::Item>> items = (*store)->List();
  for (const ArtifactStore::Item& item : *items) {
    if (!item.complete) continue;
    const absl::Status whole = (*store)->Verify(item.digest);
    if (!whole.ok()) return absl::StrCat("a torn artifact counts as complete: ", std::string(whole.message()));
  }
  for (const RecordedUploads::Promise& promise : uploads.promised()) {
    const std::string digest = Sha256Hex(promise.text);
    const auto held = (*store)->Query(digest);
    if (count >= promise.from && count <= promise.until && !held->complete) {
      return absl::StrCat("an acknowledged artifact is lost: ", promise.text.substr(0, 12));
    }
    if (held->complete) continue;
    // It can be uploaded, from where it is or, if that is not what was sent, from the start.
    const auto size = static_cast<int64_t>(promise.text.size());
    absl::Status status = (*store)->Put(digest, held->offset, promise.text.substr(static_cast<size_t>(held->offset)));
    if (status.ok()) status = (*store)->Commit(digest, size);
    if (absl::IsDataLoss(status)) {
      status = (*store)->Put(digest, 0, promise.text);
      if (status.ok()) status = (*store)->Commit(digest, size);
    }
    if (!status.ok()) return absl::StrCat("an upload cannot go on: ", std::string(status.message()));
  }
  return "";
}

// The first problem in all states.
std::string FirstProblem(const RecordedUploads& uploads, const RecordedDisk& disk) {
  std::mt19937_64 random(kSeed);
  const TemporaryDirectory copy;
  for (size_t count = 0; count <= disk.operations(); ++count) {
    for (int round = 0; round <= kRounds; ++round) {
      disk.Rebuild(count, round == 0 ? nullptr : &random, copy / "disk");
      fs::create_directories(copy / "disk");
      const std::string problem = ProblemOf(uploads, count, copy / "disk/artifacts");
      if (!problem.empty()) return absl::StrCat("after operation ", count, ", round ", round, ": ", problem);
    }
  }
  return "";
}

TEST(ArtifactCrash, WhatWasAcknowledgedIsWholeAndNothingIsTorn) {
  SCOPED_TRACE(absl::StrCat("seed ", kSeed));
  RecordedUploads uploads;
  EXPECT_GT(uploads.disk().operations(), 40u);
  EXPECT_EQ(FirstProblem(uploads, uploads.disk()), "");
}

// The states above can show each kind of mistake.
TEST(ArtifactCrash, EachSyncIsNeeded) {
  for (const RecordedDisk::Kind kind : {RecordedDisk::Kind::kSync, RecordedDisk::Kind::kSyncDirectory}) {
    RecordedUploads uploads;
    uploads.disk().Forget(kind);
    EXPECT_NE(FirstProblem(uploads, uploads.disk()), "");
  }
}

class BackupCrashTest : public StateTest {};

TEST_F(BackupCrashTest, ABackupThatCountsIsWhole) {
  SCOPED_TRACE(absl::StrCat("seed ", kSeed));
  const std::string root = folder_ / "backups";
  fs::create_directory(root);
  RecordedDisk disk(root);
  ASSERT_TRUE(BackUp(state_, root + "/b", absl::UnixEpoch()).ok());
  const TemporaryDirectory copy;
  std::mt19937_64 random(kSeed);
  int whole = 0;
  for (size_t count = 0; count <= disk.operations(); ++count) {
    for (int round = 0; round <= 1; ++round) {
      disk.Rebuild(count, round == 0 ? nullptr : &random, copy / "disk");
      const absl::StatusOr<BackupManifest> manifest = ReadBackupManifest(copy / "disk/b");
      if (!manifest.ok()) {
        ASSERT_TRUE(absl::IsFailedPrecondition(manifest.status())) << manifest.status();
        ASSERT_LT(count, disk.operations());  // it was acknowledged
        continue;
      }
      ++whole;
      for (const auto& [name, facts] : manifest->files) {
        const absl::StatusOr<FileFacts> found = ReadFacts(copy / ("disk/b/" + name));
        ASSERT_TRUE(found.ok()) << found.status();
        ASSERT_EQ(*found, facts) << name;
      }
    }
  }
  EXPECT_GE(whole, 2);
}

}  // namespace
}  // namespace ham::server
