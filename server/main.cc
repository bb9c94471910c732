// ham-coordinator: serves until SIGTERM.
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>

#include "grpc/grpc.h"
#include "server/identity.h"
#include "server/options.h"
#include "server/server.h"

namespace {

int Fail(const absl::Status& status) {
  std::fprintf(stderr, "ham-coordinator: %s\n", std::string(status.message()).c_str());
  return 1;
}

int Serve(const ham::server::ServerOptions& options) {
  // Before any thread starts, so that all of them leave these signals to sigwait below.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  std::signal(SIGPIPE, SIG_IGN);

  ham::server::Server server(options);
  const absl::Status status = server.Start();
  if (status.ok()) {
    int signal = 0;
    sigwait(&signals, &signal);
    spdlog::info("{}: stopping; workers go on", signal == SIGTERM ? "SIGTERM" : "SIGINT");
  }
  server.Stop();
  return status.ok() ? 0 : Fail(status);
}

int ResetAdminToken(const std::string& state_dir) {
  if (const absl::Status status = ham::server::ResetAdmin(state_dir); !status.ok()) return Fail(status);
  std::printf("The admin token is new; log in again with %s/bootstrap once the coordinator runs.\n", state_dir.c_str());
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  setenv("GRPC_VERBOSITY", "NONE", 0);  // what it says about itself is said by our errors
  grpc_init();  // and no shutdown: the library may take ten seconds to end, and the process ends anyway
  umask(077);
  spdlog::set_default_logger(spdlog::stderr_logger_mt("ham"));
  spdlog::set_pattern("%Y-%m-%dT%H:%M:%S.%e%z %l %v");
  const ham::server::CommandLine line = ham::server::ParseCommandLine(argc, argv);
  switch (line.command) {
    case ham::server::Command::kExit:
      return line.exit_code;
    case ham::server::Command::kResetAdmin:
      return ResetAdminToken(line.options.state_dir);
    case ham::server::Command::kServe:
      return Serve(line.options);
  }
  return 1;
}
