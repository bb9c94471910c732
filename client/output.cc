#include "client/output.h"

#include <yaml-cpp/yaml.h>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "proto/job_spec.h"

namespace ham::client {
namespace {

using Json = nlohmann::ordered_json;

// Field names are; keys of labels may be anything.
bool IsPlainWord(const std::string& key) {
  return key.size() > 3 && key.find_first_not_of("abcdefghijklmnopqrstuvwxyz_") == std::string::npos && key != "true" &&
         key != "false" && key != "null";
}

void Emit(const Json& json, YAML::Emitter* out) {
  if (json.is_object()) {
    *out << YAML::BeginMap;
    for (const auto& [key, value] : json.items()) {
      *out << YAML::Key;
      if (!IsPlainWord(key)) *out << YAML::DoubleQuoted;
      *out << key;
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
    *out << YAML::DoubleQuoted << json.get<std::string>();  // whatever a reader would take it for
  } else {
    *out << json.dump();
  }
}

}  // namespace

std::string EscapedForTerminal(const std::string& json) {
  std::string out;
  for (size_t i = 0; i < json.size(); ++i) {
    const auto c = static_cast<unsigned char>(json[i]);
    const auto next = static_cast<unsigned char>(i + 1 < json.size() ? json[i + 1] : 0);
    if (c == 0x7F) {
      out += "\\u007f";
    } else if (c == 0xC2 && next >= 0x80 && next < 0xA0) {
      absl::StrAppend(&out, absl::StrFormat("\\u%04x", next));
      ++i;
    } else {
      out += json[i];
    }
  }
  return out;
}

std::string Serialize(const google::protobuf::Message& message, OutputFormat format, bool stream) {
  const std::string compact = MessageToJson(message);
  if (format == OutputFormat::kJson && stream) return EscapedForTerminal(compact) + "\n";
  const Json json = Json::parse(compact);
  if (format == OutputFormat::kJson) return EscapedForTerminal(json.dump(2)) + "\n";
  YAML::Emitter out;
  Emit(json, &out);
  return absl::StrCat(stream ? "---\n" : "", EscapedForTerminal(out.c_str()), "\n");
}

}  // namespace ham::client
