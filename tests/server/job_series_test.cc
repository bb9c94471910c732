#include "server/job_series.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "proto/utf8.h"
#include "tests/server/metrics_fixture.h"

namespace ham::server {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::Key;
using ::testing::Not;
using ::testing::Pair;
using ::testing::StartsWith;
using ::testing::UnorderedElementsAre;

constexpr size_t kPlenty = 1000000;

std::map<std::string, double> Shown(const std::vector<JobPicture>& jobs, size_t most = kPlenty) {
  MetricFamilies families;
  AddJobFamilies(SnapshotOf(jobs), most, &families);
  return SeriesOf(families);
}

// Of a job, those of its classes among them.
size_t CountOf(const std::map<std::string, double>& series, const std::string& job) {
  size_t count = 0;
  for (const auto& [name, unused] : series) {
    for (const char* end : {",", "}"}) count += name.find(absl::StrCat("{job=", job, end)) != std::string::npos;
  }
  return count;
}

size_t ClassesOf(const std::map<std::string, double>& series) {
  size_t count = 0;
  for (const auto& [name, unused] : series) count += name.rfind("ham_job_class_", 0) == 0;
  return count;
}

JobMetrics Evaluated(int suites, int classes) {
  JobMetrics metrics;
  ham::v1::EvaluationMetrics& evaluation = metrics.evaluation.emplace();
  evaluation.set_split("test");
  for (int s = 0; s < suites; ++s) {
    ham::v1::SuiteMetrics* suite = evaluation.add_suites();
    suite->set_name(absl::StrCat("suite-", s));
    for (int c = 0; c < classes; ++c) suite->add_per_class_robust_accuracy(0.5);
  }
  return metrics;
}

// A job of which everything is known, with all that any worker can say.
JobPicture WithEverything(const std::string& name, int suites, int classes) {
  JobMetrics metrics = Evaluated(suites, classes);
  metrics.train.emplace().mutable_phase_seconds()->set_attack(1);
  metrics.phase_seconds.Add(*metrics.train);
  metrics.evaluation->mutable_progress()->set_stage("apgd");
  metrics.evaluation->mutable_progress()->set_seconds_left(1);
  JobPicture job = Picture(name, std::move(metrics));
  job.end_time = job.create_time;
  job.checkpoint_iteration = 3;
  return job;
}

TEST(JobSeries, SaysWhatAJobIsBeforeItHasMetrics) {
  JobPicture job = Picture("j");
  auto face = std::make_shared<JobFace>(*job.face);
  face->evaluates = true;
  face->method = "ham";
  face->model = "wrn-34-10";
  face->creator = "admin";
  job.face = face;
  job.state = ham::v1::Job::RECOVERING;
  job.attempt = 3;
  job.failed_attempts = 2;
  EXPECT_THAT(Shown({job}), UnorderedElementsAre(
                                Pair("ham_job_attempt{job=j}", 3), Pair("ham_job_failed_attempts{job=j}", 2),
                                Pair("ham_job_info{job=j,project=p,kind=evaluate,method=ham,data_set=d,model=wrn-34-10,"
                                     "creator=admin}",
                                     1),
                                Pair("ham_job_series{}", 5), Pair("ham_job_series_left_out{}", 0),
                                Pair("ham_job_state{job=j,state=RECOVERING}", 1),
                                Pair("ham_job_submit_timestamp_seconds{job=j}", 7)));
  job.end_time = absl::UnixEpoch() + absl::Seconds(90);
  job.checkpoint_iteration = 40;
  EXPECT_THAT(Shown({job}), AllOf(Contains(Pair("ham_job_end_timestamp_seconds{job=j}", 90)),
                                  Contains(Pair("ham_job_checkpoint_iteration{job=j}", 40))));
}

TEST(JobSeries, ShowsWhatIsLeftOfAnEvaluationUntilItIsDone) {
  JobMetrics metrics;
  ham::v1::EvaluationMetrics& evaluation = metrics.evaluation.emplace();
  EXPECT_THAT(Shown({Picture("j", metrics)}), Not(Contains(Key(StartsWith("ham_job_evaluation_")))));
  evaluation.mutable_progress()->set_stage("apgd-t");
  evaluation.mutable_progress()->set_rows_left(812);
  EXPECT_THAT(Shown({Picture("j", metrics)}),
              AllOf(Contains(Pair("ham_job_evaluation_rows_left{job=j,stage=apgd-t}", 812)),
                    Not(Contains(Key(StartsWith("ham_job_evaluation_seconds_left"))))));
  evaluation.mutable_progress()->set_seconds_left(2.5);
  EXPECT_THAT(Shown({Picture("j", metrics)}), Contains(Pair("ham_job_evaluation_seconds_left{job=j}", 2.5)));
}

TEST(JobSeries, HoldsAJobToItsBudgetWhateverItReports) {
  const std::map<std::string, double> series = Shown({WithEverything("j", 1000, 1000)});
  EXPECT_EQ(ClassesOf(series), kMostClassSuites * kMostClasses);
  EXPECT_LE(CountOf(series, "j") - ClassesOf(series), kMostJobSeries);
  EXPECT_GE(CountOf(series, "j") - ClassesOf(series), kMostJobSeries - 1);  // suites come in twos
  EXPECT_EQ(series.at("ham_job_series{}"), 1.0 * CountOf(series, "j"));
  // 2 a suite, 1000 a suite, and what every job has.
  EXPECT_EQ(series.at("ham_job_series{}") + series.at("ham_job_series_left_out{}"), 23 + 1000 * (2 + 1000));
}

TEST(JobSeries, ShowsTheClassesOfASmallJobWhole) {
  const std::map<std::string, double> series = Shown({Picture("j", Evaluated(2, 100))});
  EXPECT_EQ(ClassesOf(series), 200u);
  EXPECT_EQ(series.at("ham_job_series_left_out{}"), 0);
}

TEST(JobSeries, GivesUpClassesBeforeJobsAndJobsInTheirOrder) {
  std::vector<JobPicture> jobs;
  for (const char* name : {"a", "b", "c"}) jobs.push_back(Picture(name, Evaluated(1, 10)));
  const size_t of_job = 5 + 4 + 2;  // beside its classes
  for (size_t most = 0; most <= 3 * (of_job + 10); ++most) {
    const std::map<std::string, double> series = Shown(jobs, most);
    EXPECT_LE(series.at("ham_job_series{}"), 1.0 * most);
    EXPECT_EQ(series.at("ham_job_series{}") + series.at("ham_job_series_left_out{}"), 3.0 * (of_job + 10));
    EXPECT_EQ(ClassesOf(series), most < 3 * of_job ? 0 : (most - 3 * of_job) / 10 * 10) << most;
    for (size_t i = 0; i < jobs.size(); ++i) {
      if (CountOf(series, jobs[i].face->name) == 0) continue;
      EXPECT_EQ(series.count(absl::StrCat("ham_job_attempt{job=", jobs[i].face->name, "}")), 1u) << most;
      for (size_t before = 0; before < i; ++before) {
        EXPECT_GE(CountOf(series, jobs[before].face->name), CountOf(series, jobs[i].face->name)) << most;
      }
    }
  }
}

TEST(JobSeries, NamesNothingTwice) {
  JobMetrics metrics;
  ham::v1::EvaluationMetrics& evaluation = metrics.evaluation.emplace();
  const std::string longer(1000, 'x');
  for (const std::string& name : {std::string("cat"), std::string("cat"), longer + "1", longer + "2"}) {
    evaluation.add_class_names(name);
    ham::v1::SuiteMetrics* suite = evaluation.add_suites();
    suite->set_name(name);
    for (int c = 0; c < 4; ++c) suite->add_per_class_robust_accuracy(0.5);
  }
  const std::map<std::string, double> series = Shown({Picture("j", metrics)});  // which looks for twins
  EXPECT_EQ(ClassesOf(series), 2u * 2u);
}

TEST(JobSeries, CutsWhatIsTooLongToBeALabel) {
  JobMetrics metrics = Evaluated(1, 1);
  std::string euros;
  for (int i = 0; i < 10000; ++i) euros += "\xE2\x82\xAC";
  metrics.evaluation->mutable_suites(0)->set_name(euros);
  metrics.evaluation->mutable_suites(0)->set_worst_class_name("\xFF\xFE not UTF-8");
  metrics.evaluation->add_class_names(euros);
  metrics.evaluation->set_split(euros);
  for (const auto& [name, unused] : Shown({Picture("j", metrics)})) {
    EXPECT_LT(name.size(), 1000u) << name;
    EXPECT_TRUE(IsUtf8(name)) << name;
  }
}

TEST(JobSeries, CountsJobsThatAreNotInTheSnapshot) {
  ClusterSnapshot snapshot = SnapshotOf({Picture("j")});
  snapshot.jobs_left_out = 3;
  MetricFamilies families;
  AddJobFamilies(snapshot, kPlenty, &families);
  EXPECT_EQ(SeriesOf(families).at("ham_job_series_left_out{}"), 3.0 * kFewestSeries);
}

}  // namespace
}  // namespace ham::server
