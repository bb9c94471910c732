// Rows of a data set as the trainer works on them: choosing, gathering, padding.
//
// All functions are stateless; safe from any thread.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include <ATen/core/Tensor.h>

#include "worker/trainer/data/augmentation.h"
#include "worker/trainer/data/image_set.h"
#include "worker/trainer/models/model.h"

namespace ham::trainer {

// N rows; after PadRows some of them repeat row 0 and must be ignored. x and targets are on one device.
struct Batch {
  at::Tensor x;               // [N, C, H, W], layout of NewImages()
  at::Tensor labels;          // [N] int64, on the host; of a mixed image that of the larger area
  std::vector<uint32_t> ids;  // [N] row numbers in the data set: what randomness is keyed by
  // [N, K] of x's type: share of each class in each label; undefined where every label is the whole truth.
  at::Tensor targets = {};
  int64_t rows() const { return static_cast<int64_t>(ids.size()); }
};

// The images and targets in this type, on this device; unchanged if they are. Does not wait for the device.
Batch Converted(Batch batch, const at::TensorOptions& options);

// Images of `ids` in float32, pixels divided by 255.
Batch GatherBatch(const ImageSet& data, const std::vector<uint32_t>& ids);

// The same, augmented (augmentation.h) and then mixed with images of `partners` (cut_mix.h), which are augmented too.
Batch GatherAugmented(const ImageSet& data, const std::vector<uint32_t>& ids, const AugmentationOptions& options,
                      const AugmentationKey& key, std::span<const uint32_t> partners);

// Bytes of one row of a tensor [N, ...] whose rows lie one after the other, as those of all tensors here.
int64_t RowBytes(const at::Tensor& tensor);

// Rows of `batch` whose `keep` is true, in order. keep: one byte a row.
Batch SelectRows(const Batch& batch, const std::vector<uint8_t>& keep);
// The same of a tensor [N, ...]; the layout of images is kept.
at::Tensor SelectRows(const at::Tensor& tensor, const std::vector<uint8_t>& keep);

// Rows of `to` become those of `from`, as it lies, where `mask` says so: [N] bool, on their device.
void ReplaceRows(const at::Tensor& mask, const at::Tensor& from, at::Tensor* to);

// `tensor` [N, ...] with row 0 repeated until there are at least kMinimumRows; itself if there are. N >= 1.
at::Tensor PadRows(const at::Tensor& tensor);
// The same of a batch; ids stay as they are.
Batch PadRows(const Batch& batch);

// kMinimumRows images of zeros, label 0, no ids: what a rank without rows works on where all must take part.
Batch Filler(const ImageShape& shape, const at::TensorOptions& options);

// Position `position` of the epoch's order: rank `rank` gets rows position + rank, position + rank + world_size,
// ... of the next `batch_size` (fewer at the end of the epoch; may be none).
std::vector<uint32_t> RankRows(const std::vector<uint32_t>& order, int64_t position, int64_t batch_size, int rank,
                               int world_size);

}  // namespace ham::trainer
