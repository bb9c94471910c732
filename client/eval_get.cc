#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "client/commands.h"
#include "client/evaluation_text.h"
#include "client/text.h"
#include "proto/atomic_file.h"
#include "proto/evaluation/record_file.h"

namespace ham::client {
namespace {

absl::Status Exists(const std::string& path) {
  return absl::InvalidArgumentError(
      absl::StrCat(path, " exists and is left as it is; name another file with --record"));
}

// No answer of the coordinator, nor that it has none.
absl::Status CannotWrite(const std::string& path) {
  return absl::FailedPreconditionError(std::string(FileError("write", path, errno).message()));
}

absl::Status WriteNewFile(const std::string& path, std::string_view text) {
  const int file = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (file < 0) return errno == EEXIST ? Exists(path) : CannotWrite(path);
  absl::Status status;
  while (status.ok() && !text.empty()) {
    const ssize_t count = ::write(file, text.data(), text.size());
    if (count < 0 && errno != EINTR) status = CannotWrite(path);
    if (count > 0) text.remove_prefix(static_cast<size_t>(count));
  }
  if (status.ok() && ::fsync(file) != 0) status = CannotWrite(path);
  ::close(file);
  if (!status.ok()) ::unlink(path.c_str());
  return status;
}

}  // namespace

Result Run(const GlobalOptions& global, const EvalGetOptions& options) {
  const std::string job = JobName(options.job);
  const std::string path = options.record.empty() ? ShortName(job) + ".json" : options.record;
  std::error_code error;
  if (std::filesystem::exists(std::filesystem::symlink_status(path, error))) return Exists(path);
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
