#include "worker/agent/join.h"

#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <poll.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "proto/pem.h"

namespace ham::agent {
namespace {

using Context = std::unique_ptr<SSL_CTX, OpenSslFree<SSL_CTX, SSL_CTX_free>>;

absl::Status NobodyAnswers(const std::string& endpoint) {
  return absl::UnavailableError(
      absl::StrCat("no coordinator answers at ", endpoint,
                   ": see that it runs there, without --insecure, and that this host reaches it"));
}

// The presented certificates, unverified: the caller compares digests.
absl::StatusOr<std::vector<std::string>> PresentedCertificates(const std::string& endpoint, absl::Time deadline) {
  const Context context(SSL_CTX_new(TLS_client_method()));
  SSL_CTX_set_verify(context.get(), SSL_VERIFY_NONE, nullptr);
  constexpr unsigned char kHttp2[] = {2, 'h', '2'};  // gRPC servers talk to nobody else
  SSL_CTX_set_alpn_protos(context.get(), kHttp2, sizeof(kHttp2));
  const Bio stream(BIO_new_ssl_connect(context.get()));
  SSL* ssl = nullptr;
  BIO_get_ssl(stream.get(), &ssl);
  BIO_set_conn_hostname(stream.get(), endpoint.c_str());
  BIO_set_nbio(stream.get(), 1);
  while (BIO_do_handshake(stream.get()) != 1) {
    int fd = -1;
    const int64_t left = absl::ToInt64Milliseconds(deadline - absl::Now());
    if (!BIO_should_retry(stream.get()) || BIO_get_fd(stream.get(), &fd) < 0 || left <= 0)
      return NobodyAnswers(endpoint);
    const bool writes = BIO_should_write(stream.get()) || BIO_should_io_special(stream.get());
    pollfd wait = {.fd = fd, .events = static_cast<int16_t>(writes ? POLLOUT : POLLIN), .revents = 0};
    ::poll(&wait, 1, static_cast<int>(std::min<int64_t>(left, 1000)));
  }
  std::vector<std::string> certificates;
  const STACK_OF(X509)* const chain = SSL_get_peer_cert_chain(ssl);
  for (int i = 0; i < sk_X509_num(chain); ++i) {
    const Bio text(BIO_new(BIO_s_mem()));
    PEM_write_bio_X509(text.get(), sk_X509_value(chain, i));
    certificates.push_back(TextOf(text.get()));
  }
  return certificates;
}

}  // namespace

absl::StatusOr<JoinAddress> ParseJoinAddress(const std::string& text) {
  const size_t at = text.find('@');
  const std::string host = at == std::string::npos ? "" : text.substr(at + 1);
  if (host.empty() || host.find_first_of("@/ \t\n") != std::string::npos) {
    return absl::InvalidArgumentError("what to join is not of the form TOKEN@HOST or TOKEN@HOST:PORT");
  }
  absl::StatusOr<JoinToken> token = ParseJoinToken(text.substr(0, at));
  if (!token.ok()) return token.status();
  const size_t colon = host.rfind(':');
  const bool has_port = colon != std::string::npos && host.find(']', colon) == std::string::npos &&
                        (host.front() == '[' || host.find(':') == colon);
  return JoinAddress{*std::move(token), has_port ? host : absl::StrCat(host, ":", kDefaultPort)};
}

absl::StatusOr<ConnectionConfig> FetchConnectionConfig(const JoinAddress& address, absl::Duration timeout) {
  const absl::StatusOr<std::vector<std::string>> presented =
      PresentedCertificates(address.endpoint, absl::Now() + timeout);
  if (!presented.ok()) return presented.status();
  for (const std::string& certificate : *presented) {
    const absl::StatusOr<std::string> digest = CertificateDigest(certificate);
    if (digest.ok() && *digest == address.token.ca_digest) {
      return ConnectionConfig{{address.endpoint}, certificate, address.token.secret};
    }
  }
  return absl::PermissionDeniedError(
      absl::StrCat(address.endpoint,
                   " is not of the cluster that made this token: take a new one from `ham-coordinator join-command`, "
                   "and see that nobody stands in its place"));
}

}  // namespace ham::agent
