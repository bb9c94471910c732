#include "proto/log_writer.h"

#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace ham {
namespace {

constexpr absl::Duration kEndTimeout = absl::Seconds(1);

// False when nobody will ever read it. What finds no room on a disk is left out.
bool WriteAll(int fd, const std::string& text) {
  size_t done = 0;
  while (done < text.size()) {
    const ssize_t written = ::write(fd, text.data() + done, text.size() - done);
    if (written > 0) done += static_cast<size_t>(written);
    if (written >= 0 || errno == EINTR) continue;
    if (errno == EPIPE || errno == EBADF) return false;
    if (errno != EAGAIN) return true;
    pollfd room = {fd, POLLOUT, 0};  // somebody else who has it made it so
    ::poll(&room, 1, -1);
  }
  return true;
}

}  // namespace

struct LogWriter::State {
  State(int descriptor, size_t most) : fd(descriptor), most_bytes(most) {}

  bool Idle() const ABSL_SHARED_LOCKS_REQUIRED(mutex) { return (waiting.empty() && !writing) || ended; }
  bool Due() const ABSL_SHARED_LOCKS_REQUIRED(mutex) { return stopping || !waiting.empty(); }

  // All that waits, once there is something; empty at the end. What was taken before is written.
  std::string Take() {
    absl::MutexLock lock(&mutex);
    writing = false;
    mutex.Await(absl::Condition(this, &State::Due));
    writing = !waiting.empty();
    return std::exchange(waiting, {});
  }

  void Run() {
    for (std::string text = Take(); !text.empty() && WriteAll(fd, text);) text = Take();
    absl::MutexLock lock(&mutex);
    ended = true;
  }

  const int fd;
  const size_t most_bytes;
  absl::Mutex mutex;
  std::string waiting ABSL_GUARDED_BY(mutex);
  bool writing ABSL_GUARDED_BY(mutex) = false;
  bool stopping ABSL_GUARDED_BY(mutex) = false;
  bool ended ABSL_GUARDED_BY(mutex) = false;  // the thread touches nothing any more
};

LogWriter::LogWriter(int fd, size_t most_bytes) : state_(std::make_shared<State>(fd, most_bytes)) {
  // A thread has its maker's mask: this one must not take signals that the program blocks later, to wait for them.
  sigset_t all, before;
  sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  thread_ = std::thread([state = state_] { state->Run(); });
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

LogWriter::~LogWriter() {
  bool idle = false;
  {
    absl::MutexLock lock(&state_->mutex);
    state_->stopping = true;
    idle = state_->mutex.AwaitWithTimeout(absl::Condition(state_.get(), &State::Idle), kEndTimeout);
  }
  if (idle) {
    thread_.join();
  } else {
    thread_.detach();
  }
}

bool LogWriter::Write(const std::string& text) {
  absl::MutexLock lock(&state_->mutex);
  if (state_->ended || state_->waiting.size() + text.size() > state_->most_bytes) return false;
  state_->waiting += text;
  return true;
}

void LogWriter::Flush(absl::Duration timeout) {
  absl::MutexLock lock(&state_->mutex);
  state_->mutex.AwaitWithTimeout(absl::Condition(state_.get(), &State::Idle), timeout);
}

}  // namespace ham
