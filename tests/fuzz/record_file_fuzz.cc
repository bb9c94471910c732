// Files of evaluation records. What JSON they hold is tried in canonical form too, so that what lies behind that is
// reached.
#include "proto/evaluation/record_file.h"

#include <nlohmann/json.hpp>

#include "proto/strict_json.h"
#include "proto/utf8.h"
#include "tests/fuzz/fuzz.h"
#include "tests/support/made_record.h"
#include "tests/support/temporary_directory.h"

namespace ham::fuzz {

std::vector<std::string> Seeds() {
  EvaluationRecord small = testing::MadeInputs();
  small.data.row_ids = {3, 9};
  small.samples = {{0, 1}, {0, 1}, {kNotBroken, 1}, {0, 0}, {1, -1}};
  small.warnings.clear();
  const testing::TemporaryDirectory directory;
  std::vector<std::string> seeds;
  for (const EvaluationRecord& record : {testing::MadeRecord(), MakeRecord(small, {.resamples = 100}).value()}) {
    seeds.push_back(UnsignedRecordFile(record));
    seeds.push_back(SignRecordFile(seeds.back(), SigningKey::LoadOrCreate(directory / "key.pem").value()).value());
  }
  return seeds;
}

void TryInput(const std::string& input) {
  const absl::StatusOr<nlohmann::json> json = ParseStrictJson(input);
  for (const std::string& text : {input, json.ok() ? json->dump() + "\n" : std::string()}) {
    const absl::StatusOr<RecordFile> file = ParseRecordFile(text);
    if (!file.ok()) {
      Check(absl::IsDataLoss(file.status()) || absl::IsFailedPrecondition(file.status()), "errors are of these codes");
      Check(IsUtf8(std::string(file.status().message())), "errors can be shown");
      continue;
    }
    Check(MakeRecord(file->record, file->record.figures.options).ok(), "what was read could have been made");
    const absl::StatusOr<RecordFile> again = ParseRecordFile(UnsignedRecordFile(file->record));
    Check(again.ok() && again->signed_by.empty(), "what was read can be written");
    Check(UnsignedRecordFile(again->record) == UnsignedRecordFile(file->record), "a record has one form");
  }
}

}  // namespace ham::fuzz
