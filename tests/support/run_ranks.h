// Many ranks in one test: one lambda on N threads, each a rank.
//
//   RunRanks(3, [](trainer::Collective& ranks) { ... });       // sums in memory, in the order of ranks
//   RunGlooRanks(2, [](trainer::Collective& ranks) { ... });   // real sockets on loopback
//
// Both return when all ranks have returned. A rank that returns early is lost: the others' next call is
// Unavailable. The memory kind is no model of timing, and its sums round differently from Gloo's.
#pragma once

#include <algorithm>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "worker/trainer/collective.h"
#include "worker/trainer/gloo_collective.h"
#include "worker/trainer/key_value_store.h"

namespace ham::testing {

// Keys in memory, for ranks in threads.
class MemoryStore final : public trainer::KeyValueStore {
 public:
  absl::Status Set(const std::string& key, const std::string& value) override {
    absl::MutexLock lock(&mutex_);
    return values_.emplace(key, value).second ? absl::OkStatus() : absl::AlreadyExistsError(key);
  }
  absl::StatusOr<std::string> Get(const std::string& key, absl::Duration timeout) override {
    absl::MutexLock lock(&mutex_);
    const auto present = [this, &key]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return values_.contains(key); };
    if (!mutex_.AwaitWithTimeout(absl::Condition(&present), timeout)) return absl::DeadlineExceededError(key);
    return values_.at(key);
  }

 private:
  absl::Mutex mutex_;
  std::map<std::string, std::string> values_ ABSL_GUARDED_BY(mutex_);
};

// What the ranks of one RunRanks share: they meet, the last one to come works on all buffers, all go on.
class ThreadGroup {
 public:
  struct Call {
    std::string name;  // must agree: same calls in the same order
    const void* in = nullptr;
    void* out = nullptr;
  };

  explicit ThreadGroup(int world_size) : calls_(static_cast<size_t>(world_size)) {}

  absl::Status Meet(int rank, Call call, absl::Duration timeout,
                    const std::function<void(const std::vector<Call>&)>& work) {
    absl::MutexLock lock(&mutex_);
    if (!error_.ok()) return error_;
    calls_[static_cast<size_t>(rank)] = std::move(call);
    const int64_t mine = generation_;
    if (++arrived_ == calls_.size()) {
      for (const Call& other : calls_) {
        if (other.name != calls_[0].name) {
          error_ = absl::InvalidArgumentError(absl::StrCat("ranks called ", other.name, " and ", calls_[0].name));
        }
      }
      if (!error_.ok()) return error_;
      work(calls_);
      arrived_ = 0;
      ++generation_;
      return absl::OkStatus();
    }
    const auto done = [this, mine]()
                          ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return generation_ != mine || !error_.ok(); };
    if (!mutex_.AwaitWithTimeout(absl::Condition(&done), timeout) && error_.ok()) {
      error_ = absl::DeadlineExceededError("a rank did not come");
    }
    return generation_ != mine ? absl::OkStatus() : error_;
  }

  void Leave(int rank) {
    absl::MutexLock lock(&mutex_);
    if (error_.ok()) error_ = absl::UnavailableError(absl::StrCat("rank ", rank, " has left"));
  }

 private:
  absl::Mutex mutex_;
  std::vector<Call> calls_ ABSL_GUARDED_BY(mutex_);
  size_t arrived_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t generation_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Status error_ ABSL_GUARDED_BY(mutex_);
};

class ThreadCollective final : public trainer::Collective {
 public:
  ThreadCollective(int rank, int world_size, absl::Duration timeout, ThreadGroup& group)
      : Collective({rank, world_size, timeout, timeout}), group_(group) {}
  ~ThreadCollective() override { group_.Leave(rank()); }

 private:
  using Call = ThreadGroup::Call;

  template <typename T>
  absl::Status Sum(const char* type, T* data, int64_t count) {
    return group_.Meet(rank(), {absl::StrCat("sum of ", count, " ", type), data, data}, timeout(),
                       [count](const std::vector<Call>& calls) {
                         for (int64_t i = 0; i < count; ++i) {
                           T sum = 0;
                           for (const Call& call : calls) sum += static_cast<const T*>(call.in)[i];
                           for (const Call& call : calls) static_cast<T*>(call.out)[i] = sum;
                         }
                       });
  }
  absl::Status DoAllReduceSum(float* data, int64_t count) override { return Sum("floats", data, count); }
  absl::Status DoAllReduceSum(double* data, int64_t count) override { return Sum("doubles", data, count); }
  absl::Status DoAllGather(const void* in, size_t bytes, void* out) override {
    return group_.Meet(rank(), {absl::StrCat("gather of ", bytes), in, out}, timeout(),
                       [bytes](const std::vector<Call>& calls) {
                         for (const Call& to : calls) {
                           for (size_t r = 0; r < calls.size() && bytes > 0; ++r) {
                             std::memcpy(static_cast<char*>(to.out) + r * bytes, calls[r].in, bytes);
                           }
                         }
                       });
  }
  absl::Status DoBarrier() override {
    return group_.Meet(rank(), {"barrier"}, timeout(), [](const std::vector<Call>&) {});
  }

  ThreadGroup& group_;
};

using RankBody = std::function<void(trainer::Collective&)>;

inline void RunRanks(int world_size, const RankBody& body, absl::Duration timeout = absl::Seconds(20)) {
  ThreadGroup group(world_size);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < world_size; ++rank) {
    threads.emplace_back([&, rank] {
      ThreadCollective ranks(rank, world_size, timeout, group);
      body(ranks);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

inline void RunGlooRanks(int world_size, const RankBody& body, absl::Duration timeout = absl::Seconds(20)) {
  MemoryStore store;
  std::vector<std::thread> threads;
  for (int rank = 0; rank < world_size; ++rank) {
    threads.emplace_back([&, rank] {
      trainer::GlooOptions options;
      options.rank = rank;
      options.world_size = world_size;
      options.timeout = options.patience = timeout;
      auto ranks = trainer::ConnectGloo(options, store);
      ASSERT_TRUE(ranks.ok()) << ranks.status();
      body(**ranks);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace ham::testing
