// One run of an attack, made an iteration of all its rows at a time: so rows leave as soon as they break.
//
// N: rows, C, H, W: channels, height, width, K: classes. One thread. LibTorch's exceptions pass through.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include <ATen/core/Tensor.h>

#include "worker/trainer/batch.h"
#include "worker/trainer/counter_rng.h"
#include "worker/trainer/network_passes.h"
#include "worker/trainer/perturbation.h"
#include "worker/trainer/train_spec.h"

namespace ham::trainer {

// What a run attacks. Not padded; on the device of the weights.
struct AttackedRows {
  Batch batch;         // N >= 1 rows, which the network classifies right
  at::Tensor targets;  // [N] int64 on the host: the class that each is to be taken for; undefined if any will do
  Ball ball;
  RandomKey key;  // with the row's id as its sample: of all that is random about a row
};

// A row's points depend on the row alone, to the last bit, not on those beside it, on when these leave or in which
// order they lie (on a device, but for rounding).
class AttackRun {
 public:
  virtual ~AttackRun() = default;

  // Calls of Next().
  virtual int iterations() const = 0;

  struct Points {
    at::Tensor x;       // [N, C, H, W], in [0, 1]; undefined where the attack proposes none
    at::Tensor logits;  // [N, K] there, in the attack's precision: they only propose; undefined where it does not ask
    at::Tensor inside;  // [N] bool: whether x lies in the ball; undefined if all do
  };
  // Where the attack goes next. They change with the next call.
  virtual Points Next() = 0;

  // Goes on with those rows alone whose `keep` is true; at least one. keep: one byte a row.
  virtual void Keep(const std::vector<uint8_t>& keep) = 0;
};

}  // namespace ham::trainer
