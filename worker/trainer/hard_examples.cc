#include "worker/trainer/hard_examples.h"

#include <algorithm>
#include <cmath>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "worker/trainer/counter_rng.h"
#include "worker/trainer/models/parameter_set.h"

namespace ham::trainer {

std::vector<int64_t> Predictions(const at::Tensor& logits) {
  return VisitReal(logits.scalar_type(), [&]<typename T>(T) {
    const int64_t rows = logits.size(0), classes = logits.size(1);
    const T* scores = logits.const_data_ptr<T>();
    std::vector<int64_t> out(rows);
    for (int64_t row = 0; row < rows; ++row, scores += classes) {
      const bool finite = std::all_of(scores, scores + classes, [](T score) { return std::isfinite(score); });
      out[row] = finite ? std::max_element(scores, scores + classes) - scores : -1;
    }
    return out;
  });
}

std::vector<double> Probabilities(const at::Tensor& logits, int64_t row) {
  return VisitReal(logits.scalar_type(), [&]<typename T>(T) {
    const int64_t classes = logits.size(1);
    const T* scores = logits.const_data_ptr<T>() + row * classes;
    std::vector<double> out(scores, scores + classes);
    const double largest = *std::max_element(out.begin(), out.end());
    double sum = 0;
    for (double& value : out) sum += value = std::exp(value - largest);
    for (double& value : out) value /= sum;
    return out;
  });
}

std::vector<double> TrueClassProbabilities(const at::Tensor& logits, const at::Tensor& labels) {
  std::vector<double> out(logits.size(0));
  for (size_t row = 0; row < out.size(); ++row) {
    out[row] = Probabilities(logits, static_cast<int64_t>(row))[labels.const_data_ptr<int64_t>()[row]];
  }
  return out;
}

absl::StatusOr<Mined> FindHardExamples(const at::Tensor& logits, const at::Tensor& labels,
                                       const std::vector<uint32_t>& ids, uint64_t seed, int epoch,
                                       double retained_easy_share) {
  const auto rows = static_cast<int64_t>(ids.size());
  if (logits.dim() != 2 || logits.size(0) != rows || labels.numel() != rows) {
    return absl::InvalidArgumentError(
        absl::StrCat("logits and labels must have one row for each of the ", rows, " ids"));
  }
  const std::vector<int64_t> predictions = Predictions(logits);
  Mined out{std::vector<uint8_t>(rows), std::vector<uint8_t>(rows)};
  for (int64_t row = 0; row < rows; ++row) {
    const bool hard = predictions[row] != labels.const_data_ptr<int64_t>()[row];
    const bool keep = hard || RandomUnit({.seed = seed,
                                          .purpose = RandomPurpose::kRetainedEasy,
                                          .epoch = static_cast<uint32_t>(epoch),
                                          .sample = ids[row]}) < retained_easy_share;
    out.is_hard[row] = hard;
    out.keep[row] = keep;
    out.hard_count += hard;
    out.kept_count += keep;
  }
  return out;
}

}  // namespace ham::trainer
