#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>

#include "worker/trainer/cuda/channel_kernels.h"
#include "worker/trainer/models/batch_norm.h"
#include "worker/trainer/models/channel_ops.h"

namespace ham::trainer {
namespace {

cuda::Pixels PixelsOf(const at::Tensor& x) {
  const cuda::ImageType type = x.scalar_type() == at::kBFloat16 ? cuda::ImageType::kBfloat16
                               : x.scalar_type() == at::kDouble ? cuda::ImageType::kDouble
                                                                : cuda::ImageType::kFloat;
  return {type, x.size(0) * x.size(2) * x.size(3), x.size(1)};
}

cuda::TruePixels TruePixelsOf(const TrueRows& rows, const at::Tensor& x) {
  return {rows.count.defined() ? rows.count.const_data_ptr<int64_t>() : nullptr, rows.most, x.size(2) * x.size(3)};
}

// null where undefined
const void* Read(const at::Tensor& tensor) { return tensor.defined() ? tensor.const_data_ptr() : nullptr; }

void* Write(const at::Tensor& tensor) { return tensor.mutable_data_ptr(); }

at::Tensor Packed(const at::Tensor& images) { return images.contiguous(at::MemoryFormat::ChannelsLast); }

at::Tensor Doubles(int64_t count, const at::Tensor& beside) {
  return at::empty({count}, beside.options().dtype(at::kDouble));
}

// work(stream) in the stream of this thread.
template <typename Work>
void Launch(const Work& work) {
  work(c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

class Kernels final : public ChannelOps {
 public:
  Shifted ScaleAndShift(const at::Tensor& x, const at::Tensor& added, const at::Tensor& scale, const at::Tensor& shift,
                        bool relu) const override {
    const at::Tensor in = Packed(x), more = added.defined() ? Packed(added) : added;
    Shifted out{added.defined() ? at::empty_like(in) : in, at::empty_like(in)};
    Launch([&](cudaStream_t stream) {
      cuda::ScaleAndShift(PixelsOf(in),
                          {.x = Read(in),
                           .added = Read(more),
                           .scale = Read(scale),
                           .shift = Read(shift),
                           .relu = relu,
                           .sum = added.defined() ? Write(out.sum) : nullptr,
                           .y = Write(out.y)},
                          stream);
    });
    return out;
  }

  at::Tensor ScaleAndShiftBackward(const at::Tensor& d_y, const at::Tensor& y, const at::Tensor& scale,
                                   const at::Tensor& d_sum) const override {
    const at::Tensor gradient = Packed(d_y), more = d_sum.defined() ? Packed(d_sum) : d_sum;
    at::Tensor out = at::empty_like(gradient);
    Launch([&](cudaStream_t stream) {
      cuda::ScaleAndShiftBackward(
          PixelsOf(gradient),
          {.d_y = Read(gradient), .y = Read(y), .scale = Read(scale), .d_sum = Read(more), .d_x = Write(out)}, stream);
    });
    return out;
  }

  BatchStatistics Measure(const at::Tensor& x, const at::Tensor& added, const TrueRows& rows, const at::Tensor& scale,
                          const at::Tensor& shift, const OverRanks& over_ranks, at::Tensor mean,
                          at::Tensor variance) const override {
    const at::Tensor in = Packed(x), more = added.defined() ? Packed(added) : added;
    const cuda::Pixels pixels = PixelsOf(in);
    BatchStatistics out{added.defined() ? at::empty_like(in) : in, Doubles(2 * pixels.channels + 1, scale),
                        at::empty({3, pixels.channels}, scale.options())};
    const at::Tensor partial = Doubles(cuda::PartialSums(pixels), scale);
    const cuda::BatchStatistics statistics{.sums = out.sums.mutable_data_ptr<double>(),
                                           .scale = Read(scale),
                                           .shift = Read(shift),
                                           .epsilon = kBatchNormEpsilon,
                                           .by = Write(out.by),
                                           .mean = Write(mean),
                                           .variance = Write(variance)};
    Launch([&](cudaStream_t stream) {
      cuda::SumBatch(pixels,
                     {.x = Read(in),
                      .added = Read(more),
                      .true_pixels = TruePixelsOf(rows, in),
                      .sum = added.defined() ? Write(out.sum) : nullptr,
                      .partial = partial.mutable_data_ptr<double>(),
                      .statistics = statistics,
                      .alone = !over_ranks},
                     stream);
    });
    if (!over_ranks) return out;
    over_ranks(out.sums);
    Launch([&](cudaStream_t stream) { cuda::FinishBatch(pixels, statistics, stream); });
    return out;
  }

  at::Tensor Normalize(const at::Tensor& x, const at::Tensor& by, bool relu) const override {
    at::Tensor out = at::empty_like(x);
    Launch([&](cudaStream_t stream) {
      cuda::Normalize(PixelsOf(x), {.x = Read(x), .by = Read(by), .relu = relu, .y = Write(out)}, stream);
    });
    return out;
  }

  GradientStatistics MeasureGradients(const at::Tensor& d_y, const at::Tensor& x, const BatchStatistics& batch,
                                      bool relu, const TrueRows& rows, const at::Tensor& scale,
                                      const OverRanks& over_ranks) const override {
    const at::Tensor gradient = Packed(d_y);
    const cuda::Pixels pixels = PixelsOf(x);
    GradientStatistics out{at::empty_like(scale), at::empty_like(scale),
                           at::empty({2, pixels.channels}, scale.options())};
    const at::Tensor partial = Doubles(cuda::PartialSums(pixels), scale);
    at::Tensor sums = Doubles(2 * pixels.channels, scale);
    const cuda::GradientStatistics statistics{.sums = sums.mutable_data_ptr<double>(),
                                              .batch_sums = batch.sums.const_data_ptr<double>(),
                                              .scale = Read(scale),
                                              .by = Read(batch.by),
                                              .epsilon = kBatchNormEpsilon,
                                              .d_scale = Write(out.d_scale),
                                              .d_shift = Write(out.d_shift),
                                              .gradient_by = Write(out.by)};
    Launch([&](cudaStream_t stream) {
      cuda::SumGradients(pixels,
                         {.d_y = Read(gradient),
                          .x = Read(x),
                          .relu = relu,
                          .true_pixels = TruePixelsOf(rows, x),
                          .partial = partial.mutable_data_ptr<double>(),
                          .statistics = statistics,
                          .alone = !over_ranks},
                         stream);
    });
    if (!over_ranks) return out;
    over_ranks(sums);
    Launch([&](cudaStream_t stream) { cuda::FinishGradients(pixels, statistics, stream); });
    return out;
  }

  at::Tensor NormalizeBackward(const at::Tensor& d_y, const at::Tensor& x, const BatchStatistics& batch, bool relu,
                               const TrueRows& rows, const GradientStatistics& gradients,
                               const at::Tensor& d_sum) const override {
    const at::Tensor gradient = Packed(d_y), more = d_sum.defined() ? Packed(d_sum) : d_sum;
    at::Tensor out = at::empty_like(x);
    Launch([&](cudaStream_t stream) {
      cuda::NormalizeBackward(PixelsOf(x),
                              {.d_y = Read(gradient),
                               .x = Read(x),
                               .by = Read(batch.by),
                               .gradient_by = Read(gradients.by),
                               .relu = relu,
                               .true_pixels = TruePixelsOf(rows, x),
                               .d_sum = Read(more),
                               .d_x = Write(out)},
                              stream);
    });
    return out;
  }
};

}  // namespace

const ChannelOps* CudaChannelOps() {
  static const Kernels ops;
  return &ops;
}

}  // namespace ham::trainer
