// What can be told of a process that seems to hang, from outside: one that is stopped runs no handler.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "absl/time/time.h"
#include "worker/agent/process_state.h"

namespace ham::agent {

struct StackReader {
  std::string program = "eu-stack";            // of elfutils; where there is none, no stacks are read
  absl::Duration timeout = absl::Seconds(10);  // the process stands still meanwhile
};

// A line a thread. Pure.
std::string ThreadsText(const std::vector<ThreadState>& threads);

// ThreadsText, and what the program prints of the stacks, or why it does not. Blocks up to reader.timeout.
std::string ThreadReport(pid_t pid, const StackReader& reader);

}  // namespace ham::agent
