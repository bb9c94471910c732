// What the kernel says of a process and its threads.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

#include "ham/v1/worker_service.pb.h"

namespace ham::agent {

// Of /proc/PID/stat, or of a thread's in /proc/PID/task.
struct StatLine {
  std::string name;  // any bytes
  char state = ' ';  // as in proc(5)
  double cpu_seconds = 0;
};
// `ticks_per_second`: the kernel's unit of times. nullopt for what is no such line. Pure.
std::optional<StatLine> ParseStatLine(const std::string& line, double ticks_per_second);

// nullopt for a process that has ended. `others`: of its threads but the first, which are looked at only if that one
// has stopped. Pure.
std::optional<ham::v1::ProcessState::State> StateOfProcess(char first, const std::vector<char>& others);

// nullopt when there is no such process, or only what is left of one.
std::optional<ham::v1::ProcessState> ReadProcessState(pid_t pid);

struct ThreadState {
  pid_t id = 0;
  StatLine stat;
  // In the kernel's words; "" where it does not say.
  std::string wait_channel;
  std::string system_call;
};
// By id; none when there is no such process.
std::vector<ThreadState> ReadThreads(pid_t pid);

}  // namespace ham::agent
