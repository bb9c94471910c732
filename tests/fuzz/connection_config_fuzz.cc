// Bootstrap files and configurations of clients.
#include "proto/channel.h"
#include "tests/fuzz/fuzz.h"

namespace ham::fuzz {

std::vector<std::string> Seeds() {
  ConnectionConfig config{{"127.0.0.1:7700", "[::1]:80"}, "", "secret"};
  const std::string plain = ConnectionConfigToJson(config);
  config.endpoints.push_back("ham.example.org:443");
  config.ca_certificate = "-----BEGIN CERTIFICATE-----\n";
  return {plain, ConnectionConfigToJson(config), R"({"endpoints": ["localhost"], "token": "t", "ca_certificate": 1})"};
}

void TryInput(const std::string& input) {
  IsLoopback(input);
  const absl::StatusOr<ConnectionConfig> config = ParseConnectionConfig(input);
  if (!config.ok()) {
    Check(config.status().code() == absl::StatusCode::kInvalidArgument, "a refused file is an invalid argument");
    return;
  }
  Check(!config->endpoints.empty() && !config->token.empty(), "there is an endpoint and a token");
  for (const std::string& endpoint : config->endpoints) {
    Check(!config->ca_certificate.empty() || IsLoopback(endpoint), "no token travels in plaintext");
  }
  const absl::StatusOr<ConnectionConfig> again = ParseConnectionConfig(ConnectionConfigToJson(*config));
  Check(again.ok() && again->endpoints == config->endpoints && again->token == config->token &&
            again->ca_certificate == config->ca_certificate,
        "what is written is read again");
}

}  // namespace ham::fuzz
