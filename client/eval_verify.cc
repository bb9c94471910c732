#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "absl/strings/str_format.h"
#include "client/commands.h"
#include "proto/evaluation/record_file.h"

namespace ham::client {
namespace {

// Beside this program.
std::string TrainerFor(const EvalVerifyOptions& options) {
  if (!options.trainer.empty()) return options.trainer;
  std::error_code error;
  const std::filesystem::path here = std::filesystem::read_symlink("/proc/self/exe", error).parent_path();
  const bool on_gpu = std::find(options.more.begin(), options.more.end(), "cuda") != options.more.end();
  return here / (on_gpu ? "ham-trainer-cuda" : "ham-trainer");
}

}  // namespace

// The trainer takes this process over: what it prints and returns is the result.
Result Run(const GlobalOptions&, const EvalVerifyOptions& options) {
  const absl::StatusOr<RecordFile> file = ReadRecordFile(options.record, options.signed_by);
  if (!file.ok()) return file.status();
  const std::string trainer = TrainerFor(options);
  std::vector<std::string> words = {trainer, "verify", options.record, "--weights", options.weights};
  words.insert(words.end(), options.more.begin(), options.more.end());
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  execv(trainer.c_str(), arguments.data());
  return absl::NotFoundError(
      absl::StrFormat("cannot start %s: %s; name it by --trainer", trainer, std::strerror(errno)));
}

}  // namespace ham::client
