#include <unistd.h>

#include <cerrno>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "client/commands.h"
#include "client/evaluation_text.h"
#include "client/new_file.h"
#include "client/text.h"
#include "proto/evaluation/record_file.h"

namespace ham::client {
namespace {

constexpr char kFlag[] = "--record";

absl::Status WriteNewFile(const std::string& path, std::string_view text) {
  const absl::StatusOr<int> file = CreateFile(path, 0644, kFlag);
  if (!file.ok()) return file.status();
  absl::Status status;
  while (status.ok() && !text.empty()) {
    const ssize_t count = ::write(*file, text.data(), text.size());
    if (count < 0 && errno != EINTR) status = CannotWrite(path, errno);
    if (count > 0) text.remove_prefix(static_cast<size_t>(count));
  }
  if (status.ok() && ::fsync(*file) != 0) status = CannotWrite(path, errno);
  ::close(*file);
  if (!status.ok()) ::unlink(path.c_str());
  return status;
}

}  // namespace

Result Run(const GlobalOptions& global, const EvalGetOptions& options) {
  const std::string job = JobName(options.job);
  const std::string path = options.record.empty() ? ShortName(job) + ".json" : options.record;
  if (const absl::Status status = CheckNothingAt(path, kFlag); !status.ok()) return status;
  absl::StatusOr<CoordinatorClient> client = Connect(global);
  if (!client.ok()) return client.status();
  const absl::StatusOr<std::string> text = client->GetEvaluationRecord(job);
  if (!text.ok()) return text.status();
  const absl::StatusOr<RecordFile> file = ParseRecordFile(*text);
  absl::Status status = file.status();
  if (status.ok() && options.signed_by.has_value()) status = RequireSigner(*file, *options.signed_by);
  if (!status.ok()) {
    return absl::Status(status.code(),
                        absl::StrCat("the record of ", ShortName(job), ": ", std::string(status.message())));
  }
  if (const absl::Status written = WriteNewFile(path, *text); !written.ok()) return written;
  const bool table = options.output == OutputFormat::kTable;
  Print(table ? absl::StrCat(EvaluationTables(*file), "\nrecord: ", path, "\n") : EvaluationJson(*file));
  return kDone;
}

}  // namespace ham::client
