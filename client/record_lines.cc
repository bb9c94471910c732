#include "client/record_lines.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/text.h"

namespace ham::client {
namespace {

using ham::v1::Job;

std::string EventLine(const ham::v1::JobRecord& record) {
  const ham::v1::JobEvent& event = record.event();
  std::string line = event.from_state() == event.to_state() ? "" : Job::State_Name(event.to_state()) + ": ";
  absl::StrAppend(&line, event.message().empty() ? event.reason() : event.message());
  return line;
}

std::string TrainLine(const ham::v1::MetricPoint& metric) {
  const ham::v1::TrainMetrics& train = metric.train();
  const double step_seconds = train.attack_seconds() + train.train_seconds();
  std::string line =
      absl::StrFormat("epoch %d: loss %.4f, hard %s", metric.epoch(), train.loss(), Percent(train.hard_share()));
  if (train.kept_share() != train.hard_share()) absl::StrAppend(&line, ", kept ", Percent(train.kept_share()));
  absl::StrAppendFormat(&line, ", %.0f images/s", train.images_per_second());
  if (step_seconds > 0)
    absl::StrAppend(&line, ", attack ", Percent(train.attack_seconds() / step_seconds), " of the time");
  if (train.model_flops_utilization() > 0) absl::StrAppend(&line, ", MFU ", Percent(train.model_flops_utilization()));
  absl::StrAppendFormat(&line, ", learning rate %.3g", train.learning_rate());
  if (train.skipped_iterations() > 0) absl::StrAppend(&line, ", ", train.skipped_iterations(), " iterations skipped");
  return line;
}

std::vector<std::string> EvaluationLines(const ham::v1::MetricPoint& metric) {
  const ham::v1::EvaluationMetrics& evaluation = metric.evaluation();
  if (evaluation.has_progress()) return {ProgressText(evaluation)};
  // An evaluation job has no epochs.
  std::vector<std::string> lines = {absl::StrCat(
      metric.epoch() > 0 ? absl::StrCat("epoch ", metric.epoch(), evaluation.final() ? ", final: " : ": ") : "",
      evaluation.rows(), " ", evaluation.split(), " images: clean ", Percent(evaluation.clean_accuracy()))};
  for (const ham::v1::SuiteMetrics& suite : evaluation.suites()) lines.push_back(absl::StrCat("  ", SuiteLine(suite)));
  return lines;
}

std::vector<std::string> SummaryLines(const ham::v1::RunSummary& summary) {
  std::vector<std::string> lines = {absl::StrFormat(
      "attack %.0f s, train %.0f s, evaluation %.0f s; hard share %s; %d iterations", summary.attack_seconds(),
      summary.train_seconds(), summary.evaluation_seconds(), Percent(summary.hard_share()), summary.iterations())};
  for (const std::string& reason : summary.inexact_because()) lines.push_back(absl::StrCat("not exact: ", reason));
  return lines;
}

std::vector<std::string> LinesWithoutTime(const ham::v1::JobRecord& record) {
  if (record.has_event()) return {EventLine(record)};
  const ham::v1::MetricPoint& metric = record.metric();
  if (metric.train().end_of_epoch()) return {TrainLine(metric)};
  if (metric.has_evaluation()) return EvaluationLines(metric);
  if (metric.has_summary()) return SummaryLines(metric.summary());
  if (metric.has_notice()) return {absl::StrCat("notice: ", metric.notice().message())};
  return {};
}

}  // namespace

bool ThinnedProgress::Shows(const ham::v1::JobRecord& record) {
  const ham::v1::EvaluationMetrics& evaluation = record.metric().evaluation();
  if (!evaluation.has_progress()) return true;
  const absl::Time time = FromTimestamp(record.time());
  if (evaluation.progress().stage() == stage_ && time - shown_ < absl::Minutes(1)) return false;
  stage_ = evaluation.progress().stage();
  shown_ = time;
  return true;
}

std::string ProgressText(const ham::v1::EvaluationMetrics& evaluation) {
  const ham::v1::EvaluationProgress& progress = evaluation.progress();
  std::string text = absl::StrCat(progress.stage(), "  ", progress.rows_left(), " rows left");
  if (!evaluation.suites().empty()) {
    const ham::v1::SuiteMetrics& suite = evaluation.suites(0);
    absl::StrAppend(&text, "  robust <= ", Percent(suite.robust_accuracy()),
                    ", worst class <= ", Percent(suite.worst_class_robust_accuracy()), " (", suite.worst_class_name(),
                    ")");
  }
  absl::StrAppend(&text, "  ");
  if (progress.has_seconds_left()) {
    absl::StrAppend(&text, "at most ", ShortDuration(absl::Seconds(progress.seconds_left())), " left, ");
  }
  absl::StrAppend(&text, progress.ranks(), progress.ranks() == 1 ? " rank" : " ranks");
  return text;
}

std::string SuiteLine(const ham::v1::SuiteMetrics& suite) {
  return absl::StrCat(suite.name(), ": average ", Percent(suite.robust_accuracy()), ", worst class ",
                      suite.worst_class_name(), " ", Percent(suite.worst_class_robust_accuracy()));
}

std::vector<std::string> RecordLines(const ham::v1::JobRecord& record) {
  const std::string time = absl::FormatTime("%H:%M:%S", FromTimestamp(record.time()), absl::LocalTimeZone());
  std::vector<std::string> lines = LinesWithoutTime(record);
  for (std::string& line : lines) line = Printable(absl::StrCat(time, "  ", line));
  return lines;
}

std::string EndLine(const Job& job) {
  std::string line = absl::StrCat(ShortName(job.name()), " ", Job::State_Name(job.state()));
  if (job.has_start_time() && job.has_end_time()) {
    absl::StrAppend(&line, " after ", ShortDuration(FromTimestamp(job.end_time()) - FromTimestamp(job.start_time())));
  }
  if (!job.state_message().empty()) absl::StrAppend(&line, ": ", job.state_message());
  return Printable(line);
}

}  // namespace ham::client
