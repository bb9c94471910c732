#include "worker/trainer/models/relu_pool.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <cstdint>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include <ATen/Parallel.h>
#include <ATen/ops/convolution.h>
#include <ATen/ops/convolution_backward.h>
#include <ATen/ops/empty_strided.h>
#include <ATen/ops/max_pool2d_with_indices.h>
#include <ATen/ops/max_pool2d_with_indices_backward.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/threshold_backward.h>

#include "worker/trainer/device.h"
#include "worker/trainer/models/parameter_set.h"
#include "worker/trainer/simd.h"

namespace ham::trainer {
namespace {

constexpr uint8_t kCut = 4;  // the source of a window that ReLU cut

at::Tensor NewChannelsLast(const at::Tensor& like, int64_t c, int64_t h, int64_t w, at::ScalarType type) {
  return at::empty_strided({like.size(0), c, h, w}, {c * h * w, 1, w * c, c}, like.options().dtype(type));
}

bool IsChannelsLast(const at::Tensor& x) {
  const int64_t c = x.size(1), h = x.size(2), w = x.size(3);
  return (x.size(0) == 1 || x.stride(0) == c * h * w) && (c == 1 || x.stride(1) == 1) && x.stride(2) == w * c &&
         x.stride(3) == c;
}

ReluPooled NewPooled(const at::Tensor& like, int64_t c, int64_t h, int64_t w) {
  return {NewChannelsLast(like, c, h, w, like.scalar_type()), NewChannelsLast(like, c, h, w, at::kByte)};
}

at::Tensor Convolve(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  return at::convolution(x, weight, bias, {1, 1}, {1, 1}, {1, 1}, false, {0, 0}, 1);
}

// work(begin, end) for parts of the images, which do not depend on each other.
template <typename Work>
void EachImage(int64_t images, const Work& work) {
  at::parallel_for(0, images, 1, work);
}

// The four pixels of a window, in row order, of a few channels each.
template <typename T, typename Numbers = typename Simd<T>::Numbers, typename Integers = typename Simd<T>::Integers>
[[gnu::always_inline]] inline void PoolWindow(const Numbers* pixels, Numbers* value, Integers* source) {
  Numbers best = pixels[0];
  Integers index = {};
  for (int k = 1; k < 4; ++k) {
    const Integers larger = pixels[k] > best;
    index = larger ? Integers{} + k : index;
    best = larger ? pixels[k] : best;
  }
  const Integers cut = best <= Numbers{};  // false for NaN, which must stay visible
  *value = cut ? Numbers{} : best;
  *source = cut ? Integers{} + kCut : index;
}

// One pixel of the pooled image from those of a window, each of `count` channels or the lanes that are left.
template <typename T>
[[gnu::always_inline]] inline void StoreWindow(const typename Simd<T>::Numbers* pixels, int64_t count, T* values,
                                               uint8_t* sources) {
  using S = Simd<T>;
  typename S::Numbers value;
  typename S::Integers source;
  PoolWindow<T>(pixels, &value, &source);
  const auto bytes = __builtin_convertvector(source, typename S::Bytes);
  if (count >= S::kLanes) {
    S::Store(value, values);
    S::Store(bytes, sources);
  } else {
    for (int64_t i = 0; i < count; ++i) {
      values[i] = value[i];
      sources[i] = bytes[i];
    }
  }
}

template <typename T>
ReluPooled Pool(const at::Tensor& x) {
  using S = Simd<T>;
  const int64_t c = x.size(1), h = x.size(2) / 2, w = x.size(3) / 2, row = 2 * w * c;
  ReluPooled out = NewPooled(x, c, h, w);
  const T* in = x.const_data_ptr<T>();
  T* values = out.values.data_ptr<T>();
  uint8_t* sources = out.source.data_ptr<uint8_t>();
  EachImage(x.size(0), [=](int64_t begin, int64_t end) {
    Vectorized([=] {
      for (int64_t line = begin * h; line < end * h; ++line) {
        for (int64_t column = 0; column < w; ++column) {
          const T* const window = in + 2 * line * row + 2 * column * c;
          const int64_t place = (line * w + column) * c;
          for (int64_t i = 0; i < c; i += S::kLanes) {
            const int64_t count = c - i;
            const std::array<const T*, 4> from = {window + i, window + c + i, window + row + i, window + row + c + i};
            std::array<typename S::Numbers, 4> pixels = {};
            for (int k = 0; k < 4; ++k) {
              if (count >= S::kLanes) {
                S::Load(from[k], &pixels[k]);
              } else {
                for (int64_t lane = 0; lane < count; ++lane) pixels[k][lane] = from[k][lane];
              }
            }
            StoreWindow<T>(pixels.data(), count, values + place + i, sources + place + i);
          }
        }
      }
    });
  });
  return out;
}

template <typename T>
at::Tensor PoolBackward(const ReluPooled& pooled, const at::Tensor& gradient) {
  using S = Simd<T>;
  const int64_t c = gradient.size(1), h = gradient.size(2), w = gradient.size(3), row = 2 * w * c;
  at::Tensor out = NewChannelsLast(gradient, c, 2 * h, 2 * w, gradient.scalar_type());
  const T* in = gradient.const_data_ptr<T>();
  const uint8_t* sources = pooled.source.const_data_ptr<uint8_t>();
  T* result = out.data_ptr<T>();
  EachImage(gradient.size(0), [=](int64_t begin, int64_t end) {
    Vectorized([=] {
      for (int64_t line = begin * h; line < end * h; ++line) {
        for (int64_t column = 0; column < w; ++column) {
          const int64_t place = (line * w + column) * c;
          T* const window = result + 2 * line * row + 2 * column * c;
          const std::array<T*, 4> to = {window, window + c, window + row, window + row + c};
          int64_t i = 0;
          for (; i + S::kLanes <= c; i += S::kLanes) {
            typename S::Numbers g;
            typename S::Bytes bytes;
            S::Load(in + place + i, &g);
            S::Load(sources + place + i, &bytes);
            const auto source = __builtin_convertvector(bytes, typename S::Integers);
            for (int k = 0; k < 4; ++k) S::Store(source == k ? g : typename S::Numbers{}, to[k] + i);
          }
          for (; i < c; ++i) {
            for (int k = 0; k < 4; ++k) to[k][i] = sources[place + i] == k ? in[place + i] : T{0};
          }
        }
      }
    });
  });
  return out;
}

// An image with a frame of one pixel, which stays 0.
struct Frame {
  int64_t channels, height, width;  // of the image within
  int64_t row() const { return (width + 2) * channels; }
  int64_t size() const { return (height + 2) * row(); }

  template <typename T>
  void Put(const T* image, T* framed) const {
    for (int64_t y = 0; y < height; ++y) {
      std::copy_n(image + y * width * channels, width * channels, framed + (y + 1) * row() + channels);
    }
  }
  template <typename T>
  void Take(const T* framed, T* image) const {
    for (int64_t y = 0; y < height; ++y) {
      std::copy_n(framed + (y + 1) * row() + channels, width * channels, image + y * width * channels);
    }
  }
};

// weight [O, C, 3, 3] -> [9C, O rounded up], kernel pixel by kernel pixel.
template <typename T>
std::vector<T> Transposed(const at::Tensor& weight, int64_t rounded) {
  const int64_t outputs = weight.size(0), taps = weight.size(1) * 9;
  const T* from = weight.const_data_ptr<T>();
  std::vector<T> out(taps * rounded);
  for (int64_t o = 0; o < outputs; ++o) {
    for (int64_t tap = 0; tap < taps; ++tap) out[tap * rounded + o] = from[o * taps + tap];
  }
  return out;
}

// The kernels of a convolution as ConvolveWindow() wants them, with zeros up to a whole number of blocks.
template <typename T>
struct Taps {
  static constexpr int64_t kBlock = 2 * Simd<T>::kLanes;  // outputs at a time: as many sums as a CPU has registers for

  Taps(const at::Tensor& weight, const at::Tensor& bias)
      : outputs(weight.size(0)),
        rounded((outputs + kBlock - 1) / kBlock * kBlock),
        kernels(Transposed<T>(weight, rounded)),
        biases(rounded) {
    std::copy_n(bias.const_data_ptr<T>(), outputs, biases.begin());
  }

  const int64_t outputs, rounded;
  const std::vector<T> kernels;
  std::vector<T> biases;
};

// The convolution at the four pixels of the window whose frame begins at `image`: one block of outputs.
template <typename T, typename Numbers = typename Simd<T>::Numbers>
void ConvolveWindow(const T* image, const Frame& frame, const T* taps, int64_t rounded, const T* biases, Numbers* first,
                    Numbers* second) {
  using S = Simd<T>;
  Numbers a, b;
  S::Load(biases, &a);
  S::Load(biases + S::kLanes, &b);
  for (int k = 0; k < 4; ++k) {
    first[k] = a;
    second[k] = b;
  }
  const int64_t c = frame.channels;
  for (int64_t y = 0; y < 3; ++y) {
    const T* const upper = image + y * frame.row();
    const T* const lower = upper + frame.row();
    for (int64_t i = 0; i < 3 * c; ++i, taps += rounded) {
      S::Load(taps, &a);
      S::Load(taps + S::kLanes, &b);
      const T pixels[4] = {upper[i], upper[c + i], lower[i], lower[c + i]};
      for (int k = 0; k < 4; ++k) {
        first[k] += pixels[k] * a;
        second[k] += pixels[k] * b;
      }
    }
  }
}

template <typename T>
void ConvolveImage(const T* framed, const Frame& frame, const Taps<T>& taps, T* values, uint8_t* sources) {
  using S = Simd<T>;
  const int64_t outputs = taps.outputs, rounded = taps.rounded;
  const T* const kernels = taps.kernels.data();
  const T* const biases = taps.biases.data();
  for (int64_t y = 0; y < frame.height; y += 2) {
    for (int64_t x = 0; x < frame.width; x += 2) {
      const T* const window = framed + y * frame.row() + x * frame.channels;
      for (int64_t o = 0; o < outputs; o += Taps<T>::kBlock) {
        typename S::Numbers first[4], second[4];
        ConvolveWindow(window, frame, kernels + o, rounded, biases + o, first, second);
        StoreWindow<T>(first, outputs - o, values + o, sources + o);
        const int64_t next = o + S::kLanes;
        if (next < outputs) StoreWindow<T>(second, outputs - next, values + next, sources + next);
      }
      values += outputs;
      sources += outputs;
    }
  }
}

template <typename T>
ReluPooled ConvolveAndPool(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  const Frame frame{x.size(1), x.size(2), x.size(3)};
  const int64_t image = frame.channels * frame.height * frame.width;
  const Taps<T> taps(weight, bias);
  ReluPooled out = NewPooled(x, taps.outputs, frame.height / 2, frame.width / 2);
  const int64_t pooled = frame.height / 2 * (frame.width / 2) * taps.outputs;
  const T* in = x.const_data_ptr<T>();
  T* values = out.values.data_ptr<T>();
  uint8_t* sources = out.source.data_ptr<uint8_t>();
  EachImage(x.size(0), [&, in, values, sources](int64_t begin, int64_t end) {
    std::vector<T> framed(frame.size());
    Vectorized([=, to = framed.data(), from = &taps] {
      for (int64_t n = begin; n < end; ++n) {
        frame.Put(in + n * image, to);
        ConvolveImage(to, frame, *from, values + n * pooled, sources + n * pooled);
      }
    });
  });
  return out;
}

// Of few input channels: what a window gives to the 4x4 pixels around it is a sum of patches, one an output.
template <typename T, int64_t c>
void AddPatches(const T* gradient, const uint8_t* sources, const T* patches, int64_t outputs, int64_t row, T* image) {
  using S = Simd<T>;
  constexpr int64_t kSize = 16 * c, kVectors = kSize / S::kLanes;
  typename S::Numbers sums[kVectors] = {};
  for (int64_t o = 0; o < outputs; ++o) {
    const T* const patch = patches + (o * (kCut + 1) + sources[o]) * kSize;
    for (int64_t i = 0; i < kVectors; ++i) {
      typename S::Numbers values;
      S::Load(patch + i * S::kLanes, &values);
      sums[i] += gradient[o] * values;
    }
  }
  T flat[kSize];
  for (int64_t i = 0; i < kVectors; ++i) S::Store(sums[i], flat + i * S::kLanes);
  for (int64_t y = 0; y < 4; ++y) {
    for (int64_t i = 0; i < 4 * c; ++i) image[y * row + i] += flat[y * 4 * c + i];
  }
}

// [O, 5, 4, 4, C]: each kernel where each source puts it; zeros where ReLU cut.
template <typename T>
std::vector<T> Patches(const at::Tensor& weight) {
  const int64_t outputs = weight.size(0), c = weight.size(1);
  const T* kernel = weight.const_data_ptr<T>();
  std::vector<T> out(outputs * (kCut + 1) * 16 * c);
  for (int64_t o = 0; o < outputs; ++o) {
    for (int64_t source = 0; source < kCut; ++source) {
      for (int64_t y = 0; y < 3; ++y, kernel += 3 * c) {
        const int64_t place = (o * (kCut + 1) + source) * 16 + (y + source / 2) * 4 + source % 2;
        std::copy_n(kernel, 3 * c, out.begin() + place * c);
      }
      kernel -= 9 * c;
    }
    kernel += 9 * c;
  }
  return out;
}

// Of many: the kernel's rows, one an output, one after the other.
template <typename T>
void AddKernels(const T* gradient, const uint8_t* sources, const T* kernels, int64_t outputs, int64_t c, int64_t row,
                int32_t* active, T* image) {
  using S = Simd<T>;
  int64_t count = 0;
  for (int64_t o = 0; o < outputs; ++o) {
    active[count] = static_cast<int32_t>(o);
    count += sources[o] != kCut;
  }
  for (int64_t next = 0; next < count; ++next) {
    const int64_t o = active[next], source = sources[o];
    const T g = gradient[o];
    for (int64_t y = 0; y < 3; ++y) {
      T* const to = image + (y + source / 2) * row + source % 2 * c;
      const T* const kernel = kernels + (o * 3 + y) * 3 * c;
      int64_t i = 0;
      for (; i + S::kLanes <= 3 * c; i += S::kLanes) {
        typename S::Numbers sum, values;
        S::Load(to + i, &sum);
        S::Load(kernel + i, &values);
        sum += g * values;
        S::Store(sum, to + i);
      }
      for (; i < 3 * c; ++i) to[i] += g * kernel[i];
    }
  }
}

template <typename T>
at::Tensor ConvolveAndPoolBackward(const ReluPooled& pooled, const at::Tensor& gradient, const at::Tensor& weight) {
  const int64_t c = weight.size(1), outputs = weight.size(0), h = gradient.size(2), w = gradient.size(3);
  const Frame frame{c, 2 * h, 2 * w};
  at::Tensor out = NewChannelsLast(gradient, c, 2 * h, 2 * w, gradient.scalar_type());
  const std::vector<T> patches = c == 1 || c == 3 ? Patches<T>(weight) : std::vector<T>{};
  const T* in = gradient.const_data_ptr<T>();
  const uint8_t* sources = pooled.source.const_data_ptr<uint8_t>();
  T* result = out.data_ptr<T>();
  EachImage(gradient.size(0), [&, in, sources, result](int64_t begin, int64_t end) {
    std::vector<T> framed(frame.size());
    std::vector<int32_t> active(outputs);
    Vectorized([=, image = framed.data(), scratch = active.data(), table = patches.data(),
                kernels = weight.const_data_ptr<T>()] {
      int64_t place = begin * h * w * outputs;
      for (int64_t n = begin; n < end; ++n) {
        std::fill_n(image, frame.size(), T{0});
        for (int64_t window = 0; window < h * w; ++window, place += outputs) {
          T* const to = image + window / w * 2 * frame.row() + window % w * 2 * c;
          if (c == 1) {
            AddPatches<T, 1>(in + place, sources + place, table, outputs, frame.row(), to);
          } else if (c == 3) {
            AddPatches<T, 3>(in + place, sources + place, table, outputs, frame.row(), to);
          } else {
            AddKernels(in + place, sources + place, kernels, outputs, c, frame.row(), scratch, to);
          }
        }
        frame.Take(image, result + n * 4 * h * w * c);
      }
    });
  });
  return out;
}

}  // namespace

ReluPooled ReluPool(const at::Tensor& x) {
  assert(IsChannelsLast(x));
  if (!OnHost(x)) return device::ReluPool(x);
  if (x.scalar_type() == at::kBFloat16) {
    const ReluPooled pooled = ReluPool(x.to(at::kFloat));
    return {pooled.values.to(at::kBFloat16), pooled.source};
  }
  return VisitReal(x.scalar_type(), [&]<typename T>(T) { return Pool<T>(x); });
}

at::Tensor ReluPoolBackward(const ReluPooled& pooled, const at::Tensor& gradient) {
  assert(IsChannelsLast(gradient));
  if (!OnHost(gradient)) return device::ReluPoolBackward(pooled, gradient);
  if (gradient.scalar_type() == at::kBFloat16) {
    return ReluPoolBackward(pooled, gradient.to(at::kFloat)).to(at::kBFloat16);
  }
  return VisitReal(gradient.scalar_type(), [&]<typename T>(T) { return PoolBackward<T>(pooled, gradient); });
}

ReluPooled ConvolveReluPool(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  assert(IsChannelsLast(x) && IsChannelsLast(weight));
  if (!OnHost(x)) return device::ConvolveReluPool(x, weight, bias);
  if (x.scalar_type() == at::kBFloat16) return ReluPool(Convolve(x, weight, bias));
  return VisitReal(x.scalar_type(), [&]<typename T>(T) { return ConvolveAndPool<T>(x, weight, bias); });
}

at::Tensor ConvolveReluPoolBackward(const ReluPooled& pooled, const at::Tensor& gradient, const at::Tensor& weight) {
  assert(IsChannelsLast(gradient) && IsChannelsLast(weight));
  if (!OnHost(gradient)) return device::ConvolveReluPoolBackward(pooled, gradient, weight);
  if (gradient.scalar_type() == at::kBFloat16) {
    return ConvolveReluPoolBackward(pooled, gradient.to(at::kFloat), weight.to(at::kFloat)).to(at::kBFloat16);
  }
  return VisitReal(gradient.scalar_type(),
                   [&]<typename T>(T) { return ConvolveAndPoolBackward<T>(pooled, gradient, weight); });
}

namespace device {

ReluPooled ReluPool(const at::Tensor& x) {
  auto [values, source] = at::max_pool2d_with_indices(at::relu(x), {2, 2});
  return {std::move(values), std::move(source)};
}

at::Tensor ReluPoolBackward(const ReluPooled& pooled, const at::Tensor& gradient) {
  const at::Tensor passed = at::threshold_backward(gradient, pooled.values, 0);
  // Of the image that was pooled, only the shape is looked at.
  const at::Tensor image =
      NewChannelsLast(gradient, gradient.size(1), 2 * gradient.size(2), 2 * gradient.size(3), gradient.scalar_type());
  return at::max_pool2d_with_indices_backward(passed, image, {2, 2}, {2, 2}, {0, 0}, {1, 1}, false, pooled.source);
}

ReluPooled ConvolveReluPool(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  return device::ReluPool(Convolve(x, weight, bias));
}

at::Tensor ConvolveReluPoolBackward(const ReluPooled& pooled, const at::Tensor& gradient, const at::Tensor& weight) {
  const at::Tensor at_output = device::ReluPoolBackward(pooled, gradient);
  const at::Tensor image =
      NewChannelsLast(at_output, weight.size(1), at_output.size(2), at_output.size(3), at_output.scalar_type());
  return std::get<0>(at::convolution_backward(at_output, image, weight, std::nullopt, {1, 1}, {1, 1}, {1, 1}, false,
                                              {0, 0}, 1, {true, false, false}));
}

}  // namespace device
}  // namespace ham::trainer
