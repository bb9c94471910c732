#include <unistd.h>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "client/commands.h"
#include "client/text.h"
#include "proto/version.h"

namespace ham::client {
namespace {

absl::StatusOr<ham::v1::GetVersionResponse> AskServer(const GlobalOptions& global) {
  absl::StatusOr<CoordinatorClient> client = Connect(global);
  if (!client.ok()) return client.status();
  return client->GetVersion();
}

}  // namespace

Result Run(const GlobalOptions& global, const VersionOptions& options) {
  // Without a login there is only the client to speak of.
  const bool no_login = ::access(global.config.c_str(), F_OK) != 0;
  const absl::StatusOr<ham::v1::GetVersionResponse> server = AskServer(global);
  if (options.output == OutputFormat::kTable) {
    std::vector<std::vector<std::string>> rows = {{"hamctl", kVersion, absl::StrCat("build ", BuildId())}};
    if (server.ok()) rows.push_back({"coordinator", server->version(), absl::StrCat("build ", server->build_id())});
    Print(Table(rows));
    if (server.ok()) Print(absl::StrCat("evaluation records are signed by ", server->signing_key(), "\n"));
  } else {
    // The same shape in JSON and in YAML, which JSON is.
    nlohmann::ordered_json json = {{"client", {{"version", kVersion}, {"build_id", BuildId()}}}};
    if (server.ok()) {
      json["coordinator"] = {{"version", server->version()},
                             {"build_id", server->build_id()},
                             {"signing_key", server->signing_key()}};
    }
    Print(json.dump(2) + "\n");
  }
  if (!server.ok() && !no_login) return server.status();
  return kDone;
}

}  // namespace ham::client
