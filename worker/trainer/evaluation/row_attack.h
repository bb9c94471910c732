// One attack of an evaluation, with all its targets and restarts, on a block of rows.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include <ATen/core/Tensor.h>

#include "absl/status/status.h"
#include "proto/evaluation/row_outcome.h"
#include "worker/trainer/evaluation/attack_run.h"

namespace ham::trainer {

// Attack `place` of a suite draws from steps of keys from kRestartsPerAttack * place on: more than a spec may ask for,
// so keys of attacks do not overlap.
inline constexpr uint32_t kRestartsPerAttack = 128;

// True logit minus largest other of row `row` of logits [N, K], on the host; -infinity where one is not finite.
float MarginOf(const at::Tensor& logits, int64_t row, int64_t label);

// The run of attack.name on these rows, which have targets if the attack is targeted.
std::unique_ptr<AttackRun> MakeAttackRun(NetworkPasses& passes, const AttackedRows& rows,
                                         const EvaluationAttack& attack, int restart);

// Runs one after the other: for each target, by falling logits of the clean image (of equal ones the lower class
// first), each restart. Rows that are broken take no part in what comes after. N: rows. One thread.
class RowAttack {
 public:
  // batch: N >= 1 rows, not padded, which the weights that `passes` has frozen classify right. `place` of the attack in
  // its suite: of the key of all that is random, with (seed, id, target, restart).
  RowAttack(NetworkPasses& passes, const Batch& batch, const EvaluationAttack& attack, const Ball& ball, uint64_t seed,
            uint32_t place);

  // Legs are of about as much work, so that many who attack rows of their own stay close together: as many, whatever
  // becomes of the rows.
  static int Legs(const EvaluationAttack& attack);
  // Makes the next one. `tick` is called after each iteration.
  void MakeLeg(const std::function<void()>& tick);

  // [N], in the order of the batch; final after all legs. Whether a row is broken, and its margin, is for the original
  // network to say, in the weights' own type; that of a broken row is where it broke.
  const std::vector<RowOutcome>& outcomes() const { return outcomes_; }

  // Internal where a row broke at a point outside the ball or [0, 1]: the attack is at fault, and no outcome counts.
  const absl::Status& status() const { return status_; }

 private:
  void StartRun();
  void EndRun();
  // Of these points.
  void Take(const AttackRun::Points& points);
  // Asks the original network at best_x_ for the rows that `asks` names, [rows left], and lets the broken ones go.
  void Judge(const std::vector<uint8_t>& asks);
  std::vector<uint8_t> Proposed();
  // Of the rows left that broke at best_x_: whose `keep` is 0.
  void CheckBall(const std::vector<uint8_t>& keep);
  void LetGo(const std::vector<uint8_t>& keep);
  int64_t LabelOf(size_t row) const;

  NetworkPasses& passes_;
  const EvaluationAttack attack_;
  const Ball ball_;
  const RandomKey key_;
  at::Tensor by_logit_;  // [N, K] int64 on the host: classes of each row of the batch by falling logits; if targeted

  int run_ = 0, leg_ = 0;       // of this run
  Batch left_;                  // not broken
  std::vector<size_t> places_;  // of these in the batch
  std::unique_ptr<AttackRun> current_;
  int made_ = 0;                     // iterations of it
  at::Tensor best_x_, best_margin_;  // of the rows left; the latter [N] of the attack's logits, or judged
  at::Tensor one_hot_;               // labels of the rows left, [N, K]
  bool judged_ = true;               // best_margin_ is of the original network
  std::vector<RowOutcome> outcomes_;
  absl::Status status_;
};

}  // namespace ham::trainer
