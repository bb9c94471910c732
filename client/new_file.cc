#include "client/new_file.h"

#include <fcntl.h>

#include <cerrno>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "proto/atomic_file.h"

namespace ham::client {
namespace {

absl::Status Exists(const std::string& path, const std::string& flag) {
  return absl::InvalidArgumentError(absl::StrCat(path, " exists and is left as it is; name another file with ", flag));
}

}  // namespace

absl::Status CheckNothingAt(const std::string& path, const std::string& flag) {
  std::error_code error;
  const bool exists = std::filesystem::exists(std::filesystem::symlink_status(path, error));
  return exists ? Exists(path, flag) : absl::OkStatus();
}

absl::StatusOr<int> CreateFile(const std::string& path, mode_t mode, const std::string& flag) {
  const int file = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
  if (file >= 0) return file;
  return errno == EEXIST ? Exists(path, flag) : CannotWrite(path, errno);
}

absl::Status CannotWrite(const std::string& path, int error_number) {
  return absl::FailedPreconditionError(std::string(FileError("write", path, error_number).message()));
}

}  // namespace ham::client
