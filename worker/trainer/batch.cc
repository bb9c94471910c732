#include "worker/trainer/batch.h"

#include <algorithm>
#include <cassert>
#include <numeric>

#include <ATen/ops/empty.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include "worker/trainer/data/cut_mix.h"
#include "worker/trainer/device.h"

namespace ham::trainer {
namespace {

// As tensor, but with `rows` rows; not initialised.
at::Tensor NewLike(const at::Tensor& tensor, int64_t rows) {
  if (tensor.dim() == 4) return NewImages(rows, ShapeOf(tensor), tensor.options());
  assert(tensor.is_contiguous());
  std::vector<int64_t> sizes = tensor.sizes().vec();
  sizes[0] = rows;
  return at::empty(sizes, tensor.options());
}

// Rows `rows` of a tensor [N, ...], in that order; the layout of images is kept.
at::Tensor TakeRows(const at::Tensor& tensor, const std::vector<int64_t>& rows) {
  at::Tensor out = NewLike(tensor, static_cast<int64_t>(rows.size()));
  if (!OnHost(tensor)) {
    at::Tensor flat = AsRows(out);
    at::index_select_out(flat, AsRows(tensor), 0, ToDevice(at::tensor(rows, at::kLong), tensor.device()));
    return out;
  }
  const int64_t bytes = RowBytes(tensor);
  char* to = static_cast<char*>(out.data_ptr());
  for (const int64_t row : rows) {
    std::copy_n(static_cast<const char*>(tensor.const_data_ptr()) + row * bytes, bytes, to);
    to += bytes;
  }
  return out;
}

// Puts boxes of other images into those of `batch` and mixes their labels.
void MixImages(const ImageSet& data, const AugmentationOptions& options, const AugmentationKey& key,
               std::span<const uint32_t> partners, Batch* batch) {
  const auto classes = static_cast<int64_t>(data.class_names.size());
  batch->targets = at::zeros({batch->rows(), classes});
  std::vector<float> other(data.row_bytes());
  float* image = batch->x.data_ptr<float>();
  float* target = batch->targets.data_ptr<float>();
  int64_t* label = batch->labels.data_ptr<int64_t>();
  for (const uint32_t id : batch->ids) {
    const CutMixBox box = ChooseCutMix(options.cutmix, key, id, partners, data.height, data.width);
    double share = 0;
    if (!box.empty()) {
      WriteImages(data, {&box.partner, 1}, options, key, other.data());
      for (int64_t y = box.top; y < box.bottom; ++y) {
        const int64_t begin = (y * data.width + box.left) * data.channels;
        std::copy_n(other.data() + begin, (box.right - box.left) * data.channels, image + begin);
      }
      share = static_cast<double>((box.bottom - box.top) * (box.right - box.left)) /
              static_cast<double>(data.height * data.width);
    }
    target[*label] += static_cast<float>(1 - share);
    if (share > 0) target[data.labels[box.partner]] += static_cast<float>(share);
    if (share > 0.5) *label = data.labels[box.partner];
    image += data.row_bytes();
    target += classes;
    ++label;
  }
}

}  // namespace

int64_t RowBytes(const at::Tensor& tensor) {
  auto bytes = static_cast<int64_t>(tensor.element_size());
  for (int64_t dimension = 1; dimension < tensor.dim(); ++dimension) bytes *= tensor.size(dimension);
  return bytes;
}

Batch GatherBatch(const ImageSet& data, const std::vector<uint32_t>& ids) {
  return GatherAugmented(data, ids, {}, {}, {});
}

Batch GatherAugmented(const ImageSet& data, const std::vector<uint32_t>& ids, const AugmentationOptions& options,
                      const AugmentationKey& key, std::span<const uint32_t> partners) {
  const int64_t rows = static_cast<int64_t>(ids.size());
  Batch out{NewImages(rows, {data.channels, data.height, data.width}), at::empty({rows}, at::kLong), ids};
  WriteImages(data, ids, options, key, out.x.data_ptr<float>());
  for (int64_t row = 0; row < rows; ++row) out.labels.data_ptr<int64_t>()[row] = data.labels[ids[row]];
  if (options.cutmix > 0) MixImages(data, options, key, partners, &out);
  return out;
}

Batch Converted(Batch batch, const at::TensorOptions& options) {
  const at::ScalarType type = c10::typeMetaToScalarType(options.dtype());
  if (batch.x.scalar_type() != type) {
    at::Tensor x = NewImages(batch.rows(), ShapeOf(batch.x), type);
    x.copy_(batch.x);
    batch.x = std::move(x);
    if (batch.targets.defined()) batch.targets = batch.targets.to(type);
  }
  batch.x = ToDevice(batch.x, options.device());
  if (batch.targets.defined()) batch.targets = ToDevice(batch.targets, options.device());
  return batch;
}

at::Tensor SelectRows(const at::Tensor& tensor, const std::vector<uint8_t>& keep) {
  assert(static_cast<int64_t>(keep.size()) == tensor.size(0));
  std::vector<int64_t> rows;
  for (size_t row = 0; row < keep.size(); ++row) {
    if (keep[row]) rows.push_back(static_cast<int64_t>(row));
  }
  return TakeRows(tensor, rows);
}

Batch SelectRows(const Batch& batch, const std::vector<uint8_t>& keep) {
  Batch out{SelectRows(batch.x, keep), SelectRows(batch.labels, keep), {}};
  for (size_t row = 0; row < keep.size(); ++row) {
    if (keep[row]) out.ids.push_back(batch.ids[row]);
  }
  if (batch.targets.defined()) out.targets = SelectRows(batch.targets, keep);
  return out;
}

void ReplaceRows(const at::Tensor& mask, const at::Tensor& from, at::Tensor* to) {
  if (!OnHost(from)) {
    std::vector<int64_t> beside(from.dim(), 1);
    beside[0] = -1;
    to->copy_(at::where(mask.view(beside), from, *to));
    return;
  }
  const bool* const replaces = mask.const_data_ptr<bool>();
  const int64_t bytes = RowBytes(from);
  for (int64_t row = 0; row < from.size(0); ++row) {
    if (!replaces[row]) continue;
    std::copy_n(static_cast<const char*>(from.const_data_ptr()) + row * bytes, bytes,
                static_cast<char*>(to->mutable_data_ptr()) + row * bytes);
  }
}

at::Tensor PadRows(const at::Tensor& tensor) {
  const int64_t rows = tensor.size(0);
  assert(rows >= 1);
  if (rows >= kMinimumRows) return tensor;
  std::vector<int64_t> padded(kMinimumRows);
  std::iota(padded.begin(), padded.begin() + rows, 0);
  return TakeRows(tensor, padded);
}

Batch PadRows(const Batch& batch) {
  return {PadRows(batch.x), PadRows(batch.labels), batch.ids,
          batch.targets.defined() ? PadRows(batch.targets) : at::Tensor()};
}

std::vector<uint32_t> RankRows(const std::vector<uint32_t>& order, int64_t position, int64_t batch_size, int rank,
                               int world_size) {
  std::vector<uint32_t> out;
  const int64_t end = std::min<int64_t>(position + batch_size, static_cast<int64_t>(order.size()));
  for (int64_t i = position + rank; i < end; i += world_size) out.push_back(order[i]);
  return out;
}

Batch Filler(const ImageShape& shape, const at::TensorOptions& options) {
  Batch out{NewImages(kMinimumRows, shape, options), at::zeros({kMinimumRows}, at::kLong), {}};
  out.x.zero_();
  return out;
}

}  // namespace ham::trainer
