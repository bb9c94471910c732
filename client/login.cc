#include <sys/stat.h>

#include <filesystem>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/commands.h"
#include "proto/atomic_file.h"

namespace ham::client {
namespace {

// A file that is not there is a wrong argument here, not a missing resource.
absl::StatusOr<ConnectionConfig> ReadBootstrap(const LoginOptions& options) {
  absl::StatusOr<ConnectionConfig> config = ReadConnectionConfig(options.bootstrap);
  if (absl::IsNotFound(config.status())) {
    return absl::InvalidArgumentError(absl::StrCat("--bootstrap: ", std::string(config.status().message())));
  }
  if (!config.ok() || options.endpoints.empty()) return config;
  config->endpoints = options.endpoints;
  return ParseConnectionConfig(ConnectionConfigToJson(*config));  // the rules for endpoints
}

absl::Status Save(const std::string& path, const ConnectionConfig& config) {
  const std::filesystem::path folder = std::filesystem::path(path).parent_path();
  std::error_code error;
  if (!folder.empty()) std::filesystem::create_directories(folder, error);
  if (error) return absl::InternalError(absl::StrCat("cannot make ", folder.string(), ": ", error.message()));
  const absl::Status status = WriteFileAtomically(path, ConnectionConfigToJson(config), S_IRUSR | S_IWUSR);
  return status.ok() ? status : absl::InternalError(status.message());
}

}  // namespace

Result Run(const GlobalOptions& global, const LoginOptions& options) {
  const absl::StatusOr<ConnectionConfig> config = ReadBootstrap(options);
  if (!config.ok()) return config.status();
  // Asks for something that needs the token, so that a wrong one is said now.
  CoordinatorClient client(*config, global.timeout);
  const absl::StatusOr<ham::v1::ListWorkersResponse> workers = client.ListWorkers();
  if (!workers.ok()) return workers.status();
  if (const absl::Status status = Save(global.config, *config); !status.ok()) return status;
  Print(absl::StrCat("logged in to ", absl::StrJoin(config->endpoints, ", "), "; ", workers->workers_size(),
                     workers->workers_size() == 1 ? " worker" : " workers", " known\n"));
  return kDone;
}

}  // namespace ham::client
