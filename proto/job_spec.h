// Validation and defaults of job specs; the only place that knows both.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "google/protobuf/message.h"
#include "ham/v1/job.pb.h"

namespace ham {

inline constexpr int kMostSuites = 16;  // of each list of an evaluation

// One wrong field: its path ("train.attack.epsilon") and a sentence with value, what is allowed, what to do.
struct FieldViolation {
  std::string field;
  std::string description;
};

// Fills in every absent option, then checks every range. Returns the violations in field order, empty when
// the spec is good; the spec is then complete: no optional field is absent, but those of model and data that are still
// to come from EvaluateSpec.job, where that is named without weights. Pure; any thread.
std::vector<FieldViolation> ResolveJobSpec(ham::v1::JobSpec* spec);

// Paths of unknown fields at any depth ("train.#99"), empty if there are none.
std::vector<std::string> FindUnknownFields(const google::protobuf::Message& message);

// Protobuf JSON with proto field names and primitive fields printed: how the trainer reads a spec, and how hamctl prints.
std::string MessageToJson(const google::protobuf::Message& message);

// From YAML text (`hamctl submit`, `ham-trainer --spec` takes the JSON form). Numbers may be fractions
// ("8/255"). InvalidArgument in one sentence that names the field path, the value and what is allowed; an unknown
// key names the nearest known one. Does not resolve defaults.
absl::StatusOr<ham::v1::JobSpec> ParseJobSpecYaml(const std::string& text);

// Sets one field, or a whole section or list, from YAML text: path "train.attack.epsilon", value "8/255". What stood
// there is replaced. InvalidArgument as above.
absl::Status SetJobSpecField(const std::string& path, const std::string& value, ham::v1::JobSpec* spec);

}  // namespace ham
