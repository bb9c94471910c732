#include "tests/interop/engine_step.h"

#include <memory>
#include <string>
#include <vector>

#include <ATen/ops/full.h>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "tests/interop/peer_network.h"
#include "worker/trainer/ham_step.h"
#include "worker/trainer/models/batch_norm.h"
#include "worker/trainer/pgd_attack.h"
#include "worker/trainer/stopwatch.h"

namespace ham::trainer {
namespace {

class Peer : private PeerNetwork {
 public:
  using PeerNetwork::PeerNetwork;

  TensorMap Logits() const {
    TensorMap out = {{"logits", PaddedLogits(model(), weights(), Images("x"))}};
    weights().Export("weights.", &out);
    out.erase("weights.class_bias");
    return out;
  }

  TensorMap Step(double* seconds) {
    TrainSpec spec;
    spec.attack.epsilon = Real("epsilon");
    spec.attack.step_size = Real("step_size");
    spec.attack.steps = static_cast<int>(Int("steps"));
    spec.method.mining_step = static_cast<int>(Int("mining_step"));
    TensorMap out;
    Batch batch{Images("x"), Get("y"), {}};
    for (uint32_t row = 0; row < batch.labels.size(0); ++row) batch.ids.push_back(row);
    const std::unique_ptr<Collective> alone = MakeLocalCollective();
    NetworkPasses passes(model(), weights());
    const StepContext context{spec, 1, passes, *alone, [] {}};
    GradientReducer reducer(model().parameters(), {model().classes(), spec.method.mining_step, 1}, weights().type());
    StepSums local{.rows = batch.rows(), .counts = reducer.NewCounts()};
    AttackedBatch attacked;
    const at::Tensor start = Has("start") ? Images("start") : at::Tensor();
    Stopwatch watch;
    if (Has("x_0")) {
      attacked.kept = FollowReference(spec, batch, &out);
      attacked.weights.assign(attacked.kept.rows(), 1);
    } else {
      auto mined = AttackAndMine(context, &weights(), batch, start, &local.counts);
      Require(mined.status());
      attacked = *std::move(mined);
      out["hard"] = Mask(attacked.mined.is_hard);
    }
    out["x_adv"] = attacked.kept.x;
    local.kept_rows = attacked.kept.rows();
    Require(ComputeGradients(context, weights(), attacked, &reducer.gradients(), &local));
    auto global = reducer.Reduce(local, *alone);
    Require(global.status());
    UpdateStatistics(reducer.gradients(), &weights());
    if (seconds != nullptr) *seconds = watch.Lap();
    out["loss"] = at::full({}, global->Get().loss / global->Get().weight, at::kDouble);
    TensorMap named;
    reducer.gradients().Export("gradient.", &named);
    weights().Export("after.", &named);
    for (const ParameterSpec& parameter : model().parameters()) {
      const bool statistic = parameter.kind == ParameterKind::kStatistic;
      if (parameter.kind == ParameterKind::kClassBias) continue;
      const std::string name = absl::StrCat(statistic ? "after." : "gradient.", parameter.name);
      out[name] = named.at(name);
    }
    return out;
  }

 private:
  static at::Tensor Mask(const std::vector<uint8_t>& flags) {
    at::Tensor out = at::full({static_cast<int64_t>(flags.size())}, 0, at::kLong);
    for (size_t i = 0; i < flags.size(); ++i) out.mutable_data_ptr<int64_t>()[i] = flags[i];
    return out;
  }

  // One attack step from each of the reference's points; the hard rows at its last.
  Batch FollowReference(const TrainSpec& spec, const Batch& batch, TensorMap* out) const {
    NetworkPasses passes(model(), weights());
    const at::Tensor& hard = Get("hard");
    std::vector<uint8_t> keep;
    for (int64_t row = 0; row < hard.size(0); ++row) keep.push_back(hard.const_data_ptr<int64_t>()[row] != 0);
    Batch kept = SelectRows(batch, keep);
    for (int k = 0; k < spec.attack.steps; ++k) {
      const Batch& rows = k < spec.method.mining_step ? batch : kept;
      const auto next =
          Ascend(passes, rows, Images(absl::StrCat("x_", k)),
                 {AttackLoss::kCrossEntropy, {spec.attack.norm, spec.attack.epsilon}, spec.attack.step_size, 1}, [] {});
      Require(next.status());
      (*out)[absl::StrCat("next_", k + 1)] = *next;
    }
    kept.x = Images(absl::StrCat("x_", spec.attack.steps));
    return kept;
  }
};

}  // namespace

TensorMap EngineLogits(const Safetensors& in) { return Peer(in).Logits(); }

TensorMap EngineStep(const Safetensors& in, double* seconds) { return Peer(in).Step(seconds); }

}  // namespace ham::trainer
