#include "worker/trainer/class_bias_fit.h"

#include <algorithm>

#include <ATen/TensorOperators.h>
#include <ATen/ops/mean.h>

namespace ham::trainer {
namespace {

// Label of the least robust class that has rows, the lowest on a tie; and the score of the point.
struct Judgement {
  int64_t worst = 0;
  double score = 0;
};

Judgement Judge(const EvaluationCounts& counts) {
  const std::vector<int64_t>& robust = counts.robust[0];
  Judgement out;
  double worst = 2, right = 0, all = 0;
  for (size_t c = 0; c < robust.size(); ++c) {
    if (counts.rows[c] == 0) continue;
    right += static_cast<double>(robust[c]);
    all += static_cast<double>(counts.rows[c]);
    const double share = static_cast<double>(robust[c]) / static_cast<double>(counts.rows[c]);
    if (share < worst) {
      worst = share;
      out.worst = static_cast<int64_t>(c);
    }
  }
  out.score = all > 0 ? worst + right / all : 0;
  return out;
}

}  // namespace

absl::StatusOr<std::vector<ClassBiasPoint>> FitClassBias(const ClassBiasOptions& options, NetworkPasses& passes,
                                                         const ImageSet& data, const std::vector<uint32_t>& rows,
                                                         const AttackSuite& suite, uint64_t seed,
                                                         Collective& collective, const std::function<void()>& tick,
                                                         ParameterSet* weights) {
  const at::Tensor& bias = weights->class_bias();
  std::vector<ClassBiasPoint> path;
  size_t best = 0;
  double best_score = -1;
  for (int round = 0; round <= options.fit_rounds; ++round) {
    auto counts = Evaluate(passes, *weights, data, rows, {suite}, seed, collective, tick);
    if (!counts.ok()) return counts.status();
    const Judgement judgement = Judge(*counts);
    path.push_back({bias.clone(), *std::move(counts)});
    if (judgement.score > best_score) {
      best_score = judgement.score;
      best = path.size() - 1;
    }
    bias.select(0, judgement.worst) += options.fit_step;
    bias.sub_(bias.mean());
  }
  bias.copy_(path[best].bias);
  return path;
}

}  // namespace ham::trainer
