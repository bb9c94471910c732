#include "tests/interop/engine_step.h"

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <ATen/ops/full.h>

#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "worker/trainer/ham_step.h"
#include "worker/trainer/models/batch_norm.h"
#include "worker/trainer/models/networks.h"
#include "worker/trainer/models/small_cnn.h"
#include "worker/trainer/pgd_attack.h"
#include "worker/trainer/stopwatch.h"

namespace ham::trainer {
namespace {

using Metadata = std::map<std::string, std::string>;

int64_t Int(const Metadata& metadata, const std::string& key) {
  int64_t value = 0;
  TORCH_CHECK(metadata.contains(key) && absl::SimpleAtoi(metadata.at(key), &value), key, " is no whole number");
  return value;
}

double Real(const Metadata& metadata, const std::string& key) {
  double value = 0;
  TORCH_CHECK(metadata.contains(key) && absl::SimpleAtod(metadata.at(key), &value), key, " is no number");
  return value;
}

// `width` 0: as published, by name.
std::unique_ptr<Model> Make(const std::string& name, int64_t width, const ModelOptions& options) {
  if (width == 0) {
    auto model = MakeModel(name, options);
    TORCH_CHECK(model.ok(), std::string(model.status().message()));
    return *std::move(model);
  }
  if (name == "preact-resnet-18") return MakePreActResNet18(options, width);
  if (name == "resnet-18") return MakeResNet18(options, width);
  if (name == "wrn-28-10") return MakeWideResNet(options, 28, width);
  if (name == "wrn-34-10") return MakeWideResNet(options, 34, width);
  if (name == "cnn-wong-kolter") return MakeWongKolterCnn(options, width);
  return MakeSmallCnn({.image = options.image, .conv1 = width, .conv2 = 2 * width, .compute = options.compute});
}

void Require(const absl::Status& status) { TORCH_CHECK(status.ok(), std::string(status.message())); }

class Peer {
 public:
  explicit Peer(Safetensors in) : in_(std::move(in)) {
    const at::Tensor& x = in_.tensors.at("x");
    const ModelOptions options{.image = {x.size(1), x.size(2), x.size(3)},
                               .compute = in_.metadata.contains("compute") ? at::kBFloat16 : at::kFloat,
                               .extra_block = in_.metadata.contains("extra_block")};
    model_ = Make(in_.metadata.at("model"), Int(in_.metadata, "width"), options);
    weights_.emplace(model_->parameters(), x.scalar_type());
    TensorMap all = in_.tensors;
    all["weights.class_bias"] = at::full({model_->classes()}, 0, x.scalar_type());
    Require(weights_->Import("weights.", all));
  }

  TensorMap Logits() const {
    TensorMap out = {{"logits", PaddedLogits(*model_, *weights_, Images("x"))}};
    weights_->Export("weights.", &out);
    out.erase("weights.class_bias");
    return out;
  }

  TensorMap Step(double* seconds) {
    TrainSpec spec;
    spec.attack.epsilon = Real(in_.metadata, "epsilon");
    spec.attack.step_size = Real(in_.metadata, "step_size");
    spec.attack.steps = static_cast<int>(Int(in_.metadata, "steps"));
    spec.method.mining_step = static_cast<int>(Int(in_.metadata, "mining_step"));
    TensorMap out;
    Batch batch{Images("x"), in_.tensors.at("y"), {}};
    for (uint32_t row = 0; row < batch.labels.size(0); ++row) batch.ids.push_back(row);
    const std::unique_ptr<Collective> alone = MakeLocalCollective();
    NetworkPasses passes(*model_, *weights_);
    const StepContext context{spec, 1, passes, *alone, [] {}};
    GradientReducer reducer(model_->parameters(), {model_->classes(), spec.method.mining_step, 1}, weights_->type());
    StepSums local{.rows = batch.rows(), .counts = reducer.NewCounts()};
    AttackedBatch attacked;
    const at::Tensor start = in_.tensors.contains("start") ? Images("start") : at::Tensor();
    Stopwatch watch;
    if (in_.tensors.contains("x_0")) {
      attacked.kept = FollowReference(spec, batch, &out);
      attacked.weights.assign(attacked.kept.rows(), 1);
    } else {
      auto mined = AttackAndMine(context, &*weights_, batch, start, &local.counts);
      Require(mined.status());
      attacked = *std::move(mined);
      out["hard"] = Mask(attacked.mined.is_hard);
    }
    out["x_adv"] = attacked.kept.x;
    local.kept_rows = attacked.kept.rows();
    Require(ComputeGradients(context, *weights_, attacked, &reducer.gradients(), &local));
    auto global = reducer.Reduce(local, *alone);
    Require(global.status());
    UpdateStatistics(reducer.gradients(), &*weights_);
    if (seconds != nullptr) *seconds = watch.Lap();
    out["loss"] = at::full({}, global->Get().loss / global->Get().weight, at::kDouble);
    TensorMap named;
    reducer.gradients().Export("gradient.", &named);
    weights_->Export("after.", &named);
    for (const ParameterSpec& parameter : model_->parameters()) {
      const bool statistic = parameter.kind == ParameterKind::kStatistic;
      if (parameter.kind == ParameterKind::kClassBias) continue;
      const std::string name = absl::StrCat(statistic ? "after." : "gradient.", parameter.name);
      out[name] = named.at(name);
    }
    return out;
  }

 private:
  // In the trainer's layout.
  at::Tensor Images(const std::string& name) const {
    const at::Tensor& values = in_.tensors.at(name);
    at::Tensor out = NewImages(values.size(0), model_->image_shape(), values.scalar_type());
    out.copy_(values);
    return out;
  }

  static at::Tensor Mask(const std::vector<uint8_t>& flags) {
    at::Tensor out = at::full({static_cast<int64_t>(flags.size())}, 0, at::kLong);
    for (size_t i = 0; i < flags.size(); ++i) out.mutable_data_ptr<int64_t>()[i] = flags[i];
    return out;
  }

  // One attack step from each of the reference's points; the hard rows at its last.
  Batch FollowReference(const TrainSpec& spec, const Batch& batch, TensorMap* out) const {
    NetworkPasses passes(*model_, *weights_);
    const at::Tensor& hard = in_.tensors.at("hard");
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

  Safetensors in_;
  std::unique_ptr<Model> model_;
  std::optional<ParameterSet> weights_;
};

}  // namespace

TensorMap EngineLogits(const Safetensors& in) { return Peer(in).Logits(); }

TensorMap EngineStep(const Safetensors& in, double* seconds) { return Peer(in).Step(seconds); }

}  // namespace ham::trainer
