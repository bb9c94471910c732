#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <numeric>
#include <set>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "proto/job_spec.h"
#include "proto/utf8.h"
#include "yaml-cpp/eventhandler.h"
#include "yaml-cpp/yaml.h"

namespace ham {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

constexpr size_t kMaxYamlBytes = 1 << 20;
constexpr int kMaxDepth = 16;
constexpr size_t kMaxEntries = 1000;  // of a list; ResolveJobSpec takes no more
constexpr int kMaxAliases = 100;      // each may stand for a long list, which may hold aliases

absl::Status Wrong(const std::string& path, const std::string& what, const std::string& allowed) {
  return absl::InvalidArgumentError(absl::StrFormat("%s %s; allowed is %s", path, what, allowed));
}

std::string Join(const std::string& path, const std::string& key) { return path.empty() ? key : path + "." + key; }

size_t EditDistance(const std::string& a, const std::string& b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), 0);
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t above = row[j];
      row[j] = std::min({above + 1, row[j - 1] + 1, diagonal + (a[i - 1] == b[j - 1] ? 0 : 1)});
      diagonal = above;
    }
  }
  return row[b.size()];
}

std::string NearestKey(const std::string& key, const google::protobuf::Descriptor* descriptor) {
  const std::string probe = key.substr(0, 64);
  std::string best;
  size_t best_distance = std::numeric_limits<size_t>::max();
  for (int i = 0; i < descriptor->field_count(); ++i) {
    const size_t distance = EditDistance(probe, descriptor->field(i)->name());
    if (distance < best_distance) {
      best_distance = distance;
      best = descriptor->field(i)->name();
    }
  }
  return best;
}

absl::Status UnknownKey(const std::string& path, const std::string& key, const google::protobuf::Descriptor* section) {
  return absl::InvalidArgumentError(absl::StrFormat("%s is not a known key; did you mean %s?", Join(path, Shown(key)),
                                                    Join(path, NearestKey(key, section))));
}

bool ParseReal(const std::string& text, double* value) {
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, *value);
  return error == std::errc() && stop == end && std::isfinite(*value);
}

// A number, or two of them with a slash between.
bool ParseRealOrFraction(const std::string& text, double* value) {
  const size_t slash = text.find('/');
  if (slash == std::string::npos) return ParseReal(text, value);
  double numerator = 0, denominator = 0;
  if (!ParseReal(text.substr(0, slash), &numerator) || !ParseReal(text.substr(slash + 1), &denominator)) return false;
  if (denominator == 0) return false;
  *value = numerator / denominator;
  return true;
}

template <typename Integer>
bool ParseInteger(const std::string& text, Integer* value) {
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, *value);
  return error == std::errc() && stop == end;
}

absl::Status SetScalar(const YAML::Node& node, const std::string& path, const FieldDescriptor* field,
                       Message* message) {
  if (!node.IsScalar()) return Wrong(path, "is a list, a section or empty", "a single value");
  const std::string& text = node.Scalar();
  const std::string shown = absl::StrFormat("is \"%s\"", Shown(text));
  const auto* reflection = message->GetReflection();
  const bool repeated = field->is_repeated();
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_DOUBLE: {
      double value = 0;
      if (!ParseRealOrFraction(text, &value)) return Wrong(path, shown, "a number or a fraction such as 8/255");
      repeated ? reflection->AddDouble(message, field, value) : reflection->SetDouble(message, field, value);
      return absl::OkStatus();
    }
    case FieldDescriptor::CPPTYPE_INT32: {
      int32_t value = 0;
      if (!ParseInteger(text, &value)) return Wrong(path, shown, "a whole number below 2^31");
      repeated ? reflection->AddInt32(message, field, value) : reflection->SetInt32(message, field, value);
      return absl::OkStatus();
    }
    case FieldDescriptor::CPPTYPE_UINT64: {
      uint64_t value = 0;
      if (!ParseInteger(text, &value)) return Wrong(path, shown, "a whole number from 0 to 2^64 - 1");
      reflection->SetUInt64(message, field, value);
      return absl::OkStatus();
    }
    case FieldDescriptor::CPPTYPE_BOOL: {
      if (text != "true" && text != "false") return Wrong(path, shown, "true or false");
      reflection->SetBool(message, field, text == "true");
      return absl::OkStatus();
    }
    case FieldDescriptor::CPPTYPE_STRING:
      if (!IsUtf8(text)) return Wrong(path, shown, "text in UTF-8");
      reflection->SetString(message, field, text);
      return absl::OkStatus();
    default:
      return absl::InternalError(absl::StrCat(path, " has a type that YAML specs do not carry"));
  }
}

// Two members of a oneof would replace one another.
absl::Status CheckAlone(const std::string& path, const FieldDescriptor* field, const Message& message) {
  const auto* group = field->real_containing_oneof();
  const auto* reflection = message.GetReflection();
  if (group == nullptr || !reflection->HasOneof(message, group) || reflection->HasField(message, field)) {
    return absl::OkStatus();
  }
  const std::string& other = reflection->GetOneofFieldDescriptor(message, group)->name();
  return absl::InvalidArgumentError(absl::StrFormat("%s stands beside %s; a job has one of them", path, other));
}

absl::Status FillMessage(const YAML::Node& node, const std::string& path, int depth, Message* message);

absl::Status FillField(const YAML::Node& node, const std::string& path, int depth, const FieldDescriptor* field,
                       Message* message) {
  const bool is_message = field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE;
  const auto* reflection = message->GetReflection();
  if (!field->is_repeated()) {
    if (!is_message) return SetScalar(node, path, field, message);
    return FillMessage(node, path, depth + 1, reflection->MutableMessage(message, field));
  }
  if (!node.IsSequence()) return Wrong(path, "is not a list", "a list");
  if (node.size() > kMaxEntries) {
    return Wrong(path, absl::StrFormat("has %d entries", node.size()),
                 absl::StrFormat("at most %d of them", kMaxEntries));
  }
  for (size_t i = 0; i < node.size(); ++i) {
    const std::string at = absl::StrCat(path, "[", i, "]");
    const absl::Status status = is_message ? FillMessage(node[i], at, depth + 1, reflection->AddMessage(message, field))
                                           : SetScalar(node[i], at, field, message);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status FillMessage(const YAML::Node& node, const std::string& path, int depth, Message* message) {
  const std::string shown = path.empty() ? "the spec" : path;
  if (depth > kMaxDepth) return Wrong(shown, "is nested too deeply", "at most 16 levels");
  if (!node.IsMap()) return Wrong(shown, "is not a section", "a section of `key: value` lines");
  std::set<std::string> seen;
  for (const auto& entry : node) {
    if (!entry.first.IsScalar()) return Wrong(shown, "has a key that is not text", "plain keys");
    const std::string key = entry.first.Scalar();
    const std::string at = Join(path, Shown(key));
    const FieldDescriptor* field = message->GetDescriptor()->FindFieldByName(key);
    if (field == nullptr) {
      return UnknownKey(path, key, message->GetDescriptor());
    }
    if (!seen.insert(key).second) return absl::InvalidArgumentError(at + " stands twice; keep one");
    absl::Status status = CheckAlone(at, field, *message);
    if (status.ok()) status = FillField(entry.second, at, depth, field, message);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

// Counts aliases; drops all else.
class AliasCounter : public YAML::EventHandler {
 public:
  int count() const { return count_; }

 private:
  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark&, YAML::anchor_t) override {}
  void OnAlias(const YAML::Mark&, YAML::anchor_t) override { ++count_; }
  void OnScalar(const YAML::Mark&, const std::string&, YAML::anchor_t, const std::string&) override {}
  void OnSequenceStart(const YAML::Mark&, const std::string&, YAML::anchor_t, YAML::EmitterStyle::value) override {}
  void OnSequenceEnd() override {}
  void OnMapStart(const YAML::Mark&, const std::string&, YAML::anchor_t, YAML::EmitterStyle::value) override {}
  void OnMapEnd() override {}

  int count_ = 0;
};

// 0, 1, or 2 for more. Not YAML::LoadAll: before text that no document can begin with, such as a comma, the library
// finds empty documents without end.
int CountDocuments(const std::string& text, AliasCounter* aliases) {
  std::istringstream stream(text);
  YAML::Parser parser(stream);
  int documents = 0;
  while (documents < 2 && parser.HandleNextDocument(*aliases)) ++documents;
  return documents;
}

// The one document of `text`. YAML::Exception, or InvalidArgument for another number of them.
absl::StatusOr<YAML::Node> LoadDocument(const std::string& text, const std::string& name) {
  if (text.size() > kMaxYamlBytes) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s has %d bytes; allowed is at most %d", name, text.size(), kMaxYamlBytes));
  }
  AliasCounter aliases;
  const int documents = CountDocuments(text, &aliases);
  if (documents != 1) {
    return absl::InvalidArgumentError(absl::StrFormat("%s holds %s YAML documents; allowed is exactly one", name,
                                                      documents == 0 ? "0" : "at least 2"));
  }
  if (aliases.count() > kMaxAliases) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s uses %d aliases (*name); allowed are at most %d", name, aliases.count(), kMaxAliases));
  }
  return YAML::Load(text);
}

absl::Status NotYaml(const std::string& name, const YAML::Exception& error) {
  return absl::InvalidArgumentError(absl::StrFormat("%s is not valid YAML at line %d, column %d: %s", name,
                                                    error.mark.line + 1, error.mark.column + 1, error.msg));
}

// The message that holds the last key of `path`, and that key's field.
absl::Status FindField(const std::string& path, Message** message, const FieldDescriptor** field) {
  std::string above;
  const std::vector<std::string> keys = absl::StrSplit(path, '.');
  for (size_t i = 0; i < keys.size(); ++i) {
    *field = (*message)->GetDescriptor()->FindFieldByName(keys[i]);
    if (*field == nullptr) return UnknownKey(above, keys[i], (*message)->GetDescriptor());
    above = Join(above, keys[i]);
    if (const absl::Status status = CheckAlone(above, *field, **message); !status.ok()) return status;
    if (i + 1 == keys.size()) break;
    if ((*field)->is_repeated() || (*field)->cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE) {
      return absl::InvalidArgumentError(absl::StrFormat("%s has no keys below it; set %s as a whole", above, above));
    }
    *message = (*message)->GetReflection()->MutableMessage(*message, *field);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ham::v1::JobSpec> ParseJobSpecYaml(const std::string& text) {
  ham::v1::JobSpec spec;
  try {
    const absl::StatusOr<YAML::Node> document = LoadDocument(text, "the spec");
    if (!document.ok()) return document.status();
    const absl::Status status = FillMessage(*document, "", 0, &spec);
    if (!status.ok()) return status;
  } catch (const YAML::Exception& error) {
    return NotYaml("the spec", error);
  }
  return spec;
}

absl::Status SetJobSpecField(const std::string& path, const std::string& value, ham::v1::JobSpec* spec) {
  Message* message = spec;
  const FieldDescriptor* field = nullptr;
  if (const absl::Status status = FindField(path, &message, &field); !status.ok()) return status;
  message->GetReflection()->ClearField(message, field);
  const std::string name = absl::StrCat("the value of ", path);
  try {
    const absl::StatusOr<YAML::Node> document = LoadDocument(value, name);
    return document.ok() ? FillField(*document, path, 0, field, message) : document.status();
  } catch (const YAML::Exception& error) {
    return NotYaml(name, error);
  }
}

}  // namespace ham
