// An X.509 authority of our own, by OpenSSL. EC P-256, SHA-256.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace ham::server {

struct KeyPair {
  std::string certificate;  // PEM
  std::string key;          // PEM, unencrypted
};

// A new authority that lasts 10 years.
absl::StatusOr<KeyPair> MakeAuthority(absl::Time now);
// A server certificate for `names` (host names and IP addresses), signed by `authority`, that lasts 5 years:
// it is made at a start only, and coordinators run long.
absl::StatusOr<KeyPair> MakeServerCertificate(const KeyPair& authority, const std::vector<std::string>& names,
                                              absl::Time now);
// True if `certificate` was signed by `authority`, names all of `names` and is valid from `now` to `until`.
// DATA_LOSS when one of them is no certificate.
absl::StatusOr<bool> CoversNames(const std::string& certificate, const std::string& authority,
                                 const std::vector<std::string>& names, absl::Time until);
// When `certificate` (PEM) ends. DATA_LOSS when it is none.
absl::StatusOr<absl::Time> CertificateExpiry(const std::string& certificate);

}  // namespace ham::server
