#include "worker/trainer/models/batch_norm.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include <ATen/Parallel.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/lerp.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include "worker/trainer/device.h"
#include "worker/trainer/models/batch_norm_on_device.h"

namespace ham::trainer {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr int64_t kBlockPixels = 512;  // one partial sum each

// A channels_last tensor as rows of C numbers: one a pixel.
struct Pixels {
  int64_t count;     // N * H * W
  int64_t relevant;  // of true rows; they come first
  int64_t channels;
};

Pixels PixelsOf(const at::Tensor& x, int64_t rows) {
  const int64_t area = x.size(2) * x.size(3);
  return {x.size(0) * area, std::min(rows, x.size(0)) * area, x.size(1)};
}

// Sums two numbers a channel over the relevant pixels: add(pixel, first[C], second[C]). -> [2 * C]
template <typename T, typename Add>
std::vector<double> SumPixels(const Pixels& pixels, const Add& add) {
  const int64_t blocks = (pixels.relevant + kBlockPixels - 1) / kBlockPixels;
  const int64_t width = 2 * pixels.channels;
  std::vector<double> partial(blocks * width);
  at::parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
    std::vector<T> sums(width);
    for (int64_t block = begin; block < end; ++block) {
      double* out = partial.data() + block * width;
      const int64_t last = std::min(pixels.relevant, (block + 1) * kBlockPixels);
      // In the numbers' own type over a few pixels, which is fast, and in float64 over those.
      for (int64_t pixel = block * kBlockPixels; pixel < last;) {
        std::fill(sums.begin(), sums.end(), T{0});
        for (const int64_t stop = std::min(last, pixel + 16); pixel < stop; ++pixel) {
          add(pixel, sums.data(), sums.data() + pixels.channels);
        }
        for (int64_t i = 0; i < width; ++i) out[i] += sums[i];
      }
    }
  });
  std::vector<double> total(width);
  for (int64_t block = 0; block < blocks; ++block) {
    for (int64_t i = 0; i < width; ++i) total[i] += partial[block * width + i];
  }
  return total;
}

void SumOverRanks(TrainingPass* pass, std::vector<double>* sums) {
  if (pass->collective == nullptr || !pass->status.ok()) return;
  pass->status = pass->collective->AllReduceSum(sums->data(), static_cast<int64_t>(sums->size()));
}

// work(pixel) for the pixels [begin, end)
template <typename Work>
void EachPixel(int64_t begin, int64_t end, const Work& work) {
  at::parallel_for(begin, end, 256, [&](int64_t from, int64_t to) {
    for (int64_t pixel = from; pixel < to; ++pixel) work(pixel);
  });
}

struct BatchNormFunction : public torch::autograd::Function<BatchNormFunction> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& scale,
                            const at::Tensor& shift, TrainingPass* pass, at::Tensor mean, at::Tensor variance) {
    at::Tensor out = VisitReal(
        x.scalar_type(), [&]<typename T>(T) { return Forward<T>(context, x, scale, shift, pass, mean, variance); });
    return out;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    return VisitReal(gradients[0].scalar_type(), [&]<typename T>(T) { return Backward<T>(context, gradients[0]); });
  }

 private:
  template <typename T>
  static at::Tensor Forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& scale,
                            const at::Tensor& shift, TrainingPass* pass, at::Tensor& mean, at::Tensor& variance) {
    const Pixels pixels = PixelsOf(x, pass->rows);
    const int64_t channels = pixels.channels;
    const T* in = x.const_data_ptr<T>();
    // Summed as distances from the first pixel: where the mean is far from zero, squares would take all precision.
    std::vector<T> origin(channels);
    if (pixels.relevant > 0) std::copy_n(in, channels, origin.begin());
    const T* __restrict from = origin.data();
    std::vector<double> sums = SumPixels<T>(pixels, [&](int64_t pixel, T* __restrict first, T* __restrict second) {
      const T* __restrict value = in + pixel * channels;
      for (int64_t c = 0; c < channels; ++c) {
        const T distance = value[c] - from[c];
        first[c] += distance;
        second[c] += distance * distance;
      }
    });
    const auto relevant = static_cast<double>(pixels.relevant);
    for (int64_t c = 0; c < channels; ++c) {  // the ranks' origins differ: to sums of numbers and squares
      const auto o = static_cast<double>(origin[c]);
      sums[channels + c] += o * (2 * sums[c] + relevant * o);
      sums[c] += relevant * o;
    }
    sums.push_back(relevant);
    SumOverRanks(pass, &sums);
    pass->has_rows = sums.back() > 0;
    const double count = std::max(sums.back(), 1.0);
    at::Tensor center = at::zeros({channels}, at::kDouble), inverse = at::zeros({channels}, at::kDouble);
    // (x - nearest) * factor + offset, where x - nearest is exact near the mean.
    std::vector<T> nearest(channels), factor(channels), offset(channels);
    for (int64_t c = 0; c < channels; ++c) {
      const double average = sums[c] / count;
      const double spread = std::max(0.0, sums[channels + c] / count - average * average);
      const double deviation = 1 / std::sqrt(spread + kBatchNormEpsilon);
      center.data_ptr<double>()[c] = average;
      inverse.data_ptr<double>()[c] = deviation;
      mean.data_ptr<T>()[c] = static_cast<T>(average);
      variance.data_ptr<T>()[c] = static_cast<T>(spread * count / std::max(count - 1, 1.0));
      const double slope = deviation * scale.const_data_ptr<T>()[c];
      nearest[c] = static_cast<T>(average);
      factor[c] = static_cast<T>(slope);
      offset[c] = static_cast<T>(shift.const_data_ptr<T>()[c] - (average - nearest[c]) * slope);
    }
    at::Tensor out = at::empty_like(x);
    T* result = out.data_ptr<T>();
    EachPixel(0, pixels.count, [&](int64_t pixel) {
      const T* __restrict value = in + pixel * channels;
      T* __restrict y = result + pixel * channels;
      for (int64_t c = 0; c < channels; ++c) y[c] = (value[c] - nearest[c]) * factor[c] + offset[c];
    });
    context->save_for_backward({x, scale, center, inverse});
    context->saved_data["pass"] = reinterpret_cast<int64_t>(pass);
    context->saved_data["count"] = count;
    return out;
  }

  template <typename T>
  static variable_list Backward(AutogradContext* context, const at::Tensor& output_gradient) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor& x = saved[0];
    auto* pass = reinterpret_cast<TrainingPass*>(context->saved_data["pass"].toInt());
    const double count = context->saved_data["count"].toDouble();
    const at::Tensor dy = output_gradient.contiguous(at::MemoryFormat::ChannelsLast);
    const Pixels pixels = PixelsOf(x, pass->rows);
    const int64_t channels = pixels.channels;
    const T* in = x.const_data_ptr<T>();
    const T* gradient = dy.const_data_ptr<T>();
    const T* scale = saved[1].const_data_ptr<T>();
    const double* center = saved[2].const_data_ptr<double>();
    const double* inverse = saved[3].const_data_ptr<double>();
    std::vector<T> nearest(channels);
    for (int64_t c = 0; c < channels; ++c) nearest[c] = static_cast<T>(center[c]);
    const T* __restrict from = nearest.data();
    std::vector<double> sums = SumPixels<T>(pixels, [&](int64_t pixel, T* __restrict first, T* __restrict second) {
      const T* __restrict value = in + pixel * channels;
      const T* __restrict g = gradient + pixel * channels;
      for (int64_t c = 0; c < channels; ++c) {
        first[c] += g[c];
        second[c] += g[c] * (value[c] - from[c]);
      }
    });
    for (int64_t c = 0; c < channels; ++c) {
      sums[channels + c] = inverse[c] * (sums[channels + c] - (center[c] - nearest[c]) * sums[c]);
    }
    at::Tensor d_scale = at::empty_like(saved[1]), d_shift = at::empty_like(saved[1]);
    for (int64_t c = 0; c < channels; ++c) {  // of this rank's rows: they travel with the other gradients
      d_shift.data_ptr<T>()[c] = static_cast<T>(sums[c]);
      d_scale.data_ptr<T>()[c] = static_cast<T>(sums[channels + c]);
    }
    SumOverRanks(pass, &sums);
    // scale * inverse * (g - mean of g - normalized * mean of g * normalized), a linear function of g and x
    std::vector<T> of_gradient(channels), of_distance(channels), constant(channels);
    for (int64_t c = 0; c < channels; ++c) {
      const double factor = scale[c] * inverse[c];
      const double slope = -factor * inverse[c] * sums[channels + c] / count;
      of_gradient[c] = static_cast<T>(factor);
      of_distance[c] = static_cast<T>(slope);
      constant[c] = static_cast<T>(-factor * sums[c] / count - slope * (center[c] - nearest[c]));
    }
    at::Tensor d_x = at::empty_like(x);
    T* result = d_x.data_ptr<T>();
    EachPixel(0, pixels.relevant, [&](int64_t pixel) {
      const T* __restrict value = in + pixel * channels;
      const T* __restrict g = gradient + pixel * channels;
      T* __restrict d = result + pixel * channels;
      for (int64_t c = 0; c < channels; ++c) {
        d[c] = g[c] * of_gradient[c] + (value[c] - from[c]) * of_distance[c] + constant[c];
      }
    });
    std::fill(result + pixels.relevant * channels, result + pixels.count * channels, T{0});
    return {d_x, d_scale, d_shift, at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor BatchNormOfBatch(const at::Tensor& x, const at::Tensor& scale, const at::Tensor& shift, TrainingPass* pass,
                            at::Tensor mean, at::Tensor variance) {
  if (!OnHost(x)) return device::BatchNormOfBatch(x, {}, scale, shift, /*relu=*/false, pass, mean, variance).y;
  return BatchNormFunction::apply(x.to(scale.scalar_type()).contiguous(at::MemoryFormat::ChannelsLast), scale, shift,
                                  pass, mean, variance);
}

void UpdateStatistics(const ParameterSet& batch, ParameterSet* weights) {
  weights->statistics().lerp_(batch.statistics(), kBatchNormMomentum);
}

}  // namespace ham::trainer
