// How many rows a GPU has memory for, found out once it had too little for those that a job asks for.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "worker/trainer/models/parameter_set.h"
#include "worker/trainer/network_passes.h"
#include "worker/trainer/train_spec.h"

namespace ham::trainer {

// The passes of a step on `rows` images of zeros, as often as it takes until they are recorded: what a part of a batch
// of so many rows needs memory for. Overwrites gradients, and with attack.batch_norm "training" running statistics.
// LibTorch's exceptions pass through.
void RehearsePart(const TrainSpec& spec, int epoch, NetworkPasses& passes, ParameterSet* weights,
                  ParameterSet* gradients, int64_t rows);

// InvalidArgument: `rows` rows of this rank's part of a batch were too many for the GPU's memory, in one sentence that
// says how many fit and what to set. These are half of them, or half of these, ..., the first for which rehearse()
// throws no c10::Error. AcceleratorErrors pass through: the GPU failed.
// what: of the allocation that failed.
absl::Status TooManyRows(const TrainSpec& spec, int world_size, int64_t rows, const std::string& what,
                         const std::function<void(int64_t)>& rehearse);

}  // namespace ham::trainer
