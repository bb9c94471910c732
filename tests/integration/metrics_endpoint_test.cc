// /metrics as Prometheus gets it: over HTTP, every line checked.
#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <map>
#include <regex>
#include <set>
#include <sstream>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "proto/job_spec.h"
#include "server/job_series.h"
#include "tests/integration/scripted_worker.h"
#include "tests/integration/test_server.h"

namespace ham::testing {
namespace {

using ham::v1::Job;
using ham::v1::ObservedRank;
using ::testing::Contains;
using ::testing::StartsWith;

// The whole answer to GET `path`.
std::string HttpGet(const std::string& address, const std::string& path) {
  const size_t colon = address.rfind(':');
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(static_cast<uint16_t>(std::stoi(address.substr(colon + 1))));
  ::inet_pton(AF_INET, address.substr(0, colon).c_str(), &to.sin_addr);
  const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
  const timeval bound{.tv_sec = kBound.count(), .tv_usec = 0};
  ::setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &bound, sizeof(bound));
  std::string answer;
  if (::connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof(to)) == 0) {
    const std::string request = absl::StrCat("GET ", path, " HTTP/1.0\r\nHost: ", address, "\r\n\r\n");
    if (::write(fd, request.data(), request.size()) == static_cast<ssize_t>(request.size())) {
      char buffer[65536];
      for (ssize_t count = 0; (count = ::read(fd, buffer, sizeof(buffer))) > 0;) {
        answer.append(buffer, static_cast<size_t>(count));
      }
    }
  }
  ::close(fd);
  return answer;
}

// Series ("name{labels}") to value. Fails the test for each line that is not of the text format 0.0.4, for a series
// that stands twice, for one without HELP and TYPE before it, and for counters not named as such.
std::map<std::string, double> Parse(const std::string& text) {
  static const std::regex kHelp("# HELP ([a-zA-Z_:][a-zA-Z0-9_:]*) .+");
  static const std::regex kType("# TYPE ([a-zA-Z_:][a-zA-Z0-9_:]*) (counter|gauge|summary|histogram)");
  static const std::regex kSample(
      "([a-zA-Z_:][a-zA-Z0-9_:]*)((?:\\{(?:[a-zA-Z_][a-zA-Z0-9_]*=\"(?:[^\"\\\\\\n]|\\\\[\\\\n\"])*\",?)+\\})?) "
      "(-?[0-9.]+(?:e[+-]?[0-9]+)?|[+-]Inf|Nan|NaN)");
  std::map<std::string, double> series;
  std::map<std::string, std::string> types;
  std::set<std::string> helped;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    std::smatch match;
    if (std::regex_match(line, match, kHelp)) {
      EXPECT_TRUE(helped.insert(match[1]).second) << line;
    } else if (std::regex_match(line, match, kType)) {
      EXPECT_TRUE(helped.count(match[1]) == 1 && types.emplace(match[1], match[2]).second) << line;
      EXPECT_TRUE(match[2] != "counter" || line.find("_total ") != std::string::npos) << line;
    } else if (std::regex_match(line, match, kSample)) {
      std::string family = match[1];
      for (const char* suffix : {"_count", "_sum"}) {
        const std::string stem = family.substr(0, family.size() - std::min(family.size(), strlen(suffix)));
        if (types.count(family) == 0 && types.count(stem) == 1 && types[stem] == "summary") family = stem;
      }
      EXPECT_EQ(types.count(family), 1u) << line;
      double value = 0;
      EXPECT_TRUE(absl::SimpleAtod(match[3].str(), &value)) << line;
      EXPECT_TRUE(series.emplace(absl::StrCat(match[1].str(), match[2].str()), value).second) << line;
    } else {
      ADD_FAILURE() << "no line of the format: " << line;
    }
  }
  return series;
}

class MetricsEndpointTest : public ::testing::Test {
 protected:
  void Start() {
    server_.options.metrics_listen = "127.0.0.1:0";
    server_.options.limits.metrics_after_end = absl::Milliseconds(1);
    const absl::Status status = server_.Start();
    ASSERT_TRUE(status.ok()) << status;
    client_.emplace(server_);
    worker_.emplace(server_, "a", 2);
    ASSERT_TRUE(worker_->Connect().ok());
  }
  std::map<std::string, double> Scrape() {
    const std::string answer = HttpGet(server_->metrics_address(), "/metrics");
    EXPECT_THAT(answer, StartsWith("HTTP/1.1 200"));
    const size_t body = answer.find("\r\n\r\n");
    return body == std::string::npos ? std::map<std::string, double>() : Parse(answer.substr(body + 4));
  }
  // Waits for a series to have a value.
  bool Shows(const std::string& series, double value) {
    return Eventually([&] {
      const std::map<std::string, double> scraped = Scrape();
      const auto found = scraped.find(series);
      return found != scraped.end() && found->second == value;
    });
  }
  // Of SmallSpec, with its defaults.
  static std::string Method() {
    ham::v1::JobSpec spec = SmallSpec();
    EXPECT_THAT(ResolveJobSpec(&spec), ::testing::IsEmpty());
    return spec.train().method().name();
  }
  ham::v1::Assignment RunJobWithMetrics(int classes) {
    const std::string name = client_->MustCreate();
    const auto rank = worker_->Take(name, ObservedRank::RUNNING);
    EXPECT_TRUE(rank.has_value());
    EXPECT_TRUE(client_->WaitForState(name, Job::RUNNING).ok());
    ham::v1::ReportRequest report;
    *report.mutable_fence() = worker_->FenceOf(name, 1);
    ham::v1::MetricPoint train;
    train.set_iteration(40);
    train.set_epoch(2);
    train.mutable_train()->set_images_per_second(125.5);
    train.mutable_train()->set_hard_share(std::nan(""));
    train.mutable_train()->set_model_flops_utilization(0.375);
    train.mutable_train()->mutable_phase_seconds()->set_attack(1.5);
    ham::v1::MetricPoint evaluation = train;
    auto* results = evaluation.mutable_evaluation();
    results->set_split("validation");
    results->set_clean_accuracy(0.75);
    ham::v1::SuiteMetrics* suite = results->add_suites();
    suite->set_name("pgd-20");
    suite->set_robust_accuracy(0.5);
    suite->set_worst_class_name("ankle \"boot\"\\\n");
    suite->set_worst_class_robust_accuracy(0.125);
    for (int i = 0; i < classes; ++i) {
      results->add_class_names(i == 0 ? "ankle \"boot\"\\\n" : absl::StrCat("class ", i));
      suite->add_per_class_robust_accuracy(i == 1 ? std::nan("") : 0.125);
    }
    *report.add_records() = Metric(1, train);
    *report.add_records() = Metric(2, evaluation);
    ham::v1::MetricPoint notice = train;
    notice.mutable_notice()->set_reason("ROBUST_OVERFITTING");
    *report.add_records() = Metric(3, notice);
    EXPECT_TRUE(ReportCall(&*worker_).Send(report).ok());
    return rank.value_or(ham::v1::Assignment());
  }

  TestServer server_;
  std::optional<Client> client_;
  std::optional<ScriptedWorker> worker_;
};

TEST_F(MetricsEndpointTest, ShowsTheClusterAndItsJobsUntilSomeTimeAfterTheirEnd) {
  Start();
  const ham::v1::Assignment rank = RunJobWithMetrics(3);
  const std::string job = absl::StrCat("{job=\"", rank.job(), "\"}");
  ASSERT_TRUE(Shows(absl::StrCat("ham_job_clean_accuracy_ratio{job=\"", rank.job(), "\",split=\"validation\"}"), 0.75));
  ASSERT_TRUE(Shows(absl::StrCat("ham_job_robust_overfitting{job=\"", rank.job(), "\"}"), 1));
  const std::map<std::string, double> series = Scrape();
  const auto value = [&series](const std::string& name) {
    const auto found = series.find(name);
    EXPECT_TRUE(found != series.end()) << name;
    return found == series.end() ? -1.0 : found->second;
  };
  EXPECT_EQ(value("ham_jobs{state=\"RUNNING\"}"), 1);
  EXPECT_EQ(value("ham_jobs{state=\"QUEUED\"}"), 0);
  EXPECT_EQ(value("ham_job_attempts_total"), 1);
  EXPECT_GE(value("ham_store_commits_total"), 3);
  EXPECT_EQ(value("ham_store_failed_commits_total"), 0);
  EXPECT_EQ(value("ham_store_failed"), 0);
  EXPECT_EQ(value("ham_job_epoch" + job), 2);
  EXPECT_EQ(value("ham_job_iteration" + job), 40);
  EXPECT_EQ(value("ham_job_images_per_second" + job), 125.5);
  EXPECT_EQ(value("ham_job_model_flops_utilization_ratio" + job), 0.375);
  const std::string phase = absl::StrCat("ham_job_phase_seconds_total{job=\"", rank.job(), "\",phase=\"");
  EXPECT_EQ(value(phase + "attack\"}"), 1.5);
  EXPECT_EQ(value(phase + "data\"}"), 0);
  EXPECT_TRUE(std::isnan(value("ham_job_hard_share_ratio" + job)));
  const std::string suite = absl::StrCat("{job=\"", rank.job(), "\",suite=\"pgd-20\",split=\"validation\"");
  const std::string boot = ",class=\"ankle \\\"boot\\\"\\\\\\n\"}";
  EXPECT_EQ(value("ham_job_robust_accuracy_ratio" + suite + "}"), 0.5);
  EXPECT_EQ(value("ham_job_worst_class_robust_accuracy_ratio" + suite + boot), 0.125);
  EXPECT_EQ(value("ham_job_class_robust_accuracy_ratio" + suite + boot), 0.125);
  EXPECT_TRUE(std::isnan(value("ham_job_class_robust_accuracy_ratio" + suite + ",class=\"class 1\"}")));
  std::set<std::string> families;
  for (const auto& [name, unused] : series) {
    const std::string family = name.substr(0, name.find('{'));
    EXPECT_TRUE(family.rfind("ham_", 0) == 0 || family.rfind("process_", 0) == 0) << name;
    families.insert(family);
  }
  EXPECT_THAT(HttpGet(server_->metrics_address(), "/etc/passwd"), StartsWith("HTTP/1.0 404"));
  for (const char* family :
       {"ham_build_info", "ham_workers", "ham_slots", "ham_store_commit_seconds_count", "ham_store_commit_seconds_sum",
        "process_start_time_seconds", "process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds",
        "ham_state_bytes", "ham_state_bytes_free"}) {
    EXPECT_THAT(families, Contains(family));
  }
  worker_->Beat({Exited(rank, true)});  // metrics_after_end later its series go
  EXPECT_TRUE(Shows("ham_jobs{state=\"SUCCEEDED\"}", 1));
  EXPECT_TRUE(Shows("ham_job_series", 0));
  for (const auto& [name, unused] : Scrape()) EXPECT_EQ(name.find(rank.job()), std::string::npos) << name;
}

TEST_F(MetricsEndpointTest, ShowsGpusUntilTheirWorkerIsGone) {
  server_.options.metrics_listen = "127.0.0.1:0";
  ASSERT_TRUE(server_.Start().ok());
  worker_.emplace(server_, "a", 1);
  ham::v1::Slot* slot = worker_->registration.add_slots();
  slot->set_index(1);
  slot->set_device("cuda");
  slot->set_device_id("GPU-1");
  slot->set_memory_bytes(80);
  ASSERT_TRUE(worker_->Connect().ok());
  ham::v1::AgentMessage message;
  for (const int index : {0, 1, 1, 2}) {  // a CPU slot, the GPU twice, and no slot
    ham::v1::GpuReading* reading = message.mutable_beat()->add_gpus();
    reading->set_slot(index);
    reading->set_memory_used_bytes(40);
    reading->set_utilization(0.75);
    reading->set_power_watts(400.5);
    reading->set_temperature_celsius(61);
    reading->set_ecc_errors(3);
    reading->mutable_throttle()->set_power_cap(true);
  }
  worker_->Send(message);
  ASSERT_TRUE(Shows("ham_gpu_power_watts{worker=\"a\",gpu=\"GPU-1\"}", 400.5));
  const auto gpu_series = [this] {
    std::map<std::string, double> series = Scrape();
    std::erase_if(series, [](const auto& entry) { return entry.first.rfind("ham_gpu_", 0) != 0; });
    return series;
  };
  const std::string of_gpu = "{worker=\"a\",gpu=\"GPU-1\"";
  EXPECT_THAT(gpu_series(), ::testing::UnorderedElementsAreArray(std::map<std::string, double>{
                                {"ham_gpu_memory_bytes" + of_gpu + "}", 80},
                                {"ham_gpu_memory_used_bytes" + of_gpu + "}", 40},
                                {"ham_gpu_utilization_ratio" + of_gpu + "}", 0.75},
                                {"ham_gpu_power_watts" + of_gpu + "}", 400.5},
                                {"ham_gpu_temperature_celsius" + of_gpu + "}", 61},
                                {"ham_gpu_ecc_errors_total" + of_gpu + "}", 3},
                                {"ham_gpu_throttled" + of_gpu + ",reason=\"hardware_thermal\"}", 0},
                                {"ham_gpu_throttled" + of_gpu + ",reason=\"software_thermal\"}", 0},
                                {"ham_gpu_throttled" + of_gpu + ",reason=\"power_brake\"}", 0},
                                {"ham_gpu_throttled" + of_gpu + ",reason=\"power_cap\"}", 1}}));
  // What a GPU does not tell has no series.
  message.mutable_beat()->clear_gpus();
  message.mutable_beat()->add_gpus()->set_slot(1);
  worker_->Send(message);
  EXPECT_TRUE(Eventually([&] { return gpu_series().size() == 1; }));
  worker_->Disconnect();
  EXPECT_TRUE(Eventually([&] { return gpu_series().empty(); }));
}

TEST_F(MetricsEndpointTest, DescribesTheJobTheWorkerAndTheCoordinator) {
  server_.options.artifact_quota = 1 << 20;
  Start();
  const ham::v1::Assignment rank = RunJobWithMetrics(1);
  const std::string job = absl::StrCat("{job=\"", rank.job(), "\"");
  ASSERT_TRUE(Shows(absl::StrCat("ham_job_state", job, ",state=\"RUNNING\"}"), 1));
  const std::map<std::string, double> series = Scrape();
  const auto expect = [&series](const std::string& name, double value) {
    EXPECT_THAT(series, Contains(::testing::Pair(name, value)));
  };
  expect(absl::StrCat("ham_job_info", job, ",project=\"default\",kind=\"train\",method=\"", Method(), "\",data_set=\"",
                      SmallSpec().train().data().name(), "\",model=\"cnn-16-32\",creator=\"admin\"}"),
         1);
  expect("ham_job_attempt" + job + "}", 1);
  expect("ham_job_failed_attempts" + job + "}", 0);
  expect("ham_worker_connected{worker=\"a\"}", 1);
  expect("ham_worker_slots{worker=\"a\",device=\"cpu\",state=\"BUSY\"}", 1);
  expect("ham_streams{kind=\"control\"}", 1);
  expect("ham_job_events_total{reason=\"GANG_PLACED\"}", 1);
  expect("ham_job_events_total{reason=\"ALL_RANKS_RUNNING\"}", 1);
  expect("ham_queue_jobs", 0);
  expect("ham_artifact_quota_bytes", 1 << 20);
  expect("ham_job_series_left_out", 0);
  EXPECT_GE(series.at("ham_core_batch_seconds_count"), series.at("ham_store_commit_seconds_count"));
  EXPECT_LT(series.at("ham_worker_beat_age_seconds{worker=\"a\"}"), 20);
  const double now = absl::ToDoubleSeconds(absl::Now() - absl::UnixEpoch());
  EXPECT_NEAR(series.at("ham_job_submit_timestamp_seconds" + job + "}"), now, 60);
  worker_->Disconnect();
  EXPECT_TRUE(Shows("ham_streams{kind=\"control\"}", 0));
  EXPECT_TRUE(Shows("ham_worker_connected{worker=\"a\"}", 0));
}

TEST_F(MetricsEndpointTest, CountsTheStreamsOfClients) {
  Start();
  const std::string name = client_->MustCreate();
  ham::v1::WatchJobRequest request;
  request.set_name(name);
  request.set_follow(true);
  {
    Watch watch(&*client_, request);
    EXPECT_TRUE(Shows("ham_streams{kind=\"watch\"}", 1));
  }
  EXPECT_TRUE(Shows("ham_streams{kind=\"watch\"}", 0));
}

TEST_F(MetricsEndpointTest, TellsWhenItsCertificateEnds) {
  server_.options.insecure = false;
  Start();
  const double years = (Scrape().at("ham_certificate_expiry_timestamp_seconds") -
                        absl::ToDoubleSeconds(absl::Now() - absl::UnixEpoch())) /
                       (365 * 86400.0);
  EXPECT_NEAR(years, 5, 0.01);
}

TEST_F(MetricsEndpointTest, AnswersProbes) {
  Start();
  for (const char* path : {"/healthz", "/readyz"}) {
    const std::string answer = HttpGet(server_->metrics_address(), path);
    EXPECT_THAT(answer, StartsWith("HTTP/1.1 200"));
    EXPECT_THAT(answer, ::testing::EndsWith("\r\n\r\nok\n"));
  }
  server_.StopServing();
  EXPECT_THAT(HttpGet(server_->metrics_address(), "/healthz"), StartsWith("HTTP/1.1 200"));
  const std::string answer = HttpGet(server_->metrics_address(), "/readyz");
  EXPECT_THAT(answer, StartsWith("HTTP/1.1 503"));
  EXPECT_THAT(answer, ::testing::EndsWith("\r\n\r\nthe coordinator starts or stops; try again in a moment\n"));
}

// All that a worker may send in one point: the scrape stays within the format and the job within its budget.
TEST_F(MetricsEndpointTest, StaysWithinItsBoundsUnderAHostileReport) {
  Start();
  const ham::v1::Assignment rank = RunJobWithMetrics(1);
  ham::v1::MetricPoint point;
  point.set_iteration(41);
  auto* results = point.mutable_evaluation();
  results->set_split("\"}\n# TYPE ham_jobs counter\nham_jobs{state=\"RUNNING\"} 9000\n");
  for (int i = 0; i < 300; ++i) {
    results->add_class_names(i % 3 == 0 ? "twin" : absl::StrCat("class \\ \"\n\xC3\xA9\xE2\x82\xAC ", i));
    ham::v1::SuiteMetrics* suite = results->add_suites();
    suite->set_name(absl::StrCat(std::string(i == 0 ? 100000 : 1, 'n'), "\"\n", i / 2));
    suite->set_worst_class_name("\xF0\x9F\xA6\x8A");
    for (int c = 0; c < 5; ++c) suite->add_per_class_robust_accuracy(c == 0 ? 1e308 * 10 : -std::nan(""));
  }
  ham::v1::ReportRequest report;
  *report.mutable_fence() = worker_->FenceOf(rank.job(), 1);
  *report.add_records() = Metric(4, point);
  ASSERT_TRUE(ReportCall(&*worker_).Send(report).ok());
  ASSERT_TRUE(Shows(absl::StrCat("ham_job_iteration{job=\"", rank.job(), "\"}"), 41));
  const std::map<std::string, double> series = Scrape();  // which looks at each line
  EXPECT_EQ(series.at("ham_jobs{state=\"RUNNING\"}"), 1);
  size_t count = 0, classes = 0;
  for (const auto& [name, unused] : series) {
    count += name.find(rank.job()) != std::string::npos;
    classes += name.rfind("ham_job_class_", 0) == 0;
    EXPECT_LT(name.size(), 2000u);
  }
  EXPECT_LE(count - classes, server::kMostJobSeries);
  EXPECT_LE(classes, server::kMostClassSuites * server::kMostClasses);
  EXPECT_EQ(series.at("ham_job_series"), 1.0 * count);
  EXPECT_GT(series.at("ham_job_series_left_out"), 200);
}

}  // namespace
}  // namespace ham::testing
