#include "worker/trainer/evaluation/evaluator.h"

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

#include "absl/strings/str_format.h"
#include "proto/evaluation/evaluation_plan.h"
#include "worker/trainer/batch.h"
#include "worker/trainer/device.h"
#include "worker/trainer/evaluation/row_attack.h"
#include "worker/trainer/hard_examples.h"

namespace ham::trainer {
namespace {

// Rows of one rank under one set of weights.
class Shard {
 public:
  // `blocks`: of block_rows rows, of the rank with most rows, so that all ranks meet as often, however many rows
  // survive on each.
  Shard(NetworkPasses& passes, const at::TensorOptions& options, const ImageSet& data, uint64_t seed,
        Collective& collective, int64_t blocks, int64_t block_rows, const std::function<void()>& tick)
      : passes_(passes),
        options_(options),
        data_(data),
        seed_(seed),
        collective_(collective),
        blocks_(blocks),
        block_rows_(block_rows),
        tick_(tick) {}

  // Those of `ids` that are classified right.
  absl::StatusOr<std::vector<uint32_t>> Right(const std::vector<uint32_t>& ids) const {
    return Survivors(ids, [this](const Batch* batch, std::vector<uint8_t>* survives) -> absl::Status {
      if (absl::Status status = collective_.Barrier(); !status.ok() || batch == nullptr) return status;
      const std::vector<int64_t> predictions = Predictions(ToHost(passes_.Logits(batch->x)));
      for (int64_t row = 0; row < batch->rows(); ++row) {
        (*survives)[row] = predictions[row] == batch->labels.const_data_ptr<int64_t>()[row];
      }
      tick_();
      return absl::OkStatus();
    });
  }

  // Those of `ids`, which are classified right, that `attack` does not break.
  absl::StatusOr<std::vector<uint32_t>> Unbroken(const std::vector<uint32_t>& ids, const EvaluationAttack& attack,
                                                 const Ball& ball, uint32_t place) const {
    return Survivors(ids, [&](const Batch* batch, std::vector<uint8_t>* survives) -> absl::Status {
      std::optional<RowAttack> rows;
      if (batch != nullptr) rows.emplace(passes_, *batch, attack, ball, seed_, place);
      for (int leg = 0; leg < RowAttack::Legs(attack); ++leg) {
        if (absl::Status status = collective_.Barrier(); !status.ok()) return status;
        if (rows) rows->MakeLeg(tick_);
      }
      if (rows && !rows->status().ok()) return rows->status();
      for (size_t row = 0; row < survives->size(); ++row) (*survives)[row] = !rows->outcomes()[row].broken;
      return absl::OkStatus();
    });
  }

  void CountClasses(const std::vector<uint32_t>& ids, double* counts) const {
    for (uint32_t id : ids) counts[data_.labels[id]] += 1;
  }

 private:
  // Those of which work(batch, survives) says so; all ranks call it as often: batch is null on one that has no more.
  template <typename Work>
  absl::StatusOr<std::vector<uint32_t>> Survivors(const std::vector<uint32_t>& ids, const Work& work) const {
    std::vector<uint32_t> out;
    for (int64_t block = 0; block < blocks_; ++block) {
      const size_t begin = std::min(ids.size(), static_cast<size_t>(block * block_rows_));
      const size_t end = std::min(ids.size(), begin + block_rows_);
      std::optional<Batch> batch;
      if (begin < end) batch = Converted(GatherBatch(data_, {ids.begin() + begin, ids.begin() + end}), options_);
      std::vector<uint8_t> survives(end - begin);
      if (absl::Status status = work(batch ? &*batch : nullptr, &survives); !status.ok()) return status;
      for (size_t i = begin; i < end; ++i) {
        if (survives[i - begin]) out.push_back(ids[i]);
      }
    }
    return out;
  }

  NetworkPasses& passes_;
  const at::TensorOptions options_;
  const ImageSet& data_;
  const uint64_t seed_;
  Collective& collective_;
  const int64_t blocks_, block_rows_;
  const std::function<void()>& tick_;
};

}  // namespace

absl::Status CheckAttacks(const std::string& field, const std::vector<EvaluationAttack>& attacks, int64_t classes) {
  for (size_t a = 0; a < attacks.size(); ++a) {
    const EvaluationAttack& attack = attacks[a];
    const bool takes_loss = attack.name == AttackName::kPgd || attack.name == AttackName::kApgd;
    const int64_t needed = attack.name == AttackName::kApgdTargeted        ? 4
                           : takes_loss && attack.loss == AttackLoss::kDlr ? 3
                                                                           : 2;
    if (classes < needed) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "%s[%d] is %s with the loss \"dlr\", which needs %d classes; these are %d; use one with another loss", field,
          a, AttackNameOf(attack), needed, classes));
    }
    if (attack.targets >= classes) {
      return absl::InvalidArgumentError(
          absl::StrFormat("%s[%d].targets is %d, of %d classes; allowed is at most %d: all but the true one", field, a,
                          attack.targets, classes, classes - 1));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<EvaluationCounts> Evaluate(NetworkPasses& passes, const ParameterSet& weights, const ImageSet& data,
                                          const std::vector<uint32_t>& rows, const std::vector<AttackSuite>& suites,
                                          uint64_t seed, Collective& collective, const std::function<void()>& tick) {
  const size_t classes = data.class_names.size();
  // Rows, clean, then each suite: by class. Then passes.
  std::vector<double> counts((2 + suites.size()) * classes + kPasses);
  std::vector<uint32_t> ids;
  for (size_t i = collective.rank(); i < rows.size(); i += collective.world_size()) ids.push_back(rows[i]);
  const int64_t most = (static_cast<int64_t>(rows.size()) + collective.world_size() - 1) / collective.world_size();
  const int64_t block_rows = OnHost(weights.flat()) ? kBlockRowsOnHost : kBlockRowsOnDevice;
  passes.Freeze(weights);
  const std::array<int64_t, kPasses> before = passes.passed();
  const Shard shard(passes, weights.options(), data, seed, collective, (most + block_rows - 1) / block_rows, block_rows,
                    tick);
  const absl::StatusOr<std::vector<uint32_t>> right = shard.Right(ids);
  if (!right.ok()) return right.status();
  shard.CountClasses(ids, &counts[0]);
  shard.CountClasses(*right, &counts[classes]);
  for (size_t s = 0; s < suites.size(); ++s) {
    std::vector<uint32_t> unbroken = *right;
    for (uint32_t a = 0; a < suites[s].attacks.size(); ++a) {
      auto left = shard.Unbroken(unbroken, suites[s].attacks[a], {suites[s].norm, suites[s].epsilon}, a);
      if (!left.ok()) return left.status();
      unbroken = *std::move(left);
    }
    shard.CountClasses(unbroken, &counts[(2 + s) * classes]);
  }
  for (int pass = 0; pass < kPasses; ++pass) {
    counts[counts.size() - kPasses + pass] = static_cast<double>(passes.passed()[pass] - before[pass]);
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
  out.passes.assign(counts.end() - kPasses, counts.end());
  return out;
}

}  // namespace ham::trainer
