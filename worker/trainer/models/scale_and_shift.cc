#include "worker/trainer/models/scale_and_shift.h"

#include <cassert>
#include <cstdint>
#include <limits>
#include <optional>

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty_like.h>
#include <c10/util/BFloat16.h>
#include <torch/csrc/autograd/custom_function.h>

#include "worker/trainer/device.h"
#include "worker/trainer/models/channel_ops.h"
#include "worker/trainer/simd.h"

namespace ham::trainer {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr int64_t kPixels = 256;  // the least of them that are worth a thread

// Work with a number of memory and one of arithmetic, for x of this type.
template <typename Work>
void VisitImageType(at::ScalarType type, const Work& work) {
  if (type == at::kBFloat16) {
    work(c10::BFloat16{}, float{});
  } else if (type == at::kDouble) {
    work(double{}, double{});
  } else {
    work(float{}, float{});
  }
}

template <typename Stored, typename T>
void Forward(const at::Tensor& x, const at::Tensor& scale, const at::Tensor& shift, bool relu, at::Tensor* out) {
  const int64_t channels = x.size(1);
  const auto* in = x.const_data_ptr<Stored>();
  auto* result = out->data_ptr<Stored>();
  at::parallel_for(0, x.numel() / channels, kPixels, [=, &scale, &shift](int64_t begin, int64_t end) {
    Vectorized([=, factor = scale.const_data_ptr<T>(), offset = shift.const_data_ptr<T>()] {
      const T least = relu ? T{0} : -std::numeric_limits<T>::infinity();
      for (int64_t pixel = begin; pixel < end; ++pixel) {
        const Stored* __restrict from = in + pixel * channels;
        Stored* __restrict to = result + pixel * channels;
        for (int64_t c = 0; c < channels; ++c) {
          const T y = static_cast<T>(from[c]) * factor[c] + offset[c];
          to[c] = static_cast<Stored>(y < least ? least : y);  // NaN stays
        }
      }
    });
  });
}

// out: ScaleAndShift's where ReLU cut it, else nullptr.
template <typename Stored, typename T>
void Backward(const at::Tensor& gradient, const at::Tensor* out, const at::Tensor& scale, at::Tensor* d_x) {
  const int64_t channels = gradient.size(1);
  const auto* in = gradient.const_data_ptr<Stored>();
  const auto* cut = out == nullptr ? nullptr : out->const_data_ptr<Stored>();
  auto* result = d_x->data_ptr<Stored>();
  at::parallel_for(0, gradient.numel() / channels, kPixels, [=, &scale](int64_t begin, int64_t end) {
    Vectorized([=, factor = scale.const_data_ptr<T>()] {
      for (int64_t pixel = begin; pixel < end; ++pixel) {
        const Stored* __restrict from = in + pixel * channels;
        Stored* __restrict to = result + pixel * channels;
        if (cut == nullptr) {
          for (int64_t c = 0; c < channels; ++c) to[c] = static_cast<Stored>(static_cast<T>(from[c]) * factor[c]);
          continue;
        }
        const Stored* __restrict y = cut + pixel * channels;
        for (int64_t c = 0; c < channels; ++c) {
          const T g = static_cast<T>(from[c]) * factor[c];
          to[c] = static_cast<Stored>(static_cast<T>(y[c]) <= 0 ? T{0} : g);
        }
      }
    });
  });
}

struct ScaleAndShiftFunction : public torch::autograd::Function<ScaleAndShiftFunction> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& scale,
                            const at::Tensor& shift, bool relu) {
    at::Tensor out = at::empty_like(x);
    VisitImageType(x.scalar_type(),
                   [&]<typename Stored, typename T>(Stored, T) { Forward<Stored, T>(x, scale, shift, relu, &out); });
    context->save_for_backward(relu ? variable_list{scale, out} : variable_list{scale});
    return out;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor gradient = gradients[0].contiguous(at::MemoryFormat::ChannelsLast);
    at::Tensor d_x = at::empty_like(gradient);
    VisitImageType(gradient.scalar_type(), [&]<typename Stored, typename T>(Stored, T) {
      Backward<Stored, T>(gradient, saved.size() > 1 ? &saved[1] : nullptr, saved[0], &d_x);
    });
    return {d_x, at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

struct ScaleAndShiftOnDevice : public torch::autograd::Function<ScaleAndShiftOnDevice> {
  // -> y, and the sum where there is one
  static variable_list forward(AutogradContext* context, const at::Tensor& x, const std::optional<at::Tensor>& added,
                               const at::Tensor& scale, const at::Tensor& shift, bool relu) {
    const ChannelOps::Shifted out = ChannelOpsFor(x).ScaleAndShift(x, added.value_or(at::Tensor()), scale, shift, relu);
    context->set_materialize_grads(false);
    context->save_for_backward(relu ? variable_list{scale, out.y} : variable_list{scale});
    return added ? variable_list{out.y, out.sum} : variable_list{out.y};
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const bool added = gradients.size() > 1;
    assert(gradients[0].defined());  // every network makes use of y
    const at::Tensor d_x = ChannelOpsFor(gradients[0])
                               .ScaleAndShiftBackward(gradients[0], saved.size() > 1 ? saved[1] : at::Tensor(),
                                                      saved[0], added ? gradients[1] : at::Tensor());
    return {d_x, added ? d_x : at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor ScaleAndShift(const at::Tensor& x, const at::Tensor& scale, const at::Tensor& shift, bool relu) {
  if (!OnHost(x)) return ScaleAndShiftOnDevice::apply(x, std::nullopt, scale, shift, relu)[0];
  return ScaleAndShiftFunction::apply(x.contiguous(at::MemoryFormat::ChannelsLast), scale, shift, relu);
}

Shifted AddScaleAndShift(const at::Tensor& x, const at::Tensor& added, const at::Tensor& scale, const at::Tensor& shift,
                         bool relu) {
  if (!OnHost(x)) {
    const variable_list out = ScaleAndShiftOnDevice::apply(x, std::optional(added), scale, shift, relu);
    return {out[1], out[0]};
  }
  const at::Tensor sum = x + added;
  return {sum, ScaleAndShift(sum, scale, shift, relu)};
}

}  // namespace ham::trainer
