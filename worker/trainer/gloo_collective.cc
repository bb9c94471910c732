#include "worker/trainer/gloo_collective.h"

#include <gloo/allgather.h>
#include <gloo/allreduce.h>
#include <gloo/barrier.h>
#include <gloo/math.h>
#include <gloo/rendezvous/context.h>
#include <gloo/transport/tcp/device.h>

#include <algorithm>
#include <csignal>
#include <exception>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "worker/trainer/rank_store.h"

namespace ham::trainer {
namespace {

// Carries a store's error through Gloo's code.
struct StoreError : std::exception {
  explicit StoreError(absl::Status s) : status(std::move(s)) {}
  absl::Status status;
};

// Gloo's view of our store. Gloo's keys are "rank_R" (host name) and "R" (addresses) for rank R.
class StoreAdapter final : public gloo::rendezvous::Store {
 public:
  StoreAdapter(KeyValueStore& store, absl::Duration patience) : store_(store, patience) {}

  void set(const std::string& key, const std::vector<char>& data) override {
    const absl::Status status = store_.Set(Name(key), std::string(data.begin(), data.end()));
    if (!status.ok()) throw StoreError(status);
  }
  std::vector<char> get(const std::string& key) override {
    const absl::StatusOr<std::string> value = store_.Get(Name(key), std::string(absl::StripPrefix(key, "rank_")));
    if (!value.ok()) throw StoreError(value.status());
    return {value->begin(), value->end()};
  }
  void wait(const std::vector<std::string>& keys) override {
    for (const std::string& key : keys) get(key);
  }
  void wait(const std::vector<std::string>& keys, const std::chrono::milliseconds&) override { wait(keys); }

 private:
  static std::string Name(const std::string& key) { return "gloo-" + key; }

  RankStore store_;
};

class GlooCollective final : public Collective {
 public:
  GlooCollective(const GlooOptions& options, std::shared_ptr<gloo::Context> context)
      : Collective(options), context_(std::move(context)) {}

 private:
  template <typename T>
  absl::Status SumRing(T* data, int64_t count) {
    if (count == 0) return absl::OkStatus();
    return Guard("sum", timeout(), [&] {
      gloo::AllreduceOptions options(context_);
      // The ring adds each element on one rank and passes the sum on: equal bits everywhere.
      options.setAlgorithm(gloo::AllreduceOptions::Algorithm::RING);
      options.setOutput(data, static_cast<size_t>(count));
      options.setReduceFunction(static_cast<void (*)(void*, const void*, const void*, size_t)>(&gloo::sum<T>));
      gloo::allreduce(options);
    });
  }
  absl::Status DoAllReduceSum(float* data, int64_t count) override { return SumRing(data, count); }
  absl::Status DoAllReduceSum(double* data, int64_t count) override { return SumRing(data, count); }

  absl::Status DoAllGather(const void* in, size_t bytes, void* out) override {
    if (bytes == 0) return absl::OkStatus();
    return Guard("all-gather", timeout(), [&] {
      gloo::AllgatherOptions options(context_);
      options.setInput(static_cast<char*>(const_cast<void*>(in)), bytes);  // only read
      options.setOutput(static_cast<char*>(out), bytes * static_cast<size_t>(world_size()));
      gloo::allgather(options);
    });
  }

  absl::Status DoBarrier() override {
    return Guard("barrier", patience(), [&] {
      gloo::BarrierOptions options(context_);
      options.setTimeout(absl::ToChronoMilliseconds(patience()));
      gloo::barrier(options);
    });
  }

  template <typename Operation>
  absl::Status Guard(const char* what, absl::Duration timeout, const Operation& operation) {
    try {
      operation();
      return absl::OkStatus();
    } catch (const std::exception& e) {
      // Gloo has one exception type for both; the text tells them apart. Our own timeout closes all pairs,
      // a peer's shows here as a closed connection.
      if (absl::StrContains(e.what(), "Timed out waiting")) {
        const std::optional<int> peer = OnlyPeer();
        return absl::DeadlineExceededError(
            absl::StrCat(Describe(what), ": nothing arrived from ", peer ? absl::StrCat("rank ", *peer) : "a rank",
                         " for ", absl::FormatDuration(timeout), "; ", peer ? "it" : "one of them",
                         " hangs, is too slow or cannot be reached"));
      }
      const std::optional<int> lost = LostRank();
      absl::Status status =
          absl::UnavailableError(absl::StrCat(Describe(what), ": lost the connection to ",
                                              lost ? absl::StrCat("rank ", *lost) : "a rank", " (", e.what(), ")"));
      return lost ? WithLostRank(std::move(status), *lost) : status;
    }
  }

  // The first rank whose connection is broken: it refuses a further receive at once.
  std::optional<int> LostRank() {
    char byte = 0;
    for (int other = 0; other < world_size(); ++other) {
      if (other == rank()) continue;
      try {
        context_->createUnboundBuffer(&byte, 1)->recv(other, /*slot=*/~uint64_t{0});
      } catch (const std::exception&) {
        return other;
      }
    }
    return std::nullopt;
  }

  const std::shared_ptr<gloo::Context> context_;
};

absl::StatusOr<std::shared_ptr<gloo::transport::Device>> MakeDevice(const GlooOptions& options) {
  gloo::transport::tcp::attr attributes;
  attributes.iface = options.interface;
  attributes.hostname = options.address.empty() ? "127.0.0.1" : options.address;
  try {
    return gloo::transport::tcp::CreateDevice(attributes);
  } catch (const std::exception& e) {
    const std::string name = options.interface.empty() ? absl::StrCat("address \"", attributes.hostname, "\"")
                                                       : absl::StrCat("network interface \"", options.interface, "\"");
    return absl::FailedPreconditionError(
        absl::StrCat(name, " has no address that collectives can use: name one of this machine (", e.what(), ")"));
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<Collective>> ConnectGloo(const GlooOptions& options, KeyValueStore& store) {
  if (absl::Status status = CheckGroup(options); !status.ok()) return status;
  if (options.world_size == 1) return MakeLocalCollective();
  std::signal(SIGPIPE, SIG_IGN);  // Gloo writes to sockets without MSG_NOSIGNAL; a lost peer must be an error
  absl::StatusOr<std::shared_ptr<gloo::transport::Device>> device = MakeDevice(options);
  if (!device.ok()) return device.status();
  try {
    auto context = std::make_shared<gloo::rendezvous::Context>(options.rank, options.world_size);
    context->setTimeout(absl::ToChronoMilliseconds(options.timeout));
    StoreAdapter adapter(store, options.patience);
    context->connectFullMesh(adapter, *device);
    return std::make_unique<GlooCollective>(options, std::move(context));
  } catch (const StoreError& e) {
    return e.status;
  } catch (const std::exception& e) {
    return absl::UnavailableError(absl::StrCat("connecting rank ", options.rank, " with the ", options.world_size - 1,
                                               " others failed: ", e.what(),
                                               "; ranks of several hosts need an interface that all of them reach"));
  }
}

}  // namespace ham::trainer
