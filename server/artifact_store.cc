#include "server/artifact_store.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
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
#include "server/durable_files.h"

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

// Notes that it was asked for.
void Touch(const std::string& path) { ::utimensat(AT_FDCWD, path.c_str(), nullptr, 0); }

// Reads up to `most` bytes; short only at the end.
absl::StatusOr<std::string> ReadAt(int fd, const std::string& path, int64_t offset, size_t most) {
  std::string data(most, '\0');
  size_t held = 0;
  while (held < most) {
    const ssize_t count = ::pread(fd, data.data() + held, most - held, offset + static_cast<int64_t>(held));
    if (count == 0) break;
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return ReadError(path, errno);
    held += static_cast<size_t>(count);
  }
  data.resize(held);
  return data;
}

absl::Status MakeFolders(const std::string& root) {
  const absl::Status status = MakeDirectory(root);
  return status.ok() ? MakeDirectory(root + "/unfinished") : status;
}

class ArtifactDirectory final : public ArtifactStore {
 public:
  ArtifactDirectory(std::string root, int64_t quota) : root_(std::move(root)), quota_(quota) {}

  // Before all else, by one thread.
  void CountWhatIsHeld() {
    for (const std::string& path : Paths()) used_ += std::max<int64_t>(0, SizeOf(path));
  }

  absl::StatusOr<Held> Query(const std::string& digest) override {
    if (const absl::Status status = CheckDigest(digest); !status.ok()) return status;
    absl::MutexLock lock(LockOf(digest));
    if (IsComplete(digest)) return Held{true, 0};
    return Held{false, std::max<int64_t>(0, SizeOf(Unfinished(digest)))};
  }

  absl::Status Put(const std::string& digest, int64_t offset, std::string_view data) override {
    if (const absl::Status status = CheckDigest(digest); !status.ok()) return status;
    absl::MutexLock lock(LockOf(digest));
    if (IsComplete(digest)) return absl::OkStatus();
    const std::string path = Unfinished(digest);
    const int64_t held = std::max<int64_t>(0, SizeOf(path));
    if (offset != held) {
      return absl::OutOfRangeError(absl::StrCat("artifact ", digest, " holds ", held, " bytes, not ", offset,
                                                ": ask with QueryArtifact and go on from there"));
    }
    if (held == 0 && SizeOf(root_ + "/unfinished") < 0) {  // somebody has removed it meanwhile
      if (const absl::Status status = CheckArtifactsMounted(root_); !status.ok()) return status;
      if (const absl::Status status = MakeFolders(root_); !status.ok()) return status;
    }
    if (const absl::Status status = Reserve(static_cast<int64_t>(data.size())); !status.ok()) return status;
    const absl::Status status = Append(path, &data);
    used_ -= static_cast<int64_t>(data.size());  // what is left of it was not written
    return status;
  }

  absl::Status Commit(const std::string& digest, int64_t size) override {
    if (const absl::Status status = CheckDigest(digest); !status.ok()) return status;
    absl::MutexLock lock(LockOf(digest));
    if (IsComplete(digest)) return SyncName(digest);  // the call that renamed it may have failed to
    const std::string path = Unfinished(digest);
    const int64_t held = std::max<int64_t>(0, SizeOf(path));
    if (held < size) {
      return absl::OutOfRangeError(
          absl::StrCat("artifact ", digest, " holds ", held, " of ", size, " bytes: send the rest"));
    }
    const File file(path, O_RDWR | O_CREAT);
    if (file.fd() < 0) return FileError("open", path, errno);
    const absl::StatusOr<FileFacts> found = ReadFacts(path);
    if (!found.ok()) return found.status();
    if (held != size || found->sha256 != digest) {
      Drop(path);
      return absl::DataLossError(absl::StrCat("the upload of artifact ", digest, " has ", held, " bytes with SHA-256 ",
                                              found->sha256, ": send it again from the start"));
    }
    if (::fsync(file.fd()) != 0) {
      const absl::Status status = FileError("sync", path, errno);
      Drop(path);  // what the cache says of it now may not be on the disk
      return status;
    }
    const std::string folder = Folder(digest);
    if (::mkdir(folder.c_str(), 0700) != 0 && errno != EEXIST) return FileError("create", folder, errno);
    if (::rename(path.c_str(), Complete(digest).c_str()) != 0) return FileError("rename", path, errno);
    return SyncName(digest);
  }

  absl::StatusOr<std::string> Read(const std::string& digest, int64_t offset, size_t most) override {
    if (const absl::Status status = CheckDigest(digest); !status.ok()) return status;
    const std::string path = Complete(digest);
    const File file(path, O_RDONLY);
    if (file.fd() < 0 && errno == ENOENT) return NotHere(digest);
    if (file.fd() < 0) return FileError("open", path, errno);
    return ReadAt(file.fd(), path, offset, most);
  }

  absl::Status Verify(const std::string& digest) override {
    if (const absl::Status status = CheckDigest(digest); !status.ok()) return status;
    absl::MutexLock lock(LockOf(digest));
    const std::string path = Complete(digest);
    const absl::StatusOr<FileFacts> found = ReadFacts(path);
    if (absl::IsNotFound(found.status())) return NotHere(digest);
    if (!found.ok() && !absl::IsDataLoss(found.status())) return found.status();
    if (found.ok() && found->sha256 == digest) return absl::OkStatus();
    const absl::Status problem =
        found.ok() ? absl::DataLossError(absl::StrCat("artifact ", digest, " has other bytes now, with SHA-256 ",
                                                      found->sha256, " now"))
                   : found.status();
    const std::string aside = root_ + "/damaged/";
    ::mkdir(aside.c_str(), 0700);
    if (::rename(path.c_str(), (aside + digest).c_str()) != 0) return FileError("rename", path, errno);
    const absl::Status status = SyncName(digest);
    return status.ok() ? problem : status;
  }

  absl::StatusOr<std::vector<Item>> List() override {
    std::vector<Item> items;
    for (const std::string& path : Paths()) {
      const absl::StatusOr<Item> item = Describe(path);
      if (item.ok() && IsSha256Hex(item->digest)) items.push_back(*item);
    }
    std::sort(items.begin(), items.end(), [](const Item& a, const Item& b) { return a.digest < b.digest; });
    return items;
  }

  absl::StatusOr<int64_t> RemoveIf(const std::function<bool(const Item&)>& unwanted) override {
    const File directory(root_, O_RDONLY | O_DIRECTORY);
    if (directory.fd() < 0) return FileError("open", root_, errno);
    if (::flock(directory.fd(), LOCK_EX | LOCK_NB) != 0) {
      return absl::FailedPreconditionError("a backup is being made, and nothing is removed meanwhile");
    }
    int64_t bytes = 0;
    for (const std::string& path : Paths()) {
      const std::string digest = fs::path(path).filename().string();
      if (!IsSha256Hex(digest)) continue;
      absl::MutexLock lock(LockOf(digest));
      const absl::StatusOr<Item> item = Describe(path);
      if (item.ok() && unwanted(*item) && Drop(path)) bytes += item->bytes;
    }
    return bytes;
  }

  int64_t Bytes() const override { return used_; }

 private:
  static absl::Status CheckDigest(const std::string& digest) {
    if (IsSha256Hex(digest)) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("digest \"", Shown(digest, 80), "\" must be 64 lower-case hex digits (SHA-256)"));
  }
  absl::Status NotHere(const std::string& digest) const {
    if (const absl::Status status = CheckArtifactsMounted(root_); !status.ok()) return status;
    return absl::NotFoundError(absl::StrCat("artifact ", digest, " is not in this store"));
  }

  std::string Folder(const std::string& digest) const { return absl::StrCat(root_, "/", digest.substr(0, 2)); }
  std::string Complete(const std::string& digest) const { return ArtifactPath(root_, digest); }
  std::string Unfinished(const std::string& digest) const { return absl::StrCat(root_, "/unfinished/", digest); }
  bool IsComplete(const std::string& digest) const {
    if (SizeOf(Complete(digest)) < 0) return false;
    Touch(Complete(digest));
    return true;
  }

  absl::Status SyncName(const std::string& digest) const {
    const absl::Status status = SyncDirectory(Folder(digest));
    return status.ok() ? SyncDirectory(root_) : status;
  }

  absl::Status Reserve(int64_t bytes) {
    const int64_t used = used_ += bytes;
    if (quota_ == 0 || used <= quota_) return absl::OkStatus();
    used_ -= bytes;
    return absl::ResourceExhaustedError(absl::StrCat("the coordinator holds ", used - bytes, " of at most ", quota_,
                                                     " bytes of artifacts, and ", bytes,
                                                     " more do not fit: raise --artifact-quota or lower "
                                                     "--keep-checkpoints there"));
  }

  // Takes what it has written from the front of `data`.
  static absl::Status Append(const std::string& path, std::string_view* data) {
    const File file(path, O_WRONLY | O_CREAT | O_APPEND);
    if (file.fd() < 0) return FileError("create", path, errno);
    while (!data->empty()) {
      const ssize_t count = ::write(file.fd(), data->data(), data->size());
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) return FileError("write", path, errno);
      data->remove_prefix(static_cast<size_t>(count));
    }
    return absl::OkStatus();
  }

  bool Drop(const std::string& path) {
    const int64_t bytes = SizeOf(path);
    if (bytes < 0 || ::unlink(path.c_str()) != 0) return false;
    used_ -= bytes;
    return true;
  }

  // Of all files.
  std::vector<std::string> Paths() const {
    std::vector<std::string> paths;
    std::error_code error;  // of a directory that cannot be read: nothing of it is there
    for (fs::recursive_directory_iterator at(root_, error), end; !error && at != end; at.increment(error)) {
      if (at->is_regular_file(error)) paths.push_back(at->path().string());
    }
    return paths;
  }

  absl::StatusOr<Item> Describe(const std::string& path) const {
    struct stat info;
    if (::stat(path.c_str(), &info) != 0) return FileError("read", path, errno);
    const std::string digest = fs::path(path).filename().string();
    if (path != Complete(digest) && path != Unfinished(digest)) return NotHere(digest);
    return Item{.digest = digest,
                .complete = path == Complete(digest),
                .bytes = static_cast<int64_t>(info.st_size),
                .asked = absl::TimeFromTimespec(info.st_mtim)};
  }

  // Calls on one digest go one after the other; others rarely wait for them.
  absl::Mutex* LockOf(const std::string& digest) { return &locks_[std::hash<std::string>()(digest) % locks_.size()]; }

  const std::string root_;
  const int64_t quota_;
  std::atomic<int64_t> used_ = 0;  // bytes of all files
  std::array<absl::Mutex, 64> locks_;
};

}  // namespace

std::string ArtifactPath(const std::string& directory, const std::string& digest) {
  return absl::StrCat(directory, "/", digest.substr(0, 2), "/", digest);
}

absl::Status CheckArtifactsMounted(const std::string& directory) {
  std::error_code error;
  fs::directory_iterator at(directory, error), end;
  while (!error && at != end && at->path().filename() == "lost+found") at.increment(error);
  if (error || at != end) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat(directory, " is empty: is its file system mounted? If what it held is ",
                                             "gone for good, make the folder ", directory, "/unfinished, and jobs ",
                                             "start anew"));
}

absl::StatusOr<std::unique_ptr<ArtifactStore>> OpenArtifactDirectory(const std::string& directory, int64_t quota) {
  if (const absl::Status status = MakeFolders(directory); !status.ok()) return status;
  auto store = std::make_unique<ArtifactDirectory>(directory, quota);
  store->CountWhatIsHeld();
  return store;
}

absl::StatusOr<ArtifactHold> ArtifactHold::Take(const std::string& directory) {
  const int fd = ::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return FileError("open", directory, errno);
  while (::flock(fd, LOCK_SH) != 0) {
    if (errno == EINTR) continue;
    const absl::Status status = FileError("lock", directory, errno);
    ::close(fd);
    return status;
  }
  return ArtifactHold(fd);
}

ArtifactHold::~ArtifactHold() {
  if (fd_ >= 0) ::close(fd_);
}

}  // namespace ham::server
