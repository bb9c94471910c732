#include "worker/agent/gpu_monitor.h"

#include <spdlog/spdlog.h>

#include <chrono>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace ham::agent {
namespace {

using SteadyTime = std::chrono::steady_clock::time_point;

constexpr absl::Duration kEndTimeout = absl::Milliseconds(200);

}  // namespace

struct GpuMonitor::State {
  struct Gpu {
    int32_t slot = 0;
    std::string uuid;
    bool answers = true;
  };

  // The thread's: until stopping.
  void Poll();
  // Of those that answer.
  std::vector<ham::v1::GpuReading> Read(Nvml* nvml);

  GpuMonitorOptions options;
  std::vector<Gpu> gpus;  // the thread's, once it runs
  absl::Mutex mutex;
  std::vector<ham::v1::GpuReading> newest ABSL_GUARDED_BY(mutex);
  SteadyTime newest_time ABSL_GUARDED_BY(mutex);
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

void GpuMonitor::State::Poll() {
  const absl::StatusOr<std::unique_ptr<Nvml>> nvml = Nvml::Open(options.library);
  if (!nvml.ok()) spdlog::warn("there are no metrics of GPUs: {}", std::string(nvml.status().message()));
  const bool open = nvml.ok() && *nvml != nullptr;
  for (bool done = !open; !done;) {
    std::vector<ham::v1::GpuReading> readings = Read(nvml->get());
    absl::MutexLock lock(&mutex);
    newest = std::move(readings);
    newest_time = std::chrono::steady_clock::now();
    done = mutex.AwaitWithTimeout(absl::Condition(&stopping), options.period);
  }
}

GpuMonitor::GpuMonitor(const std::vector<ham::v1::Slot>& slots, GpuMonitorOptions options)
    : state_(std::make_shared<State>()) {
  state_->options = std::move(options);
  for (const ham::v1::Slot& slot : slots) {
    if (slot.device() == "cuda") state_->gpus.push_back({slot.index(), slot.device_id()});
  }
  if (!state_->gpus.empty()) thread_ = std::thread([state = state_] { Run(state); });
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
  return std::chrono::steady_clock::now() < stale ? state_->newest : std::vector<ham::v1::GpuReading>();
}

void GpuMonitor::Run(const std::shared_ptr<State>& state) {
  state->Poll();
  absl::MutexLock lock(&state->mutex);
  state->ended = true;
}

}  // namespace ham::agent
