// Preloaded: the wall clock is off by HAM_CLOCK_OFFSET seconds, for this program only; its steady clock is not.
//
// Moments of the wall clock that the kernel is to wait for are shifted back, as Abseil waits by futexes with
// CLOCK_REALTIME. Libraries that shift clocks only turn such a wait into none, or into one of hours.
#include <dlfcn.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <sys/time.h>

#include <cstdarg>
#include <cstdlib>
#include <ctime>

namespace {

time_t Offset() {
  static const char* const text = std::getenv("HAM_CLOCK_OFFSET");
  static const time_t offset = text == nullptr ? 0 : std::strtol(text, nullptr, 10);
  return offset;
}

template <class Function>
Function* Real(Function*, const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

}  // namespace

extern "C" {

int clock_gettime(clockid_t clock, timespec* now) noexcept {
  static auto* const real = Real(&clock_gettime, "clock_gettime");
  const int result = real(clock, now);
  if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE) now->tv_sec += Offset();
  return result;
}

int gettimeofday(timeval* now, void* zone) noexcept {
  static auto* const real = Real(&gettimeofday, "gettimeofday");
  const int result = real(now, zone);
  now->tv_sec += Offset();
  return result;
}

time_t time(time_t* out) noexcept {
  timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (out != nullptr) *out = now.tv_sec;
  return now.tv_sec;
}

long syscall(long number, ...) noexcept {
  static auto* const real = Real(&syscall, "syscall");
  va_list list;
  va_start(list, number);
  long a[6];
  for (long& argument : a) argument = va_arg(list, long);
  va_end(list);
  timespec moved;
  if (number == SYS_futex && (a[1] & FUTEX_CLOCK_REALTIME) != 0 && a[3] != 0) {
    moved = *reinterpret_cast<const timespec*>(a[3]);
    moved.tv_sec -= Offset();
    a[3] = reinterpret_cast<long>(&moved);
  }
  return real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

}  // extern "C"
