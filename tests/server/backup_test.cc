// Copies of a state directory and state directories from them, whole and damaged.
#include "server/backup.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <map>
#include <optional>

#include "server/coordinator.h"
#include "server/job_store_restore.h"
#include "server/job_store_schema.h"
#include "server/scheduling_policy.h"
#include "server/state_check.h"
#include "tests/server/state_fixture.h"

namespace ham::server {
namespace {

namespace fs = std::filesystem;
using ham::testing::ReadTestFile;
using ham::testing::WriteTestFile;
using ham::v1::Job;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr char kTraining[] = "projects/default/jobs/training";
const absl::Time kThen = absl::FromUnixSeconds(1700000000);
const absl::Time kNow = kThen + absl::Hours(1);

class BackupTest : public StateTest {
 protected:
  BackupSummary MustBackUp() {
    const absl::StatusOr<BackupSummary> backup = BackUp(state_, backup_, kThen);
    EXPECT_TRUE(backup.ok()) << backup.status();
    return backup.ok() ? *backup : BackupSummary();
  }
  static std::map<std::string, std::string> FilesBelow(const std::string& directory) {
    std::map<std::string, std::string> files;
    for (const fs::directory_entry& entry : fs::recursive_directory_iterator(directory)) {
      if (entry.is_regular_file()) {
        files[entry.path().string().substr(directory.size() + 1)] = ReadTestFile(entry.path().string());
      }
    }
    return files;
  }
  std::string Artifact(const std::string& text) const { return ArtifactPath(state_ + "/artifacts", Sha256Hex(text)); }

  const std::string backup_ = folder_ / "backup";
  const std::string restored_ = folder_ / "restored";
};

TEST_F(BackupTest, HoldsWhatTheRowsNameAndBringsItBack) {
  const BackupSummary backup = MustBackUp();
  EXPECT_EQ(backup.jobs, 4u);
  EXPECT_EQ(backup.artifacts, 8u);  // two checkpoints of three files, a record, given weights
  EXPECT_THAT(backup.left_out, IsEmpty());
  EXPECT_FALSE(fs::exists(ArtifactPath(backup_ + "/artifacts", Sha256Hex("named by nobody"))));
  const absl::StatusOr<RestoreSummary> restored = Restore(backup_, restored_, kNow);
  ASSERT_TRUE(restored.ok()) << restored.status();
  EXPECT_EQ(restored->backup.cluster_id, OpenStore(state_)->cluster_id());
  EXPECT_EQ(restored->backup.time, kThen);
  EXPECT_EQ(restored->backup.artifacts, 8u);
  EXPECT_EQ(restored->backup.bytes, backup.bytes);
  EXPECT_THAT(restored->started_again, ElementsAre(kTraining));
  for (const char* name : {"ca.pem", "ca.key", "bootstrap", "worker-join"}) {
    EXPECT_EQ(ReadTestFile(restored_ + "/" + name), ReadTestFile(state_ + "/" + name)) << name;
    struct stat info;
    ASSERT_EQ(::stat((restored_ + "/" + name).c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 0777, 0600u) << name;
  }
  const absl::StatusOr<StateReport> report = CheckState(restored_);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_THAT(report->damage, IsEmpty());
  EXPECT_EQ(report->artifacts, 8u);
  const auto store = OpenStore(restored_);
  EXPECT_EQ(store->GetContent(kTraining)->labels.at("of"), kTraining);
  EXPECT_EQ(*store->GetSpool(kTraining, 3, 0), 17);
  EXPECT_EQ((*store->GetRequest("admin", "r", absl::UnixEpoch()))->job, kTraining);
  EXPECT_TRUE(CheckRestoreFinished(restored_).ok());
}

TEST_F(BackupTest, ARestoreRaisesAllFencesAndDropsTheRanks) {
  const std::string epoch = OpenStore(state_)->log_epoch();
  const int64_t term = OpenStore(state_)->term();
  MustBackUp();
  ASSERT_TRUE(Restore(backup_, restored_, kNow).ok());
  const auto store = OpenStore(restored_);
  EXPECT_NE(store->log_epoch(), epoch);
  EXPECT_EQ(store->term(), term + kRestoreStep + 1);
  const absl::StatusOr<Store::Contents> contents = store->Load();
  ASSERT_TRUE(contents.ok()) << contents.status();
  EXPECT_EQ(contents->workers.at(0).session, 4 + kRestoreStep);
  EXPECT_EQ(contents->workers.at(0).incarnation, "");
  EXPECT_EQ(contents->workers.at(0).incarnation_number, 0) << "the agent that runs now has the number of then";
  std::map<std::string, JobRow> rows;
  for (const JobRow& row : contents->jobs) {
    rows[row.name] = row;
    EXPECT_THAT(row.gang, IsEmpty());
  }
  const JobRow& training = rows.at(kTraining);
  EXPECT_EQ(training.state, Job::RECOVERING);
  EXPECT_EQ(training.attempt, 3 + kRestoreStep);
  EXPECT_EQ(training.checkpoint->iteration(), 20);
  EXPECT_EQ(training.state_message,
            "Restored from the backup of 2023-11-14T22:13:20+00:00; starts again from its checkpoint of iteration 20.");
  EXPECT_EQ(rows.at("projects/default/jobs/waiting").attempt, kRestoreStep);
  EXPECT_EQ(rows.at("projects/default/jobs/waiting").state, Job::QUEUED);
  EXPECT_EQ(rows.at("projects/default/jobs/cancelling").state, Job::CANCELLING);
  EXPECT_EQ(rows.at("projects/default/jobs/evaluation").attempt, 1);  // it has ended
  const auto log = store->ReadLog(kTraining, 0, 10, 1 << 20);
  ASSERT_EQ(log->size(), 3u);
  EXPECT_EQ(log->at(2)->attempt(), 3);
  EXPECT_EQ(log->at(2)->event().from_state(), Job::RUNNING);
  EXPECT_EQ(log->at(2)->event().to_state(), Job::RECOVERING);
  EXPECT_EQ(log->at(2)->event().reason(), "RESTORED");
}

TEST_F(BackupTest, TheCoreGoesOnWithRestoredRows) {
  MustBackUp();
  ASSERT_TRUE(Restore(backup_, restored_, kNow).ok());
  const absl::StatusOr<Store::Contents> contents = OpenStore(restored_)->Load();
  const SubmitOrderGangs policy;
  Coordinator core({}, &policy);
  const Now now = {absl::Seconds(1), kNow};
  core.Restore(contents->jobs, contents->workers, now);
  ASSERT_TRUE(core.Apply(TimerFired{}, now, 0).ok());
  EXPECT_THAT(core.CheckInvariants(), IsEmpty());
  EXPECT_EQ(core.FindJob("projects/default/jobs/cancelling")->state, Job::CANCELLED);
  // The agent of before comes, its trainer still at work.
  WorkerRegistered agent;
  agent.registration.set_worker_id("w");
  agent.registration.set_worker_name("host");
  agent.registration.set_incarnation("incarnation");
  agent.registration.add_slots()->set_device("cpu");
  agent.registration.add_data_sets()->set_name("d");
  ham::v1::ObservedRank& rank = *agent.registration.add_observed();
  rank.set_job(kTraining);
  rank.set_attempt(3);
  rank.set_state(ham::v1::ObservedRank::RUNNING);
  ASSERT_TRUE(core.Apply(agent, now, 0).ok());
  const int64_t session = core.FindWorker("w")->session;
  EXPECT_GT(session, 4 + kRestoreStep);
  EXPECT_THAT(core.Desired("w"), IsEmpty());  // told to stop it, and its slot is not free before
  EXPECT_TRUE(absl::IsAborted(core.CheckFence(4, kTraining, 3)));
  EXPECT_TRUE(absl::IsAborted(core.Apply(WorkerBeat{"w", 4, {}, 0}, now, 0)));
  ASSERT_TRUE(core.Apply(WorkerBeat{"w", session, {}, 1 << 20}, now, 0).ok());
  ASSERT_EQ(core.Desired("w").size(), 1u);
  EXPECT_EQ(core.Desired("w")[0].attempt, 4 + kRestoreStep);
  EXPECT_EQ(core.Desired("w")[0].checkpoint->iteration(), 20);
  EXPECT_TRUE(absl::IsAborted(core.CheckFence(session, kTraining, 3)));
  EXPECT_THAT(core.CheckInvariants(), IsEmpty());
}

TEST_F(BackupTest, TwoRestoresOfOneBackupHaveLogsOfTheirOwn) {
  MustBackUp();
  ASSERT_TRUE(Restore(backup_, restored_, kNow).ok());
  ASSERT_TRUE(Restore(backup_, folder_ / "other", kNow).ok());
  EXPECT_NE(OpenStore(restored_)->log_epoch(), OpenStore(folder_ / "other")->log_epoch());
}

TEST_F(BackupTest, RefusesDirectoriesThatHoldAnything) {
  WriteTestFile(backup_ + "/photo", "mine");
  EXPECT_TRUE(absl::IsFailedPrecondition(BackUp(state_, backup_, kThen).status()));
  EXPECT_EQ(FilesBelow(backup_).size(), 1u);
  fs::remove_all(backup_);
  fs::create_directory(backup_);  // an empty one is fine
  MustBackUp();
  EXPECT_TRUE(absl::IsFailedPrecondition(BackUp(state_, backup_, kThen).status()));
  const std::map<std::string, std::string> before = FilesBelow(state_);
  EXPECT_TRUE(absl::IsFailedPrecondition(Restore(backup_, state_, kNow).status()));
  EXPECT_EQ(FilesBelow(state_), before);
  EXPECT_TRUE(absl::IsNotFound(BackUp(folder_ / "nowhere", folder_ / "b", kThen).status()));
  EXPECT_FALSE(fs::exists(folder_ / "b"));
  EXPECT_TRUE(absl::IsNotFound(CheckState(folder_ / "nowhere").status()));
  EXPECT_TRUE(absl::IsFailedPrecondition(Restore(folder_ / "nowhere", restored_, kNow).status()));
}

// Each file of the backup missing, altered and cut.
TEST_F(BackupTest, ADamagedBackupIsRefusedAndItsFileNamed) {
  MustBackUp();
  const std::map<std::string, std::string> whole = FilesBelow(backup_);
  ASSERT_EQ(whole.size(), 4u + 1 + 1 + 8);
  for (const auto& [name, bytes] : whole) {
    const std::string path = backup_ + "/" + name;
    std::string altered = bytes;
    altered[bytes.size() / 2] = static_cast<char>(altered[bytes.size() / 2] ^ 1);
    const std::optional<std::string> damages[] = {std::nullopt, altered, bytes.substr(0, bytes.size() - 1)};
    for (const std::optional<std::string>& damage : damages) {
      SCOPED_TRACE(name);
      fs::remove(path);  // not written into: it is a second name of the live file
      if (damage) WriteTestFile(path, *damage);
      const absl::Status status = Restore(backup_, restored_, kNow).status();
      EXPECT_TRUE(absl::IsDataLoss(status) || (name == "manifest.json" && absl::IsFailedPrecondition(status)))
          << status;
      EXPECT_THAT(std::string(status.message()), HasSubstr(name));
      EXPECT_TRUE(!fs::exists(restored_) || fs::is_empty(restored_));
    }
    fs::remove(path);
    WriteTestFile(path, bytes);
  }
  EXPECT_TRUE(Restore(backup_, restored_, kNow).ok());
}

TEST_F(BackupTest, WhatIsDamagedIsLeftOutAndNamed) {
  WriteTestFile(Artifact("weights"), "other");
  fs::remove(Artifact("old state"));
  const BackupSummary backup = MustBackUp();
  EXPECT_EQ(backup.artifacts, 6u);
  ASSERT_EQ(backup.left_out.size(), 2u);
  EXPECT_THAT(backup.left_out,
              Contains("artifact " + Sha256Hex("weights") +
                       " (the checkpoint of iteration 20 of projects/default/jobs/training) is damaged"));
  EXPECT_THAT(backup.left_out, Contains(HasSubstr(Sha256Hex("old state"))));
  const absl::StatusOr<RestoreSummary> restored = Restore(backup_, restored_, kNow);
  ASSERT_TRUE(restored.ok()) << restored.status();
  EXPECT_EQ(restored->backup.left_out, backup.left_out);
}

TEST_F(BackupTest, AStateDirectoryWhoseRestoreWasCutOffIsNoState) {
  EXPECT_TRUE(CheckRestoreFinished(state_).ok());
  WriteTestFile(state_ + "/restore-unfinished", "");
  EXPECT_TRUE(absl::IsFailedPrecondition(CheckRestoreFinished(state_)));
}

TEST_F(BackupTest, NothingIsRemovedWhileABackupIsMade) {
  const auto all = [](const ArtifactStore::Item&) { return true; };
  {
    const absl::StatusOr<ArtifactHold> hold = ArtifactHold::Take(state_ + "/artifacts");
    ASSERT_TRUE(hold.ok());
    EXPECT_TRUE(absl::IsFailedPrecondition(artifacts_->RemoveIf(all).status()));
  }
  EXPECT_GT(*artifacts_->RemoveIf(all), 0);
  EXPECT_THAT(*artifacts_->List(), IsEmpty());
}

// ---- CheckState --------------------------------------------------------------------------------------------

TEST_F(BackupTest, ACheckFindsEveryDamagedAndMissingArtifact) {
  EXPECT_THAT(CheckState(state_)->damage, IsEmpty());
  EXPECT_EQ(CheckState(state_)->artifacts, 9u);
  EXPECT_EQ(CheckState(state_)->jobs, 4u);
  WriteTestFile(Artifact("weights"), "other");
  WriteTestFile(Artifact("named by nobody"), "");
  fs::remove(Artifact("the record"));
  const absl::StatusOr<StateReport> report = CheckState(state_);
  ASSERT_EQ(report->damage.size(), 3u);
  EXPECT_THAT(report->damage, Contains(HasSubstr(Artifact("weights"))));
  EXPECT_THAT(report->damage, Contains(Artifact("named by nobody") + " (which no job names) is damaged"));
  EXPECT_THAT(report->damage,
              Contains(Artifact("the record") + " (the record of projects/default/jobs/evaluation) is missing"));
  const absl::StatusOr<StateLock> lock = StateLock::Acquire(state_);
  EXPECT_TRUE(absl::IsFailedPrecondition(CheckState(state_).status()));
}

TEST_F(BackupTest, WhatIsNotMountedIsNotLost) {
  const fs::path directory = state_ + "/artifacts", away = state_ + "/away";
  const std::string digest = Sha256Hex("weights");
  fs::rename(directory, away);
  fs::create_directories(directory / "lost+found");
  const absl::Status checked = CheckState(state_).status();
  EXPECT_TRUE(absl::IsUnavailable(checked)) << checked;
  EXPECT_THAT(std::string(checked.message()), HasSubstr("is its file system mounted?"));
  EXPECT_TRUE(absl::IsUnavailable(BackUp(state_, backup_, kThen).status()));
  EXPECT_TRUE(absl::IsUnavailable(artifacts_->Verify(digest)));
  EXPECT_TRUE(absl::IsUnavailable(artifacts_->Read(digest, 0, 10).status()));
  EXPECT_TRUE(absl::IsUnavailable(artifacts_->Put(digest, 0, "weights")));
  fs::remove_all(directory);
  EXPECT_TRUE(absl::IsNotFound(artifacts_->Verify(digest))) << "it was removed";
  fs::rename(away, directory);
  EXPECT_TRUE(artifacts_->Verify(digest).ok());
}

TEST_F(BackupTest, ACheckFindsADamagedRowOfEachTable) {
  const std::string path = state_ + "/ham.db";
  const std::string whole = ReadTestFile(path);
  const std::pair<const char*, const char*> damages[] = {
      {"UPDATE jobs SET row = x'00' WHERE name = CAST('projects/default/jobs/waiting' AS BLOB)",
       "waiting of table jobs"},
      {"UPDATE contents SET row = substr(row, 2) WHERE job = CAST('projects/default/jobs/waiting' AS BLOB)",
       "waiting of table contents"},
      {"DELETE FROM contents WHERE job = CAST('projects/default/jobs/waiting' AS BLOB)", "waiting of table contents"},
      {"UPDATE workers SET crc = crc + 1", "row w of table workers"},
      {"UPDATE records SET row = x'0801' WHERE key % 2 = 0", "training record 2 of table records"},
      {"DELETE FROM records WHERE key % 2 = 0", ""},  // the last one: nobody can tell
      {"UPDATE records SET key = key + 5 WHERE key % 2 = 0",
       "the log of projects/default/jobs/training lacks 5 records"},
      {"UPDATE spools SET sequence = 18", "training attempt 3 rank 0 of table spools"},
      {"UPDATE requests SET row = x'' ", "admin request r of table requests"},
      {"UPDATE meta SET term = 0", "row 1 of table meta"},
  };
  for (const auto& [sql, sentence] : damages) {
    SCOPED_TRACE(sql);
    WriteTestFile(path, whole);
    {
      const auto database = Database::Open(path, Database::Mode::kReadWriteCreate);
      ASSERT_TRUE((*database)->Execute(sql).ok());
    }
    const absl::StatusOr<StateReport> report = CheckState(state_);
    ASSERT_TRUE(report.ok()) << report.status();
    if (*sentence == '\0') {
      EXPECT_THAT(report->damage, IsEmpty());
    } else {
      EXPECT_THAT(report->damage, Contains(HasSubstr(sentence)));
    }
  }
  WriteTestFile(path, whole.substr(0, whole.size() - 8192));  // pages are gone
  EXPECT_THAT(CheckState(state_)->damage, ::testing::Not(IsEmpty()));
}

}  // namespace
}  // namespace ham::server
