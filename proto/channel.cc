#include "proto/channel.h"

#include <arpa/inet.h>
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"

namespace ham {

bool IsLoopback(const std::string& endpoint) {
  std::string host = endpoint;
  if (host.find('\0') != std::string::npos) return false;
  if (host.starts_with('[')) {
    const size_t end = host.find(']');
    if (end == std::string::npos || (end + 1 < host.size() && host[end + 1] != ':')) return false;
    host = host.substr(1, end - 1);
  } else if (std::count(host.begin(), host.end(), ':') == 1) {
    host = host.substr(0, host.find(':'));
  }
  if (host == "localhost") return true;
  // Not by their text: 127.example.org is a name like any other.
  in_addr v4;
  if (::inet_pton(AF_INET, host.c_str(), &v4) == 1) return ntohl(v4.s_addr) >> 24 == 127;
  in6_addr v6;
  return ::inet_pton(AF_INET6, host.c_str(), &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}

absl::StatusOr<ConnectionConfig> ParseConnectionConfig(const std::string& text) {
  const auto wrong = [](const std::string& what) {
    return absl::InvalidArgumentError(absl::StrCat(
        what, "; expected is the JSON object with endpoints, ca_certificate and token that the coordinator wrote"));
  };
  const nlohmann::json json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return wrong("it is not a JSON object");
  ConnectionConfig config;
  for (const auto& [key, value] : json.items()) {
    if (key == "endpoints" && value.is_array()) {
      for (const auto& endpoint : value) {
        if (!endpoint.is_string()) return wrong("endpoints holds something else than text");
        config.endpoints.push_back(endpoint.get<std::string>());
      }
    } else if (key == "ca_certificate" && value.is_string()) {
      config.ca_certificate = value.get<std::string>();
    } else if (key == "token" && value.is_string()) {
      config.token = value.get<std::string>();
    } else {
      return wrong(absl::StrFormat("key \"%s\" is unknown or of the wrong type", key));
    }
  }
  if (config.endpoints.empty()) return wrong("endpoints is missing or empty");
  if (config.token.empty()) return wrong("token is missing or empty");
  for (const std::string& endpoint : config.endpoints) {
    if (config.ca_certificate.empty() && !IsLoopback(endpoint)) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "ca_certificate is empty, but endpoint %s is not a loopback address; plaintext is allowed on loopback only",
          endpoint));
    }
  }
  return config;
}

absl::StatusOr<ConnectionConfig> ReadConnectionConfig(const std::string& path) {
  std::ifstream file(path);
  if (!file) {
    const std::string message = absl::StrFormat("cannot read %s: %s", path, std::strerror(errno));
    if (errno == EACCES) return absl::PermissionDeniedError(message);
    return absl::NotFoundError(message);
  }
  std::stringstream text;
  text << file.rdbuf();
  absl::StatusOr<ConnectionConfig> config = ParseConnectionConfig(text.str());
  if (config.ok()) return config;
  return absl::Status(config.status().code(), absl::StrFormat("%s: %s", path, std::string(config.status().message())));
}

std::string ConnectionConfigToJson(const ConnectionConfig& config) {
  const nlohmann::json json = {
      {"endpoints", config.endpoints}, {"ca_certificate", config.ca_certificate}, {"token", config.token}};
  return json.dump(2) + "\n";
}

std::shared_ptr<grpc::Channel> MakeChannel(const ConnectionConfig& config, size_t index, const std::string& purpose) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 20000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetString("ham.purpose", purpose);
  std::shared_ptr<grpc::ChannelCredentials> credentials;
  if (config.ca_certificate.empty()) {
    credentials = grpc::InsecureChannelCredentials();
  } else {
    grpc::SslCredentialsOptions options;
    options.pem_root_certs = config.ca_certificate;
    credentials = grpc::SslCredentials(options);
  }
  return grpc::CreateCustomChannel(config.endpoints[index % config.endpoints.size()], credentials, arguments);
}

void SetToken(const ConnectionConfig& config, grpc::ClientContext* context) {
  context->AddMetadata("authorization", "Bearer " + config.token);
}

}  // namespace ham
