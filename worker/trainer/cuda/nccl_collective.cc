#include "worker/trainer/cuda/nccl_collective.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include <map>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/synchronization/notification.h"
#include "worker/trainer/rank_store.h"

namespace ham::trainer {
namespace {

// Most calls end within the spin; a wait for a slow rank must not take a core from it.
constexpr absl::Duration kSpin = absl::Microseconds(100);
constexpr absl::Duration kPause = absl::Microseconds(50);

// Makes a call that may hang, on a thread of its own. One that does not end within `limit` is left behind, with a
// reference to what it uses.
void CallAside(const std::shared_ptr<NcclCalls>& calls, void (NcclCalls::*call)(), absl::Duration limit) {
  auto over = std::make_shared<absl::Notification>();
  std::thread thread([calls, call, over] {
    (calls.get()->*call)();
    over->Notify();
  });
  if (over->WaitForNotificationWithTimeout(limit)) {
    thread.join();
  } else {
    thread.detach();
  }
}

class NcclCollective final : public Collective {
 public:
  NcclCollective(const RankGroup& group, c10::Device device, std::shared_ptr<NcclCalls> calls, const NcclTimes& times)
      : Collective(group), device_(device), calls_(std::move(calls)), times_(times) {}

  ~NcclCollective() override {
    if (!open_) return;
    // A rank that has sent its part may be done while another still reads it.
    if (Complete("close", times_.end_limit, [this] { return calls_->Finalize(); }).ok()) {
      CallAside(calls_, &NcclCalls::Destroy, times_.end_limit);
    }
  }

  absl::Status Connect(const std::string& unique_id) {
    open_ = true;
    return Complete("connect", patience(), [&] { return calls_->Connect(unique_id, rank(), world_size()); });
  }

 private:
  absl::Status DoAllReduceSum(float* data, int64_t count) override {
    at::Tensor host = at::from_blob(data, {count}, at::kFloat);
    return SumHost(host);
  }
  absl::Status DoAllReduceSum(double* data, int64_t count) override {
    at::Tensor host = at::from_blob(data, {count}, at::kDouble);
    return SumHost(host);
  }

  absl::Status SumHost(at::Tensor& host) {
    at::Tensor staged = host.to(device_);
    absl::Status status = DoAllReduceSumOnDevice(staged);
    if (status.ok()) host.copy_(staged);
    return status;
  }

  absl::Status DoAllReduceSumOnDevice(at::Tensor& flat) override {
    if (flat.numel() == 0) return absl::OkStatus();
    return Complete("sum", timeout(), [&] {
      return flat.scalar_type() == at::kFloat ? calls_->SumFloats(flat.mutable_data_ptr<float>(), flat.numel())
                                              : calls_->SumDoubles(flat.mutable_data_ptr<double>(), flat.numel());
    });
  }

  absl::Status DoAllGather(const void* in, size_t bytes, void* out) override {
    if (bytes == 0) return absl::OkStatus();
    const int64_t part = static_cast<int64_t>(bytes);
    at::Tensor all = at::empty({world_size() * part}, at::TensorOptions(at::kByte).device(device_));
    // Only read.
    all.narrow(0, rank() * part, part).copy_(at::from_blob(const_cast<void*>(in), {part}, at::kByte));
    absl::Status status =
        Complete("all-gather", timeout(), [&] { return calls_->Gather(all.mutable_data_ptr(), bytes); });
    if (status.ok()) at::from_blob(out, {all.numel()}, at::kByte).copy_(all);
    return status;
  }

  absl::Status DoBarrier() override {
    at::Tensor token = at::empty({1}, at::TensorOptions(at::kFloat).device(device_)).zero_();
    return Complete("barrier", patience(), [&] { return calls_->SumFloats(token.mutable_data_ptr<float>(), 1); });
  }

  // Starts something and waits until it is done; ends the group if that fails.
  absl::Status Complete(const char* what, absl::Duration limit, const std::function<absl::Status()>& start) {
    const absl::Time deadline = times_.now() + limit;
    absl::Status status = start();
    if (status.ok()) status = Await([this] { return calls_->Idle(); }, deadline);
    if (status.ok()) status = calls_->Mark();
    if (status.ok()) {
      status = Await(
          [this]() -> absl::StatusOr<bool> {
            absl::StatusOr<bool> idle = calls_->Idle();
            return idle.ok() && *idle ? calls_->Reached() : idle;
          },
          deadline);
    }
    if (status.ok()) return status;
    open_ = false;
    CallAside(calls_, &NcclCalls::Abort, times_.end_limit);
    const std::string subject = absl::StrCat(Describe(what), " by NCCL: ");
    const std::optional<int> peer = OnlyPeer();
    if (!absl::IsDeadlineExceeded(status)) {
      absl::Status lost(status.code(), absl::StrCat(subject, status.message()));
      return peer && absl::IsUnavailable(lost) ? WithLostRank(std::move(lost), *peer) : lost;
    }
    return absl::DeadlineExceededError(absl::StrCat(subject, "not done after ", absl::FormatDuration(limit), "; ",
                                                    peer ? absl::StrCat("rank ", *peer) : "a rank",
                                                    " hangs, is gone or cannot be reached"));
  }

  absl::Status Await(const std::function<absl::StatusOr<bool>()>& done, absl::Time deadline) {
    const absl::Time begin = times_.now();
    while (true) {
      const absl::StatusOr<bool> answer = done();
      if (!answer.ok()) return answer.status();
      if (*answer) return absl::OkStatus();
      const absl::Time now = times_.now();
      if (now >= deadline) return absl::DeadlineExceededError("");
      if (now >= begin + kSpin) times_.sleep(kPause);
    }
  }

  const c10::Device device_;
  const std::shared_ptr<NcclCalls> calls_;
  const NcclTimes times_;
  bool open_ = false;  // there is a communicator, and no call on it has failed
};

// All ranks see the same, and so come to the same verdict.
absl::Status CheckPeers(const RankGroup& group, NcclCalls& calls, RankStore& store) {
  const auto key = [](int rank) { return absl::StrCat("nccl-rank-", rank); };
  if (absl::Status set = store.Set(key(group.rank), absl::StrCat(calls.Version(), " ", calls.DeviceUuid()));
      !set.ok()) {
    return set;
  }
  std::string version;
  std::map<std::string, int> rank_of;  // by UUID
  for (int rank = 0; rank < group.world_size; ++rank) {
    const absl::StatusOr<std::string> text = store.Get(key(rank), absl::StrCat(rank));
    if (!text.ok()) return text.status();
    const std::pair<std::string, std::string> peer = absl::StrSplit(*text, absl::MaxSplits(' ', 1));
    if (rank == 0) version = peer.first;
    if (peer.first != version) {
      return absl::FailedPreconditionError(absl::StrCat("rank ", rank, " has NCCL ", peer.first, ", rank 0 has ",
                                                        version,
                                                        ": ranks of one job need the same; install ham-trainer-cuda "
                                                        "and its libraries from one build on all workers"));
    }
    if (const auto [other, fresh] = rank_of.emplace(peer.second, rank); !fresh) {
      return absl::AlreadyExistsError(absl::StrCat("ranks ", other->second, " and ", rank, " are both on ", peer.second,
                                                   ": NCCL needs a GPU a rank"));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> ShareUniqueId(const RankGroup& group, NcclCalls& calls, RankStore& store) {
  if (group.rank == 0) {
    const absl::StatusOr<std::string> id = calls.MakeUniqueId();
    if (!id.ok()) return id.status();
    if (absl::Status set = store.Set("nccl-id", *id); !set.ok()) return set;
  }
  return store.Get("nccl-id", "0");
}

}  // namespace

absl::StatusOr<std::unique_ptr<Collective>> ConnectNccl(const RankGroup& group, c10::Device device,
                                                        std::shared_ptr<NcclCalls> calls, KeyValueStore& store,
                                                        const NcclTimes& times) {
  if (absl::Status status = CheckGroup(group); !status.ok()) return status;
  RankStore ranks(store, group.patience);
  if (absl::Status status = CheckPeers(group, *calls, ranks); !status.ok()) return status;
  const absl::StatusOr<std::string> id = ShareUniqueId(group, *calls, ranks);
  if (!id.ok()) return id.status();
  auto collective = std::make_unique<NcclCollective>(group, device, std::move(calls), times);
  if (absl::Status status = collective->Connect(*id); !status.ok()) return status;
  return collective;
}

}  // namespace ham::trainer
