#include "worker/trainer/network_passes.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <limits>
#include <utility>

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/topk.h>
#include <ATen/ops/zeros.h>

#include "absl/strings/str_cat.h"
#include "worker/trainer/attack_loss.h"
#include "worker/trainer/device.h"
#include "worker/trainer/device_ops.h"
#include "worker/trainer/step_counts.h"

namespace ham::trainer {
namespace {

// An evaluation comes to many sizes, as rows are broken: those that take long are worth a search for the fastest
// convolutions.
constexpr int64_t kTunedRows = 256;

// Of those that a pass in a lower precision has decided on: an eighth, which is more than are usually near a tie.
int64_t RowsAskedAgain(int64_t rows) { return std::max(kMinimumRows, (rows / 8 + 7) / 8 * 8); }

// Into its first rows.
void Put(const at::Tensor& rows, const at::Tensor& memory) { memory.narrow(0, 0, rows.size(0)).copy_(rows); }

}  // namespace

at::Tensor PaddedLogits(const Model& model, const ParameterSet& weights, const at::Tensor& x) {
  if (x.size(0) == 0) return at::empty({0, model.classes()}, weights.options());
  return model.Logits(weights, PadRows(x)).narrow(0, 0, x.size(0));
}

int64_t RecordedRows(int64_t rows) {
  const int64_t most = std::max(rows, kMinimumRows);
  const int64_t step = std::max<int64_t>(8, static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(most))) / 16);
  return (most + step - 1) / step * step;
}

NetworkPasses::NetworkPasses(const Model& model, const ParameterSet& weights, Accelerator* accelerator)
    : model_(model),
      on_host_(OnHost(weights.flat())),
      recorder_(accelerator),
      frozen_weights_(on_host_ ? weights : weights.Clone()),
      frozen_(model.Freeze(weights)) {}

void NetworkPasses::Freeze(const ParameterSet& weights) {
  stale_ = true;
  if (on_host_) {
    frozen_weights_ = weights;
  } else {
    frozen_weights_.flat().copy_(weights.flat());
  }
}

void NetworkPasses::RefreshIfStale() {
  if (!std::exchange(stale_, false)) return;
  if (on_host_) return frozen_->Refresh(frozen_weights_);
  recorder_.Run("refresh", 1, [this] { frozen_->Refresh(frozen_weights_); });
}

void NetworkPasses::Reserve(int64_t rows) {
  if (rows <= capacity_) return;
  recorder_.Forget();
  capacity_ = rows;
  const at::TensorOptions options = frozen_weights_.options();
  x_ = NewImages(rows, model_.image_shape(), options).zero_();
  gradient_ = NewImages(rows, model_.image_shape(), options);
  shares_ = at::zeros({rows, model_.classes()}, options);
  goal_shares_ = at::zeros({rows, model_.classes()}, options);
  logits_ = at::empty({rows, model_.classes()}, options);
  row_labels_ = at::zeros({rows}, options.dtype(at::kLong));
  row_weights_ = at::zeros({rows}, options.dtype(at::kDouble));
  true_rows_ = at::zeros({1}, options.dtype(at::kLong));
  distance_ = at::empty({1}, options);
  found_ = at::empty({1 + (1 + kConfidenceBins) * model_.classes()}, options.dtype(at::kDouble));
}

void NetworkPasses::ForgetRows() {
  recorder_.Forget();
  capacity_ = 0;
  for (at::Tensor* const tensor : {&labels_, &targets_, &goals_, &x_, &gradient_, &shares_, &goal_shares_, &logits_,
                                   &row_labels_, &row_weights_, &true_rows_, &distance_, &found_}) {
    tensor->reset();
  }
}

void NetworkPasses::PutShares(const Batch& batch, bool mixed) {
  Put(mixed && batch.targets.defined() ? batch.targets
                                       : device::OneHot(batch.labels, model_.classes(), shares_.options()),
      shares_);
}

at::Tensor NetworkPasses::Logits(const at::Tensor& x) {
  const int64_t rows = x.size(0);
  passed_[kForwardPass] += rows;
  if (on_host_ || rows == 0) return PaddedLogits(model_, frozen_weights_, x);
  const int64_t size = std::max(SizeFor(rows), kMinimumRows);
  Reserve(size);
  Put(x, x_);
  const TuningScope tuning(size >= kTunedRows);
  recorder_.Run(absl::StrCat("logits ", size), 1, [this, size] {
    logits_.narrow(0, 0, size).copy_(model_.Logits(frozen_weights_, x_.narrow(0, 0, size)));
  });
  return logits_.narrow(0, 0, rows);
}

void NetworkPasses::PutTrueRows(int64_t rows) {
  Put(ToDevice(at::tensor({rows}, at::kLong), true_rows_.device()), true_rows_);
}

NetworkPasses::Decision NetworkPasses::Decide(const at::Tensor& x, const at::Tensor& labels) {
  const int64_t rows = x.size(0);
  if (on_host_ || rows == 0 || !frozen_->rounds()) return {Logits(x), {}};
  passed_[kForwardPass] += rows;
  const int64_t size = std::max(SizeFor(rows), kMinimumRows);
  Reserve(size);
  Put(x, x_);
  Put(device::OneHot(labels, model_.classes(), shares_.options()), shares_);
  PutTrueRows(rows);
  recorder_.Run(absl::StrCat("decide ", size), 1, [this, size] {
    const at::Tensor images = x_.narrow(0, 0, size), logits = logits_.narrow(0, 0, size);
    {
      const Tf32Scope rounds;
      logits.copy_(model_.Logits(frozen_weights_, images));
    }
    const at::Tensor distances = device::DistanceFromTie(logits, shares_.narrow(0, 0, size), true_rows_);
    const int64_t asked = std::min(size, RowsAskedAgain(size));
    const auto [nearest, which] = at::topk(distances, std::min(size, asked + 1), 0, /*largest=*/false);
    at::Tensor again = NewImages(asked, model_.image_shape(), x_.options()), flat = AsRows(again);
    at::index_select_out(flat, AsRows(images), 0, which.narrow(0, 0, asked));
    logits.index_copy_(0, which.narrow(0, 0, asked), model_.Logits(frozen_weights_, again));
    if (asked < size) {
      distance_.copy_(nearest.narrow(0, asked, 1));
    } else {
      distance_.fill_(std::numeric_limits<double>::infinity());
    }
  });
  return {logits_.narrow(0, 0, rows), distance_};
}

void NetworkPasses::Aim(AttackLoss loss, const Batch& batch, const at::Tensor& goals) {
  loss_ = loss;
  const Batch padded = PadRows(batch);
  labels_ = padded.labels;
  targets_ = padded.targets;
  goals_ = goals.defined() ? PadRows(goals) : goals;
  const bool mixed = loss == AttackLoss::kCrossEntropy;
  const at::TensorOptions options = frozen_weights_.options();
  if (on_host_) {
    shares_ = mixed && targets_.defined() ? targets_ : device::OneHot(labels_, model_.classes(), options);
    goal_shares_ = goals.defined() ? device::OneHot(goals_, model_.classes(), options) : goals;
    return;
  }
  Reserve(SizeFor(labels_.size(0)));
  PutShares(padded, mixed);
  if (goals.defined()) Put(device::OneHot(goals_, model_.classes(), options), goal_shares_);
}

at::Tensor NetworkPasses::LossGradient(const at::Tensor& logits) const {
  if (on_host_) return AttackLossGradient(loss_, logits, labels_, targets_, goals_);
  return device::AttackLossGradient(loss_, logits, shares_.narrow(0, 0, logits.size(0)), GoalShares(logits.size(0)));
}

at::Tensor NetworkPasses::LossValues(const at::Tensor& logits) const {
  return AttackLossValues(loss_, logits, shares_.narrow(0, 0, logits.size(0)), GoalShares(logits.size(0)));
}

at::Tensor NetworkPasses::GoalShares(int64_t rows) const {
  return goals_.defined() ? goal_shares_.narrow(0, 0, rows) : goals_;
}

NetworkPasses::Point NetworkPasses::AttackPoint(const at::Tensor& x) {
  RefreshIfStale();
  const auto point_at = [this](const at::Tensor& images) {
    Point out;
    out.gradient = frozen_->InputGradient(images, [&](const at::Tensor& logits) {
      out.logits = logits;
      return LossGradient(logits);
    });
    return out;
  };
  const int64_t rows = x.size(0);
  passed_[kInputGradientPass] += rows;
  if (on_host_) {
    const Point point = point_at(PadRows(x));
    return {point.logits.narrow(0, 0, rows), point.gradient.narrow(0, 0, rows)};
  }
  const int64_t size = SizeFor(std::max(rows, kMinimumRows));
  Put(x, x_);
  const TuningScope tuning(size >= kTunedRows);
  recorder_.Run(absl::StrCat("attack ", static_cast<int>(loss_), " ", size), 1, [this, point_at, size] {
    const Point point = point_at(x_.narrow(0, 0, size));
    logits_.narrow(0, 0, size).copy_(point.logits);
    gradient_.narrow(0, 0, size).copy_(point.gradient);
  });
  return {logits_.narrow(0, 0, rows), gradient_.narrow(0, 0, rows)};
}

at::Tensor NetworkPasses::AttackLogits(const at::Tensor& x) {
  RefreshIfStale();
  const int64_t rows = x.size(0);
  passed_[kForwardPass] += rows;
  if (on_host_) return frozen_->Logits(PadRows(x)).narrow(0, 0, rows);
  const int64_t size = SizeFor(std::max(rows, kMinimumRows));
  Reserve(size);
  Put(x, x_);
  const TuningScope tuning(size >= kTunedRows);
  recorder_.Run(absl::StrCat("attack logits ", size), 1,
                [this, size] { logits_.narrow(0, 0, size).copy_(frozen_->Logits(x_.narrow(0, 0, size))); });
  return logits_.narrow(0, 0, rows);
}

at::Tensor NetworkPasses::TrainOnDevice(const TrainingRows& training, const ParameterSet& weights, TrainingPass* pass,
                                        ParameterSet* gradients) {
  const Batch& batch = training.batch;
  const int64_t rows = training.rows;
  // Where ranks meet nothing can be recorded, and each has rows of its own number.
  const bool records = pass->collective == nullptr;
  const int64_t size = records ? SizeFor(batch.x.size(0)) : batch.x.size(0);
  Reserve(size);
  Put(batch.x, x_);
  // What stood there may be no number, and 0 times that is none either.
  x_.narrow(0, batch.x.size(0), size - batch.x.size(0)).zero_();
  PutShares(batch, /*mixed=*/true);
  Put(ToDevice(batch.labels, row_labels_.device()), row_labels_);
  std::vector<double> row_weights = training.weights;
  row_weights.resize(size);
  Put(ToDevice(at::tensor(row_weights, at::kDouble), row_weights_.device()), row_weights_);
  PutTrueRows(rows);
  const auto train = [this, size, smoothing = training.label_smoothing, &weights, gradients](TrainingPass* by) {
    const auto loss_gradient = [&](const at::Tensor& logits) {
      device::Loss loss =
          device::SumCrossEntropy(logits, shares_.narrow(0, 0, size), row_weights_.narrow(0, 0, size), smoothing);
      found_.copy_(
          at::cat({loss.sum.view(1), device::CountTrained(logits, row_labels_.narrow(0, 0, size), true_rows_)}));
      return std::move(loss.gradient);
    };
    model_.WeightGradients(weights, x_.narrow(0, 0, size), loss_gradient, by, gradients);
  };
  const void* const memory[] = {weights.flat().const_data_ptr(), gradients->flat().const_data_ptr()};
  assert(trained_memory_[0] == nullptr || std::equal(memory, memory + 2, trained_memory_));
  std::copy_n(memory, 2, trained_memory_);
  if (!records) {
    train(pass);
    return found_;
  }
  recorder_.Run(absl::StrCat("train ", size), 1, [this, train, size, gradients] {
    TrainingPass alone{.rows = size, .rows_on_device = true_rows_, .statistics = gradients};
    train(&alone);
  });
  return found_;
}

}  // namespace ham::trainer
