#include "server/authentication.h"

#include <openssl/crypto.h>

#include <utility>

#include "proto/rpc_status.h"
#include "proto/sha256.h"

namespace ham::server {
namespace {

constexpr char kScheme[] = "Bearer ";

bool Same(const std::string& a, const std::string& b) {
  return a.size() == b.size() && !a.empty() && CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

absl::Status Denied(const char* message) { return WithReason(absl::PermissionDeniedError(message), "WRONG_ROLE"); }

}  // namespace

Authenticator::Authenticator(std::string admin_token_hash, std::string worker_token_hash)
    : admin_token_hash_(std::move(admin_token_hash)), worker_token_hash_(std::move(worker_token_hash)) {}

absl::StatusOr<Principal> Authenticator::Authorize(const grpc::ServerContextBase& context, Role role) const {
  const auto& metadata = context.client_metadata();
  const auto found = metadata.find("authorization");
  return AuthorizeHeader(found == metadata.end() ? "" : std::string(found->second.data(), found->second.size()), role);
}

absl::StatusOr<Principal> Authenticator::AuthorizeHeader(const std::string& authorization, Role role) const {
  if (authorization.rfind(kScheme, 0) != 0) {
    return WithReason(absl::UnauthenticatedError("no token: send the metadata \"authorization: Bearer TOKEN\" with the "
                                                 "token of the bootstrap file"),
                      "NO_TOKEN");
  }
  const std::string hash = Sha256Hex(authorization.substr(sizeof(kScheme) - 1));
  if (Same(hash, admin_token_hash_)) {
    if (role == Role::kAdmin) return Principal{"admin", Role::kAdmin};
    return Denied("the admin token cannot call this method: workers use the token of the worker-join file");
  }
  if (Same(hash, worker_token_hash_)) {
    if (role == Role::kWorker) return Principal{"worker", Role::kWorker};
    return Denied("the worker token cannot call this method: clients use the token of the bootstrap file");
  }
  return WithReason(absl::UnauthenticatedError("the token is unknown to this coordinator: log in again with its "
                                               "bootstrap file"),
                    "UNKNOWN_TOKEN");
}

}  // namespace ham::server
