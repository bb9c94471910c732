#include "worker/trainer/cuda/channel_kernels.h"

#include <algorithm>
#include <cstdint>
#include <initializer_list>

#include <cuda_bf16.h>

namespace ham::trainer::cuda {
namespace {

using Bfloat16 = __nv_bfloat16;

constexpr int kThreads = 256;
constexpr int kLanes = 32;            // the most of a block: so many neighbours of a pixel
constexpr int kMostBlocks = 132 * 8;  // what a large GPU has room for at once
constexpr int kMostPartial = 264;     // blocks of a sum; each leaves a partial one

template <typename T>
struct MathOf {
  using Type = float;
};
template <>
struct MathOf<double> {
  using Type = double;
};
template <typename T>
using Math = typename MathOf<T>::Type;

__device__ float ToMath(float value) { return value; }
__device__ double ToMath(double value) { return value; }
__device__ float ToMath(Bfloat16 value) { return __bfloat162float(value); }
template <typename T>
__device__ T FromMath(Math<T> value) {
  if constexpr (sizeof(T) == 2) {
    return __float2bfloat16_rn(value);
  } else {
    return value;
  }
}

// N neighbouring channels of a pixel: one access to memory.
template <typename T, int N>
struct alignas(sizeof(T) * N) Pack {
  T values[N];
};

// Where a thread is: a pack of channels, and every step-th pixel from the first.
struct Place {
  int64_t lane;
  int64_t pixel, step;
};
__device__ Place PlaceOf() {
  return {static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x,
          static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y, static_cast<int64_t>(gridDim.x) * blockDim.y};
}

template <typename T, int N>
__device__ Pack<T, N> Load(const void* from, int64_t pack) {
  return static_cast<const Pack<T, N>*>(from)[pack];
}
template <typename T, int N>
__device__ void Store(const Pack<T, N>& values, void* to, int64_t pack) {
  static_cast<Pack<T, N>*>(to)[pack] = values;
}

// sum = x + added, rounded as it is stored.
template <typename T, int N>
__device__ Pack<T, N> Add(const Pack<T, N>& x, const Pack<T, N>& added) {
  Pack<T, N> sum;
#pragma unroll
  for (int i = 0; i < N; ++i) sum.values[i] = FromMath<T>(ToMath(x.values[i]) + ToMath(added.values[i]));
  return sum;
}

template <typename T, int N, bool kAdds>
__global__ void __launch_bounds__(kThreads)
    ScaleAndShiftKernel(ScaleAndShiftArguments of, int64_t pixels, int64_t lanes) {
  const Place place = PlaceOf();
  if (place.lane >= lanes) return;
  Math<T> scale[N], shift[N];
#pragma unroll
  for (int i = 0; i < N; ++i) {
    scale[i] = static_cast<const Math<T>*>(of.scale)[place.lane * N + i];
    shift[i] = static_cast<const Math<T>*>(of.shift)[place.lane * N + i];
  }
  for (int64_t pixel = place.pixel; pixel < pixels; pixel += place.step) {
    const int64_t pack = pixel * lanes + place.lane;
    Pack<T, N> x = Load<T, N>(of.x, pack);
    if constexpr (kAdds) {
      x = Add(x, Load<T, N>(of.added, pack));
      Store(x, of.sum, pack);
    }
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const Math<T> y = ToMath(x.values[i]) * scale[i] + shift[i];
      x.values[i] = FromMath<T>(of.relu && y < 0 ? Math<T>{0} : y);  // NaN stays
    }
    Store(x, of.y, pack);
  }
}

template <typename T, int N>
__global__ void __launch_bounds__(kThreads)
    ScaleAndShiftBackwardKernel(ScaleAndShiftBackwardArguments of, int64_t pixels, int64_t lanes) {
  const Place place = PlaceOf();
  if (place.lane >= lanes) return;
  Math<T> scale[N];
#pragma unroll
  for (int i = 0; i < N; ++i) scale[i] = static_cast<const Math<T>*>(of.scale)[place.lane * N + i];
  for (int64_t pixel = place.pixel; pixel < pixels; pixel += place.step) {
    const int64_t pack = pixel * lanes + place.lane;
    const Pack<T, N> d_y = Load<T, N>(of.d_y, pack);
    Math<T> d_x[N];
#pragma unroll
    for (int i = 0; i < N; ++i) d_x[i] = ToMath(d_y.values[i]) * scale[i];
    if (of.y != nullptr) {
      const Pack<T, N> y = Load<T, N>(of.y, pack);
#pragma unroll
      for (int i = 0; i < N; ++i) d_x[i] = ToMath(y.values[i]) <= 0 ? Math<T>{0} : d_x[i];
    }
    if (of.d_sum != nullptr) {
      const Pack<T, N> d_sum = Load<T, N>(of.d_sum, pack);
#pragma unroll
      for (int i = 0; i < N; ++i) d_x[i] += ToMath(d_sum.values[i]);
    }
    Pack<T, N> out;
#pragma unroll
    for (int i = 0; i < N; ++i) out.values[i] = FromMath<T>(d_x[i]);
    Store(out, of.d_x, pack);
  }
}

__device__ int64_t CountOf(const TruePixels& pixels, int64_t all) {
  const int64_t count = (pixels.rows == nullptr ? pixels.most_rows : *pixels.rows) * pixels.of_row;
  return count < all ? count : all;
}

// Of each channel of a block's threads, which are beside each other in x and share them in y: first and second summed
// into partial[blockIdx.x][2][channels].
template <typename M, int N>
__device__ void LeavePartial(const M (&first)[N], const M (&second)[N], int64_t lane, int64_t lanes, double* partial) {
  __shared__ M shared[2 * kThreads * N];
  M* const mine = shared + 2 * N * (threadIdx.y * blockDim.x + threadIdx.x);
#pragma unroll
  for (int i = 0; i < N; ++i) {
    mine[i] = first[i];
    mine[N + i] = second[i];
  }
  __syncthreads();
  const int64_t channels = lanes * N;
  for (int i = threadIdx.y * blockDim.x + threadIdx.x; i < 2 * N * blockDim.x; i += blockDim.x * blockDim.y) {
    const int of_lane = i / (2 * N), number = i % (2 * N);
    const int64_t its_lane = static_cast<int64_t>(blockIdx.y) * blockDim.x + of_lane;
    if (its_lane >= lanes) continue;
    double sum = 0;
    for (int y = 0; y < blockDim.y; ++y) sum += shared[2 * N * (y * blockDim.x + of_lane) + number];
    partial[2 * channels * blockIdx.x + channels * (number / N) + its_lane * N + number % N] = sum;
  }
}

// The first pixel, sum of what is added to it included: numbers are summed as distances from it, because where the mean
// is far from zero squares would take all precision.
template <typename T>
__device__ Math<T> OriginOf(const void* x, const void* added, int64_t channel) {
  const Math<T> first = ToMath(static_cast<const T*>(x)[channel]);
  return added == nullptr ? first : ToMath(FromMath<T>(first + ToMath(static_cast<const T*>(added)[channel])));
}

template <typename T, int N, bool kAdds>
__global__ void __launch_bounds__(kThreads) SumBatchKernel(SumBatchArguments of, int64_t pixels, int64_t lanes) {
  const Place place = PlaceOf();
  const int64_t relevant = CountOf(of.true_pixels, pixels);
  Math<T> origin[N], first[N] = {}, second[N] = {};
  if (place.lane < lanes) {
#pragma unroll
    for (int i = 0; i < N; ++i) origin[i] = OriginOf<T>(of.x, of.added, place.lane * N + i);
    for (int64_t pixel = place.pixel; pixel < (kAdds ? pixels : relevant); pixel += place.step) {
      const int64_t pack = pixel * lanes + place.lane;
      Pack<T, N> x = Load<T, N>(of.x, pack);
      if constexpr (kAdds) {
        x = Add(x, Load<T, N>(of.added, pack));
        Store(x, of.sum, pack);
        if (pixel >= relevant) continue;
      }
#pragma unroll
      for (int i = 0; i < N; ++i) {
        const Math<T> distance = ToMath(x.values[i]) - origin[i];
        first[i] += distance;
        second[i] += distance * distance;
      }
    }
  }
  LeavePartial<Math<T>, N>(first, second, place.lane, lanes, of.partial);
}

struct PartialTotal {
  double first, second;
};

// Of the channel of threadIdx.x: all partial sums, in an order that does not change.
__device__ PartialTotal AddPartial(const double* partial, int count, int64_t channel, int64_t channels) {
  __shared__ PartialTotal shared[kThreads / kLanes][kLanes];
  PartialTotal mine = {};
  if (channel < channels) {
    for (int block = threadIdx.y; block < count; block += blockDim.y) {
      mine.first += partial[2 * channels * block + channel];
      mine.second += partial[2 * channels * block + channels + channel];
    }
  }
  shared[threadIdx.y][threadIdx.x] = mine;
  __syncthreads();
  PartialTotal total = {};
  for (int y = 0; y < blockDim.y; ++y) {
    total.first += shared[y][threadIdx.x].first;
    total.second += shared[y][threadIdx.x].second;
  }
  return total;
}

// Of one channel.
template <typename T>
__device__ void Finish(const BatchStatistics& of, int64_t channel, int64_t channels, double first, double second,
                       double pixels) {
  using M = Math<T>;
  const double count = fmax(pixels, 1.0), average = first / count;
  const double spread = fmax(second / count - average * average, 0.0);
  const double slope = static_cast<const M*>(of.scale)[channel] / sqrt(spread + of.epsilon);
  const M nearest = static_cast<M>(average);
  M* const by = static_cast<M*>(of.by);
  by[channel] = nearest;
  by[channels + channel] = static_cast<M>(slope);
  by[2 * channels + channel] = static_cast<M>(static_cast<const M*>(of.shift)[channel] - (average - nearest) * slope);
  static_cast<M*>(of.mean)[channel] = nearest;
  static_cast<M*>(of.variance)[channel] = static_cast<M>(spread * (count / fmax(count - 1, 1.0)));
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    TotalBatchKernel(SumBatchArguments of, int blocks, int64_t pixels, int64_t channels) {
  const int64_t channel = static_cast<int64_t>(blockIdx.x) * kLanes + threadIdx.x;
  const PartialTotal total = AddPartial(of.partial, blocks, channel, channels);
  if (threadIdx.y > 0 || channel >= channels) return;
  const auto relevant = static_cast<double>(CountOf(of.true_pixels, pixels));
  const auto origin = static_cast<double>(OriginOf<T>(of.x, of.added, channel));
  const double first = total.first + relevant * origin;
  const double second = total.second + origin * (2 * total.first + relevant * origin);
  of.statistics.sums[channel] = first;
  of.statistics.sums[channels + channel] = second;
  if (channel == 0) of.statistics.sums[2 * channels] = relevant;
  if (of.alone) Finish<T>(of.statistics, channel, channels, first, second, relevant);
}

template <typename T>
__global__ void __launch_bounds__(kThreads) FinishBatchKernel(BatchStatistics of, int64_t channels) {
  const int64_t channel = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (channel >= channels) return;
  Finish<T>(of, channel, channels, of.sums[channel], of.sums[channels + channel], of.sums[2 * channels]);
}

// How N channels are normalised: (x - nearest) * slope + offset, where x - nearest is exact near the mean.
template <typename M, int N>
struct Normalization {
  M nearest[N], slope[N], offset[N];

  __device__ Normalization(const void* by, int64_t lane, int64_t lanes) {
    const M* const from = static_cast<const M*>(by) + lane * N;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      nearest[i] = from[i];
      slope[i] = from[lanes * N + i];
      offset[i] = from[2 * lanes * N + i];
    }
  }
  __device__ M Of(M x, int i) const { return fma(x - nearest[i], slope[i], offset[i]); }
};

template <typename T, int N>
__global__ void __launch_bounds__(kThreads) NormalizeKernel(NormalizeArguments of, int64_t pixels, int64_t lanes) {
  const Place place = PlaceOf();
  if (place.lane >= lanes) return;
  const Normalization<Math<T>, N> by(of.by, place.lane, lanes);
  for (int64_t pixel = place.pixel; pixel < pixels; pixel += place.step) {
    const int64_t pack = pixel * lanes + place.lane;
    Pack<T, N> x = Load<T, N>(of.x, pack);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const Math<T> y = by.Of(ToMath(x.values[i]), i);
      x.values[i] = FromMath<T>(of.relu && y < 0 ? Math<T>{0} : y);
    }
    Store(x, of.y, pack);
  }
}

template <typename T, int N>
__global__ void __launch_bounds__(kThreads)
    SumGradientsKernel(SumGradientsArguments of, int64_t pixels, int64_t lanes) {
  const Place place = PlaceOf();
  const int64_t relevant = CountOf(of.true_pixels, pixels);
  Math<T> first[N] = {}, second[N] = {};
  if (place.lane < lanes) {
    const Normalization<Math<T>, N> by(of.statistics.by, place.lane, lanes);
    for (int64_t pixel = place.pixel; pixel < relevant; pixel += place.step) {
      const int64_t pack = pixel * lanes + place.lane;
      const Pack<T, N> x = Load<T, N>(of.x, pack), d_y = Load<T, N>(of.d_y, pack);
#pragma unroll
      for (int i = 0; i < N; ++i) {
        const Math<T> value = ToMath(x.values[i]);
        const Math<T> gradient = of.relu && by.Of(value, i) <= 0 ? Math<T>{0} : ToMath(d_y.values[i]);
        first[i] += gradient;
        second[i] += gradient * (value - by.nearest[i]);
      }
    }
  }
  LeavePartial<Math<T>, N>(first, second, place.lane, lanes, of.partial);
}

// Of one channel; first and second are of all ranks.
template <typename T>
__device__ void Finish(const GradientStatistics& of, int64_t channel, int64_t channels, double first, double second) {
  using M = Math<T>;
  const double count = fmax(of.batch_sums[2 * channels], 1.0), average = of.batch_sums[channel] / count;
  const double spread = fmax(of.batch_sums[channels + channel] / count - average * average, 0.0);
  const double inverse = 1 / sqrt(spread + of.epsilon), factor = inverse * static_cast<const M*>(of.scale)[channel];
  const double of_distance = -factor * inverse * second / count;
  M* const by = static_cast<M*>(of.gradient_by);
  by[channel] = static_cast<M>(of_distance);
  by[channels + channel] = static_cast<M>(-factor * first / count - of_distance * (average - static_cast<M>(average)));
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    TotalGradientsKernel(SumGradientsArguments of, int blocks, int64_t channels) {
  using M = Math<T>;
  const int64_t channel = static_cast<int64_t>(blockIdx.x) * kLanes + threadIdx.x;
  const PartialTotal total = AddPartial(of.partial, blocks, channel, channels);
  if (threadIdx.y > 0 || channel >= channels) return;
  const GradientStatistics& to = of.statistics;
  const double count = fmax(to.batch_sums[2 * channels], 1.0), average = to.batch_sums[channel] / count;
  const double spread = fmax(to.batch_sums[channels + channel] / count - average * average, 0.0);
  const double second = (total.second - (average - static_cast<M>(average)) * total.first) / sqrt(spread + to.epsilon);
  to.sums[channel] = total.first;
  to.sums[channels + channel] = second;
  static_cast<M*>(to.d_shift)[channel] = static_cast<M>(total.first);
  static_cast<M*>(to.d_scale)[channel] = static_cast<M>(second);
  if (of.alone) Finish<T>(to, channel, channels, total.first, second);
}

template <typename T>
__global__ void __launch_bounds__(kThreads) FinishGradientsKernel(GradientStatistics of, int64_t channels) {
  const int64_t channel = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (channel >= channels) return;
  Finish<T>(of, channel, channels, of.sums[channel], of.sums[channels + channel]);
}

template <typename T, int N>
__global__ void __launch_bounds__(kThreads)
    NormalizeBackwardKernel(NormalizeBackwardArguments of, int64_t pixels, int64_t lanes) {
  const Place place = PlaceOf();
  if (place.lane >= lanes) return;
  const int64_t relevant = CountOf(of.true_pixels, pixels);
  const Normalization<Math<T>, N> by(of.by, place.lane, lanes);
  Math<T> of_distance[N], constant[N];
#pragma unroll
  for (int i = 0; i < N; ++i) {
    of_distance[i] = static_cast<const Math<T>*>(of.gradient_by)[place.lane * N + i];
    constant[i] = static_cast<const Math<T>*>(of.gradient_by)[(lanes + place.lane) * N + i];
  }
  for (int64_t pixel = place.pixel; pixel < pixels; pixel += place.step) {
    const int64_t pack = pixel * lanes + place.lane;
    Pack<T, N> out = {};
    if (pixel < relevant) {
      const Pack<T, N> x = Load<T, N>(of.x, pack), d_y = Load<T, N>(of.d_y, pack);
      Math<T> d_x[N];
#pragma unroll
      for (int i = 0; i < N; ++i) {
        const Math<T> value = ToMath(x.values[i]);
        const Math<T> gradient = of.relu && by.Of(value, i) <= 0 ? Math<T>{0} : ToMath(d_y.values[i]);
        d_x[i] = gradient * by.slope[i] + (value - by.nearest[i]) * of_distance[i] + constant[i];
      }
      if (of.d_sum != nullptr) {
        const Pack<T, N> d_sum = Load<T, N>(of.d_sum, pack);
#pragma unroll
        for (int i = 0; i < N; ++i) d_x[i] += ToMath(d_sum.values[i]);
      }
#pragma unroll
      for (int i = 0; i < N; ++i) out.values[i] = FromMath<T>(d_x[i]);
    }
    Store(out, of.d_x, pack);
  }
}

// How threads are laid over pixels.
struct Layout {
  int64_t lanes;
  dim3 block, grid;
};
Layout LayoutOf(const Pixels& pixels, int pack, int64_t most_blocks) {
  const int64_t lanes = pixels.channels / pack;
  const auto x = static_cast<unsigned>(std::min<int64_t>(lanes, kLanes));
  const unsigned y = kThreads / x;
  const int64_t across = (lanes + x - 1) / x;
  const int64_t along = std::clamp<int64_t>((pixels.count + y - 1) / y, 1, std::max<int64_t>(1, most_blocks / across));
  return {lanes, dim3(x, y), dim3(static_cast<unsigned>(along), static_cast<unsigned>(across))};
}

// The least that N may be is 1: where channels or memory do not lie such that packs can be read whole.
template <typename T>
bool ReadsPacks(const Pixels& pixels, std::initializer_list<const void*> images) {
  constexpr int64_t kPack = 16 / sizeof(T);
  return pixels.channels % kPack == 0 && std::all_of(images.begin(), images.end(), [](const void* image) {
           return reinterpret_cast<uintptr_t>(image) % 16 == 0;
         });
}

// launch<T, N>() for images of this type.
template <typename Launch>
void Visit(const Pixels& pixels, std::initializer_list<const void*> images, const Launch& launch) {
  const auto visit = [&]<typename T>(T*) {
    if (ReadsPacks<T>(pixels, images)) {
      launch.template operator()<T, 16 / static_cast<int>(sizeof(T))>();
    } else {
      launch.template operator()<T, 1>();
    }
  };
  if (pixels.type == ImageType::kBfloat16) {
    visit(static_cast<Bfloat16*>(nullptr));
  } else if (pixels.type == ImageType::kDouble) {
    visit(static_cast<double*>(nullptr));
  } else {
    visit(static_cast<float*>(nullptr));
  }
}

// Of so many channels each.
unsigned BlocksOf(const Pixels& pixels, int channels) {
  return static_cast<unsigned>((pixels.channels + channels - 1) / channels);
}

}  // namespace

void ScaleAndShift(const Pixels& pixels, const ScaleAndShiftArguments& of, cudaStream_t stream) {
  Visit(pixels, {of.x, of.added, of.sum, of.y}, [&]<typename T, int N>() {
    const Layout layout = LayoutOf(pixels, N, kMostBlocks);
    const auto kernel = of.added == nullptr ? ScaleAndShiftKernel<T, N, false> : ScaleAndShiftKernel<T, N, true>;
    kernel<<<layout.grid, layout.block, 0, stream>>>(of, pixels.count, layout.lanes);
  });
}

void ScaleAndShiftBackward(const Pixels& pixels, const ScaleAndShiftBackwardArguments& of, cudaStream_t stream) {
  Visit(pixels, {of.d_y, of.y, of.d_sum, of.d_x}, [&]<typename T, int N>() {
    const Layout layout = LayoutOf(pixels, N, kMostBlocks);
    ScaleAndShiftBackwardKernel<T, N><<<layout.grid, layout.block, 0, stream>>>(of, pixels.count, layout.lanes);
  });
}

int64_t PartialSums(const Pixels& pixels) { return kMostPartial * 2 * pixels.channels; }

void SumBatch(const Pixels& pixels, const SumBatchArguments& of, cudaStream_t stream) {
  Visit(pixels, {of.x, of.added, of.sum}, [&]<typename T, int N>() {
    const Layout layout = LayoutOf(pixels, N, kMostPartial);
    const auto kernel = of.added == nullptr ? SumBatchKernel<T, N, false> : SumBatchKernel<T, N, true>;
    kernel<<<layout.grid, layout.block, 0, stream>>>(of, pixels.count, layout.lanes);
    TotalBatchKernel<T><<<BlocksOf(pixels, kLanes), dim3(kLanes, kThreads / kLanes), 0, stream>>>(
        of, static_cast<int>(layout.grid.x), pixels.count, pixels.channels);
  });
}

void FinishBatch(const Pixels& pixels, const BatchStatistics& of, cudaStream_t stream) {
  Visit(pixels, {}, [&]<typename T, int N>() {
    FinishBatchKernel<T><<<BlocksOf(pixels, kThreads), kThreads, 0, stream>>>(of, pixels.channels);
  });
}

void Normalize(const Pixels& pixels, const NormalizeArguments& of, cudaStream_t stream) {
  Visit(pixels, {of.x, of.y}, [&]<typename T, int N>() {
    const Layout layout = LayoutOf(pixels, N, kMostBlocks);
    NormalizeKernel<T, N><<<layout.grid, layout.block, 0, stream>>>(of, pixels.count, layout.lanes);
  });
}

void SumGradients(const Pixels& pixels, const SumGradientsArguments& of, cudaStream_t stream) {
  Visit(pixels, {of.d_y, of.x}, [&]<typename T, int N>() {
    const Layout layout = LayoutOf(pixels, N, kMostPartial);
    SumGradientsKernel<T, N><<<layout.grid, layout.block, 0, stream>>>(of, pixels.count, layout.lanes);
    TotalGradientsKernel<T><<<BlocksOf(pixels, kLanes), dim3(kLanes, kThreads / kLanes), 0, stream>>>(
        of, static_cast<int>(layout.grid.x), pixels.channels);
  });
}

void FinishGradients(const Pixels& pixels, const GradientStatistics& of, cudaStream_t stream) {
  Visit(pixels, {}, [&]<typename T, int N>() {
    FinishGradientsKernel<T><<<BlocksOf(pixels, kThreads), kThreads, 0, stream>>>(of, pixels.channels);
  });
}

void NormalizeBackward(const Pixels& pixels, const NormalizeBackwardArguments& of, cudaStream_t stream) {
  Visit(pixels, {of.d_y, of.x, of.d_sum, of.d_x}, [&]<typename T, int N>() {
    const Layout layout = LayoutOf(pixels, N, kMostBlocks);
    NormalizeBackwardKernel<T, N><<<layout.grid, layout.block, 0, stream>>>(of, pixels.count, layout.lanes);
  });
}

}  // namespace ham::trainer::cuda
