#include "client/commands.h"
#include "client/evaluation_text.h"
#include "proto/evaluation/record_file.h"

namespace ham::client {

Result Run(const GlobalOptions&, const EvalShowOptions& options) {
  const absl::StatusOr<RecordFile> file = ReadRecordFile(options.record, options.signed_by);
  if (!file.ok()) return file.status();
  Print(options.output == OutputFormat::kTable ? EvaluationTables(*file) : EvaluationJson(*file));
  return kDone;
}

}  // namespace ham::client
