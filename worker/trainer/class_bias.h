// One bias a class, added to the logits in attack, loss and inference, that no gradient trains. Pure but for its state;
// one thread at a time.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "worker/trainer/models/parameter_set.h"

namespace ham::trainer {

// The bias that runs along in training (own method, experimental): raises the classes that are less robust than the
// mean.
//   r_c <- decay * r_c + (1 - decay) * share of right rows of class c in the batch   (classes of the batch; first: the
//   share) b_c <- b_c + rate * (mean of r - r_c), then b <- b - mean of b
// Counts are of all ranks, so that all have the same bias.
class RunningClassBias {
 public:
  RunningClassBias(double rate, double decay, int64_t classes) : rate_(rate), decay_(decay), robust_(classes, -1) {}

  // class_rows, class_right: adversarial rows of the batch by class, and those of them classified right.
  void Update(const std::vector<int64_t>& class_rows, const std::vector<int64_t>& class_right, ParameterSet* weights);

  // r, -1 for a class that was not seen yet.
  const std::vector<double>& robust() const { return robust_; }
  void set_robust(std::vector<double> robust) { robust_ = std::move(robust); }

 private:
  const double rate_, decay_;
  std::vector<double> robust_;
};

// `model`: a whole ParameterSet by name. Adds its class bias to the output layer's bias, `output_bias`, as models
// outside know no other; both go to `state` as they were.
void FoldClassBias(const std::string& output_bias, TensorMap* model, TensorMap* state);
// The other way round. A model from elsewhere, with nothing in `state`, gets a class bias of 0.
void UnfoldClassBias(const std::string& output_bias, const TensorMap& state, TensorMap* model);

}  // namespace ham::trainer
