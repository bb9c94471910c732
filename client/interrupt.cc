#include "client/interrupt.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <utility>

namespace ham::client {
namespace {

constexpr uint64_t kSignalled = 1;
constexpr uint64_t kOver = 1 << 20;

std::atomic<int> signal_event{-1};

void OnSignal(int) {
  const int error = errno;
  // Nothing can be done here if it fails; the second signal ends the program.
  if (::write(signal_event.load(), &kSignalled, sizeof kSignalled) < 0) errno = error;
  errno = error;
}

// A signal that was ignored from the start stays so: a shell starts background jobs with SIGINT ignored.
void SetAction(int signal, void (*handler)(int)) {
  struct sigaction old {};
  if (::sigaction(signal, nullptr, &old) != 0 || old.sa_handler == SIG_IGN) return;
  struct sigaction action {};
  action.sa_handler = handler;
  action.sa_flags = static_cast<int>(SA_RESTART | SA_RESETHAND);
  ::sigaction(signal, &action, nullptr);
}

}  // namespace

Interrupt::Interrupt(std::function<void()> interrupted) : event_(::eventfd(0, EFD_CLOEXEC)) {
  if (event_ < 0) std::abort();
  signal_event = event_;
  thread_ = std::thread([event = event_, interrupted = std::move(interrupted)] {
    uint64_t value = 0;
    while (::read(event, &value, sizeof value) == sizeof value && value < kOver) interrupted();
  });
  for (const int signal : {SIGINT, SIGTERM}) SetAction(signal, OnSignal);
}

Interrupt::~Interrupt() {
  for (const int signal : {SIGINT, SIGTERM}) SetAction(signal, SIG_DFL);
  if (::write(event_, &kOver, sizeof kOver) != sizeof kOver) std::abort();
  thread_.join();
  ::close(event_);
}

}  // namespace ham::client
