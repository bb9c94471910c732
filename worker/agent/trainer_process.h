// Processes of trainers: how they start, and that none outlives its agent.
//
// A trainer ends with its agent three ways: the kernel kills it when the agent dies (PDEATHSIG), the end of its
// socketpair tells it to exit, and the next agent of the same directory kills what is left (KillLeftTrainers).
#pragma once

#include <sys/types.h>

#include <csignal>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "ham/v1/worker_service.pb.h"
#include "worker/agent/cpu_placement.h"

namespace ham::agent {

// First argument of the hidden subcommand by which an agent starts a trainer: `exec-trainer PARENT CPUS PROGRAM
// ARGUMENT...` asks the kernel to be killed with the process PARENT, keeps to CPUS where there are some, and becomes
// PROGRAM.
inline constexpr char kExecTrainer[] = "exec-trainer";
// argv[1] is kExecTrainer. Returns only if it could not start the program: 127.
int ExecTrainer(int argc, char** argv);

// Number of the socket in the trainer.
inline constexpr int kTrainerSocket = 3;

// A running trainer. Any thread may call any method.
class TrainerProcess {
 public:
  TrainerProcess(pid_t pid, int pid_fd, int frame_fd, int log_fd)
      : pid_(pid), pid_fd_(pid_fd), frame_fd_(frame_fd), log_fd_(log_fd) {}
  // Kills and waits, if nobody has waited.
  ~TrainerProcess();
  TrainerProcess(const TrainerProcess&) = delete;
  TrainerProcess& operator=(const TrainerProcess&) = delete;

  pid_t pid() const { return pid_; }
  int frame_fd() const { return frame_fd_; }  // blocking stream socket
  int log_fd() const { return log_fd_; }      // its standard output and error; not blocking

  // Waits until log_fd can be read or is at its end. False once the process is gone and nothing is left to read, even
  // if something else holds the other end open.
  bool AwaitLog();
  // To the process and all that it started; SIGTERM also reaches what is stopped. Nothing happens once it was waited
  // for.
  void Signal(int signal);
  // What the kernel says of it; nullopt once it has ended.
  std::optional<ham::v1::ProcessState> Observe();
  // Its status as waitpid gives it, or nullopt after `timeout`. What it started is killed then.
  std::optional<int> Wait(absl::Duration timeout);

 private:
  const pid_t pid_;
  const int pid_fd_;
  const int frame_fd_;
  const int log_fd_;
  absl::Mutex mutex_;
  std::optional<int> status_ ABSL_GUARDED_BY(mutex_);
};

// Starts trainers from a thread that lives as long as this, since PDEATHSIG means the thread that spawned.
class TrainerLauncher {
 public:
  // `mark`: text by which KillLeftTrainers knows the trainers. `self`: program with the subcommand exec-trainer.
  explicit TrainerLauncher(std::string mark, std::string self = "/proc/self/exe");
  ~TrainerLauncher();
  TrainerLauncher(const TrainerLauncher&) = delete;
  TrainerLauncher& operator=(const TrainerLauncher&) = delete;

  // arguments[0] is the program; `environment` (name, value) is added to this process's; it keeps to `cpus` if there
  // are some. Unavailable when no process can be made. Any thread; blocks for some milliseconds.
  absl::StatusOr<std::unique_ptr<TrainerProcess>> Start(
      const std::vector<std::string>& arguments, const std::vector<std::pair<std::string, std::string>>& environment,
      const CpuSet& cpus = {});

 private:
  void Run();

  const std::string mark_;
  const std::string self_;
  absl::Mutex mutex_;
  std::deque<std::function<void()>> requests_ ABSL_GUARDED_BY(mutex_);
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

// Kills every process that a launcher with this mark has started, and waits until it is gone. Unavailable, with a pid,
// when one is not gone after `timeout`.
absl::Status KillLeftTrainers(const std::string& mark, absl::Duration timeout);

}  // namespace ham::agent
