#include "proto/evaluation/intervals.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace ham {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kZ = 1.959963984540054;  // 97.5 % of the normal distribution lie below

// The smallest value with at least `per_mille` of all at or below it.
double QuantileOf(std::vector<double>* values, size_t per_mille) {
  const size_t at_or_below = (per_mille * values->size() + 999) / 1000;
  const auto place = values->begin() + static_cast<std::ptrdiff_t>(at_or_below - 1);
  std::nth_element(values->begin(), place, values->end());
  return *place;
}

}  // namespace

Interval WilsonInterval(int64_t part, int64_t whole) {
  if (whole == 0) return {kNan, kNan};
  const auto n = static_cast<double>(whole);
  const double p = static_cast<double>(part) / n;
  const double scale = 1 + kZ * kZ / n;
  const double center = (p + kZ * kZ / (2 * n)) / scale;
  const double half = kZ * std::sqrt(p * (1 - p) / n + kZ * kZ / (4 * n * n)) / scale;
  // Exactly 0 and 1 where they should be, whatever rounding says.
  return {part == 0 ? 0 : center - half, part == whole ? 1 : center + half};
}

Interval PercentileInterval(std::vector<double> values) {
  std::erase_if(values, [](double value) { return std::isnan(value); });
  if (values.empty()) return {kNan, kNan};
  const double low = QuantileOf(&values, 25);
  return {low, QuantileOf(&values, 975)};
}

}  // namespace ham
