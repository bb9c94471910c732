#include "worker/agent/agent.h"

#include <gtest/gtest.h>

#include <dlfcn.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "proto/rpc_status.h"
#include "proto/sha256.h"
#include "proto/version.h"
#include "tests/agent/scripted_coordinator.h"
#include "tests/agent/scripted_nvml.h"
#include "tests/support/temporary_directory.h"
#include "worker/agent/child_process.h"
#include "worker/agent/worker_id.h"

namespace ham::agent {
namespace {

namespace fs = std::filesystem;
using ham::testing::ScriptedCoordinator;
using ham::testing::TemporaryDirectory;
using ham::testing::WriteTestFile;
using ham::v1::ObservedRank;
using Seen = ScriptedCoordinator::Seen;
using Script = ScriptedCoordinator::Script;

constexpr absl::Duration kPatience = absl::Seconds(20);

std::string JobName(const std::string& id) { return "projects/default/jobs/" + id; }

ham::v1::Assignment MakeAssignment(const std::string& id, int slot = 0, int attempt = 1) {
  ham::v1::Assignment assignment;
  assignment.set_job(JobName(id));
  assignment.set_attempt(attempt);
  assignment.set_rank(0);
  assignment.set_world_size(1);
  assignment.set_slot(slot);
  assignment.mutable_spec()->mutable_train()->mutable_resources()->set_threads_per_rank(1);
  return assignment;
}

// A child of this process that runs, or 0. A sanitizer's symbolizer is none.
pid_t AliveTrainer() {
  for (const auto& thread : fs::directory_iterator("/proc/self/task")) {
    std::ifstream children(thread.path() / "children");
    for (pid_t pid = 0; children >> pid;) {
      std::string name;
      std::ifstream(absl::StrCat("/proc/", pid, "/comm")) >> name;
      if (name != "llvm-symbolizer") return pid;
    }
  }
  return 0;
}

// Waits at most 20 s.
bool AwaitNoTrainer() {
  const absl::Time deadline = absl::Now() + kPatience;
  while (absl::Now() < deadline) {
    const pid_t pid = AliveTrainer();
    if (pid == 0) return true;
    const int fd = OpenPidFd(pid);
    if (fd < 0) continue;
    AwaitEnd(fd, deadline);
    ::close(fd);
  }
  return false;
}

const ObservedRank* Find(const Seen& seen, const std::string& id, int attempt = 1) {
  const auto rank = std::find_if(seen.observed.begin(), seen.observed.end(), [&](const ObservedRank& observed) {
    return observed.job() == JobName(id) && observed.attempt() == attempt;
  });
  return rank == seen.observed.end() ? nullptr : &*rank;
}

class AgentTest : public ::testing::Test {
 protected:
  AgentTest() : coordinator_(folder_ / "artifacts") {
    coordinator_.Start();
    config_.connection = coordinator_.connection();
    config_.worker_id = RandomId();
    config_.incarnation_number = 7;
    config_.name = "worker-0";
    config_.state_dir = folder_ / "state";
    config_.trainer = HAM_SCRIPTED_TRAINER;
    config_.data_root = folder_ / "data";
    fs::create_directory(config_.data_root);
    for (int i = 0; i < 2; ++i) {
      ham::v1::Slot& slot = config_.slots.emplace_back();
      slot.set_index(i);
      slot.set_device("cpu");
    }
    config_.data_sets.emplace_back().set_name("fashion-mnist");
    config_.control.backoff = config_.backoff = {absl::Milliseconds(10), absl::Milliseconds(50), 2.0, 0.5};
    config_.assignments.shutdown_flush = absl::Milliseconds(300);
  }
  ~AgentTest() override {
    ::unsetenv("HAM_SCRIPTED_FIRST_FRAME");
    agent_.reset();
    EXPECT_EQ(AliveTrainer(), 0) << "a trainer was left";
  }

  void StartAgent() {
    agent_ = std::make_unique<Agent>(config_, [this](const absl::Status& status) {
      end_ = status;
      ended_.Notify();
    });
  }
  absl::Status End() {
    EXPECT_TRUE(ended_.WaitForNotificationWithTimeout(kPatience)) << "the agent does not end";
    return ended_.HasBeenNotified() ? end_ : absl::UnknownError("still there");
  }
  bool AwaitState(const std::string& id, ObservedRank::State state, int attempt = 1) {
    return coordinator_.Await([&](const Seen& seen) {
      const ObservedRank* rank = Find(seen, id, attempt);
      return rank != nullptr && rank->state() == state;
    });
  }
  // In a beat that says that it runs.
  bool AwaitProcess(const std::string& id, ham::v1::ProcessState::State state) {
    return coordinator_.Await([&](const Seen& seen) {
      const ObservedRank* rank = Find(seen, id);
      return rank != nullptr && rank->state() == ObservedRank::RUNNING && rank->process().state() == state;
    });
  }
  // Once it has ended.
  ham::v1::RankExit ExitOf(const std::string& id, int attempt = 1) {
    EXPECT_TRUE(AwaitState(id, ObservedRank::EXITED, attempt)) << id;
    const Seen seen = coordinator_.seen();
    const ObservedRank* rank = Find(seen, id, attempt);
    return rank == nullptr ? ham::v1::RankExit() : rank->exit();
  }
  bool AwaitGone(const std::string& id) {
    return coordinator_.Await([&](const Seen& seen) { return Find(seen, id) == nullptr; });
  }
  static const std::vector<ham::v1::SpooledRecord>& RecordsOf(const Seen& seen, const std::string& id) {
    static const std::vector<ham::v1::SpooledRecord> kNone;
    const auto found = seen.records.find({JobName(id), 1, 0});
    return found == seen.records.end() ? kNone : found->second;
  }
  // A rank of an evaluation by weights of these bytes, with blocks of such stages.
  ham::v1::Assignment Evaluation(const std::string& id, const std::string& weights, const std::vector<int>& stages,
                                 int rows = 1) {
    ham::v1::Assignment assignment = MakeAssignment(id);
    assignment.mutable_spec()->mutable_evaluate()->set_weights(Sha256Hex(weights));
    for (const int stage : stages) {
      ham::v1::WorkBlock* block = assignment.add_blocks();
      block->set_stage(stage);
      for (int row = 0; row < rows; ++row) block->add_rows(static_cast<uint32_t>(row));
    }
    return assignment;
  }
  void HoldWeights(const std::string& weights) {
    ASSERT_TRUE(coordinator_.artifacts()->Put(Sha256Hex(weights), 0, weights).ok());
    ASSERT_TRUE(coordinator_.artifacts()->Commit(Sha256Hex(weights), static_cast<int64_t>(weights.size())).ok());
  }
  static std::vector<std::string> Findings(const Seen& seen, const std::string& id) {
    std::vector<std::string> out;
    for (const ham::v1::SpooledRecord& record : RecordsOf(seen, id)) {
      if (record.has_finding()) out.push_back(record.finding().inputs());
    }
    return out;
  }
  bool AwaitFindings(const std::string& id, const std::vector<std::string>& wanted) {
    return coordinator_.Await([&](const Seen& seen) { return Findings(seen, id) == wanted; });
  }
  // Sequences grow by one from 1, and iterations from 1 to `metrics`.
  static void ExpectWhole(const std::vector<ham::v1::SpooledRecord>& records, int metrics) {
    int found = 0;
    int64_t sequence = 0;
    for (const ham::v1::SpooledRecord& record : records) {
      EXPECT_EQ(record.spool_sequence(), ++sequence);
      if (record.has_metric()) {
        EXPECT_EQ(record.metric().iteration(), ++found);
      }
    }
    EXPECT_EQ(found, metrics);
  }

  const TemporaryDirectory folder_;
  ScriptedCoordinator coordinator_;
  AgentConfig config_;
  absl::Status end_;
  absl::Notification ended_;
  std::unique_ptr<Agent> agent_;
};

TEST_F(AgentTest, RegistersWithAllItHas) {
  StartAgent();
  ASSERT_TRUE(coordinator_.Await([](const Seen& seen) { return seen.welcomes == 1; }));
  const ham::v1::RegisterWorker registration = coordinator_.seen().registration;
  EXPECT_EQ(registration.protocol_version(), kProtocolVersion);
  EXPECT_EQ(registration.build_id(), BuildId());
  EXPECT_EQ(registration.worker_id(), config_.worker_id);
  EXPECT_EQ(registration.incarnation_number(), 7);
  EXPECT_EQ(registration.worker_name(), "worker-0");
  EXPECT_EQ(registration.incarnation().size(), 32);
  ASSERT_EQ(registration.slots_size(), 2);
  EXPECT_EQ(registration.slots(1).index(), 1);
  EXPECT_EQ(registration.data_sets(0).name(), "fashion-mnist");
  EXPECT_EQ(registration.observed_size(), 0);
  agent_->Stop();
  EXPECT_TRUE(End().ok());
}

TEST_F(AgentTest, RunsARankAndReportsItsEndBehindItsRecords) {
  coordinator_.Desire({MakeAssignment("works")});
  StartAgent();
  const ham::v1::RankExit exit = ExitOf("works");
  EXPECT_TRUE(exit.success()) << exit.message();
  const Seen seen = coordinator_.seen();
  ExpectWhole(RecordsOf(seen, "works"), 20);
  std::string log;
  for (const auto& record : RecordsOf(seen, "works")) {
    log += record.log_text();
    EXPECT_TRUE(record.has_time());
    EXPECT_TRUE(!record.has_metric() || std::isnan(record.metric().train().loss()));
  }
  EXPECT_EQ(log, "all is done\n");
  const std::string directory = config_.state_dir + "/work/works/1/0";
  EXPECT_TRUE(fs::exists(directory));
  coordinator_.Desire({});
  EXPECT_TRUE(AwaitGone("works"));
  EXPECT_FALSE(fs::exists(directory));
}

TEST_F(AgentTest, ShowsARunningRankAndStopsItWhenItIsNotDesired) {
  coordinator_.Desire({MakeAssignment("waits")});
  StartAgent();
  ASSERT_TRUE(AwaitState("waits", ObservedRank::RUNNING));
  EXPECT_EQ(Find(coordinator_.seen(), "waits")->progress().phase(), "train");
  coordinator_.Desire({});
  EXPECT_TRUE(AwaitGone("waits"));
}

TEST_F(AgentTest, TheNextAttemptTakesTheSlotOnceTheDeafOneIsKilled) {
  coordinator_.Change([](Script* script) { script->welcome.mutable_terminate_grace()->set_nanos(50'000'000); });
  coordinator_.Desire({MakeAssignment("deaf")});
  StartAgent();
  ASSERT_TRUE(AwaitState("deaf", ObservedRank::RUNNING));
  coordinator_.Desire({MakeAssignment("deaf", 0, 2)});
  EXPECT_TRUE(AwaitState("deaf", ObservedRank::RUNNING, 2));
  EXPECT_TRUE(AwaitGone("deaf"));
}

TEST_F(AgentTest, TellsTheRanksOfAGangByWhichAddressThisHostIsReached) {
  StartAgent();
  ham::v1::Assignment gang = MakeAssignment("tells-gang", 0);
  gang.set_world_size(2);
  coordinator_.Desire({gang, MakeAssignment("tells-alone", 1)});
  EXPECT_EQ(ExitOf("tells-gang").message(), "address 127.0.0.1");  // as the coordinator is on this host
  EXPECT_EQ(ExitOf("tells-alone").message(), "address ");
}

TEST_F(AgentTest, RanksOfAGangKeepToTheCpusOfTheirSlot) {
  CpuSet all;
  for (const CpuSet& core : AllowedCores()) all.insert(all.end(), core.begin(), core.end());
  std::ranges::sort(all);
  config_.cpu_shares = {{all.front()}, {all.back()}};
  StartAgent();
  ham::v1::Assignment first = MakeAssignment("placed-first", 0), last = MakeAssignment("placed-last", 1);
  for (ham::v1::Assignment* rank : {&first, &last}) rank->set_world_size(2);
  coordinator_.Desire({first, last});
  EXPECT_EQ(ExitOf("placed-first").message(), absl::StrCat("CPUs ", all.front()));
  EXPECT_EQ(ExitOf("placed-last").message(), absl::StrCat("CPUs ", all.back()));
  last.mutable_spec()->mutable_train()->mutable_resources()->set_threads_per_rank(2);  // more than it has CPUs
  last.set_job(JobName("placed-wide"));
  coordinator_.Desire({MakeAssignment("placed-alone", 0), last});
  for (const char* job : {"placed-alone", "placed-wide"}) {
    EXPECT_EQ(ExitOf(job).message(), absl::StrCat("CPUs ", absl::StrJoin(all, " ")));
  }
}

TEST_F(AgentTest, RunsTheTrainerOfTheSlotsDevice) {
  config_.trainer = folder_ / "trainer";
  for (const char* name : {"trainer", "trainer-cuda"}) fs::create_symlink(HAM_SCRIPTED_TRAINER, folder_ / name);
  config_.slots[1].set_device("cuda");
  config_.slots[1].set_device_id("GPU-1");
  StartAgent();
  coordinator_.Desire({MakeAssignment("shows-cpu", 0), MakeAssignment("shows-gpu", 1)});
  EXPECT_EQ(ExitOf("shows-cpu").message(), "trainer sees \"\"");
  EXPECT_EQ(ExitOf("shows-gpu").message(), "trainer-cuda sees \"GPU-1\"");
}

TEST_F(AgentTest, BeatsCarryWhatTheKernelSaysOfATrainerAndAStoppedOneEndsAtOnce) {
  coordinator_.Change([](Script* script) { script->welcome.mutable_heartbeat_interval()->set_nanos(10'000'000); });
  coordinator_.Desire({MakeAssignment("waits")});
  StartAgent();
  ASSERT_TRUE(AwaitProcess("waits", ham::v1::ProcessState::ACTIVE));
  const pid_t pid = AliveTrainer();
  ASSERT_GT(pid, 0);
  ASSERT_EQ(::kill(pid, SIGSTOP), 0);
  ASSERT_TRUE(AwaitProcess("waits", ham::v1::ProcessState::STOPPED));
  const absl::Time begin = absl::Now();
  coordinator_.Desire({});
  EXPECT_TRUE(AwaitNoTrainer());
  EXPECT_LT(absl::Now() - begin, absl::Seconds(2));
  EXPECT_TRUE(AwaitGone("waits"));
}

TEST_F(AgentTest, LooksAtATrainerThatSaysNothingNew) {
  coordinator_.Change([](Script* script) { script->welcome.mutable_heartbeat_interval()->set_nanos(10'000'000); });
  config_.silence = {absl::Milliseconds(100), {folder_ / "stacks", kPatience}};
  WriteTestFile(config_.silence.stacks.program,
                absl::StrCat("#!/bin/sh\necho stacks of it\nkill -STOP $2\nwhile [ ! -e ", config_.data_root,
                             "/go ]; do sleep 0.01; done\n"));
  fs::permissions(config_.silence.stacks.program, fs::perms::owner_all);
  coordinator_.Desire({MakeAssignment("waits")});
  StartAgent();
  ASSERT_TRUE(AwaitProcess("waits", ham::v1::ProcessState::ACTIVE));
  // Then it is stopped by whoever reads its stacks, which says nothing of the trainer; and goes on.
  ASSERT_TRUE(AwaitProcess("waits", ham::v1::ProcessState::STATE_UNSPECIFIED));
  WriteTestFile(config_.data_root + "/go", "");
  std::string log;
  EXPECT_TRUE(coordinator_.Await([&](const Seen& seen) {
    log.clear();
    for (const auto& record : RecordsOf(seen, "waits")) log += record.log_text();
    return log.find("stacks of it\n") != std::string::npos;
  })) << log;
  EXPECT_EQ(log.find("ham-worker: the trainer has said nothing new for 100ms (phase train, iteration 1, collectives "
                     "begun 0, completed 0); its threads:\nthread "),
            0U)
      << log;
  EXPECT_TRUE(AwaitProcess("waits", ham::v1::ProcessState::ACTIVE));
  coordinator_.Desire({});
  EXPECT_TRUE(AwaitGone("waits"));
}

TEST_F(AgentTest, BeatsCarryWhatItsGpusMeasure) {
  config_.slots[1].set_device("cuda");
  config_.slots[1].set_device_id("GPU-1");
  config_.gpu_monitor.library = HAM_SCRIPTED_NVML;
  StartAgent();
  ASSERT_TRUE(coordinator_.Await([](const Seen& seen) { return !seen.gpus.empty(); }));
  const std::vector<ham::v1::GpuReading> gpus = coordinator_.seen().gpus;
  ASSERT_EQ(gpus.size(), 1);
  EXPECT_EQ(gpus[0].slot(), 1);
  EXPECT_EQ(gpus[0].memory_used_bytes(), int64_t{512} << 20);
}

TEST_F(AgentTest, TellsOfSlotsThatCannotBeUsed) {
  auto* const script = reinterpret_cast<ham::testing::NvmlScript* (*)()>(
      ::dlsym(::dlopen(HAM_SCRIPTED_NVML, RTLD_NOW), "ham_nvml_script"))();
  const absl::Cleanup reset = [script] { script->processes = 0; };
  coordinator_.Change([](Script* given) { given->welcome.mutable_heartbeat_interval()->set_nanos(10'000'000); });
  config_.slots[1].set_device("cuda");
  config_.slots[1].set_device_id("GPU-1");
  config_.gpu_monitor = {.library = HAM_SCRIPTED_NVML, .period = absl::Milliseconds(1)};
  script->processes = 1;
  StartAgent();
  ASSERT_TRUE(coordinator_.Await([](const Seen& seen) { return !seen.problems.empty(); }));
  const std::vector<ham::v1::SlotProblem> problems = coordinator_.seen().problems;
  ASSERT_EQ(problems.size(), 1);
  EXPECT_EQ(problems[0].slot(), 1);
  EXPECT_EQ(problems[0].kind(), ham::v1::SlotProblem::BUSY_FOREIGN);
  const ham::v1::RegisterWorker registration = coordinator_.seen().registration;
  EXPECT_TRUE(registration.slots(1).has_problem()) << "before a rank could be placed there";
  EXPECT_FALSE(registration.slots(0).has_problem());
}

TEST_F(AgentTest, BeatsCarryWhatTheGpuOfARankDoes) {
  config_.trainer = folder_ / "trainer";
  for (const char* name : {"trainer", "trainer-cuda"}) fs::create_symlink(HAM_SCRIPTED_TRAINER, folder_ / name);
  coordinator_.Change([](Script* script) { script->welcome.mutable_heartbeat_interval()->set_nanos(10'000'000); });
  config_.slots[1].set_device("cuda");
  config_.slots[1].set_device_id("GPU-1");
  config_.gpu_monitor.library = HAM_SCRIPTED_NVML;
  StartAgent();
  coordinator_.Desire({MakeAssignment("waits", 1)});
  EXPECT_TRUE(coordinator_.Await(
      [](const Seen& seen) { return seen.observed.size() == 1 && seen.observed[0].gpu_utilization() == 0.51; }));
}

TEST_F(AgentTest, TellsHowRanksEnd) {
  StartAgent();
  coordinator_.Desire({MakeAssignment("fails", 0), MakeAssignment("crashes", 1)});
  ham::v1::RankExit exit = ExitOf("fails");
  EXPECT_EQ(exit.failure_class(), ham::v1::USER);
  EXPECT_EQ(exit.message(), "the data set is unknown");
  exit = ExitOf("crashes");
  EXPECT_EQ(exit.failure_class(), ham::v1::TRAINER_CRASH);
  EXPECT_EQ(exit.signal(), SIGABRT);
  EXPECT_FALSE(exit.has_lost_rank());
  coordinator_.Desire({MakeAssignment("loses")});
  exit = ExitOf("loses");
  EXPECT_EQ(exit.failure_class(), ham::v1::INFRASTRUCTURE);
  EXPECT_EQ(exit.lost_rank(), 1);
  coordinator_.Desire({MakeAssignment("babbles", 0), MakeAssignment("works", 7)});
  exit = ExitOf("babbles");
  EXPECT_EQ(exit.failure_class(), ham::v1::INFRASTRUCTURE);
  EXPECT_NE(exit.message().find("no frame"), std::string::npos) << exit.message();
  exit = ExitOf("works");
  EXPECT_EQ(exit.failure_class(), ham::v1::INFRASTRUCTURE);
  EXPECT_NE(exit.message().find("no slot 7"), std::string::npos) << exit.message();
}

TEST_F(AgentTest, ATrainerOfAnotherBuildIsRefused) {
  ::setenv("HAM_SCRIPTED_FIRST_FRAME", "foreign", 1);
  coordinator_.Desire({MakeAssignment("works")});
  StartAgent();
  const ham::v1::RankExit exit = ExitOf("works");
  EXPECT_EQ(exit.failure_class(), ham::v1::INFRASTRUCTURE);
  EXPECT_NE(exit.message().find("000000000000"), std::string::npos) << exit.message();
}

TEST_F(AgentTest, ATrainerThatSaysNothingIsStopped) {
  ::setenv("HAM_SCRIPTED_FIRST_FRAME", "mute", 1);
  coordinator_.Desire({MakeAssignment("works")});
  StartAgent();
  ASSERT_TRUE(AwaitState("works", ObservedRank::STARTING));
  coordinator_.Desire({});
  EXPECT_TRUE(AwaitGone("works"));
}

TEST_F(AgentTest, AMissingTrainerIsACrashWithItsReasonInTheLog) {
  config_.trainer = "/nonexistent/ham-trainer";
  coordinator_.Desire({MakeAssignment("works")});
  StartAgent();
  EXPECT_EQ(ExitOf("works").exit_code(), 127);
  const Seen seen = coordinator_.seen();
  ASSERT_EQ(RecordsOf(seen, "works").size(), 1);
  EXPECT_NE(RecordsOf(seen, "works")[0].log_text().find("/nonexistent/ham-trainer"), std::string::npos);
}

TEST_F(AgentTest, CarriesRendezvousKeys) {
  coordinator_.Desire({MakeAssignment("meets")});
  StartAgent();
  EXPECT_TRUE(ExitOf("meets").success());
}

TEST_F(AgentTest, UploadsACheckpointAndBringsItToTheNextAttempt) {
  coordinator_.Desire({MakeAssignment("saves")});
  StartAgent();
  EXPECT_TRUE(ExitOf("saves").success()) << ExitOf("saves").message();
  const Seen seen = coordinator_.seen();
  ASSERT_EQ(seen.commits.size(), 1);
  EXPECT_EQ(seen.commits[0].iteration(), 5);
  EXPECT_EQ(seen.commits[0].epoch(), 4);
  EXPECT_EQ(seen.commits[0].fence().session(), 1);
  ham::v1::Assignment next = MakeAssignment("resumes");
  next.mutable_checkpoint()->set_manifest_digest(seen.commits[0].manifest_digest());
  coordinator_.Desire({next});
  EXPECT_TRUE(ExitOf("resumes").success()) << ExitOf("resumes").message();
  const Seen after = coordinator_.seen();
  ASSERT_EQ(RecordsOf(after, "resumes").size(), 1);
  EXPECT_EQ(RecordsOf(after, "resumes")[0].metric().iteration(), 4);
}

TEST_F(AgentTest, AnUploadOutlivesABrokenCoordinator) {
  std::atomic<int> chunks = 0;
  coordinator_.Change([&](Script* script) {
    script->on_chunk = [&](const ham::v1::UploadArtifactRequest&) {
      return ++chunks == 3 ? grpc::Status(grpc::StatusCode::UNAVAILABLE, "cut") : grpc::Status::OK;
    };
  });
  coordinator_.Desire({MakeAssignment("saves")});
  StartAgent();
  EXPECT_TRUE(ExitOf("saves").success()) << ExitOf("saves").message();
  EXPECT_EQ(coordinator_.seen().commits.size(), 1);
  coordinator_.Stop();  // its calls use what stands here
}

TEST_F(AgentTest, AMissingCheckpointIsInfrastructure) {
  ham::v1::Assignment assignment = MakeAssignment("resumes");
  assignment.mutable_checkpoint()->set_manifest_digest(Sha256Hex("never uploaded"));
  coordinator_.Desire({assignment});
  StartAgent();
  const ham::v1::RankExit exit = ExitOf("resumes");
  EXPECT_EQ(exit.failure_class(), ham::v1::INFRASTRUCTURE);
  EXPECT_NE(exit.message().find("cannot fetch the checkpoint"), std::string::npos) << exit.message();
}

TEST_F(AgentTest, ARankOfAnEvaluationGetsItsWeightsAndEachListOfWork) {
  HoldWeights("weights");
  coordinator_.Desire({Evaluation("evaluates", "weights", {-1, 0})});
  StartAgent();
  EXPECT_TRUE(AwaitFindings("evaluates", {"weights", "-1 0"}));
  EXPECT_TRUE(AwaitState("evaluates", ObservedRank::RUNNING));
  coordinator_.Desire({Evaluation("evaluates", "weights", {0, 1})});
  EXPECT_TRUE(AwaitFindings("evaluates", {"weights", "-1 0", "0 1"}));
  coordinator_.Desire({Evaluation("evaluates", "weights", {})});
  EXPECT_TRUE(AwaitFindings("evaluates", {"weights", "-1 0", "0 1", ""}));
  for (const auto& record : coordinator_.seen().records[{JobName("evaluates"), 1, 0}]) EXPECT_TRUE(record.has_time());
  coordinator_.Desire({});
  EXPECT_TRUE(AwaitGone("evaluates"));
}

TEST_F(AgentTest, OfListsThatComeBeforeTheTrainerTheNewestIsHandedOn) {
  HoldWeights("weights");
  absl::Notification release;
  coordinator_.Change([&](Script* script) {
    script->on_download = [&](ham::v1::DownloadArtifactResponse*) {
      release.WaitForNotification();
      return grpc::Status::OK;
    };
  });
  coordinator_.Desire({Evaluation("evaluates", "weights", {-1, 0})});
  StartAgent();
  ASSERT_TRUE(AwaitState("evaluates", ObservedRank::STARTING));
  coordinator_.Desire({Evaluation("evaluates", "weights", {3})});
  coordinator_.Desire({Evaluation("evaluates", "weights", {4, 5}), MakeAssignment("waits", 1)});
  ASSERT_TRUE(AwaitState("waits", ObservedRank::RUNNING));
  release.Notify();
  EXPECT_TRUE(AwaitFindings("evaluates", {"weights", "4 5"}));
  coordinator_.Stop();  // its calls use what stands here
}

// Lists longer than its socket holds, to a trainer that does not read: the agent does all else meanwhile.
TEST_F(AgentTest, ASlowTrainerKeepsNobodyWaitingAndGetsTheNewestList) {
  HoldWeights("weights");
  constexpr int kRows = 200'000;
  coordinator_.Desire({Evaluation("dawdles", "weights", {0}, kRows)});
  StartAgent();
  ASSERT_TRUE(AwaitFindings("dawdles", {"weights"}));
  for (int list = 1; list < 5; ++list) coordinator_.Desire({Evaluation("dawdles", "weights", {list}, kRows)});
  coordinator_.Desire({Evaluation("dawdles", "weights", {5}, kRows), MakeAssignment("works", 1)});
  EXPECT_TRUE(ExitOf("works").success());
  WriteTestFile(config_.data_root + "/go", "");
  ASSERT_TRUE(coordinator_.Await([](const Seen& seen) { return Findings(seen, "dawdles").back() == "5"; }));
  EXPECT_LE(Findings(coordinator_.seen(), "dawdles").size(), 3);  // what its weights hold, the first list, the newest
}

TEST_F(AgentTest, ATrainerThatWorkCannotBeHandedToIsEnded) {
  HoldWeights("weights");
  coordinator_.Desire({Evaluation("shuts", "weights", {0})});
  StartAgent();
  ASSERT_TRUE(AwaitFindings("shuts", {"weights"}));
  coordinator_.Desire({Evaluation("shuts", "weights", {1})});  // the first list may have come before it shut
  EXPECT_EQ(ExitOf("shuts").failure_class(), ham::v1::TRAINER_CRASH);
}

TEST_F(AgentTest, FindingsWhoseAnswerWasLostAreSentAgain) {
  const std::string weights(3 << 20, 'w');  // the longest record that comes
  HoldWeights(weights);
  coordinator_.Change([](Script* script) { script->answers_to_lose = 2; });
  coordinator_.Desire({Evaluation("evaluates", weights, {-1, 0})});
  StartAgent();
  EXPECT_TRUE(AwaitFindings("evaluates", {weights, "-1 0"}));
  EXPECT_TRUE(coordinator_.Await([](const Seen& seen) { return seen.repeated_records > 0; }));
}

TEST_F(AgentTest, WithoutItsWeightsARankDoesNotStart) {
  coordinator_.Desire({Evaluation("evaluates", "weights", {-1})});
  StartAgent();
  const ham::v1::RankExit missing = ExitOf("evaluates");
  EXPECT_EQ(missing.failure_class(), ham::v1::INFRASTRUCTURE);
  EXPECT_EQ(missing.message().find("cannot fetch the weights: "), 0) << missing.message();
  HoldWeights("weights");
  coordinator_.Change([](Script* script) {
    script->on_download = [](ham::v1::DownloadArtifactResponse* response) {
      response->set_data("Weights");
      return grpc::Status::OK;
    };
  });
  coordinator_.Desire({Evaluation("evaluates-other", "weights", {-1})});
  const ham::v1::RankExit other = ExitOf("evaluates-other");
  EXPECT_EQ(other.message(),
            absl::StrCat("cannot fetch the weights: artifact ", Sha256Hex("weights"), " came with other bytes"));
}

// Records made while nobody listens arrive later, each once, before the end is told.
TEST_F(AgentTest, WorksOnWithoutItsCoordinatorAndSendsWhatItKept) {
  coordinator_.Desire({MakeAssignment("bursts"), MakeAssignment("waits", 1)});
  StartAgent();
  ASSERT_TRUE(AwaitState("bursts", ObservedRank::RUNNING));
  ASSERT_TRUE(coordinator_.Await([](const Seen& seen) { return !RecordsOf(seen, "waits").empty(); }));
  const std::string incarnation = coordinator_.seen().registration.incarnation();
  coordinator_.Stop();
  WriteTestFile(config_.data_root + "/go", "");
  coordinator_.Change([](Script* script) { script->answers_to_lose = 1; });
  coordinator_.Start();
  EXPECT_TRUE(ExitOf("bursts").success());
  const Seen seen = coordinator_.seen();
  EXPECT_EQ(seen.welcomes, 2);
  EXPECT_EQ(seen.registration.incarnation(), incarnation);
  EXPECT_NE(seen.registration.observed_size(), 0);
  ExpectWhole(RecordsOf(seen, "bursts"), 200);
  EXPECT_TRUE(AwaitState("waits", ObservedRank::RUNNING));  // the same process, through it all
  EXPECT_EQ(RecordsOf(seen, "waits").size(), 1);
}

TEST_F(AgentTest, RecordsWhoseAnswerWasLostAreSentAgain) {
  coordinator_.Change([](Script* script) { script->answers_to_lose = 3; });
  coordinator_.Desire({MakeAssignment("bursts")});
  WriteTestFile(config_.data_root + "/go", "");
  StartAgent();
  EXPECT_TRUE(ExitOf("bursts").success());
  const Seen seen = coordinator_.seen();
  EXPECT_GT(seen.repeated_records, 0);
  ExpectWhole(RecordsOf(seen, "bursts"), 200);
}

TEST_F(AgentTest, ConnectsAgainWhenItsStreamBreaks) {
  coordinator_.Desire({MakeAssignment("waits")});
  StartAgent();
  ASSERT_TRUE(AwaitState("waits", ObservedRank::RUNNING));
  coordinator_.Disconnect();
  ASSERT_TRUE(coordinator_.Await([](const Seen& seen) { return seen.welcomes == 2; }));
  EXPECT_EQ(coordinator_.seen().registration.observed(0).state(), ObservedRank::RUNNING);
  coordinator_.Desire({});
  EXPECT_TRUE(AwaitGone("waits"));
}

TEST_F(AgentTest, AFencedReportStopsTheRank) {
  coordinator_.Change([](Script* script) { script->fenced = true; });
  coordinator_.Desire({MakeAssignment("waits")});
  StartAgent();
  EXPECT_EQ(ExitOf("waits").failure_class(), ham::v1::PREEMPTED);
  EXPECT_TRUE(coordinator_.seen().records.empty());
}

TEST_F(AgentTest, AnotherClusterEndsAllRanks) {
  coordinator_.Desire({MakeAssignment("waits")});
  StartAgent();
  ASSERT_TRUE(AwaitState("waits", ObservedRank::RUNNING));
  coordinator_.Change([](Script* script) { script->welcome.set_cluster_id("another"); });
  coordinator_.Desire({});
  coordinator_.Disconnect();
  ASSERT_TRUE(coordinator_.Await([](const Seen& seen) { return seen.welcomes == 2; }));
  EXPECT_TRUE(AwaitGone("waits"));
}

TEST_F(AgentTest, WithoutContactPastTheOrphanLimitItsRanksAreStopped) {
  config_.assignments.orphan_limit = absl::Milliseconds(100);
  config_.assignments.flush_limit = absl::ZeroDuration();
  coordinator_.Desire({MakeAssignment("waits")});
  StartAgent();
  ASSERT_TRUE(AwaitState("waits", ObservedRank::RUNNING));
  coordinator_.Stop();
  EXPECT_TRUE(AwaitNoTrainer());
  coordinator_.Start();
  EXPECT_EQ(ExitOf("waits").failure_class(), ham::v1::PREEMPTED);
}

TEST_F(AgentTest, GivesUpWhereNoCoordinatorIs) {
  config_.give_up_after = absl::Milliseconds(100);
  coordinator_.Stop();
  StartAgent();
  const absl::Status status = End();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_NE(status.message().find(config_.connection.endpoints[0]), std::string::npos) << status;
}

TEST_F(AgentTest, DoesNotGiveUpWhileARankRuns) {
  config_.give_up_after = absl::Milliseconds(100);
  coordinator_.Desire({MakeAssignment("waits")});
  StartAgent();
  ASSERT_TRUE(AwaitState("waits", ObservedRank::RUNNING));
  coordinator_.Stop();
  EXPECT_FALSE(ended_.WaitForNotificationWithTimeout(absl::Milliseconds(500)));
  ASSERT_EQ(::kill(AliveTrainer(), SIGKILL), 0);
  EXPECT_EQ(End().code(), absl::StatusCode::kUnavailable);
}

TEST_F(AgentTest, AnotherProtocolEndsItWithTheReason) {
  coordinator_.Change([](Script* script) {
    script->refusal = {grpc::StatusCode::FAILED_PRECONDITION, "protocol 1 is not 2: install the same version"};
  });
  StartAgent();
  const absl::Status status = End();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_EQ(status.message(), "the coordinator refused this worker: protocol 1 is not 2: install the same version");
}

TEST_F(AgentTest, ARefusedSecretEndsItAndSaysWhatToDo) {
  coordinator_.Change([](Script* script) { script->refusal = {grpc::StatusCode::UNAUTHENTICATED, "unknown token"}; });
  StartAgent();
  const absl::Status status = End();
  EXPECT_TRUE(absl::IsUnauthenticated(status)) << status;
  EXPECT_NE(status.message().find("worker-join"), std::string::npos) << status;
}

TEST_F(AgentTest, ATakenNameEndsItOnceItsOwnerIsSurelyAlive) {
  config_.control.name_timeout = absl::Milliseconds(200);
  coordinator_.Change([](Script* script) {
    script->refusal = {grpc::StatusCode::ALREADY_EXISTS, "another worker is called worker-0"};
  });
  StartAgent();
  const absl::Status status = End();
  EXPECT_TRUE(absl::IsAlreadyExists(status)) << status;
  EXPECT_EQ(status.message(), "the coordinator refused this worker: another worker is called worker-0");
}

TEST_F(AgentTest, ANameThatBecomesFreeIsTaken) {
  coordinator_.Change([](Script* script) {
    script->refusal = {grpc::StatusCode::ALREADY_EXISTS, "another worker is called worker-0"};
  });
  StartAgent();
  ASSERT_TRUE(coordinator_.Await([](const Seen& seen) { return !seen.registration.worker_name().empty(); }));
  coordinator_.Change([](Script* script) { script->refusal = grpc::Status::OK; });
  EXPECT_TRUE(coordinator_.Await([](const Seen& seen) { return seen.welcomes == 1; }));
}

TEST_F(AgentTest, ARefusalLeavesNoTrainer) {
  coordinator_.Desire({MakeAssignment("waits")});
  StartAgent();
  ASSERT_TRUE(AwaitState("waits", ObservedRank::RUNNING));
  coordinator_.Change([](Script* script) {
    script->refusal = {grpc::StatusCode::FAILED_PRECONDITION, "protocol 1 is not 2"};
  });
  coordinator_.Disconnect();
  EXPECT_TRUE(absl::IsFailedPrecondition(End()));
  EXPECT_EQ(AliveTrainer(), 0);
}

TEST_F(AgentTest, GivesUpACoordinatorThatDoesNotAnswer) {
  config_.control.welcome_timeout = absl::Milliseconds(100);
  coordinator_.Change([](Script* script) { script->silent = true; });
  StartAgent();
  EXPECT_TRUE(coordinator_.Await([](const Seen& seen) { return seen.registrations >= 3; }));
  coordinator_.Change([](Script* script) { script->silent = false; });
  EXPECT_TRUE(coordinator_.Await([](const Seen& seen) { return seen.welcomes >= 1; }));
}

TEST_F(AgentTest, AFullCoordinatorIsTriedAgain) {
  coordinator_.Change([](Script* script) { script->refusal = {grpc::StatusCode::RESOURCE_EXHAUSTED, "too many"}; });
  StartAgent();
  ASSERT_TRUE(coordinator_.Await([](const Seen& seen) { return seen.registrations >= 2; }));
  coordinator_.Change([](Script* script) { script->refusal = grpc::Status::OK; });
  EXPECT_TRUE(coordinator_.Await([](const Seen& seen) { return seen.welcomes >= 1; }));
}

TEST_F(AgentTest, ARankThatIsStoppedLeavesItsUpload) {
  absl::Notification entered;
  absl::Notification release;
  coordinator_.Change([&](Script* script) {
    script->on_chunk = [&](const ham::v1::UploadArtifactRequest&) {
      if (!entered.HasBeenNotified()) entered.Notify();
      release.WaitForNotification();
      return grpc::Status::OK;
    };
  });
  coordinator_.Desire({MakeAssignment("saves")});
  StartAgent();
  ASSERT_TRUE(entered.WaitForNotificationWithTimeout(kPatience));
  coordinator_.Desire({});
  EXPECT_TRUE(AwaitGone("saves"));  // while the store still holds the call
  EXPECT_TRUE(coordinator_.seen().commits.empty());
  release.Notify();
  coordinator_.Stop();  // its calls use what stands here
}

TEST_F(AgentTest, SlotsRunSideBySideAndEndApart) {
  coordinator_.Desire({MakeAssignment("waits-a", 0), MakeAssignment("waits-b", 1), MakeAssignment("works", 0)});
  StartAgent();
  ASSERT_TRUE(AwaitState("waits-a", ObservedRank::RUNNING));
  ASSERT_TRUE(AwaitState("waits-b", ObservedRank::RUNNING));
  EXPECT_EQ(Find(coordinator_.seen(), "works"), nullptr);  // its slot is taken
  coordinator_.Desire({MakeAssignment("waits-b", 1), MakeAssignment("works", 0)});
  EXPECT_TRUE(ExitOf("works").success());
  EXPECT_TRUE(AwaitState("waits-b", ObservedRank::RUNNING));
}

TEST_F(AgentTest, TriesTheNextEndpoint) {
  config_.connection.endpoints.insert(config_.connection.endpoints.begin(), "127.0.0.1:1");
  coordinator_.Desire({MakeAssignment("works")});
  StartAgent();
  EXPECT_TRUE(ExitOf("works").success());
  ExpectWhole(RecordsOf(coordinator_.seen(), "works"), 20);
}

TEST_F(AgentTest, StopTellsTheCoordinatorHowItsRanksEnded) {
  coordinator_.Desire({MakeAssignment("waits")});
  StartAgent();
  ASSERT_TRUE(AwaitState("waits", ObservedRank::RUNNING));
  EXPECT_FALSE(coordinator_.seen().leaving);
  agent_->Stop();
  EXPECT_TRUE(End().ok());
  EXPECT_TRUE(coordinator_.seen().leaving);
  const ham::v1::RankExit exit = ExitOf("waits");
  EXPECT_EQ(exit.failure_class(), ham::v1::PREEMPTED);
  EXPECT_EQ(exit.message(), "the worker was told to stop");
  EXPECT_FALSE(fs::exists(config_.state_dir + "/work/waits"));
}

TEST_F(AgentTest, SaysThatItLeavesBeforeItsRanksHaveEnded) {
  coordinator_.Desire({MakeAssignment("deaf")});
  StartAgent();
  ASSERT_TRUE(AwaitState("deaf", ObservedRank::RUNNING));
  agent_->Stop();
  EXPECT_TRUE(coordinator_.Await(
      [](const Seen& seen) { return seen.leaving && Find(seen, "deaf")->state() == ObservedRank::RUNNING; }));
  agent_->Stop();
  EXPECT_TRUE(End().ok());
}

TEST_F(AgentTest, ASecondStopKillsAtOnce) {
  coordinator_.Desire({MakeAssignment("deaf")});
  StartAgent();
  ASSERT_TRUE(AwaitState("deaf", ObservedRank::RUNNING));
  agent_->Stop();
  agent_->Stop();
  EXPECT_TRUE(End().ok());
}

TEST_F(AgentTest, StopsWithoutACoordinator) {
  coordinator_.Stop();
  StartAgent();
  agent_->Stop();
  EXPECT_TRUE(End().ok());
}

}  // namespace
}  // namespace ham::agent

int main(int argc, char** argv) {
  if (argc > 1 && std::string(argv[1]) == ham::agent::kExecTrainer) return ham::agent::ExecTrainer(argc, argv);
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
