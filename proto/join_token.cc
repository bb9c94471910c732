#include "proto/join_token.h"

#include "absl/strings/str_cat.h"
#include "proto/pem.h"
#include "proto/sha256.h"

namespace ham {

absl::StatusOr<JoinToken> ParseJoinToken(const std::string& text) {
  const size_t dot = text.find('.');
  JoinToken token = {text.substr(0, dot), dot == std::string::npos ? "" : text.substr(dot + 1)};
  const auto is_secret = [](const std::string& secret) {
    constexpr char kAllowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_=";
    return !secret.empty() && secret.size() <= 256 && secret.find_first_not_of(kAllowed) == std::string::npos;
  };
  if (!IsSha256Hex(token.ca_digest) || !is_secret(token.secret)) {
    return absl::InvalidArgumentError(
        "the token is not of the form DIGEST.SECRET: copy the whole line that `ham-coordinator join-command` prints");
  }
  return token;
}

std::string JoinTokenText(const JoinToken& token) { return absl::StrCat(token.ca_digest, ".", token.secret); }

absl::StatusOr<std::string> CertificateDigest(const std::string& pem) {
  const Certificate certificate = ParseCertificate(pem);
  if (certificate == nullptr) return absl::DataLossError("there is no certificate in PEM");
  std::string der(static_cast<size_t>(i2d_X509(certificate.get(), nullptr)), '\0');
  unsigned char* out = reinterpret_cast<unsigned char*>(der.data());
  i2d_X509(certificate.get(), &out);
  return Sha256Hex(der);
}

}  // namespace ham
