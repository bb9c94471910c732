#include "absl/strings/str_cat.h"
#include "client/commands.h"
#include "client/robustbench.h"
#include "proto/evaluation/record_file.h"

namespace ham::client {

Result Run(const GlobalOptions&, const EvalExportOptions& options) {
  const absl::StatusOr<RecordFile> file = ReadRecordFile(options.record, options.signed_by);
  if (!file.ok()) return file.status();
  const absl::StatusOr<std::string> text = RobustBenchJson(file->record, options);
  if (!text.ok()) {
    return absl::Status(text.status().code(), absl::StrCat(options.record, ": ", std::string(text.status().message())));
  }
  Print(*text);
  return kDone;
}

}  // namespace ham::client
