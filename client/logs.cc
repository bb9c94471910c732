#include <cstdio>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "client/commands.h"
#include "client/interrupt.h"
#include "client/job_follower.h"
#include "client/screen.h"
#include "client/text.h"

namespace ham::client {
namespace {

class LogPrinter : public FollowSink {
 public:
  // `prefix`: each line begins with its rank.
  LogPrinter(std::optional<int> rank, bool prefix, bool terminal) : rank_(rank), prefix_(prefix), terminal_(terminal) {}

  void Receive(const ham::v1::WatchJobResponse& response) override {
    std::string out;
    for (const ham::v1::JobRecord& record : response.records()) {
      if (!record.has_log() || (rank_.has_value() && record.log().rank() != *rank_)) continue;
      const std::string text = terminal_ ? Printable(record.log().text()) : record.log().text();
      if (!prefix_) {
        absl::StrAppend(&out, text);
        continue;
      }
      for (const absl::string_view line : absl::StrSplit(absl::StripSuffix(text, "\n"), '\n')) {
        absl::StrAppend(&out, "[", record.log().rank(), "] ", line, "\n");
      }
    }
    if (!out.empty()) Print(out);
  }

  void Lost(const absl::Status& status) override { SayLost(status); }

 private:
  const std::optional<int> rank_;
  const bool prefix_;
  const bool terminal_;
};

}  // namespace

Result Run(const GlobalOptions& global, const LogsOptions& options) {
  absl::StatusOr<CoordinatorClient> client = Connect(global);
  if (!client.ok()) return client.status();
  const absl::StatusOr<ham::v1::Job> job = client->GetJob(JobName(options.job));
  if (!job.ok()) return job.status();
  const bool evaluates = job->spec().has_evaluate();  // ranks that join get numbers of their own
  const int world_size = job->spec().train().resources().world_size();
  if (!evaluates && options.rank.has_value() && *options.rank >= world_size) {
    return absl::InvalidArgumentError(
        absl::StrCat("--rank ", *options.rank, " is none of this job's ranks, 0 to ", world_size - 1));
  }
  FollowRequest request;
  request.job = job->name();
  request.kinds = {ham::v1::LOG};
  request.follow = options.follow;
  CallCancel cancel;
  LogPrinter printer(options.rank, (evaluates || world_size > 1) && !options.rank.has_value(), DetectScreen().terminal);
  const Interrupt interrupt([&cancel] { cancel.Cancel(); });
  const absl::StatusOr<ham::v1::Job> end = FollowJob(&*client, request, &cancel, &printer);
  if (!end.ok()) return end.status();
  return kDone;
}

}  // namespace ham::client
