#include "worker/agent/slot_health.h"

#include <algorithm>
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace ham::agent {
namespace {

using ham::v1::SlotProblem;

constexpr uint64_t kForeignBytes = uint64_t{1} << 30;     // a desktop or a monitoring program uses less
constexpr absl::Duration kOwnMemory = absl::Seconds(10);  // until that of a rank that has ended is back
constexpr absl::Duration kFreeAgain = absl::Seconds(10);  // without use by others: else short uses would come and go
constexpr size_t kMostNamed = 3;
constexpr uint64_t kLeastDisk = uint64_t{64} << 20, kEnoughDisk = uint64_t{96} << 20;

// Of a program (a bad address, a fault of its kernels, a time-out, an end that was asked for, a fault over NVLink), or
// mended by the GPU (a row remapped, errors corrected or contained, a word on its state).
bool CondemnsNoGpu(uint64_t xid) {
  for (const uint64_t one : {8, 13, 31, 43, 45, 63, 68, 92, 94, 109, 137, 154}) {
    if (xid == one) return true;
  }
  return false;
}

const char* NameOfXid(uint64_t xid) {
  static constexpr std::pair<uint64_t, const char*> kNames[] = {{48, "double-bit memory error"},
                                                                {62, "internal halt"},
                                                                {64, "memory row not remapped"},
                                                                {74, "NVLink error"},
                                                                {79, "fallen off the bus"},
                                                                {95, "uncontained memory error"},
                                                                {119, "its system processor does not answer"},
                                                                {120, "error of its system processor"}};
  for (const auto& [number, name] : kNames) {
    if (number == xid) return name;
  }
  return "see NVIDIA's list of Xid errors";
}

std::string Mebibytes(uint64_t bytes) { return absl::StrCat(bytes >> 20, " MiB"); }

std::string Describe(const GpuProcess& process) {
  std::string text = absl::StrCat("process ", process.pid, process.user.empty() ? "" : " of " + process.user);
  if (process.memory_bytes) absl::StrAppend(&text, " with ", Mebibytes(*process.memory_bytes));
  return text;
}

int Gravity(SlotProblem::Kind kind) {
  switch (kind) {
    case SlotProblem::GPU_LOST:
      return 4;
    case SlotProblem::GPU_ERROR:
      return 3;
    case SlotProblem::DISK_FULL:
      return 2;
    default:
      return 1;
  }
}

}  // namespace

GpuHealth::GpuHealth(const ham::v1::Slot& slot, bool shared)
    : slot_(slot.index()), name_(absl::StrCat(slot.device_name(), " (", slot.device_id(), ")")), shared_(shared) {}

bool GpuHealth::NoteXid(uint64_t xid, absl::Time time) {
  if (CondemnsNoGpu(xid) || !error_.empty()) return false;
  error_ = absl::StrCat("Xid ", xid, " (", NameOfXid(xid), ") at ",
                        absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", time, absl::UTCTimeZone()));
  return true;
}

std::optional<SlotProblem> GpuHealth::Judge(const absl::StatusOr<GpuState>& state, bool occupied, absl::Duration now) {
  if (state.ok() || absl::IsNotFound(state.status())) {
    lost_ = !state.ok();
    needs_reset_ = state.ok() && state->needs_reset;
    defective_ = state.ok() && state->defective;
    if (occupied) free_since_ = now;
    const bool judged = state.ok() && !occupied && now - free_since_ >= kOwnMemory;
    const std::string use = judged ? UseOf(*state) : "";
    if (!use.empty()) use_ = use, used_at_ = now;
    foreign_ = use.empty() ? foreign_ && !occupied && now - used_at_ < kFreeAgain : used_ || foreign_;
    used_ = !use.empty();
  }
  if (lost_) {
    return Problem(SlotProblem::GPU_LOST,
                   "the driver no longer finds it: restart the host, or take it out of service.");
  }
  if (!error_.empty()) {
    return Problem(SlotProblem::GPU_ERROR,
                   absl::StrCat(error_, ": stop ham-worker, reset the GPU or restart the host, start ham-worker."));
  }
  if (defective_) {
    return Problem(SlotProblem::GPU_ERROR, "rows of its memory could not be remapped: take it out of service.");
  }
  if (needs_reset_) {
    return Problem(SlotProblem::GPU_ERROR,
                   "rows of its memory are to be remapped: stop ham-worker, reset the GPU or "
                   "restart the host, start ham-worker.");
  }
  if (!foreign_) return std::nullopt;
  return Problem(SlotProblem::BUSY_FOREIGN, absl::StrCat(use_, ": end that, or give ham-worker --allow-shared-gpus."));
}

SlotProblem GpuHealth::Problem(SlotProblem::Kind kind, const std::string& what) const {
  SlotProblem problem;
  problem.set_slot(slot_);
  problem.set_kind(kind);
  problem.set_message(absl::StrCat(name_, ": ", what));
  return problem;
}

std::string GpuHealth::UseOf(const GpuState& state) const {
  if (shared_ || (state.processes.empty() && state.memory_used_bytes < kForeignBytes)) return "";
  std::vector<std::string> named;
  for (const GpuProcess& process : state.processes) {
    if (named.size() < kMostNamed) named.push_back(Describe(process));
  }
  if (state.processes.size() > named.size()) {
    named.push_back(absl::StrCat(state.processes.size() - named.size(), " more"));
  }
  const std::string memory = absl::StrCat(Mebibytes(state.memory_used_bytes), " of its memory");
  if (named.empty()) return absl::StrCat("somebody else uses ", memory);
  return absl::StrCat("others use it, and ", memory, ": ", absl::StrJoin(named, ", "));
}

std::optional<SlotProblem> DiskHealth::Judge(uint64_t free_bytes) {
  full_ = free_bytes < (full_ ? kEnoughDisk : kLeastDisk);
  if (!full_) return std::nullopt;
  SlotProblem problem;
  problem.set_kind(SlotProblem::DISK_FULL);
  problem.set_message(absl::StrCat(directory_, " has ", Mebibytes(free_bytes), " left, and ham-worker needs ",
                                   Mebibytes(kEnoughDisk), ": make room."));
  return problem;
}

std::vector<SlotProblem> GravestProblems(const std::vector<ham::v1::Slot>& slots,
                                         const std::vector<SlotProblem>& of_gpus,
                                         const std::optional<SlotProblem>& of_disk) {
  std::map<int, SlotProblem> gravest;
  const auto add = [&gravest](int slot, const SlotProblem& problem) {
    const auto [found, is_new] = gravest.try_emplace(slot, problem);
    if (!is_new && Gravity(problem.kind()) > Gravity(found->second.kind())) found->second = problem;
    found->second.set_slot(slot);
  };
  for (const SlotProblem& problem : of_gpus) add(problem.slot(), problem);
  for (const ham::v1::Slot& slot : slots) {
    if (of_disk) add(slot.index(), *of_disk);
  }
  std::vector<SlotProblem> problems;
  for (const auto& [slot, problem] : gravest) problems.push_back(problem);
  return problems;
}

}  // namespace ham::agent
