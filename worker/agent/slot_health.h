// Whether a slot can be used, from what its GPU and the disk tell. Pure.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "ham/v1/cluster_service.pb.h"
#include "worker/agent/nvml.h"

namespace ham::agent {

// Of one GPU.
class GpuHealth {
 public:
  // With `shared`, what others do on it is no problem.
  GpuHealth(const ham::v1::Slot& slot, bool shared);

  // An error after which a GPU has to be reset; that stays until this agent ends. Errors that a program can cause by
  // itself, or that the GPU mends, are none. True if it is the first.
  bool NoteXid(uint64_t xid, absl::Time time);
  // After each look, in order of time; `now` is steady. `occupied`: ham has a rank in the slot. While it has, and for a
  // moment after it, what is in use is not taken for somebody else's. A look that failed otherwise than by NotFound
  // says nothing.
  std::optional<ham::v1::SlotProblem> Judge(const absl::StatusOr<GpuState>& state, bool occupied, absl::Duration now);

 private:
  ham::v1::SlotProblem Problem(ham::v1::SlotProblem::Kind kind, const std::string& what) const;
  // Somebody else's use, or "".
  std::string UseOf(const GpuState& state) const;

  const int slot_;
  const std::string name_;  // with its UUID
  const bool shared_;
  std::string error_;                                      // the first Xid
  absl::Duration free_since_ = -absl::InfiniteDuration();  // the last look at a rank of ham
  absl::Duration used_at_ = -absl::InfiniteDuration();     // the last look at somebody else's use
  bool used_ = true;                                       // in the last look; before the first nothing is known
  bool foreign_ = false;                                   // the problem lasts
  bool lost_ = false;
  bool needs_reset_ = false;
  bool defective_ = false;
  std::string use_;  // somebody else's, as it was seen last
};

// Of the disk with the agent's state directory.
class DiskHealth {
 public:
  explicit DiskHealth(std::string directory) : directory_(std::move(directory)) {}

  // The slot of the problem is not set.
  std::optional<ham::v1::SlotProblem> Judge(uint64_t free_bytes);

 private:
  const std::string directory_;
  bool full_ = false;
};

// The gravest problem of each slot that has any, by slot; that of the disk is one of all.
std::vector<ham::v1::SlotProblem> GravestProblems(const std::vector<ham::v1::Slot>& slots,
                                                  const std::vector<ham::v1::SlotProblem>& of_gpus,
                                                  const std::optional<ham::v1::SlotProblem>& of_disk);

}  // namespace ham::agent
