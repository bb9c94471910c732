#include "server/state_check.h"

#include <filesystem>
#include <map>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/artifact_store.h"
#include "server/durable_files.h"
#include "server/identity.h"
#include "server/job_store_check.h"
#include "server/job_store_reader.h"
#include "server/named_artifacts.h"

namespace ham::server {
namespace {

absl::Status CheckArtifacts(const std::string& directory, std::map<std::string, std::string> named,
                            ArtifactStore* artifacts, StateReport* report) {
  const absl::StatusOr<std::vector<ArtifactStore::Item>> items = artifacts->List();
  if (!items.ok()) return items.status();
  for (const ArtifactStore::Item& item : *items) {
    if (!item.complete) continue;
    ++report->artifacts;
    const std::string what = named.count(item.digest) != 0 ? named[item.digest] : "which no job names";
    named.erase(item.digest);
    const std::string path = ArtifactPath(directory, item.digest);
    const absl::StatusOr<FileFacts> facts = ReadFacts(path);
    if (!facts.ok() && !absl::IsDataLoss(facts.status())) return facts.status();
    if (facts.ok() && facts->sha256 == item.digest) continue;
    report->damage.push_back(absl::StrCat(path, " (", what, ") is damaged"));
  }
  for (const auto& [digest, what] : named) {
    report->damage.push_back(absl::StrCat(ArtifactPath(directory, digest), " (", what, ") is missing"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckHasRun(const std::string& state_dir) {
  const std::string path = state_dir + "/ham.db";
  std::error_code error;
  if (std::filesystem::exists(path, error)) return absl::OkStatus();
  return absl::NotFoundError(absl::StrCat(path,
                                          " does not exist: --state-dir must be the directory of a coordinator "
                                          "that has run"));
}

absl::StatusOr<StateReport> CheckState(const std::string& state_dir) {
  if (const absl::Status status = CheckHasRun(state_dir); !status.ok()) return status;
  const std::string path = state_dir + "/ham.db";
  const absl::StatusOr<StateLock> lock = StateLock::Acquire(state_dir);
  if (!lock.ok()) return lock.status();
  absl::StatusOr<std::unique_ptr<Database>> database = Database::Open(path, Database::Mode::kReadOnly);
  if (!database.ok()) return database.status();
  const absl::StatusOr<std::vector<std::string>> rows = FindDamagedRows(database->get());
  if (!rows.ok()) return rows.status();
  StateReport report;
  report.damage = *rows;
  StoreReader reader(*std::move(database));
  const absl::StatusOr<Store::Contents> contents = reader.Load();
  if (absl::IsDataLoss(contents.status())) return report;  // named already
  if (!contents.ok()) return contents.status();
  report.jobs = contents->jobs.size();
  const std::string directory = state_dir + "/artifacts";
  if (const absl::Status mounted = CheckArtifactsMounted(directory); !mounted.ok()) return mounted;
  const absl::StatusOr<std::unique_ptr<ArtifactStore>> artifacts = OpenArtifactDirectory(directory);
  if (!artifacts.ok()) return artifacts.status();
  NamedArtifacts names(artifacts->get(), [&](const std::string& job) { return reader.GetContent(job); });
  absl::StatusOr<std::map<std::string, std::string>> named = names.Of(contents->jobs);
  if (!named.ok()) return named.status();
  const absl::Status status = CheckArtifacts(directory, *std::move(named), artifacts->get(), &report);
  if (!status.ok()) return status;
  return report;
}

}  // namespace ham::server
