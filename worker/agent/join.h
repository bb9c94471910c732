// Joining a cluster with a token alone, for hosts that have no file worker-join.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "proto/channel.h"
#include "proto/join_token.h"

namespace ham::agent {

inline constexpr char kDefaultPort[] = "7480";

struct JoinAddress {
  JoinToken token;
  std::string endpoint;  // host:port
};

// Of "TOKEN@HOST" or "TOKEN@HOST:PORT"; an IPv6 address stands in brackets. InvalidArgument in one sentence.
absl::StatusOr<JoinAddress> ParseJoinAddress(const std::string& text);

// What a file worker-join would hold: takes from the endpoint the CA certificate that the token names. Nothing secret
// is sent. UNAVAILABLE if nobody answers there within `timeout`, PERMISSION_DENIED if who answers has no such
// certificate.
absl::StatusOr<ConnectionConfig> FetchConnectionConfig(const JoinAddress& address, absl::Duration timeout);

}  // namespace ham::agent
