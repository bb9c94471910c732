#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/commands.h"
#include "client/output.h"
#include "client/text.h"

namespace ham::client {
namespace {

using ham::v1::Job;

std::string Moment(const google::protobuf::Timestamp& time) {
  return absl::FormatTime("%Y-%m-%d %H:%M:%S %z", FromTimestamp(time), absl::LocalTimeZone());
}

std::string TableOf(const Job& job) {
  const ham::v1::TrainSpec& train = job.spec().train();
  std::vector<std::vector<std::string>> rows = {
      {"job", ShortName(job.name())},
      {"state", Job::State_Name(job.state())},
      {"reason", absl::StrCat(job.state_reason(), job.state_message().empty() ? "" : ": ", job.state_message())},
      {"method", train.method().name()},
      {"model", train.model().name()},
      {"data", train.data().name()},
      {"epochs", absl::StrCat(train.epochs())},
      {"ranks", absl::StrCat(train.resources().world_size(), " x ", train.resources().device())},
      {"attempt", absl::StrCat(job.attempt(), " (at most ", train.retry().max_attempts(), " may fail)")},
      {"created", absl::StrCat(Moment(job.create_time()), " by ", job.creator())}};
  if (job.has_start_time()) rows.push_back({"started", Moment(job.start_time())});
  if (job.has_end_time()) rows.push_back({"ended", Moment(job.end_time())});
  if (job.has_checkpoint()) {
    rows.push_back(
        {"checkpoint", absl::StrCat("epoch ", job.checkpoint().epoch(), ", iteration ", job.checkpoint().iteration(),
                                    ", manifest ", job.checkpoint().manifest_digest())});
  }
  const std::map<std::string, std::string> labels(job.labels().begin(), job.labels().end());
  if (!labels.empty()) rows.push_back({"labels", absl::StrJoin(labels, ", ", absl::PairFormatter("="))});
  return Table(rows);
}

}  // namespace

Result Run(const GlobalOptions& global, const GetOptions& options) {
  absl::StatusOr<CoordinatorClient> client = Connect(global);
  if (!client.ok()) return client.status();
  const absl::StatusOr<Job> job = client->GetJob(JobName(options.job));
  if (!job.ok()) return job.status();
  Print(options.output == OutputFormat::kTable ? TableOf(*job) : Serialize(*job, options.output));
  return kDone;
}

}  // namespace ham::client
