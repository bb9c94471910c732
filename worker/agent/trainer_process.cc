#include "worker/agent/trainer_process.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "worker/agent/child_process.h"
#include "worker/agent/process_state.h"

namespace ham::agent {
namespace {

constexpr char kMarkVariable[] = "HAM_AGENT";
constexpr int kSendTimeoutSeconds = 10;  // a trainer that takes no frame for so long is taken for broken

absl::Status Failed(const char* what, int error) {
  return absl::UnavailableError(absl::StrCat("cannot start a trainer: ", what, ": ", std::strerror(error)));
}

struct Descriptors {
  std::array<int, 2> frames = {-1, -1};  // ours, the trainer's
  std::array<int, 2> log = {-1, -1};     // ours (read), the trainer's (write)
  ~Descriptors() {
    for (const int fd : {frames[0], frames[1], log[0], log[1]}) {
      if (fd >= 0) ::close(fd);
    }
  }
};

absl::Status Open(Descriptors* fds) {
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds->frames.data()) != 0) return Failed("socketpair", errno);
  if (::pipe2(fds->log.data(), O_CLOEXEC) != 0) return Failed("pipe", errno);
  if (::fcntl(fds->log[0], F_SETFL, O_NONBLOCK) != 0) return Failed("fcntl", errno);
  const timeval timeout = {kSendTimeoutSeconds, 0};
  ::setsockopt(fds->frames[0], SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout));
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<TrainerProcess>> StartProcess(
    const std::string& self, const std::vector<std::string>& arguments,
    const std::vector<std::pair<std::string, std::string>>& environment, const CpuSet& cpus) {
  Descriptors fds;
  if (absl::Status status = Open(&fds); !status.ok()) return status;
  std::vector<std::string> command = {"ham-worker", kExecTrainer, absl::StrCat(::getpid()), CpuSetText(cpus)};
  command.insert(command.end(), arguments.begin(), arguments.end());
  pid_t pid = 0;
  const int error =
      Spawn({.program = self,
             .arguments = command,
             .environment = EnvironmentWith(environment),
             .descriptors = {{fds.log[1], STDOUT_FILENO}, {fds.log[1], STDERR_FILENO}, {fds.frames[1], kTrainerSocket}},
             .own_group = true},
            &pid);
  if (error != 0) return Failed("posix_spawn", error);
  const int pid_fd = OpenPidFd(pid);
  if (pid_fd < 0) {
    const int why = errno;
    ::kill(pid, SIGKILL);
    ::waitpid(pid, nullptr, 0);
    return Failed("pidfd_open", why);
  }
  return std::make_unique<TrainerProcess>(pid, pid_fd, std::exchange(fds.frames[0], -1), std::exchange(fds.log[0], -1));
}

// Kills every process with this environment variable, and waits for its end. How many there were.
absl::StatusOr<int> KillOnce(const std::string& variable, absl::Time deadline) {
  int killed = 0;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/proc", error)) {
    const std::string name = entry.path().filename().string();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    const pid_t pid = static_cast<pid_t>(std::strtol(name.c_str(), nullptr, 10));
    if (pid == ::getpid()) continue;
    const int pid_fd = OpenPidFd(pid);  // before its environment is read: the number cannot change owners then
    if (pid_fd < 0) continue;
    std::ifstream file(entry.path() / "environ", std::ios::binary);
    const std::string text = std::string(1, '\0') + std::string(std::istreambuf_iterator<char>(file), {}) + '\0';
    bool gone = true;
    if (text.find(std::string(1, '\0') + variable + '\0') != std::string::npos) {
      ++killed;
      ::syscall(SYS_pidfd_send_signal, pid_fd, SIGKILL, nullptr, 0);
      gone = AwaitEnd(pid_fd, deadline);
    }
    ::close(pid_fd);
    if (!gone) {
      return absl::UnavailableError(absl::StrCat("process ", pid,
                                                 ", left by an earlier ham-worker, does not end: "
                                                 "restart this host, or wait and try again"));
    }
  }
  return killed;
}

}  // namespace

int ExecTrainer(int argc, char** argv) {
  if (argc < 5) return 127;
  const pid_t parent = static_cast<pid_t>(std::strtol(argv[2], nullptr, 10));
  // The agent may have died before the request: then nobody would send the signal.
  if (::prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || ::getppid() != parent) return 127;
  ::syscall(SYS_close_range, static_cast<unsigned>(kTrainerSocket + 1), ~0U, 0);
  if (const CpuSet cpus = ParseCpuSet(argv[3]); !cpus.empty() && !RunOnlyOn(cpus)) {
    std::fprintf(stderr, "ham-worker: cannot keep to CPUs %s (%s): the kernel chooses\n", argv[3],
                 std::strerror(errno));
  }
  ::execvp(argv[4], argv + 4);
  std::fprintf(stderr, "ham-worker: cannot run %s: %s\n", argv[4], std::strerror(errno));
  return 127;
}

TrainerProcess::~TrainerProcess() {
  Signal(SIGKILL);
  Wait(absl::InfiniteDuration());
  ::close(frame_fd_);
  ::close(log_fd_);
  ::close(pid_fd_);
}

void TrainerProcess::Signal(int signal) {
  absl::MutexLock lock(&mutex_);
  if (status_) return;  // the number may belong to another process by now
  const auto send = [this](int number) {
    // Before exec-trainer runs, the group may not exist yet for us.
    if (::kill(-pid_, number) != 0) ::kill(pid_, number);
  };
  send(signal);
  if (signal == SIGTERM) send(SIGCONT);  // else it would wait until it goes on
}

std::optional<ham::v1::ProcessState> TrainerProcess::Observe() {
  absl::MutexLock lock(&mutex_);
  if (status_) return std::nullopt;
  return ReadProcessState(pid_);
}

bool TrainerProcess::AwaitLog() {
  std::array<pollfd, 2> fds = {pollfd{log_fd_, POLLIN, 0}, pollfd{pid_fd_, POLLIN, 0}};
  while (::poll(fds.data(), fds.size(), -1) < 0 && errno == EINTR) {
  }
  if (fds[0].revents != 0) return true;
  pollfd rest = {log_fd_, POLLIN, 0};
  return ::poll(&rest, 1, 0) > 0;
}

std::optional<int> TrainerProcess::Wait(absl::Duration timeout) {
  const absl::Time deadline = absl::Now() + timeout;
  {
    absl::MutexLock lock(&mutex_);
    if (status_) return status_;
  }
  if (!AwaitEnd(pid_fd_, deadline)) return std::nullopt;
  absl::MutexLock lock(&mutex_);
  if (status_) return status_;
  ::kill(-pid_, SIGKILL);  // while it is a zombie its group cannot be anybody else's
  int status = 0;
  while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
  }
  status_ = status;
  return status_;
}

TrainerLauncher::TrainerLauncher(std::string mark, std::string self) : mark_(std::move(mark)), self_(std::move(self)) {
  thread_ = std::thread([this] { Run(); });
}

TrainerLauncher::~TrainerLauncher() {
  {
    absl::MutexLock lock(&mutex_);
    closed_ = true;
  }
  thread_.join();
}

absl::StatusOr<std::unique_ptr<TrainerProcess>> TrainerLauncher::Start(
    const std::vector<std::string>& arguments, const std::vector<std::pair<std::string, std::string>>& environment,
    const CpuSet& cpus) {
  std::vector<std::pair<std::string, std::string>> marked = environment;
  marked.emplace_back(kMarkVariable, mark_);
  absl::StatusOr<std::unique_ptr<TrainerProcess>> result = absl::UnavailableError("the agent stops");
  absl::Notification over;
  {
    absl::MutexLock lock(&mutex_);
    if (closed_) return result;
    requests_.push_back([&] {
      result = StartProcess(self_, arguments, marked, cpus);
      over.Notify();
    });
  }
  over.WaitForNotification();
  return result;
}

void TrainerLauncher::Run() {
  const auto due = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return !requests_.empty() || closed_; };
  while (true) {
    std::function<void()> request;
    {
      absl::MutexLock lock(&mutex_);
      mutex_.Await(absl::Condition(&due));
      if (requests_.empty()) return;
      request = std::move(requests_.front());
      requests_.pop_front();
    }
    request();
  }
}

absl::Status KillLeftTrainers(const std::string& mark, absl::Duration timeout) {
  const absl::Time deadline = absl::Now() + timeout;
  // One that is killed may have started another behind the scan's back.
  while (true) {
    absl::StatusOr<int> killed = KillOnce(absl::StrCat(kMarkVariable, "=", mark), deadline);
    if (!killed.ok()) return killed.status();
    if (*killed == 0) return absl::OkStatus();
  }
}

}  // namespace ham::agent
