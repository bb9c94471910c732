// What a worker needs to join a cluster, in one word: "DIGEST.SECRET".
//
// DIGEST is the SHA-256 of the cluster's CA certificate (DER), in lower-case hex; SECRET the token of worker-join. With
// it a worker may take the certificate from whoever presents it.
#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace ham {

struct JoinToken {
  std::string ca_digest;
  std::string secret;
};

// InvalidArgument in one sentence, which does not repeat it, for what is no join token.
absl::StatusOr<JoinToken> ParseJoinToken(const std::string& text);
std::string JoinTokenText(const JoinToken& token);

// SHA-256 (hex) of the first certificate in a PEM text. DATA_LOSS if there is none.
absl::StatusOr<std::string> CertificateDigest(const std::string& pem);

}  // namespace ham
