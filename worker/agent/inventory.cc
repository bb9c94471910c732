#include "worker/agent/inventory.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spdlog/spdlog.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "proto/strict_json.h"
#include "proto/version.h"
#include "worker/agent/child_process.h"
#include "worker/agent/slots.h"

namespace ham::agent {
namespace {

constexpr size_t kMostOutput = 16 << 20;
constexpr size_t kMostErrors = 2000;
constexpr absl::Duration kVersionTimeout = absl::Minutes(2);  // LibTorch and CUDA from a cold disk
constexpr absl::Duration kInspectTimeout = absl::Minutes(10);  // reads every file under the data root

struct Pipe {
  std::array<int, 2> ends = {-1, -1};
  ~Pipe() {
    CloseEnd(0);
    CloseEnd(1);
  }
  bool Open() { return ::pipe2(ends.data(), O_CLOEXEC) == 0; }
  void CloseEnd(int i) {
    if (ends[i] >= 0) ::close(ends[i]);
    ends[i] = -1;
  }
};

// Appends what can be read; false at the end of the stream.
bool ReadSome(int fd, std::string* text) {
  std::array<char, 65536> buffer;
  const ssize_t n = ::read(fd, buffer.data(), buffer.size());
  if (n < 0) return errno == EINTR || errno == EAGAIN;
  text->append(buffer.data(), static_cast<size_t>(n));
  return n > 0;
}

// Reads both streams to their end.
absl::Status ReadBoth(int out, int errors, absl::Time deadline, std::string* out_text, std::string* error_text) {
  std::array<pollfd, 2> fds = {pollfd{out, POLLIN, 0}, pollfd{errors, POLLIN, 0}};
  while (fds[0].fd >= 0 || fds[1].fd >= 0) {
    const absl::Duration left = deadline - absl::Now();
    if (left <= absl::ZeroDuration()) return absl::DeadlineExceededError("");
    const int ready = ::poll(fds.data(), fds.size(), static_cast<int>(absl::ToInt64Milliseconds(left)) + 1);
    if (ready < 0 && errno != EINTR) return absl::UnavailableError("");
    if (ready <= 0) continue;
    if (fds[0].revents != 0 && !ReadSome(out, out_text)) fds[0].fd = -1;
    if (fds[1].revents != 0 && !ReadSome(errors, error_text)) fds[1].fd = -1;
    if (out_text->size() > kMostOutput) return absl::ResourceExhaustedError("");
    if (error_text->size() > kMostErrors) error_text->erase(0, error_text->size() - kMostErrors);
  }
  return absl::OkStatus();
}

absl::Status WrongOutput(const std::string& trainer, const std::string& why) {
  return absl::FailedPreconditionError(
      absl::StrCat(trainer, " does not answer as ham-trainer does (", why, "): name the right program with --trainer"));
}

}  // namespace

absl::StatusOr<std::string> RunProgram(const std::vector<std::string>& arguments, absl::Duration timeout) {
  Pipe out;
  Pipe errors;
  if (!out.Open() || !errors.Open()) return absl::UnavailableError(absl::StrCat("pipe: ", std::strerror(errno)));
  pid_t pid = 0;
  const int error = Spawn({.program = arguments[0],
                           .arguments = arguments,
                           .environment = EnvironmentWith({}),
                           .descriptors = {{out.ends[1], STDOUT_FILENO}, {errors.ends[1], STDERR_FILENO}}},
                          &pid);
  if (error != 0) return absl::NotFoundError(absl::StrCat("cannot start ", arguments[0], ": ", std::strerror(error)));
  out.CloseEnd(1);
  errors.CloseEnd(1);
  const absl::Time deadline = absl::Now() + timeout;
  std::string text;
  std::string error_text;
  absl::Status read = ReadBoth(out.ends[0], errors.ends[0], deadline, &text, &error_text);
  // One that closed its output may still run.
  const int pid_fd = OpenPidFd(pid);
  if (read.ok() && (pid_fd < 0 || !AwaitEnd(pid_fd, deadline))) read = absl::DeadlineExceededError("");
  if (pid_fd >= 0) ::close(pid_fd);
  if (!read.ok()) ::kill(pid, SIGKILL);
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  if (absl::IsResourceExhausted(read)) {
    return absl::ResourceExhaustedError(absl::StrCat(arguments[0], " printed more than ", kMostOutput, " bytes"));
  }
  if (!read.ok()) {
    return absl::DeadlineExceededError(
        absl::StrCat(arguments[0], " did not end within ", absl::FormatDuration(timeout)));
  }
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return text;
  absl::StripAsciiWhitespace(&error_text);
  const std::string how = WIFSIGNALED(status) ? absl::StrCat("signal ", WTERMSIG(status))
                                              : absl::StrCat("exit status ", WEXITSTATUS(status));
  return absl::UnavailableError(absl::StrCat(arguments[0], " ended with ", how, ": ", error_text));
}

absl::Status CheckVersionOutput(const std::string& trainer, const std::string& text) {
  const absl::StatusOr<nlohmann::json> json = ParseStrictJson(text);
  if (!json.ok()) return WrongOutput(trainer, std::string(json.status().message()));
  if (!json->is_object() || !json->contains("build_id") || !json->at("build_id").is_string()) {
    return WrongOutput(trainer, "its version has no build_id");
  }
  const std::string build = json->at("build_id").get<std::string>();
  if (build == BuildId()) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(trainer, " is of build ", build, ", this ham-worker of ", BuildId(),
                                                    ": install both from one build"));
}

absl::Status CheckTrainer(const std::string& trainer) {
  const absl::StatusOr<std::string> text = RunProgram({trainer, "version", "--json"}, kVersionTimeout);
  if (!text.ok()) {
    return absl::Status(text.status().code(),
                        absl::StrCat(text.status().message(), "; name the trainer program with --trainer"));
  }
  return CheckVersionOutput(trainer, *text);
}

absl::StatusOr<std::vector<ham::v1::Slot>> UsableGpus(std::vector<ham::v1::Slot> gpus, const std::string& trainer) {
  if (gpus.empty()) return gpus;
  const absl::Status status = CheckTrainer(CudaTrainer(trainer));
  if (status.ok()) return gpus;
  if (!absl::IsNotFound(status)) {
    return absl::Status(status.code(), absl::StrCat(status.message(), ", or give --no-gpu"));
  }
  spdlog::warn(
      "{} GPUs are not offered ({}): install ham-trainer-cuda of this build beside ham-trainer, or give --no-gpu",
      gpus.size(), std::string(status.message()));
  return std::vector<ham::v1::Slot>();
}

absl::StatusOr<std::vector<ham::v1::DataSet>> ParseInspectOutput(const std::string& trainer, const std::string& text) {
  const absl::StatusOr<nlohmann::json> json = ParseStrictJson(text);
  if (!json.ok()) return WrongOutput(trainer, std::string(json.status().message()));
  if (!json->is_array()) return WrongOutput(trainer, "its data sets are no array");
  std::vector<ham::v1::DataSet> data_sets;
  for (const nlohmann::json& entry : *json) {
    const auto text_of = [&entry](const char* key) {
      return entry.is_object() && entry.contains(key) && entry.at(key).is_string() ? entry.at(key).get<std::string>()
                                                                                   : std::string();
    };
    const std::string name = text_of("name");
    if (name.empty()) return WrongOutput(trainer, "a data set has no name");
    if (const std::string digest = text_of("digest"); !digest.empty()) {
      ham::v1::DataSet& data_set = data_sets.emplace_back();
      data_set.set_name(name);
      data_set.set_digest(digest);
    } else {
      spdlog::warn("data set {} is not offered: {}", name, text_of("error"));
    }
  }
  return data_sets;
}

absl::StatusOr<std::vector<ham::v1::DataSet>> InspectData(const std::string& trainer, const std::string& data_root) {
  const absl::StatusOr<std::string> text =
      RunProgram({trainer, "data", "inspect", "--data-root", data_root, "--json"}, kInspectTimeout);
  if (!text.ok()) return text.status();
  return ParseInspectOutput(trainer, *text);
}

}  // namespace ham::agent
