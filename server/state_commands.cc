#include "server/state_commands.h"

#include <cstdio>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "proto/channel.h"
#include "proto/join_token.h"
#include "server/backup.h"
#include "server/identity.h"
#include "server/state_check.h"

namespace ham::server {
namespace {

int Refused(const absl::Status& status) {
  std::fprintf(stderr, "ham-coordinator: %s\n", std::string(status.message()).c_str());
  return 1;
}

void Say(const std::string& text) { std::printf("%s\n", text.c_str()); }

int SayDamage(const std::vector<std::string>& sentences) {
  for (const std::string& sentence : sentences) std::fprintf(stderr, "ham-coordinator: %s\n", sentence.c_str());
  return sentences.empty() ? 0 : 1;
}

std::string Counted(size_t count, const std::string& what) {
  return absl::StrCat(count, " ", what, count == 1 ? "" : "s");
}

std::string Held(const BackupSummary& backup) {
  return absl::StrCat("cluster ", backup.cluster_id, " as it was at ",
                      absl::FormatTime(absl::RFC3339_sec, backup.time, absl::UTCTimeZone()), ": ",
                      Counted(backup.jobs, "job"), ", ", Counted(backup.artifacts, "artifact"), ", ", backup.bytes,
                      " bytes");
}

}  // namespace

int RunResetAdmin(const std::string& state_dir) {
  if (const absl::Status status = ResetAdmin(state_dir); !status.ok()) return Refused(status);
  Say(absl::StrCat("The admin token is new; log in again with ", state_dir, "/bootstrap once the coordinator runs."));
  return 0;
}

int RunJoinCommand(const std::string& state_dir) {
  const absl::StatusOr<ConnectionConfig> config = ReadConnectionConfig(state_dir + "/worker-join");
  if (!config.ok()) return Refused(config.status());
  const absl::StatusOr<std::string> digest = CertificateDigest(config->ca_certificate);
  if (!digest.ok()) {
    return Refused(absl::FailedPreconditionError(
        "a coordinator with --insecure has no certificate that a token could name: workers join it with --join FILE"));
  }
  Say(absl::StrCat("ham-worker join ", JoinTokenText({*digest, config->token}), "@", config->endpoints[0]));
  return 0;
}

int RunBackup(const std::string& state_dir, const std::string& directory) {
  const absl::StatusOr<BackupSummary> backup = BackUp(state_dir, directory, absl::Now());
  if (!backup.ok()) return Refused(backup.status());
  Say(absl::StrCat(directory, " holds ", Held(*backup), "."));
  if (!backup->left_out.empty()) Say("The backup is whole, but for what was damaged before:");
  return SayDamage(backup->left_out);
}

int RunRestore(const std::string& directory, const std::string& state_dir) {
  const absl::StatusOr<RestoreSummary> restored = Restore(directory, state_dir, absl::Now());
  if (!restored.ok()) return Refused(restored.status());
  Say(absl::StrCat(state_dir, " holds ", Held(restored->backup), "."));
  if (!restored->started_again.empty()) {
    Say(absl::StrCat(Counted(restored->started_again.size(), "job"),
                     " at work then will start again: ", absl::StrJoin(restored->started_again, ", "), "."));
  }
  Say("What came after the backup is not known here: workers are told to stop it, and watches begin anew. Stop the "
      "coordinator of before, and do not restore the same backup twice while workers of the first one run.");
  return SayDamage(restored->backup.left_out);
}

int RunCheck(const std::string& state_dir) {
  const absl::StatusOr<StateReport> report = CheckState(state_dir);
  if (!report.ok()) return Refused(report.status());
  Say(absl::StrCat(state_dir, ": ", Counted(report->jobs, "job"), " and ", Counted(report->artifacts, "artifact"),
                   " read; ",
                   report->damage.empty() ? "all is as it was written."
                                          : absl::StrCat(Counted(report->damage.size(), "thing"), " damaged.")));
  return SayDamage(report->damage);
}

}  // namespace ham::server
