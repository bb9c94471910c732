// Flags of ham-worker.
#pragma once

#include <string>

#include "absl/time/time.h"
#include "proto/log.h"

namespace ham::agent {

struct AgentOptions {
  std::string join_address;  // TOKEN@HOST[:PORT], instead of `join`; see join.h
  std::string join;          // file of the coordinator: endpoints, CA certificate, join secret
  std::string name;          // [a-z0-9]([a-z0-9-]*[a-z0-9])?, at most 63; default: from the host name
  std::string state_dir;     // id, spools and work folders; one agent a directory
  int slots = -1;            // CPU slots; -1 = as many as there are cores, or none where there are GPUs
  std::string data_root = "/usr/share/datasets";
  std::string trainer;         // default: ham-trainer beside this program; see CudaTrainer
  std::string data_interface;  // network interface of gang traffic; "" = that towards the coordinator
  absl::Duration give_up_after = absl::InfiniteDuration();  // see AgentConfig; at least 1 s
  LogFormat log_format = LogFormat::kText;
  bool no_gpu = false;
  bool allow_shared_gpus = false;
  bool no_pinning = false;
};

enum class Command { kServe, kExit };

struct CommandLine {
  Command command = Command::kExit;
  int exit_code = 0;
  AgentOptions options;
};

// Prints help, version or what is wrong (exit code 2) itself. Fills in the defaults of name and trainer.
CommandLine ParseCommandLine(int argc, const char* const* argv);

// A worker name made of any text: lower case, up to the first dot, other characters as '-'. "" if nothing is left.
std::string WorkerNameFrom(const std::string& host);

}  // namespace ham::agent
