#include "worker/trainer/models/batch_norm_on_device.h"

#include <cassert>
#include <optional>

#include <ATen/ops/item.h>
#include <torch/csrc/autograd/custom_function.h>

#include "worker/trainer/device.h"
#include "worker/trainer/models/channel_ops.h"

namespace ham::trainer::device {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

ChannelOps::OverRanks OverRanks(TrainingPass* pass) {
  if (pass->collective == nullptr) return {};
  return [pass](at::Tensor& sums) {
    if (pass->status.ok()) pass->status = pass->collective->AllReduceSum(sums);
  };
}

TrueRows RowsOf(const TrainingPass& pass) { return {pass.rows, pass.rows_on_device}; }

// sums: of all ranks.
bool AnyHasRows(const TrainingPass& pass, const at::Tensor& sums) {
  if (pass.rows > 0 || pass.has_rows) return true;
  return pass.collective != nullptr && ToHost(sums.narrow(0, sums.size(0) - 1, 1)).item<double>() > 0;
}

struct BatchNormFunction : public torch::autograd::Function<BatchNormFunction> {
  // -> y, and the sum where there is one
  static variable_list forward(AutogradContext* context, const at::Tensor& x, const std::optional<at::Tensor>& added,
                               const at::Tensor& scale, const at::Tensor& shift, bool relu, TrainingPass* pass,
                               at::Tensor mean, at::Tensor variance) {
    const ChannelOps& ops = ChannelOpsFor(x);
    const ChannelOps::BatchStatistics batch =
        ops.Measure(x, added.value_or(at::Tensor()), RowsOf(*pass), scale, shift, OverRanks(pass), mean, variance);
    pass->has_rows = AnyHasRows(*pass, batch.sums);
    context->set_materialize_grads(false);
    context->save_for_backward({batch.sum, scale, batch.sums, batch.by});
    context->saved_data["pass"] = reinterpret_cast<int64_t>(pass);
    context->saved_data["relu"] = relu;
    const at::Tensor y = ops.Normalize(batch.sum, batch.by, relu);
    return added ? variable_list{y, batch.sum} : variable_list{y};
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &x = saved[0], &scale = saved[1], &d_y = gradients[0];
    assert(d_y.defined());  // every network makes use of y
    auto* pass = reinterpret_cast<TrainingPass*>(context->saved_data["pass"].toInt());
    const bool relu = context->saved_data["relu"].toBool(), added = gradients.size() > 1;
    const ChannelOps& ops = ChannelOpsFor(x);
    const ChannelOps::BatchStatistics batch{x, saved[2], saved[3]};
    const ChannelOps::GradientStatistics of =
        ops.MeasureGradients(d_y, x, batch, relu, RowsOf(*pass), scale, OverRanks(pass));
    const at::Tensor d_x =
        ops.NormalizeBackward(d_y, x, batch, relu, RowsOf(*pass), of, added ? gradients[1] : at::Tensor());
    return {d_x,         added ? d_x : at::Tensor(), of.d_scale, of.d_shift, at::Tensor(), at::Tensor(), at::Tensor(),
            at::Tensor()};
  }
};

}  // namespace

NormalizedBatch BatchNormOfBatch(const at::Tensor& x, const at::Tensor& added, const at::Tensor& scale,
                                 const at::Tensor& shift, bool relu, TrainingPass* pass, at::Tensor mean,
                                 at::Tensor variance) {
  const variable_list out = BatchNormFunction::apply(x, added.defined() ? std::optional(added) : std::nullopt, scale,
                                                     shift, relu, pass, mean, variance);
  return {out.size() > 1 ? out[1] : x, out[0]};
}

}  // namespace ham::trainer::device
