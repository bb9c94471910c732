// Batches of augmented training images, and what else a step needs of the host, made while the step before runs.
#pragma once

#include <cstdint>
#include <functional>
#include <future>
#include <utility>
#include <vector>

#include "worker/trainer/batch.h"
#include "worker/trainer/data/augmentation.h"

namespace ham::trainer {

// For ranks that compute on a device, which would wait for it.
struct DeviceInputs {
  // Of these rows in this epoch; safe from any thread. Null: no noise.
  std::function<at::Tensor(int epoch, const std::vector<uint32_t>& ids)> noise = nullptr;
  // Whether images, targets and noise are to lie in memory that a GPU copies from without the host's waiting.
  bool pinned = false;
};

// At most one batch is ahead. What Take returns never depends on what was prepared. One thread at a time.
class InputPipeline {
 public:
  struct Inputs {
    Batch batch;       // float32
    at::Tensor noise;  // undefined where there is none
  };

  // Keeps references to `data` and `rows`: images are mixed with these only. `options` must have passed
  // CheckAugmentation.
  InputPipeline(const ImageSet& data, const std::vector<uint32_t>& rows, const AugmentationOptions& options,
                uint64_t seed, DeviceInputs device = {})
      : data_(data), rows_(rows), options_(options), seed_(seed), device_(std::move(device)) {}

  // Starts to make the inputs of these rows on a thread of its own; waits for those before, which are dropped.
  void Prepare(int epoch, std::vector<uint32_t> ids);

  // The inputs of these rows: the prepared ones if they are of them, else made now. LibTorch's exceptions, of the other
  // thread too, pass through.
  Inputs Take(int epoch, const std::vector<uint32_t>& ids);

 private:
  Inputs Make(int epoch, const std::vector<uint32_t>& ids) const;

  const ImageSet& data_;
  const std::vector<uint32_t>& rows_;
  const AugmentationOptions options_;
  const uint64_t seed_;
  const DeviceInputs device_;
  int ahead_epoch_ = 0;
  std::vector<uint32_t> ahead_ids_;
  std::future<Inputs> ahead_;  // last: its end waits for the thread
};

}  // namespace ham::trainer
