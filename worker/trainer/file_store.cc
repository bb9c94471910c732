#include <fcntl.h>
#include <poll.h>
#include <sys/inotify.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "worker/trainer/key_value_store.h"
#include "worker/trainer/stopwatch.h"

namespace ham::trainer {
namespace {

constexpr size_t kMaxKeyBytes = 128;
constexpr size_t kMaxValueBytes = 64 << 10;
constexpr int kRecheckMilliseconds = 50;  // for network file systems, which inotify does not see

absl::Status CheckKey(const std::string& key) {
  const bool good = !key.empty() && key.size() <= kMaxKeyBytes && std::all_of(key.begin(), key.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
  });
  if (good) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("rendezvous key \"", key, "\": 1 to ", kMaxKeyBytes, " letters, digits, '_' and '-' are allowed"));
}

absl::Status Failed(const std::string& what, const std::string& path) {
  return absl::UnavailableError(absl::StrCat(what, " ", path, " failed: ", std::strerror(errno)));
}

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }

 private:
  const int fd_;
};

class FileStore final : public KeyValueStore {
 public:
  explicit FileStore(std::string directory) : directory_(std::move(directory)) {}

  absl::Status Set(const std::string& key, const std::string& value) override {
    if (absl::Status status = Prepare(key); !status.ok()) return status;
    if (value.size() > kMaxValueBytes) {
      return absl::InvalidArgumentError(
          absl::StrCat("value of rendezvous key \"", key, "\" has ", value.size(), " bytes: at most ", kMaxValueBytes));
    }
    // Written beside and linked, so that a reader never sees half a value and no key is set twice.
    std::string temporary = Path(".new-XXXXXX");
    const Descriptor file(::mkstemp(temporary.data()));
    if (file.get() < 0) return Failed("making", temporary);
    absl::Status status;
    const std::string path = Path(key);
    if (::write(file.get(), value.data(), value.size()) != static_cast<ssize_t>(value.size())) {
      status = Failed("writing", temporary);
    } else if (::link(temporary.c_str(), path.c_str()) != 0) {
      status = errno == EEXIST ? absl::AlreadyExistsError(absl::StrCat(
                                     path, " exists already: give each run a rendezvous directory of its own"))
                               : Failed("making", path);
    }
    ::unlink(temporary.c_str());
    return status;
  }

  absl::StatusOr<std::string> Get(const std::string& key, absl::Duration timeout) override {
    if (absl::Status status = Prepare(key); !status.ok()) return status;
    const Descriptor watch(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
    if (watch.get() >= 0) ::inotify_add_watch(watch.get(), directory_.c_str(), IN_CREATE);
    const Stopwatch waited;
    while (true) {
      if (std::ifstream file(Path(key), std::ios::binary); file) {
        std::ostringstream value;
        value << file.rdbuf();
        return value.str();
      }
      const absl::Duration left = timeout - absl::Seconds(waited.Elapsed());
      if (left <= absl::ZeroDuration()) {
        return absl::DeadlineExceededError(
            absl::StrCat("rendezvous key \"", key, "\" was not set within ", absl::FormatDuration(timeout)));
      }
      pollfd wait{watch.get(), POLLIN, 0};
      const int64_t milliseconds = std::clamp<int64_t>(absl::ToInt64Milliseconds(left), 1, kRecheckMilliseconds);
      if (::poll(&wait, 1, static_cast<int>(milliseconds)) > 0) {
        std::array<char, 4096> events;
        while (::read(watch.get(), events.data(), events.size()) > 0) {
        }
      }
    }
  }

 private:
  absl::Status Prepare(const std::string& key) const {
    std::error_code error;
    std::filesystem::create_directories(directory_, error);
    if (error) {
      return absl::UnavailableError(
          absl::StrCat("rendezvous directory ", directory_, " cannot be made: ", error.message()));
    }
    return CheckKey(key);
  }
  std::string Path(const std::string& name) const { return absl::StrCat(directory_, "/", name); }

  const std::string directory_;
};

}  // namespace

std::unique_ptr<KeyValueStore> MakeFileStore(const std::string& directory) {
  return std::make_unique<FileStore>(directory);
}

}  // namespace ham::trainer
