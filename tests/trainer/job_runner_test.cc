// ham-trainer as a process: under an agent that this test plays, and alone.
#include "worker/trainer/job_runner.h"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <iterator>
#include <random>
#include <set>
#include <thread>

#include <ATen/ops/allclose.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "proto/strict_json.h"
#include "proto/version.h"
#include "tests/support/host_accelerator.h"
#include "tests/support/npz_file.h"
#include "tests/support/run_ranks.h"
#include "tests/support/seed.h"
#include "tests/support/temporary_directory.h"
#include "tests/support/toy_evaluation.h"
#include "tests/support/toy_spec_json.h"
#include "worker/ipc/frame.h"
#include "worker/trainer/checkpoint.h"
#include "worker/trainer/safetensors.h"
#include "worker/trainer/weights_file.h"

namespace ham::trainer {
namespace {

using ham::testing::HostAccelerator;
using ham::testing::ToySpecJson;
using nlohmann::json;
using ::testing::HasSubstr;

constexpr int kFrameTimeoutMs = 60'000;

int WaitForExit(pid_t pid) {
  int status = 0;
  EXPECT_EQ(waitpid(pid, &status, 0), pid);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

bool HasExited(pid_t pid) {
  siginfo_t info{};
  return waitid(P_PID, pid, &info, WEXITED | WNOHANG | WNOWAIT) != 0 || info.si_pid == pid;
}

// Starts ham-trainer with standard output into `out`.
pid_t Start(std::vector<std::string> arguments, const std::string& out) {
  arguments.insert(arguments.begin(), HAM_TRAINER_PROGRAM);
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, out.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, (out + ".err").c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  pid_t pid = -1;
  EXPECT_EQ(posix_spawn(&pid, HAM_TRAINER_PROGRAM, &actions, nullptr, argv.data(), environ), 0);
  posix_spawn_file_actions_destroy(&actions);
  return pid;
}

class JobRunnerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ham::testing::WriteToyDataSet(directory_ / "data", 64);
    std::filesystem::create_directories(directory_ / "work");
  }

  ham::testing::TemporaryDirectory directory_;
};

class UnderAgentTest : public JobRunnerTest {
 protected:
  void SetUp() override {
    JobRunnerTest::SetUp();
    int ends[2];
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    agent_ = ends[0];
    fcntl(agent_, F_SETFD, FD_CLOEXEC);
    trainer_ = Start({"--agent-fd", absl::StrCat(ends[1])}, directory_ / "out");
    close(ends[1]);
  }
  void TearDown() override {
    if (agent_ >= 0) close(agent_);
    if (trainer_ > 0) WaitForExit(trainer_);
  }

  // The next frame of that type; others go to `passed_`. A null after a failure.
  json Next(const std::string& type) {
    while (true) {
      pollfd ready{agent_, POLLIN, 0};
      if (poll(&ready, 1, kFrameTimeoutMs) != 1) {
        ADD_FAILURE() << "no frame came while waiting for " << type;
        return {};
      }
      auto frame = ipc::ReadFrame(agent_);
      if (!frame.ok()) {
        ADD_FAILURE() << "waiting for " << type << ": " << frame.status();
        return {};
      }
      if ((*frame)["type"] == type) return *frame;
      if ((*frame)["type"] == "failed") {
        ADD_FAILURE() << frame->dump();
        return {};
      }
      passed_.push_back(*frame);
    }
  }

  void SendStart(json changes = json::object()) {
    json start = {{"type", "start"},
                  {"build_id", BuildId()},
                  {"job", "jtest"},
                  {"attempt", 3},
                  {"rank", 0},
                  {"world_size", 1},
                  {"spec", ToySpecJson()},
                  {"data_root", directory_ / "data"},
                  {"work_dir", directory_ / "work"},
                  {"threads", 1},
                  {"resume_manifest", ""},
                  {"weights", ""},
                  {"interface", ""},
                  {"address", ""},
                  {"collective_timeout_seconds", 20},
                  {"collective_patience_seconds", 20}};
    start.update(changes);
    EXPECT_EQ(Next("hello")["build_id"], BuildId());
    ASSERT_TRUE(ipc::WriteFrame(agent_, start).ok());
  }

  void AnswerCheckpoint(const json& checkpoint, bool ok) {
    ASSERT_TRUE(ipc::WriteFrame(agent_, {{"type", "checkpoint_done"},
                                         {"manifest", checkpoint["manifest"]},
                                         {"ok", ok},
                                         {"error", ok ? "" : "the store is full"}})
                    .ok());
  }

  int ExitStatus() {
    const int status = WaitForExit(trainer_);
    trainer_ = -1;
    return status;
  }

  int agent_ = -1;
  pid_t trainer_ = -1;
  std::vector<json> passed_;
};

TEST_F(UnderAgentTest, TrainsReportsAndWaitsForTheLastUpload) {
  SendStart();
  const json first = Next("checkpoint");
  EXPECT_EQ(first["epoch"], 1);
  EXPECT_EQ(first["iteration"], 2);
  const auto stored = LoadCheckpoint(first["manifest"]);
  ASSERT_TRUE(stored.ok()) << stored.status();
  EXPECT_EQ(stored->info.job_attempt, 3);
  EXPECT_EQ(stored->info.build_id, BuildId());
  AnswerCheckpoint(first, true);
  const json last = Next("checkpoint");  // in the background: before or after the summary
  EXPECT_EQ(last["epoch"], 2);
  const auto is_summary = [](const json& frame) {
    return frame["type"] == "metric" && frame["point"].contains("summary");
  };
  if (std::none_of(passed_.begin(), passed_.end(), is_summary)) {
    json metric;
    do {
      metric = Next("metric");
      ASSERT_FALSE(HasFailure());
    } while (!is_summary(metric));
  }
  // The summary comes before the wait, `done` only after the answer.
  while (Next("progress")["phase"] != "save") ASSERT_FALSE(HasFailure());
  for (const json& frame : passed_) EXPECT_NE(frame["type"], "done");
  AnswerCheckpoint(last, true);
  Next("done");
  EXPECT_EQ(ExitStatus(), 0);
  std::vector<std::string> phases;
  for (const json& frame : passed_) {
    if (frame["type"] == "progress" && (phases.empty() || phases.back() != frame["phase"]))
      phases.push_back(frame["phase"]);
  }
  EXPECT_THAT(phases,
              ::testing::ElementsAre("load", "connect", "load", "first_step", "train", "save", "evaluate", "train", "save", "evaluate"));
}

TEST_F(UnderAgentTest, ALostUploadOfTheLastCheckpointIsNoSuccess) {
  SendStart();
  AnswerCheckpoint(Next("checkpoint"), true);
  AnswerCheckpoint(Next("checkpoint"), false);
  passed_.clear();
  json frame;
  do {
    frame = ipc::ReadFrame(agent_).value_or(json{{"type", "failed"}});
  } while (frame["type"] != "failed");
  EXPECT_EQ(frame["class"], "INFRASTRUCTURE");
  EXPECT_THAT(frame["message"].get<std::string>(), HasSubstr("the store is full"));
  EXPECT_EQ(ExitStatus(), 1);
}

TEST_F(UnderAgentTest, EndsAtOnceWhenTheAgentGoes) {
  json spec = ToySpecJson();
  spec["train"]["epochs"] = 100000;
  SendStart({{"spec", spec}});
  Next("checkpoint");
  close(agent_);
  agent_ = -1;
  EXPECT_EQ(ExitStatus(), 1);
}

json Block(const json& finding) { return finding.at("finding").at("block"); }

TEST_F(UnderAgentTest, EvaluatesWhatIsHandedOnUntilItIsStopped) {
  const std::string weights = ham::testing::TrainToyNetwork(directory_ / "data", directory_ / "training");
  SendStart({{"spec", ham::testing::ToyEvaluateSpecJson()}, {"weights", weights}, {"world_size", 3}, {"rank", 7}});
  EXPECT_EQ(Next("progress")["phase"], "load");
  EXPECT_THAT(Next("finding")["finding"]["inputs"].get<std::string>(), HasSubstr("\"fashion-mnist\""));
  const json clean = {{"stage", -1}, {"rows", {0, 1, 44}}}, attack = {{"stage", 1}, {"rows", {2, 5}}};
  ASSERT_TRUE(ipc::WriteFrame(agent_, {{"type", "work"}, {"blocks", {clean}}}).ok());
  json block = Block(Next("finding"));
  EXPECT_EQ(block["stage"], -1);
  EXPECT_EQ(block["rows"], clean["rows"]);
  EXPECT_EQ(block["predictions"].size(), 3);
  EXPECT_EQ(block["margins"].size(), 3);
  EXPECT_EQ(block["forward_passes"], 3);
  ASSERT_TRUE(ipc::WriteFrame(agent_, {{"type", "work"}, {"blocks", {clean, attack}}}).ok());
  block = Block(Next("finding"));  // what is done is not done again
  EXPECT_EQ(block["stage"], 1);
  EXPECT_EQ(block["rows"], attack["rows"]);
  EXPECT_GT(block["gradient_passes"], 0);
  ASSERT_TRUE(ipc::WriteFrame(agent_, {{"type", "work"}, {"blocks", {{{"stage", 3}, {"rows", {0, 1}}}}}}).ok());
  EXPECT_TRUE(Next("finding")["finding"].at("checks").contains("warnings"));
  json progress, last;
  do {
    last = std::exchange(progress, Next("progress"));
    ASSERT_FALSE(HasFailure());
  } while (progress["iteration"] != 3 || last["iteration"] != 3);
  EXPECT_EQ(progress["phase"], "evaluate");
  EXPECT_EQ(progress["epoch"], 0);
  EXPECT_GT(progress["tick"], last["tick"]);
  kill(trainer_, SIGTERM);
  EXPECT_EQ(ExitStatus(), 128 + SIGTERM);
}

TEST_F(UnderAgentTest, WorkThatIsNoneIsSaidAndEndsIt) {
  Next("hello");
  ASSERT_TRUE(ipc::WriteFrame(agent_, {{"type", "work"}, {"blocks", {{{"stage", 0}}}}}).ok());
  EXPECT_EQ(ExitStatus(), 1);
  EXPECT_THAT(ham::testing::ReadTestFile(directory_ / "out.err"), HasSubstr("frame \"work\" from the agent"));
}

struct BadStart {
  json changes;
  const char* failure_class;
  const char* message;
};

class BadStartTest : public UnderAgentTest, public ::testing::WithParamInterface<BadStart> {};

TEST_P(BadStartTest, FailsWithClassAndSentence) {
  SendStart(GetParam().changes);
  json frame;
  do {
    const auto next = ipc::ReadFrame(agent_);
    ASSERT_TRUE(next.ok()) << next.status();
    frame = *next;
  } while (frame["type"] != "failed");
  EXPECT_EQ(frame["class"], GetParam().failure_class);
  EXPECT_THAT(frame["message"].get<std::string>(), HasSubstr(GetParam().message));
  EXPECT_EQ(ExitStatus(), 1);
}

json SpecWith(const char* pointer, const json& value) {
  json spec = ToySpecJson();
  spec[json::json_pointer(pointer)] = value;
  return {{"spec", spec}};
}

json EvaluateSpecWith(const char* pointer, const json& value) {
  json spec = ham::testing::ToyEvaluateSpecJson();
  spec[json::json_pointer(pointer)] = value;
  return {{"spec", spec}};
}

INSTANTIATE_TEST_SUITE_P(
    Starts, BadStartTest,
    ::testing::Values(
        BadStart{SpecWith("/train/tampered", 1), "USER", "train.tampered is not known"},
        BadStart{SpecWith("/train/data/train_rows", 65), "USER", "train.data.train_rows is 65"},
        BadStart{SpecWith("/train/data/name", "cifar-10"), "USER", "cifar-10"},
        BadStart{{{"data_root", "/nowhere"}}, "USER", "fashion-mnist"},
        BadStart{{{"build_id", "000000000000"}}, "INFRASTRUCTURE", "of build 000000000000"},
        BadStart{SpecWith("/train/resources/device", "cuda"), "INFRASTRUCTURE",
                 "built without CUDA; the worker needs ham-trainer-cuda"},
        BadStart{{{"resume_manifest", "/nowhere/manifest.json"}}, "INFRASTRUCTURE", "cannot resume"},
        BadStart{{{"world_size", 2}, {"interface", "no-such-if0"}}, "INFRASTRUCTURE", "\"no-such-if0\""},
        BadStart{{{"world_size", 2}, {"address", "192.0.2.1"}}, "INFRASTRUCTURE", "192.0.2.1"},
        BadStart{{{"world_size", 2}, {"rank", 2}}, "INFRASTRUCTURE", "rank 2 of 2"},
        BadStart{EvaluateSpecWith("/evaluate/tampered", 1), "USER", "evaluate.tampered is not known"},
        BadStart{EvaluateSpecWith("/evaluate/resources/device", "cuda"), "INFRASTRUCTURE",
                 "evaluate.resources.device is cuda, but this program was built without CUDA"},
        BadStart{{{"spec", ham::testing::ToyEvaluateSpecJson()}, {"weights", "/nowhere/w"}}, "USER", "/nowhere/w"}));

TEST_F(UnderAgentTest, NamesTheRankThatDoesNotComeUp) {
  SendStart({{"world_size", 2}, {"rank", 1}, {"collective_patience_seconds", 0.2}});
  json frame;
  do {
    const auto next = ipc::ReadFrame(agent_);
    ASSERT_TRUE(next.ok()) << next.status();
    frame = *next;
    if (frame["type"] == "store_set" || frame["type"] == "store_get") {
      const bool set = frame["type"] == "store_set";
      ASSERT_TRUE(
          ipc::WriteFrame(
              agent_,
              {{"type", "store_reply"}, {"id", frame["id"]}, {"ok", set}, {"value", ""}, {"error", "nobody set it"}})
              .ok());
      if (!set) {
        EXPECT_LE(frame["timeout_seconds"], 0.2);
      }
    }
  } while (frame["type"] != "failed");
  EXPECT_EQ(frame["class"], "INFRASTRUCTURE");
  EXPECT_THAT(frame["message"].get<std::string>(), HasSubstr("0\": nobody set it"));
  EXPECT_EQ(ExitStatus(), 1);
}

TEST_F(UnderAgentTest, TellsOfACallThatWaitsAndWhomItLost) {
  SendStart({{"world_size", 2}});
  ham::testing::MemoryStore store;
  std::unique_ptr<Collective> peer;  // rank 1, which does not come to the first barrier
  std::thread connects([&] {
    auto connected = ConnectGloo({{.rank = 1, .world_size = 2}, "", ""}, store);
    ASSERT_TRUE(connected.ok()) << connected.status();
    peer = *std::move(connected);
  });
  json frame, failed;
  while (failed.is_null()) {
    auto next = ipc::ReadFrame(agent_);
    ASSERT_TRUE(next.ok()) << next.status();
    frame = *std::move(next);
    if (frame["type"] == "store_set") {
      ASSERT_TRUE(store.Set(frame["key"], *Base64Decode(frame["value"].get<std::string>())).ok());
    }
    if (frame["type"] == "store_set" || frame["type"] == "store_get") {
      const auto value = store.Get(frame["key"], absl::Seconds(20));
      ASSERT_TRUE(value.ok()) << value.status();
      ASSERT_TRUE(ipc::WriteFrame(agent_, {{"type", "store_reply"},
                                           {"id", frame["id"]},
                                           {"ok", true},
                                           {"value", Base64Encode(*value)},
                                           {"error", ""}})
                      .ok());
    }
    if (frame["type"] == "progress" && frame["collective_begun"] == 1) {
      EXPECT_EQ(frame["collective_sequence"], 0);
      if (connects.joinable()) connects.join();
      peer.reset();
    }
    if (frame["type"] == "failed") failed = frame;
  }
  if (connects.joinable()) connects.join();
  EXPECT_EQ(failed["class"], "INFRASTRUCTURE");
  EXPECT_EQ(failed["lost_rank"], 1);
  EXPECT_THAT(failed["message"].get<std::string>(), HasSubstr("barrier 1 over 2 ranks: lost the connection to rank 1"));
  EXPECT_EQ(ExitStatus(), 1);
}

TEST_F(UnderAgentTest, ABrokenFrameOfTheAgentsIsSaidAndEndsIt) {
  Next("hello");
  ASSERT_TRUE(ipc::WriteFrame(agent_, {{"type", "launch"}}).ok());
  EXPECT_EQ(ExitStatus(), 1);
  EXPECT_THAT(ham::testing::ReadTestFile(directory_ / "out.err"), HasSubstr("unknown type \"launch\""));
}

class AloneTest : public JobRunnerTest {
 protected:
  int Run(std::vector<std::string> arguments, const std::string& name) {
    return WaitForExit(Start(Arguments(std::move(arguments), name), directory_ / name));
  }
  std::vector<std::string> Arguments(std::vector<std::string> arguments, const std::string& name) {
    ham::testing::WriteTestFile(directory_ / "job.json", spec_.dump());
    for (const std::string& more : {std::string("--spec"), directory_ / "job.json", std::string("--data-root"),
                                    directory_ / "data", std::string("--work-dir"), directory_ / ("work-" + name)}) {
      arguments.push_back(more);
    }
    return arguments;
  }
  std::string Output(const std::string& name) { return ham::testing::ReadTestFile(directory_ / name); }

  json spec_ = ToySpecJson();
};

TEST_F(AloneTest, PrintsAPointALineAndResumesFromItsCheckpoint) {
  ASSERT_EQ(Run({"--json"}, "whole"), 0) << Output("whole.err");
  std::istringstream lines(Output("whole"));
  std::vector<json> points;
  for (std::string line; std::getline(lines, line);) points.push_back(json::parse(line));
  ASSERT_EQ(points.size(), 5);  // two of training, two of evaluation, the summary
  EXPECT_TRUE(points.back().contains("summary"));
  EXPECT_GT(points.back()["summary"]["model_flops_utilization"], 0);  // the peak was measured
  ASSERT_EQ(Run({"--resume", directory_ / "work-whole/checkpoints/epoch-000001/manifest.json"}, "resumed"), 0)
      << Output("resumed.err");
  EXPECT_THAT(Output("resumed"), HasSubstr("epoch 2"));
  const std::string last = "/checkpoints/epoch-000002/model.safetensors";
  EXPECT_EQ(Output("work-resumed" + last), Output("work-whole" + last));
}

// The manifest with most iterations done in `directory`, "" if there is none; each that is there must load.
std::string NewestManifest(const std::string& directory) {
  std::string newest;
  int64_t most = 0;
  if (!std::filesystem::exists(directory)) return newest;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    const std::string manifest = entry.path() / "manifest.json";
    const std::string name = entry.path().filename();
    if (!name.starts_with("epoch-") || absl::StrContains(name, ".new-")) continue;  // those are still being written
    const auto checkpoint = LoadCheckpoint(manifest);
    EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
    if (!checkpoint.ok() || checkpoint->info.iteration <= most) continue;
    most = checkpoint->info.iteration;
    newest = manifest;
  }
  return newest;
}

// Whatever it was doing: checkpoints are written in the background after each iteration.
TEST_F(AloneTest, KilledAgainAndAgainItComesToTheSameWeights) {
  spec_["train"]["epochs"] = 8;
  spec_["train"]["evaluation"]["every_epochs"] = 0;
  spec_["train"]["checkpoint"]["every_iterations"] = 1;
  ASSERT_EQ(Run({}, "whole"), 0) << Output("whole.err");
  std::mt19937 random(static_cast<uint32_t>(ham::testing::TestSeed()));
  const std::string checkpoints = directory_ / "work-killed/checkpoints";
  std::string newest;
  for (int round = 0; round < 6; ++round) {
    const pid_t pid = Start(
        Arguments(newest.empty() ? std::vector<std::string>{} : std::vector<std::string>{"--resume", newest}, "killed"),
        directory_ / "killed");
    // Until it has been at work there for a while, whatever is there from before.
    int changes = 1 + static_cast<int>(random() % 20);
    for (int64_t before = -1; changes > 0 && !HasExited(pid);) {
      std::error_code none;
      const int64_t entries = std::distance(std::filesystem::directory_iterator(checkpoints, none), {});
      changes -= entries != before;
      before = entries;
    }
    kill(pid, SIGKILL);
    WaitForExit(pid);
    newest = NewestManifest(checkpoints);
  }
  ASSERT_EQ(Run(newest.empty() ? std::vector<std::string>{} : std::vector<std::string>{"--resume", newest}, "killed"),
            0)
      << Output("killed.err");
  const std::string last = "/checkpoints/epoch-000008/model.safetensors";
  EXPECT_EQ(Output("work-killed" + last), Output("work-whole" + last));
}

TEST_F(AloneTest, KeepsTheBestByValidationAndEveryNthEpoch) {
  spec_["train"]["epochs"] = 6;
  spec_["train"]["data"]["train_rows"] = 0;
  spec_["train"]["data"]["validation_share"] = 0.3;
  spec_["train"]["checkpoint"] = {{"every_iterations", 1}, {"keep_every_epochs", 2}};
  ASSERT_EQ(Run({"--json"}, "first"), 0) << Output("first.err");
  double best = -1;
  int epoch = 0;
  std::istringstream lines(Output("first"));
  for (std::string line; std::getline(lines, line);) {
    const json point = json::parse(line);
    if (!point.contains("evaluation") || point["evaluation"]["split"] != "validation") continue;
    const double accuracy = point["evaluation"]["suites"][0]["robust_accuracy"];
    if (accuracy <= best) continue;
    best = accuracy;
    epoch = point["epoch"];
  }
  const json named = json::parse(Output("work-first/checkpoints/best.json"));
  EXPECT_EQ(named["robust_accuracy"]["value"], best);
  const std::string name = named["robust_accuracy"]["checkpoint"];
  EXPECT_EQ(name, absl::StrCat("epoch-00000", epoch));
  const std::string worst = named["worst_class_robust_accuracy"]["checkpoint"];
  for (const std::string& kept : {name, worst, std::string("epoch-000002"), std::string("epoch-000004")}) {
    EXPECT_TRUE(LoadCheckpoint(directory_ / "work-first/checkpoints/" + kept + "/manifest.json").ok()) << kept;
  }
}

TEST_F(AloneTest, ALastCheckpointThatCannotBeWrittenIsNoSuccess) {
  spec_["train"]["epochs"] = 1;
  ham::testing::WriteTestFile(directory_ / "work-first/checkpoints", "a file in the way");
  EXPECT_EQ(Run({}, "first"), 1);
  EXPECT_THAT(Output("first.err"), HasSubstr("work-first/checkpoints"));
}

TEST_F(AloneTest, StartsFromExportedWeights) {
  ASSERT_EQ(Run({}, "first"), 0) << Output("first.err");
  const std::string weights = directory_ / "weights.safetensors";
  ASSERT_TRUE(ExportWeights(directory_ / "work-first/checkpoints/epoch-000002", false, weights).ok());
  // At a learning rate that changes next to nothing the weights stay those it starts from.
  spec_["train"]["optimizer"]["learning_rate"] = 1e-12;
  ASSERT_EQ(Run({"--initial-weights", weights}, "second"), 0) << Output("second.err");
  const auto start = ReadSafetensors(weights);
  const auto end = ReadSafetensors(directory_ / "work-second/checkpoints/epoch-000002/model.safetensors");
  ASSERT_TRUE(start.ok() && end.ok()) << start.status() << end.status();
  for (const auto& [name, tensor] : end->tensors) {
    EXPECT_TRUE(at::allclose(tensor, start->tensors.at(name), 0, 1e-6)) << name;
  }
  EXPECT_EQ(Run({"--initial-weights", directory_ / "nothing"}, "third"), 1);
  EXPECT_THAT(Output("third.err"), HasSubstr("cannot be opened"));
}

TEST_F(AloneTest, OptionsOfTheModelReachIt) {
  spec_["train"]["model"]["activation"] = "silu";
  EXPECT_EQ(Run({}, "silu"), 1);
  EXPECT_THAT(Output("silu.err"), HasSubstr("train.model.activation is silu"));
  spec_["train"]["model"]["activation"] = "relu";
  std::set<std::string> digests;
  for (const char* normalization : {"none", "data_set"}) {
    spec_["train"]["model"]["normalization"] = normalization;
    ASSERT_EQ(Run({}, normalization), 0) << Output(absl::StrCat(normalization, ".err"));
    const std::string manifest = absl::StrCat("work-", normalization, "/checkpoints/epoch-000002/manifest.json");
    digests.insert(json::parse(Output(manifest)).at("parameters_digest"));
    const std::string file = directory_ / "weights.safetensors";
    ASSERT_TRUE(
        ExportWeights(directory_ / absl::StrCat("work-", normalization, "/checkpoints/epoch-000002"), false, file)
            .ok());
    EXPECT_EQ(ReadSafetensors(file)->metadata["mean"], *normalization == 'd' ? "[0.286]" : "");
  }
  EXPECT_EQ(digests.size(), 2u);
}

TEST_F(AloneTest, TrainsWithExtraData) {
  spec_["train"]["data"].update({{"extra", "more"}, {"extra_share", 0.5}});
  EXPECT_EQ(Run({}, "missing"), 1);
  EXPECT_THAT(Output("missing.err"), HasSubstr("has no extra data \"more\""));
  const std::string folder = directory_ / "data/fashion-mnist/extra";
  std::filesystem::create_directories(folder);
  ham::testing::WriteNpz(folder + "/more.npz", ham::testing::NpyImages(15, 28, 28, 1, '0'),
                         ham::testing::NpyLabels(std::vector<int64_t>(15, 9)));
  EXPECT_EQ(Run({}, "few"), 1);
  EXPECT_THAT(Output("few.err"), HasSubstr("16 rows of each batch, but train.data.extra has 15 rows"));
  ham::testing::WriteNpz(folder + "/more.npz", ham::testing::NpyImages(20, 28, 28, 1, '0'),
                         ham::testing::NpyLabels(std::vector<int64_t>(20, 9)));
  EXPECT_EQ(Run({}, "mixed"), 0) << Output("mixed.err");
  EXPECT_THAT(Output("mixed"), HasSubstr("done"));
}

TEST_F(AloneTest, RefusesToResumeAnotherSpec) {
  ASSERT_EQ(Run({}, "first"), 0) << Output("first.err");
  spec_["train"]["attack"]["steps"] = 4;
  EXPECT_EQ(Run({"--resume", directory_ / "work-first/checkpoints/epoch-000001/manifest.json"}, "second"), 1);
  EXPECT_THAT(Output("second.err"), HasSubstr("made from another spec"));
}

TEST_F(AloneTest, RefusesToResumeWithOtherData) {
  ASSERT_EQ(Run({}, "first"), 0) << Output("first.err");
  ham::testing::WriteToyDataSet(directory_ / "data", 70);
  EXPECT_EQ(Run({"--resume", directory_ / "work-first/checkpoints/epoch-000001/manifest.json"}, "second"), 1);
  EXPECT_THAT(Output("second.err"), HasSubstr("made with other files of the data set fashion-mnist than lie in"));
}

TEST_F(AloneTest, TwoRanksMeetInADirectory) {
  const std::string meet = directory_ / "meet";
  const pid_t one =
      Start(Arguments({"--rank", "1", "--world-size", "2", "--rendezvous-dir", meet}, "one"), directory_ / "one");
  EXPECT_EQ(Run({"--rank", "0", "--world-size", "2", "--rendezvous-dir", meet}, "zero"), 0) << Output("zero.err");
  EXPECT_EQ(WaitForExit(one), 0) << Output("one.err");
  EXPECT_THAT(Output("zero"), HasSubstr("done"));
  EXPECT_EQ(Output("one"), "");
}

TEST_F(AloneTest, GoesOnWithAnotherNumberOfRanksAndSaysSo) {
  ASSERT_EQ(Run({}, "alone"), 0) << Output("alone.err");
  EXPECT_EQ(Output("alone.err"), "");
  const std::string manifest = directory_ / "work-alone/checkpoints/epoch-000001/manifest.json";
  const std::string meet = directory_ / "meet";
  const std::vector<std::string> both = {"--world-size", "2", "--rendezvous-dir", meet, "--resume", manifest, "--rank"};
  std::vector<std::string> first = both, second = both;
  first.push_back("0");
  second.push_back("1");
  const pid_t one = Start(Arguments(second, "one"), directory_ / "one");
  EXPECT_EQ(Run(first, "zero"), 0) << Output("zero.err");
  EXPECT_EQ(WaitForExit(one), 0) << Output("one.err");
  EXPECT_THAT(Output("zero.err"), HasSubstr("made with 1 ranks, this run has 2: results are equal up to rounding"));
  EXPECT_EQ(Output("one.err"), "");
  EXPECT_THAT(Output("zero"), HasSubstr("done"));
}

TEST_F(AloneTest, SaysThatAnotherBuildMadeTheCheckpoint) {
  ASSERT_EQ(Run({}, "first"), 0) << Output("first.err");
  const std::string manifest = directory_ / "work-first/checkpoints/epoch-000001/manifest.json";
  json changed = json::parse(Output("work-first/checkpoints/epoch-000001/manifest.json"));
  changed["build_id"] = "000000000000";
  ham::testing::WriteTestFile(manifest, changed.dump());
  EXPECT_EQ(Run({"--resume", manifest}, "second"), 0);
  EXPECT_THAT(Output("second.err"), HasSubstr("made with build 000000000000, this run has"));
}

TEST_F(AloneTest, GoesOnWithAnotherNumberOfThreadsAndSaysSo) {
  ASSERT_EQ(Run({}, "first"), 0) << Output("first.err");
  const std::string manifest = directory_ / "work-first/checkpoints/epoch-000001/manifest.json";
  EXPECT_EQ(Run({"--resume", manifest, "--threads", "2"}, "second"), 0);
  EXPECT_THAT(Output("second.err"), HasSubstr("made with 1 threads a rank, this run has 2: results are equal up to"));
  EXPECT_THAT(Output("second"), HasSubstr("not exact: 1 threads a rank, this run has 2"));
  // What goes on from there is as little exact, though nothing differs any more.
  const std::string last = directory_ / "work-second/checkpoints/epoch-000002/manifest.json";
  EXPECT_EQ(Run({"--resume", last, "--threads", "2"}, "third"), 0);
  EXPECT_EQ(Output("third.err"), "");
  EXPECT_THAT(Output("third"), HasSubstr("not exact: 1 threads a rank, this run has 2"));
}

TEST_F(AloneTest, ParametersWithAnotherDigestThanTheManifestsAreRefused) {
  ASSERT_EQ(Run({}, "first"), 0) << Output("first.err");
  const std::string manifest = directory_ / "work-first/checkpoints/epoch-000001/manifest.json";
  json changed = json::parse(Output("work-first/checkpoints/epoch-000001/manifest.json"));
  EXPECT_EQ(changed["model"], "cnn-16-32");
  EXPECT_NE(changed["cpu_model"], "");
  changed["parameters_digest"] = std::string(64, '0');
  ham::testing::WriteTestFile(manifest, changed.dump());
  EXPECT_EQ(Run({"--resume", manifest}, "second"), 1);
  EXPECT_THAT(Output("second.err"), HasSubstr("cannot resume: the parameters read from"));
}

TEST_F(AloneTest, RanksThatResumeFromDifferentPlacesRefuseToStart) {
  ASSERT_EQ(Run({}, "first"), 0) << Output("first.err");
  const std::string manifest = directory_ / "work-first/checkpoints/epoch-000001/manifest.json";
  const std::vector<std::string> both = {"--world-size", "2", "--rendezvous-dir", directory_ / "meet", "--rank"};
  std::vector<std::string> zero = both, one = both;
  zero.push_back("0");
  one.insert(one.end(), {"1", "--resume", manifest});
  const pid_t other = Start(Arguments(one, "one"), directory_ / "one");
  EXPECT_EQ(Run(zero, "zero"), 1);
  EXPECT_EQ(WaitForExit(other), 1);
  for (const char* errors : {"zero.err", "one.err"}) {
    EXPECT_THAT(Output(errors), HasSubstr("rank 1 has another first iteration than rank 0"));
  }
}

TEST_F(AloneTest, PreparedDataGoesWhereAskedAndARunWithoutRoomForItSaysSo) {
  ASSERT_EQ(Run({"--data-cache", directory_ / "cache"}, "cached"), 0) << Output("cached.err");
  EXPECT_EQ(Output("cached.err"), "");
  const std::filesystem::directory_iterator prepared(directory_ / "cache");
  EXPECT_EQ(std::distance(prepared, {}), 2);
  ham::testing::WriteTestFile(directory_ / "file", "");
  ASSERT_EQ(Run({"--data-cache", directory_ / "file/cache"}, "own"), 0) << Output("own.err");
  EXPECT_THAT(Output("own.err"), HasSubstr("memory of its own: cannot write to " + directory_ / "file/cache"));
  const std::string last = "/checkpoints/epoch-000002/model.safetensors";
  EXPECT_EQ(Output("work-own" + last), Output("work-cached" + last));
}

TEST_F(AloneTest, DataCommandsTellByTheirExitStatus) {
  const auto run = [this](std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), "data");
    return WaitForExit(Start(std::move(arguments), directory_ / "out"));
  };
  ASSERT_EQ(run({"inspect", directory_ / "data/fashion-mnist", "--json"}), 0) << Output("out.err");
  EXPECT_EQ(json::parse(Output("out"))["splits"][1]["rows"], 64);
  std::filesystem::resize_file(directory_ / "data/fashion-mnist/t10k-labels-idx1-ubyte", 20);
  EXPECT_EQ(run({"inspect", directory_ / "data/fashion-mnist"}), 1);
  EXPECT_THAT(Output("out"), HasSubstr("is cut: 12 of 64"));
  EXPECT_EQ(run({"inspect", "--data-root", directory_ / "data", "--json"}), 0);
  EXPECT_THAT(std::string(json::parse(Output("out"))[0]["error"]), HasSubstr("is cut"));
  EXPECT_EQ(run({"inspect", directory_ / "nowhere"}), 1);
  EXPECT_EQ(run({"list", "--json"}), 0);
  EXPECT_EQ(json::parse(Output("out"))[0]["name"], "mnist");
  EXPECT_EQ(run({"urls", "letters"}), 1);
  EXPECT_THAT(Output("out.err"), HasSubstr("\"letters\" is unknown"));
}

TEST_F(AloneTest, TheSpecSaysHowManyRanks) {
  spec_["train"]["resources"]["world_size"] = 2;
  EXPECT_EQ(Run({}, "two"), 1);
  EXPECT_THAT(Output("two.err"), HasSubstr("the 2 ranks meet in an empty directory"));
  EXPECT_EQ(Run({"--world-size", "1"}, "one"), 0) << Output("one.err");
}

TEST_F(AloneTest, ASpecIsEnough) {
  // The data set under its default root is Debian's; here the root is named.
  ham::testing::WriteTestFile(directory_ / "job.json", spec_.dump());
  for (const char* made : {"ham-run", "ham-run-2"}) {
    const std::string command = absl::StrCat("cd ", directory_.path(), " && ", HAM_TRAINER_PROGRAM,
                                             " --spec job.json --data-root data >out.txt 2>err.txt");
    ASSERT_EQ(std::system(command.c_str()), 0) << Output("err.txt");
    EXPECT_THAT(Output("err.txt"), HasSubstr(absl::StrCat("checkpoints go to ", made, "/checkpoints\n")));
    EXPECT_TRUE(std::filesystem::exists(directory_ / (std::string(made) + "/checkpoints/epoch-000002")));
  }
}

TEST_F(AloneTest, AnIncompleteSpecIsToldHowToBecomeWhole) {
  spec_["train"]["attack"].erase("steps");
  EXPECT_EQ(Run({}, "short"), 1);
  EXPECT_THAT(Output("short.err"), HasSubstr("train.attack.steps is missing"));
  EXPECT_THAT(Output("short.err"), HasSubstr("`hamctl submit --dry-run FILE -o json` prints a complete spec"));
}

TEST_F(AloneTest, BadFlagsAndFilesAreOneSentence) {
  EXPECT_EQ(Run({"--rank", "1"}, "rank"), 1);
  EXPECT_THAT(Output("rank.err"), HasSubstr("--rank is 1"));
  EXPECT_EQ(Run({"--world-size", "2"}, "meet"), 1);
  EXPECT_THAT(Output("meet.err"), HasSubstr("--rendezvous-dir is missing"));
  EXPECT_EQ(Run({"--nonsense"}, "flag"), 2);
  EXPECT_EQ(
      WaitForExit(Start({"--spec", directory_ / "none.json", "--work-dir", directory_ / "w"}, directory_ / "file")), 1);
  EXPECT_THAT(Output("file.err"), HasSubstr("cannot open"));
  EXPECT_EQ(WaitForExit(Start({}, directory_ / "nothing")), 2);
}

TEST_F(AloneTest, BenchAndVersionPrintJson) {
  ASSERT_EQ(WaitForExit(Start({"version", "--json"}, directory_ / "version")), 0);
  EXPECT_EQ(json::parse(Output("version"))["build_id"], BuildId());
  ham::testing::WriteTestFile(directory_ / "job.json", spec_.dump());
  ASSERT_EQ(
      WaitForExit(Start({"bench", "--spec", directory_ / "job.json", "--data-root", directory_ / "data", "--iterations",
                         "3", "--evaluation", "20", "--trace", directory_ / "trace.json", "--json"},
                        directory_ / "bench")),
      0)
      << Output("bench.err");
  const json bench = json::parse(Output("bench"));
  EXPECT_GT(bench["images_per_second"], 0);
  EXPECT_EQ(bench["iterations"], 3);
  EXPECT_EQ(bench["evaluation"]["rows"], 20);
  EXPECT_GT(bench["evaluation"]["flops"], 0);
  EXPECT_GT(bench["matmul_peak_flops_per_second"], 0);
  EXPECT_GT(bench["model_flops_utilization"], 0);
  double seconds = 0, flops = 0;
  for (const auto& [name, phase] : bench["phases"].items()) {
    EXPECT_GE(phase["seconds"], 0) << name;
    seconds += phase["seconds"].get<double>();
    flops += phase["flops"].get<double>();
  }
  EXPECT_LE(seconds, bench["seconds"]);
  EXPECT_GT(bench["phases"]["attack"]["flops_per_second"], 0);
  EXPECT_EQ(flops, bench["model_flops"]);
  int steps = 0;
  const json trace = json::parse(Output("trace.json"));
  for (const json& event : trace["traceEvents"]) steps += event["name"] == "step";
  EXPECT_EQ(steps, 3);
}

TEST_F(AloneTest, BenchRefusesWhatTheJobDoesNotHave) {
  ham::testing::WriteTestFile(directory_ / "job.json", spec_.dump());
  const auto bench = [&](const std::string& flag, const std::string& value) {
    const int code =
        WaitForExit(Start({"bench", "--spec", directory_ / "job.json", "--data-root", directory_ / "data", flag, value},
                          directory_ / "refused"));
    EXPECT_EQ(Output("refused"), "");
    return std::make_pair(code, Output("refused.err"));
  };
  EXPECT_EQ(bench("--iterations", "0").first, 2);
  EXPECT_THAT(Output("refused.err"), HasSubstr("--iterations"));
  EXPECT_EQ(bench("--epoch", "0").first, 2);
  EXPECT_EQ(bench("--epoch", "99"),
            std::make_pair(
                1, absl::StrCat("ham-trainer: --epoch is 99; the job has epochs 1 to ",
                                spec_["train"]["epochs"].get<int>(), ": name one of these, or none for the last\n")));
  EXPECT_EQ(bench("--evaluation", "100000").first, 1);
  EXPECT_THAT(Output("refused.err"), HasSubstr("--evaluation is 100000; the job has "));
  EXPECT_EQ(bench("--trace", directory_ / "none/trace.json").first, 1);
  EXPECT_THAT(Output("refused.err"), HasSubstr("--trace is "));
}

TEST(ConnectRanksTest, RanksThatShareAGpuMeetOverGloo) {
  ham::testing::MemoryStore store;
  std::vector<std::thread> ranks;
  for (int rank = 0; rank < 2; ++rank) {
    ranks.emplace_back([&store, rank] {
      RankJob job;
      job.rank = rank;
      job.world_size = 2;
      HostAccelerator accelerator(at::kCPU, absl::AlreadyExistsError("both are on GPU-0"));
      auto connected = ConnectRanks(job, &accelerator, &store);
      ASSERT_TRUE(connected.ok()) << connected.status();
      double sum = rank + 1;
      EXPECT_TRUE((*connected)->AllReduceSum(&sum, 1).ok());
      EXPECT_EQ(sum, 3);
    });
  }
  for (std::thread& rank : ranks) rank.join();
}

TEST(ConnectRanksTest, AnotherErrorOfNcclStands) {
  ham::testing::MemoryStore store;
  RankJob job;
  job.world_size = 2;
  HostAccelerator accelerator(at::kCPU, absl::FailedPreconditionError("rank 1 has NCCL 2.27.3"));
  EXPECT_TRUE(absl::IsFailedPrecondition(ConnectRanks(job, &accelerator, &store).status()));
  job.world_size = 1;
  EXPECT_TRUE(ConnectRanks(job, &accelerator, nullptr).ok());
}

TEST(FailureClassTest, FollowsTheCode) {
  EXPECT_STREQ(FailureClassOf(absl::InvalidArgumentError("")), "USER");
  EXPECT_STREQ(FailureClassOf(absl::DataLossError("")), "USER");
  EXPECT_STREQ(FailureClassOf(absl::InternalError("")), "TRAINER_CRASH");
  EXPECT_STREQ(FailureClassOf(absl::DeadlineExceededError("")), "HANG");
  EXPECT_STREQ(FailureClassOf(absl::UnavailableError("")), "INFRASTRUCTURE");
  EXPECT_STREQ(FailureClassOf(absl::ResourceExhaustedError("")), "INFRASTRUCTURE");
  EXPECT_STREQ(FailureClassOf(absl::FailedPreconditionError("")), "INFRASTRUCTURE");
}

}  // namespace
}  // namespace ham::trainer
