#include "worker/agent/worker_id.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/random.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "proto/atomic_file.h"

namespace ham::agent {
namespace {

constexpr size_t kIdBytes = 16;
constexpr int64_t kMostIncarnations = int64_t{1} << 62;

absl::Status Failed(const std::string& what, const std::string& path) {
  return absl::UnavailableError(
      absl::StrCat("cannot ", what, " ", path, ": ", std::strerror(errno), "; give a writable --state-dir"));
}

bool IsWorkerId(const std::string& id) {
  return id.size() == 2 * kIdBytes && id.find_first_not_of("0123456789abcdef") == std::string::npos;
}

// Its line without white space around it; "" if there is no such file.
absl::StatusOr<std::string> ReadLine(const std::string& path) {
  std::error_code error;
  if (!std::filesystem::exists(path, error) && !error) return "";
  std::ifstream file(path);
  if (!file) return Failed("read", path);
  std::ostringstream text;
  text << file.rdbuf();
  std::string line = text.str();
  absl::StripAsciiWhitespace(&line);
  return line.empty() ? "(nothing)" : line;
}

absl::Status WriteLine(const std::string& path, const std::string& line) {
  const absl::Status status = WriteFileAtomically(path, line + "\n", 0600);
  if (status.ok()) return status;
  return absl::UnavailableError(absl::StrCat(status.message(), "; give a writable --state-dir"));
}

}  // namespace

std::string RandomId() {
  std::array<char, kIdBytes> bytes;
  if (::getrandom(bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size())) std::abort();
  return absl::BytesToHexString(std::string(bytes.data(), bytes.size()));
}

absl::StatusOr<std::unique_ptr<StateDirectory>> StateDirectory::Open(const std::string& given) {
  std::error_code error;
  const std::string path = std::filesystem::absolute(given, error).string();
  const bool made = std::filesystem::create_directories(path, error);
  if (error) {
    return absl::UnavailableError(
        absl::StrCat("cannot make ", path, ": ", error.message(), "; give a writable --state-dir"));
  }
  if (made) std::filesystem::permissions(path, std::filesystem::perms::owner_all, error);
  const std::string lock = path + "/lock";
  const int fd = ::open(lock.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0) return Failed("open", lock);
  std::unique_ptr<StateDirectory> directory(new StateDirectory(path, fd));
  if (::flock(fd, LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return Failed("lock", lock);
    return absl::FailedPreconditionError(
        absl::StrCat("another ham-worker uses ", path, ": stop it, or give this one another --state-dir"));
  }
  if (const absl::Status status = directory->ReadOrMakeId(); !status.ok()) return status;
  return directory;
}

StateDirectory::~StateDirectory() { ::close(lock_fd_); }

absl::Status StateDirectory::ReadOrMakeId() {
  const std::string path = path_ + "/worker_id";
  const absl::StatusOr<std::string> text = ReadLine(path);
  if (!text.ok()) return text.status();
  if (text->empty()) {
    worker_id_ = RandomId();
    return WriteLine(path, worker_id_);
  }
  worker_id_ = *text;
  if (IsWorkerId(worker_id_)) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrCat(path, " holds no worker id (32 hex digits): delete it, and this worker gets a new one"));
}

// Stored before anybody hears of it: no other process gets this number, whenever this one ends.
absl::StatusOr<int64_t> StateDirectory::CountIncarnation() {
  const std::string path = path_ + "/incarnation";
  const absl::StatusOr<std::string> text = ReadLine(path);
  if (!text.ok()) return text.status();
  int64_t number = 0;
  if (!text->empty() && (!absl::SimpleAtoi(*text, &number) || number < 1 || number >= kMostIncarnations)) {
    return absl::DataLossError(absl::StrCat(path, " holds \"", absl::CEscape(text->substr(0, 100)),
                                            "\", not how often this worker was started: delete it and ", path_,
                                            "/worker_id, and this worker gets a new id"));
  }
  ++number;
  const absl::Status status = WriteLine(path, absl::StrCat(number));
  return status.ok() ? absl::StatusOr<int64_t>(number) : status;
}

}  // namespace ham::agent
