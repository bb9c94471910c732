#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
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

using Rows = std::vector<std::vector<std::string>>;

Rows TrainRows(const ham::v1::TrainSpec& train) {
  return {{"method", train.method().name()},
          {"model", train.model().name()},
          {"data", train.data().name()},
          {"epochs", absl::StrCat(train.epochs())},
          {"ranks", RanksOf(train.resources())}};
}

Rows EvaluateRows(const ham::v1::EvaluateSpec& evaluate) {
  const std::string rows = evaluate.data().rows() > 0 ? absl::StrCat(", first ", evaluate.data().rows()) : "";
  const auto& suite = evaluate.suite();
  const std::vector<std::string> attacks = [&] {
    std::vector<std::string> names;
    for (const auto& attack : suite.attacks()) names.push_back(attack.name());
    return names;
  }();
  Rows out = {{"evaluates", evaluate.model().name()}, {"weights", evaluate.weights()}};
  if (!evaluate.job().empty()) out.push_back({"of job", ShortName(evaluate.job())});
  out.push_back({"data", absl::StrCat(evaluate.data().name(), ", test", rows)});
  out.push_back({"attacks", absl::StrFormat("%s: %s; %s, epsilon %.4g", suite.name(), absl::StrJoin(attacks, ", "),
                                            suite.norm(), suite.epsilon())});
  out.push_back({"ranks", absl::StrCat("at most ", RanksOf(evaluate.resources()))});
  return out;
}

std::string TableOf(const Job& job) {
  const bool evaluates = job.spec().has_evaluate();
  const auto& retry = evaluates ? job.spec().evaluate().retry() : job.spec().train().retry();
  Rows rows = {
      {"job", ShortName(job.name())},
      {"state", Job::State_Name(job.state())},
      {"reason", absl::StrCat(job.state_reason(), job.state_message().empty() ? "" : ": ", job.state_message())}};
  for (auto& row : evaluates ? EvaluateRows(job.spec().evaluate()) : TrainRows(job.spec().train())) {
    rows.push_back(std::move(row));
  }
  rows.push_back({"attempt", absl::StrCat(job.attempt(), " (at most ", retry.max_attempts(), " may fail)")});
  rows.push_back({"created", absl::StrCat(Moment(job.create_time()), " by ", job.creator())});
  if (job.has_start_time()) rows.push_back({"started", Moment(job.start_time())});
  if (job.has_end_time()) rows.push_back({"ended", Moment(job.end_time())});
  if (job.has_checkpoint()) {
    rows.push_back(
        {"checkpoint", absl::StrCat("epoch ", job.checkpoint().epoch(), ", iteration ", job.checkpoint().iteration(),
                                    ", manifest ", job.checkpoint().manifest_digest())});
  }
  if (!job.record_digest().empty()) rows.push_back({"record", absl::StrCat("SHA-256 ", job.record_digest())});
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
