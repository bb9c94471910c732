// ham-worker: prepares this host, runs an agent until SIGTERM.
#include <poll.h>
#include <spdlog/spdlog.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "absl/synchronization/notification.h"
#include "proto/log.h"
#include "proto/service_notice.h"
#include "proto/version.h"
#include "worker/agent/agent.h"
#include "worker/agent/inventory.h"
#include "worker/agent/join.h"
#include "worker/agent/nvml.h"
#include "worker/agent/options.h"
#include "worker/agent/slots.h"
#include "worker/agent/trainer_process.h"
#include "worker/agent/work_directory.h"
#include "worker/agent/worker_id.h"

namespace ham::agent {
namespace {

constexpr absl::Duration kCleanTimeout = absl::Seconds(10);
constexpr absl::Duration kJoinTimeout = absl::Seconds(20);

int Fail(const absl::Status& status) {
  spdlog::default_logger()->flush();  // what comes before it
  std::fprintf(stderr, "ham-worker: %s\n", std::string(status.message()).c_str());
  return 1;
}

absl::StatusOr<ConnectionConfig> ConnectionOf(const AgentOptions& options) {
  if (options.join_address.empty()) return ReadConnectionConfig(options.join);
  const absl::StatusOr<JoinAddress> address = ParseJoinAddress(options.join_address);
  return address.ok() ? FetchConnectionConfig(*address, kJoinTimeout) : address.status();
}

// What the agent is made of; the directory must be held by the caller. Trainers of an earlier agent are gone then.
absl::StatusOr<AgentConfig> Prepare(const AgentOptions& options, StateDirectory& directory) {
  AgentConfig config;
  absl::StatusOr<ConnectionConfig> connection = ConnectionOf(options);
  if (!connection.ok()) return connection.status();
  if (absl::Status status = CheckTrainer(options.trainer); !status.ok()) return status;
  if (absl::Status status = KillLeftTrainers(directory.worker_id(), kCleanTimeout); !status.ok()) return status;
  if (absl::Status status = RemoveAllWork(directory.path()); !status.ok()) return status;
  const absl::StatusOr<int64_t> number = directory.CountIncarnation();
  if (!number.ok()) return number.status();
  absl::StatusOr<std::vector<ham::v1::Slot>> gpus = std::vector<ham::v1::Slot>();
  if (!options.no_gpu) gpus = ListGpus();
  if (gpus.ok()) gpus = UsableGpus(VisibleGpus(*gpus, std::getenv("CUDA_VISIBLE_DEVICES")), options.trainer);
  if (!gpus.ok()) return gpus.status();
  absl::StatusOr<std::vector<ham::v1::DataSet>> data_sets = InspectData(options.trainer, options.data_root);
  if (!data_sets.ok()) return data_sets.status();
  config.connection = *std::move(connection);
  config.worker_id = directory.worker_id();
  config.incarnation_number = *number;
  config.name = options.name;
  config.state_dir = directory.path();
  config.trainer = options.trainer;
  config.data_root = options.data_root;
  config.data_interface = options.data_interface;
  config.give_up_after = options.give_up_after;
  config.gpu_monitor.shared = options.allow_shared_gpus;
  config.slots = MakeSlots(options.slots, *std::move(gpus));
  const auto is_cpu = [](const ham::v1::Slot& slot) { return slot.device() == "cpu"; };
  const auto cpu_slots = std::ranges::count_if(config.slots, is_cpu);
  if (!options.no_pinning) config.cpu_shares = CpuShares(AllowedCores(), static_cast<int>(cpu_slots));
  config.data_sets = *std::move(data_sets);
  return config;
}

// Until the agent has ended; each signal tells it to stop.
absl::Status RunUntilSignal(AgentConfig config, int signals) {
  const int ended_fd = ::eventfd(0, EFD_CLOEXEC);
  absl::Status result;
  const auto period = static_cast<int>(absl::ToInt64Milliseconds(std::min(WatchdogPeriod(), absl::Hours(1))));
  {
    Agent agent(std::move(config), [&result, ended_fd](const absl::Status& status) {
      result = status;
      const uint64_t one = 1;
      if (::write(ended_fd, &one, sizeof(one)) != sizeof(one)) std::abort();
    });
    NotifyReady();
    while (true) {
      std::array<pollfd, 2> fds = {pollfd{signals, POLLIN, 0}, pollfd{ended_fd, POLLIN, 0}};
      const int ready = ::poll(fds.data(), fds.size(), period);
      if (ready == 0) agent.WhenAlive(NotifyAlive);
      if (ready <= 0) continue;
      if (fds[1].revents != 0) break;
      signalfd_siginfo info;
      if (fds[0].revents != 0 && ::read(signals, &info, sizeof(info)) == sizeof(info)) {
        NotifyStopping();
        agent.Stop();
      }
    }
  }
  ::close(ended_fd);
  return result;
}

int Main(int argc, char** argv) {
  if (argc > 1 && std::strcmp(argv[1], kExecTrainer) == 0) return ExecTrainer(argc, argv);
  const CommandLine line = ParseCommandLine(argc, argv);
  if (line.command == Command::kExit) return line.exit_code;
  StartLog("ham-worker", line.options.log_format);
  // Before any thread exists, so that all have it.
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  ::pthread_sigmask(SIG_BLOCK, &set, nullptr);
  ::signal(SIGPIPE, SIG_IGN);
  const int signals = ::signalfd(-1, &set, SFD_CLOEXEC);
  const absl::StatusOr<std::unique_ptr<StateDirectory>> directory = StateDirectory::Open(line.options.state_dir);
  if (!directory.ok()) return Fail(directory.status());
  absl::StatusOr<AgentConfig> config = Prepare(line.options, **directory);
  if (!config.ok()) return Fail(config.status());
  spdlog::info("ham-worker {} (build {}): {} slots, {} data sets", kVersion, BuildId(), config->slots.size(),
               config->data_sets.size());
  const absl::Status status = RunUntilSignal(*std::move(config), signals);
  return status.ok() ? 0 : Fail(status);
}

}  // namespace
}  // namespace ham::agent

int main(int argc, char** argv) { return ham::agent::Main(argc, argv); }
