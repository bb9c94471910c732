#include "worker/agent/work_directory.h"

#include <spdlog/spdlog.h>

#include <filesystem>

#include "absl/strings/str_cat.h"

namespace ham::agent {
namespace {

namespace fs = std::filesystem;

bool IsJobId(const std::string& id) {
  return !id.empty() && id.size() <= 63 &&
         id.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789-") == std::string::npos;
}

}  // namespace

std::string WorkDirectory(const std::string& state_dir, const std::string& job, int attempt, int rank) {
  constexpr char kJobs[] = "/jobs/";
  const size_t at = job.rfind(kJobs);
  if (at == std::string::npos || job.rfind("projects/", 0) != 0) return "";
  const std::string id = job.substr(at + sizeof(kJobs) - 1);
  if (!IsJobId(id) || attempt < 0 || rank < 0) return "";
  return absl::StrCat(state_dir, "/work/", id, "/", attempt, "/", rank);
}

absl::Status MakeWorkDirectory(const std::string& directory) {
  std::error_code error;
  fs::remove_all(directory, error);
  if (!error) fs::create_directories(directory, error);
  if (!error) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("cannot make ", directory, ": ", error.message()));
}

void RemoveWorkDirectory(const std::string& directory) {
  std::error_code error;
  fs::remove_all(directory, error);
  if (error) spdlog::warn("cannot remove {}: {}", directory, error.message());
  const fs::path attempt = fs::path(directory).parent_path();
  // Fails, as it should, while another rank or attempt is there.
  if (fs::remove(attempt, error)) fs::remove(attempt.parent_path(), error);
}

absl::Status RemoveAllWork(const std::string& state_dir) {
  std::error_code error;
  fs::remove_all(state_dir + "/work", error);
  if (!error) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("cannot clear ", state_dir, "/work: ", error.message()));
}

}  // namespace ham::agent
