// By which address other hosts reach this one.
#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace ham::agent {

// The address that traffic from here to `endpoint` ("host:port", "[::1]:port") comes from: loopback where that is this
// host under a loopback name. Sends nothing; may wait for a name to be resolved. InvalidArgument for text that is no
// endpoint; Unavailable for a name that nobody knows, or without a route.
absl::StatusOr<std::string> LocalAddressTowards(const std::string& endpoint);

}  // namespace ham::agent
