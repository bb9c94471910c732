// A zip archive of texts, for a report of a problem: secrets are taken out of what goes in.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"

namespace ham::client {

inline constexpr char kBundleFlag[] = "--file";  // names the archive

struct BundleEntry {
  std::string name;  // path within the archive
  std::string text;
};

// The text without `secrets`, Authorization headers, values of JSON members called "token" and private keys in PEM;
// "[removed]" stands there. Pure.
std::string WithoutSecrets(std::string text, const std::vector<std::string>& secrets);

// A new file, readable by its owner alone, or none at all. INVALID_ARGUMENT if `path` exists, FAILED_PRECONDITION if it
// cannot be written.
absl::Status WriteBundle(const std::string& path, const std::vector<BundleEntry>& entries);

}  // namespace ham::client
