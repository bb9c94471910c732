#include "worker/trainer/rank_balance.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <string>

#include <ATen/ops/empty.h>

#include "worker/trainer/device.h"

namespace ham::trainer {
namespace {

// A row as bytes: image, iterate, targets, label, id, trace. The same size on all ranks, also on one without rows.
class RowFormat {
 public:
  RowFormat(const RowsUnderAttack& rows, int64_t classes)
      : image_bytes_(RowBytes(rows.clean.x)),
        target_bytes_(rows.clean.targets.defined() ? RowBytes(rows.clean.targets) : 0),
        state_size_(rows.trace.StateSize(classes)) {}

  size_t bytes() const { return 2 * image_bytes_ + target_bytes_ + 2 * sizeof(int64_t) + state_size_ * sizeof(double); }

  std::string Pack(const RowsUnderAttack& rows, int64_t row) const {
    std::string out;
    const auto append = [&](const void* data, size_t size) { out.append(static_cast<const char*>(data), size); };
    append(At(rows.clean.x, row), image_bytes_);
    append(At(rows.x, row), image_bytes_);
    if (target_bytes_ > 0) append(At(rows.clean.targets, row), target_bytes_);
    append(At(rows.clean.labels, row), sizeof(int64_t));
    const int64_t id = rows.clean.ids[row];
    append(&id, sizeof(id));
    append(rows.trace.State(row).data(), state_size_ * sizeof(double));
    return out;
  }

  int64_t Id(const std::string& packed) const {
    int64_t id;
    std::memcpy(&id, packed.data() + packed.size() - state_size_ * sizeof(double) - sizeof(id), sizeof(id));
    return id;
  }

  // Replaces `rows`.
  void Unpack(const std::vector<std::string>& packed, RowsUnderAttack* rows) const {
    const auto count = static_cast<int64_t>(packed.size());
    Batch clean{NewImagesLike(rows->clean.x, count), at::empty({count}, at::kLong), {}};
    if (target_bytes_ > 0) {
      clean.targets = at::empty({count, rows->clean.targets.size(1)}, rows->clean.targets.options());
    }
    at::Tensor x = NewImagesLike(rows->x, count);
    rows->trace.Keep(std::vector<uint8_t>(rows->clean.ids.size(), 0));
    for (int64_t row = 0; row < count; ++row) {
      const char* next = packed[row].data();
      const auto take = [&](void* to, size_t size) {
        std::memcpy(to, next, size);
        next += size;
      };
      take(At(clean.x, row), image_bytes_);
      take(At(x, row), image_bytes_);
      if (target_bytes_ > 0) take(At(clean.targets, row), target_bytes_);
      take(At(clean.labels, row), sizeof(int64_t));
      int64_t id;
      take(&id, sizeof(id));
      clean.ids.push_back(static_cast<uint32_t>(id));
      std::vector<double> state(state_size_);
      take(state.data(), state_size_ * sizeof(double));
      rows->trace.Append(state);
    }
    rows->clean = std::move(clean);
    rows->x = std::move(x);
  }

 private:
  static char* At(const at::Tensor& tensor, int64_t row) {
    return static_cast<char*>(tensor.data_ptr()) + row * RowBytes(tensor);
  }
  static at::Tensor NewImagesLike(const at::Tensor& images, int64_t rows) {
    return NewImages(rows, ShapeOf(images), images.scalar_type());
  }

  const int64_t image_bytes_, target_bytes_;
  const size_t state_size_;
};

// Rows travel through the host: between ranks only few do.
void MoveTo(at::Device device, RowsUnderAttack* rows) {
  const auto move = [&](at::Tensor* tensor) {
    if (tensor->defined()) *tensor = device.is_cpu() ? ToHost(*tensor) : ToDevice(*tensor, device);
  };
  move(&rows->clean.x);
  move(&rows->clean.targets);
  move(&rows->x);
}

}  // namespace

std::vector<int64_t> EvenShares(const std::vector<int64_t>& rows_by_rank) {
  const auto ranks = static_cast<int64_t>(rows_by_rank.size());
  const int64_t total = std::accumulate(rows_by_rank.begin(), rows_by_rank.end(), int64_t{0});
  std::vector<int64_t> shares(ranks, total / ranks), by_rows(ranks);
  std::iota(by_rows.begin(), by_rows.end(), 0);
  std::stable_sort(by_rows.begin(), by_rows.end(),
                   [&](int64_t a, int64_t b) { return rows_by_rank[a] > rows_by_rank[b]; });
  for (int64_t i = 0; i < total % ranks; ++i) ++shares[by_rows[i]];
  return shares;
}

absl::Status BalanceRows(int64_t classes, Collective& collective, RowsUnderAttack* rows) {
  const int ranks = collective.world_size(), own = collective.rank();
  std::vector<int64_t> counts(ranks);
  const int64_t count = rows->clean.rows();
  if (absl::Status status = collective.AllGather(&count, sizeof(count), counts.data()); !status.ok()) return status;
  const std::vector<int64_t> shares = EvenShares(counts);
  int64_t most_given = 0, taken_before = 0;  // of ranks before this one
  for (int rank = 0; rank < ranks; ++rank) {
    most_given = std::max(most_given, counts[rank] - shares[rank]);
    if (rank < own) taken_before += std::max<int64_t>(0, shares[rank] - counts[rank]);
  }

  const at::Device device = rows->x.device();
  MoveTo(at::kCPU, rows);
  const RowFormat format(*rows, classes);
  std::vector<std::string> packed;
  for (int64_t row = 0; row < count; ++row) packed.push_back(format.Pack(*rows, row));
  if (most_given > 0) {
    std::string given;
    for (int64_t row = shares[own]; row < count; ++row) given += packed[row];
    given.resize(most_given * format.bytes());
    std::string all(ranks * given.size(), '\0');
    absl::Status status = collective.AllGather(given.data(), given.size(), all.data());
    if (!status.ok()) return status;
    packed.resize(std::min(count, shares[own]));
    int64_t offered = 0;
    for (int rank = 0; rank < ranks; ++rank) {
      for (int64_t row = 0; row < counts[rank] - shares[rank]; ++row, ++offered) {
        if (offered < taken_before || offered >= taken_before + shares[own] - count) continue;
        packed.push_back(all.substr(rank * given.size() + row * format.bytes(), format.bytes()));
      }
    }
  }
  std::sort(packed.begin(), packed.end(),
            [&](const std::string& a, const std::string& b) { return format.Id(a) < format.Id(b); });
  format.Unpack(packed, rows);
  MoveTo(device, rows);
  return absl::OkStatus();
}

}  // namespace ham::trainer
