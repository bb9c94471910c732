#include "server/backup.h"

#include <unistd.h>

#include <filesystem>
#include <map>
#include <memory>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/atomic_file.h"
#include "server/artifact_store.h"
#include "server/backup_manifest.h"
#include "server/durable_files.h"
#include "server/identity.h"
#include "server/job_store_check.h"
#include "server/job_store_reader.h"
#include "server/job_store_restore.h"
#include "server/named_artifacts.h"
#include "server/state_check.h"

namespace ham::server {
namespace {

namespace fs = std::filesystem;

constexpr char kDatabase[] = "ham.db";
constexpr char kArtifacts[] = "artifacts";
constexpr char kUnfinished[] = "restore-unfinished";

std::string Below(const std::string& directory, const std::string& name) { return absl::StrCat(directory, "/", name); }

bool Exists(const std::string& path) {
  std::error_code error;
  return fs::exists(path, error);
}

// One backup in the making.
class Backup {
 public:
  Backup(std::string state_dir, std::string directory, absl::Time now)
      : state_dir_(std::move(state_dir)), directory_(std::move(directory)) {
    manifest_.time = now;
  }

  absl::StatusOr<BackupSummary> Make() {
    for (const auto step : {&Backup::CopyIdentity, &Backup::CopyStore, &Backup::Finish}) {
      if (const absl::Status status = (this->*step)(); !status.ok()) return status;
    }
    return summary_;
  }

 private:
  absl::Status CopyIdentity() {
    for (const char* name : kIdentityFiles) {
      if (!Exists(Below(state_dir_, name))) continue;  // there are no certificates without TLS
      if (const absl::Status status = Add(name, CopyFile(Below(state_dir_, name), Below(directory_, name)));
          !status.ok()) {
        return status;
      }
    }
    return absl::OkStatus();
  }

  absl::Status CopyStore() {
    if (absl::Status mounted = CheckArtifactsMounted(Below(state_dir_, kArtifacts)); !mounted.ok()) return mounted;
    absl::StatusOr<std::unique_ptr<ArtifactStore>> artifacts = OpenArtifactDirectory(Below(state_dir_, kArtifacts));
    if (!artifacts.ok()) return artifacts.status();
    // From before the copy of the rows on, or what they name might go before it is copied.
    const absl::StatusOr<ArtifactHold> hold = ArtifactHold::Take(Below(state_dir_, kArtifacts));
    if (!hold.ok()) return hold.status();
    absl::StatusOr<std::unique_ptr<StoreReader>> reader = CopyDatabase();
    if (!reader.ok()) return reader.status();
    const absl::StatusOr<Store::Contents> contents = (*reader)->Load();
    if (!contents.ok()) return contents.status();
    summary_.jobs = contents->jobs.size();
    NamedArtifacts names(artifacts->get(), [&](const std::string& job) { return (*reader)->GetContent(job); });
    const absl::StatusOr<std::map<std::string, std::string>> named = names.Of(contents->jobs);
    if (!named.ok()) return named.status();
    return CopyArtifacts(*named);
  }

  absl::StatusOr<std::unique_ptr<StoreReader>> CopyDatabase() {
    const std::string copy = Below(directory_, kDatabase);
    {
      const absl::StatusOr<std::unique_ptr<Database>> live =
          Database::Open(Below(state_dir_, kDatabase), Database::Mode::kReadOnly);
      if (!live.ok()) return live.status();
      if (const absl::Status status = (*live)->CopyTo(copy); !status.ok()) return status;
    }
    if (const absl::Status status = SyncFile(copy); !status.ok()) return status;
    if (const absl::Status status = Add(kDatabase, ReadFacts(copy)); !status.ok()) return status;
    absl::StatusOr<std::unique_ptr<Database>> database = Database::Open(copy, Database::Mode::kReadOnly);
    if (!database.ok()) return database.status();
    const absl::StatusOr<std::vector<std::string>> damaged = FindDamagedRows(database->get());
    if (!damaged.ok()) return damaged.status();
    for (const std::string& sentence : *damaged) LeaveOut(sentence);
    const absl::StatusOr<StoreHead> head = ReadHead(database->get());
    if (!head.ok()) return head.status();
    manifest_.cluster_id = head->cluster_id;
    return std::make_unique<StoreReader>(*std::move(database));
  }

  absl::Status CopyArtifacts(const std::map<std::string, std::string>& named) {
    const std::string from = Below(state_dir_, kArtifacts);
    const std::string to = Below(directory_, kArtifacts);
    if (const absl::Status status = MakeDirectory(to); !status.ok()) return status;
    for (const auto& [digest, what] : named) {
      const std::string path = ArtifactPath(to, digest);
      if (const absl::Status status = MakeDirectory(fs::path(path).parent_path().string()); !status.ok()) return status;
      const absl::StatusOr<FileFacts> facts = LinkOrCopyFile(ArtifactPath(from, digest), path);
      if (facts.ok() && facts->sha256 == digest) {
        ++summary_.artifacts;
        if (const absl::Status status = Add(path.substr(directory_.size() + 1), facts); !status.ok()) return status;
        continue;
      }
      if (facts.ok()) ::unlink(path.c_str());
      if (!facts.ok() && !absl::IsNotFound(facts.status()) && !absl::IsDataLoss(facts.status())) return facts.status();
      LeaveOut(
          absl::StrCat("artifact ", digest, " (", what, ") is ", facts.ok() ? "damaged" : "missing or unreadable"));
    }
    return absl::OkStatus();
  }

  absl::Status Finish() {
    absl::Status status = SyncNames(directory_);
    if (status.ok()) status = WriteBackupManifest(directory_, manifest_);
    summary_.cluster_id = manifest_.cluster_id;
    summary_.time = manifest_.time;
    summary_.left_out = manifest_.left_out;
    return status;
  }

  absl::Status Add(const std::string& name, const absl::StatusOr<FileFacts>& facts) {
    if (!facts.ok()) return facts.status();
    manifest_.files[name] = *facts;
    summary_.bytes += facts->bytes;
    return absl::OkStatus();
  }

  void LeaveOut(const std::string& sentence) { manifest_.left_out.push_back(sentence); }

  const std::string state_dir_;
  const std::string directory_;
  BackupManifest manifest_;
  BackupSummary summary_;
};

absl::Status CopyBack(const std::string& directory, const std::string& state_dir, const BackupManifest& manifest) {
  for (const auto& [name, facts] : manifest.files) {
    const std::string to = Below(state_dir, name);
    std::error_code error;
    fs::create_directories(fs::path(to).parent_path(), error);
    if (error) return FileError("create", fs::path(to).parent_path().string(), error.value());
    const absl::StatusOr<FileFacts> copied = CopyFile(Below(directory, name), to);
    if (copied.ok() && *copied == facts) continue;
    if (!copied.ok() && !absl::IsNotFound(copied.status()) && !absl::IsDataLoss(copied.status())) {
      return copied.status();
    }
    return absl::DataLossError(absl::StrCat(Below(directory, name), " of the backup is ",
                                            copied.ok() ? "damaged" : "missing or unreadable", ": use another backup"));
  }
  return absl::OkStatus();
}

absl::StatusOr<RestoreSummary> RestoreInto(const std::string& directory, const std::string& state_dir,
                                           const BackupManifest& manifest, absl::Time now) {
  absl::Status status = WriteFileAtomically(Below(state_dir, kUnfinished), "", 0600);
  if (status.ok()) status = CopyBack(directory, state_dir, manifest);
  if (!status.ok()) return status;
  RestoreSummary summary;
  const absl::StatusOr<Store::Contents> contents =
      RestoreStore(Below(state_dir, kDatabase), manifest.time, now, &summary.started_again);
  if (!contents.ok()) return contents.status();
  status = SyncNames(state_dir);
  if (!status.ok()) return status;
  ::unlink(Below(state_dir, kUnfinished).c_str());
  status = SyncDirectory(state_dir);
  if (!status.ok()) return status;
  BackupSummary& backup = summary.backup;
  backup = {.cluster_id = manifest.cluster_id,
            .time = manifest.time,
            .jobs = contents->jobs.size(),
            .artifacts = 0,
            .bytes = 0,
            .left_out = manifest.left_out};
  for (const auto& [name, facts] : manifest.files) {
    backup.artifacts += name.rfind(absl::StrCat(kArtifacts, "/"), 0) == 0 ? 1 : 0;
    backup.bytes += facts.bytes;
  }
  return summary;
}

}  // namespace

absl::StatusOr<BackupSummary> BackUp(const std::string& state_dir, const std::string& directory, absl::Time now) {
  if (const absl::Status status = CheckHasRun(state_dir); !status.ok()) return status;
  if (const absl::Status status = CheckEmptyDirectory(directory); !status.ok()) return status;
  if (const absl::Status status = MakeDirectory(directory); !status.ok()) return status;
  return Backup(state_dir, directory, now).Make();
}

absl::StatusOr<RestoreSummary> Restore(const std::string& directory, const std::string& state_dir, absl::Time now) {
  const absl::StatusOr<BackupManifest> manifest = ReadBackupManifest(directory);
  if (!manifest.ok()) return manifest.status();
  if (const absl::Status status = CheckEmptyDirectory(state_dir); !status.ok()) return status;
  const absl::StatusOr<StateLock> lock = StateLock::Acquire(state_dir);
  if (!lock.ok()) return lock.status();
  absl::StatusOr<RestoreSummary> summary = RestoreInto(directory, state_dir, *manifest, now);
  if (summary.ok()) return summary;
  std::error_code ignored;
  for (const fs::directory_entry& entry : fs::directory_iterator(state_dir, ignored)) {
    fs::remove_all(entry.path(), ignored);
  }
  return summary;
}

absl::Status CheckRestoreFinished(const std::string& state_dir) {
  if (!Exists(Below(state_dir, kUnfinished))) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      "the restore of ", state_dir, " was cut off: empty that directory and run `ham-coordinator restore` again"));
}

}  // namespace ham::server
