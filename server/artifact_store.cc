#include "server/artifact_store.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <filesystem>
#include <functional>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "proto/atomic_file.h"
#include "proto/sha256.h"
#include "proto/utf8.h"

namespace ham::server {
namespace {

namespace fs = std::filesystem;

// Closes with its owner.
class File {
 public:
  File(const std::string& path, int flags) : fd_(::open(path.c_str(), flags | O_CLOEXEC, 0600)) {}
  ~File() {
    if (fd_ >= 0) ::close(fd_);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  int fd() const { return fd_; }

 private:
  const int fd_;
};

// -1 when there is no such file.
int64_t SizeOf(const std::string& path) {
  struct stat info;
  return ::stat(path.c_str(), &info) == 0 ? static_cast<int64_t>(info.st_size) : -1;
}

// Reads up to `most` bytes; short only at the end.
absl::StatusOr<std::string> ReadAt(int fd, const std::string& path, int64_t offset, size_t most) {
  std::string data(most, '\0');
  size_t held = 0;
  while (held < most) {
    const ssize_t count = ::pread(fd, data.data() + held, most - held, offset + static_cast<int64_t>(held));
    if (count == 0) break;
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return FileError("read", path, errno);
    held += static_cast<size_t>(count);
  }
  data.resize(held);
  return data;
}

absl::StatusOr<std::string> DigestOf(int fd, const std::string& path) {
  Sha256 digest;
  for (int64_t offset = 0;;) {
    absl::StatusOr<std::string> data = ReadAt(fd, path, offset, 1 << 20);
    if (!data.ok()) return data.status();
    if (data->empty()) return digest.Hex();
    digest.Update(*data);
    offset += static_cast<int64_t>(data->size());
  }
}

class ArtifactDirectory final : public ArtifactStore {
 public:
  explicit ArtifactDirectory(std::string root) : root_(std::move(root)) {}

  absl::StatusOr<Held> Query(const std::string& digest) override {
    if (const absl::Status status = CheckDigest(digest); !status.ok()) return status;
    absl::MutexLock lock(LockOf(digest));
    if (SizeOf(Complete(digest)) >= 0) return Held{true, 0};
    return Held{false, std::max<int64_t>(0, SizeOf(Unfinished(digest)))};
  }

  absl::Status Put(const std::string& digest, int64_t offset, std::string_view data) override {
    if (const absl::Status status = CheckDigest(digest); !status.ok()) return status;
    absl::MutexLock lock(LockOf(digest));
    if (SizeOf(Complete(digest)) >= 0) return absl::OkStatus();
    const std::string path = Unfinished(digest);
    const int64_t held = std::max<int64_t>(0, SizeOf(path));
    if (offset != held) {
      return absl::OutOfRangeError(absl::StrCat("artifact ", digest, " holds ", held, " bytes, not ", offset,
                                                ": ask with QueryArtifact and go on from there"));
    }
    const File file(path, O_WRONLY | O_CREAT | O_APPEND);
    if (file.fd() < 0) return FileError("create", path, errno);
    while (!data.empty()) {
      const ssize_t count = ::write(file.fd(), data.data(), data.size());
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) return FileError("write", path, errno);
      data.remove_prefix(static_cast<size_t>(count));
    }
    return absl::OkStatus();
  }

  absl::Status Commit(const std::string& digest, int64_t size) override {
    if (const absl::Status status = CheckDigest(digest); !status.ok()) return status;
    absl::MutexLock lock(LockOf(digest));
    if (SizeOf(Complete(digest)) >= 0) return SyncName(digest);  // the call that renamed it may have failed to
    const std::string path = Unfinished(digest);
    const int64_t held = std::max<int64_t>(0, SizeOf(path));
    if (held < size) {
      return absl::OutOfRangeError(
          absl::StrCat("artifact ", digest, " holds ", held, " of ", size, " bytes: send the rest"));
    }
    const File file(path, O_RDWR | O_CREAT);
    if (file.fd() < 0) return FileError("open", path, errno);
    const absl::StatusOr<std::string> found = DigestOf(file.fd(), path);
    if (!found.ok()) return found.status();
    if (held != size || *found != digest) {
      ::unlink(path.c_str());
      return absl::DataLossError(absl::StrCat("the upload of artifact ", digest, " has ", held, " bytes with SHA-256 ",
                                              *found, ": send it again from the start"));
    }
    if (::fsync(file.fd()) != 0) {
      const absl::Status status = FileError("sync", path, errno);
      ::unlink(path.c_str());  // what the cache says of it now may not be on the disk
      return status;
    }
    const std::string folder = Folder(digest);
    std::error_code error;
    fs::create_directory(folder, error);
    if (error) return FileError("create", folder, error.value());
    if (::rename(path.c_str(), Complete(digest).c_str()) != 0) return FileError("rename", path, errno);
    return SyncName(digest);
  }

  absl::StatusOr<std::string> Read(const std::string& digest, int64_t offset, size_t most) override {
    if (const absl::Status status = CheckDigest(digest); !status.ok()) return status;
    const std::string path = Complete(digest);
    const File file(path, O_RDONLY);
    if (file.fd() < 0 && errno == ENOENT) {
      return absl::NotFoundError(absl::StrCat("artifact ", digest, " is not in this store"));
    }
    if (file.fd() < 0) return FileError("open", path, errno);
    return ReadAt(file.fd(), path, offset, most);
  }

 private:
  static absl::Status CheckDigest(const std::string& digest) {
    if (IsSha256Hex(digest)) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("digest \"", Shown(digest, 80), "\" must be 64 lower-case hex digits (SHA-256)"));
  }
  std::string Folder(const std::string& digest) const { return absl::StrCat(root_, "/", digest.substr(0, 2)); }
  std::string Complete(const std::string& digest) const { return absl::StrCat(Folder(digest), "/", digest); }
  absl::Status SyncName(const std::string& digest) const {
    const absl::Status status = SyncDirectory(Folder(digest));
    return status.ok() ? SyncDirectory(root_) : status;
  }
  std::string Unfinished(const std::string& digest) const { return absl::StrCat(root_, "/unfinished/", digest); }

  // Calls on one digest go one after the other; others rarely wait for them.
  absl::Mutex* LockOf(const std::string& digest) { return &locks_[std::hash<std::string>()(digest) % locks_.size()]; }

  const std::string root_;
  std::array<absl::Mutex, 64> locks_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ArtifactStore>> OpenArtifactDirectory(const std::string& directory) {
  std::error_code error;
  fs::create_directories(directory + "/unfinished", error);
  if (error) return FileError("create", directory, error.value());
  return std::make_unique<ArtifactDirectory>(directory);
}

}  // namespace ham::server
