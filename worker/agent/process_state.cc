#include "worker/agent/process_state.h"

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace ham::agent {
namespace {

using ham::v1::ProcessState;

// "" if it cannot be read.
std::string TextOf(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

bool HasStopped(char state) { return state == 'T' || state == 't'; }

std::optional<StatLine> ReadStat(const std::string& folder) {
  return ParseStatLine(TextOf(folder + "/stat"), static_cast<double>(::sysconf(_SC_CLK_TCK)));
}

std::vector<pid_t> ThreadsOf(pid_t pid) {
  std::vector<pid_t> threads;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(absl::StrCat("/proc/", pid, "/task"), error)) {
    int thread = 0;
    if (absl::SimpleAtoi(entry.path().filename().string(), &thread)) threads.push_back(thread);
  }
  std::ranges::sort(threads);
  return threads;
}

}  // namespace

std::optional<StatLine> ParseStatLine(const std::string& line, double ticks_per_second) {
  // The name stands in parentheses and may hold some.
  const size_t begin = line.find('('), end = line.rfind(')');
  if (begin == std::string::npos || end == std::string::npos || end < begin) return std::nullopt;
  const std::vector<std::string> fields = absl::StrSplit(absl::StripAsciiWhitespace(line.substr(end + 1)), ' ');
  constexpr size_t kState = 0, kUser = 11, kSystem = 12;
  int64_t user = 0, system = 0;
  if (fields.size() <= kSystem || fields[kState].size() != 1 ||
      !absl::ascii_isalpha(static_cast<unsigned char>(fields[kState][0])) || !absl::SimpleAtoi(fields[kUser], &user) ||
      !absl::SimpleAtoi(fields[kSystem], &system)) {
    return std::nullopt;
  }
  return StatLine{line.substr(begin + 1, end - begin - 1), fields[kState][0],
                  (static_cast<double>(user) + static_cast<double>(system)) / ticks_per_second};
}

std::optional<ProcessState::State> StateOfProcess(char first, const std::vector<char>& others) {
  if (first == 'Z' || first == 'X') return std::nullopt;
  if (first == 'D') return ProcessState::BLOCKED;
  return HasStopped(first) && std::ranges::all_of(others, HasStopped) ? ProcessState::STOPPED : ProcessState::ACTIVE;
}

std::optional<ProcessState> ReadProcessState(pid_t pid) {
  const std::string folder = absl::StrCat("/proc/", pid);
  const std::optional<StatLine> first = ReadStat(folder);
  if (!first) return std::nullopt;
  std::vector<char> others;
  if (HasStopped(first->state)) {
    for (const pid_t thread : ThreadsOf(pid)) {
      const std::optional<StatLine> stat = ReadStat(absl::StrCat(folder, "/task/", thread));
      if (stat && thread != pid) others.push_back(stat->state);
    }
  }
  const std::optional<ProcessState::State> state = StateOfProcess(first->state, others);
  if (!state) return std::nullopt;
  ProcessState process;
  process.set_state(*state);
  process.set_cpu_seconds(first->cpu_seconds);
  return process;
}

std::vector<ThreadState> ReadThreads(pid_t pid) {
  std::vector<ThreadState> threads;
  for (const pid_t thread : ThreadsOf(pid)) {
    const std::string folder = absl::StrCat("/proc/", pid, "/task/", thread);
    const std::optional<StatLine> stat = ReadStat(folder);
    if (!stat) continue;  // it has ended meanwhile
    ThreadState& state = threads.emplace_back(ThreadState{thread, *stat, TextOf(folder + "/wchan"), ""});
    if (state.wait_channel == "0") state.wait_channel.clear();
    state.system_call = std::string(absl::StripAsciiWhitespace(TextOf(folder + "/syscall")));
  }
  return threads;
}

}  // namespace ham::agent
