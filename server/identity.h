// Who the coordinator is, and by what it knows its callers: certificates and tokens in STATE_DIR.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace ham::server {

// The files of STATE_DIR that others rely on; the rest is made anew where it is missing.
inline constexpr const char* kIdentityFiles[] = {"ca.pem", "ca.key", "bootstrap", "worker-join", "signing_key.pem"};

struct Identity {
  // PEM; empty without TLS.
  std::string ca_certificate;
  std::string server_certificate;
  std::string server_key;
  std::string admin_token;
  std::string worker_token;
};

// Loads what STATE_DIR holds and makes what is missing: an own CA (ca.pem, ca.key), a certificate for localhost, the
// host's name and `advertise` (server.pem, server.key; made anew when it lacks a name or ends within a year), tokens
// of 32 random bytes (kept in the bootstrap files). All with mode 0600; a file that others can read is refused with
// FAILED_PRECONDITION, as is a ca.pem without its key; a damaged one with DATA_LOSS.
absl::StatusOr<Identity> LoadOrCreateIdentity(const std::string& state_dir, const std::vector<std::string>& advertise,
                                              bool insecure);

// Writes STATE_DIR/bootstrap (admin token) and STATE_DIR/worker-join (worker token); see ConnectionConfig.
absl::Status WriteBootstrapFiles(const std::string& state_dir, const Identity& identity,
                                 const std::vector<std::string>& endpoints);

// Puts a new admin token into STATE_DIR/bootstrap; the old one ends. FAILED_PRECONDITION while a coordinator runs.
absl::Status ResetAdmin(const std::string& state_dir);

// STATE_DIR is one process's. Makes the directory (0700) when missing.
class StateLock {
 public:
  // FAILED_PRECONDITION when another process holds it.
  static absl::StatusOr<StateLock> Acquire(const std::string& state_dir);
  StateLock(StateLock&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  StateLock& operator=(StateLock&&) = delete;
  ~StateLock();

 private:
  explicit StateLock(int fd) : fd_(fd) {}
  int fd_;
};

}  // namespace ham::server
