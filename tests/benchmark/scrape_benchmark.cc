// Measures what a scrape of many jobs costs.
//
//   scrape_benchmark JOBS ROUNDS    one JSON line: series and bytes of /metrics with so many jobs of 30 series, and
//                                   milliseconds of each round: of ours, from a snapshot to the text, and of a peer,
//                                   prometheus-cpp's own registry with the same series, from its metrics to the text
//
// The jobs are those of a snapshot, as the coordinator would show them: nothing here runs. Rounds alternate.
#include <prometheus/gauge.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/cluster_snapshot.h"
#include "server/job_series.h"
#include "server/metric_text.h"

namespace ham::server {
namespace {

// A job in training with 30 series: evaluated under five suites, without classes.
JobPicture TrainingJob(int number) {
  JobFace face;
  face.name = absl::StrCat("projects/default/jobs/j", 1000000000 + number);
  face.project = "default";
  face.data_set = "cifar-10";
  face.creator = "admin";
  face.method = "ham";
  face.model = "preact-resnet-18";
  JobMetrics metrics;
  metrics.iteration = 1000 + number;
  metrics.epoch = 3;
  ham::v1::TrainMetrics& train = metrics.train.emplace();
  train.set_images_per_second(7906.25 + number);
  train.set_hard_share(0.53);
  train.set_model_flops_utilization(0.31);
  train.mutable_phase_seconds()->set_attack(number + 0.123456789);
  train.mutable_phase_seconds()->set_train(number + 0.023456789);
  metrics.phase_seconds.Add(train);
  ham::v1::EvaluationMetrics& evaluation = metrics.evaluation.emplace();
  evaluation.set_split("validation");
  evaluation.set_clean_accuracy(0.8123);
  for (const char* name : {"pgd-20", "pgd-100", "cw-20", "l2-pgd-20", "autoattack"}) {
    ham::v1::SuiteMetrics* suite = evaluation.add_suites();
    suite->set_name(name);
    suite->set_robust_accuracy(0.4567);
    suite->set_worst_class_name("cat");
    suite->set_worst_class_robust_accuracy(0.1234);
  }
  JobPicture job;
  job.face = std::make_shared<const JobFace>(std::move(face));
  job.state = ham::v1::Job::RUNNING;
  job.attempt = 1;
  job.create_time = absl::FromUnixSeconds(1700000000 + number);
  job.checkpoint_iteration = 900 + number;
  job.metrics = std::make_shared<const JobMetrics>(std::move(metrics));
  return job;
}

ClusterSnapshot SnapshotOfJobs(int jobs) {
  std::vector<std::shared_ptr<const JobPicture>> pictures;
  for (int i = 0; i < jobs; ++i) pictures.push_back(std::make_shared<const JobPicture>(TrainingJob(i)));
  ClusterSnapshot snapshot;
  snapshot.jobs = std::make_shared<const std::vector<std::shared_ptr<const JobPicture>>>(std::move(pictures));
  return snapshot;
}

std::string OurText(const ClusterSnapshot& snapshot) {
  MetricFamilies families;
  AddJobFamilies(snapshot, 1000000, &families);
  return MetricText(families);
}

// The same series as metrics that a program keeps.
void Fill(const ClusterSnapshot& snapshot, prometheus::Registry* registry) {
  MetricFamilies families;
  AddJobFamilies(snapshot, 1000000, &families);
  for (const MetricFamily& family : families) {
    auto& gauges = prometheus::BuildGauge().Name(family.name).Help(family.help).Register(*registry);
    for (const prometheus::ClientMetric& metric : family.metric) {
      std::map<std::string, std::string> labels;
      for (const auto& label : metric.label) labels[label.name] = label.value;
      gauges.Add(labels).Set(family.type == MetricType::Counter ? metric.counter.value : metric.gauge.value);
    }
  }
}

template <class Make>
double Milliseconds(const Make& make, std::string* text) {
  const auto begin = std::chrono::steady_clock::now();
  *text = make();
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count();
}

int Run(int jobs, int rounds) {
  const ClusterSnapshot snapshot = SnapshotOfJobs(jobs);
  prometheus::Registry registry;
  Fill(snapshot, &registry);
  std::vector<double> ours, peers;
  std::string text, peer_text;
  for (int i = 0; i < rounds; ++i) {
    ours.push_back(Milliseconds([&] { return OurText(snapshot); }, &text));
    peers.push_back(
        Milliseconds([&] { return prometheus::TextSerializer().Serialize(registry.Collect()); }, &peer_text));
  }
  const auto series = [](const std::string& of) {  // of jobs
    size_t count = 0;
    for (size_t at = of.find("{job="); at != std::string::npos; at = of.find("{job=", at + 1)) ++count;
    return count;
  };
  if (series(text) != 30 * static_cast<size_t>(jobs)) {
    std::fprintf(stderr, "scrape_benchmark: %zu series of %d jobs, not 30 of each\n", series(text), jobs);
    return 1;
  }
  std::printf("%s\n", nlohmann::json{{"jobs", jobs},
                                     {"series", series(text)},
                                     {"bytes", text.size()},
                                     {"ours_ms", ours},
                                     {"peer_bytes", peer_text.size()},
                                     {"peer_ms", peers}}
                          .dump()
                          .c_str());
  return 0;
}

}  // namespace
}  // namespace ham::server

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: scrape_benchmark JOBS ROUNDS\n");
    return 2;
  }
  return ham::server::Run(std::atoi(argv[1]), std::atoi(argv[2]));
}
