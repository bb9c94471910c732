#include "worker/agent/thread_report.h"

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "worker/agent/inventory.h"

namespace ham::agent {

std::string ThreadsText(const std::vector<ThreadState>& threads) {
  std::string text;
  for (const ThreadState& thread : threads) {
    absl::StrAppend(&text, "thread ", thread.id, " (", thread.stat.name, "): state ", std::string(1, thread.stat.state),
                    ", ", thread.stat.cpu_seconds, " s of CPU time");
    if (!thread.wait_channel.empty()) absl::StrAppend(&text, ", waits in ", thread.wait_channel);
    if (!thread.system_call.empty()) absl::StrAppend(&text, ", system call ", thread.system_call);
    text += '\n';
  }
  return text;
}

std::string ThreadReport(pid_t pid, const StackReader& reader) {
  std::string text = ThreadsText(ReadThreads(pid));
  const absl::StatusOr<std::string> stacks = RunProgram({reader.program, "-p", absl::StrCat(pid)}, reader.timeout);
  if (stacks.ok()) {
    text += *stacks;
  } else if (!absl::IsNotFound(stacks.status())) {
    absl::StrAppend(&text, "no stacks: ", stacks.status().message(), "\n");
  }
  return text;
}

}  // namespace ham::agent
