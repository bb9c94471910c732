#include "server/metrics_exporter.h"

#include <prometheus/collectable.h>
#include <prometheus/exposer.h>
#include <prometheus/metric_family.h>

#include <exception>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/job_spec.h"
#include "proto/version.h"

namespace ham::server {
namespace {

using ham::v1::Job;
using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;
using Labels = std::vector<std::pair<std::string, std::string>>;

MetricFamily Family(const char* name, const char* help, MetricType type = MetricType::Gauge) {
  MetricFamily family;
  family.name = name;
  family.help = help;
  family.type = type;
  return family;
}

void AddMetric(MetricFamily* family, const Labels& labels, double value) {
  ClientMetric metric;
  for (const auto& [name, text] : labels) metric.label.push_back({name, text});
  if (family->type == MetricType::Counter) {
    metric.counter.value = value;
  } else {
    metric.gauge.value = value;
  }
  family->metric.push_back(std::move(metric));
}

MetricFamily Scalar(const char* name, const char* help, double value, MetricType type = MetricType::Gauge) {
  MetricFamily family = Family(name, help, type);
  AddMetric(&family, {}, value);
  return family;
}

std::vector<MetricFamily> ClusterFamilies(const ClusterSnapshot& snapshot) {
  MetricFamily build = Family("ham_build_info", "Always 1; version and build of the coordinator.");
  AddMetric(&build, {{"version", kVersion}, {"build_id", BuildId()}}, 1);

  MetricFamily jobs = Family("ham_jobs", "Jobs by state.");
  for (int state = Job::QUEUED; state < Job::State_ARRAYSIZE; ++state) {
    AddMetric(&jobs, {{"state", Job::State_Name(static_cast<Job::State>(state))}},
              static_cast<double>(snapshot.jobs_by_state[state]));
  }

  std::map<ham::v1::Worker::State, int> workers_by;
  std::map<std::pair<std::string, bool>, int> slots_by;
  for (const WorkerView& worker : snapshot.workers) {
    ++workers_by[worker.state];
    for (const ham::v1::Slot& slot : worker.slots) {
      slots_by.try_emplace({slot.device(), slot.job().empty()}, 0);
      slots_by.try_emplace({slot.device(), !slot.job().empty()}, 0);
      const bool usable = worker.state == ham::v1::Worker::CONNECTED || !slot.job().empty();
      if (usable && worker.state != ham::v1::Worker::UNREACHABLE) ++slots_by[{slot.device(), !slot.job().empty()}];
    }
  }
  MetricFamily workers = Family("ham_workers", "Workers by state.");
  for (const auto state : {ham::v1::Worker::CONNECTED, ham::v1::Worker::UNREACHABLE, ham::v1::Worker::EXCLUDED}) {
    AddMetric(&workers, {{"state", ham::v1::Worker::State_Name(state)}}, workers_by[state]);
  }
  MetricFamily slots = Family("ham_slots", "Slots of connected workers by device and state.");
  for (const auto& [key, count] : slots_by) {
    AddMetric(&slots, {{"device", key.first}, {"state", key.second ? "BUSY" : "FREE"}}, count);
  }

  MetricFamily commits = Family("ham_store_commit_seconds", "Time of one transaction.", MetricType::Summary);
  ClientMetric commit;
  commit.summary.sample_count = static_cast<uint64_t>(snapshot.commits);
  commit.summary.sample_sum = snapshot.commit_seconds;
  commits.metric.push_back(std::move(commit));

  std::vector<MetricFamily> families;
  families.push_back(std::move(build));
  families.push_back(std::move(jobs));
  families.push_back(std::move(workers));
  families.push_back(std::move(slots));
  families.push_back(std::move(commits));
  families.push_back(Scalar("ham_job_attempts_total", "Attempts started since the coordinator started.",
                            static_cast<double>(snapshot.attempts_started), MetricType::Counter));
  families.push_back(Scalar("ham_store_commits_total", "Transactions since the coordinator started.",
                            static_cast<double>(snapshot.commits), MetricType::Counter));
  families.push_back(Scalar("ham_store_failed_commits_total", "Transactions that failed.",
                            static_cast<double>(snapshot.failed_commits), MetricType::Counter));
  families.push_back(
      Scalar("ham_store_failed", "1 while the store is read-only after a failure.", snapshot.store_failed ? 1 : 0));
  return families;
}

struct GpuFamilies {
  MetricFamily memory = Family("ham_gpu_memory_bytes", "Memory of a GPU.");
  MetricFamily used = Family("ham_gpu_memory_used_bytes", "Memory of a GPU in use, by whomever.");
  MetricFamily utilization = Family("ham_gpu_utilization_ratio", "Share of the time in which a kernel ran on a GPU.");
  MetricFamily power = Family("ham_gpu_power_watts", "Power that a GPU draws.");
  MetricFamily temperature = Family("ham_gpu_temperature_celsius", "Temperature of a GPU.");
  MetricFamily errors =
      Family("ham_gpu_ecc_errors_total", "Uncorrected memory errors since the driver was loaded.", MetricType::Counter);
  MetricFamily throttled = Family("ham_gpu_throttled", "1 while the clocks of a GPU are held down for this reason.");

  void Add(const std::string& worker, const ham::v1::Slot& slot, const ham::v1::GpuReading& gpu) {
    const Labels labels = {{"worker", worker}, {"gpu", slot.device_id()}};
    AddMetric(&memory, labels, static_cast<double>(slot.memory_bytes()));
    if (gpu.has_memory_used_bytes()) AddMetric(&used, labels, static_cast<double>(gpu.memory_used_bytes()));
    if (gpu.has_utilization()) AddMetric(&utilization, labels, gpu.utilization());
    if (gpu.has_power_watts()) AddMetric(&power, labels, gpu.power_watts());
    if (gpu.has_temperature_celsius()) AddMetric(&temperature, labels, gpu.temperature_celsius());
    if (gpu.has_ecc_errors()) AddMetric(&errors, labels, static_cast<double>(gpu.ecc_errors()));
    if (!gpu.has_throttle()) return;
    const auto add_reason = [&](const char* reason, bool holds) {
      AddMetric(&throttled, {labels[0], labels[1], {"reason", reason}}, holds ? 1 : 0);
    };
    add_reason("hardware_thermal", gpu.throttle().hardware_thermal());
    add_reason("software_thermal", gpu.throttle().software_thermal());
    add_reason("power_brake", gpu.throttle().power_brake());
    add_reason("power_cap", gpu.throttle().power_cap());
  }
};

// Of what a worker says twice the first counts.
void AddGpus(const WorkerView& worker, const std::vector<ham::v1::GpuReading>& readings, GpuFamilies* families) {
  std::set<std::string> seen;
  for (const ham::v1::GpuReading& reading : readings) {
    for (const ham::v1::Slot& slot : worker.slots) {
      if (slot.index() != reading.slot() || slot.device() != "cuda" || !seen.insert(slot.device_id()).second) continue;
      families->Add(worker.row.name, slot, reading);
    }
  }
}

struct JobFamilies {
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

// Adds the series of jobs as long as they fit. What a worker reports may name anything twice; a scrape with one series
// twice is refused as a whole.
class JobSeries {
 public:
  explicit JobSeries(size_t most) : left_(most) {}

  void Add(const std::string& job, const JobMetrics& metrics) {
    const Labels labels = {{"job", job}};
    Group scalars = {{&out_.epoch, labels, static_cast<double>(metrics.epoch)},
                     {&out_.iteration, labels, static_cast<double>(metrics.iteration)}};
    if (metrics.train) {
      scalars.push_back({&out_.speed, labels, metrics.train->images_per_second()});
      scalars.push_back({&out_.hard, labels, metrics.train->hard_share()});
      scalars.push_back({&out_.efficiency, labels, metrics.train->model_flops_utilization()});
      for (const auto& [phase, seconds] : metrics.phase_seconds.seconds()) {
        scalars.push_back({&out_.phases, {{"job", job}, {"phase", phase}}, seconds});
      }
    }
    if (metrics.evaluation) {
      scalars.push_back(
          {&out_.clean, {{"job", job}, {"split", metrics.evaluation->split()}}, metrics.evaluation->clean_accuracy()});
      scalars.push_back({&out_.overfitting, labels, metrics.robust_overfitting ? 1.0 : 0.0});
      AddProgress(job, *metrics.evaluation, &scalars);
    }
    if (!AddGroup(scalars) || !metrics.evaluation) return;
    std::set<std::string> names;
    for (const ham::v1::SuiteMetrics& suite : metrics.evaluation->suites()) {
      if (names.size() == 2 * size_t{kMostSuites}) break;
      if (names.insert(suite.name()).second) AddSuite(job, suite, *metrics.evaluation);
    }
  }

  JobFamilies& families() { return out_; }

 private:
  struct Series {
    MetricFamily* family;
    Labels labels;
    double value;
  };
  using Group = std::vector<Series>;

  // While the job is not done.
  void AddProgress(const std::string& job, const ham::v1::EvaluationMetrics& evaluation, Group* group) {
    if (!evaluation.has_progress()) return;
    const ham::v1::EvaluationProgress& progress = evaluation.progress();
    group->push_back({&out_.rows_left, {{"job", job}, {"stage", progress.stage()}}, 1.0 * progress.rows_left()});
    if (progress.has_seconds_left()) {
      group->push_back({&out_.seconds_left, {{"job", job}}, progress.seconds_left()});
    }
  }

  void AddSuite(const std::string& job, const ham::v1::SuiteMetrics& suite,
                const ham::v1::EvaluationMetrics& evaluation) {
    const Labels labels = {{"job", job}, {"suite", suite.name()}, {"split", evaluation.split()}};
    const auto of_class = [&labels](const std::string& name) {
      Labels result = labels;
      result.emplace_back("class", name);
      return result;
    };
    if (!AddGroup({{&out_.robust, labels, suite.robust_accuracy()},
                   {&out_.worst, of_class(suite.worst_class_name()), suite.worst_class_robust_accuracy()}})) {
      return;
    }
    Group classes;
    std::set<std::string> names;
    for (int i = 0; i < suite.per_class_robust_accuracy_size(); ++i) {
      const std::string name = i < evaluation.class_names_size() ? evaluation.class_names(i) : absl::StrCat(i);
      if (!names.insert(name).second) continue;
      classes.push_back({&out_.by_class, of_class(name), suite.per_class_robust_accuracy(i)});
    }
    AddGroup(classes);
  }

  // All of them, or none when they do not fit.
  bool AddGroup(const Group& group) {
    if (group.size() > left_) return false;
    left_ -= group.size();
    for (const Series& series : group) AddMetric(series.family, series.labels, series.value);
    return true;
  }

  size_t left_;
  JobFamilies out_;
};

class SnapshotCollectable : public prometheus::Collectable {
 public:
  SnapshotCollectable(size_t job_series, const SnapshotCell* snapshot) : job_series_(job_series), snapshot_(snapshot) {}
  std::vector<MetricFamily> Collect() const override { return CollectMetrics(*snapshot_->Get(), job_series_); }

 private:
  const size_t job_series_;
  const SnapshotCell* const snapshot_;
};

}  // namespace

std::vector<MetricFamily> CollectMetrics(const ClusterSnapshot& snapshot, size_t job_series) {
  std::vector<MetricFamily> families = ClusterFamilies(snapshot);
  GpuFamilies gpus;
  for (const WorkerView& worker : snapshot.workers) {
    const auto readings = snapshot.gpus.find(worker.row.worker_id);
    if (readings != snapshot.gpus.end()) AddGpus(worker, readings->second, &gpus);
  }
  JobSeries series(job_series);
  for (const auto& [job, metrics] : snapshot.metrics) series.Add(job, *metrics);
  JobFamilies& jobs = series.families();
  for (MetricFamily* family :
       {&gpus.memory,     &gpus.used,        &gpus.utilization, &gpus.power,     &gpus.temperature,
        &gpus.errors,     &gpus.throttled,   &jobs.epoch,       &jobs.iteration, &jobs.speed,
        &jobs.efficiency, &jobs.phases,      &jobs.hard,        &jobs.rows_left, &jobs.seconds_left,
        &jobs.clean,      &jobs.overfitting, &jobs.robust,      &jobs.worst,     &jobs.by_class}) {
    if (!family->metric.empty()) families.push_back(std::move(*family));
  }
  return families;
}

MetricsExporter::MetricsExporter() = default;
MetricsExporter::~MetricsExporter() = default;

absl::StatusOr<std::unique_ptr<MetricsExporter>> MetricsExporter::Start(const std::string& address, size_t job_series,
                                                                        const SnapshotCell* snapshot) {
  std::unique_ptr<MetricsExporter> exporter(new MetricsExporter);
  try {
    exporter->exposer_ = std::make_unique<prometheus::Exposer>(address, 2);
    exporter->collectable_ = std::make_shared<SnapshotCollectable>(job_series, snapshot);
    exporter->exposer_->RegisterCollectable(exporter->collectable_);
    const std::vector<int> ports = exporter->exposer_->GetListeningPorts();
    if (ports.empty()) throw std::runtime_error("no port");
    exporter->address_ = absl::StrCat(address.substr(0, address.rfind(':')), ":", ports.front());
  } catch (const std::exception&) {
    return absl::UnavailableError(absl::StrCat("cannot serve metrics on ", address,
                                               ": the address is in use or not of this host; choose another "
                                               "--metrics-listen, or \"\" for none"));
  }
  return exporter;
}

}  // namespace ham::server
