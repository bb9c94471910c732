#include "worker/trainer/models/relu_pool.h"

#include <cassert>
#include <cstdint>

#include <ATen/ops/empty_strided.h>

#include "worker/trainer/models/parameter_set.h"

namespace ham::trainer {
namespace {

at::Tensor NewChannelsLast(int64_t n, int64_t c, int64_t h, int64_t w, at::ScalarType type) {
  return at::empty_strided({n, c, h, w}, {c * h * w, 1, w * c, c}, type);
}

bool IsChannelsLast(const at::Tensor& x) {
  const int64_t c = x.size(1), h = x.size(2), w = x.size(3);
  return (x.size(0) == 1 || x.stride(0) == c * h * w) && (c == 1 || x.stride(1) == 1) && x.stride(2) == w * c &&
         x.stride(3) == c;
}

template <typename T>
ReluPooled Forward(const at::Tensor& x) {
  assert(IsChannelsLast(x));
  const int64_t n = x.size(0), c = x.size(1), h = x.size(2) / 2, w = x.size(3) / 2;
  ReluPooled out{NewChannelsLast(n, c, h, w, x.scalar_type()), NewChannelsLast(n, c, h, w, at::kByte)};
  const T* in = x.data_ptr<T>();
  T* values = out.values.data_ptr<T>();
  uint8_t* source = out.source.data_ptr<uint8_t>();
  const int64_t row = 2 * w * c;  // elements of an input row
  for (int64_t line = 0; line < n * h; ++line) {
    for (int64_t column = 0; column < w; ++column) {
      const T* __restrict a = in + 2 * line * row + 2 * column * c;
      T* __restrict v = values + (line * w + column) * c;
      uint8_t* __restrict s = source + (line * w + column) * c;
      for (int64_t i = 0; i < c; ++i) {
        T best = a[i];
        int32_t index = 0;
        index = a[c + i] > best ? 1 : index;
        best = a[c + i] > best ? a[c + i] : best;
        index = a[row + i] > best ? 2 : index;
        best = a[row + i] > best ? a[row + i] : best;
        index = a[row + c + i] > best ? 3 : index;
        best = a[row + c + i] > best ? a[row + c + i] : best;
        const bool cut = best <= 0;  // false for NaN, which must stay visible
        v[i] = cut ? T{0} : best;
        s[i] = static_cast<uint8_t>(cut ? 4 : index);
      }
    }
  }
  return out;
}

template <typename T>
at::Tensor Backward(const ReluPooled& pooled, const at::Tensor& gradient) {
  assert(IsChannelsLast(gradient));
  const int64_t n = gradient.size(0), c = gradient.size(1), h = gradient.size(2), w = gradient.size(3);
  at::Tensor out = NewChannelsLast(n, c, 2 * h, 2 * w, gradient.scalar_type());
  const T* in = gradient.data_ptr<T>();
  const uint8_t* source = pooled.source.data_ptr<uint8_t>();
  T* result = out.data_ptr<T>();
  const int64_t row = 2 * w * c;
  for (int64_t line = 0; line < n * h; ++line) {
    for (int64_t column = 0; column < w; ++column) {
      const T* __restrict g = in + (line * w + column) * c;
      const uint8_t* __restrict s = source + (line * w + column) * c;
      T* __restrict r = result + 2 * line * row + 2 * column * c;
      for (int64_t i = 0; i < c; ++i) {
        r[i] = s[i] == 0 ? g[i] : T{0};
        r[c + i] = s[i] == 1 ? g[i] : T{0};
        r[row + i] = s[i] == 2 ? g[i] : T{0};
        r[row + c + i] = s[i] == 3 ? g[i] : T{0};
      }
    }
  }
  return out;
}

}  // namespace

ReluPooled ReluPool(const at::Tensor& x) {
  return VisitReal(x.scalar_type(), [&]<typename T>(T) { return Forward<T>(x); });
}

at::Tensor ReluPoolBackward(const ReluPooled& pooled, const at::Tensor& gradient) {
  return VisitReal(gradient.scalar_type(), [&]<typename T>(T) { return Backward<T>(pooled, gradient); });
}

}  // namespace ham::trainer
