// Collective over TCP by Gloo, in host memory. Traffic is not encrypted.
#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "worker/trainer/collective.h"
#include "worker/trainer/key_value_store.h"

namespace ham::trainer {

struct GlooOptions : RankGroup {
  std::string interface;  // network interface to bind, for example "eth0"; "" = `address`
  std::string address;    // or name to bind; "" = loopback, for ranks of one host
};

// Connects this rank with all others (full mesh). `store` is used during this call only and must be shared
// by the ranks of this group and no other. The process ignores SIGPIPE from then on.
// FailedPrecondition for a bad option, or an interface or address that is not this host's; DeadlineExceeded when ranks
// do not come up in time (it names the first missing one); Unavailable when connecting failed; the store's errors.
absl::StatusOr<std::unique_ptr<Collective>> ConnectGloo(const GlooOptions& options, KeyValueStore& store);

// Debian's Gloo and LibTorch's own copy export the same names; this program must have bound Debian's.
// FailedPrecondition names the library that was bound instead. Call once at start of the program.
absl::Status CheckGlooBinding();

}  // namespace ham::trainer
