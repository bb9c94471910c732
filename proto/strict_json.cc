#include "proto/strict_json.h"

#include <set>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace ham {
namespace {

constexpr size_t kMaxDepth = 64;

// Refuses what nlohmann's parser lets pass, while it builds the value; `error` keeps the first reason.
class StrictReader {
 public:
  bool operator()(int depth, nlohmann::json::parse_event_t event, nlohmann::json& parsed) {
    using Event = nlohmann::json::parse_event_t;
    if (!error_.empty()) return false;
    switch (event) {
      case Event::object_start:
        keys_.emplace_back();
        [[fallthrough]];
      case Event::array_start:
        if (static_cast<size_t>(depth) >= kMaxDepth) error_ = absl::StrCat("nesting deeper than ", kMaxDepth);
        break;
      case Event::object_end:
        keys_.pop_back();
        break;
      case Event::array_end:
        break;
      case Event::key:
        if (!keys_.back().insert(parsed.get<std::string>()).second) {
          error_ = absl::StrCat("key \"", parsed.get<std::string>(), "\" stands twice in one object");
        }
        break;
      case Event::value:
        if (parsed.is_null()) error_ = "null is not allowed";
        break;
    }
    return error_.empty();
  }
  const std::string& error() const { return error_; }

 private:
  std::vector<std::set<std::string>> keys_;  // of the objects being read, outermost first
  std::string error_;
};

}  // namespace

absl::StatusOr<nlohmann::json> ParseStrictJson(const std::string& text) {
  StrictReader reader;
  try {
    nlohmann::json value =
        nlohmann::json::parse(text, [&reader](int depth, nlohmann::json::parse_event_t event, nlohmann::json& parsed) {
          return reader(depth, event, parsed);
        });
    if (!reader.error().empty()) return absl::InvalidArgumentError(absl::StrCat("JSON: ", reader.error()));
    return value;
  } catch (const nlohmann::json::exception& e) {
    if (!reader.error().empty()) return absl::InvalidArgumentError(absl::StrCat("JSON: ", reader.error()));
    return absl::InvalidArgumentError(absl::StrCat("not JSON: ", e.what()));
  }
}

std::string Base64Encode(const std::string& bytes) { return absl::Base64Escape(bytes); }

absl::StatusOr<std::string> Base64Decode(const std::string& text) {
  std::string bytes;
  // Abseil also takes unpadded and spaced text; there is one way to write a value.
  if (!absl::Base64Unescape(text, &bytes) || absl::Base64Escape(bytes) != text) {
    return absl::InvalidArgumentError("not base64 text");
  }
  return bytes;
}

}  // namespace ham
