#include "worker/trainer/matmul_peak.h"

#include <algorithm>
#include <cstdint>
#include <optional>
#include <vector>

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cos.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/sin.h>
#include <c10/util/Exception.h>

namespace ham::trainer {
namespace {

constexpr int64_t kSmallest = 256, kLargest = 8192;
constexpr double kLongestProduct = 0.02, kSecondsInAll = 0.06;

struct Product {
  // Numbers of all signs and exponents: a device that computes with zeros draws less power and is quicker.
  Product(int64_t size, const at::TensorOptions& options) : flops(2.0 * size * size * size) {
    const at::Tensor angles = at::arange(1, size + 1, options.dtype(at::kFloat));
    a = (at::sin(angles).unsqueeze(1) * at::cos(angles * 0.7)).to(options.dtype().toScalarType());
    b = a.t().contiguous();
    out = at::empty({size, size}, options);
  }

  double Seconds(PhaseClock& clock) {
    clock.Mark();
    at::mm_out(out, a, b);
    clock.Mark();
    const std::vector<double> times = clock.Take(2);
    return std::max(times[1] - times[0], 1e-9);
  }

  const double flops;
  at::Tensor a, b, out;
};

}  // namespace

double MeasureMatmulPeak(const at::TensorOptions& options, PhaseClock& clock) {
  std::optional<Product> product;
  for (int64_t size = kSmallest; size <= kLargest; size *= 2) {
    try {
      product.emplace(size, options);
      product->Seconds(clock);                // what the first of a size prepares
    } catch (const c10::OutOfMemoryError&) {  // of a GPU that others use, too
      if (size == kSmallest) throw;
      product.emplace(size / 2, options);
      break;
    }
    if (8 * product->Seconds(clock) >= kLongestProduct) break;
  }
  double best = product->Seconds(clock);
  for (double spent = best; spent < kSecondsInAll;) {
    const double seconds = product->Seconds(clock);
    best = std::min(best, seconds);
    spent += seconds;
  }
  return product->flops / best;
}

}  // namespace ham::trainer
