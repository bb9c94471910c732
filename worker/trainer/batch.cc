#include "worker/trainer/batch.h"

#include <algorithm>
#include <cassert>

#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>

namespace ham::trainer {
namespace {

constexpr float kNormalStart = 0.001f;

// Bytes of one row; rows of every tensor here lie one after the other.
int64_t RowBytes(const at::Tensor& tensor) {
  return tensor.size(0) == 0 ? 0 : tensor.numel() / tensor.size(0) * static_cast<int64_t>(tensor.element_size());
}

// As tensor, but with `rows` rows; not initialised.
at::Tensor NewLike(const at::Tensor& tensor, int64_t rows) {
  if (tensor.dim() == 4) return NewImages(rows, {tensor.size(1), tensor.size(2), tensor.size(3)}, tensor.scalar_type());
  assert(tensor.is_contiguous());
  std::vector<int64_t> sizes = tensor.sizes().vec();
  sizes[0] = rows;
  return at::empty(sizes, tensor.options());
}

void CopyRow(const at::Tensor& from, int64_t from_row, const at::Tensor& to, int64_t to_row) {
  const int64_t bytes = RowBytes(to);
  std::copy_n(static_cast<const char*>(from.const_data_ptr()) + from_row * bytes, bytes,
              static_cast<char*>(to.data_ptr()) + to_row * bytes);
}

}  // namespace

Batch GatherBatch(const ImageSet& data, const std::vector<uint32_t>& ids, const AugmentationOptions& options,
                  const AugmentationKey& key) {
  const int64_t rows = static_cast<int64_t>(ids.size());
  Batch out{NewImages(rows, {data.channels, data.height, data.width}), at::empty({rows}, at::kLong), ids};
  WriteImages(data, ids, options, key, out.x.data_ptr<float>());
  for (int64_t row = 0; row < rows; ++row) out.labels.data_ptr<int64_t>()[row] = data.labels[ids[row]];
  return out;
}

Batch InType(Batch batch, at::ScalarType type) {
  if (batch.x.scalar_type() != type) {
    at::Tensor x = NewImages(batch.rows(), {batch.x.size(1), batch.x.size(2), batch.x.size(3)}, type);
    x.copy_(batch.x);
    batch.x = std::move(x);
  }
  return batch;
}

at::Tensor SelectRows(const at::Tensor& tensor, const std::vector<uint8_t>& keep) {
  assert(static_cast<int64_t>(keep.size()) == tensor.size(0));
  at::Tensor out = NewLike(tensor, std::count_if(keep.begin(), keep.end(), [](uint8_t k) { return k != 0; }));
  int64_t next = 0;
  for (size_t row = 0; row < keep.size(); ++row) {
    if (keep[row]) CopyRow(tensor, static_cast<int64_t>(row), out, next++);
  }
  return out;
}

Batch SelectRows(const Batch& batch, const std::vector<uint8_t>& keep) {
  Batch out{SelectRows(batch.x, keep), SelectRows(batch.labels, keep), {}};
  for (size_t row = 0; row < keep.size(); ++row) {
    if (keep[row]) out.ids.push_back(batch.ids[row]);
  }
  return out;
}

at::Tensor PadRows(const at::Tensor& tensor) {
  const int64_t rows = tensor.size(0);
  assert(rows >= 1);
  if (rows >= kMinimumRows) return tensor;
  at::Tensor out = NewLike(tensor, kMinimumRows);
  for (int64_t row = 0; row < kMinimumRows; ++row) CopyRow(tensor, row < rows ? row : 0, out, row);
  return out;
}

std::vector<uint32_t> RankRows(const std::vector<uint32_t>& order, int64_t position, int64_t batch_size, int rank,
                               int world_size) {
  std::vector<uint32_t> out;
  const int64_t end = std::min<int64_t>(position + batch_size, static_cast<int64_t>(order.size()));
  for (int64_t i = position + rank; i < end; i += world_size) out.push_back(order[i]);
  return out;
}

Batch Filler(const ImageShape& shape, at::ScalarType type) {
  Batch out{NewImages(kMinimumRows, shape, type), at::zeros({kMinimumRows}, at::kLong), {}};
  out.x.zero_();
  return out;
}

at::Tensor RandomStart(const Batch& batch, double epsilon, RandomKey key, StartDistribution distribution) {
  at::Tensor out = NewLike(batch.x, batch.rows());
  const int64_t pixels = batch.rows() == 0 ? 0 : batch.x.numel() / batch.rows();
  const float radius = static_cast<float>(epsilon);
  std::vector<float> noise(pixels);
  VisitReal(out.scalar_type(), [&]<typename T>(T) {
    const T* x = batch.x.const_data_ptr<T>();
    T* start = out.data_ptr<T>();
    for (int64_t row = 0; row < batch.rows(); ++row, x += pixels, start += pixels) {
      key.sample = batch.ids[row];
      if (distribution == StartDistribution::kUniform) {
        FillUniform(key, -radius, radius, pixels, noise.data());
      } else {
        FillNormal(key, kNormalStart, pixels, noise.data());
        for (float& value : noise) value = std::clamp(value, -radius, radius);
      }
      for (int64_t i = 0; i < pixels; ++i) start[i] = std::clamp(x[i] + noise[i], T{0}, T{1});
    }
  });
  return out;
}

}  // namespace ham::trainer
