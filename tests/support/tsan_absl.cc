// Tells ThreadSanitizer about Abseil's locks. Debian's libabsl_synchronization is built without it, so that each use
// of a Mutex would look like a race. The functions here stand before the library's (the program's symbols come
// first), say what happens and call the library's. Linked into every program of a build with HAM_SANITIZE=thread.
#include <dlfcn.h>
#include <sanitizer/tsan_interface.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"

namespace {

// The library's function of that mangled name, which is given from behind the namespace on.
template <class Function>
Function* Find(const char* name, bool is_const) {
  const std::string inner = ABSL_INTERNAL_INLINE_NAMESPACE_STR;
  const std::string symbol = (is_const ? "_ZNK4absl" : "_ZN4absl") + std::to_string(inner.size()) + inner + name;
  void* const found = ::dlsym(RTLD_NEXT, symbol.c_str());
  if (found == nullptr) {
    std::fprintf(stderr, "tsan_absl.cc: libabsl_synchronization has no %s: name it as this release does\n",
                 symbol.c_str());
    std::abort();
  }
  return reinterpret_cast<Function*>(found);
}

constexpr unsigned kWrite = 0;
constexpr unsigned kRead = __tsan_mutex_read_lock;
constexpr unsigned kTry = __tsan_mutex_try_lock;

// The library's functions call one another, which comes here, too: only the outermost call is told of.
thread_local int depth = 0;
class Inside {
 public:
  Inside() { ++depth; }
  ~Inside() { --depth; }
  Inside(const Inside&) = delete;
  Inside& operator=(const Inside&) = delete;
};

// Tells of a lock that `real` takes, maybe after waiting for something.
template <class Result, class Real>
Result LockAfter(unsigned flags, absl::Mutex* mutex, const Real& real) {
  if (depth > 0) return real();
  const Inside inside;
  __tsan_mutex_pre_lock(mutex, flags);
  if constexpr (std::is_void_v<Result>) {
    real();
    __tsan_mutex_post_lock(mutex, flags, 0);
  } else {
    const Result result = real();
    __tsan_mutex_post_lock(mutex, flags, 0);
    return result;
  }
}

bool TryLockBy(unsigned flags, absl::Mutex* mutex, bool (*real)(absl::Mutex*)) {
  if (depth > 0) return real(mutex);
  const Inside inside;
  __tsan_mutex_pre_lock(mutex, flags | kTry);
  const bool locked = real(mutex);
  __tsan_mutex_post_lock(mutex, flags | kTry | (locked ? 0U : __tsan_mutex_try_lock_failed), 0);
  return locked;
}

void UnlockBy(unsigned flags, absl::Mutex* mutex, void (*real)(absl::Mutex*)) {
  if (depth > 0) return real(mutex);
  const Inside inside;
  __tsan_mutex_pre_unlock(mutex, flags);
  real(mutex);
  __tsan_mutex_post_unlock(mutex, flags);
}

// Unlocks, waits, and locks again; conditions are evaluated in between, where ThreadSanitizer does not look.
// `object` is the mutex or a condition variable. Only writers wait in ham and gRPC.
template <class Result, class Object, class... Arguments>
Result Wait(absl::Mutex* mutex, Result (*real)(Object*, Arguments...), Object* object, Arguments... arguments) {
  if (depth > 0) return real(object, arguments...);
  __tsan_mutex_pre_unlock(mutex, kWrite);
  __tsan_mutex_post_unlock(mutex, kWrite);
  return LockAfter<Result>(kWrite, mutex, [&] { return real(object, arguments...); });
}

// Where a Notification keeps its flag, which is read without the lock.
void* FlagOf(const absl::Notification* notification) {
  return reinterpret_cast<char*>(const_cast<absl::Notification*>(notification)) + sizeof(absl::Mutex);
}

}  // namespace

#define HAM_REAL(type, name) static auto* const real = Find<type>(name, /*is_const=*/false)
#define HAM_REAL_CONST(type, name) static auto* const real = Find<type>(name, /*is_const=*/true)

namespace absl {
ABSL_NAMESPACE_BEGIN

Mutex::~Mutex() {
  HAM_REAL(void(Mutex*), "5MutexD1Ev");
  real(this);
  __tsan_mutex_destroy(this, 0);
}

void Mutex::Lock() {
  HAM_REAL(void(Mutex*), "5Mutex4LockEv");
  LockAfter<void>(kWrite, this, [this] { real(this); });
}

void Mutex::ReaderLock() {
  HAM_REAL(void(Mutex*), "5Mutex10ReaderLockEv");
  LockAfter<void>(kRead, this, [this] { real(this); });
}

bool Mutex::TryLock() {
  HAM_REAL(bool(Mutex*), "5Mutex7TryLockEv");
  return TryLockBy(kWrite, this, real);
}

bool Mutex::ReaderTryLock() {
  HAM_REAL(bool(Mutex*), "5Mutex13ReaderTryLockEv");
  return TryLockBy(kRead, this, real);
}

void Mutex::Unlock() {
  HAM_REAL(void(Mutex*), "5Mutex6UnlockEv");
  UnlockBy(kWrite, this, real);
}

void Mutex::ReaderUnlock() {
  HAM_REAL(void(Mutex*), "5Mutex12ReaderUnlockEv");
  UnlockBy(kRead, this, real);
}

void Mutex::LockWhen(const Condition& condition) {
  HAM_REAL(void(Mutex*, const Condition*), "5Mutex8LockWhenERKNS0_9ConditionE");
  LockAfter<void>(kWrite, this, [&] { real(this, &condition); });
}

bool Mutex::LockWhenWithTimeout(const Condition& condition, Duration timeout) {
  HAM_REAL(bool(Mutex*, const Condition*, Duration), "5Mutex19LockWhenWithTimeoutERKNS0_9ConditionENS0_8DurationE");
  return LockAfter<bool>(kWrite, this, [&] { return real(this, &condition, timeout); });
}

bool Mutex::LockWhenWithDeadline(const Condition& condition, Time deadline) {
  HAM_REAL(bool(Mutex*, const Condition*, Time), "5Mutex20LockWhenWithDeadlineERKNS0_9ConditionENS0_4TimeE");
  return LockAfter<bool>(kWrite, this, [&] { return real(this, &condition, deadline); });
}

void Mutex::Await(const Condition& condition) {
  HAM_REAL(void(Mutex*, const Condition*), "5Mutex5AwaitERKNS0_9ConditionE");
  Wait(this, real, this, &condition);
}

bool Mutex::AwaitWithTimeout(const Condition& condition, Duration timeout) {
  HAM_REAL(bool(Mutex*, const Condition*, Duration), "5Mutex16AwaitWithTimeoutERKNS0_9ConditionENS0_8DurationE");
  return Wait(this, real, this, &condition, timeout);
}

bool Mutex::AwaitWithDeadline(const Condition& condition, Time deadline) {
  HAM_REAL(bool(Mutex*, const Condition*, Time), "5Mutex17AwaitWithDeadlineERKNS0_9ConditionENS0_4TimeE");
  return Wait(this, real, this, &condition, deadline);
}

void CondVar::Wait(Mutex* mutex) {
  HAM_REAL(void(CondVar*, Mutex*), "7CondVar4WaitEPNS0_5MutexE");
  ::Wait(mutex, real, this, mutex);
}

bool CondVar::WaitWithTimeout(Mutex* mutex, Duration timeout) {
  HAM_REAL(bool(CondVar*, Mutex*, Duration), "7CondVar15WaitWithTimeoutEPNS0_5MutexENS0_8DurationE");
  return ::Wait(mutex, real, this, mutex, timeout);
}

bool CondVar::WaitWithDeadline(Mutex* mutex, Time deadline) {
  HAM_REAL(bool(CondVar*, Mutex*, Time), "7CondVar16WaitWithDeadlineEPNS0_5MutexENS0_4TimeE");
  return ::Wait(mutex, real, this, mutex, deadline);
}

void Notification::Notify() {
  HAM_REAL(void(Notification*), "12Notification6NotifyEv");
  __tsan_release(FlagOf(this));
  real(this);
}

void Notification::WaitForNotification() const {
  HAM_REAL_CONST(void(const Notification*), "12Notification19WaitForNotificationEv");
  real(this);
  __tsan_acquire(FlagOf(this));
}

bool Notification::WaitForNotificationWithTimeout(Duration timeout) const {
  HAM_REAL_CONST(bool(const Notification*, Duration), "12Notification30WaitForNotificationWithTimeoutENS0_8DurationE");
  const bool notified = real(this, timeout);
  if (notified) __tsan_acquire(FlagOf(this));
  return notified;
}

bool Notification::WaitForNotificationWithDeadline(Time deadline) const {
  HAM_REAL_CONST(bool(const Notification*, Time), "12Notification31WaitForNotificationWithDeadlineENS0_4TimeE");
  const bool notified = real(this, deadline);
  if (notified) __tsan_acquire(FlagOf(this));
  return notified;
}

ABSL_NAMESPACE_END
}  // namespace absl
