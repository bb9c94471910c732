#include "client/output.h"

#include <yaml-cpp/yaml.h>

#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "proto/job_spec.h"

namespace ham::client {
namespace {

using Json = nlohmann::ordered_json;

// Text that a YAML reader would take for something else is quoted; the emitter quotes only what it must.
bool ReadsAsText(const std::string& text) {
  if (text.empty() || text == "~") return false;
  if (text.find_first_not_of("0123456789+-.eE_xo:") == std::string::npos) return false;
  for (const char* word : {"true", "false", "null", "yes", "no", "on", "off", "y", "n", ".nan", ".inf", "-.inf"}) {
    if (absl::EqualsIgnoreCase(text, word)) return false;
  }
  return true;
}

void EmitText(const std::string& text, YAML::Emitter* out) {
  if (!ReadsAsText(text)) *out << YAML::DoubleQuoted;
  *out << text;
}

void Emit(const Json& json, YAML::Emitter* out) {
  if (json.is_object()) {
    *out << YAML::BeginMap;
    for (const auto& [key, value] : json.items()) {
      *out << YAML::Key;
      EmitText(key, out);
      *out << YAML::Value;
      Emit(value, out);
    }
    *out << YAML::EndMap;
  } else if (json.is_array()) {
    if (json.empty() || json[0].is_primitive()) *out << YAML::Flow;
    *out << YAML::BeginSeq;
    for (const Json& value : json) Emit(value, out);
    *out << YAML::EndSeq;
  } else if (json.is_string()) {
    EmitText(json.get<std::string>(), out);
  } else {
    *out << json.dump();
  }
}

}  // namespace

std::string Serialize(const google::protobuf::Message& message, OutputFormat format, bool stream) {
  const std::string compact = MessageToJson(message);
  if (format == OutputFormat::kJson && stream) return compact + "\n";
  const Json json = Json::parse(compact);
  if (format == OutputFormat::kJson) return json.dump(2) + "\n";
  YAML::Emitter out;
  Emit(json, &out);
  return absl::StrCat(stream ? "---\n" : "", out.c_str(), "\n");
}

}  // namespace ham::client
