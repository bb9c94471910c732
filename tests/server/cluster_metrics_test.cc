#include "server/cluster_metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <regex>
#include <set>
#include <string>

#include "server/gpu_metrics.h"
#include "server/process_metrics.h"
#include "tests/server/metrics_fixture.h"

namespace ham::server {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::Key;
using ::testing::Not;
using ::testing::Pair;

std::map<std::string, double> ShownAt(const ClusterSnapshot& snapshot, absl::Duration now) {
  MetricFamilies families;
  AddClusterFamilies(snapshot, now, &families);
  AddWorkerFamilies(snapshot, now, &families);
  AddGpuFamilies(snapshot, &families);
  return SeriesOf(families);
}

WorkerView Worker(const std::string& name, absl::Duration heard) {
  WorkerView worker;
  worker.row.worker_id = "id-" + name;
  worker.row.name = name;
  worker.state = ham::v1::Worker::CONNECTED;
  worker.build_id = "b";
  worker.heard = heard;
  for (const char* device : {"cpu", "cpu", "cuda"}) worker.slots.emplace_back().set_device(device);
  worker.slots[0].set_job("j");
  return worker;
}

TEST(ClusterMetrics, AgesWhatAnOldSnapshotSays) {
  ClusterSnapshot snapshot;
  snapshot.workers = {Worker("w", absl::Seconds(100))};
  snapshot.waiting_jobs = 2;
  snapshot.oldest_wait = absl::Seconds(50);
  snapshot.leases_held_until = absl::Seconds(115);
  for (const double now : {101.5, 130.0}) {
    const std::map<std::string, double> series = ShownAt(snapshot, absl::Seconds(now));
    EXPECT_EQ(series.at("ham_worker_beat_age_seconds{worker=w}"), now - 100);
    EXPECT_EQ(series.at("ham_queue_oldest_seconds{}"), now - 50);
    EXPECT_EQ(series.at("ham_queue_jobs{}"), 2);
    EXPECT_EQ(series.at("ham_leases_frozen{}"), now < 115 ? 1 : 0);
  }
}

TEST(ClusterMetrics, AnEmptyClusterHasAQueueOfAgeZero) {
  const std::map<std::string, double> series = ShownAt({}, absl::Seconds(1));
  EXPECT_EQ(series.at("ham_queue_jobs{}"), 0);
  EXPECT_EQ(series.at("ham_queue_oldest_seconds{}"), 0);
  EXPECT_EQ(series.at("ham_leases_frozen{}"), 0);
  EXPECT_THAT(series, Not(Contains(Key(HasSubstr("ham_worker_")))));
}

TEST(ClusterMetrics, DescribesEachWorker) {
  ClusterSnapshot snapshot;
  snapshot.workers = {Worker("w", absl::Seconds(1))};
  const std::map<std::string, double> connected = ShownAt(snapshot, absl::Seconds(2));
  EXPECT_THAT(connected, AllOf(Contains(Pair("ham_worker_info{worker=w,build_id=b,state=CONNECTED}", 1)),
                               Contains(Pair("ham_worker_connected{worker=w}", 1)),
                               Contains(Pair("ham_worker_slots{worker=w,device=cpu,state=BUSY}", 1)),
                               Contains(Pair("ham_worker_slots{worker=w,device=cpu,state=FREE}", 1)),
                               Contains(Pair("ham_worker_slots{worker=w,device=cuda,state=BUSY}", 0)),
                               Contains(Pair("ham_worker_slots{worker=w,device=cuda,state=FREE}", 1))));
  EXPECT_THAT(connected, Contains(Pair("ham_slots{device=cpu,state=BUSY}", 1)));
  snapshot.workers[0].state = ham::v1::Worker::EXCLUDED;  // it is there, but takes nothing
  EXPECT_THAT(ShownAt(snapshot, absl::Seconds(2)),
              AllOf(Contains(Pair("ham_worker_connected{worker=w}", 1)),
                    Contains(Pair("ham_worker_slots{worker=w,device=cuda,state=FREE}", 0))));
  snapshot.workers[0].state = ham::v1::Worker::UNREACHABLE;
  EXPECT_THAT(ShownAt(snapshot, absl::Seconds(2)),
              AllOf(Contains(Pair("ham_worker_connected{worker=w}", 0)),
                    Contains(Pair("ham_worker_slots{worker=w,device=cpu,state=BUSY}", 0))));
}

TEST(ClusterMetrics, ASlotWithAProblemIsNotFree) {
  ClusterSnapshot snapshot;
  snapshot.workers = {Worker("w", absl::Seconds(1))};
  for (ham::v1::Slot& slot : snapshot.workers[0].slots) {
    slot.set_index(static_cast<int>(&slot - snapshot.workers[0].slots.data()));
    slot.mutable_problem()->set_kind(ham::v1::SlotProblem::DISK_FULL);
  }
  const std::map<std::string, double> shown = ShownAt(snapshot, absl::Seconds(2));
  EXPECT_EQ(shown.at("ham_worker_slots{worker=w,device=cpu,state=FREE}"), 0);
  EXPECT_EQ(shown.at("ham_worker_slots{worker=w,device=cpu,state=BUSY}"), 1) << "its rank goes on";
  EXPECT_EQ(shown.at("ham_slots{device=cpu,state=UNUSABLE}"), 1);
  EXPECT_EQ(shown.at("ham_slots{device=cuda,state=UNUSABLE}"), 1);
  EXPECT_EQ(shown.at("ham_slot_problem{worker=w,slot=1,kind=DISK_FULL}"), 1);
  snapshot.workers[0].state = ham::v1::Worker::UNREACHABLE;
  EXPECT_THAT(ShownAt(snapshot, absl::Seconds(2)), Not(Contains(Key(HasSubstr("ham_slot_problem")))));
}

TEST(ClusterMetrics, ForgetsAWorkerThatDoesNotComeBack) {
  ClusterSnapshot snapshot;
  snapshot.start = absl::Seconds(5);
  snapshot.workers = {Worker("heard", absl::Seconds(10)), Worker("never", -absl::InfiniteDuration())};
  for (WorkerView& worker : snapshot.workers) worker.state = ham::v1::Worker::UNREACHABLE;
  const auto shown = [&](const std::string& name, absl::Duration now) {
    return ShownAt(snapshot, now).count(absl::StrCat("ham_worker_connected{worker=", name, "}"));
  };
  EXPECT_EQ(shown("heard", absl::Seconds(9) + kWorkerSeriesLife), 1u);
  EXPECT_EQ(shown("heard", absl::Seconds(10) + kWorkerSeriesLife), 0u);
  EXPECT_EQ(shown("never", absl::Seconds(4) + kWorkerSeriesLife), 1u);
  EXPECT_EQ(shown("never", absl::Seconds(5) + kWorkerSeriesLife), 0u);
  EXPECT_THAT(ShownAt(snapshot, absl::Seconds(20)), Not(Contains(Key("ham_worker_beat_age_seconds{worker=never}"))));
}

TEST(JobEventCounts, HasEveryReasonFromTheStartAndNoOthers) {
  ClusterSnapshot snapshot;
  EXPECT_EQ(ShownAt(snapshot, {}).at("ham_job_events_total{reason=HANG}"), 0);
  snapshot.events.Add("HANG");
  snapshot.events.Add("a \"reason\"\nof nobody");
  snapshot.events.Add("");
  const std::map<std::string, double> series = ShownAt(snapshot, {});
  EXPECT_EQ(series.at("ham_job_events_total{reason=HANG}"), 1);
  EXPECT_EQ(series.at("ham_job_events_total{reason=OTHER}"), 2);
  size_t count = 0;
  for (const auto& [name, unused] : series) count += name.rfind("ham_job_events_total", 0) == 0;
  EXPECT_EQ(count, std::size(JobEventCounts::kReasons));
}

// What the core writes as a reason, it writes as a string of capitals.
TEST(JobEventCounts, KnowsEveryReasonInTheSourcesOfTheCore) {
  std::set<std::string> missing;
  size_t found = 0;
  const auto look_for = [&](const std::string& reason) {
    ++found;
    const auto& known = JobEventCounts::kReasons;
    if (std::find(std::begin(known), std::end(known), reason) == std::end(known)) missing.insert(reason);
  };
  for (const char* file : {"coordinator_jobs.cc", "coordinator_schedule.cc", "coordinator_verdicts.cc",
                           "coordinator_workers.cc", "scheduling_policy.cc"}) {
    std::ifstream stream(std::string(HAM_SERVER_DIR "/") + file);
    ASSERT_TRUE(stream.is_open()) << file;
    const std::string text((std::istreambuf_iterator<char>(stream)), {});
    static const std::regex kReason("\"([A-Z][A-Z_]{3,})\"");
    for (std::sregex_iterator at(text.begin(), text.end(), kReason), end; at != end; ++at) look_for((*at)[1]);
  }
  for (int value = ham::v1::USER; value <= ham::v1::FailureClass_MAX; ++value) {
    look_for(ham::v1::FailureClass_Name(static_cast<ham::v1::FailureClass>(value)));
  }
  EXPECT_GT(found, 25u);
  EXPECT_THAT(missing, ::testing::IsEmpty());
}

TEST(ProcessMetrics, AreThoseOfThisProcess) {
  MetricFamilies families;
  AddProcessFamilies(&families);
  AddDiskFamilies("/", &families);
  AddDiskFamilies("/no such directory", &families);
  const std::map<std::string, double> series = SeriesOf(families);
  const double now = absl::ToDoubleSeconds(absl::Now() - absl::UnixEpoch());
  EXPECT_NEAR(series.at("process_start_time_seconds{}"), now, 3600);
  EXPECT_GT(series.at("process_resident_memory_bytes{}"), 1e6);
  EXPECT_GE(series.at("process_open_fds{}"), 3);
  EXPECT_GE(series.at("process_cpu_seconds_total{}"), 0);
  EXPECT_GT(series.at("ham_state_bytes{}"), series.at("ham_state_bytes_free{}"));
  EXPECT_GT(series.at("ham_state_bytes_free{}"), 0);
}

}  // namespace
}  // namespace ham::server
