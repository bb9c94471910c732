#include "worker/trainer/models/parameter_set.h"

#include <cassert>
#include <cmath>

#include <ATen/ops/all.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/fill.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/item.h>
#include <ATen/ops/zeros.h>

#include "absl/strings/str_cat.h"
#include "worker/trainer/counter_rng.h"

namespace ham::trainer {
namespace {

int64_t Elements(const std::vector<int64_t>& shape) {
  int64_t count = 1;
  for (int64_t size : shape) count *= size;
  return count;
}

at::Tensor ViewAt(const at::Tensor& flat, const std::vector<int64_t>& shape, int64_t offset) {
  std::vector<int64_t> strides(shape.size());
  int64_t stride = 1;
  for (size_t i = shape.size(); i-- > 0;) {
    strides[i] = stride;
    stride *= shape[i];
  }
  if (shape.size() == 4) {  // channels_last also where one size is 1: convolutions pick their path by the strides
    const int64_t channels = shape[1], height = shape[2], width = shape[3];
    strides = {channels * height * width, 1, width * channels, channels};
  }
  return flat.as_strided(shape, strides, offset);
}

}  // namespace

ParameterSpec::Initial PyTorchDefault(int64_t fan_in) {
  return {ParameterSpec::Initial::kUniform, 1.0 / std::sqrt(static_cast<double>(fan_in))};
}

ParameterSpec ClassBiasSpec(int64_t classes) {
  return {kClassBiasName, {classes}, {classes}, ParameterKind::kClassBias, {}};
}

std::string FirstNonFinite(const ParameterSet& set) {
  for (size_t i = 0; i < set.specs().size(); ++i) {
    if (!at::isfinite(set[i]).all().item<bool>()) return set.specs()[i].name;
  }
  return "";
}

int64_t ParameterCount(const std::vector<ParameterSpec>& specs) {
  int64_t count = 0;
  for (const auto& spec : specs) count += Elements(spec.shape);
  return count;
}

int64_t TrainedCount(const std::vector<ParameterSpec>& specs) {
  int64_t count = 0;
  for (const auto& spec : specs) {
    const bool trained = spec.kind != ParameterKind::kStatistic && spec.kind != ParameterKind::kClassBias;
    if (trained) count += Elements(spec.shape);
  }
  return count;
}

ParameterSet::ParameterSet(const std::vector<ParameterSpec>& specs, const at::TensorOptions& options)
    : ParameterSet(specs, at::zeros({ParameterCount(specs)}, options)) {}

ParameterSet::ParameterSet(const std::vector<ParameterSpec>& specs, const at::Tensor& flat)
    : specs_(specs), flat_(flat) {
  int64_t offset = flat.storage_offset();
  for (const auto& spec : specs_) {
    tensors_.push_back(ViewAt(flat_, spec.compute_shape, offset));
    offset += Elements(spec.shape);
    if (spec.kind == ParameterKind::kStatistic) {
      statistics_size_ += Elements(spec.shape);
    } else if (spec.kind != ParameterKind::kClassBias) {
      assert(statistics_size_ == 0);
      trained_size_ += Elements(spec.shape);
    }
  }
}

void ParameterSet::Initialize(uint64_t seed) {
  for (size_t i = 0; i < specs_.size(); ++i) {
    const auto bound = static_cast<float>(specs_[i].initial.value);
    at::Tensor values = at::empty(specs_[i].shape, at::kFloat);
    const RandomKey key{.seed = seed, .purpose = RandomPurpose::kInitialWeights, .step = static_cast<uint32_t>(i)};
    switch (specs_[i].initial.kind) {
      case ParameterSpec::Initial::kUniform:
        FillUniform(key, -bound, bound, values.numel(), values.data_ptr<float>());
        break;
      case ParameterSpec::Initial::kNormal:
        FillNormal(key, bound, values.numel(), values.data_ptr<float>());
        break;
      case ParameterSpec::Initial::kConstant:
        values.fill_(bound);
        break;
    }
    tensors_[i].copy_(values.view(specs_[i].compute_shape));
  }
}

int64_t ParameterSet::size() const { return flat_.numel(); }

ParameterSet ParameterSet::Clone() const { return ParameterSet(specs_, flat_.clone()); }

at::Tensor ParameterSet::Export(const std::string& prefix, TensorMap* out) const {
  // Training waits for this, and fresh pages take longer than the copying.
  if (!copy_.defined() || copy_.storage().use_count() > 1) copy_ = at::empty_like(flat_, at::kCPU);
  copy_.copy_(flat_);
  const ParameterSet copy(specs_, copy_.alias());  // not copy_: each that is handed out counts as a use of its storage
  for (size_t i = 0; i < specs_.size(); ++i) {
    (*out)[prefix + specs_[i].name] = copy[i].reshape(specs_[i].shape);
  }
  return copy.flat();
}

absl::Status ParameterSet::Import(const std::string& prefix, const TensorMap& in) {
  for (size_t i = 0; i < specs_.size(); ++i) {
    const std::string name = prefix + specs_[i].name;
    const auto found = in.find(name);
    if (found == in.end()) return absl::InvalidArgumentError(absl::StrCat("the tensor ", name, " is missing"));
    const at::Tensor& values = found->second;
    if (!values.is_floating_point() || values.sizes() != at::IntArrayRef(specs_[i].shape)) {
      return absl::InvalidArgumentError(absl::StrCat("the tensor ", name, " has another shape or type than the model"));
    }
    tensors_[i].copy_(values.contiguous().view(specs_[i].compute_shape));
  }
  return absl::OkStatus();
}

}  // namespace ham::trainer
