// Batches of augmented training images, made while the step before runs.
#pragma once

#include <cstdint>
#include <future>
#include <vector>

#include "worker/trainer/batch.h"
#include "worker/trainer/data/augmentation.h"

namespace ham::trainer {

// At most one batch is ahead. What Take returns never depends on what was prepared. One thread at a time.
class InputPipeline {
 public:
  // Keeps references to `data` and `rows`: images are mixed with these only. `options` must have passed
  // CheckAugmentation.
  InputPipeline(const ImageSet& data, const std::vector<uint32_t>& rows, const AugmentationOptions& options,
                uint64_t seed)
      : data_(data), rows_(rows), options_(options), seed_(seed) {}

  // Starts to make the batch of these rows on a thread of its own; waits for the one before, which is dropped.
  void Prepare(int epoch, std::vector<uint32_t> ids);

  // The batch of these rows, float32: the prepared one if it is of them, else made now. LibTorch's exceptions, of the
  // other thread too, pass through.
  Batch Take(int epoch, const std::vector<uint32_t>& ids);

 private:
  Batch Make(int epoch, const std::vector<uint32_t>& ids) const;

  const ImageSet& data_;
  const std::vector<uint32_t>& rows_;
  const AugmentationOptions options_;
  const uint64_t seed_;
  int ahead_epoch_ = 0;
  std::vector<uint32_t> ahead_ids_;
  std::future<Batch> ahead_;  // last: its end waits for the thread
};

}  // namespace ham::trainer
