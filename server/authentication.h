// Turns each call into a Principal: the one place that reads the bearer token and knows who may call what.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "grpcpp/server_context.h"

namespace ham::server {

enum class Role { kAdmin, kWorker };

// Who calls; stored as the creator of jobs and the actor of events.
struct Principal {
  std::string name;  // "admin" or "worker"
  Role role = Role::kAdmin;
};

// Immutable; any thread.
class Authenticator {
 public:
  // SHA-256 of the tokens, lower-case hex.
  Authenticator(std::string admin_token_hash, std::string worker_token_hash);

  // The caller of a method that `role` may call:
  //   JobService, ClusterService.ListWorkers   kAdmin
  //   WorkerService                            kWorker
  // ClusterService.GetVersion, health and reflection ask nobody.
  // UNAUTHENTICATED without a token or with an unknown one; PERMISSION_DENIED with one of another role.
  absl::StatusOr<Principal> Authorize(const grpc::ServerContextBase& context, Role role) const;
  // The same for the value of the `authorization` metadata.
  absl::StatusOr<Principal> AuthorizeHeader(const std::string& authorization, Role role) const;

 private:
  const std::string admin_token_hash_;
  const std::string worker_token_hash_;
};

}  // namespace ham::server
