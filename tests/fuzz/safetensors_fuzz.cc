// Files of tensors.
#include "worker/trainer/safetensors.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>

#include <cstring>

#include "tests/fuzz/fuzz.h"

namespace ham::fuzz {
namespace {

std::string File(const std::string& header, const std::string& data) {
  const uint64_t length = header.size();
  return std::string(reinterpret_cast<const char*>(&length), sizeof length) + header + data;
}

}  // namespace

std::vector<std::string> Seeds() {
  trainer::Safetensors content;
  content.tensors["conv1.weight"] = at::arange(6, at::kFloat).reshape({2, 3});
  content.tensors["half"] = at::arange(3, at::kHalf);
  content.tensors["empty"] = at::empty({0, 3}, at::kFloat);
  content.tensors["step"] = at::tensor(int64_t{9});
  content.metadata["scalars"] = R"({"a": 1})";
  return {trainer::EncodeSafetensors(content).value(), File("{}", ""),
          File(R"({"a":{"dtype":"I64","shape":[],"data_offsets":[0,8]}})", "12345678"),
          File(R"({"a":{"dtype":"F32","shape":[4294967296,4294967296,0],"data_offsets":[0,0]}})", "")};
}

void TryInput(const std::string& input) {
  // As it is, and with a length of the header that fits: up to the last brace.
  std::string fitting = input;
  if (const size_t brace = input.rfind('}'); brace != std::string::npos && brace >= 8) {
    const uint64_t length = brace - 7;
    std::memcpy(fitting.data(), &length, sizeof length);
  }
  for (const std::string& bytes : {input, fitting}) {
    const absl::StatusOr<trainer::Safetensors> content = trainer::DecodeSafetensors(bytes);
    if (!content.ok()) {
      Check(content.status().code() == absl::StatusCode::kDataLoss, "a wrong file is data loss");
      continue;
    }
    size_t data = 0;
    for (const auto& [name, tensor] : content->tensors) data += tensor.nbytes();
    Check(data <= bytes.size(), "tensors are no larger than their file");
    const absl::StatusOr<std::string> encoded = trainer::EncodeSafetensors(*content);
    Check(encoded.ok(), "what was read can be written: " + encoded.status().ToString());
    const absl::StatusOr<trainer::Safetensors> again = trainer::DecodeSafetensors(*encoded);
    Check(again.ok() && again->metadata == content->metadata && again->tensors.size() == content->tensors.size(),
          "what is written is read again");
    for (const auto& [name, tensor] : content->tensors) {
      const at::Tensor& other = again->tensors.at(name);
      Check(other.sizes() == tensor.sizes() && other.nbytes() == tensor.nbytes() &&
                (tensor.nbytes() == 0 ||
                 std::memcmp(other.const_data_ptr(), tensor.const_data_ptr(), tensor.nbytes()) == 0),
            "tensors come back as they were");
    }
  }
}

}  // namespace ham::fuzz
