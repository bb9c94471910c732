// What is done to images channel by channel, on a device: each is one pass over them, where kernels of our own do it.
//
// Images: [N, C, H, W], channels_last; float32, float64 or bfloat16, all of a call of one type. Numbers a channel: [C],
// float32, float64 beside such images. Where LibTorch's operations do it (here) and where kernels do (cuda/) the
// results agree up to rounding. Nothing is read back from the device. Stateless; safe from any thread.
#pragma once

#include <cstdint>
#include <functional>

#include <ATen/core/Tensor.h>

namespace ham::trainer {

// The rows of a batch that count; they come first.
struct TrueRows {
  int64_t most;           // of them, and how many where `count` is undefined
  at::Tensor count = {};  // [1] int64 on the device
};

class ChannelOps {
 public:
  virtual ~ChannelOps() = default;

  struct Shifted {
    at::Tensor sum;  // x + added; x without `added`
    at::Tensor y;    // sum * scale + shift, cut at 0 where relu
  };
  virtual Shifted ScaleAndShift(const at::Tensor& x, const at::Tensor& added, const at::Tensor& scale,
                                const at::Tensor& shift, bool relu) const = 0;
  // With respect to x, of the gradients with respect to y and sum. y: undefined without ReLU; d_sum: undefined for 0.
  virtual at::Tensor ScaleAndShiftBackward(const at::Tensor& d_y, const at::Tensor& y, const at::Tensor& scale,
                                           const at::Tensor& d_sum) const = 0;

  // BatchNorm in training mode, in four steps. Sums are float64; `over_ranks`, if any, completes those of this rank.
  using OverRanks = std::function<void(at::Tensor& sums)>;
  struct BatchStatistics {
    at::Tensor sum;   // x + added
    at::Tensor sums;  // [2 C + 1]: of numbers and of squares over the true rows, and of how many pixels
    at::Tensor by;    // [3, C]: nearest, slope, offset of (x - nearest) * slope + offset
  };
  // Writes mean and unbiased variance.
  virtual BatchStatistics Measure(const at::Tensor& x, const at::Tensor& added, const TrueRows& rows,
                                  const at::Tensor& scale, const at::Tensor& shift, const OverRanks& over_ranks,
                                  at::Tensor mean, at::Tensor variance) const = 0;
  // Of all rows; cut at 0 where relu.
  virtual at::Tensor Normalize(const at::Tensor& x, const at::Tensor& by, bool relu) const = 0;
  struct GradientStatistics {
    at::Tensor d_scale, d_shift;  // of this rank's rows: they travel with the other gradients
    at::Tensor by;                // [2, C]: d_x = gradient * slope + (x - nearest) * by[0] + by[1]
  };
  // x: what was normalised; batch: of it; relu: whether the result was cut.
  virtual GradientStatistics MeasureGradients(const at::Tensor& d_y, const at::Tensor& x, const BatchStatistics& batch,
                                              bool relu, const TrueRows& rows, const at::Tensor& scale,
                                              const OverRanks& over_ranks) const = 0;
  // With respect to x; 0 in rows that do not count. d_sum: a gradient that is added; undefined for 0.
  virtual at::Tensor NormalizeBackward(const at::Tensor& d_y, const at::Tensor& x, const BatchStatistics& batch,
                                       bool relu, const TrueRows& rows, const GradientStatistics& gradients,
                                       const at::Tensor& d_sum) const = 0;
};

// By LibTorch's operations, on any device.
const ChannelOps& ComposedChannelOps();

// By kernels on a GPU; null in a program without CUDA.
const ChannelOps* CudaChannelOps();

// The best there is for such a tensor.
inline const ChannelOps& ChannelOpsFor(const at::Tensor& x) {
  const ChannelOps* const cuda = x.is_cuda() ? CudaChannelOps() : nullptr;
  return cuda != nullptr ? *cuda : ComposedChannelOps();
}

}  // namespace ham::trainer
