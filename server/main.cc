// ham-coordinator: serves until SIGTERM, or does one thing to a state directory.
#include <spdlog/spdlog.h>
#include <sys/stat.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>

#include "grpc/grpc.h"
#include "proto/log.h"
#include "proto/service_notice.h"
#include "server/options.h"
#include "server/server.h"
#include "server/state_commands.h"

namespace {

// The first of `signals`. Until then the service manager hears of the core.
int AwaitSignal(const sigset_t& signals, ham::server::Server* server) {
  const timespec period = absl::ToTimespec(ham::WatchdogPeriod());
  while (true) {
    const int signal = sigtimedwait(&signals, nullptr, &period);
    if (signal > 0) return signal;
    if (errno == EAGAIN) server->WhenAlive(ham::NotifyAlive);
  }
}

int Serve(const ham::server::ServerOptions& options) {
  // Before any thread starts, so that all of them leave these signals to AwaitSignal.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  std::signal(SIGPIPE, SIG_IGN);

  ham::server::Server server(options);
  const absl::Status status = server.Start();
  if (status.ok()) {
    ham::NotifyReady();
    const int signal = AwaitSignal(signals, &server);
    ham::NotifyStopping();
    spdlog::info("{}: stopping; workers go on", signal == SIGTERM ? "SIGTERM" : "SIGINT");
  }
  server.Stop();
  if (status.ok()) return 0;
  std::fprintf(stderr, "ham-coordinator: %s\n", std::string(status.message()).c_str());
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  setenv("GRPC_VERBOSITY", "NONE", 0);  // what it says about itself is said by our errors
  grpc_init();  // and no shutdown: the library may take ten seconds to end, and the process ends anyway
  umask(077);
  const ham::server::CommandLine line = ham::server::ParseCommandLine(argc, argv);
  ham::StartLog("ham-coordinator", line.options.log_format);
  switch (line.command) {
    case ham::server::Command::kExit:
      return line.exit_code;
    case ham::server::Command::kResetAdmin:
      return ham::server::RunResetAdmin(line.options.state_dir);
    case ham::server::Command::kJoinCommand:
      return ham::server::RunJoinCommand(line.options.state_dir);
    case ham::server::Command::kBackup:
      return ham::server::RunBackup(line.options.state_dir, line.backup);
    case ham::server::Command::kRestore:
      return ham::server::RunRestore(line.backup, line.options.state_dir);
    case ham::server::Command::kCheck:
      return ham::server::RunCheck(line.options.state_dir);
    case ham::server::Command::kServe:
      return Serve(line.options);
  }
  return 1;
}
