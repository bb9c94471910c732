#include "server/durable_files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <system_error>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "proto/atomic_file.h"
#include "proto/sha256.h"

namespace ham::server {
namespace {

constexpr size_t kBlockBytes = 1 << 20;

absl::Status OpenError(const std::string& path) {
  if (errno == ENOENT) return absl::NotFoundError(absl::StrCat(path, " does not exist"));
  return FileError("open", path, errno);
}

absl::Status WriteAll(int fd, const std::string& path, std::string_view data) {
  while (!data.empty()) {
    const ssize_t count = ::write(fd, data.data(), data.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return FileError("write", path, errno);
    data.remove_prefix(static_cast<size_t>(count));
  }
  return absl::OkStatus();
}

// Reads all of `path`, and writes it to `out` unless that is -1.
absl::StatusOr<FileFacts> ReadThrough(const std::string& path, int out, const std::string& out_path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return OpenError(path);
  const absl::Cleanup close = [fd] { ::close(fd); };
  FileFacts facts;
  Sha256 digest;
  std::string block(kBlockBytes, '\0');
  while (true) {
    const ssize_t count = ::read(fd, block.data(), block.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return ReadError(path, errno);
    if (count == 0) break;
    const std::string_view data(block.data(), static_cast<size_t>(count));
    digest.Update(data);
    facts.bytes += count;
    if (out < 0) continue;
    if (const absl::Status status = WriteAll(out, out_path, data); !status.ok()) return status;
  }
  facts.sha256 = digest.Hex();
  return facts;
}

}  // namespace

absl::Status ReadError(const std::string& path, int error) {
  if (error != EIO) return FileError("read", path, error);
  return absl::DataLossError(absl::StrCat(path, " cannot be read: its disk fails"));
}

absl::StatusOr<FileFacts> ReadFacts(const std::string& path) { return ReadThrough(path, -1, ""); }

absl::StatusOr<FileFacts> CopyFile(const std::string& from, const std::string& to) {
  const int fd = ::open(to.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (fd < 0) return FileError("create", to, errno);
  const absl::Cleanup close = [fd] { ::close(fd); };
  absl::StatusOr<FileFacts> facts = ReadThrough(from, fd, to);
  if (facts.ok() && ::fsync(fd) != 0) facts = FileError("sync", to, errno);
  if (!facts.ok()) ::unlink(to.c_str());
  return facts;
}

absl::StatusOr<FileFacts> LinkOrCopyFile(const std::string& from, const std::string& to) {
  if (::link(from.c_str(), to.c_str()) != 0) return CopyFile(from, to);
  absl::StatusOr<FileFacts> facts = ReadFacts(to);
  if (!facts.ok()) ::unlink(to.c_str());
  return facts;
}

absl::Status SyncFile(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (fd < 0) return OpenError(path);
  const absl::Cleanup close = [fd] { ::close(fd); };
  return ::fsync(fd) == 0 ? absl::OkStatus() : FileError("sync", path, errno);
}

absl::Status MakeDirectory(const std::string& path) {
  if (::mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) return FileError("create", path, errno);
  const std::string parent = std::filesystem::path(path).parent_path().string();
  return SyncDirectory(parent.empty() ? "." : parent);
}

absl::Status SyncNames(const std::string& directory) {
  std::error_code error;
  for (std::filesystem::recursive_directory_iterator at(directory, error), end; !error && at != end;
       at.increment(error)) {
    if (!at->is_directory(error) || error) continue;
    if (const absl::Status status = SyncDirectory(at->path().string()); !status.ok()) return status;
  }
  if (error) return FileError("read", directory, error.value());
  return SyncDirectory(directory);
}

absl::Status CheckEmptyDirectory(const std::string& path) {
  std::error_code error;
  const bool empty = !std::filesystem::exists(path, error) || std::filesystem::is_empty(path, error);
  if (error) return FileError("read", path, error.value());
  if (empty) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(path, " holds files: name a directory that is empty or new"));
}

}  // namespace ham::server
