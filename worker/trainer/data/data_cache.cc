#include "worker/trainer/data/data_cache.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "proto/atomic_file.h"

namespace ham::trainer {
namespace {

constexpr absl::Duration kPoll = absl::Milliseconds(20);

bool MakeDirectory(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  return !error && access(path.c_str(), W_OK | X_OK) == 0;
}

// Held by whoever makes a file, as long as this lives. Where the file system knows no locks, ranks may make a file
// at once: each checks what it then finds.
class DirectoryLock {
 public:
  DirectoryLock(const std::string& directory, const std::function<void()>& tick)
      : fd_(open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)) {
    while (fd_ >= 0 && flock(fd_, LOCK_EX | LOCK_NB) != 0 && (errno == EWOULDBLOCK || errno == EINTR)) {
      tick();
      absl::SleepFor(kPoll);
    }
  }
  ~DirectoryLock() {
    if (fd_ >= 0) close(fd_);
  }
  DirectoryLock(const DirectoryLock&) = delete;
  DirectoryLock& operator=(const DirectoryLock&) = delete;

 private:
  const int fd_;
};

}  // namespace

std::string DefaultCacheDirectory(const std::string& data_root) {
  const std::string beside = data_root + "/.ham-cache";
  if (MakeDirectory(beside)) return beside;
  const char* const cache = std::getenv("XDG_CACHE_HOME");
  if (cache != nullptr && cache[0] == '/') return absl::StrCat(cache, "/ham/data");
  const char* const home = std::getenv("HOME");
  return absl::StrCat(home == nullptr ? "" : home, "/.cache/ham/data");
}

absl::StatusOr<ImageSet> LoadThroughCache(
    const std::string& directory, const std::string& file, const PreparedKey& key,
    const std::function<absl::StatusOr<LabelledImages>(SourceDigest* digest)>& read,
    const std::function<void()>& tick) {
  const std::string path = directory + "/" + file;
  if (auto found = MapPrepared(path, key, tick); found.ok()) return found;
  const bool usable = MakeDirectory(directory);
  const DirectoryLock lock(directory, tick);
  if (auto found = MapPrepared(path, key, tick); found.ok()) return found;
  std::shared_ptr<const std::string> bytes;
  {
    SourceDigest digest(/*with_md5=*/false, tick);
    const auto images = read(&digest);  // gone before the file is mapped
    if (!images.ok()) return images.status();
    bytes = std::make_shared<const std::string>(PackImages(key, *images, digest.Hex()));
  }
  const absl::Status written = usable ? WriteFileAtomically(path, *bytes, 0644)
                                      : absl::UnavailableError(absl::StrCat("cannot write to ", directory));
  absl::Status reason = written;
  if (written.ok()) {
    auto made = MapPrepared(path, key, tick);
    if (made.ok()) return made;
    reason = made.status();
  }
  auto own = ParsePrepared(path, key, {reinterpret_cast<const uint8_t*>(bytes->data()), bytes->size()}, bytes, tick);
  if (own.ok()) own->not_shared = std::string(reason.message());
  return own;
}

}  // namespace ham::trainer
