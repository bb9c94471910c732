// JSON from outside, and bytes in it. Stateless; safe from any thread.
#pragma once

#include <string>

#include <nlohmann/json.hpp>
#include "absl/status/statusor.h"

namespace ham {

// Refuses duplicate keys, nulls, deep nesting and trailing bytes. InvalidArgument says where.
absl::StatusOr<nlohmann::json> ParseStrictJson(const std::string& text);

std::string Base64Encode(const std::string& bytes);
// Takes only what Base64Encode writes, padded and without spaces. InvalidArgument for all else.
absl::StatusOr<std::string> Base64Decode(const std::string& text);

}  // namespace ham
