#include "client/live_view.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/exit_code.h"
#include "client/record_lines.h"
#include "client/text.h"
#include "proto/job_state.h"

namespace ham::client {
namespace {

using ham::v1::Job;
using Style = ViewLine::Style;

constexpr size_t kLongestBar = 40;

// `share` in [0, 1]; NaN is an empty bar.
std::string Bar(double share, size_t columns, bool utf8) {
  const double clamped = std::isfinite(share) ? std::clamp(share, 0.0, 1.0) : 0.0;
  const auto full = static_cast<size_t>(std::lround(clamped * static_cast<double>(columns)));
  std::string bar;
  for (size_t i = 0; i < columns; ++i) bar += i < full ? (utf8 ? "█" : "#") : (utf8 ? "░" : ".");
  return bar;
}

size_t BarColumns(const Screen& screen, size_t others) {
  return screen.columns > others + 10 ? std::min(kLongestBar, screen.columns - others) : 10;
}

// What is done, on what, with how many ranks.
std::string WorkOf(const ham::v1::JobSpec& spec) {
  if (spec.has_evaluate()) {
    const ham::v1::EvaluateSpec& evaluate = spec.evaluate();
    return absl::StrCat("evaluation of ", evaluate.model().name(), " on ", evaluate.data().name(), ", ",
                        evaluate.suite().name(), ", ", RanksOf(evaluate.resources()));
  }
  const ham::v1::TrainSpec& train = spec.train();
  return absl::StrCat(train.method().name(), ", ", train.model().name(), ", ", train.data().name(), ", ",
                      RanksOf(train.resources()));
}

std::string HeadLine(const JobProgress& progress, absl::Time now) {
  const Job& job = progress.job;
  std::string line = absl::StrCat(ShortName(job.name()), "  ", Job::State_Name(job.state()), "  ", WorkOf(job.spec()));
  if (progress.attempt > 1) absl::StrAppend(&line, "  attempt ", progress.attempt);
  if (job.has_start_time()) {
    const absl::Time end = job.has_end_time() ? FromTimestamp(job.end_time()) : now;
    absl::StrAppend(&line, "  ", ShortDuration(end - FromTimestamp(job.start_time())));
  }
  return line;
}

std::string ProgressLine(const JobProgress& progress, const Screen& screen) {
  const ham::v1::TrainMetrics& train = *progress.train;
  const double step_seconds = train.attack_seconds() + train.train_seconds();
  const bool shows_mfu = train.model_flops_utilization() > 0 && screen.columns >= 100;
  std::string line = absl::StrFormat("epoch %d/%d  %s %3.0f %%  %.0f images/s  hard %s", progress.epoch,
                                     progress.job.spec().train().epochs(),
                                     Bar(DoneShare(progress), BarColumns(screen, shows_mfu ? 80 : 68), screen.utf8),
                                     100 * DoneShare(progress), train.images_per_second(), Percent(train.hard_share()));
  if (step_seconds > 0) absl::StrAppend(&line, "  attack ", Percent(train.attack_seconds() / step_seconds));
  if (shows_mfu) absl::StrAppend(&line, "  MFU ", Percent(train.model_flops_utilization()));
  const std::optional<absl::Duration> left = TimeLeft(progress);
  if (left.has_value() && !IsFinal(progress.job.state())) absl::StrAppend(&line, "  ", ShortDuration(*left), " left");
  return line;
}

// Labels to show, in label order: all, or the `most` with the lowest accuracy.
std::vector<int> ShownClasses(const ham::v1::SuiteMetrics& suite, size_t most) {
  std::vector<int> labels(static_cast<size_t>(suite.per_class_robust_accuracy_size()));
  std::iota(labels.begin(), labels.end(), 0);
  if (labels.size() <= most) return labels;
  const auto rank = [&](int label) {  // classes without rows last
    const double value = suite.per_class_robust_accuracy(label);
    return std::isnan(value) ? 2.0 : value;
  };
  std::stable_sort(labels.begin(), labels.end(), [&](int a, int b) { return rank(a) < rank(b); });
  labels.resize(most);
  std::sort(labels.begin(), labels.end());
  return labels;
}

void AddClasses(const ham::v1::EvaluationMetrics& evaluation, const ham::v1::SuiteMetrics& suite, const Screen& screen,
                size_t most, std::vector<ViewLine>* lines) {
  const auto name = [&](int label) {
    return label < evaluation.class_names_size() ? evaluation.class_names(label) : absl::StrCat(label);
  };
  const std::vector<int> shown = ShownClasses(suite, most);
  size_t name_columns = 0;
  for (const int label : shown) name_columns = std::max(name_columns, std::min<size_t>(24, Width(name(label))));
  const size_t bar_columns = BarColumns(screen, name_columns + 26);
  for (const int label : shown) {
    const double value = suite.per_class_robust_accuracy(label);
    const bool worst = label == suite.worst_class();
    lines->push_back({absl::StrFormat("  %s  %s %8s%s", PadRight(Clip(name(label), 24), name_columns),
                                      Bar(value, bar_columns, screen.utf8), Percent(value), worst ? "  < worst" : ""),
                      worst ? Style::kWorst : Style::kPlain});
  }
  const auto hidden = static_cast<size_t>(suite.per_class_robust_accuracy_size()) - shown.size();
  if (hidden > 0) lines->push_back({absl::StrCat("  and ", hidden, " better classes"), Style::kDim});
}

void AddEvaluation(const JobProgress& progress, const Screen& screen, std::vector<ViewLine>* lines) {
  const ham::v1::EvaluationMetrics& evaluation = *progress.evaluation;
  const bool bounds = evaluation.has_progress();
  lines->push_back({absl::StrCat(
      progress.job.spec().has_evaluate() ? "" : absl::StrCat("after epoch ", progress.evaluation_epoch, ", "),
      evaluation.rows(), " ", evaluation.split(), " images: clean ", bounds ? "<= " : "",
      Percent(evaluation.clean_accuracy()))});
  if (bounds) {
    lines->push_back({ProgressText(evaluation)});
  } else {
    for (const ham::v1::SuiteMetrics& suite : evaluation.suites()) lines->push_back({SuiteLine(suite)});
  }
  if (evaluation.suites().empty()) return;
  const ham::v1::SuiteMetrics& suite = evaluation.suites(evaluation.suites_size() - 1);
  lines->push_back(
      {absl::StrCat(bounds ? "upper bounds of robust" : "robust", " accuracy by class, ", suite.name(), ":"),
       Style::kDim});
  const size_t used = lines->size() + 2;  // "and N better classes", and the cursor's line
  AddClasses(evaluation, suite, screen, screen.rows > used + 1 ? screen.rows - used : 1, lines);
}

std::string Painted(const ViewLine& line, bool color) {
  if (!color) return line.text;
  switch (line.style) {
    case Style::kPlain:
      return line.text;
    case Style::kBold:
      return absl::StrCat("\033[1m", line.text, "\033[0m");
    case Style::kDim:
      return absl::StrCat("\033[2m", line.text, "\033[0m");
    case Style::kWorst:
      return absl::StrCat("\033[1;31m", line.text, "\033[0m");
  }
  return line.text;
}

}  // namespace

std::vector<ViewLine> RenderLiveView(const JobProgress& progress, const Screen& screen, absl::Time now) {
  std::vector<ViewLine> lines;
  lines.push_back({HeadLine(progress, now), Style::kBold});
  if (progress.job.state() != Job::RUNNING && !progress.job.state_message().empty()) {
    lines.push_back({progress.job.state_message()});
  }
  if (progress.train.has_value()) lines.push_back({ProgressLine(progress, screen)});
  if (progress.evaluation.has_value()) AddEvaluation(progress, screen, &lines);
  if (screen.rows > 1 && lines.size() > screen.rows - 1) lines.resize(screen.rows - 1);
  for (ViewLine& line : lines) {
    std::string text = Printable(line.text);
    std::replace(text.begin(), text.end(), '\n', ' ');
    std::replace(text.begin(), text.end(), '\t', ' ');
    line.text = Clip(text, screen.columns - 1);
  }
  return lines;
}

std::string BlockPrinter::Draw(const std::vector<std::string>& above, const std::vector<ViewLine>& block,
                               const Screen& screen) {
  size_t rows = 0;
  for (const size_t width : drawn_) rows += std::max<size_t>(1, (width + screen.columns - 1) / screen.columns);
  std::string out;
  if (rows > 0) absl::StrAppend(&out, "\033[", rows, "A");
  absl::StrAppend(&out, "\r\033[J");
  for (const std::string& line : above) absl::StrAppend(&out, line, "\n");
  drawn_.clear();
  for (const ViewLine& line : block) {
    absl::StrAppend(&out, Painted(line, screen.color), "\n");
    drawn_.push_back(Width(line.text));
  }
  return out;
}

}  // namespace ham::client
