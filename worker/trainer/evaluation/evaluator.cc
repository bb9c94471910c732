#include "worker/trainer/evaluation/evaluator.h"

#include <algorithm>
#include <utility>

#include "worker/trainer/batch.h"
#include "worker/trainer/device.h"
#include "worker/trainer/hard_examples.h"
#include "worker/trainer/pgd_attack.h"

namespace ham::trainer {
namespace {

constexpr int64_t kBlockRowsOnHost = 128, kBlockRowsOnDevice = 512;
constexpr uint32_t kRestartsPerAttack = 128;  // more than a spec may ask for: keys of attacks do not overlap

// Rows of one rank under one set of weights.
class Shard {
 public:
  // `blocks`: of block_rows rows, of the rank with most rows, so that all ranks meet as often, however many rows
  // survive on each. `images`: [kPasses], those that took each pass are added.
  Shard(NetworkPasses& passes, const at::TensorOptions& options, const ImageSet& data, uint64_t seed,
        Collective& collective, int64_t blocks, int64_t block_rows, double* images, const std::function<void()>& tick)
      : passes_(passes),
        options_(options),
        data_(data),
        seed_(seed),
        collective_(collective),
        blocks_(blocks),
        block_rows_(block_rows),
        images_(images),
        tick_(tick) {}

  // Those of `ids` that are classified right.
  absl::StatusOr<std::vector<uint32_t>> Right(const std::vector<uint32_t>& ids) const {
    return Survivors(ids, [](const Batch& batch, auto*) -> absl::StatusOr<at::Tensor> { return batch.x; });
  }

  // Those of `ids` that are still classified right after one run of `attack`.
  absl::StatusOr<std::vector<uint32_t>> Unbroken(const std::vector<uint32_t>& ids, const EvaluationAttack& attack,
                                                 const Ball& ball, uint32_t run) const {
    return Survivors(ids, [&](const Batch& batch, std::vector<uint8_t>* broken) -> absl::StatusOr<at::Tensor> {
      const at::Tensor start =
          attack.random_start
              ? RandomStart(batch, ball, {.seed = seed_, .purpose = RandomPurpose::kEvaluationStart, .step = run})
              : batch.x;
      Ascent ascent{attack.loss, ball, attack.step_size, attack.steps};
      if (attack.judged_at == JudgedAt::kAny) {
        ascent.observe = [&](const at::Tensor& x, const at::Tensor& logits) { MarkIfBroken(x, logits, batch, broken); };
      }
      images_[kInputGradientPass] += static_cast<double>(batch.rows() * attack.steps);
      return Ascend(passes_, batch, start, ascent, tick_);
    });
  }

  void CountClasses(const std::vector<uint32_t>& ids, double* counts) const {
    for (uint32_t id : ids) counts[data_.labels[id]] += 1;
  }

 private:
  // The attack's logits may be of lower precision: they only propose.
  void MarkIfBroken(const at::Tensor& x, const at::Tensor& logits, const Batch& batch,
                    std::vector<uint8_t>* broken) const {
    std::vector<uint8_t> proposed = *broken;
    MarkWrong(Predictions(ToHost(logits)), batch, &proposed);
    if (proposed == *broken) return;
    MarkWrong(PredictionsAt(x.narrow(0, 0, batch.rows())), batch, broken);
  }

  std::vector<int64_t> PredictionsAt(const at::Tensor& x) const {
    images_[kForwardPass] += static_cast<double>(x.size(0));
    return Predictions(ToHost(passes_.Logits(x)));
  }

  static void MarkWrong(const std::vector<int64_t>& predictions, const Batch& batch, std::vector<uint8_t>* broken) {
    for (int64_t row = 0; row < batch.rows(); ++row) {
      if (predictions[row] != batch.labels.const_data_ptr<int64_t>()[row]) (*broken)[row] = 1;
    }
  }

  // Those that are classified right at what perturb(batch, broken) returns, and which it does not mark in `broken`.
  template <typename Perturb>
  absl::StatusOr<std::vector<uint32_t>> Survivors(const std::vector<uint32_t>& ids, const Perturb& perturb) const {
    std::vector<uint32_t> out;
    for (int64_t block = 0; block < blocks_; ++block) {
      if (absl::Status status = collective_.Barrier(); !status.ok()) return status;
      const size_t begin = std::min(ids.size(), static_cast<size_t>(block * block_rows_));
      const size_t end = std::min(ids.size(), begin + block_rows_);
      if (begin == end) continue;
      const Batch batch = Converted(GatherBatch(data_, {ids.begin() + begin, ids.begin() + end}), options_);
      std::vector<uint8_t> broken(end - begin, 0);
      const absl::StatusOr<at::Tensor> x = perturb(batch, &broken);
      if (!x.ok()) return x.status();
      MarkWrong(PredictionsAt(*x), batch, &broken);
      for (size_t i = begin; i < end; ++i) {
        if (broken[i - begin] == 0) out.push_back(ids[i]);
      }
      tick_();
    }
    return out;
  }

  NetworkPasses& passes_;
  const at::TensorOptions options_;
  const ImageSet& data_;
  const uint64_t seed_;
  Collective& collective_;
  const int64_t blocks_, block_rows_;
  double* const images_;
  const std::function<void()>& tick_;
};

}  // namespace

absl::StatusOr<EvaluationCounts> Evaluate(NetworkPasses& passes, const ParameterSet& weights, const ImageSet& data,
                                          const std::vector<uint32_t>& rows, const std::vector<AttackSuite>& suites,
                                          uint64_t seed, Collective& collective, const std::function<void()>& tick) {
  const size_t classes = data.class_names.size();
  // Rows, clean, then each suite: by class. Then passes.
  std::vector<double> counts((2 + suites.size()) * classes + kPasses);
  double* const images = &counts[counts.size() - kPasses];
  std::vector<uint32_t> ids;
  for (size_t i = collective.rank(); i < rows.size(); i += collective.world_size()) ids.push_back(rows[i]);
  const int64_t most = (static_cast<int64_t>(rows.size()) + collective.world_size() - 1) / collective.world_size();
  const int64_t block_rows = OnHost(weights.flat()) ? kBlockRowsOnHost : kBlockRowsOnDevice;
  passes.Freeze(weights);
  const Shard shard(passes, weights.options(), data, seed, collective, (most + block_rows - 1) / block_rows, block_rows,
                    images, tick);
  const absl::StatusOr<std::vector<uint32_t>> right = shard.Right(ids);
  if (!right.ok()) return right.status();
  shard.CountClasses(ids, &counts[0]);
  shard.CountClasses(*right, &counts[classes]);
  for (size_t s = 0; s < suites.size(); ++s) {
    std::vector<uint32_t> unbroken = *right;
    for (uint32_t a = 0; a < suites[s].attacks.size(); ++a) {
      const EvaluationAttack& attack = suites[s].attacks[a];
      for (int restart = 0; restart < attack.restarts; ++restart) {
        auto left =
            shard.Unbroken(unbroken, attack, {suites[s].norm, suites[s].epsilon}, a * kRestartsPerAttack + restart);
        if (!left.ok()) return left.status();
        unbroken = *std::move(left);
      }
    }
    shard.CountClasses(unbroken, &counts[(2 + s) * classes]);
  }
  if (absl::Status status = collective.Barrier(); !status.ok()) return status;
  if (auto status = collective.AllReduceSum(counts.data(), static_cast<int64_t>(counts.size())); !status.ok()) {
    return status;
  }
  EvaluationCounts out;
  const auto part = [&](size_t index) {
    return std::vector<int64_t>(counts.begin() + index * classes, counts.begin() + (index + 1) * classes);
  };
  out.rows = part(0);
  out.clean = part(1);
  for (size_t s = 0; s < suites.size(); ++s) out.robust.push_back(part(2 + s));
  out.passes.assign(images, images + kPasses);
  return out;
}

}  // namespace ham::trainer
