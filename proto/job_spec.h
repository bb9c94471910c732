// Validation and defaults of job specs; the only place that knows both.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "google/protobuf/message.h"
#include "ham/v1/job.pb.h"

namespace ham {

// One wrong field: its path ("train.attack.epsilon") and a sentence with value, what is allowed, what to do.
struct FieldViolation {
  std::string field;
  std::string description;
};

// Fills in every absent option, then checks every range. Returns the violations in field order, empty when
// the spec is good; the spec is then complete: no optional field is absent. Pure; any thread.
std::vector<FieldViolation> ResolveJobSpec(ham::v1::JobSpec* spec);

// Paths of unknown fields at any depth ("train.#99"), empty if there are none.
std::vector<std::string> FindUnknownFields(const google::protobuf::Message& message);

// As the trainer reads it: protobuf JSON, proto field names, primitive fields printed.
std::string JobSpecToJson(const ham::v1::JobSpec& spec);

// From YAML text (`hamctl submit`, `ham-trainer --spec` takes the JSON form). Numbers may be fractions
// ("8/255"). InvalidArgument in one sentence that names the field path, the value and what is allowed; an unknown
// key names the nearest known one. Does not resolve defaults.
absl::StatusOr<ham::v1::JobSpec> ParseJobSpecYaml(const std::string& text);

}  // namespace ham
