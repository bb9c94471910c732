#include "server/job_series.h"

#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace ham::server {
namespace {

struct JobFamilies {
  MetricFamily info = Family("ham_job_info", "Always 1; what a job is.");
  MetricFamily state = Family("ham_job_state", "1 for the state that a job is in.");
  MetricFamily attempt = Family("ham_job_attempt", "Number of the newest attempt; 0 before the first.");
  MetricFamily failed = Family("ham_job_failed_attempts", "Attempts that failed since the last checkpoint.");
  MetricFamily submitted = Family("ham_job_submit_timestamp_seconds", "When a job was submitted.");
  MetricFamily ended = Family("ham_job_end_timestamp_seconds", "When a job ended.");
  MetricFamily checkpoint = Family("ham_job_checkpoint_iteration", "Iteration of the newest checkpoint.");
  MetricFamily epoch = Family("ham_job_epoch", "Epoch of the newest metrics, from 1.");
  MetricFamily iteration = Family("ham_job_iteration", "Optimiser iterations done.");
  MetricFamily speed = Family("ham_job_images_per_second", "Training images a second, all ranks together.");
  MetricFamily efficiency = Family("ham_job_model_flops_utilization_ratio",
                                   "Useful floating-point operations of training, of what matrix products reach.");
  MetricFamily phases =
      Family("ham_job_phase_seconds_total", "Seconds of rank 0 in the phases of training steps.", MetricType::Counter);
  MetricFamily hard = Family("ham_job_hard_share_ratio", "Rows still hard after mining_step, of rows seen.");
  MetricFamily overfitting =
      Family("ham_job_robust_overfitting", "1 once validation robustness fell while that of training rose, else 0.");
  MetricFamily rows_left =
      Family("ham_job_evaluation_rows_left", "Images of an evaluation job that have not got through this stage.");
  MetricFamily seconds_left = Family("ham_job_evaluation_seconds_left",
                                     "Upper bound of the seconds until an evaluation job's last image is attacked.");
  MetricFamily clean = Family("ham_job_clean_accuracy_ratio", "Accuracy without attack.");
  MetricFamily robust = Family("ham_job_robust_accuracy_ratio", "Accuracy under an attack suite.");
  MetricFamily worst = Family("ham_job_worst_class_robust_accuracy_ratio",
                              "Lowest accuracy of a class under an attack suite, and that class.");
  MetricFamily by_class = Family("ham_job_class_robust_accuracy_ratio", "Accuracy of a class under an attack suite.");
};

class JobSeries {
 public:
  explicit JobSeries(size_t most) : left_(most) {}

  // All but its classes.
  void AddJob(const JobPicture& job) {
    size_t budget = kMostJobSeries;
    if (!AddGroup(WhatItIs(job), &budget)) left_ = 0;  // nothing of this one, nor of those after it
    if (job.metrics == nullptr) return;
    AddGroup(HowItGoes(job.face->name, *job.metrics), &budget);
    if (job.metrics->evaluation) AddSuites(job.face->name, *job.metrics->evaluation, &budget);
  }

  void AddClasses(const JobPicture& job) {
    if (job.metrics == nullptr || !job.metrics->evaluation) return;
    std::set<std::string> suites;
    for (const ham::v1::SuiteMetrics& suite : job.metrics->evaluation->suites()) {
      const std::string name = LabelText(suite.name());
      if (!suites.insert(name).second) continue;
      if (suites.size() > kMostClassSuites) {
        left_out_ += static_cast<size_t>(suite.per_class_robust_accuracy_size());
        continue;
      }
      size_t budget = kMostClasses;
      AddGroup(ClassesOf(job.face->name, name, suite, *job.metrics->evaluation), &budget);
    }
  }

  // Of jobs that the snapshot left out.
  void LeaveOut(size_t series) { left_out_ += series; }
  size_t left_out() const { return left_out_; }
  JobFamilies& families() { return out_; }

 private:
  struct Series {
    MetricFamily* family;
    MetricLabels labels;
    double value;
  };
  using Group = std::vector<Series>;

  Group WhatItIs(const JobPicture& job) {
    const JobFace& face = *job.face;
    const MetricLabels labels = {{"job", face.name}};
    Group group;
    group.reserve(7);
    group.push_back({&out_.info,
                     {{"job", face.name},
                      {"project", face.project},
                      {"kind", face.evaluates ? "evaluate" : "train"},
                      {"method", LabelText(face.method)},
                      {"data_set", LabelText(face.data_set)},
                      {"model", LabelText(face.model)},
                      {"creator", LabelText(face.creator)}},
                     1});
    group.push_back({&out_.state, {{"job", face.name}, {"state", ham::v1::Job::State_Name(job.state)}}, 1});
    group.push_back({&out_.attempt, labels, 1.0 * job.attempt});
    group.push_back({&out_.failed, labels, 1.0 * job.failed_attempts});
    group.push_back({&out_.submitted, labels, Seconds(job.create_time)});
    if (job.end_time != absl::InfinitePast()) group.push_back({&out_.ended, labels, Seconds(job.end_time)});
    if (job.checkpoint_iteration) {
      group.push_back({&out_.checkpoint, labels, static_cast<double>(*job.checkpoint_iteration)});
    }
    return group;
  }

  Group HowItGoes(const std::string& job, const JobMetrics& metrics) {
    const MetricLabels labels = {{"job", job}};
    Group group;
    group.reserve(16);
    group.push_back({&out_.epoch, labels, static_cast<double>(metrics.epoch)});
    group.push_back({&out_.iteration, labels, static_cast<double>(metrics.iteration)});
    if (metrics.train) {
      group.push_back({&out_.speed, labels, metrics.train->images_per_second()});
      group.push_back({&out_.hard, labels, metrics.train->hard_share()});
      group.push_back({&out_.efficiency, labels, metrics.train->model_flops_utilization()});
      for (const auto& [phase, seconds] : metrics.phase_seconds.seconds()) {
        group.push_back({&out_.phases, {{"job", job}, {"phase", phase}}, seconds});
      }
    }
    if (!metrics.evaluation) return group;
    const ham::v1::EvaluationMetrics& evaluation = *metrics.evaluation;
    group.push_back(
        {&out_.clean, {{"job", job}, {"split", LabelText(evaluation.split())}}, evaluation.clean_accuracy()});
    group.push_back({&out_.overfitting, labels, metrics.robust_overfitting ? 1.0 : 0.0});
    if (!evaluation.has_progress()) return group;  // it is done
    const ham::v1::EvaluationProgress& progress = evaluation.progress();
    group.push_back(
        {&out_.rows_left, {{"job", job}, {"stage", LabelText(progress.stage())}}, 1.0 * progress.rows_left()});
    if (progress.has_seconds_left()) group.push_back({&out_.seconds_left, labels, progress.seconds_left()});
    return group;
  }

  void AddSuites(const std::string& job, const ham::v1::EvaluationMetrics& evaluation, size_t* budget) {
    std::set<std::string> names;
    for (const ham::v1::SuiteMetrics& suite : evaluation.suites()) {
      const std::string name = LabelText(suite.name());
      if (!names.insert(name).second) continue;
      MetricLabels labels = {{"job", job}, {"suite", name}, {"split", LabelText(evaluation.split())}};
      Group group = {{&out_.robust, labels, suite.robust_accuracy()}};
      labels.push_back({"class", LabelText(suite.worst_class_name())});
      group.push_back({&out_.worst, std::move(labels), suite.worst_class_robust_accuracy()});
      AddGroup(std::move(group), budget);
    }
  }

  // The first kMostClasses.
  Group ClassesOf(const std::string& job, const std::string& suite, const ham::v1::SuiteMetrics& metrics,
                  const ham::v1::EvaluationMetrics& evaluation) {
    const MetricLabels labels = {{"job", job}, {"suite", suite}, {"split", LabelText(evaluation.split())}};
    Group classes;
    std::set<std::string> names;
    const int count = metrics.per_class_robust_accuracy_size();
    for (int i = 0; i < count; ++i) {
      if (classes.size() == kMostClasses) {
        left_out_ += static_cast<size_t>(count - i);
        break;
      }
      const bool named = i < evaluation.class_names_size();
      std::string name = named ? LabelText(evaluation.class_names(i)) : absl::StrCat(i);
      if (!names.insert(name).second) continue;
      MetricLabels of_class = labels;
      of_class.push_back({"class", std::move(name)});
      classes.push_back({&out_.by_class, std::move(of_class), metrics.per_class_robust_accuracy(i)});
    }
    return classes;
  }

  // All of them, or none when they do not fit.
  bool AddGroup(Group group, size_t* budget) {
    if (group.size() > left_ || group.size() > *budget) {
      left_out_ += group.size();
      return false;
    }
    left_ -= group.size();
    *budget -= group.size();
    for (Series& series : group) AddMetric(series.family, std::move(series.labels), series.value);
    return true;
  }

  static double Seconds(absl::Time time) { return absl::ToDoubleSeconds(time - absl::UnixEpoch()); }

  size_t left_;
  size_t left_out_ = 0;
  JobFamilies out_;
};

}  // namespace

void AddJobFamilies(const ClusterSnapshot& snapshot, size_t most, MetricFamilies* families) {
  JobSeries series(most);
  for (const auto& job : *snapshot.jobs) series.AddJob(*job);
  for (const auto& job : *snapshot.jobs) series.AddClasses(*job);
  series.LeaveOut(kFewestSeries * snapshot.jobs_left_out);
  JobFamilies& jobs = series.families();
  size_t count = 0;
  for (MetricFamily* family : {&jobs.info,       &jobs.state,       &jobs.attempt, &jobs.failed,    &jobs.submitted,
                               &jobs.ended,      &jobs.checkpoint,  &jobs.epoch,   &jobs.iteration, &jobs.speed,
                               &jobs.efficiency, &jobs.phases,      &jobs.hard,    &jobs.rows_left, &jobs.seconds_left,
                               &jobs.clean,      &jobs.overfitting, &jobs.robust,  &jobs.worst,     &jobs.by_class}) {
    count += family->metric.size();
    if (!family->metric.empty()) families->push_back(std::move(*family));
  }
  families->push_back(
      Scalar("ham_job_series", "Time series of single jobs that are shown.", static_cast<double>(count)));
  families->push_back(Scalar("ham_job_series_left_out", "Time series of single jobs beyond the bounds, so not shown.",
                             static_cast<double>(series.left_out())));
}

}  // namespace ham::server
