// How clients and workers reach the coordinator: what a bootstrap file says, and channels made of it.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "grpcpp/channel.h"
#include "grpcpp/client_context.h"

namespace ham {

// Content of STATE_DIR/bootstrap and STATE_DIR/worker-join (JSON, keys as the members).
struct ConnectionConfig {
  std::vector<std::string> endpoints;  // host:port, at least one; tried in order
  std::string ca_certificate;          // PEM; empty = plaintext, allowed for loopback endpoints only
  std::string token;
};

// InvalidArgument in one sentence for anything but the three keys with the right types, or for plaintext to
// an address that is not loopback.
absl::StatusOr<ConnectionConfig> ParseConnectionConfig(const std::string& json);
// NotFound / PermissionDenied / InvalidArgument, naming the file.
absl::StatusOr<ConnectionConfig> ReadConnectionConfig(const std::string& path);
std::string ConnectionConfigToJson(const ConnectionConfig& config);

// True for 127.0.0.0/8, ::1 and localhost, with or without a port.
bool IsLoopback(const std::string& endpoint);

// A channel to endpoints[index % size]. Channels with another `purpose` use another connection, so that
// bulk traffic does not stand before control messages. Keepalive 20 s. Any thread.
std::shared_ptr<grpc::Channel> MakeChannel(const ConnectionConfig& config, size_t index, const std::string& purpose);

// Adds `authorization: Bearer TOKEN`.
void SetToken(const ConnectionConfig& config, grpc::ClientContext* context);

}  // namespace ham
