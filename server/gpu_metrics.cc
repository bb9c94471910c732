#include "server/gpu_metrics.h"

#include <set>
#include <string>
#include <utility>
#include <vector>

namespace ham::server {
namespace {

struct GpuFamilies {
  MetricFamily memory = Family("ham_gpu_memory_bytes", "Memory of a GPU.");
  MetricFamily used = Family("ham_gpu_memory_used_bytes", "Memory of a GPU in use, by whomever.");
  MetricFamily utilization = Family("ham_gpu_utilization_ratio", "Share of the time in which a kernel ran on a GPU.");
  MetricFamily power = Family("ham_gpu_power_watts", "Power that a GPU draws.");
  MetricFamily temperature = Family("ham_gpu_temperature_celsius", "Temperature of a GPU.");
  MetricFamily errors =
      Family("ham_gpu_ecc_errors_total", "Uncorrected memory errors since the driver was loaded.", MetricType::Counter);
  MetricFamily throttled = Family("ham_gpu_throttled", "1 while the clocks of a GPU are held down for this reason.");

  void Add(const std::string& worker, const ham::v1::Slot& slot, const ham::v1::GpuReading& gpu) {
    const MetricLabels labels = {{"worker", worker}, {"gpu", LabelText(slot.device_id())}};
    AddMetric(&memory, labels, static_cast<double>(slot.memory_bytes()));
    if (gpu.has_memory_used_bytes()) AddMetric(&used, labels, static_cast<double>(gpu.memory_used_bytes()));
    if (gpu.has_utilization()) AddMetric(&utilization, labels, gpu.utilization());
    if (gpu.has_power_watts()) AddMetric(&power, labels, gpu.power_watts());
    if (gpu.has_temperature_celsius()) AddMetric(&temperature, labels, gpu.temperature_celsius());
    if (gpu.has_ecc_errors()) AddMetric(&errors, labels, static_cast<double>(gpu.ecc_errors()));
    if (!gpu.has_throttle()) return;
    const auto add_reason = [&](const char* reason, bool holds) {
      AddMetric(&throttled, {labels[0], labels[1], {"reason", reason}}, holds ? 1 : 0);
    };
    add_reason("hardware_thermal", gpu.throttle().hardware_thermal());
    add_reason("software_thermal", gpu.throttle().software_thermal());
    add_reason("power_brake", gpu.throttle().power_brake());
    add_reason("power_cap", gpu.throttle().power_cap());
  }
};

void AddGpus(const WorkerView& worker, const std::vector<ham::v1::GpuReading>& readings, GpuFamilies* families) {
  std::set<std::string> seen;
  for (const ham::v1::GpuReading& reading : readings) {
    for (const ham::v1::Slot& slot : worker.slots) {
      if (slot.index() != reading.slot() || slot.device() != "cuda" || !seen.insert(LabelText(slot.device_id())).second)
        continue;
      families->Add(worker.row.name, slot, reading);
    }
  }
}

}  // namespace

void AddGpuFamilies(const ClusterSnapshot& snapshot, MetricFamilies* families) {
  GpuFamilies gpus;
  for (const WorkerView& worker : snapshot.workers) {
    const auto readings = snapshot.gpus.find(worker.row.worker_id);
    if (readings != snapshot.gpus.end()) AddGpus(worker, readings->second, &gpus);
  }
  for (MetricFamily* family :
       {&gpus.memory, &gpus.used, &gpus.utilization, &gpus.power, &gpus.temperature, &gpus.errors, &gpus.throttled}) {
    if (!family->metric.empty()) families->push_back(std::move(*family));
  }
}

}  // namespace ham::server
