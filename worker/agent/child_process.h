// Child processes by posix_spawn (never fork once gRPC runs) and pidfds.
#pragma once

#include <sys/types.h>

#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"

namespace ham::agent {

struct SpawnRequest {
  std::string program;                           // looked up in PATH if it has no '/'
  std::vector<std::string> arguments;            // argv, from [0]
  std::vector<std::string> environment;          // "name=value"
  std::vector<std::pair<int, int>> descriptors;  // (ours, the child's number of it)
  bool own_group = false;                        // a terminal's Ctrl-C then reaches this process only
};

// Starts it with /dev/null as standard input and no signal blocked or ignored. Returns 0 and *pid, or errno. Any
// thread.
int Spawn(const SpawnRequest& request, pid_t* pid);

// This process's environment with `changes` (name, value) on top.
std::vector<std::string> EnvironmentWith(const std::vector<std::pair<std::string, std::string>>& changes);

// -1 and errno when there is none. Closed on exec.
int OpenPidFd(pid_t pid);
// True once the process has ended, false at `deadline`.
bool AwaitEnd(int pid_fd, absl::Time deadline);

}  // namespace ham::agent
