#include "worker/trainer/evaluation/model_checks.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include <ATen/TensorOperators.h>
#include <ATen/ops/abs.h>
#include <ATen/ops/amax.h>
#include <ATen/ops/argsort.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/flip.h>
#include <ATen/ops/linalg_vector_norm.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "worker/trainer/batch.h"
#include "worker/trainer/checkpoint.h"
#include "worker/trainer/device.h"
#include "worker/trainer/evaluation/apgd.h"
#include "worker/trainer/evaluation/row_attack.h"
#include "worker/trainer/hard_examples.h"

namespace ham::trainer {
namespace {

constexpr int kForwards = 5;
constexpr double kLargestGap = 1e-4;
constexpr double kSumSlack = 1e-5;
constexpr int kLargeBallSteps = 20;
constexpr double kLargeBallShare = 0.1;
constexpr double kLateRiseShare = 0.05;
constexpr int64_t kLeastRisingRows = 10;

// Of two [N, K] on the host.
struct Difference {
  double gap = 0;           // largest distance of two rows divided by their lengths
  int64_t predictions = 0;  // that differ
  bool any() const { return predictions > 0 || !(gap <= kLargestGap); }
};

Difference Compare(const at::Tensor& a, const at::Tensor& b) {
  const auto length = [](const at::Tensor& rows) {
    return at::linalg_vector_norm(rows, 2, at::OptionalIntArrayRef({1}), /*keepdim=*/true);
  };
  const at::Tensor distance = length(a / (length(a) + 1e-10) - b / (length(b) + 1e-10));
  const std::vector<int64_t> of_a = Predictions(a), of_b = Predictions(b);
  Difference out{at::amax(distance).item<double>(), 0};
  for (size_t row = 0; row < of_a.size(); ++row) out.predictions += of_a[row] != of_b[row];
  return out;
}

bool AreProbabilities(const at::Tensor& logits) {
  for (int64_t row = 0; row < logits.size(0); ++row) {
    const double* const of_row = logits.const_data_ptr<double>() + row * logits.size(1);
    double sum = 0;
    for (int64_t k = 0; k < logits.size(1); ++k) {
      if (!(of_row[k] >= 0 && of_row[k] <= 1)) return false;
      sum += of_row[k];
    }
    if (!(std::abs(sum - 1) <= kSumSlack)) return false;
  }
  return true;
}

// The largest number of each row of [N, ...], without sign, NaN if one is: [N] on the host.
std::vector<double> LargestOfRows(const at::Tensor& rows) {
  const at::Tensor largest = ToHost(at::amax(at::abs(AsRows(rows)), {1})).to(at::kDouble);
  return {largest.const_data_ptr<double>(), largest.const_data_ptr<double>() + largest.size(0)};
}

class NetworkChecks {
 public:
  NetworkChecks(NetworkPasses& passes, Batch batch, const EvaluationInputs& inputs, const std::function<void()>& tick)
      : passes_(passes), batch_(std::move(batch)), inputs_(inputs), tick_(tick) {}

  std::vector<EvaluationWarning> Run() {
    CheckForwards();
    CheckGradients();
    CheckLargeBalls();
    CheckRise();
    return std::move(out_);
  }

 private:
  void Warn(WarningType type, std::string message) { out_.push_back({type, std::move(message)}); }
  // Of the network itself: [N, K] float64 on the host.
  at::Tensor LogitsOf(const at::Tensor& x) {
    tick_();
    return ToHost(passes_.Logits(x)).to(at::kDouble);
  }
  RandomKey KeyOf(uint32_t place) const {
    return {.seed = inputs_.seed, .purpose = RandomPurpose::kEvaluationStart, .step = place * kRestartsPerAttack};
  }

  void CheckForwards();
  void CheckCompany();
  void CheckGradients();
  void CheckLargeBalls();
  void CheckRise();
  // The largest loss of each row up to each point of a run, and whether the run left it standing.
  struct Rise {
    std::vector<std::vector<double>> best;  // [points][N]
    std::vector<uint8_t> stands;            // [N]
  };
  Rise Follow(AttackRun* run);

  NetworkPasses& passes_;
  const Batch batch_;
  const EvaluationInputs& inputs_;
  const std::function<void()>& tick_;
  at::Tensor logits_;
  std::vector<EvaluationWarning> out_;
};

void NetworkChecks::CheckForwards() {
  logits_ = LogitsOf(batch_.x);
  Difference largest;
  const auto include = [&](const Difference& found) {
    largest.gap = std::max(largest.gap, found.gap);
    largest.predictions = std::max(largest.predictions, found.predictions);
  };
  for (int pass = 1; pass < kForwards; ++pass) include(Compare(logits_, LogitsOf(batch_.x)));
  at::Tensor reversed = batch_.x.clone();
  reversed.copy_(at::flip(batch_.x, {0}));
  include(Compare(logits_, at::flip(LogitsOf(reversed), {0})));
  if (AreProbabilities(logits_)) {
    Warn(WarningType::kProbabilities,
         absl::StrFormat("the outputs for all of %d images are in [0, 1] and sum to 1, as probabilities do",
                         batch_.rows()));
  }
  if (!largest.any()) return CheckCompany();
  Warn(
      WarningType::kRandomized,
      absl::StrFormat("in %d passes of the same %d images up to %d predictions differ, and logits of length 1 by up to "
                      "%.2g; allowed is %g",
                      kForwards + 1, batch_.rows(), largest.predictions, largest.gap, kLargestGap));
}

// Others beside the first half, but as many: a device may compute other numbers of rows otherwise.
void NetworkChecks::CheckCompany() {
  const int64_t rows = batch_.rows(), half = (rows + 1) / 2;
  at::Tensor x = batch_.x.clone();
  for (int64_t row = half; row < rows; ++row) x[row].copy_(batch_.x[0]);
  const Difference found = Compare(logits_.narrow(0, 0, half), LogitsOf(x).narrow(0, 0, half));
  if (!found.any()) return;
  Warn(WarningType::kDynamicForward,
       absl::StrFormat("with other images beside them, %d of %d predictions differ, and logits of length 1 by up to "
                       "%.2g; allowed is %g",
                       found.predictions, half, found.gap, kLargestGap));
}

void NetworkChecks::CheckGradients() {
  const at::Tensor start = ApgdStart({batch_, {}, inputs_.ball, KeyOf(0)});
  const AttackLoss other = passes_.model().classes() >= 3 ? AttackLoss::kDlr : AttackLoss::kMargin;
  std::vector<std::string> zeros;
  int64_t most_zeros = 0, not_finite = 0;
  for (const AttackLoss loss : {AttackLoss::kCrossEntropy, other}) {
    passes_.Aim(loss, batch_);
    const NetworkPasses::Point point = passes_.AttackPoint(start);
    tick_();
    const std::vector<double> gradients = LargestOfRows(point.gradient), logits = LargestOfRows(point.logits);
    const int64_t zero = std::count(gradients.begin(), gradients.end(), 0.0);
    int64_t wrong = 0;
    for (size_t row = 0; row < gradients.size(); ++row) wrong += !std::isfinite(gradients[row] + logits[row]);
    zeros.push_back(absl::StrFormat("%d of %s", zero, AttackLossName(loss)));
    most_zeros = std::max(most_zeros, zero);
    not_finite = std::max(not_finite, wrong);
  }
  if (most_zeros > 0) {
    Warn(WarningType::kZeroGradients,
         absl::StrFormat("of %d images, where apgd starts, the gradient is 0 in all pixels for %s and for %s",
                         batch_.rows(), zeros[0], zeros[1]));
  }
  if (not_finite > 0) {
    Warn(WarningType::kOutOfRange,
         absl::StrFormat("for %d of %d images, where apgd starts, logits or gradients are not "
                         "finite",
                         not_finite, batch_.rows()));
  }
}

void NetworkChecks::CheckLargeBalls() {
  EvaluationAttack apgd;
  apgd.name = AttackName::kApgd;
  apgd.steps = kLargeBallSteps;
  Batch left = batch_;
  std::vector<std::string> found;
  for (const int times : {2, 4}) {  // what breaks in the smaller ball lies in the larger one
    Ball ball = inputs_.ball;
    ball.radius *= times;
    if (ball.norm == Norm::kLinf) ball.radius = std::clamp(ball.radius, times * 8 / 255.0, 1.0);
    RowAttack rows(passes_, left, apgd, ball, inputs_.seed, /*place=*/0);
    for (int leg = 0; leg < RowAttack::Legs(apgd); ++leg) rows.MakeLeg(tick_);
    std::vector<uint8_t> stands;
    for (const RowOutcome& outcome : rows.outcomes()) stands.push_back(!outcome.broken);
    if (std::find(stands.begin(), stands.end(), 1) == stands.end()) return;
    left = SelectRows(left, stands);
    found.push_back(absl::StrFormat("%d at %.4g", left.rows(), ball.radius));
  }
  if (static_cast<double>(left.rows()) <= kLargeBallShare * static_cast<double>(batch_.rows())) return;
  Warn(WarningType::kRobustAtLargeEpsilon,
       absl::StrFormat("of %d images %d steps of apgd leave %s and %s, where a tenth at most should stand; or epsilon, "
                       "%.4g, is far below that of the training",
                       batch_.rows(), kLargeBallSteps, found[0], found[1], inputs_.ball.radius));
}

NetworkChecks::Rise NetworkChecks::Follow(AttackRun* run) {
  Rise out;
  out.stands.assign(batch_.rows(), 1);
  for (int i = 0; i < run->iterations(); ++i) {
    const AttackRun::Points points = run->Next();
    tick_();
    const at::Tensor logits = points.logits.defined() ? points.logits : passes_.AttackLogits(points.x);
    const at::Tensor loss = ToHost(passes_.LossValues(logits)).to(at::kDouble), on_host = ToHost(logits);
    out.best.emplace_back(loss.const_data_ptr<double>(), loss.const_data_ptr<double>() + batch_.rows());
    for (int64_t row = 0; row < batch_.rows(); ++row) {
      if (i > 0) out.best[i][row] = std::max(out.best[i - 1][row], out.best[i][row]);
      out.stands[row] &= MarginOf(on_host, row, batch_.labels.const_data_ptr<int64_t>()[row]) > 0;
    }
  }
  return out;
}

void NetworkChecks::CheckRise() {
  const auto has_loss = [](const EvaluationAttack& attack) {
    return attack.name != AttackName::kFabTargeted && attack.name != AttackName::kSquare;
  };
  const auto first = std::find_if(inputs_.attacks.begin(), inputs_.attacks.end(), has_loss);
  if (first == inputs_.attacks.end()) return;
  EvaluationAttack attack = *first;
  attack.judged_at = JudgedAt::kAny;  // to see the logits of all its points
  AttackedRows rows{batch_, {}, inputs_.ball, KeyOf(static_cast<uint32_t>(first - inputs_.attacks.begin()))};
  if (attack.targets > 0) {
    rows.targets = at::argsort(logits_, /*stable=*/true, /*dim=*/1, /*descending=*/true).select(1, 1).contiguous();
  }
  const std::unique_ptr<AttackRun> run = MakeAttackRun(passes_, rows, attack, /*restart=*/0);
  const Rise rise = Follow(run.get());
  const auto mean_at = [&](size_t point) {
    double sum = 0;
    for (size_t row = 0; row < rise.stands.size(); ++row) sum += rise.stands[row] ? rise.best[point][row] : 0;
    return sum / static_cast<double>(std::max<int64_t>(std::count(rise.stands.begin(), rise.stands.end(), 1), 1));
  };
  const int64_t standing = std::count(rise.stands.begin(), rise.stands.end(), 1);
  const int last_steps = std::max(attack.steps / 10, 1);
  const double end = mean_at(attack.steps), late = end - mean_at(attack.steps - last_steps), all = end - mean_at(0);
  if (standing < kLeastRisingRows || !(late > kLateRiseShare * all)) return;
  Warn(WarningType::kLossStillRising,
       absl::StrFormat(
           "in the last %d of %d steps of %s the loss of %d images that it leaves rises by %.3g, %.0f %% of "
           "its whole rise; up to %.0f %% is usual: more steps may find more",
           last_steps, attack.steps, AttackNameOf(attack), standing, late, 100 * late / all, 100 * kLateRiseShare));
}

}  // namespace

std::vector<EvaluationWarning> NetworkWarnings(NetworkPasses& passes, const ParameterSet& weights,
                                               const std::string& weights_digest, const EvaluationInputs& inputs,
                                               const std::vector<uint32_t>& rows, const std::function<void()>& tick) {
  std::vector<uint32_t> ids;
  for (const uint32_t row : rows) ids.push_back(inputs.ids[row]);
  passes.Freeze(weights);
  std::vector<EvaluationWarning> out;
  if (!ids.empty()) {
    out = NetworkChecks(passes, Converted(GatherBatch(inputs.images, ids), weights.options()), inputs, tick).Run();
  }
  const std::string digest = ParametersDigest(ToHost(weights.flat()).to(at::kFloat));
  if (digest != weights_digest) {
    out.push_back({WarningType::kDynamicForward,
                   absl::StrFormat("the weights changed during the evaluation: their digest was %s and is %s",
                                   weights_digest, digest)});
  }
  return out;
}

}  // namespace ham::trainer
