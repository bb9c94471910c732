// The passes of attacks, of mining and of training through one network.
//
// On the host each is made as it is asked for. On a device with an accelerator, most are recorded and replayed
// (recorder.h) on a few numbers of rows, so that few recordings serve all. Not recorded are passes in which ranks meet,
// and attacks in training mode.
//
// N: rows, C, H, W: channels, height, width, K: classes. Images are laid out as NewImages(). One thread. LibTorch's
// exceptions pass through.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include <ATen/core/Tensor.h>

#include "worker/trainer/accelerator.h"
#include "worker/trainer/batch.h"
#include "worker/trainer/models/model.h"
#include "worker/trainer/recorder.h"
#include "worker/trainer/train_spec.h"

namespace ham::trainer {

// Logits [N, K] for any N, by batches of at least kMinimumRows rows.
at::Tensor PaddedLogits(const Model& model, const ParameterSet& weights, const at::Tensor& x);

// The least of the sizes that recordings have, of at least `rows` rows: multiples of 8, of sixteenths of the next power
// of two where that is more.
int64_t RecordedRows(int64_t rows);

class NetworkPasses {
 public:
  // `weights`: of the type and on the device of all that it will see. Null: nothing is recorded. The model and the
  // accelerator outlive it.
  NetworkPasses(const Model& model, const ParameterSet& weights, Accelerator* accelerator = nullptr);

  const Model& model() const { return model_; }

  // Lets go of all memory that it has because of the rows that it has seen.
  void ForgetRows();

  // What is attacked and asked from now on: `weights` as they are now. On the host they are not copied: they stay as
  // they are until the next Freeze() or the last question.
  void Freeze(const ParameterSet& weights);

  // Of the frozen weights, in their own type, in evaluation mode: [N, K], N may be 0. On a device they change with the
  // next call.
  at::Tensor Logits(const at::Tensor& x);

  // What Logits() predicts, for less where the attack's precision is lower than the weights': logits in TF32, but of
  // the rows whose label is most nearly tied with another class Logits() themselves. labels: [N] int64 on the host. On
  // a device both change with the next call.
  struct Decision {
    at::Tensor logits;
    // [1]: the least distance from a tie, as a share of the range of a row's logits, of the rows not asked again; below
    // kTie predictions may be other ones. Undefined where the logits are Logits() of all rows.
    at::Tensor distance;
  };
  Decision Decide(const at::Tensor& x, const at::Tensor& labels);
  // Rounding to TF32 moved 10,240 rows of a PreActResNet-18 by 0.00003 in the median and 0.0026 at most.
  static constexpr double kTie = 0.004;

  // From now on attacks make `loss` of these labels, and of the classes `goals` (attack_loss.h), larger. At least one
  // row.
  void Aim(AttackLoss loss, const Batch& batch, const at::Tensor& goals = {});
  // AttackLossGradient() of that, of kMinimumRows rows or more.
  at::Tensor LossGradient(const at::Tensor& logits) const;
  // AttackLossValues() of that: [N].
  at::Tensor LossValues(const at::Tensor& logits) const;
  // x: as many rows. Logits in the attack's precision, and the gradient of the summed loss, as x, by the frozen network
  // (model.h). Both change with the next call.
  struct Point {
    at::Tensor logits;
    at::Tensor gradient;
  };
  Point AttackPoint(const at::Tensor& x);
  // Those logits alone, for any N >= 1; they change with the next call.
  at::Tensor AttackLogits(const at::Tensor& x);

  // [kPasses] rows that each pass of a frozen network was asked for, without padding of its own.
  const std::array<int64_t, kPasses>& passed() const { return passed_; }

  // What is trained on.
  struct TrainingRows {
    const Batch& batch;  // at least kMinimumRows rows; on a device
    int64_t rows;        // of these
    const std::vector<double>& weights;
    double label_smoothing;
  };
  // On a device: Model::WeightGradients() of the loss summed over rows (ham_loss.h). Returns that sum, then
  // device::CountTrained(): [1 + 11 K] float64, which change with the next call. `weights` and `gradients`
  // lie where they lay at the call before.
  at::Tensor TrainOnDevice(const TrainingRows& training, const ParameterSet& weights, TrainingPass* pass,
                           ParameterSet* gradients);

 private:
  // Makes `rows` rows of the memory below usable.
  void Reserve(int64_t rows);
  // How many rows a pass is made on, for `rows` of them.
  int64_t SizeFor(int64_t rows) const { return recorder_.records() ? RecordedRows(rows) : rows; }
  // Into true_rows_.
  void PutTrueRows(int64_t rows);
  // The labels into shares_: mixed ones as they are where `mixed`, else one-hot.
  void PutShares(const Batch& batch, bool mixed);
  // Of the first rows; undefined where the loss has no goals.
  at::Tensor GoalShares(int64_t rows) const;
  void RefreshIfStale();

  const Model& model_;
  const bool on_host_;
  Recorder recorder_;
  ParameterSet frozen_weights_;
  const std::unique_ptr<FrozenNetwork> frozen_;
  bool stale_ = false;  // frozen_ is of weights before these

  AttackLoss loss_ = AttackLoss::kCrossEntropy;
  at::Tensor labels_, targets_, goals_;  // of Aim(), at least kMinimumRows; on the host
  std::array<int64_t, kPasses> passed_ = {};

  // Of a device, where recordings find their numbers, [capacity, ...]: rows beyond those put there keep what they had.
  int64_t capacity_ = 0;
  at::Tensor x_, gradient_;
  at::Tensor shares_;       // [capacity, K] of each class in a label
  at::Tensor goal_shares_;  // [capacity, K] one-hot
  at::Tensor logits_;
  at::Tensor row_labels_;               // int64
  at::Tensor row_weights_;              // float64
  at::Tensor true_rows_;                // [1] int64: of those trained on, or to decide on
  at::Tensor distance_;                 // what Decide returns
  const void* trained_memory_[2] = {};  // weights and gradients of the last TrainOnDevice()
  at::Tensor found_;                    // what TrainOnDevice returns
};

}  // namespace ham::trainer
