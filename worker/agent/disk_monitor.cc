#include "worker/agent/disk_monitor.h"

#include <sys/statvfs.h>

#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace ham::agent {
namespace {

constexpr absl::Duration kDiskEndTimeout = absl::Milliseconds(200);

}  // namespace

std::optional<uint64_t> FreeBytes(const std::string& directory) {
  struct statvfs disk {};
  if (::statvfs(directory.c_str(), &disk) != 0 || disk.f_blocks == 0) return std::nullopt;  // some have no limit
  return static_cast<uint64_t>(disk.f_bavail) * disk.f_frsize;
}

struct DiskMonitor::State {
  // True if there is nothing more to ask.
  bool Note(std::optional<uint64_t> bytes) {
    absl::MutexLock lock(&mutex);
    free_bytes = bytes;
    ended = mutex.AwaitWithTimeout(absl::Condition(&stopping), period);
    return ended;
  }

  std::string directory;
  absl::Duration period;
  absl::Mutex mutex;
  std::optional<uint64_t> free_bytes ABSL_GUARDED_BY(mutex);
  bool stopping ABSL_GUARDED_BY(mutex) = false;
  bool ended ABSL_GUARDED_BY(mutex) = false;
};

DiskMonitor::DiskMonitor(std::string directory, absl::Duration period) : state_(std::make_shared<State>()) {
  state_->directory = std::move(directory);
  state_->period = period;
  thread_ = std::thread([state = state_] {
    while (!state->Note(FreeBytes(state->directory))) {
    }
  });
}

DiskMonitor::~DiskMonitor() {
  bool ended = false;
  {
    absl::MutexLock lock(&state_->mutex);
    state_->stopping = true;
    ended = state_->mutex.AwaitWithTimeout(absl::Condition(&state_->ended), kDiskEndTimeout);
  }
  if (ended) {
    thread_.join();
  } else {
    thread_.detach();
  }
}

std::optional<uint64_t> DiskMonitor::free_bytes() const {
  absl::MutexLock lock(&state_->mutex);
  return state_->free_bytes;
}

}  // namespace ham::agent
