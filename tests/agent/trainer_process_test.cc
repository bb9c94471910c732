#include "worker/agent/trainer_process.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <sstream>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "tests/support/temporary_directory.h"
#include "worker/agent/child_process.h"
#include "worker/agent/worker_id.h"

namespace ham::agent {
namespace {

using ham::testing::ReadTestFile;
using ham::testing::TemporaryDirectory;
using ham::testing::WriteTestFile;

constexpr absl::Duration kPatience = absl::Seconds(20);
constexpr char kPlayAgent[] = "play-agent";

// This program as an agent: `play-agent MARK SCRIPT` starts `sh -c SCRIPT`, prints what it prints, and stays.
int PlayAgent(const std::string& mark, const std::string& script) {
  TrainerLauncher launcher(mark);
  const auto process = launcher.Start({"sh", "-c", script}, {});
  if (!process.ok()) return 1;
  std::array<char, 4096> buffer;
  while ((*process)->AwaitLog()) {
    const ssize_t n = ::read((*process)->log_fd(), buffer.data(), buffer.size());
    if (n > 0 && ::write(STDOUT_FILENO, buffer.data(), static_cast<size_t>(n)) != n) return 1;
    if (n == 0) break;
  }
  ::pause();
  return 0;
}

// Parent 0 when there is no such process, or only what is left of one.
struct ProcessInfo {
  char state = 'X';
  pid_t parent = 0;
};
ProcessInfo InfoOf(pid_t pid) {
  std::ifstream file(absl::StrCat("/proc/", pid, "/stat"));
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  ProcessInfo info;
  if (const size_t at = text.rfind(')'); at != std::string::npos)
    std::istringstream(text.substr(at + 1)) >> info.state >> info.parent;
  return info;
}

// The end of a process, also of one that is not our child.
bool AwaitGone(pid_t pid) {
  const int fd = OpenPidFd(pid);
  if (fd < 0) return errno == ESRCH;
  const bool gone = AwaitEnd(fd, absl::Now() + kPatience);
  ::close(fd);
  return gone;
}

bool IsAlive(pid_t pid) { return ::kill(pid, 0) == 0 && InfoOf(pid).state != 'Z'; }

class TrainerProcessTest : public ::testing::Test {
 protected:
  std::unique_ptr<TrainerProcess> Start(const std::vector<std::string>& arguments,
                                        const std::vector<std::pair<std::string, std::string>>& environment = {}) {
    auto process = launcher_.Start(arguments, environment);
    EXPECT_TRUE(process.ok()) << process.status();
    return *std::move(process);
  }
  std::unique_ptr<TrainerProcess> Shell(const std::string& script) { return Start({"/bin/sh", "-c", script}); }

  // All that it prints, to the end of its output.
  static std::string Log(TrainerProcess* process) {
    std::string text;
    std::array<char, 4096> buffer;
    while (process->AwaitLog()) {
      const ssize_t n = ::read(process->log_fd(), buffer.data(), buffer.size());
      if (n == 0) break;
      if (n > 0) text.append(buffer.data(), static_cast<size_t>(n));
    }
    return text;
  }
  // The next line that it prints.
  static std::string Line(TrainerProcess* process) {
    std::string text;
    char c = 0;
    while (process->AwaitLog()) {
      const ssize_t n = ::read(process->log_fd(), &c, 1);
      if (n == 0 || (n == 1 && c == '\n')) break;
      if (n == 1) text += c;
    }
    return text;
  }
  static ham::v1::ProcessState::State StateOf(TrainerProcess* process) {
    return process->Observe().value_or(ham::v1::ProcessState()).state();
  }
  static bool AwaitStopped(TrainerProcess* process) {
    const absl::Time deadline = absl::Now() + kPatience;
    while (StateOf(process) != ham::v1::ProcessState::STOPPED) {
      if (absl::Now() > deadline) return false;
      ::sched_yield();
    }
    return true;
  }
  static int Status(TrainerProcess* process) {
    const std::optional<int> status = process->Wait(kPatience);
    EXPECT_TRUE(status.has_value()) << "it does not end";
    return status.value_or(-1);
  }

  const std::string mark_ = RandomId();
  TrainerLauncher launcher_{mark_};
};

TEST_F(TrainerProcessTest, GivesOutputAndStatus) {
  const auto process = Shell("echo out; echo err >&2; exit 7");
  EXPECT_EQ(Log(process.get()), "out\nerr\n");
  EXPECT_EQ(WEXITSTATUS(Status(process.get())), 7);
  EXPECT_EQ(WEXITSTATUS(Status(process.get())), 7);  // again
}

TEST_F(TrainerProcessTest, GivesTheSocketAndTheEnvironment) {
  const auto process =
      Start({"/bin/sh", "-c", "echo $HAM_TEST_ADDED $HAM_AGENT; read line <&3; echo got $line; echo reply >&3"},
            {{"HAM_TEST_ADDED", "value"}});
  EXPECT_EQ(Line(process.get()), "value " + mark_);
  ASSERT_EQ(::send(process->frame_fd(), "question\n", 9, MSG_NOSIGNAL), 9);
  EXPECT_EQ(Line(process.get()), "got question");
  std::array<char, 6> reply;
  ASSERT_EQ(::recv(process->frame_fd(), reply.data(), reply.size(), MSG_WAITALL), 6);
  EXPECT_EQ(std::string(reply.data(), 6), "reply\n");
}

TEST_F(TrainerProcessTest, RunsWhereTheKernelRefusesItsCpus) {
  const auto process = launcher_.Start({"/bin/echo", "runs"}, {}, {CPU_SETSIZE - 1});
  ASSERT_TRUE(process.ok()) << process.status();
  EXPECT_EQ(Log(process->get()), "ham-worker: cannot keep to CPUs 1023 (Invalid argument): the kernel chooses\nruns\n");
  EXPECT_EQ(Status(process->get()), 0);
}

TEST_F(TrainerProcessTest, InheritsNothingElse) {
  const int open = ::open("/dev/null", O_RDONLY);  // not closed on exec
  const auto process = Start({"ls", "/proc/self/fd"});
  EXPECT_EQ(Log(process.get()), "0\n1\n2\n3\n4\n");  // 4 is the folder that it lists
  ::close(open);
}

TEST_F(TrainerProcessTest, AnInheritedVariableIsReplaced) {
  ::setenv("CUDA_VISIBLE_DEVICES", "all", 1);
  const auto process = Start({"/bin/sh", "-c", "env | grep ^CUDA_VIS"}, {{"CUDA_VISIBLE_DEVICES", "GPU-1"}});
  EXPECT_EQ(Log(process.get()), "CUDA_VISIBLE_DEVICES=GPU-1\n");
  ::unsetenv("CUDA_VISIBLE_DEVICES");
}

TEST_F(TrainerProcessTest, ASignalEndsItAndIsSeen) {
  const auto process = Shell("echo ready; exec sleep 600");
  EXPECT_EQ(Line(process.get()), "ready");
  EXPECT_EQ(process->Wait(absl::ZeroDuration()), std::nullopt);
  process->Signal(SIGTERM);
  const int status = Status(process.get());
  ASSERT_TRUE(WIFSIGNALED(status));
  EXPECT_EQ(WTERMSIG(status), SIGTERM);
  process->Signal(SIGKILL);  // of nobody by now
}

TEST_F(TrainerProcessTest, SaysWhatItsProcessDoes) {
  const auto process = Shell("echo ready; exec sleep 600");
  EXPECT_EQ(Line(process.get()), "ready");
  EXPECT_EQ(StateOf(process.get()), ham::v1::ProcessState::ACTIVE);
  process->Signal(SIGSTOP);
  EXPECT_TRUE(AwaitStopped(process.get()));
  process->Signal(SIGKILL);
  EXPECT_TRUE(AwaitGone(process->pid()));
  EXPECT_FALSE(process->Observe());  // only what is left of it
  Status(process.get());
  EXPECT_FALSE(process->Observe());
}

TEST_F(TrainerProcessTest, SigtermReachesAStoppedOneAtOnce) {
  const auto process = Shell("echo ready; exec sleep 600");
  EXPECT_EQ(Line(process.get()), "ready");
  process->Signal(SIGSTOP);
  EXPECT_TRUE(AwaitStopped(process.get()));
  process->Signal(SIGTERM);
  const std::optional<int> status = process->Wait(absl::Seconds(2));
  ASSERT_TRUE(status);
  ASSERT_TRUE(WIFSIGNALED(*status));
  EXPECT_EQ(WTERMSIG(*status), SIGTERM);
}

TEST_F(TrainerProcessTest, NoSignalIsBlockedOrIgnored) {
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  ::pthread_sigmask(SIG_BLOCK, &all, &before);
  ::signal(SIGPIPE, SIG_IGN);
  {
    TrainerLauncher launcher(mark_);  // its thread has this mask
    auto process = launcher.Start({"grep", "-E", "SigBlk|SigIgn", "/proc/self/status"}, {});
    ASSERT_TRUE(process.ok()) << process.status();
    // 32 and 33 are glibc's own, which posix_spawn always ignores.
    EXPECT_EQ(Log(process->get()), "SigBlk:\t0000000000000000\nSigIgn:\t0000000180000000\n");
  }
  ::signal(SIGPIPE, SIG_DFL);
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

TEST_F(TrainerProcessTest, AMissingProgramIsStatus127WithAReason) {
  const auto process = Start({"/nonexistent/ham-trainer"});
  const std::string log = Log(process.get());
  EXPECT_EQ(WEXITSTATUS(Status(process.get())), 127);
  EXPECT_NE(log.find("/nonexistent/ham-trainer"), std::string::npos) << log;
}

TEST_F(TrainerProcessTest, AProgramIsFoundInThePath) {
  const auto process = Start({"true"});
  EXPECT_EQ(Status(process.get()), 0);
}

TEST_F(TrainerProcessTest, WithoutTheProgramThatExecutesItIsUnavailable) {
  TrainerLauncher launcher(mark_, "/nonexistent/ham-worker");
  const auto process = launcher.Start({"/bin/true"}, {});
  EXPECT_TRUE(absl::IsUnavailable(process.status())) << process.status();
}

TEST_F(TrainerProcessTest, ExecTrainerOfAnotherParentStartsNothing) {
  // Its parent is not process 1.
  const auto text = Start({"/proc/self/exe", kExecTrainer, "1", "", "/bin/echo", "started"});
  EXPECT_EQ(Log(text.get()), "");
  EXPECT_EQ(WEXITSTATUS(Status(text.get())), 127);
}

TEST_F(TrainerProcessTest, WhatItStartedEndsWithIt) {
  const auto process = Shell("sleep 600 & echo $!; exit 0");
  const pid_t grandchild = std::stoi(Line(process.get()));
  EXPECT_EQ(Status(process.get()), 0);
  EXPECT_TRUE(AwaitGone(grandchild));
}

TEST_F(TrainerProcessTest, ItsLogEndsWithItEvenIfAnotherHoldsThePipe) {
  const auto process = Shell("setsid sleep 600 & echo last");
  EXPECT_EQ(Log(process.get()), "last\n");
  EXPECT_EQ(Status(process.get()), 0);
  EXPECT_TRUE(KillLeftTrainers(mark_, kPatience).ok());  // the sleep, in a session of its own
}

TEST_F(TrainerProcessTest, ItsOwnerTakesItAlong) {
  auto process = Shell("trap '' TERM; echo ready; while :; do sleep 600; done");
  Line(process.get());
  const pid_t pid = process->pid();
  process->Signal(SIGTERM);
  EXPECT_EQ(process->Wait(absl::ZeroDuration()), std::nullopt);
  process.reset();
  EXPECT_EQ(::kill(pid, 0), -1);
}

TEST_F(TrainerProcessTest, TheEndOfTheLauncherEndsTrainers) {
  auto launcher = std::make_unique<TrainerLauncher>(mark_);
  auto process = launcher->Start({"/bin/sh", "-c", "echo ready; exec sleep 600"}, {});
  ASSERT_TRUE(process.ok()) << process.status();
  ASSERT_EQ(Line(process->get()), "ready");
  launcher.reset();
  const int status = Status(process->get());
  EXPECT_TRUE(WIFSIGNALED(status)) << status;
}

TEST_F(TrainerProcessTest, ManyStartAndEndAtOnce) {
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([this, i] {
      const auto process = Shell(absl::StrCat("echo ", i, "; exit ", i));
      EXPECT_EQ(Log(process.get()), absl::StrCat(i, "\n"));
      EXPECT_EQ(WEXITSTATUS(Status(process.get())), i);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

// An agent in a process of its own, which is killed.
class KilledAgentTest : public TrainerProcessTest {
 protected:
  // Its trainer's first `lines` lines, one pid each.
  std::vector<pid_t> StartAgent(const std::string& script, int lines) {
    std::array<int, 2> out;
    EXPECT_EQ(::pipe2(out.data(), O_CLOEXEC), 0);
    EXPECT_EQ(Spawn({.program = "/proc/self/exe",
                     .arguments = {"test", kPlayAgent, mark_of_agent_, script},
                     .environment = EnvironmentWith({}),
                     .descriptors = {{out[1], STDOUT_FILENO}}},
                    &agent_),
              0);
    ::close(out[1]);
    std::string text;
    char c = 0;
    for (int found = 0; found < lines && ::read(out[0], &c, 1) == 1;) {
      text += c;
      if (c == '\n') ++found;
    }
    ::close(out[0]);
    std::vector<pid_t> pids;
    for (const auto line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
      pid_t pid = 0;
      EXPECT_TRUE(absl::SimpleAtoi(line, &pid)) << text;
      pids.push_back(pid);
    }
    EXPECT_EQ(pids.size(), static_cast<size_t>(lines));
    return pids;
  }
  void KillAgent() {
    ::kill(agent_, SIGKILL);
    ::waitpid(agent_, nullptr, 0);
  }
  ~KilledAgentTest() override { EXPECT_TRUE(KillLeftTrainers(mark_of_agent_, kPatience).ok()); }

  const std::string mark_of_agent_ = RandomId();
  pid_t agent_ = 0;
};

TEST_F(KilledAgentTest, ItsTrainerDiesWithIt) {
  // Deaf to TERM and to the end of its socket.
  const std::vector<pid_t> pids = StartAgent("trap '' TERM HUP PIPE; echo $$; exec sleep 600", 1);
  ASSERT_EQ(pids.size(), 1);
  ASSERT_TRUE(IsAlive(pids[0]));
  KillAgent();
  EXPECT_TRUE(AwaitGone(pids[0]));
}

TEST_F(KilledAgentTest, WhatTheTrainerStartedIsKilledByTheNextAgent) {
  const std::vector<pid_t> pids = StartAgent("setsid sleep 600 & echo $!; sleep 600 & echo $!; echo $$; wait", 3);
  ASSERT_EQ(pids.size(), 3);
  KillAgent();
  EXPECT_TRUE(AwaitGone(pids[2]));
  EXPECT_TRUE(IsAlive(pids[0]));
  EXPECT_TRUE(IsAlive(pids[1]));
  EXPECT_TRUE(KillLeftTrainers(RandomId(), kPatience).ok());  // of another agent
  EXPECT_TRUE(IsAlive(pids[0]));
  EXPECT_TRUE(KillLeftTrainers(mark_of_agent_, kPatience).ok());
  EXPECT_FALSE(IsAlive(pids[0]));
  EXPECT_FALSE(IsAlive(pids[1]));
}

TEST_F(KilledAgentTest, NothingLeftIsNoError) {
  EXPECT_TRUE(KillLeftTrainers(mark_of_agent_, absl::ZeroDuration()).ok());
}

}  // namespace
}  // namespace ham::agent

int main(int argc, char** argv) {
  if (argc > 1 && std::string(argv[1]) == ham::agent::kExecTrainer) return ham::agent::ExecTrainer(argc, argv);
  if (argc > 3 && std::string(argv[1]) == ham::agent::kPlayAgent) return ham::agent::PlayAgent(argv[2], argv[3]);
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
