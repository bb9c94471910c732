#include "worker/trainer/collective.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <cstring>

#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "worker/trainer/device.h"
#include "worker/trainer/stopwatch.h"

namespace ham::trainer {
namespace {

constexpr char kLostRank[] = "ham.lost_rank";  // payload of a status: its number as text

class LocalCollective final : public Collective {
 public:
  LocalCollective() : Collective({.timeout = absl::InfiniteDuration(), .patience = absl::InfiniteDuration()}) {}

 private:
  absl::Status DoAllReduceSum(float*, int64_t) override { return absl::OkStatus(); }
  absl::Status DoAllReduceSum(double*, int64_t) override { return absl::OkStatus(); }
  absl::Status DoAllReduceSumOnDevice(at::Tensor&) override { return absl::OkStatus(); }
  absl::Status DoAllGather(const void* in, size_t bytes, void* out) override {
    if (bytes > 0) std::memcpy(out, in, bytes);
    return absl::OkStatus();
  }
  absl::Status DoBarrier() override { return absl::OkStatus(); }
};

}  // namespace

absl::Status CheckGroup(const RankGroup& group) {
  if (group.world_size < 1 || group.rank < 0 || group.rank >= group.world_size) {
    return absl::FailedPreconditionError(absl::StrCat("rank ", group.rank, " of ", group.world_size,
                                                      ": a rank is in [0, world_size), and world_size at least 1"));
  }
  for (const absl::Duration timeout : {group.timeout, group.patience}) {
    if (timeout < absl::Milliseconds(1) || timeout > absl::Hours(24)) {
      return absl::FailedPreconditionError(
          absl::StrCat("collective timeout ", absl::FormatDuration(timeout), ": allowed are 1ms to 24h"));
    }
  }
  return absl::OkStatus();
}

absl::Status WithLostRank(absl::Status status, int rank) {
  status.SetPayload(kLostRank, absl::Cord(absl::StrCat(rank)));
  return status;
}

std::optional<int> LostRankOf(const absl::Status& status) {
  const absl::optional<absl::Cord> payload = status.GetPayload(kLostRank);
  int rank = 0;
  if (!payload || !absl::SimpleAtoi(std::string(*payload), &rank)) return std::nullopt;
  return rank;
}

absl::Status Collective::Run(const std::function<absl::Status()>& operation) {
  if (!first_error_.ok()) return first_error_;
  {
    absl::MutexLock lock(&mutex_);
    ++counts_.begun;
  }
  const Stopwatch watch;
  first_error_ = operation();
  absl::MutexLock lock(&mutex_);
  counts_.seconds += watch.Elapsed();
  if (first_error_.ok()) ++counts_.completed;
  return first_error_;
}

CollectiveCounts Collective::counts() const {
  absl::MutexLock lock(&mutex_);
  return counts_;
}

std::string Collective::Describe(const char* what) const {
  const int64_t number = counts().begun;
  return absl::StrCat(what, number > 0 ? absl::StrCat(" ", number) : "", " over ", world_size(), " ranks");
}

std::optional<int> Collective::OnlyPeer() const { return world_size() == 2 ? std::optional(1 - rank()) : std::nullopt; }

absl::Status Collective::AllReduceSum(double* data, int64_t count) {
  return Run([&] {
    if (count < 0) return absl::InternalError(absl::StrCat("count ", count, " is negative"));
    return DoAllReduceSum(data, count);
  });
}

absl::Status Collective::AllReduceSum(at::Tensor& flat) {
  return Run([&]() -> absl::Status {
    if (!flat.defined() || !flat.is_contiguous()) {
      return absl::InternalError("only a contiguous tensor can be summed over ranks");
    }
    if (flat.scalar_type() != at::kFloat && flat.scalar_type() != at::kDouble) {
      return absl::InternalError(absl::StrCat("only float32 and float64 tensors are summed over ranks, not ",
                                              c10::toString(flat.scalar_type())));
    }
    return flat.is_cpu() ? SumOnHost(flat) : DoAllReduceSumOnDevice(flat);
  });
}

absl::Status Collective::SumOnHost(at::Tensor& flat) {
  if (flat.scalar_type() == at::kFloat) return DoAllReduceSum(flat.mutable_data_ptr<float>(), flat.numel());
  return DoAllReduceSum(flat.mutable_data_ptr<double>(), flat.numel());
}

absl::Status Collective::DoAllReduceSumOnDevice(at::Tensor& flat) {
  at::Tensor on_host = ToHost(flat);
  absl::Status status = SumOnHost(on_host);
  if (status.ok()) flat.copy_(ToDevice(on_host, flat.device()), /*non_blocking=*/true);
  return status;
}

absl::Status Collective::AllGather(const void* in, size_t bytes, void* out) {
  return Run([&] { return DoAllGather(in, bytes, out); });
}

absl::Status Collective::Barrier() {
  return Run([&] { return DoBarrier(); });
}

std::unique_ptr<Collective> MakeLocalCollective() { return std::make_unique<LocalCollective>(); }

}  // namespace ham::trainer
