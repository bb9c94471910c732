#include <deque>

#include "client/commands.h"
#include "client/evaluation_text.h"
#include "proto/evaluation/comparison.h"
#include "proto/evaluation/record_file.h"

namespace ham::client {

Result Run(const GlobalOptions&, const EvalDiffOptions& options) {
  std::deque<RecordFile> files;  // stay where they are
  std::vector<NamedRecord> a, b;
  const auto read = [&](const std::string& path, std::vector<NamedRecord>* side) -> absl::Status {
    absl::StatusOr<RecordFile> file = ReadRecordFile(path, options.signed_by);
    if (!file.ok()) return file.status();
    files.push_back(*std::move(file));
    side->push_back({path, &files.back().record});
    return absl::OkStatus();
  };
  absl::Status status = read(options.a, &a);
  if (status.ok()) status = read(options.b, &b);
  for (const std::string& path : options.also_a) {
    if (status.ok()) status = read(path, &a);
  }
  for (const std::string& path : options.also_b) {
    if (status.ok()) status = read(path, &b);
  }
  if (!status.ok()) return status;
  const absl::StatusOr<RecordComparison> comparison =
      CompareRecords(a, b, {.validation_class = options.validation_class});
  if (!comparison.ok()) return comparison.status();
  Print(options.output == OutputFormat::kTable ? ComparisonTables(a, b, *comparison) : ComparisonJson(*comparison));
  return kDone;
}

}  // namespace ham::client
