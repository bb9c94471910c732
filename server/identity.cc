#include "server/identity.h"

#include <fcntl.h>
#include <openssl/rand.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <system_error>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "proto/atomic_file.h"
#include "proto/channel.h"
#include "server/certificates.h"

namespace ham::server {
namespace {

constexpr mode_t kPrivate = 0600;

// NOT_FOUND when there is none.
absl::StatusOr<std::string> ReadPrivateFile(const std::string& path) {
  struct stat info;
  if (::stat(path.c_str(), &info) != 0) {
    if (errno == ENOENT) return absl::NotFoundError(absl::StrCat(path, " does not exist"));
    return FileError("read", path, errno);
  }
  if ((info.st_mode & 077) != 0) {
    return absl::FailedPreconditionError(absl::StrCat(path, " can be read by others: run `chmod 600 ", path,
                                                      "`, and `ham-coordinator reset-admin` if "
                                                      "its secret may be known"));
  }
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  if (!file) return absl::UnavailableError(absl::StrCat("cannot read ", path));
  return text.str();
}

absl::StatusOr<std::string> NewToken() {
  std::string bytes(32, '\0');
  if (RAND_bytes(reinterpret_cast<unsigned char*>(bytes.data()), static_cast<int>(bytes.size())) != 1) {
    return absl::InternalError("OpenSSL has no random numbers");
  }
  std::string token;
  absl::WebSafeBase64Escape(bytes, &token);
  return token;
}

// The token in a bootstrap file, or a new one.
absl::StatusOr<std::string> LoadToken(const std::string& path) {
  const absl::StatusOr<std::string> text = ReadPrivateFile(path);
  if (absl::IsNotFound(text.status())) return NewToken();
  if (!text.ok()) return text.status();
  const absl::StatusOr<ConnectionConfig> config = ParseConnectionConfig(*text);
  if (!config.ok()) {
    return absl::DataLossError(absl::StrCat(path, " is damaged (", std::string(config.status().message()),
                                            "): restore it, or remove it to get a new token"));
  }
  return config->token;
}

std::vector<std::string> Names(const std::vector<std::string>& advertise) {
  std::vector<std::string> names = {"localhost", "127.0.0.1", "::1"};
  char host[256] = "";
  if (::gethostname(host, sizeof(host) - 1) == 0 && host[0] != '\0') names.push_back(host);
  names.insert(names.end(), advertise.begin(), advertise.end());
  return names;
}

absl::Status WritePair(const std::string& base, const KeyPair& pair) {
  // The key first: a certificate without its key would be taken for good.
  const absl::Status status = WriteFileAtomically(base + ".key", pair.key, kPrivate);
  return status.ok() ? WriteFileAtomically(base + ".pem", pair.certificate, kPrivate) : status;
}

// NOT_FOUND unless both files are there.
absl::StatusOr<KeyPair> ReadPair(const std::string& base) {
  absl::StatusOr<std::string> certificate = ReadPrivateFile(base + ".pem");
  if (!certificate.ok()) return certificate.status();
  absl::StatusOr<std::string> key = ReadPrivateFile(base + ".key");
  if (!key.ok()) return key.status();
  return KeyPair{*std::move(certificate), *std::move(key)};
}

absl::Status LoadCertificates(const std::string& state_dir, const std::vector<std::string>& names, Identity* identity) {
  const absl::Time now = absl::Now();
  absl::StatusOr<KeyPair> authority = ReadPair(state_dir + "/ca");
  if (absl::IsNotFound(authority.status())) {
    if (std::filesystem::exists(state_dir + "/ca.pem")) {
      return absl::FailedPreconditionError(
          absl::StrCat(state_dir,
                       "/ca.key is missing beside ca.pem: restore it from a backup, or remove ca.pem for a "
                       "new authority (clients and workers then need the new bootstrap files)"));
    }
    authority = MakeAuthority(now);
    if (!authority.ok()) return authority.status();
    if (const absl::Status status = WritePair(state_dir + "/ca", *authority); !status.ok()) return status;
  }
  if (!authority.ok()) return authority.status();
  absl::StatusOr<KeyPair> server = ReadPair(state_dir + "/server");
  bool good = false;
  if (server.ok()) {
    const absl::StatusOr<bool> covers =
        CoversNames(server->certificate, authority->certificate, names, now + absl::Hours(24 * 365));
    if (!covers.ok()) return covers.status();
    good = *covers;
  } else if (!absl::IsNotFound(server.status())) {
    return server.status();
  }
  if (!good) {
    server = MakeServerCertificate(*authority, names, now);
    if (!server.ok()) return server.status();
    if (const absl::Status status = WritePair(state_dir + "/server", *server); !status.ok()) return status;
  }
  identity->ca_certificate = authority->certificate;
  identity->server_certificate = server->certificate;
  identity->server_key = server->key;
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Identity> LoadOrCreateIdentity(const std::string& state_dir, const std::vector<std::string>& advertise,
                                              bool insecure) {
  Identity identity;
  absl::StatusOr<std::string> admin = LoadToken(state_dir + "/bootstrap");
  if (!admin.ok()) return admin.status();
  absl::StatusOr<std::string> worker = LoadToken(state_dir + "/worker-join");
  if (!worker.ok()) return worker.status();
  identity.admin_token = *std::move(admin);
  identity.worker_token = *std::move(worker);
  if (insecure) return identity;
  const absl::Status status = LoadCertificates(state_dir, Names(advertise), &identity);
  if (!status.ok()) return status;
  return identity;
}

absl::Status WriteBootstrapFiles(const std::string& state_dir, const Identity& identity,
                                 const std::vector<std::string>& endpoints) {
  const absl::Status status =
      WriteFileAtomically(state_dir + "/bootstrap",
                          ConnectionConfigToJson({endpoints, identity.ca_certificate, identity.admin_token}), kPrivate);
  if (!status.ok()) return status;
  return WriteFileAtomically(state_dir + "/worker-join",
                             ConnectionConfigToJson({endpoints, identity.ca_certificate, identity.worker_token}),
                             kPrivate);
}

absl::Status ResetAdmin(const std::string& state_dir) {
  const std::string path = state_dir + "/bootstrap";
  if (!std::filesystem::exists(path)) {
    return absl::NotFoundError(absl::StrCat(path,
                                            " does not exist: --state-dir must be the directory of a coordinator "
                                            "that has run"));
  }
  const absl::StatusOr<StateLock> lock = StateLock::Acquire(state_dir);
  if (!lock.ok()) return lock.status();
  absl::StatusOr<ConnectionConfig> config = ReadConnectionConfig(path);
  if (!config.ok()) return config.status();
  absl::StatusOr<std::string> token = NewToken();
  if (!token.ok()) return token.status();
  config->token = *std::move(token);
  return WriteFileAtomically(path, ConnectionConfigToJson(*config), kPrivate);
}

absl::StatusOr<StateLock> StateLock::Acquire(const std::string& state_dir) {
  std::error_code error;
  if (std::filesystem::create_directories(state_dir, error)) {
    std::filesystem::permissions(state_dir, std::filesystem::perms::owner_all, error);
  }
  if (error) return FileError("create", state_dir, error.value());
  const std::string path = state_dir + "/lock";
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, kPrivate);
  if (fd < 0) return FileError("open", path, errno);
  if (::flock(fd, LOCK_EX | LOCK_NB) != 0) {
    ::close(fd);
    return absl::FailedPreconditionError(
        absl::StrCat("another coordinator uses ", state_dir, ": stop it, or give another --state-dir"));
  }
  return StateLock(fd);
}

StateLock::~StateLock() {
  if (fd_ >= 0) ::close(fd_);
}

}  // namespace ham::server
