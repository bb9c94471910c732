#include "worker/agent/gpu_monitor.h"

#include <pwd.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "worker/agent/slot_health.h"

namespace ham::agent {
namespace {

using SteadyClock = std::chrono::steady_clock;
using SteadyTime = SteadyClock::time_point;

constexpr absl::Duration kEndTimeout = absl::Milliseconds(200);
constexpr absl::Duration kFirstLookTimeout =
    absl::Seconds(30);                             // drivers without persistence mode start each GPU first
constexpr std::chrono::milliseconds kXidWait(50);  // less than kEndTimeout, so that the thread ends in time

// Of a process; "" if this host cannot tell, as of one in another container.
std::string UserOf(int pid) {
  struct stat process {};
  if (::stat(absl::StrCat("/proc/", pid).c_str(), &process) != 0) return "";
  std::array<char, 4096> buffer{};
  passwd entry{};
  passwd* found = nullptr;
  if (::getpwuid_r(process.st_uid, &entry, buffer.data(), buffer.size(), &found) == 0 && found != nullptr) {
    return found->pw_name;
  }
  return absl::StrCat("user ", process.st_uid);
}

}  // namespace

struct GpuMonitor::State {
  struct Gpu {
    int32_t slot = 0;
    std::string uuid;
    GpuHealth health;
    std::set<uint64_t> xids = {};  // that were told
    bool answers = true;
  };

  // The thread's: until stopping.
  void Poll();
  // Of those that answer.
  std::vector<ham::v1::GpuReading> Read(Nvml* nvml);
  std::vector<ham::v1::SlotProblem> Judge(Nvml* nvml);
  // True if it says that a GPU cannot be used.
  bool NoteXid(const std::optional<GpuXid>& error);
  // Until the next look is due. True if there is none.
  bool Wait(Nvml* nvml, bool tells_xids);

  const SteadyTime start = SteadyClock::now();
  GpuMonitorOptions options;
  std::vector<Gpu> gpus;  // the thread's, once it runs
  absl::Mutex mutex;
  std::vector<ham::v1::GpuReading> newest ABSL_GUARDED_BY(mutex);
  std::vector<ham::v1::SlotProblem> problems ABSL_GUARDED_BY(mutex);
  std::set<int> occupied ABSL_GUARDED_BY(mutex);
  SteadyTime newest_time ABSL_GUARDED_BY(mutex);
  bool looked ABSL_GUARDED_BY(mutex) = false;  // or there is nothing to look at
  bool stopping ABSL_GUARDED_BY(mutex) = false;
  bool ended ABSL_GUARDED_BY(mutex) = false;
};

std::vector<ham::v1::GpuReading> GpuMonitor::State::Read(Nvml* nvml) {
  std::vector<ham::v1::GpuReading> readings;
  for (Gpu& gpu : gpus) {
    absl::StatusOr<ham::v1::GpuReading> reading = nvml->Read(gpu.uuid);
    if (std::exchange(gpu.answers, reading.ok()) != reading.ok()) {
      spdlog::warn("{}: {}", gpu.uuid, reading.ok() ? "answers again" : std::string(reading.status().message()));
    }
    if (!reading.ok()) continue;
    reading->set_slot(gpu.slot);
    readings.push_back(*std::move(reading));
  }
  return readings;
}

std::vector<ham::v1::SlotProblem> GpuMonitor::State::Judge(Nvml* nvml) {
  std::set<int> slots;
  {
    absl::MutexLock lock(&mutex);
    slots = occupied;
  }
  std::vector<ham::v1::SlotProblem> found;
  for (Gpu& gpu : gpus) {
    absl::StatusOr<GpuState> state = nvml->Look(gpu.uuid);
    const bool its_own = slots.count(gpu.slot) != 0;
    if (state.ok() && !its_own) {
      for (GpuProcess& process : state->processes) process.user = UserOf(process.pid);
    }
    auto problem = gpu.health.Judge(state, its_own, absl::FromChrono(SteadyClock::now() - start));
    if (problem) found.push_back(*std::move(problem));
  }
  return found;
}

bool GpuMonitor::State::NoteXid(const std::optional<GpuXid>& error) {
  bool news = false;
  for (Gpu& gpu : gpus) {
    if (!error || gpu.uuid != error->uuid) continue;
    news = gpu.health.NoteXid(error->xid, absl::Now());
    if (gpu.xids.insert(error->xid).second) spdlog::warn("{}: Xid {}, for the first time", gpu.uuid, error->xid);
  }
  return news;
}

bool GpuMonitor::State::Wait(Nvml* nvml, bool tells_xids) {
  const SteadyTime due = SteadyClock::now() + absl::ToChronoNanoseconds(options.period);
  for (bool news = false; !news && SteadyClock::now() < due;) {
    const SteadyTime until = tells_xids ? std::min<SteadyTime>(due, SteadyClock::now() + kXidWait) : due;
    const auto left = [until] { return absl::FromChrono(until - SteadyClock::now()); };
    std::optional<GpuXid> error;
    if (tells_xids) error = nvml->NextXid(left());
    news = NoteXid(error);
    absl::MutexLock lock(&mutex);  // a call that failed has not waited
    if (mutex.AwaitWithTimeout(absl::Condition(&stopping), error ? absl::ZeroDuration() : left())) return true;
  }
  return false;
}

void GpuMonitor::State::Poll() {
  const absl::StatusOr<std::unique_ptr<Nvml>> nvml = Nvml::Open(options.library);
  if (!nvml.ok()) spdlog::warn("there are no metrics of GPUs: {}", std::string(nvml.status().message()));
  const bool open = nvml.ok() && *nvml != nullptr;
  std::vector<std::string> uuids;
  for (const Gpu& gpu : gpus) uuids.push_back(gpu.uuid);
  const bool tells_xids = open && (*nvml)->WatchXids(uuids);
  for (bool done = !open; !done; done = Wait(nvml->get(), tells_xids)) {
    std::vector<ham::v1::GpuReading> readings = Read(nvml->get());
    std::vector<ham::v1::SlotProblem> found = Judge(nvml->get());
    absl::MutexLock lock(&mutex);
    newest = std::move(readings);
    problems = std::move(found);
    newest_time = SteadyClock::now();
    looked = true;
  }
}

GpuMonitor::GpuMonitor(const std::vector<ham::v1::Slot>& slots, GpuMonitorOptions options)
    : state_(std::make_shared<State>()) {
  state_->options = std::move(options);
  for (const ham::v1::Slot& slot : slots) {
    if (slot.device() != "cuda") continue;
    state_->gpus.push_back({slot.index(), slot.device_id(), GpuHealth(slot, state_->options.shared)});
  }
  if (state_->gpus.empty()) return;
  thread_ = std::thread([state = state_] { Run(state); });
  absl::MutexLock lock(&state_->mutex);
  state_->mutex.AwaitWithTimeout(absl::Condition(&state_->looked), kFirstLookTimeout);
}

GpuMonitor::~GpuMonitor() {
  if (!thread_.joinable()) return;
  bool ended = false;
  {
    absl::MutexLock lock(&state_->mutex);
    state_->stopping = true;
    ended = state_->mutex.AwaitWithTimeout(absl::Condition(&state_->ended), kEndTimeout);
  }
  if (ended) {
    thread_.join();
  } else {
    thread_.detach();
  }
}

std::vector<ham::v1::GpuReading> GpuMonitor::Newest() const {
  absl::MutexLock lock(&state_->mutex);
  const SteadyTime stale = state_->newest_time + absl::ToChronoNanoseconds(state_->options.stale_after);
  return SteadyClock::now() < stale ? state_->newest : std::vector<ham::v1::GpuReading>();
}

std::vector<ham::v1::SlotProblem> GpuMonitor::Problems() const {
  absl::MutexLock lock(&state_->mutex);
  return state_->problems;
}

void GpuMonitor::SetOccupied(std::set<int> slots) {
  absl::MutexLock lock(&state_->mutex);
  state_->occupied = std::move(slots);
}

void GpuMonitor::Run(const std::shared_ptr<State>& state) {
  state->Poll();
  absl::MutexLock lock(&state->mutex);
  state->looked = state->ended = true;
}

}  // namespace ham::agent
