// What stands around NCCL: this test plays NCCL and the GPU.
#include "worker/trainer/cuda/nccl_collective.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "tests/support/run_ranks.h"

namespace ham::trainer {
namespace {

using ham::testing::MemoryStore;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

const c10::Device kDevice(c10::kCPU);

// What ranks in threads hand in, call by call.
class Wires {
 public:
  explicit Wires(int world_size) : world_size_(static_cast<size_t>(world_size)) {}

  void Give(size_t call, int rank, std::string bytes) {
    const std::lock_guard<std::mutex> lock(mutex_);
    calls_[call][rank] = std::move(bytes);
  }
  // Of all ranks, by rank; nothing while one is missing.
  std::vector<std::string> Take(size_t call) {
    const std::lock_guard<std::mutex> lock(mutex_);
    std::vector<std::string> all;
    for (const auto& [rank, bytes] : calls_[call]) all.push_back(bytes);
    return all.size() == world_size_ ? all : std::vector<std::string>();
  }

 private:
  const size_t world_size_;
  std::mutex mutex_;
  std::map<size_t, std::map<int, std::string>> calls_;
};

// A communicator that works.
class WorkingNccl final : public NcclCalls {
 public:
  WorkingNccl(int rank, Wires* wires) : rank_(rank), wires_(wires) {}

  std::string Version() override { return "2.28.9"; }
  std::string DeviceUuid() override { return absl::StrCat("GPU-", rank_); }
  absl::StatusOr<std::string> MakeUniqueId() override { return "the id"; }
  absl::Status Connect(const std::string& unique_id, int rank, int) override {
    EXPECT_EQ(unique_id, "the id");
    EXPECT_EQ(rank, rank_);
    return absl::OkStatus();
  }
  absl::StatusOr<bool> Idle() override { return true; }
  absl::Status SumFloats(float* data, int64_t count) override { return Sum(data, count); }
  absl::Status SumDoubles(double* data, int64_t count) override { return Sum(data, count); }
  absl::Status Gather(void* all, size_t bytes) override {
    char* out = static_cast<char*>(all);
    wires_->Give(call_, rank_, std::string(out + static_cast<size_t>(rank_) * bytes, bytes));
    finish_ = [out](const std::vector<std::string>& parts) {
      for (size_t r = 0; r < parts.size(); ++r)
        std::memcpy(out + r * parts[r].size(), parts[r].data(), parts[r].size());
    };
    return absl::OkStatus();
  }
  absl::Status Mark() override { return absl::OkStatus(); }
  absl::StatusOr<bool> Reached() override {
    if (finish_ == nullptr) return true;
    const std::vector<std::string> all = wires_->Take(call_);
    if (all.empty()) return false;
    ++call_;
    std::exchange(finish_, nullptr)(all);
    return true;
  }
  absl::Status Finalize() override { return absl::OkStatus(); }
  void Destroy() override {}
  void Abort() override { ADD_FAILURE() << "aborted"; }

 private:
  template <typename T>
  absl::Status Sum(T* data, int64_t count) {
    const size_t bytes = sizeof(T) * static_cast<size_t>(count);
    wires_->Give(call_, rank_, std::string(reinterpret_cast<const char*>(data), bytes));
    finish_ = [data, count](const std::vector<std::string>& parts) {
      std::fill(data, data + count, T{0});
      for (const std::string& part : parts) {
        for (int64_t i = 0; i < count; ++i) {
          T value;
          std::memcpy(&value, part.data() + sizeof(T) * static_cast<size_t>(i), sizeof(T));
          data[i] += value;
        }
      }
    };
    return absl::OkStatus();
  }

  const int rank_;
  Wires* const wires_;
  size_t call_ = 0;
  std::function<void(const std::vector<std::string>&)> finish_;
};

class NcclRanksTest : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(WorldSizes, NcclRanksTest, ::testing::Values(1, 3));

TEST_P(NcclRanksTest, SumGatherAndMeet) {
  const int world_size = GetParam();
  Wires wires(world_size);
  MemoryStore store;
  std::vector<std::thread> threads;
  for (int rank = 0; rank < world_size; ++rank) {
    threads.emplace_back([&, rank] {
      auto ranks = ConnectNccl({.rank = rank, .world_size = world_size}, kDevice,
                               std::make_shared<WorkingNccl>(rank, &wires), store);
      ASSERT_TRUE(ranks.ok()) << ranks.status();
      const double sum_of_ranks = world_size * (world_size - 1) / 2.0;
      std::vector<double> doubles = {1.5, rank + 0.0};
      EXPECT_TRUE((*ranks)->AllReduceSum(doubles.data(), 2).ok());
      EXPECT_THAT(doubles, ElementsAre(1.5 * world_size, sum_of_ranks));
      for (const at::ScalarType type : {at::kFloat, at::kDouble}) {
        at::Tensor flat = at::full({5}, rank, type);
        EXPECT_TRUE((*ranks)->AllReduceSum(flat).ok());
        EXPECT_TRUE(at::equal(flat, at::full({5}, sum_of_ranks, type)));
      }
      const std::string mine = absl::StrCat("rank", rank);
      std::string all(mine.size() * static_cast<size_t>(world_size), '.');
      EXPECT_TRUE((*ranks)->AllGather(mine.data(), mine.size(), all.data()).ok());
      for (int r = 0; r < world_size; ++r)
        EXPECT_EQ(all.substr(static_cast<size_t>(r) * 5, 5), absl::StrCat("rank", r));
      EXPECT_TRUE((*ranks)->AllGather(nullptr, 0, nullptr).ok());
      EXPECT_TRUE((*ranks)->AllReduceSum(doubles.data(), 0).ok());
      EXPECT_TRUE((*ranks)->Barrier().ok());
      EXPECT_EQ((*ranks)->sequence(), 7);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

// What a communicator is told to answer, and what was asked of it.
struct Script {
  std::function<absl::StatusOr<bool>()> idle = [] { return true; };
  std::function<absl::StatusOr<bool>()> reached = [] { return true; };
  absl::Status start;  // of a sum
  absl::StatusOr<std::string> id = std::string("id");
  std::string uuid = "GPU-0";
  absl::Notification* abort_waits_for = nullptr;
  absl::Notification abort_over;
  int connects = 0, finalizes = 0, destroys = 0, aborts = 0, marks = 0;
};

class ScriptedNccl final : public NcclCalls {
 public:
  explicit ScriptedNccl(Script* script) : script_(script) {}

  std::string Version() override { return "2.28.9"; }
  std::string DeviceUuid() override { return script_->uuid; }
  absl::StatusOr<std::string> MakeUniqueId() override { return script_->id; }
  absl::Status Connect(const std::string&, int, int) override {
    ++script_->connects;
    return absl::OkStatus();
  }
  absl::StatusOr<bool> Idle() override { return script_->idle(); }
  absl::Status SumFloats(float*, int64_t) override { return script_->start; }
  absl::Status SumDoubles(double*, int64_t) override { return script_->start; }
  absl::Status Gather(void*, size_t) override { return script_->start; }
  absl::Status Mark() override {
    ++script_->marks;
    return absl::OkStatus();
  }
  absl::StatusOr<bool> Reached() override { return script_->reached(); }
  absl::Status Finalize() override {
    ++script_->finalizes;
    return absl::OkStatus();
  }
  void Destroy() override { ++script_->destroys; }
  void Abort() override {
    ++script_->aborts;
    if (script_->abort_waits_for != nullptr) script_->abort_waits_for->WaitForNotification();
    script_->abort_over.Notify();
  }

 private:
  Script* const script_;
};

// Rank 0 of 2; what rank 1 leaves in the store, the test writes.
class NcclFailureTest : public ::testing::Test {
 protected:
  NcclFailureTest() {
    times_.now = [this] { return now_ += absl::Microseconds(1); };
    times_.sleep = [this](absl::Duration pause) {
      EXPECT_GE(pause, absl::Microseconds(10));
      now_ += pause;
    };
  }
  absl::StatusOr<std::unique_ptr<Collective>> Connect(const std::string& peer = "2.28.9 GPU-1") {
    if (!peer.empty()) store_.Set("nccl-rank-1", peer).IgnoreError();
    return ConnectNccl(group_, kDevice, std::make_shared<ScriptedNccl>(&script_), store_, times_);
  }
  // Fails the test where it cannot.
  std::unique_ptr<Collective> Connected() {
    auto ranks = Connect();
    EXPECT_TRUE(ranks.ok()) << ranks.status();
    return ranks.ok() ? *std::move(ranks) : nullptr;
  }
  absl::Status Sum(Collective& ranks) {
    double value = 1;
    return ranks.AllReduceSum(&value, 1);
  }

  RankGroup group_{.rank = 0, .world_size = 2, .timeout = absl::Milliseconds(300), .patience = absl::Seconds(1)};
  absl::Time now_ = absl::UnixEpoch();
  NcclTimes times_;
  MemoryStore store_;
  Script script_;
};

TEST_F(NcclFailureTest, RanksThatDoNotConnectAreGivenUp) {
  script_.idle = [] { return false; };
  const absl::Time begin = now_;
  const absl::Status status = Connect().status();
  EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("connect over 2 ranks by NCCL: not done after 1s"));
  EXPECT_NEAR(absl::ToDoubleSeconds(now_ - begin), 1, 0.01);
  EXPECT_EQ(script_.aborts, 1);
  EXPECT_EQ(script_.marks, 0) << "nothing may be asked of the stream while NCCL is at work";
}

TEST_F(NcclFailureTest, AnErrorAmidACallEndsTheGroup) {
  const auto ranks = Connected();
  ASSERT_NE(ranks, nullptr);
  int polls = 0;
  script_.reached = [&]() -> absl::StatusOr<bool> { return false; };
  script_.idle = [&]() -> absl::StatusOr<bool> {
    if (++polls < 300) return true;
    return absl::UnavailableError("remote process exited");
  };
  const absl::Status status = Sum(*ranks);
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_EQ(status.message(), "sum 1 over 2 ranks by NCCL: remote process exited");
  EXPECT_EQ(script_.aborts, 1);
  EXPECT_EQ(polls, 300);
  EXPECT_EQ(ranks->Barrier(), status);
  EXPECT_EQ(polls, 300) << "the group is used no more";
}

class SilentGpuTest : public NcclFailureTest, public ::testing::WithParamInterface<bool> {};
INSTANTIATE_TEST_SUITE_P(Calls, SilentGpuTest, ::testing::Bool(),
                         [](const auto& tested) { return tested.param ? "Barrier" : "Sum"; });

TEST_P(SilentGpuTest, IsWaitedForAsLongAsTheCallMay) {
  const bool barrier = GetParam();
  const auto ranks = Connected();
  ASSERT_NE(ranks, nullptr);
  script_.reached = [] { return false; };
  const absl::Time begin = now_;
  const absl::Status status = barrier ? ranks->Barrier() : Sum(*ranks);
  EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status;
  EXPECT_NEAR(absl::ToDoubleSeconds(now_ - begin), barrier ? 1 : 0.3, 0.01);
  EXPECT_THAT(std::string(status.message()), HasSubstr(barrier ? "barrier 1 over 2" : "sum 1 over 2"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("; rank 1 hangs, is gone or cannot be reached"));
  EXPECT_EQ(script_.aborts, 1);
}

TEST_F(NcclFailureTest, ACallThatIsRefusedFailsAtOnce) {
  const auto ranks = Connected();
  ASSERT_NE(ranks, nullptr);
  script_.start = absl::InternalError("invalid usage");
  const absl::Status status = Sum(*ranks);
  EXPECT_TRUE(absl::IsInternal(status)) << status;
  EXPECT_EQ(script_.aborts, 1);
}

TEST_F(NcclFailureTest, AnAbortThatHangsHoldsUpNothing) {
  absl::Notification release;
  script_.abort_waits_for = &release;
  times_.end_limit = absl::Milliseconds(10);
  {
    const auto ranks = Connected();
    ASSERT_NE(ranks, nullptr);
    script_.start = absl::UnavailableError("gone");
    EXPECT_TRUE(absl::IsUnavailable(Sum(*ranks)));
  }
  EXPECT_EQ(script_.finalizes, 0);
  release.Notify();
  script_.abort_over.WaitForNotification();
}

TEST_F(NcclFailureTest, EndsInOrderWhereNothingFailed) {
  ASSERT_NE(Connected(), nullptr);
  EXPECT_EQ(script_.finalizes, 1);
  EXPECT_EQ(script_.destroys, 1);
  EXPECT_EQ(script_.aborts, 0);
}

TEST_F(NcclFailureTest, EndsAllTheSameWhenPeersDoNotJoinTheEnd) {
  times_.end_limit = absl::Milliseconds(500);
  auto ranks = Connected();
  ASSERT_NE(ranks, nullptr);
  script_.idle = [] { return false; };
  const absl::Time begin = now_;
  ranks = nullptr;
  EXPECT_NEAR(absl::ToDoubleSeconds(now_ - begin), 0.5, 0.01);
  EXPECT_EQ(script_.destroys, 0);
  EXPECT_EQ(script_.aborts, 1);
}

TEST_F(NcclFailureTest, AnotherVersionIsNamedWithItsRank) {
  const absl::Status status = Connect("2.27.3 GPU-1").status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("rank 1 has NCCL 2.27.3, rank 0 has 2.28.9"));
  EXPECT_EQ(script_.connects, 0);
}

TEST_F(NcclFailureTest, TwoRanksOnOneGpuAreNamed) {
  const absl::Status status = Connect("2.28.9 GPU-0").status();
  EXPECT_TRUE(absl::IsAlreadyExists(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("ranks 0 and 1 are both on GPU-0"));
  EXPECT_EQ(script_.connects, 0);
}

TEST_F(NcclFailureTest, ARankThatDoesNotComeUpIsNamed) {
  group_.patience = absl::Milliseconds(20);
  const absl::Status status = Connect("").status();
  EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("rank 1 did not come up within 20ms"));
}

TEST_F(NcclFailureTest, AnIdThatCannotBeMadeIsSaid) {
  script_.id = absl::UnavailableError("no network");
  EXPECT_EQ(Connect().status().message(), "no network");
}

TEST_F(NcclFailureTest, ABadGroupIsRefused) {
  group_.rank = 2;
  EXPECT_TRUE(absl::IsFailedPrecondition(Connect("").status()));
}

}  // namespace
}  // namespace ham::trainer
