// Safetensors files: tensors by name, readable from Python without us.
//
// Layout: 8-byte little-endian length of the header; the header, JSON, padded with spaces to 8 bytes:
// {"__metadata__": {string: string}, name: {"dtype", "shape", "data_offsets": [begin, end]}, ...}; then the
// tensors, little-endian, C order, in the order of the header's offsets, without gaps.
// Known here: float64 ("F64"), float32 ("F32"), float16 ("F16"), bfloat16 ("BF16") and int64 ("I64"); 0-d and empty
// tensors are allowed.
#pragma once

#include <map>
#include <string>
#include <string_view>

#include <ATen/core/Tensor.h>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace ham::trainer {

using TensorMap = std::map<std::string, at::Tensor>;

struct Safetensors {
  TensorMap tensors;  // contiguous, on the CPU
  std::map<std::string, std::string> metadata;
};

// The bytes of a file. InvalidArgument for another dtype, a name that is empty or "__metadata__", or text
// that is not UTF-8. Tensors may lie on any device in any layout.
absl::StatusOr<std::string> EncodeSafetensors(const Safetensors& content);

// Checks everything: header length, JSON, keys, dtypes, shape products, ranges, gaps, overlaps, trailing
// bytes. DataLoss says what is wrong, and where. The result owns its memory: no more than the file's size, beside the
// header.
absl::StatusOr<Safetensors> DecodeSafetensors(std::string_view bytes);

// The same of a file, whose tensors are read to where they stay. NotFound without the file; Unavailable where reading
// fails; errors begin with the path.
absl::StatusOr<Safetensors> ReadSafetensors(const std::string& path);

}  // namespace ham::trainer
